/*
 * lambada_openai: the last word of a passage (Paperno et al., 2016; the texts
 * are OpenAI's version). Data: lambada_test.jsonl, one {"text": ...} a line.
 */
#include "base/file.h"
#include "base/str.h"
#include "eval/pair.h"

#include <stdlib.h>
#include <string.h>

#define LAMBADA_FILE "lambada_test.jsonl"
#define LAMBADA_MAX_BYTES ((size_t)256 << 20)

extern const mx_task mx_task_lambada_openai;

/* The places searched, and the file once found. */
typedef struct lambada_search {
    char *found;
    mx_str places; /* for the message when it is in none of them */
} lambada_search;

/* Looks for `dir`/text/FILE and `dir`/FILE; does nothing once found. */
static void lambada_look(lambada_search *search, const char *dir)
{
    static const char *const names[] = {"text/" LAMBADA_FILE, LAMBADA_FILE};
    for (size_t i = 0; i < MX_COUNT(names) && search->found == NULL; i++) {
        char *path = mx_path_join(dir, names[i]);
        if (path != NULL && mx_path_is_file(path)) {
            search->found = path;
        } else {
            free(path);
        }
    }
    mx_str_addf(&search->places, "%s%s", search->places.length > 0 ? ", " : "", dir);
}

/* XDG base directory specification: the cache, or ~/.cache. */
static void lambada_look_cache(lambada_search *search)
{
    const char *cache = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    char *dir = NULL;
    if (cache != NULL && cache[0] != '\0') {
        dir = mx_path_join(cache, "mxlm");
    } else if (home != NULL && home[0] != '\0') {
        dir = mx_path_join(home, ".cache/mxlm");
    }
    if (dir != NULL) {
        lambada_look(search, dir);
        free(dir);
    }
}

/* The data file: what --data names, or the first of the usual places. */
static mx_status lambada_find(const char *data_path, char **out, mx_error *err)
{
    lambada_search search = {0};
    if (data_path != NULL && mx_path_is_file(data_path)) {
        *out = mx_str_copy(data_path, strlen(data_path));
        return *out != NULL ? MX_OK : mx_error_nomem(err, data_path, strlen(data_path));
    }
    if (data_path != NULL) {
        /* A place named outright is the only one that counts. */
        lambada_look(&search, data_path);
    } else {
        const char *data_dir = getenv("MXLM_DATA_DIR");
        if (data_dir != NULL && data_dir[0] != '\0') {
            lambada_look(&search, data_dir);
        }
        lambada_look(&search, "./data");
        lambada_look(&search, "../shared/data");
        lambada_look_cache(&search);
    }
    *out = search.found;
    mx_status status = MX_OK;
    if (search.found == NULL) {
        status = mx_error_set(err, MX_ERR_IO,
                              "lambada_openai: " LAMBADA_FILE " not found (looked in %s); name it "
                              "with --data or $MXLM_DATA_DIR, or use the embedded task 'cloze'",
                              search.places.data != NULL ? search.places.data : "no place");
    }
    mx_str_free(&search.places);
    return status;
}

/* One line {"text": ...}; further members are allowed and unused. */
static mx_status lambada_add_line(const mx_task_context *context, const char *path, uint32_t index,
                                  const char *line, size_t length, mx_document_list *list,
                                  mx_error *err)
{
    json_t *root = NULL;
    const char *text = NULL;
    mx_str where = {0};
    mx_status status = MX_OK;
    mx_str_addf(&where, "%s: line %u", path, index + 1);
    if (where.failed) {
        return mx_error_nomem(err, path, length);
    }
    MX_TRY_GOTO(status, mx_json_parse(line, length, where.data, &root, err));
    MX_TRY_GOTO(status, mx_json_get_string(root, "text", where.data, true, NULL, &text, err));
    status = mx_pair_add(context, path, index, text, strlen(text), list, err);
done:
    mx_str_free(&where);
    json_decref(root);
    return status;
}

/* Every line counts as a document; `limit` of them (0: all) are added. */
static mx_status lambada_add_lines(const mx_task_context *context, const char *path,
                                   const char *data, size_t size, mx_document_list *list,
                                   mx_error *err)
{
    uint64_t limit = context->options->limit;
    for (size_t at = 0; at < size;) {
        const char *end = memchr(data + at, '\n', size - at);
        size_t length = end != NULL ? (size_t)(end - (data + at)) : size - at;
        if (list->original == UINT32_MAX) {
            return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: too many lines", path);
        }
        if (limit == 0 || list->original < limit) {
            MX_TRY(lambada_add_line(context, path, (uint32_t)list->original, data + at, length,
                                    list, err));
        }
        list->original++;
        at += length + 1;
    }
    return MX_OK;
}

/* Names the file used: results say where their texts came from. */
static mx_status lambada_load(const mx_task_context *context, const char *file,
                              mx_document_list *list, char **source, mx_error *err)
{
    (void)file;
    char *data = NULL;
    size_t size = 0;
    MX_TRY(lambada_find(context->options->data_path, source, err));
    mx_status status = MX_OK;
    MX_TRY_GOTO(status, mx_file_read(*source, LAMBADA_MAX_BYTES, &data, &size, err));
    MX_TRY_GOTO(status, lambada_add_lines(context, *source, data, size, list, err));
    mx_document_list_finish(list);
    if (list->count == 0) {
        status = mx_error_set(err, MX_ERR_FORMAT, "%s: no documents", *source);
    }
done:
    free(data);
    return status;
}

const mx_task mx_task_lambada_openai = {
    .name = "lambada_openai",
    .description = "last word of a passage (LAMBADA, OpenAI's texts): accuracy, perplexity",
    .kind = MX_TASK_TARGET,
    .version = 1.0,
    .load = lambada_load,
};

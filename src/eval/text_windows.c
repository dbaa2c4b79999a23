/* See text_windows.h for the definition. */
#include "eval/text_windows.h"

#include "base/file.h"
#include "base/str.h"
#include "eval/whitespace.h"

#include <stdlib.h>
#include <string.h>

#define WINDOWS_MAX_BYTES ((size_t)1 << 30)

/* A text with its tokens and where each begins. */
typedef struct window_text {
    const char *path;
    char *data; /* [size] */
    size_t size;
    int32_t *ids; /* [n_ids] */
    size_t n_ids;
    size_t n_front; /* pool index of ids[0]: 1 with BOS, else 0 */
    size_t *starts; /* [n_ids + 1] byte offsets of the tokens */
} window_text;

/* Byte offsets of the tokens, which must spell the file: only then do bytes and
 * words belong to tokens. */
static mx_status windows_align(const mx_task_context *context, window_text *text, mx_error *err)
{
    text->starts = malloc((text->n_ids + 1) * sizeof *text->starts);
    if (text->starts == NULL) {
        return mx_error_nomem(err, text->path, (text->n_ids + 1) * sizeof *text->starts);
    }
    size_t at = 0;
    for (size_t i = 0; i < text->n_ids; i++) {
        size_t length = 0;
        const char *bytes = mx_tokenizer_bytes(context->tokenizer, text->ids[i], &length);
        if (length > text->size - at || memcmp(bytes, text->data + at, length) != 0) {
            return mx_error_set(err, MX_ERR_UNSUPPORTED,
                                "%s: the tokenizer changes the text at byte %zu; words and bytes "
                                "of its tokens are unknown",
                                text->path, at);
        }
        text->starts[i] = at;
        at += length;
    }
    text->starts[text->n_ids] = at;
    if (at != text->size) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: the tokenizer drops text after byte %zu",
                            text->path, at);
    }
    return MX_OK;
}

static mx_status windows_read(const mx_task_context *context, window_text *text,
                              mx_document_list *list, mx_error *err)
{
    MX_TRY(mx_file_read(text->path, WINDOWS_MAX_BYTES, &text->data, &text->size, err));
    MX_TRY(mx_tokenizer_encode(context->tokenizer, text->data, text->size, false, &text->ids,
                               &text->n_ids, err));
    if (context->options->add_bos) {
        MX_TRY(mx_document_list_add_tokens(list, &context->bos, 1, err));
        text->n_front = 1;
    }
    if (text->n_ids + text->n_front < 2) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: too short to score", text->path);
    }
    MX_TRY(mx_document_list_add_tokens(list, text->ids, text->n_ids, err));
    return windows_align(context, text, err);
}

/*
 * Appends the window that feeds and predicts pool tokens [first, end) and scores
 * the last n_targets of them. A run of white space counts as a word where it
 * begins; the word before the first run counts in the first window.
 */
static mx_status windows_add(const window_text *text, size_t first, size_t end, size_t n_targets,
                             mx_whitespace_scan *scan, mx_document_list *list, mx_error *err)
{
    size_t from = text->starts[end - n_targets - text->n_front];
    size_t to = text->starts[end - text->n_front];
    mx_document window = {
        .first = first,
        .n_tokens = (uint32_t)(end - first),
        .n_targets = (uint32_t)n_targets,
        .index = (uint32_t)list->count,
        .bytes = to - from,
        .words = (list->count == 0) + mx_whitespace_runs(scan, text->data, text->size, to),
    };
    list->hash = mx_hash_bytes(list->hash, text->data + from, to - from);
    return mx_document_list_add(list, &window, err);
}

/* The windows of pool tokens [0, n), n >= 2, token 0 being the prefix. */
static mx_status windows_add_all(const mx_eval_options *options, const window_text *text,
                                 mx_document_list *list, mx_error *err)
{
    size_t window = options->window, stride = options->stride, n = list->pool_size;
    mx_whitespace_scan scan = {.at = text->starts[1 - text->n_front]};
    size_t scored = 1; /* pool tokens before this one are done */
    while (scored < n) {
        size_t step = scored == 1 ? window : stride;
        size_t n_targets = n - scored < step ? n - scored : step;
        size_t end = scored + n_targets;
        size_t first = end > window + 1 ? end - window - 1 : 0;
        if (list->original == UINT32_MAX) {
            return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: too many windows", text->path);
        }
        if (options->limit == 0 || list->original < options->limit) {
            MX_TRY(windows_add(text, first, end, n_targets, &scan, list, err));
        }
        list->original++;
        scored = end;
    }
    return MX_OK;
}

mx_status mx_text_windows_load(const mx_task_context *context, const char *file,
                               mx_document_list *list, char **source, mx_error *err)
{
    window_text text = {.path = file};
    uint64_t settings[2] = {context->options->window, context->options->stride};
    mx_status status = MX_OK;
    *source = mx_str_copy(file, strlen(file));
    if (*source == NULL) {
        return mx_error_nomem(err, file, strlen(file));
    }
    MX_TRY_GOTO(status, windows_read(context, &text, list, err));
    /* Other windows condition on other text: not the same documents. */
    list->hash = mx_hash_bytes(list->hash, settings, sizeof settings);
    MX_TRY_GOTO(status, windows_add_all(context->options, &text, list, err));
    mx_document_list_finish(list);
done:
    free(text.data);
    free(text.starts);
    mx_ids_free(text.ids);
    return status;
}

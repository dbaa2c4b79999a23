/* The list of tasks, and what --tasks asks of it: names with commas between them,
 * "name:FILE" for tasks that read one. */
#include "base/file.h"
#include "base/str.h"
#include "eval/eval.h"
#include "eval/json_build.h"

#include <stdlib.h>
#include <string.h>

#define MX_TASK(name) extern const mx_task mx_task_##name;
#include "eval/tasks.def"
#undef MX_TASK

static const mx_task *const task_list[] = {
#define MX_TASK(name) &mx_task_##name,
#include "eval/tasks.def"
#undef MX_TASK
};

const mx_task *mx_task_at(size_t index)
{
    return index < MX_COUNT(task_list) ? task_list[index] : NULL;
}

/* The message lists what there is: the reader need not look it up. */
static mx_status task_unknown(const char *text, size_t length, mx_error *err)
{
    mx_str known = {0};
    for (size_t i = 0; i < MX_COUNT(task_list); i++) {
        mx_str_addf(&known, "%s%s%s", i > 0 ? ", " : "", task_list[i]->name,
                    task_list[i]->takes_file ? ":FILE" : "");
    }
    mx_status status =
        mx_error_set(err, MX_ERR_ARGUMENT, "tasks: '%.*s' is not a task; tasks are %s",
                     (int)(length < 100 ? length : 100), text, known.data ? known.data : "");
    mx_str_free(&known);
    return status;
}

/* "task:base name"; a file name that is not UTF-8 is told in ASCII, because
 * results JSON goes by these names. */
static mx_status task_name_file(mx_task_request *request, mx_error *err)
{
    mx_str name = {0};
    json_t *base = mx_json_text(mx_path_base(request->file));
    if (base == NULL) {
        return mx_error_nomem(err, "tasks", 0);
    }
    mx_str_addf(&name, "%s:%s", request->task->name, json_string_value(base));
    json_decref(base);
    return mx_str_take(&name, &request->name, err);
}

/* Fills one request from text[0..length), "name" or "name:FILE". */
static mx_status task_request_parse(const char *text, size_t length, mx_task_request *request,
                                    mx_error *err)
{
    const char *colon = memchr(text, ':', length);
    size_t name_length = colon != NULL ? (size_t)(colon - text) : length;
    for (size_t i = 0; i < MX_COUNT(task_list); i++) {
        const mx_task *task = task_list[i];
        if (strlen(task->name) == name_length && memcmp(task->name, text, name_length) == 0) {
            request->task = task;
        }
    }
    if (request->task == NULL) {
        return task_unknown(text, length, err);
    }
    bool has_file = colon != NULL && name_length + 1 < length;
    if (request->task->takes_file != has_file || (colon != NULL && !has_file)) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "tasks: '%.*s': write %s%s",
                            (int)(length < 100 ? length : 100), text, request->task->name,
                            request->task->takes_file ? ":FILE" : "");
    }
    if (!has_file) {
        request->name = mx_str_copy(text, length);
        return request->name != NULL ? MX_OK : mx_error_nomem(err, "tasks", length);
    }
    request->file = mx_str_copy(colon + 1, length - name_length - 1);
    if (request->file == NULL) {
        return mx_error_nomem(err, "tasks", length);
    }
    return task_name_file(request, err);
}

/* *count counts a request before it is parsed, so that a half-made one is freed. */
static mx_status task_requests_fill(const char *text, mx_task_request *requests, size_t *count,
                                    mx_error *err)
{
    for (const char *at = text;;) {
        size_t length = strcspn(at, ",");
        mx_task_request *request = &requests[(*count)++];
        MX_TRY(task_request_parse(at, length, request, err));
        for (size_t i = 0; i + 1 < *count; i++) {
            /* Results are kept by name: the same base name of two files, too. */
            if (strcmp(requests[i].name, request->name) == 0) {
                return mx_error_set(err, MX_ERR_ARGUMENT, "tasks: '%s' is given twice",
                                    request->name);
            }
        }
        if (at[length] == '\0') {
            return MX_OK;
        }
        at += length + 1;
    }
}

mx_status mx_task_requests_parse(const char *text, mx_task_request **out, size_t *count,
                                 mx_error *err)
{
    *out = NULL;
    *count = 0;
    if (text == NULL || text[0] == '\0') {
        return mx_error_set(err, MX_ERR_ARGUMENT, "tasks: none given");
    }
    size_t most = 1;
    for (const char *at = text; *at != '\0'; at++) {
        most += *at == ',';
    }
    mx_task_request *requests = calloc(most, sizeof *requests);
    if (requests == NULL) {
        return mx_error_nomem(err, "tasks", most * sizeof *requests);
    }
    mx_status status = task_requests_fill(text, requests, count, err);
    if (status != MX_OK) {
        mx_task_requests_free(requests, *count);
        *count = 0;
        return status;
    }
    *out = requests;
    return MX_OK;
}

void mx_task_requests_free(mx_task_request *requests, size_t count)
{
    for (size_t i = 0; requests != NULL && i < count; i++) {
        free(requests[i].file);
        free(requests[i].name);
    }
    free(requests);
}

/*
 * Reading a results file of mxlm eval. It may come from anywhere: every number is
 * checked for its type, lists for their length, and the figures shown for agreeing
 * with the documents from which the tests are computed.
 */
#include "eval/compare.h"

#include "eval/results_mxlm.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Parsed JSON takes many times its text; a million documents stay below this. */
#define COMPARE_MAX_BYTES ((size_t)256 << 20)
#define COMPARE_WHERE 640 /* characters of "path: task NAME" in messages */

static const struct {
    const char *name, *title;
} compare_metrics[MX_COMPARE_METRICS] = {
    [MX_COMPARE_ACC] = {"acc", "accuracy"},
    [MX_COMPARE_PERPLEXITY] = {"perplexity", "perplexity"},
    [MX_COMPARE_WORD] = {"word_perplexity", "word perplexity"},
    [MX_COMPARE_TOKEN] = {"token_perplexity", "token perplexity"},
    [MX_COMPARE_BITS] = {"bits_per_byte", "bits per byte"},
    [MX_COMPARE_KL] = {"kl", "KL divergence, mean"},
    [MX_COMPARE_KL_P99] = {"kl_p99", "KL divergence, 99th percentile"},
    [MX_COMPARE_TOP1] = {"top1_agreement", "top-1 agreement"},
};

const char *mx_compare_metric_name(mx_compare_metric_id id)
{
    return compare_metrics[id].name;
}

const char *mx_compare_metric_title(mx_compare_metric_id id)
{
    return compare_metrics[id].title;
}

/* An array of `count` numbers, or an error. */
static mx_status load_numbers(const json_t *object, const char *key, const char *where,
                              size_t count, double **out, mx_error *err)
{
    const json_t *array = json_object_get(object, key);
    if (!json_is_array(array) || json_array_size(array) != count) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: documents.%s: must be an array of %zu", where,
                            key, count);
    }
    double *values = malloc(count * sizeof *values);
    if (values == NULL) {
        return mx_error_nomem(err, where, count * sizeof *values);
    }
    *out = values;
    for (size_t i = 0; i < count; i++) {
        const json_t *value = json_array_get(array, i);
        if (!json_is_number(value)) {
            return mx_error_set(err, MX_ERR_FORMAT, "%s: documents.%s[%zu]: must be a number",
                                where, key, i);
        }
        values[i] = json_number_value(value);
    }
    return MX_OK;
}

/* "acc": a digit a document. */
static mx_status load_right(const json_t *object, const char *where, mx_compare_task *task,
                            mx_error *err)
{
    MX_TRY(mx_json_get_string(object, "acc", where, true, NULL, &task->right, err));
    if (strlen(task->right) != task->count || strspn(task->right, "01") != task->count) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: documents.acc: must be %zu digits 0 and 1",
                            where, task->count);
    }
    return MX_OK;
}

/* Without "acc" the task is the perplexity of a text, whose windows have sizes. */
static mx_status load_documents(const json_t *object, const char *where, mx_compare_task *task,
                                mx_error *err)
{
    MX_TRY(load_numbers(object, "ll", where, task->count, &task->lls, err));
    task->text = json_object_get(object, "acc") == NULL;
    if (!task->text) {
        return load_right(object, where, task, err);
    }
    MX_TRY(load_numbers(object, "words", where, task->count, &task->words, err));
    MX_TRY(load_numbers(object, "tokens", where, task->count, &task->tokens, err));
    MX_TRY(load_numbers(object, "bytes", where, task->count, &task->bytes, err));
    if (json_object_get(object, "kl") == NULL) {
        return MX_OK;
    }
    MX_TRY(load_numbers(object, "kl", where, task->count, &task->kl, err));
    return load_numbers(object, "top1_agreed", where, task->count, &task->agreed, err);
}

/* One metric of results.TASK: absent, null (Inf) or a number; its error a
 * number or "N/A". */
static mx_status load_metric(const json_t *results, const char *where, const char *name,
                             mx_compare_metric *out, mx_error *err)
{
    char key[64];
    *out = (mx_compare_metric){.value = NAN, .stderror = NAN};
    snprintf(key, sizeof key, "%s,none", name);
    if (json_object_get(results, key) == NULL) {
        return MX_OK;
    }
    MX_TRY(mx_json_get_real(results, key, where, false, INFINITY, &out->value, err));
    snprintf(key, sizeof key, "%s_stderr,none", name);
    if (json_is_string(json_object_get(results, key))) {
        return MX_OK;
    }
    return mx_json_get_real(results, key, where, false, NAN, &out->stderror, err);
}

/* sum value / sum tokens over windows is the figure of results.TASK. */
static mx_status check_mean(const mx_compare_task *task, const double *values,
                            mx_compare_metric_id id, const char *where, mx_error *err)
{
    double wanted = mx_mean(values, task->count) / mx_mean(task->tokens, task->count);
    if (fabs(task->metrics[id].value - wanted) <= 1e-9 + 1e-9 * fabs(wanted)) {
        return MX_OK;
    }
    return mx_error_set(err, MX_ERR_FORMAT, "%s: its %s is not that of its documents", where,
                        compare_metrics[id].name);
}

/* Figures are shown with tests computed from the documents: they must agree. */
static mx_status check_metrics(const mx_compare_task *task, const char *where, mx_error *err)
{
    double found = task->metrics[task->text ? MX_COMPARE_TOKEN : MX_COMPARE_PERPLEXITY].value;
    double size = (double)task->count, loss = 0, right = 0;
    for (size_t i = 0; i < task->count; i++) {
        loss -= task->lls[i];
        right += !task->text && task->right[i] == '1';
    }
    if (task->text) {
        size = mx_mean(task->tokens, task->count) * (double)task->count;
    }
    double wanted = exp(loss / size);
    bool close = isfinite(wanted) ? fabs(found - wanted) <= 1e-6 * wanted : isinf(found);
    if (!close) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: its perplexity is not that of its documents",
                            where);
    }
    double acc = task->metrics[MX_COMPARE_ACC].value;
    if (!task->text && !(fabs(acc - right / (double)task->count) <= 1e-9)) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: its accuracy is not that of its documents",
                            where);
    }
    if (task->kl != NULL) {
        MX_TRY(check_mean(task, task->kl, MX_COMPARE_KL, where, err));
        return check_mean(task, task->agreed, MX_COMPARE_TOP1, where, err);
    }
    return MX_OK;
}

/* One task: lm_eval's keys hold the figures, "mxlm" the documents. Members that are
 * not there arrive as NULL, which the getters tell as missing. */
static mx_status load_task(const char *path, const char *name, const json_t *results,
                           const json_t *mxlm, mx_compare_task *task, mx_error *err)
{
    char where[COMPARE_WHERE];
    int64_t count = 0;
    const json_t *run = json_object_get(json_object_get(mxlm, "tasks"), name);
    const json_t *documents = json_object_get(json_object_get(mxlm, "documents"), name);
    task->name = name;
    snprintf(where, sizeof where, "%s: task %s", path, name);
    MX_TRY(mx_json_get_int(results, "sample_len", where, true, 0, 1, UINT32_MAX, &count, err));
    task->count = (size_t)count;
    MX_TRY(load_documents(documents, where, task, err));
    for (size_t i = 0; i < MX_COMPARE_METRICS; i++) {
        MX_TRY(load_metric(results, where, compare_metrics[i].name, &task->metrics[i], err));
    }
    MX_TRY(mx_json_get_string(run, "documents_hash", where, true, NULL, &task->hash, err));
    MX_TRY(mx_json_get_real(run, "seconds", where, false, NAN, &task->seconds, err));
    MX_TRY(mx_json_get_real(run, "tokens_per_second", where, false, NAN, &task->tokens_per_second,
                            err));
    MX_TRY(
        mx_json_get_int(run, "documents_resumed", where, false, 0, 0, count, &task->resumed, err));
    return check_metrics(task, where, err);
}

/* n_tasks counts a task before it is read, so that a half-read one is freed. */
static mx_status load_tasks(mx_compare_file *file, const json_t *mxlm, mx_error *err)
{
    json_t *results = json_object_get(file->root, "results");
    if (!json_is_object(results) || json_object_size(results) == 0) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: results: must be an object of tasks",
                            file->path);
    }
    size_t most = json_object_size(results);
    file->tasks = calloc(most, sizeof *file->tasks);
    if (file->tasks == NULL) {
        return mx_error_nomem(err, file->path, most * sizeof *file->tasks);
    }
    const char *name;
    json_t *task;
    json_object_foreach(results, name, task)
    {
        MX_TRY(load_task(file->path, name, task, mxlm, &file->tasks[file->n_tasks++], err));
    }
    return MX_OK;
}

/* Sizes are for show: a file without them is compared all the same. */
static mx_status load_sizes(const json_t *mxlm, const char *path, mx_compare_sizes *sizes,
                            mx_error *err)
{
    const struct {
        const char *object, *key;
        double *value;
    } fields[] = {
        {"weights", "projection_bytes", &sizes->projection_bytes},
        {"weights", "projection_bytes_fp32", &sizes->projection_bytes_fp32},
        {"weights", "total_bytes", &sizes->total_bytes},
        {"memory", "peak_resident_bytes", &sizes->peak_resident_bytes},
        {"activations", "bits", &sizes->activation_bits},
        {"activations", "bytes_per_token", &sizes->activation_bytes_token},
    };
    for (size_t i = 0; i < MX_COUNT(fields); i++) {
        const json_t *object = json_object_get(mxlm, fields[i].object);
        MX_TRY(mx_json_get_real(object, fields[i].key, path, false, NAN, fields[i].value, err));
    }
    return MX_OK;
}

/* What the report calls the file by. */
static mx_status load_about(mx_compare_file *file, const json_t *mxlm, mx_error *err)
{
    const char *path = file->path;
    const json_t *args = json_object_get(json_object_get(file->root, "config"), "model_args");
    MX_TRY(mx_json_get_string(args, "pretrained", path, false, "?", &file->model, err));
    MX_TRY(mx_json_get_bool(args, "add_bos_token", path, false, false, &file->add_bos, err));
    MX_TRY(mx_json_get_string(mxlm, "specs_text", path, false, "?", &file->specs, err));
    const json_t *base = json_object_get(mxlm, "base");
    MX_TRY(mx_json_get_string(base, "path", path, false, "", &file->base, err));
    MX_TRY(mx_json_get_string(base, "specs_text", path, false, "", &file->base_specs, err));
    MX_TRY(mx_json_get_string(mxlm, "isa", path, false, "?", &file->isa, err));
    MX_TRY(mx_json_get_int(mxlm, "threads", path, false, 0, 0, INT32_MAX, &file->threads, err));
    return load_sizes(mxlm, path, &file->sizes, err);
}

mx_status mx_compare_load(const char *path, mx_compare_file *out, mx_error *err)
{
    int64_t layout = 0;
    *out = (mx_compare_file){.path = path};
    MX_TRY(mx_json_load(path, COMPARE_MAX_BYTES, &out->root, err));
    const json_t *mxlm = json_object_get(out->root, "mxlm");
    if (!json_is_object(mxlm)) {
        return mx_error_set(err, MX_ERR_FORMAT,
                            "%s: mxlm: missing: not a results file of mxlm eval", path);
    }
    MX_TRY(mx_json_get_int(mxlm, "layout", path, true, 0, 0, INT32_MAX, &layout, err));
    if (layout != MX_RESULTS_LAYOUT) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: mxlm.layout: %lld; this mxlm reads %d",
                            path, (long long)layout, MX_RESULTS_LAYOUT);
    }
    MX_TRY(load_about(out, mxlm, err));
    return load_tasks(out, mxlm, err);
}

void mx_compare_file_free(mx_compare_file *file)
{
    for (size_t i = 0; i < file->n_tasks; i++) {
        free(file->tasks[i].lls);
        free(file->tasks[i].words);
        free(file->tasks[i].tokens);
        free(file->tasks[i].bytes);
        free(file->tasks[i].kl);
        free(file->tasks[i].agreed);
    }
    free(file->tasks);
    json_decref(file->root);
    *file = (mx_compare_file){0};
}

const mx_compare_task *mx_compare_find(const mx_compare_file *file, const char *task)
{
    for (size_t i = 0; i < file->n_tasks; i++) {
        if (strcmp(file->tasks[i].name, task) == 0) {
            return &file->tasks[i];
        }
    }
    return NULL;
}

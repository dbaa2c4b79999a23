/* The report of a comparison as JSON: the figures of the Markdown tables, unrounded.
 * A value that a file does not tell is left out or null, never 0. */
#include "base/str.h"
#include "eval/compare.h"
#include "eval/json_build.h"

#include <math.h>

static json_t *json_sizes(const mx_compare_sizes *sizes, bool *failed)
{
    json_t *object = json_object();
    mx_json_put(object, "projection_bytes", mx_json_real(sizes->projection_bytes), failed);
    mx_json_put(object, "projection_bytes_fp32", mx_json_real(sizes->projection_bytes_fp32),
                failed);
    mx_json_put(object, "total_bytes", mx_json_real(sizes->total_bytes), failed);
    mx_json_put(object, "peak_resident_bytes", mx_json_real(sizes->peak_resident_bytes), failed);
    mx_json_put(object, "activation_bits", mx_json_real(sizes->activation_bits), failed);
    mx_json_put(object, "activation_bytes_token", mx_json_real(sizes->activation_bytes_token),
                failed);
    return object;
}

static json_t *json_file(const mx_compare_file *file, bool *failed)
{
    json_t *object = json_object();
    mx_json_put(object, "path", mx_json_text(file->path), failed);
    mx_json_put(object, "model", mx_json_text(file->model), failed);
    mx_json_put(object, "specs", mx_json_text(file->specs), failed);
    mx_json_put(object, "isa", mx_json_text(file->isa), failed);
    mx_json_put(object, "threads", json_integer(file->threads), failed);
    if (file->base[0] != '\0') {
        mx_json_put(object, "base", mx_json_text(file->base), failed);
        mx_json_put(object, "base_specs", mx_json_text(file->base_specs), failed);
    }
    mx_json_put(object, "add_bos", json_boolean(file->add_bos), failed);
    mx_json_put(object, "sizes", json_sizes(&file->sizes, failed), failed);
    return object;
}

/* {"value", "stderr"} */
static json_t *json_pair(double value, double stderror, bool *failed)
{
    json_t *pair = json_object();
    mx_json_put(pair, "value", mx_json_real(value), failed);
    mx_json_put(pair, "stderr", mx_json_real(stderror), failed);
    return pair;
}

static void json_add_metrics(const mx_compare_task *task, json_t *object, bool *failed)
{
    for (int i = 0; i < MX_COMPARE_METRICS; i++) {
        const mx_compare_metric *metric = &task->metrics[i];
        if (isnan(metric->value)) {
            continue;
        }
        json_t *pair = json_pair(metric->value, metric->stderror, failed);
        mx_json_put(object, mx_compare_metric_name((mx_compare_metric_id)i), pair, failed);
    }
    mx_json_put(object, "seconds", mx_json_real(task->seconds), failed);
    mx_json_put(object, "tokens_per_second", mx_json_real(task->tokens_per_second), failed);
    mx_json_put(object, "documents_resumed", json_integer(task->resumed), failed);
}

static json_t *json_mcnemar(const mx_mcnemar *test, bool *failed)
{
    json_t *object = json_object();
    mx_json_put(object, "lost", json_integer((json_int_t)test->lost), failed);
    mx_json_put(object, "gained", json_integer((json_int_t)test->gained), failed);
    mx_json_put(object, "test", json_string(test->exact ? "exact" : "chi-square"), failed);
    mx_json_put(object, "p", mx_json_real(test->p), failed);
    return object;
}

/* Differences from the baseline: {"acc", "acc_stderr", "mcnemar", "ln_perplexity": {"value",
 * "stderr"}, "kl": {"value", "stderr"}, ...}. */
static json_t *json_difference(const mx_compare_task *task, const mx_compare_difference *difference,
                               bool *failed)
{
    json_t *object = json_object();
    if (!task->text) {
        mx_json_put(object, "acc", mx_json_real(difference->change[MX_COMPARE_ACC]), failed);
        mx_json_put(object, "acc_stderr", mx_json_real(difference->change_stderr[MX_COMPARE_ACC]),
                    failed);
        mx_json_put(object, "mcnemar", json_mcnemar(&difference->mcnemar, failed), failed);
    }
    for (int i = MX_COMPARE_ACC + 1; i < MX_COMPARE_METRICS; i++) {
        if (!isnan(difference->change[i])) {
            json_t *pair = json_pair(difference->change[i], difference->change_stderr[i], failed);
            mx_json_put(object, mx_compare_metric_name((mx_compare_metric_id)i), pair, failed);
        }
        if (isnan(difference->log_ratio[i])) {
            continue;
        }
        json_t *pair = json_pair(difference->log_ratio[i], difference->log_ratio_stderr[i], failed);
        mx_str key = {0};
        mx_str_addf(&key, "ln_%s", mx_compare_metric_name((mx_compare_metric_id)i));
        *failed = *failed || key.failed;
        mx_json_put(object, key.failed ? "ln" : key.data, pair, failed);
        mx_str_free(&key);
    }
    return object;
}

/* Shares of RTN's loss: {"ln_perplexity", "acc", "kl"}, those that there are. */
static json_t *json_recovery(const mx_compare_recovery *recovery, bool *failed)
{
    const struct {
        const char *key;
        double value, stderror;
    } shares[] = {
        {"acc", recovery->acc, recovery->acc_stderr},
        {"ln_perplexity", recovery->loss, recovery->loss_stderr},
        {"kl", recovery->kl, recovery->kl_stderr},
    };
    json_t *object = json_object();
    for (size_t i = 0; i < MX_COUNT(shares); i++) {
        if (!isnan(shares[i].value)) {
            mx_json_put(object, shares[i].key,
                        json_pair(shares[i].value, shares[i].stderror, failed), failed);
        }
    }
    return object;
}

static json_t *json_task(const mx_compare_report *report, size_t t, bool *failed)
{
    json_t *object = json_object(), *columns = json_array();
    const mx_compare_task *any = mx_compare_any(report, t);
    mx_json_put(object, "documents", json_integer((json_int_t)any->count), failed);
    for (size_t f = 0; f < report->n_files; f++) {
        size_t at = t * report->n_files + f;
        const mx_compare_task *task = report->tasks[at];
        if (task == NULL) {
            mx_json_push(columns, json_null(), failed);
            continue;
        }
        json_t *column = json_object();
        json_add_metrics(task, column, failed);
        if (mx_compare_has_difference(report, t, f)) {
            const mx_compare_difference *difference = &report->differences[at];
            mx_json_put(column, "difference", json_difference(task, difference, failed), failed);
        }
        if (mx_compare_has_recovery(report, t, f)) {
            mx_json_put(column, "recovered", json_recovery(&report->recoveries[at], failed),
                        failed);
        }
        mx_json_push(columns, column, failed);
    }
    mx_json_put(object, "columns", columns, failed);
    return object;
}

/* {"files": [...], "rtn": index or null, "tasks": {NAME: {"documents", "columns": [...]}},
 * "dropped"}; files and columns run alike, the baseline first; a column is null where its file
 * lacks the task. */
mx_status mx_compare_json(const mx_compare_report *report, char **out, mx_error *err)
{
    bool failed = false;
    json_t *root = json_object(), *files = json_array(), *tasks = json_object();
    json_t *dropped = json_array();
    *out = NULL;
    for (size_t f = 0; f < report->n_files; f++) {
        mx_json_push(files, json_file(&report->files[f], &failed), &failed);
    }
    for (size_t t = 0; t < report->n_tasks; t++) {
        mx_json_put(tasks, mx_compare_any(report, t)->name, json_task(report, t, &failed), &failed);
    }
    for (size_t i = 0; i < report->n_dropped; i++) {
        mx_json_push(dropped, json_string(report->dropped[i]), &failed);
    }
    mx_json_put(root, "files", files, &failed);
    mx_json_put(root, "rtn", report->rtn > 0 ? json_integer((json_int_t)report->rtn) : json_null(),
                &failed);
    mx_json_put(root, "tasks", tasks, &failed);
    mx_json_put(root, "dropped", dropped, &failed);
    mx_status status =
        failed ? mx_error_nomem(err, "comparison", 0) : mx_json_dump(root, 2, out, err);
    json_decref(root);
    return status;
}

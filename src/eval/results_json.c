/*
 * Results as JSON: lm_eval's keys with lm_eval's spelling, so that its tools and
 * other people's scripts read them, and beside them "mxlm" (results_mxlm.c). Keys
 * for what mxlm does not have (few-shot, groups, templates) are there and null.
 */
#include "base/str.h"
#include "eval/json_build.h"
#include "eval/results_mxlm.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- lm_eval's keys --------------------------------------------------------- */

/* results.TASK */
static json_t *json_task_results(const mx_task_result *result, bool *failed)
{
    json_t *object = json_object();
    mx_json_put(object, "name", mx_json_text(result->request->name), failed);
    mx_json_put(object, "alias", mx_json_text(result->request->name), failed);
    mx_json_put(object, "sample_len", json_integer((json_int_t)result->documents.count), failed);
    for (size_t i = 0; i < result->n_metrics; i++) {
        const mx_metric *metric = &result->metrics[i];
        char key[64];
        snprintf(key, sizeof key, "%s,none", metric->name);
        mx_json_put(object, key, mx_json_real(metric->value), failed);
        snprintf(key, sizeof key, "%s_stderr,none", metric->name);
        json_t *stderror =
            isnan(metric->stderror) ? json_string("N/A") : mx_json_real(metric->stderror);
        mx_json_put(object, key, stderror, failed);
    }
    return object;
}

/* lm_eval's names; for a mean over tokens it has no other than "mean". */
static const char *aggregation_name(const mx_task_result *result, const char *metric)
{
    static const struct {
        const char *metric, *aggregation;
    } names[] = {
        {"acc", "mean"},
        {"bits_per_byte", "bits_per_byte"},
        {"kl", "mean"},
        {"kl_p99", "percentile_99"},
        {"top1_agreement", "mean"},
    };
    for (size_t i = 0; i < MX_COUNT(names); i++) {
        if (strcmp(names[i].metric, metric) == 0) {
            return names[i].aggregation;
        }
    }
    return result->request->task->kind == MX_TASK_TARGET ? "perplexity" : "weighted_perplexity";
}

static json_t *json_metric_list(const mx_task_result *result, bool *failed)
{
    json_t *list = json_array();
    for (size_t i = 0; i < result->n_metrics; i++) {
        const mx_metric *metric = &result->metrics[i];
        json_t *item = json_object();
        mx_json_put(item, "metric", json_string(metric->name), failed);
        mx_json_put(item, "aggregation", json_string(aggregation_name(result, metric->name)),
                    failed);
        mx_json_put(item, "higher_is_better", json_boolean(metric->higher_is_better), failed);
        mx_json_push(list, item, failed);
    }
    return list;
}

/* configs.TASK: how the task was computed. */
static json_t *json_task_config(const mx_results_run *run, const mx_task_result *result,
                                bool *failed)
{
    const mx_task *task = result->request->task;
    bool text = task->kind != MX_TASK_TARGET;
    json_t *object = json_object(), *metadata = json_object();
    mx_json_put(object, "task", mx_json_text(result->request->name), failed);
    mx_json_put(object, "dataset_path", mx_json_text(result->source), failed);
    mx_json_put(object, "test_split", json_string("test"), failed);
    mx_json_put(object, "doc_to_text",
                json_string(text ? "" : "{{text.split(' ')[:-1]|join(' ')}}"), failed);
    mx_json_put(object, "doc_to_target",
                json_string(text ? "{{text}}" : "{{' '+text.split(' ')[-1]}}"), failed);
    mx_json_put(object, "description", json_string(""), failed);
    mx_json_put(object, "num_fewshot", json_integer(0), failed);
    mx_json_put(object, "metric_list", json_metric_list(result, failed), failed);
    mx_json_put(object, "output_type",
                json_string(text ? "loglikelihood_rolling" : "loglikelihood"), failed);
    mx_json_put(object, "repeats", json_integer(1), failed);
    mx_json_put(object, "should_decontaminate", json_false(), failed);
    mx_json_put(metadata, "version", json_real(task->version), failed);
    if (text) {
        mx_json_put(metadata, "window", json_integer(run->options->window), failed);
        mx_json_put(metadata, "stride", json_integer(run->options->stride), failed);
    }
    mx_json_put(object, "metadata", metadata, failed);
    return object;
}

static json_t *json_task_directions(const mx_task_result *result, bool *failed)
{
    json_t *object = json_object();
    for (size_t i = 0; i < result->n_metrics; i++) {
        mx_json_put(object, result->metrics[i].name,
                    json_boolean(result->metrics[i].higher_is_better), failed);
    }
    return object;
}

static json_t *json_task_samples(const mx_task_result *result, bool *failed)
{
    json_t *object = json_object();
    mx_json_put(object, "original", json_integer((json_int_t)result->documents.original), failed);
    mx_json_put(object, "effective", json_integer((json_int_t)result->documents.count), failed);
    return object;
}

/* The per-task tables, in lm_eval's order. */
static void json_add_tasks(const mx_results_run *run, const mx_task_result *results, size_t count,
                           json_t *root, bool *failed)
{
    static const char *const keys[] = {"results", "group_subtasks",   "configs",  "versions",
                                       "n-shot",  "higher_is_better", "n-samples"};
    json_t *tables[MX_COUNT(keys)];
    for (size_t k = 0; k < MX_COUNT(keys); k++) {
        tables[k] = json_object(); /* borrowed: root owns it */
        mx_json_put(root, keys[k], tables[k], failed);
    }
    for (size_t i = 0; i < count && !*failed; i++) {
        const mx_task_result *result = &results[i];
        const char *name = result->request->name;
        json_t *version = json_real(result->request->task->version);
        mx_json_put(tables[0], name, json_task_results(result, failed), failed);
        mx_json_put(tables[2], name, json_task_config(run, result, failed), failed);
        mx_json_put(tables[3], name, version, failed);
        mx_json_put(tables[4], name, json_integer(0), failed);
        mx_json_put(tables[5], name, json_task_directions(result, failed), failed);
        mx_json_put(tables[6], name, json_task_samples(result, failed), failed);
    }
}

/* ---- the run ---------------------------------------------------------------- */

static const char *run_model_path(const mx_results_run *run)
{
    return run->model != NULL ? mx_checkpoint_path(run->model->checkpoint) : NULL;
}

/* A quantized operand's format name; unquantized is told as float32, which is
 * what it is computed in. */
static const char *quant_name(const mx_quant *quant)
{
    return mx_quant_is_none(quant) ? "float32" : quant->format->name;
}

static json_t *json_model_args(const mx_results_run *run, bool *failed)
{
    json_t *object = json_object();
    mx_json_put(object, "pretrained", mx_json_text(run_model_path(run)), failed);
    mx_json_put(object, "add_bos_token", json_boolean(run->options->add_bos), failed);
    if (run->options->base != NULL) {
        const char *base = mx_checkpoint_path(run->options->base->checkpoint);
        mx_json_put(object, "base", mx_json_text(base), failed);
    }
    if (run->model != NULL) {
        const mx_specs *specs = &run->model->specs;
        mx_json_put(object, "weights", json_string(quant_name(&specs->weights)), failed);
        mx_json_put(object, "activations", json_string(quant_name(&specs->activations)), failed);
        if (!mx_quant_is_none(&specs->head)) {
            mx_json_put(object, "head", json_string(quant_name(&specs->head)), failed);
        }
    }
    return object;
}

/* lm_eval's "config". Its seeds and caches have no counterpart: null. */
static json_t *json_config(const mx_results_run *run, const mx_model_size *size, bool *failed)
{
    const mx_eval_options *options = run->options;
    json_t *object = json_object();
    json_t *limit = options->limit > 0 ? json_integer((json_int_t)options->limit) : json_null();
    char batch[16];
    snprintf(batch, sizeof batch, "%u", options->batch_size);
    mx_json_put(object, "model", json_string("mxlm"), failed);
    mx_json_put(object, "model_args", json_model_args(run, failed), failed);
    mx_json_put(object, "model_num_parameters",
                run->model != NULL ? json_integer((json_int_t)(size->total_bytes_fp32 / 4))
                                   : json_null(),
                failed);
    mx_json_put(object, "model_dtype",
                run->model != NULL ? json_string(quant_name(&run->model->specs.weights))
                                   : json_null(),
                failed);
    mx_json_put(object, "model_revision", json_null(), failed);
    mx_json_put(object, "model_sha", json_null(), failed);
    mx_json_put(object, "batch_size", json_string(batch), failed);
    mx_json_put(object, "batch_sizes", json_array(), failed);
    mx_json_put(object, "device", json_string("cpu"), failed);
    mx_json_put(object, "use_cache", json_null(), failed);
    mx_json_put(object, "limit", limit, failed);
    mx_json_put(object, "bootstrap_iters", json_integer(options->bootstrap_iters), failed);
    mx_json_put(object, "gen_kwargs", json_object(), failed);
    static const char *const seeds[] = {"random_seed", "numpy_seed", "torch_seed", "fewshot_seed"};
    for (size_t i = 0; i < MX_COUNT(seeds); i++) {
        mx_json_put(object, seeds[i], json_null(), failed);
    }
    return object;
}

/* ["<text>", "<id>"] as lm_eval tells special tokens, null without one. */
static json_t *json_token(const mx_results_run *run, int32_t id, bool *failed)
{
    if (run->model == NULL || id < 0) {
        return json_null();
    }
    size_t length = 0;
    const char *bytes = mx_tokenizer_bytes(run->model->tokenizer, id, &length);
    char *text = mx_str_copy(length > 0 ? bytes : "", length);
    char number[16];
    snprintf(number, sizeof number, "%d", id);
    json_t *pair = json_array();
    mx_json_push(pair, text != NULL ? mx_json_text(text) : NULL, failed);
    mx_json_push(pair, json_string(number), failed);
    free(text);
    return pair;
}

/* A path as lm_eval's sanitize_model_name turns it into a folder's name: each
 * run of "<>:/|\?*[] and of quotes becomes "__". */
static json_t *json_sanitized(const char *name)
{
    if (name == NULL) {
        return json_null();
    }
    mx_str str = {0};
    for (const char *c = name; *c != '\0';) {
        size_t bad = strspn(c, "\"<>:/|\\?*[]");
        size_t good = strcspn(c + bad, "\"<>:/|\\?*[]");
        mx_str_add(&str, bad > 0 ? "__" : "");
        mx_str_add_bytes(&str, c + bad, good);
        c += bad + good;
    }
    char *text = NULL;
    json_t *value = mx_str_take(&str, &text, NULL) == MX_OK ? mx_json_text(text) : NULL;
    free(text);
    return value;
}

/* What stands behind the tables in lm_eval's files, in its order. */
static void json_add_run(const mx_results_run *run, const mx_model_size *size, json_t *root,
                         bool *failed)
{
    const mx_llama_config *config = run->model != NULL ? &run->model->config : NULL;
    int32_t bos = config != NULL ? config->bos_id : -1;
    int32_t eos = config != NULL && config->n_eos > 0 ? config->eos_ids[0] : -1;
    struct timespec now = {0};
    char seconds[32];
    clock_gettime(CLOCK_REALTIME, &now);
    snprintf(seconds, sizeof seconds, "%.6f", run->seconds);

    mx_json_put(root, "config", json_config(run, size, failed), failed);
    mx_json_put(root, "git_hash", json_null(), failed);
    mx_json_put(root, "date", json_real((double)now.tv_sec + 1e-9 * (double)now.tv_nsec), failed);
    mx_json_put(root, "transformers_version", json_null(), failed);
    mx_json_put(root, "lm_eval_version", json_null(), failed);
    mx_json_put(root, "upper_git_hash", json_null(), failed);
    mx_json_put(root, "tokenizer_pad_token", json_null(), failed);
    mx_json_put(root, "tokenizer_eos_token", json_token(run, eos, failed), failed);
    mx_json_put(root, "tokenizer_bos_token", json_token(run, bos, failed), failed);
    mx_json_put(root, "eot_token_id", eos >= 0 ? json_integer(eos) : json_null(), failed);
    mx_json_put(root, "max_length", config != NULL ? json_integer(config->context) : json_null(),
                failed);
    mx_json_put(root, "task_hashes", json_object(), failed);
    mx_json_put(root, "model_source", json_string("mxlm"), failed);
    mx_json_put(root, "model_name", mx_json_text(run_model_path(run)), failed);
    mx_json_put(root, "model_name_sanitized", json_sanitized(run_model_path(run)), failed);
    static const char *const absent[] = {"system_instruction", "system_instruction_sha",
                                         "fewshot_as_multiturn", "chat_template",
                                         "chat_template_sha"};
    for (size_t i = 0; i < MX_COUNT(absent); i++) {
        mx_json_put(root, absent[i], json_null(), failed);
    }
    mx_json_put(root, "total_evaluation_time_seconds", json_string(seconds), failed);
}

mx_status mx_results_json(const mx_results_run *run, const mx_task_result *results, size_t count,
                          json_t **out, mx_error *err)
{
    mx_model_size size = {0};
    json_t *root = NULL, *specs = NULL;
    char *specs_text = NULL;
    bool failed = false;
    mx_status status = MX_OK;
    *out = NULL;
    if (run->model != NULL) {
        mx_model_measure(run->model, &size);
        MX_TRY_GOTO(status, mx_specs_to_json(&run->model->specs, &specs, err));
        MX_TRY_GOTO(status, mx_specs_describe(&run->model->specs, &specs_text, err));
    }
    root = json_object();
    json_add_tasks(run, results, count, root, &failed);
    json_add_run(run, &size, root, &failed);
    mx_json_put(root, "mxlm",
                mx_results_mxlm(run, &size, specs, specs_text, results, count, &failed), &failed);
    if (failed) {
        status = mx_error_nomem(err, "results", 0);
        goto done;
    }
    *out = root;
    root = NULL;
done:
    json_decref(root);
    json_decref(specs);
    free(specs_text);
    return status;
}

/* The member "mxlm" of the results: what lm_eval has no key for. The documents' own
 * outcomes are in it, since paired comparisons need them. */
#include "eval/results_mxlm.h"

#include "base/clock.h"
#include "eval/json_build.h"

#include <stdio.h>
#include <stdlib.h>

static json_t *json_bytes(uint64_t bytes)
{
    return json_integer((json_int_t)bytes);
}

/* Quantized matrices apart from the whole: embeddings would hide what a format does. */
static json_t *json_weights(const mx_model_size *size, bool *failed)
{
    json_t *object = json_object();
    mx_json_put(object, "projection_weights", json_bytes(size->projection_weights), failed);
    mx_json_put(object, "projection_bytes", json_bytes(size->projection_bytes), failed);
    mx_json_put(object, "projection_bytes_fp32", json_bytes(size->projection_bytes_fp32), failed);
    mx_json_put(object, "total_bytes", json_bytes(size->total_bytes), failed);
    mx_json_put(object, "total_bytes_fp32", json_bytes(size->total_bytes_fp32), failed);
    return object;
}

/* Width of an element with its share of the scales, and traffic a token. */
static json_t *json_activations(const mx_model_size *size, bool *failed)
{
    json_t *object = json_object();
    mx_json_put(object, "bits", mx_json_real(size->activation_bits), failed);
    mx_json_put(object, "bytes_per_token", mx_json_real(size->activation_bytes_token), failed);
    mx_json_put(object, "bytes_per_token_fp32", mx_json_real(size->activation_bytes_token_fp32),
                failed);
    return object;
}

/* Of this process, now: the model is still loaded. */
static json_t *json_memory(bool *failed)
{
    json_t *object = json_object();
    mx_json_put(object, "resident_bytes", json_bytes(mx_memory_resident()), failed);
    mx_json_put(object, "peak_resident_bytes", json_bytes(mx_memory_peak()), failed);
    return object;
}

/* Speed is of the documents scored in this run; resumed ones took no time in it. */
static json_t *json_task(const mx_task_result *result, bool *failed)
{
    json_t *object = json_object();
    double seconds = result->work.seconds;
    double rate = seconds > 0 ? (double)result->work.tokens / seconds : 0;
    size_t scored = result->documents.count - result->resumed;
    char hash[20];
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)result->documents.hash);
    mx_json_put(object, "seconds", mx_json_real(seconds), failed);
    mx_json_put(object, "tokens", json_bytes(result->work.tokens), failed);
    mx_json_put(object, "tokens_per_second", mx_json_real(rate), failed);
    mx_json_put(object, "documents_scored", json_bytes(scored), failed);
    mx_json_put(object, "documents_resumed", json_bytes(result->resumed), failed);
    mx_json_put(object, "documents_hash", json_string(hash), failed);
    return object;
}

/* One digit a document: compact, and readable by eye. */
static json_t *json_right(const mx_task_result *result)
{
    size_t count = result->documents.count;
    char *digits = malloc(count + 1);
    if (digits == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        digits[i] = result->outcomes[i].greedy ? '1' : '0';
    }
    digits[count] = '\0';
    json_t *value = json_string(digits);
    free(digits);
    return value;
}

/* One list a field rather than one object a document: much less text. Lists that
 * the kind of task does not use are built and dropped, which keeps this one loop. */
static json_t *json_documents(const mx_task_result *result, bool *failed)
{
    json_t *object = json_object(), *lls = json_array();
    json_t *tokens = json_array(), *words = json_array(), *bytes = json_array();
    json_t *divergences = json_array(), *agreed = json_array();
    bool compared = result->request->task->kind == MX_TASK_KL;
    for (size_t i = 0; i < result->documents.count && !*failed; i++) {
        const mx_document *document = &result->documents.items[i];
        const mx_outcome *outcome = &result->outcomes[i];
        mx_json_push(lls, mx_json_real(outcome->log_likelihood), failed);
        if (compared) {
            double sum = mx_outcome_divergence(document, outcome);
            mx_json_push(divergences, mx_json_real(sum), failed);
            mx_json_push(agreed, json_integer(outcome->agreed), failed);
        }
        mx_json_push(tokens, json_integer(document->n_targets), failed);
        mx_json_push(words, json_bytes(document->words), failed);
        mx_json_push(bytes, json_bytes(document->bytes), failed);
    }
    if (result->request->task->kind != MX_TASK_TARGET) {
        mx_json_put(object, "tokens", json_incref(tokens), failed);
        mx_json_put(object, "words", json_incref(words), failed);
        mx_json_put(object, "bytes", json_incref(bytes), failed);
    } else {
        mx_json_put(object, "acc", json_right(result), failed);
    }
    if (compared) {
        mx_json_put(object, "kl", json_incref(divergences), failed);
        mx_json_put(object, "top1_agreed", json_incref(agreed), failed);
    }
    mx_json_put(object, "ll", lls, failed);
    json_decref(divergences);
    json_decref(agreed);
    json_decref(tokens);
    json_decref(words);
    json_decref(bytes);
    return object;
}

/* The model that kl:FILE compares with. */
static json_t *json_base(const mx_model *base, bool *failed)
{
    char *specs_text = NULL;
    json_t *object = json_object();
    *failed = *failed || mx_specs_describe(&base->specs, &specs_text, NULL) != MX_OK;
    mx_json_put(object, "path", mx_json_text(mx_checkpoint_path(base->checkpoint)), failed);
    mx_json_put(object, "specs_text", mx_json_text(specs_text), failed);
    free(specs_text);
    return object;
}

/* What describes the model. */
static void json_add_model(const mx_model *model, const mx_model_size *size, const json_t *specs,
                           const char *specs_text, json_t *object, bool *failed)
{
    bool has = model != NULL;
    mx_json_put(object, "specs", has ? json_deep_copy(specs) : json_null(), failed);
    mx_json_put(object, "specs_text", mx_json_text(specs_text), failed);
    mx_json_put(object, "kv", has ? json_string(mx_kv_type_name(model->kv_type)) : json_null(),
                failed);
    mx_json_put(object, "threads",
                has ? json_integer(mx_team_size(model->backend.team)) : json_null(), failed);
    mx_json_put(object, "isa", has ? json_string(model->backend.kernels.name) : json_null(),
                failed);
    mx_json_put(object, "weights", has ? json_weights(size, failed) : json_null(), failed);
    mx_json_put(object, "activations", has ? json_activations(size, failed) : json_null(), failed);
}

json_t *mx_results_mxlm(const mx_results_run *run, const mx_model_size *size, const json_t *specs,
                        const char *specs_text, const mx_task_result *results, size_t count,
                        bool *failed)
{
    json_t *object = json_object(), *tasks = json_object(), *documents = json_object();
    mx_json_put(object, "layout", json_integer(MX_RESULTS_LAYOUT), failed);
    mx_json_put(object, "version", json_string(MX_VERSION), failed);
    json_add_model(run->model, size, specs, specs_text, object, failed);
    if (run->options->base != NULL) {
        mx_json_put(object, "base", json_base(run->options->base, failed), failed);
    }
    mx_json_put(object, "memory", json_memory(failed), failed);
    for (size_t i = 0; i < count; i++) {
        const char *name = results[i].request->name;
        mx_json_put(tasks, name, json_task(&results[i], failed), failed);
        mx_json_put(documents, name, json_documents(&results[i], failed), failed);
    }
    mx_json_put(object, "tasks", tasks, failed);
    mx_json_put(object, "documents", documents, failed);
    return object;
}

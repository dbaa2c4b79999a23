/*
 * One evaluation from options to results: settle the options, load every task's
 * documents, score what a samples file does not already hold, measure, write.
 */
#include "eval/eval_run.h"

#include "base/clock.h"
#include "base/file.h"
#include "eval/json_build.h"
#include "eval/samples.h"

#include <stdlib.h>
#include <string.h>

#define EVAL_DEFAULT_BATCH 32
#define EVAL_DEFAULT_WINDOW 2048
#define EVAL_DEFAULT_BOOTSTRAP 100000

/* The state of one evaluation. */
typedef struct eval_run {
    const mx_eval_setup *setup;
    mx_eval_options options; /* resolved */
    mx_task_context context;
    mx_watch watch;
    mx_task_request *requests; /* [n_tasks] */
    mx_task_result *results;   /* [n_tasks] */
    size_t n_tasks;
    mx_samples *samples;
    double start;
} eval_run;

void mx_eval_options_init(mx_eval_options *options)
{
    *options = (mx_eval_options){
        .tasks = "lambada_openai",
        .batch_size = EVAL_DEFAULT_BATCH,
        .bootstrap_iters = EVAL_DEFAULT_BOOTSTRAP,
    };
}

/* Fills in what 0 leaves to us and refuses what cannot be. */
static mx_status eval_resolve(eval_run *run, mx_error *err)
{
    mx_eval_options *options = &run->options;
    uint32_t context = run->setup->max_context;
    if (options->batch_size == 0) {
        options->batch_size = EVAL_DEFAULT_BATCH;
    }
    if (options->window == 0) {
        options->window = context < EVAL_DEFAULT_WINDOW ? context : EVAL_DEFAULT_WINDOW;
    }
    if (options->window > context) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "window: %u exceeds the model's context of %u",
                            options->window, context);
    }
    if (options->stride == 0) {
        options->stride = options->window;
    }
    if (options->stride > options->window) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "stride: %u exceeds the window of %u",
                            options->stride, options->window);
    }
    if (options->resume && options->samples_path == NULL) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "resume: needs a samples file to continue");
    }
    if (options->add_bos && run->setup->bos < 0) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "add_bos: the model has no BOS token");
    }
    run->context = (mx_task_context){
        .options = options,
        .tokenizer = run->setup->tokenizer,
        .bos = run->setup->bos,
        .prefix = run->setup->bos >= 0 ? run->setup->bos : run->setup->eos,
        .max_context = context,
    };
    return MX_OK;
}

/* ---- the identity of a run, for --resume ------------------------------------- */

/* Everything that decides a document's outcome. Threads, batch size and instruction
 * set are not in it: results do not depend on them, so a run may be continued on
 * another machine. */
static mx_status eval_identity(const eval_run *run, json_t **out, mx_error *err)
{
    const mx_eval_options *options = &run->options;
    const mx_model *model = run->setup->model;
    json_t *root = json_object(), *specs = NULL, *base_specs = NULL;
    bool failed = false;
    mx_status status = MX_OK;
    if (model != NULL) {
        MX_TRY_GOTO(status, mx_specs_to_json(&model->specs, &specs, err));
        mx_json_put(root, "model", mx_json_text(mx_checkpoint_path(model->checkpoint)), &failed);
        mx_json_put(root, "specs", json_incref(specs), &failed);
        mx_json_put(root, "kv", json_string(mx_kv_type_name(model->kv_type)), &failed);
    }
    if (options->base != NULL) {
        MX_TRY_GOTO(status, mx_specs_to_json(&options->base->specs, &base_specs, err));
        mx_json_put(root, "base", mx_json_text(mx_checkpoint_path(options->base->checkpoint)),
                    &failed);
        mx_json_put(root, "base_specs", json_incref(base_specs), &failed);
    }
    mx_json_put(root, "tasks", mx_json_text(options->tasks), &failed);
    mx_json_put(root, "limit", json_integer((json_int_t)options->limit), &failed);
    mx_json_put(root, "add_bos", json_boolean(options->add_bos), &failed);
    mx_json_put(root, "window", json_integer(options->window), &failed);
    mx_json_put(root, "stride", json_integer(options->stride), &failed);
    status = failed ? mx_error_nomem(err, "samples", 0) : MX_OK;
done:
    json_decref(specs);
    json_decref(base_specs);
    if (status != MX_OK) {
        json_decref(root);
        root = NULL;
    }
    *out = root;
    return status;
}

/* A samples file of another identity is refused there, not mixed. */
static mx_status eval_open_samples(eval_run *run, mx_error *err)
{
    json_t *identity = NULL;
    MX_TRY(eval_identity(run, &identity, err));
    mx_status status = mx_samples_open(run->options.samples_path, identity, run->options.resume,
                                       &run->samples, err);
    json_decref(identity);
    return status;
}

/* ---- tasks -------------------------------------------------------------------- */

/* Room for what comparing with the base says of every target. */
static mx_status eval_reserve_divergences(mx_task_result *result, mx_error *err)
{
    size_t targets = 0, at = 0;
    for (size_t i = 0; i < result->documents.count; i++) {
        targets += result->documents.items[i].n_targets;
    }
    result->divergences = calloc(targets > 0 ? targets : 1, sizeof *result->divergences);
    if (result->divergences == NULL) {
        return mx_error_nomem(err, result->request->name, targets * sizeof *result->divergences);
    }
    for (size_t i = 0; i < result->documents.count; i++) {
        result->outcomes[i].divergences = result->divergences + at;
        at += result->documents.items[i].n_targets;
    }
    return MX_OK;
}

/* Documents, and one outcome for each: none is done yet. */
static mx_status eval_load(eval_run *run, mx_task_result *result, mx_error *err)
{
    const mx_task_request *request = result->request;
    result->documents.hash = MX_HASH_START;
    MX_TRY(request->task->load(&run->context, request->file, &result->documents, &result->source,
                               err));
    size_t count = result->documents.count;
    result->outcomes = calloc(count > 0 ? count : 1, sizeof *result->outcomes);
    if (result->outcomes == NULL) {
        return mx_error_nomem(err, request->name, count * sizeof *result->outcomes);
    }
    return request->task->kind == MX_TASK_KL ? eval_reserve_divergences(result, err) : MX_OK;
}

/* What eval_document_done needs to know. */
typedef struct eval_sink {
    mx_samples *samples;
    const mx_task_request *request;
} eval_sink;

/* Written at once, not at the end: what --resume finds is what was scored. */
static mx_status eval_document_done(void *ctx, const mx_document *document,
                                    const mx_outcome *outcome, mx_error *err)
{
    eval_sink *sink = ctx;
    return mx_samples_write(sink->samples, sink->request, document, outcome, err);
}

/* Restored outcomes are skipped by the scoring and count in the measures. */
static mx_status eval_task(eval_run *run, mx_task_result *result, mx_error *err)
{
    eval_sink sink = {.samples = run->samples, .request = result->request};
    MX_TRY(mx_samples_restore(run->samples, result, err));
    const mx_scorer *scorer =
        result->request->task->kind == MX_TASK_KL ? &run->setup->kl_scorer : &run->setup->scorer;
    MX_TRY(mx_score_documents(scorer, &result->documents, run->options.batch_size,
                              result->request->name, run->watch, eval_document_done, &sink,
                              result->outcomes, &result->work, err));
    return mx_task_result_measure(result, run->options.bootstrap_iters, run->setup->team,
                                  run->watch, err);
}

/* A base model is needed by the tasks that compare with one, and by no others. */
static mx_status eval_check_base(const eval_run *run, mx_error *err)
{
    const char *compares = NULL;
    bool has_base = run->setup->kl_scorer.score != NULL;
    for (size_t i = 0; i < run->n_tasks; i++) {
        if (run->requests[i].task->kind == MX_TASK_KL) {
            compares = run->requests[i].name;
        }
    }
    if (compares != NULL && !has_base) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "base: %s needs a model to compare with",
                            compares);
    }
    if (compares == NULL && has_base) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "base: no task compares with it: add kl:FILE");
    }
    return MX_OK;
}

/* All data is loaded before anything is scored or written: a missing file of
 * the last task is told at once. */
static mx_status eval_tasks(eval_run *run, mx_error *err)
{
    MX_TRY(mx_task_requests_parse(run->options.tasks, &run->requests, &run->n_tasks, err));
    MX_TRY(eval_check_base(run, err));
    run->results = calloc(run->n_tasks, sizeof *run->results);
    if (run->results == NULL) {
        return mx_error_nomem(err, "tasks", run->n_tasks * sizeof *run->results);
    }
    for (size_t i = 0; i < run->n_tasks; i++) {
        run->results[i].request = &run->requests[i];
        MX_TRY(eval_load(run, &run->results[i], err));
    }
    MX_TRY(eval_open_samples(run, err));
    for (size_t i = 0; i < run->n_tasks; i++) {
        MX_TRY(eval_task(run, &run->results[i], err));
    }
    mx_samples *samples = run->samples;
    run->samples = NULL;
    return mx_samples_close(samples, err);
}

/* ---- results ------------------------------------------------------------------ */

/* The file last: it must not exist unless all of the output could be made. Outputs
 * that the caller does not want are NULL. */
static mx_status eval_write(eval_run *run, char **table, char **json, mx_error *err)
{
    mx_results_run about = {.options = &run->options,
                            .model = run->setup->model,
                            .seconds = mx_clock_seconds() - run->start};
    json_t *root = NULL;
    char *text = NULL, *shown = NULL;
    mx_status status = MX_OK;
    MX_TRY_GOTO(status, mx_results_json(&about, run->results, run->n_tasks, &root, err));
    MX_TRY_GOTO(status, mx_json_dump(root, 2, &text, err));
    MX_TRY_GOTO(status, mx_results_table(run->results, run->n_tasks, &shown, err));
    if (run->options.output_path != NULL) {
        MX_TRY_GOTO(status, mx_file_write(run->options.output_path, text, strlen(text), err));
    }
    if (table != NULL) {
        *table = shown;
        shown = NULL;
    }
    if (json != NULL) {
        *json = text;
        text = NULL;
    }
done:
    json_decref(root);
    free(text);
    free(shown);
    return status;
}

static void clear_outputs(char **table, char **json)
{
    if (table != NULL) {
        *table = NULL;
    }
    if (json != NULL) {
        *json = NULL;
    }
}

mx_status mx_eval_execute(const mx_eval_setup *setup, mx_watch watch, char **table, char **json,
                          mx_error *err)
{
    eval_run run = {
        .setup = setup, .options = setup->options, .watch = watch, .start = mx_clock_seconds()};
    mx_status status = MX_OK;
    clear_outputs(table, json);
    MX_TRY_GOTO(status, eval_resolve(&run, err));
    MX_TRY_GOTO(status, eval_tasks(&run, err));
    status = eval_write(&run, table, json, err);
done:
    mx_samples_close(run.samples, NULL);
    for (size_t i = 0; run.results != NULL && i < run.n_tasks; i++) {
        mx_task_result_free(&run.results[i]);
    }
    free(run.results);
    mx_task_requests_free(run.requests, run.n_tasks);
    return status;
}

mx_status mx_eval_run(mx_model *model, const mx_eval_options *options, mx_watch watch, char **table,
                      char **json, mx_error *err)
{
    const mx_llama_config *config = &model->config;
    mx_eval_setup setup = {
        .options = *options,
        .eos = config->n_eos > 0 ? config->eos_ids[0] : -1,
        .max_context = config->context,
        .model = model,
        .team = model->backend.team,
    };
    clear_outputs(table, json); /* also when nothing can be run */
    mx_status status = mx_model_tokenizer(model, &setup.tokenizer, err);
    if (status == MX_OK) {
        /* The post-processor's BOS, else the one that the config names. */
        setup.bos = mx_tokenizer_bos(setup.tokenizer);
        setup.bos = setup.bos >= 0 ? setup.bos : config->bos_id;
        status = mx_scorer_open(model, &setup.scorer, err);
    }
    if (status == MX_OK && options->base != NULL) {
        status = mx_kl_scorer_open(model, options->base, &setup.kl_scorer, err);
    }
    if (status == MX_OK) {
        status = mx_eval_execute(&setup, watch, table, json, err);
    }
    mx_scorer_close(&setup.scorer);
    mx_scorer_close(&setup.kl_scorer);
    return status;
}

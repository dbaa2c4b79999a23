/*
 * Scoring lists of documents in batches. What a document gets does not depend on its
 * batch (docs/NUMERICS.md), so batches are made for speed alone.
 */
#include "base/clock.h"
#include "eval/eval.h"

#include <math.h>
#include <stdlib.h>

#define SCORE_DEFAULT_BATCH 32

/*
 * Tokens of one pass. A session's scratch memory grows with it (some 100 KB a
 * token at 1B parameters), while its speed stops growing after a few hundred
 * tokens: every weight is then used often enough per read.
 */
#define SCORE_TOKEN_BUDGET 2048

/* One document in scoring order. */
typedef struct score_item {
    uint32_t n_inputs; /* tokens fed: all but the last */
    size_t position;   /* in the list */
} score_item;

/* The state of one mx_score_documents call. */
typedef struct score_run {
    const mx_scorer *scorer;
    const mx_document_list *list;
    mx_watch watch;
    mx_outcome_fn on_done;
    void *ctx;
    mx_outcome *outcomes; /* [list->count] */
    score_item *order;    /* [n_order] */
    size_t n_order;
    const mx_document **batch;  /* [batch_size] */
    mx_outcome *batch_outcomes; /* [batch_size] */
    size_t batch_size;
    mx_progress progress;
    double start;
} score_run;

/* Longest first: memory is at its largest at once, and time-left estimates err
 * on the long side. Ties in list order, so that the order is total. */
static int score_item_compare(const void *left, const void *right)
{
    const score_item *a = left, *b = right;
    if (a->n_inputs != b->n_inputs) {
        return a->n_inputs > b->n_inputs ? -1 : 1;
    }
    return a->position < b->position ? -1 : 1;
}

/* Documents not done yet, in scoring order, and the work that they are. */
static mx_status score_plan(score_run *run, mx_error *err)
{
    size_t count = run->list->count;
    run->order = malloc((count > 0 ? count : 1) * sizeof *run->order);
    run->batch = malloc(run->batch_size * sizeof *run->batch);
    run->batch_outcomes = calloc(run->batch_size, sizeof *run->batch_outcomes);
    if (run->order == NULL || run->batch == NULL || run->batch_outcomes == NULL) {
        return mx_error_nomem(err, "documents", count * sizeof *run->order);
    }
    for (size_t i = 0; i < count; i++) {
        if (!run->outcomes[i].done) {
            uint32_t n_inputs = run->list->items[i].n_tokens - 1;
            run->order[run->n_order++] = (score_item){.n_inputs = n_inputs, .position = i};
            run->progress.work_total += n_inputs;
        }
    }
    qsort(run->order, run->n_order, sizeof *run->order, score_item_compare);
    run->progress.done = count - run->n_order;
    run->progress.total = count;
    return MX_OK;
}

/* One session for all batches. Nothing is generated, so no KV cache is kept. */
static mx_status score_prepare(const score_run *run, mx_error *err)
{
    uint32_t longest = run->order[0].n_inputs;
    mx_session_config limits = {
        .max_tokens = longest > SCORE_TOKEN_BUDGET ? longest : SCORE_TOKEN_BUDGET,
        .max_sequences = (uint32_t)run->batch_size,
        .max_context = longest,
        .keep_kv = false,
    };
    /* A short task asks for no more than all its tokens. */
    if (run->progress.work_total < limits.max_tokens) {
        limits.max_tokens = (uint32_t)run->progress.work_total;
    }
    return run->scorer->prepare(run->scorer->ctx, &limits, err);
}

/* Number of documents, from order[begin], of the next pass; at least 1. */
static size_t score_batch_length(const score_run *run, size_t begin)
{
    uint64_t tokens = run->order[begin].n_inputs;
    size_t n = 1;
    while (n < run->batch_size && begin + n < run->n_order &&
           tokens + run->order[begin + n].n_inputs <= SCORE_TOKEN_BUDGET) {
        tokens += run->order[begin + n].n_inputs;
        n++;
    }
    return n;
}

/* A result that is not finite ends the run: a mean with one NaN in it is no figure,
 * and leaving the document out would change the task. */
static mx_status score_check(const score_run *run, const mx_document *document,
                             const mx_outcome *outcome, mx_error *err)
{
    if (!isfinite(outcome->log_likelihood)) {
        return mx_error_set(err, MX_ERR_FORMAT,
                            "%s: document %u: the model's log-likelihood is not finite",
                            run->progress.stage, document->index);
    }
    for (uint32_t t = 0; outcome->divergences != NULL && t < document->n_targets; t++) {
        if (!isfinite(outcome->divergences[t])) {
            return mx_error_set(err, MX_ERR_FORMAT,
                                "%s: document %u: target %u: the KL divergence is not finite",
                                run->progress.stage, document->index, t);
        }
    }
    return MX_OK;
}

static mx_status score_batch(score_run *run, size_t begin, size_t n, mx_error *err)
{
    for (size_t i = 0; i < n; i++) {
        size_t position = run->order[begin + i].position;
        run->batch[i] = &run->list->items[position];
        run->batch_outcomes[i] = (mx_outcome){.divergences = run->outcomes[position].divergences};
    }
    MX_TRY(run->scorer->score(run->scorer->ctx, run->batch, n, run->batch_outcomes, err));
    for (size_t i = 0; i < n; i++) {
        MX_TRY(score_check(run, run->batch[i], &run->batch_outcomes[i], err));
        mx_outcome *outcome = &run->outcomes[run->order[begin + i].position];
        *outcome = run->batch_outcomes[i];
        outcome->done = true;
        run->progress.done++;
        run->progress.work_done += run->batch[i]->n_tokens - 1;
        if (run->on_done != NULL) {
            MX_TRY(run->on_done(run->ctx, run->batch[i], outcome, err));
        }
    }
    return MX_OK;
}

/* Asked between batches only: a pass is not interrupted half-way. */
static mx_status score_report(score_run *run, mx_error *err)
{
    run->progress.seconds = mx_clock_seconds() - run->start;
    if (run->watch.fn != NULL && !run->watch.fn(run->watch.ctx, &run->progress)) {
        return mx_error_set(err, MX_ERR_CANCELLED, "%s: cancelled after %llu of %llu documents",
                            run->progress.stage, (unsigned long long)run->progress.done,
                            (unsigned long long)run->progress.total);
    }
    return MX_OK;
}

static mx_status score_all(score_run *run, mx_error *err)
{
    MX_TRY(score_plan(run, err));
    if (run->n_order == 0) {
        return MX_OK;
    }
    MX_TRY(score_prepare(run, err));
    run->start = mx_clock_seconds();
    MX_TRY(score_report(run, err));
    for (size_t begin = 0; begin < run->n_order;) {
        size_t n = score_batch_length(run, begin);
        MX_TRY(score_batch(run, begin, n, err));
        MX_TRY(score_report(run, err));
        begin += n;
    }
    return MX_OK;
}

mx_status mx_score_documents(const mx_scorer *scorer, const mx_document_list *list,
                             uint32_t batch_size, const char *stage, mx_watch watch,
                             mx_outcome_fn on_done, void *ctx, mx_outcome *outcomes,
                             mx_score_work *work, mx_error *err)
{
    size_t wanted = batch_size > 0 ? batch_size : SCORE_DEFAULT_BATCH;
    size_t most = list->count > 0 ? list->count : 1;
    score_run run = {
        .scorer = scorer,
        .list = list,
        .watch = watch,
        .on_done = on_done,
        .ctx = ctx,
        .outcomes = outcomes,
        .batch_size = wanted < most ? wanted : most,
        .progress = {.stage = stage, .unit = "documents", .work_unit = "tokens"},
    };
    mx_status status = score_all(&run, err);
    *work = (mx_score_work){.tokens = run.progress.work_done, .seconds = run.progress.seconds};
    free(run.order);
    free(run.batch);
    free(run.batch_outcomes);
    return status;
}

/*
 * Scoring beside a base model: both run the same batch, and their logits are compared
 * a few rows at a time, so that neither's distributions are ever kept.
 */
#include "eval/score_rows.h"

#include <math.h>
#include <stdlib.h>

/* Rows of logits held at once, of each model: a head's weights are read once for all
 * of them, and 128,256 words of vocabulary make 33 MB of each 64. */
enum { KL_ROWS = 64 };

typedef struct kl_scorer {
    mx_model *model, *base;
    mx_session *model_session, *base_session;
    mx_score_rows rows;
    size_t vocab;
    float *logits;      /* [KL_ROWS][vocab] of the model */
    float *base_logits; /* [KL_ROWS][vocab] */
} kl_scorer;

static void kl_scorer_clear(kl_scorer *scorer)
{
    mx_session_free(scorer->model_session);
    mx_session_free(scorer->base_session);
    mx_score_rows_clear(&scorer->rows);
    free(scorer->logits);
    free(scorer->base_logits);
    *scorer = (kl_scorer){.model = scorer->model, .base = scorer->base, .vocab = scorer->vocab};
}

static mx_status kl_scorer_prepare(void *ctx, const mx_session_config *limits, mx_error *err)
{
    kl_scorer *scorer = ctx;
    size_t bytes = KL_ROWS * scorer->vocab * sizeof(float);
    kl_scorer_clear(scorer);
    if (limits->max_context > scorer->base->config.context) {
        return mx_error_set(err, MX_ERR_ARGUMENT,
                            "base: its context of %u tokens is shorter than a window of %u",
                            scorer->base->config.context, limits->max_context);
    }
    MX_TRY(mx_score_rows_init(&scorer->rows, limits, err));
    scorer->logits = malloc(bytes);
    scorer->base_logits = malloc(bytes);
    if (scorer->logits == NULL || scorer->base_logits == NULL) {
        return mx_error_nomem(err, "logits", bytes);
    }
    MX_TRY(mx_session_create(scorer->base, limits, &scorer->base_session, err));
    return mx_session_create(scorer->model, limits, &scorer->model_session, err);
}

/* What one row of both models says. */
typedef struct kl_row {
    double log_likelihood;
    float divergence;
    bool greedy, agreed;
} kl_row;

/* Some rows, split over threads; each row is one thread's. */
typedef struct kl_range {
    const kl_scorer *scorer;
    const int32_t *picks; /* [rows] */
    kl_row *rows;         /* [rows] */
} kl_range;

/*
 * sum_v p(v) ((x(v) - y(v)) - (ln Z_x - ln Z_y)) for logits x, y [n], p = softmax(x), v
 * ascending, in double. The bracket is ln p(v) / q(v): the exponential, which is an fp32
 * one (mx_exp), enters as a weight alone, and its rounding moves the sum by a share of
 * 1e-7. A divergence is not negative; what rounding leaves below is.
 */
static double kl_divergence(const float *x, const mx_row_stats *x_stats, const float *y,
                            const mx_row_stats *y_stats, size_t n)
{
    double shift = ((double)x_stats->max + log(x_stats->sum_exp)) -
                   ((double)y_stats->max + log(y_stats->sum_exp));
    double sum = 0;
    for (size_t v = 0; v < n; v++) {
        double weight = (double)mx_exp(x[v] - x_stats->max);
        /* A word that the base excludes counts nothing, whatever the model gives it. */
        if (weight > 0) {
            sum += weight * (((double)x[v] - (double)y[v]) - shift);
        }
    }
    sum /= x_stats->sum_exp;
    return sum < 0 ? 0 : sum;
}

static void kl_rows(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const kl_range *range = ctx;
    const kl_scorer *scorer = range->scorer;
    for (size_t i = begin; i < end; i++) {
        const float *x = scorer->base_logits + i * scorer->vocab;
        const float *y = scorer->logits + i * scorer->vocab;
        uint32_t pick = (uint32_t)range->picks[i];
        mx_row_stats x_stats, y_stats;
        scorer->model->backend.kernels.row_stats(x, scorer->vocab, &x_stats);
        scorer->model->backend.kernels.row_stats(y, scorer->vocab, &y_stats);
        range->rows[i] = (kl_row){
            .log_likelihood = mx_score_log_softmax(&y_stats, y[pick]),
            .divergence = (float)kl_divergence(x, &x_stats, y, &y_stats, scorer->vocab),
            .greedy = y_stats.argmax == pick,
            .agreed = y_stats.argmax == x_stats.argmax,
        };
    }
}

/* The next at most KL_ROWS rows, from row `first` of the batch. */
static mx_status kl_compare(kl_scorer *scorer, size_t first, size_t n, kl_row *rows, mx_error *err)
{
    const uint32_t *which = scorer->rows.rows + first;
    kl_range range = {.scorer = scorer, .picks = scorer->rows.picks + first, .rows = rows};
    MX_TRY(mx_session_logits(scorer->base_session, which, n, scorer->base_logits, err));
    MX_TRY(mx_session_logits(scorer->model_session, which, n, scorer->logits, err));
    mx_team_for(scorer->model->backend.team, n, 1, kl_rows, &range);
    return MX_OK;
}

/* The place in a batch that a row belongs to. */
typedef struct kl_cursor {
    size_t document;
    uint32_t target;
} kl_cursor;

static void kl_collect(const kl_row *row, const mx_document *const *batch, kl_cursor *at,
                       mx_outcome *outcomes)
{
    mx_outcome *outcome = &outcomes[at->document];
    if (at->target == 0) {
        *outcome = (mx_outcome){.greedy = true, .divergences = outcome->divergences};
    }
    outcome->log_likelihood += row->log_likelihood;
    outcome->greedy = outcome->greedy && row->greedy;
    outcome->agreed += row->agreed;
    if (outcome->divergences != NULL) {
        outcome->divergences[at->target] = row->divergence;
    }
    if (++at->target == batch[at->document]->n_targets) {
        *at = (kl_cursor){.document = at->document + 1};
    }
}

static mx_status kl_scorer_score(void *ctx, const mx_document *const *batch, size_t n,
                                 mx_outcome *outcomes, mx_error *err)
{
    kl_scorer *scorer = ctx;
    kl_row rows[KL_ROWS];
    kl_cursor at = {0};
    mx_score_rows_list(&scorer->rows, batch, n);
    MX_TRY(mx_session_forward(scorer->base_session, scorer->rows.segments, n, err));
    MX_TRY(mx_session_forward(scorer->model_session, scorer->rows.segments, n, err));
    for (size_t first = 0; first < scorer->rows.n_rows; first += KL_ROWS) {
        size_t left = scorer->rows.n_rows - first, count = left < KL_ROWS ? left : KL_ROWS;
        MX_TRY(kl_compare(scorer, first, count, rows, err));
        for (size_t i = 0; i < count; i++) {
            kl_collect(&rows[i], batch, &at, outcomes);
        }
    }
    return MX_OK;
}

static void kl_scorer_free(void *ctx)
{
    kl_scorer_clear(ctx);
    free(ctx);
}

mx_status mx_kl_scorer_open(mx_model *model, mx_model *base, mx_scorer *out, mx_error *err)
{
    *out = (mx_scorer){0};
    MX_TRY(mx_model_check_tokens(model, base, "base", err));
    kl_scorer *scorer = calloc(1, sizeof *scorer);
    if (scorer == NULL) {
        return mx_error_nomem(err, "scorer", sizeof *scorer);
    }
    *scorer = (kl_scorer){.model = model, .base = base, .vocab = model->config.vocab};
    *out = (mx_scorer){.ctx = scorer,
                       .prepare = kl_scorer_prepare,
                       .score = kl_scorer_score,
                       .free = kl_scorer_free};
    return MX_OK;
}

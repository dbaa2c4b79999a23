/* Scoring by a model's session: the log-likelihood of every target token, and whether
 * greedy decoding would have given them all. */
#include "eval/eval.h"

#include <math.h>
#include <stdlib.h>

/* The scorer over a model: one session, made anew for every list of documents. */
typedef struct session_scorer {
    mx_model *model;
    mx_session *session;
    mx_segment *segments; /* [max_sequences] */
    uint32_t *rows;       /* [max_rows]: rows and the tokens they should predict */
    int32_t *picks;       /* [max_rows] */
    mx_row_stats *stats;  /* [max_rows] */
    float *picked;        /* [max_rows] */
    size_t max_rows;
} session_scorer;

static void session_scorer_clear(session_scorer *scorer)
{
    mx_session_free(scorer->session);
    free(scorer->segments);
    free(scorer->rows);
    free(scorer->picks);
    free(scorer->stats);
    free(scorer->picked);
    *scorer = (session_scorer){.model = scorer->model};
}

/* Room for the largest batch, so that scoring allocates nothing. */
static mx_status session_scorer_prepare(void *ctx, const mx_session_config *limits, mx_error *err)
{
    session_scorer *scorer = ctx;
    session_scorer_clear(scorer);
    /* Every token fed may be asked what follows it. */
    size_t rows = limits->max_tokens;
    scorer->segments = calloc(limits->max_sequences, sizeof *scorer->segments);
    scorer->rows = malloc(rows * sizeof *scorer->rows);
    scorer->picks = malloc(rows * sizeof *scorer->picks);
    scorer->stats = malloc(rows * sizeof *scorer->stats);
    scorer->picked = malloc(rows * sizeof *scorer->picked);
    if (scorer->segments == NULL || scorer->rows == NULL || scorer->picks == NULL ||
        scorer->stats == NULL || scorer->picked == NULL) {
        session_scorer_clear(scorer);
        return mx_error_nomem(err, "rows to score", rows * sizeof *scorer->stats);
    }
    scorer->max_rows = rows;
    return mx_session_create(scorer->model, limits, &scorer->session, err);
}

/* Lists the rows of the batch's targets: the row of position i predicts token
 * i + 1. Returns their number. */
static size_t session_scorer_rows(session_scorer *scorer, const mx_document *const *batch, size_t n)
{
    size_t n_rows = 0;
    uint32_t base = 0;
    for (size_t i = 0; i < n; i++) {
        const mx_document *document = batch[i];
        uint32_t n_inputs = document->n_tokens - 1;
        scorer->segments[i] = (mx_segment){
            .sequence = (uint32_t)i, .start = 0, .tokens = document->tokens, .n_tokens = n_inputs};
        for (uint32_t t = document->n_tokens - document->n_targets; t < document->n_tokens; t++) {
            scorer->rows[n_rows] = base + t - 1;
            scorer->picks[n_rows] = document->tokens[t];
            n_rows++;
        }
        base += n_inputs;
    }
    return n_rows;
}

static mx_status session_scorer_score(void *ctx, const mx_document *const *batch, size_t n,
                                      mx_outcome *outcomes, mx_error *err)
{
    session_scorer *scorer = ctx;
    size_t n_rows = session_scorer_rows(scorer, batch, n);
    MX_TRY(mx_session_forward(scorer->session, scorer->segments, n, err));
    MX_TRY(mx_session_score(scorer->session, scorer->rows, scorer->picks, n_rows, scorer->stats,
                            scorer->picked, err));
    size_t row = 0;
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        bool greedy = true;
        for (uint32_t t = 0; t < batch[i]->n_targets; t++, row++) {
            /* log softmax = x - max - ln sum exp(x' - max), in double. */
            const mx_row_stats *stats = &scorer->stats[row];
            sum += (double)scorer->picked[row] - (double)stats->max - log(stats->sum_exp);
            greedy = greedy && stats->argmax == (uint32_t)scorer->picks[row];
        }
        outcomes[i] = (mx_outcome){.log_likelihood = sum, .greedy = greedy};
    }
    return MX_OK;
}

static void session_scorer_free(void *ctx)
{
    session_scorer_clear(ctx);
    free(ctx);
}

mx_status mx_scorer_open(mx_model *model, mx_scorer *out, mx_error *err)
{
    *out = (mx_scorer){0};
    session_scorer *scorer = calloc(1, sizeof *scorer);
    if (scorer == NULL) {
        return mx_error_nomem(err, "scorer", sizeof *scorer);
    }
    scorer->model = model;
    *out = (mx_scorer){.ctx = scorer,
                       .prepare = session_scorer_prepare,
                       .score = session_scorer_score,
                       .free = session_scorer_free};
    return MX_OK;
}

void mx_scorer_close(mx_scorer *scorer)
{
    if (scorer->free != NULL) {
        scorer->free(scorer->ctx);
    }
    *scorer = (mx_scorer){0};
}

/* Scoring by a model's session: the log-likelihood of every target token, and whether
 * greedy decoding would have given them all. */
#include "eval/score_rows.h"

#include <stdlib.h>

/* The scorer over a model: one session, made anew for every list of documents. */
typedef struct session_scorer {
    mx_model *model;
    mx_session *session;
    mx_score_rows rows;
    mx_row_stats *stats; /* [max_tokens] */
    float *picked;       /* [max_tokens] */
} session_scorer;

static void session_scorer_clear(session_scorer *scorer)
{
    mx_session_free(scorer->session);
    mx_score_rows_clear(&scorer->rows);
    free(scorer->stats);
    free(scorer->picked);
    *scorer = (session_scorer){.model = scorer->model};
}

static mx_status session_scorer_prepare(void *ctx, const mx_session_config *limits, mx_error *err)
{
    session_scorer *scorer = ctx;
    session_scorer_clear(scorer);
    size_t rows = limits->max_tokens;
    MX_TRY(mx_score_rows_init(&scorer->rows, limits, err));
    scorer->stats = malloc(rows * sizeof *scorer->stats);
    scorer->picked = malloc(rows * sizeof *scorer->picked);
    if (scorer->stats == NULL || scorer->picked == NULL) {
        session_scorer_clear(scorer);
        return mx_error_nomem(err, "rows to score", rows * sizeof *scorer->stats);
    }
    return mx_session_create(scorer->model, limits, &scorer->session, err);
}

static mx_status session_scorer_score(void *ctx, const mx_document *const *batch, size_t n,
                                      mx_outcome *outcomes, mx_error *err)
{
    session_scorer *scorer = ctx;
    const mx_score_rows *rows = &scorer->rows;
    mx_score_rows_list(&scorer->rows, batch, n);
    MX_TRY(mx_session_forward(scorer->session, rows->segments, n, err));
    MX_TRY(mx_session_score(scorer->session, rows->rows, rows->picks, rows->n_rows, scorer->stats,
                            scorer->picked, err));
    size_t row = 0;
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        bool greedy = true;
        for (uint32_t t = 0; t < batch[i]->n_targets; t++, row++) {
            const mx_row_stats *stats = &scorer->stats[row];
            sum += mx_score_log_softmax(stats, scorer->picked[row]);
            greedy = greedy && stats->argmax == (uint32_t)rows->picks[row];
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

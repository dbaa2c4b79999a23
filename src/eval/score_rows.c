#include "eval/score_rows.h"

#include <math.h>
#include <stdlib.h>

mx_status mx_score_rows_init(mx_score_rows *rows, const mx_session_config *limits, mx_error *err)
{
    /* Every token fed may be asked what follows it. */
    size_t n = limits->max_tokens;
    *rows = (mx_score_rows){
        .segments = calloc(limits->max_sequences, sizeof *rows->segments),
        .rows = malloc(n * sizeof *rows->rows),
        .picks = malloc(n * sizeof *rows->picks),
    };
    if (rows->segments == NULL || rows->rows == NULL || rows->picks == NULL) {
        mx_score_rows_clear(rows);
        return mx_error_nomem(err, "rows to score", n * sizeof *rows->rows);
    }
    return MX_OK;
}

void mx_score_rows_clear(mx_score_rows *rows)
{
    free(rows->segments);
    free(rows->rows);
    free(rows->picks);
    *rows = (mx_score_rows){0};
}

/* The row of position i predicts token i + 1. */
void mx_score_rows_list(mx_score_rows *rows, const mx_document *const *batch, size_t n)
{
    uint32_t base = 0;
    rows->n_rows = 0;
    for (size_t i = 0; i < n; i++) {
        const mx_document *document = batch[i];
        uint32_t n_inputs = document->n_tokens - 1;
        rows->segments[i] = (mx_segment){
            .sequence = (uint32_t)i, .start = 0, .tokens = document->tokens, .n_tokens = n_inputs};
        for (uint32_t t = document->n_tokens - document->n_targets; t < document->n_tokens; t++) {
            rows->rows[rows->n_rows] = base + t - 1;
            rows->picks[rows->n_rows] = document->tokens[t];
            rows->n_rows++;
        }
        base += n_inputs;
    }
}

/* x - max - ln sum exp(x' - max), in double. */
double mx_score_log_softmax(const mx_row_stats *stats, float picked)
{
    return (double)picked - (double)stats->max - log(stats->sum_exp);
}

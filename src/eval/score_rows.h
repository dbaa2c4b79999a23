/* What scoring asks of a session: the segments of a batch of documents, and the rows
 * of logits that predict their targets. */
#ifndef MX_EVAL_SCORE_ROWS_H
#define MX_EVAL_SCORE_ROWS_H

#include "eval/eval.h"

/* Zero-initialize. */
typedef struct mx_score_rows {
    mx_segment *segments; /* [max_sequences]: one a document, its last token not fed */
    uint32_t *rows;       /* [max_tokens]: in the session's token order */
    int32_t *picks;       /* [max_tokens]: the tokens that the rows should predict */
    size_t n_rows;
} mx_score_rows;

/* Room for the largest batch that `limits` allow, so that scoring allocates nothing. */
mx_status mx_score_rows_init(mx_score_rows *rows, const mx_session_config *limits, mx_error *err);
void mx_score_rows_clear(mx_score_rows *rows);

/* Lists the rows of the targets of documents batch [n]. */
void mx_score_rows_list(mx_score_rows *rows, const mx_document *const *batch, size_t n);

/* ln softmax(logits)[pick] from the row's statistics and the pick's logit. */
double mx_score_log_softmax(const mx_row_stats *stats, float picked);

#endif

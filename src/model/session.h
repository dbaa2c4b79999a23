/*
 * A session runs tokens through a model: scratch memory sized once, and a KV
 * store, of the model's kv_type, for a number of sequences. No allocation per token.
 *
 * Results of a token depend only on the tokens before it in its sequence: not on
 * batch composition, chunking, thread count or instruction set (bit for bit).
 */
#ifndef MX_MODEL_SESSION_H
#define MX_MODEL_SESSION_H

#include "model/model.h"

typedef struct mx_session mx_session;

typedef struct mx_session_config {
    uint32_t max_tokens;    /* tokens of one forward call, over all sequences */
    uint32_t max_sequences; /* sequences at once */
    uint32_t max_context;   /* positions of one sequence */
    bool keep_kv;           /* false: every sequence of a call starts at position 0 and
                               nothing is kept after it (evaluation of whole documents) */
} mx_session_config;

mx_status mx_session_create(mx_model *model, const mx_session_config *config, mx_session **out,
                            mx_error *err);
void mx_session_free(mx_session *session);

/* A run of tokens of one sequence inside a forward call. */
typedef struct mx_segment {
    uint32_t sequence;     /* [0, max_sequences) */
    uint32_t start;        /* position of the first token: 0 starts afresh, an earlier one
                              than the sequence's end forgets what was from there on */
    const int32_t *tokens; /* [n_tokens] */
    uint32_t n_tokens;     /* >= 1 */
} mx_segment;

/*
 * Runs the segments (distinct sequences) and leaves the final hidden states
 * (after the last norm) of all their tokens, in order, for
 * mx_session_logits. Token ids out of range, lengths beyond the session's limits
 * and a start beyond the sequence's end are MX_ERR_ARGUMENT.
 */
mx_status mx_session_forward(mx_session *session, const mx_segment *segments, size_t n_segments,
                             mx_error *err);

/*
 * Logits of the tokens `rows` (indices into the last call's token order) into
 * out [n_rows][vocab].
 */
mx_status mx_session_logits(mx_session *session, const uint32_t *rows, size_t n_rows, float *out,
                            mx_error *err);

/* Statistics and chosen logits of rows without keeping the logits: for row i,
 * stats[i] of its logits and picked[i] = logit of token picks[i]. */
mx_status mx_session_score(mx_session *session, const uint32_t *rows, const int32_t *picks,
                           size_t n_rows, mx_row_stats *stats, float *picked, mx_error *err);

/* Wall-clock seconds that the session's calls have spent in attention: scores, softmax and
 * mix, without the projections around them. */
double mx_session_attention_seconds(const mx_session *session);

/* ---- one layer at a time (calibration) ------------------------------------- */

/*
 * Sees the input x [n_tokens][in] of each projection of a layer, before it is
 * quantized, in the order q, k, v, o, gate, up, down. Returning false ends the
 * layer there: its output is then not made.
 */
typedef bool (*mx_tap_fn)(void *ctx, uint32_t layer, mx_projection projection, const float *x,
                          size_t n_tokens);

/* Embeds the segments' tokens: hidden [all tokens][hidden], the first layer's
 * input. */
mx_status mx_session_embed(mx_session *session, const mx_segment *segments, size_t n_segments,
                           float *hidden, mx_error *err);

/*
 * Runs one decoder layer over whole sequences (every segment from position 0; the
 * token ids are not looked at): hidden [all tokens][hidden] is its input and,
 * unless `tap` (may be NULL) ended it, becomes its output. Sequences whose keys and
 * values were kept are forgotten.
 */
mx_status mx_session_layer(mx_session *session, uint32_t layer, const mx_segment *segments,
                           size_t n_segments, float *hidden, mx_tap_fn tap, void *tap_ctx,
                           mx_error *err);

#endif

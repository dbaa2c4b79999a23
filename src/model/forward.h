/* Inside of a session: its buffers, and the forward pass over them. */
#ifndef MX_MODEL_FORWARD_H
#define MX_MODEL_FORWARD_H

#include "model/kv_store.h"
#include "model/session.h"

/* Where a token of the current call stands. */
typedef struct mx_place {
    size_t base;       /* first position of its sequence in the KV store */
    uint32_t position; /* in its sequence */
    int32_t token;
} mx_place;

/* Tokens of one sequence, at consecutive positions, whose attention shares its reads
 * of keys and values. */
typedef struct mx_query_tile {
    uint32_t first, n_tokens; /* of the call's tokens */
} mx_query_tile;

struct mx_session {
    mx_model *model; /* borrowed */
    mx_session_config config;
    size_t n_tokens; /* of the last call; T below */
    mx_kv_store kv;
    uint32_t *filled;           /* [max_sequences]: positions kept of each sequence */
    uint8_t *arena;             /* everything below, 64-byte aligned parts */
    mx_place *places;           /* [T] */
    mx_query_tile *query_tiles; /* [n_query_tiles], at most T */
    size_t n_query_tiles;
    uint64_t *streams; /* [T], at least [128]: keys of stochastic rounding */
    float *hidden;     /* [T][hidden]: the residual stream */
    float *normed;     /* [T][hidden]; also a projection's output before it is added */
    float *q;          /* [T][heads * head_dim] */
    float *k;          /* [T][kv_heads * head_dim] */
    float *v;          /* [T][kv_heads * head_dim] */
    float *mixed;      /* [T][heads * head_dim]: attention's output */
    float *gate;       /* [T][intermediate] */
    float *up;         /* [T][intermediate] */
    float *rows;       /* [threads][row_stride]: one decoded embedding row each */
    size_t row_stride;
    float *attention_scratch; /* [threads][attention_stride] */
    size_t attention_stride;
    double attention_seconds; /* spent in attention so far */
    float *frequencies;       /* [head_dim / 2]: rope's inv_freq */
    float *cos, *sin;         /* [max_context][head_dim / 2], filled up to angles_ready */
    uint32_t angles_ready;    /* positions whose angles are known */
    uint8_t *operand_scratch, *product_scratch;
    float *score_hidden; /* [128][hidden], allocated at first use */
    float *logits;       /* [128][vocab], allocated at first use */
};

/* Stochastic rounding draws from one stream per (layer, input, position), the inputs
 * of a layer being 0 q k v, 1 o, 2 gate up, 3 down and the head counting as a layer: the
 * same numbers whatever else is in the batch. */
static inline uint64_t mx_forward_stream(uint32_t layer, uint32_t input, uint32_t position)
{
    return ((uint64_t)layer * 4 + input + 1) << 32 | position;
}

/* Makes the rope frequencies; once per session. */
void mx_forward_init(mx_session *session);

/* Runs the tokens in session->places through all layers. */
void mx_forward_run(mx_session *session);

/* Its parts: tokens to session->hidden; one layer over session->hidden, whose
 * inputs `tap` (may be NULL) sees. False when the tap ended the layer. */
void mx_forward_embed(mx_session *session);
bool mx_forward_layer(mx_session *session, uint32_t layer, mx_tap_fn tap, void *tap_ctx);

/* Final norm and head of the tokens rows [n_rows <= 128]: out [n_rows][vocab]. */
void mx_forward_logits(mx_session *session, const uint32_t *rows, size_t n_rows, float *out);

/* Statistics of session->logits [n_rows][vocab]. */
void mx_forward_stats(mx_session *session, size_t n_rows, mx_row_stats *stats);

#endif

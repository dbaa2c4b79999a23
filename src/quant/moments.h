/*
 * The two halves of calibration below layerwise.h: streams of hidden states, and
 * the second moments of what a projection sees.
 */
#ifndef MX_QUANT_MOMENTS_H
#define MX_QUANT_MOMENTS_H

#include "model/session.h"
#include "quant/calibration.h"
#include "quant/spill.h"

/* ---- streams ------------------------------------------------------------------ */

typedef struct mx_stream_config {
    const mx_windows *windows;
    const char *spill_dir;
    size_t spill_limit;
} mx_stream_config;

/* The inputs of a layer for all windows, advanced layer by layer. */
typedef struct mx_stream {
    mx_model *model; /* borrowed */
    const mx_windows *windows;
    mx_session *session;
    mx_segment *segments; /* [step] */
    mx_spill hidden;      /* float [windows][length][hidden] */
    uint32_t step;        /* windows run together, whatever the threads */
    size_t chunk;         /* their tokens */
} mx_stream;

/* Embeds the windows: hidden is then the input of layer 0. */
mx_status mx_stream_open(mx_model *model, const mx_stream_config *config, mx_stream *out,
                         mx_error *err);
void mx_stream_close(mx_stream *stream);

/* One projection's input x [n][cols], and the streams [n] of stochastic rounding. */
typedef void (*mx_input_fn)(void *ctx, const float *x, const uint64_t *streams, size_t n);

/* Runs `layer` over windows [first, first + step) up to `projection`, whose input
 * `fn` sees: the hidden states stay. */
mx_status mx_stream_tap(mx_stream *stream, uint32_t layer, mx_projection projection, uint32_t first,
                        mx_input_fn fn, void *ctx, mx_error *err);
/* Runs `layer` over all windows: hidden becomes its output. */
mx_status mx_stream_advance(mx_stream *stream, uint32_t layer, mx_error *err);

/* ---- moments ------------------------------------------------------------------- */

/* Sums in double, chunk after chunk in the order given; means after finish. */
typedef struct mx_moments {
    size_t n_cols;
    mx_quant activations;      /* how the run-time quantizes the inputs */
    const mx_backend *backend; /* borrowed */
    size_t n_tokens;
    double *hessian; /* [n_cols][n_cols] */
    float *cast;     /* [threads][n_cols] */
    double *x;       /* [block of tokens][n_cols] */
} mx_moments;

mx_status mx_moments_init(mx_moments *moments, size_t n_cols, const mx_quant *activations,
                          const mx_backend *backend, mx_error *err);
void mx_moments_clear(mx_moments *moments); /* idempotent */

/* For mx_stream_tap. */
void mx_moments_add(void *moments, const float *x, const uint64_t *streams, size_t n);
void mx_moments_finish(mx_moments *moments);

#endif

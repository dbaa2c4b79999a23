/*
 * One decoder layer in fp32, forward and backward, for methods that learn its
 * weights. The arithmetic is that of model/llama.c up to rounding: projections see
 * inputs quantized as at run time, but products are fp32 sums of BLAS. Rounding an
 * input has the derivative of leaving it alone (the straight-through estimator,
 * Bengio et al., 2013).
 *
 * T tokens are whole windows of `length` tokens, each from position 0. Bits do not
 * depend on the team; they may on the processor, as linalg.h says.
 */
#ifndef MX_QUANT_LAYER_PASS_H
#define MX_QUANT_LAYER_PASS_H

#include "model/model.h"

enum { MX_NORM_ATTENTION, MX_NORM_MLP, MX_NORM_COUNT };

/* What a layer computes with; everything is borrowed. */
typedef struct mx_layer_params {
    uint32_t index;                      /* of the layer: a key of stochastic rounding */
    const float *weights[MX_PROJ_COUNT]; /* [out][in] of model/model.h */
    const float *biases[MX_PROJ_COUNT];  /* [out], or NULL */
    mx_quant activations[MX_PROJ_COUNT]; /* of each projection's input */
    const float *norms[MX_NORM_COUNT];   /* [hidden] */
} mx_layer_params;

/* Derivatives of a loss; each may be NULL: not wanted. Overwritten, not added to. */
typedef struct mx_layer_gradients {
    float *weights[MX_PROJ_COUNT]; /* [out][in] */
    float *norms[MX_NORM_COUNT];   /* [hidden] */
    float *x;                      /* [T][hidden]: of the layer's input */
} mx_layer_gradients;

/* The inputs of a layer's projections, and what the backward pass needs of one
 * forward pass. */
typedef struct mx_layer_pass {
    const mx_llama_config *config; /* borrowed, as the backend */
    const mx_backend *backend;
    uint32_t length;              /* tokens of a window */
    size_t n_tokens;              /* T of the last forward pass */
    float *arena;                 /* everything below */
    float *cos, *sin;             /* [length][head_dim / 2] */
    float *sin_back;              /* -sin: the rotation back */
    float *normed[MX_NORM_COUNT]; /* [T][hidden] */
    float *q, *k, *v;             /* [T][heads * head_dim], [T][kv_heads * head_dim]; rotated */
    float *log_sums;              /* [T][heads]: softmax's log of the sum of exponentials */
    float *row_scales;            /* [T]: 1 / rms of a norm's input */
    float *mixed;                 /* [T][heads * head_dim]: attention's output */
    float *middle;                /* [T][hidden]: after attention */
    float *gate, *up;             /* [T][intermediate] */
    float *gated;                 /* [T][intermediate]: silu(gate) * up */
    float *cast[4];               /* the four inputs of projections, quantized */
    float *d_wide[2];             /* [T][intermediate]: derivatives */
    float *d_gated;               /* [T][intermediate] */
    float *d_mixed;               /* [T][heads * head_dim] */
    float *d_q, *d_k, *d_v;       /* as q, k, v */
    float *d_normed;              /* [T][hidden] */
    float *d_middle;              /* [T][hidden] */
    float *scores;                /* [threads][2][MX_SCORE_ROWS][length] */
} mx_layer_pass;

/* Rows of queries whose scores are held together. */
enum { MX_SCORE_ROWS = 128 };

/* Room for up to `max_windows` windows. */
mx_status mx_layer_pass_init(mx_layer_pass *pass, const mx_llama_config *config,
                             const mx_backend *backend, uint32_t max_windows, uint32_t length,
                             mx_error *err);
void mx_layer_pass_clear(mx_layer_pass *pass); /* idempotent */

/* y [T][hidden] = layer(x [T][hidden]), T = n_windows * length. */
void mx_layer_pass_forward(mx_layer_pass *pass, const mx_layer_params *params, const float *x,
                           uint32_t n_windows, float *y);

/* Derivatives from d_y [T][hidden], that of the output of the last forward pass,
 * which had the same params and x. */
void mx_layer_pass_backward(mx_layer_pass *pass, const mx_layer_params *params, const float *x,
                            const float *d_y, const mx_layer_gradients *out);

/* ---- its parts (layer_attention.c) ------------------------------------------- */

/* mixed and log_sums from q, k, v. */
void mx_layer_attention_forward(mx_layer_pass *pass);
/* d_q, d_k, d_v (of the rotated ones) from d_mixed. */
void mx_layer_attention_backward(mx_layer_pass *pass);

#endif

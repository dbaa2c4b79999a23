#include "quant/layer_pass.h"

#include "model/forward.h"
#include "model/rope.h"
#include "quant/linalg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TOKEN_GRAIN = 8, COLUMN_GRAIN = 64 };

/* The inputs of a layer: those of q k v, o, gate up, down. */
enum { INPUT_ATTENTION, INPUT_MIXED, INPUT_MLP, INPUT_GATED, INPUT_COUNT };
static const uint8_t input_of[MX_PROJ_COUNT] = {
    [MX_PROJ_Q] = INPUT_ATTENTION, [MX_PROJ_K] = INPUT_ATTENTION, [MX_PROJ_V] = INPUT_ATTENTION,
    [MX_PROJ_O] = INPUT_MIXED,     [MX_PROJ_GATE] = INPUT_MLP,    [MX_PROJ_UP] = INPUT_MLP,
    [MX_PROJ_DOWN] = INPUT_GATED,
};

static size_t head_width(const mx_llama_config *config)
{
    return (size_t)config->heads * config->head_dim;
}

static size_t input_width(const mx_llama_config *config, int input)
{
    return input == INPUT_MIXED   ? head_width(config)
           : input == INPUT_GATED ? config->intermediate
                                  : config->hidden;
}

/* ---- memory -------------------------------------------------------------------- */

/* Hands out the next n floats of an arena; only counts while base is NULL. */
static float *carve(float *base, size_t *used, size_t n)
{
    float *part = base != NULL ? base + *used : NULL;
    *used += (n + 15) / 16 * 16;
    return part;
}

static size_t carve_all(mx_layer_pass *pass, float *base, size_t tokens)
{
    const mx_llama_config *config = pass->config;
    size_t used = 0, hidden = tokens * config->hidden, wide = tokens * config->intermediate;
    size_t heads = tokens * head_width(config);
    size_t kv = tokens * config->kv_heads * config->head_dim;
    size_t angles = (size_t)pass->length * (config->head_dim / 2);
    size_t threads = (size_t)mx_team_size(pass->backend->team);
    pass->cos = carve(base, &used, angles);
    pass->sin = carve(base, &used, angles);
    pass->sin_back = carve(base, &used, angles);
    pass->normed[MX_NORM_ATTENTION] = carve(base, &used, hidden);
    pass->normed[MX_NORM_MLP] = carve(base, &used, hidden);
    pass->q = carve(base, &used, heads);
    pass->k = carve(base, &used, kv);
    pass->v = carve(base, &used, kv);
    pass->log_sums = carve(base, &used, tokens * config->heads);
    pass->row_scales = carve(base, &used, tokens);
    pass->mixed = carve(base, &used, heads);
    pass->middle = carve(base, &used, hidden);
    pass->gate = carve(base, &used, wide);
    pass->up = carve(base, &used, wide);
    pass->gated = carve(base, &used, wide);
    for (int i = 0; i < INPUT_COUNT; i++) {
        pass->cast[i] = carve(base, &used, tokens * input_width(config, i));
    }
    pass->d_wide[0] = carve(base, &used, wide);
    pass->d_wide[1] = carve(base, &used, wide);
    pass->d_gated = carve(base, &used, wide);
    pass->d_mixed = carve(base, &used, heads);
    pass->d_q = carve(base, &used, heads);
    pass->d_k = carve(base, &used, kv);
    pass->d_v = carve(base, &used, kv);
    pass->d_normed = carve(base, &used, hidden);
    pass->d_middle = carve(base, &used, hidden);
    pass->scores = carve(base, &used, threads * 2 * MX_SCORE_ROWS * pass->length);
    return used;
}

static mx_status make_angles(mx_layer_pass *pass, mx_error *err)
{
    const mx_llama_config *config = pass->config;
    size_t half = config->head_dim / 2;
    float *frequencies = malloc(half * sizeof *frequencies);
    if (frequencies == NULL) {
        return mx_error_nomem(err, "rope frequencies", half * sizeof *frequencies);
    }
    mx_rope_frequencies(&config->rope, config->head_dim, frequencies);
    for (uint32_t p = 0; p < pass->length; p++) {
        mx_rope_angles(frequencies, config->head_dim, p, pass->cos + p * half,
                       pass->sin + p * half);
    }
    for (size_t i = 0; i < pass->length * half; i++) {
        pass->sin_back[i] = -pass->sin[i];
    }
    free(frequencies);
    return MX_OK;
}

mx_status mx_layer_pass_init(mx_layer_pass *pass, const mx_llama_config *config,
                             const mx_backend *backend, uint32_t max_windows, uint32_t length,
                             mx_error *err)
{
    *pass = (mx_layer_pass){.config = config, .backend = backend, .length = length};
    size_t tokens = (size_t)max_windows * length, floats = carve_all(pass, NULL, tokens);
    pass->arena = aligned_alloc(64, floats * sizeof(float));
    if (pass->arena == NULL) {
        return mx_error_nomem(err, "a layer's intermediate results", floats * sizeof(float));
    }
    carve_all(pass, pass->arena, tokens);
    mx_status status = make_angles(pass, err);
    if (status != MX_OK) {
        mx_layer_pass_clear(pass);
    }
    return status;
}

void mx_layer_pass_clear(mx_layer_pass *pass)
{
    free(pass->arena);
    *pass = (mx_layer_pass){0};
}

/* ---- loops over tokens --------------------------------------------------------- */

/* What a loop sees; its meaning of the arrays is its own. */
typedef struct loop {
    mx_layer_pass *pass;
    const float *x, *d_y; /* [T][n] */
    const float *weight;  /* [n] */
    float *out;           /* [T][n] or [n] */
    size_t n;
    const mx_quant *quant;
    uint32_t index, input;
    const float *sin;
    float *q, *k;
} loop;

static void for_tokens(loop *l, mx_range_fn fn)
{
    mx_team_for(l->pass->backend->team, l->pass->n_tokens, TOKEN_GRAIN, fn, l);
}

static void norm_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const loop *l = ctx;
    for (size_t t = begin; t < end; t++) {
        l->pass->backend->kernels.rms_norm(l->x + t * l->n, l->weight, l->pass->config->norm_eps,
                                           l->n, l->out + t * l->n);
    }
}

static void cast_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const loop *l = ctx;
    for (size_t t = begin; t < end; t++) {
        uint32_t position = (uint32_t)(t % l->pass->length);
        l->pass->backend->kernels.row_cast(l->quant, l->x + t * l->n, l->n,
                                           mx_forward_stream(l->index, l->input, position),
                                           l->out + t * l->n);
    }
}

static void bias_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const loop *l = ctx;
    for (size_t t = begin; t < end; t++) {
        memcpy(l->out + t * l->n, l->weight, l->n * sizeof(float));
    }
}

/* Rotates q and k, or their derivatives back. */
static void rope_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const loop *l = ctx;
    const mx_llama_config *config = l->pass->config;
    size_t dim = config->head_dim, half = dim / 2;
    for (size_t t = begin; t < end; t++) {
        size_t at = t % l->pass->length * half;
        l->pass->backend->kernels.rope(l->q + t * config->heads * dim, config->heads, dim,
                                       l->pass->cos + at, l->sin + at);
        l->pass->backend->kernels.rope(l->k + t * config->kv_heads * dim, config->kv_heads, dim,
                                       l->pass->cos + at, l->sin + at);
    }
}

static void rope(mx_layer_pass *pass, float *q, float *k, const float *sin)
{
    loop l = {.pass = pass, .q = q, .k = k, .sin = sin};
    for_tokens(&l, rope_range);
}

/* out = x + out */
static void add_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const loop *l = ctx;
    l->pass->backend->kernels.add(l->x + begin * l->n, (end - begin) * l->n, l->out + begin * l->n);
}

static void silu_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const loop *l = ctx;
    mx_layer_pass *pass = l->pass;
    size_t n = pass->config->intermediate, at = begin * n;
    pass->backend->kernels.silu_mul(pass->gate + at, pass->up + at, (end - begin) * n,
                                    pass->gated + at);
}

/* From d_gated to those of gate and up. */
static void silu_back_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const loop *l = ctx;
    mx_layer_pass *pass = l->pass;
    size_t n = pass->config->intermediate;
    for (size_t i = begin * n; i < end * n; i++) {
        float g = pass->gate[i], d = pass->d_gated[i];
        float sigmoid = 1 / (1 + expf(-g)), silu = g * sigmoid;
        pass->d_wide[0][i] = d * pass->up[i] * (sigmoid + silu * (1 - sigmoid));
        pass->d_wide[1][i] = d * silu;
    }
}

/* ---- norms, backward ------------------------------------------------------------ */

/* 1 / rms of a row, and in `*inner` the mean of x_i w_i d_i. */
static float row_scale(const loop *l, size_t t, float *inner)
{
    const float *x = l->x + t * l->n, *d = l->d_y + t * l->n;
    double squares = 0, sum = 0;
    for (size_t i = 0; i < l->n; i++) {
        squares += (double)x[i] * x[i];
        sum += (double)x[i] * l->weight[i] * d[i];
    }
    *inner = (float)(sum / (double)l->n);
    return (float)(1 / sqrt(squares / (double)l->n + (double)l->pass->config->norm_eps));
}

/* out += r w d - x r^3 mean(x w d): the derivative of x r w, r = 1 / rms(x). */
static void norm_back_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const loop *l = ctx;
    for (size_t t = begin; t < end; t++) {
        const float *x = l->x + t * l->n, *d = l->d_y + t * l->n;
        float inner, r = row_scale(l, t, &inner), back = r * r * r * inner;
        for (size_t i = 0; i < l->n; i++) {
            l->out[t * l->n + i] += r * l->weight[i] * d[i] - back * x[i];
        }
    }
}

/* out[i] = sum over tokens of d_i x_i r: columns are split, so that each sum has one
 * order. */
static void norm_weight_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const loop *l = ctx;
    memset(l->out + begin, 0, (end - begin) * sizeof(float));
    for (size_t t = 0; t < l->pass->n_tokens; t++) {
        const float *x = l->x + t * l->n, *d = l->d_y + t * l->n;
        float r = l->pass->row_scales[t];
        for (size_t i = begin; i < end; i++) {
            l->out[i] += d[i] * (x[i] * r);
        }
    }
}

static void norm_scale_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const loop *l = ctx;
    for (size_t t = begin; t < end; t++) {
        float inner;
        l->pass->row_scales[t] = row_scale(l, t, &inner);
    }
}

/* d_x += through the norm whose output has the derivative d_normed; d_weight
 * (may be NULL) is overwritten. */
static void norm_backward(mx_layer_pass *pass, const float *x, const float *weight, float *d_x,
                          float *d_weight)
{
    size_t n = pass->config->hidden;
    loop l = {.pass = pass, .x = x, .d_y = pass->d_normed, .weight = weight, .n = n};
    if (d_weight != NULL) {
        for_tokens(&l, norm_scale_range);
        l.out = d_weight;
        mx_team_for(pass->backend->team, n, COLUMN_GRAIN, norm_weight_range, &l);
    }
    if (d_x != NULL) {
        l.out = d_x;
        for_tokens(&l, norm_back_range);
    }
}

/* ---- projections ------------------------------------------------------------------ */

/* The input that a projection sees: raw, or quantized. */
static const float *projection_input(const mx_layer_pass *pass, const mx_layer_params *params,
                                     mx_projection p)
{
    const float *const raw[INPUT_COUNT] = {pass->normed[MX_NORM_ATTENTION], pass->mixed,
                                           pass->normed[MX_NORM_MLP], pass->gated};
    int input = input_of[p];
    return mx_quant_is_none(&params->activations[p]) ? raw[input] : pass->cast[input];
}

/* Quantizes input x [T][n] if any of its projections asks for it. */
static void cast_input(mx_layer_pass *pass, const mx_layer_params *params, int input,
                       const float *x)
{
    for (int p = 0; p < MX_PROJ_COUNT; p++) {
        if (input_of[p] == input && !mx_quant_is_none(&params->activations[p])) {
            loop l = {.pass = pass,
                      .x = x,
                      .out = pass->cast[input],
                      .n = input_width(pass->config, input),
                      .quant = &params->activations[p],
                      .index = params->index,
                      .input = (uint32_t)input};
            for_tokens(&l, cast_range);
            return;
        }
    }
}

/* y [T][rows] = input * W^T + bias */
static void project(mx_layer_pass *pass, const mx_layer_params *params, mx_projection p, float *y)
{
    size_t rows, cols;
    mx_projection_shape(pass->config, p, &rows, &cols);
    bool biased = params->biases[p] != NULL;
    if (biased) {
        loop l = {.pass = pass, .weight = params->biases[p], .out = y, .n = rows};
        for_tokens(&l, bias_range);
    }
    mx_linalg_sgemm_team(pass->backend->team, &(mx_sgemm){.transpose_b = true,
                                                          .m = pass->n_tokens,
                                                          .n = rows,
                                                          .k = cols,
                                                          .alpha = 1,
                                                          .a = projection_input(pass, params, p),
                                                          .lda = cols,
                                                          .b = params->weights[p],
                                                          .ldb = cols,
                                                          .beta = biased ? 1.0F : 0.0F,
                                                          .c = y,
                                                          .ldc = rows});
}

/* From d_y [T][rows]: the weights' derivative, and d_x [T][cols] = or += d_y W. */
static void project_backward(mx_layer_pass *pass, const mx_layer_params *params, mx_projection p,
                             const float *d_y, const mx_layer_gradients *out, bool add, float *d_x)
{
    size_t rows, cols;
    mx_projection_shape(pass->config, p, &rows, &cols);
    mx_sgemm weight = {.transpose_a = true,
                       .m = rows,
                       .n = cols,
                       .k = pass->n_tokens,
                       .alpha = 1,
                       .a = d_y,
                       .lda = rows,
                       .b = projection_input(pass, params, p),
                       .ldb = cols,
                       .c = out->weights[p],
                       .ldc = cols};
    mx_sgemm input = {.m = pass->n_tokens,
                      .n = cols,
                      .k = rows,
                      .alpha = 1,
                      .a = d_y,
                      .lda = rows,
                      .b = params->weights[p],
                      .ldb = cols,
                      .beta = add ? 1.0F : 0.0F,
                      .c = d_x,
                      .ldc = cols};
    if (out->weights[p] != NULL) {
        mx_linalg_sgemm_team(pass->backend->team, &weight);
    }
    mx_linalg_sgemm_team(pass->backend->team, &input);
}

/* ---- the layer ---------------------------------------------------------------------- */

static void norm_forward(mx_layer_pass *pass, const mx_layer_params *params, int norm, int input,
                         const float *x)
{
    loop l = {.pass = pass,
              .x = x,
              .weight = params->norms[norm],
              .out = pass->normed[norm],
              .n = pass->config->hidden};
    for_tokens(&l, norm_range);
    cast_input(pass, params, input, pass->normed[norm]);
}

static void add_residual(mx_layer_pass *pass, const float *x, float *inout)
{
    loop l = {.pass = pass, .x = x, .out = inout, .n = pass->config->hidden};
    for_tokens(&l, add_range);
}

void mx_layer_pass_forward(mx_layer_pass *pass, const mx_layer_params *params, const float *x,
                           uint32_t n_windows, float *y)
{
    pass->n_tokens = (size_t)n_windows * pass->length;
    norm_forward(pass, params, MX_NORM_ATTENTION, INPUT_ATTENTION, x);
    project(pass, params, MX_PROJ_Q, pass->q);
    project(pass, params, MX_PROJ_K, pass->k);
    project(pass, params, MX_PROJ_V, pass->v);
    rope(pass, pass->q, pass->k, pass->sin);
    mx_layer_attention_forward(pass);
    cast_input(pass, params, INPUT_MIXED, pass->mixed);
    project(pass, params, MX_PROJ_O, pass->middle);
    add_residual(pass, x, pass->middle);

    norm_forward(pass, params, MX_NORM_MLP, INPUT_MLP, pass->middle);
    project(pass, params, MX_PROJ_GATE, pass->gate);
    project(pass, params, MX_PROJ_UP, pass->up);
    loop l = {.pass = pass};
    for_tokens(&l, silu_range);
    cast_input(pass, params, INPUT_GATED, pass->gated);
    project(pass, params, MX_PROJ_DOWN, y);
    add_residual(pass, pass->middle, y);
}

/* d_middle from d_y. */
static void mlp_backward(mx_layer_pass *pass, const mx_layer_params *params, const float *d_y,
                         const mx_layer_gradients *out)
{
    project_backward(pass, params, MX_PROJ_DOWN, d_y, out, false, pass->d_gated);
    loop l = {.pass = pass};
    for_tokens(&l, silu_back_range);
    project_backward(pass, params, MX_PROJ_GATE, pass->d_wide[0], out, false, pass->d_normed);
    project_backward(pass, params, MX_PROJ_UP, pass->d_wide[1], out, true, pass->d_normed);
    memcpy(pass->d_middle, d_y, pass->n_tokens * pass->config->hidden * sizeof(float));
    norm_backward(pass, pass->middle, params->norms[MX_NORM_MLP], pass->d_middle,
                  out->norms[MX_NORM_MLP]);
}

static void attention_backward(mx_layer_pass *pass, const mx_layer_params *params, const float *x,
                               const mx_layer_gradients *out)
{
    project_backward(pass, params, MX_PROJ_O, pass->d_middle, out, false, pass->d_mixed);
    mx_layer_attention_backward(pass);
    rope(pass, pass->d_q, pass->d_k, pass->sin_back);
    project_backward(pass, params, MX_PROJ_Q, pass->d_q, out, false, pass->d_normed);
    project_backward(pass, params, MX_PROJ_K, pass->d_k, out, true, pass->d_normed);
    project_backward(pass, params, MX_PROJ_V, pass->d_v, out, true, pass->d_normed);
    if (out->x != NULL) {
        memcpy(out->x, pass->d_middle, pass->n_tokens * pass->config->hidden * sizeof(float));
    }
    norm_backward(pass, x, params->norms[MX_NORM_ATTENTION], out->x, out->norms[MX_NORM_ATTENTION]);
}

void mx_layer_pass_backward(mx_layer_pass *pass, const mx_layer_params *params, const float *x,
                            const float *d_y, const mx_layer_gradients *out)
{
    mlp_backward(pass, params, d_y, out);
    attention_backward(pass, params, x, out);
}

/* The scalar reference of norms, attention and element-wise steps. */
#include "kernel/kernel_ref.h"

#include "format/dtype.h"
#include "kernel/exp_constants.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { LANES = 16 };

float mx_exp(float x)
{
    /* Written so that NaN falls through both tests. */
    x = x < MX_EXP_LOWEST ? MX_EXP_LOWEST : x;
    x = x > MX_EXP_HIGHEST ? MX_EXP_HIGHEST : x;
    if (isnan(x)) {
        return x; /* n below would be no integer */
    }
    float n = fmaf(x, MX_EXP_LOG2E, MX_EXP_ROUNDER) - MX_EXP_ROUNDER;
    float r = fmaf(n, -MX_EXP_LN2_HIGH, x);
    r = fmaf(n, -MX_EXP_LN2_LOW, r);
    float p = fmaf(MX_EXP_C6, r, MX_EXP_C5);
    p = fmaf(p, r, MX_EXP_C4);
    p = fmaf(p, r, MX_EXP_C3);
    p = fmaf(p, r, MX_EXP_C2);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    return ldexpf(p, (int)n); /* one rounding, where the result is subnormal */
}

/* Folds 16 lanes to one sum, in the order of kernel.h. */
static float fold(float *lanes)
{
    for (size_t half = LANES / 2; half > 0; half /= 2) {
        for (size_t j = 0; j < half; j++) {
            lanes[j] += lanes[j + half];
        }
    }
    return lanes[0];
}

static double fold_double(double *lanes)
{
    for (size_t half = LANES / 2; half > 0; half /= 2) {
        for (size_t j = 0; j < half; j++) {
            lanes[j] += lanes[j + half];
        }
    }
    return lanes[0];
}

void mx_ref_rms_norm(const float *x, const float *w, float eps, size_t n, float *out)
{
    float lanes[LANES] = {0};
    for (size_t i = 0; i < n; i++) {
        lanes[i % LANES] = fmaf(x[i], x[i], lanes[i % LANES]);
    }
    float r = 1.0f / sqrtf(fold(lanes) / (float)n + eps);
    for (size_t i = 0; i < n; i++) {
        out[i] = (x[i] * r) * w[i];
    }
}

void mx_ref_rope(float *x, size_t n_heads, size_t head_dim, const float *cos, const float *sin)
{
    size_t half = head_dim / 2;
    for (size_t h = 0; h < n_heads; h++) {
        float *a = x + h * head_dim, *b = a + half;
        for (size_t i = 0; i < half; i++) {
            float rotated = a[i] * cos[i] - b[i] * sin[i];
            b[i] = b[i] * cos[i] + a[i] * sin[i];
            a[i] = rotated;
        }
    }
}

/* Element `at` of stored keys or values. */
static float kv_element(const mx_attention *p, const void *stored, size_t at)
{
    if (p->kv_type == MX_KV_BF16) {
        return mx_bf16_to_f32(((const uint16_t *)stored)[at]);
    }
    return ((const float *)stored)[at];
}

/* Scores of q [head_dim] and keys [begin, end), a block; returns the largest, or
 * `max` when that is larger. */
static float block_scores(const mx_attention *p, const float *q, size_t begin, size_t end,
                          float max, float *scores)
{
    for (size_t j = begin; j < end; j++) {
        size_t first = j / LANES * p->head_dim * LANES + j % LANES;
        float dot = 0;
        for (size_t d = 0; d < p->head_dim; d++) {
            dot = fmaf(q[d], kv_element(p, p->k, first + d * LANES), dot);
        }
        scores[j - begin] = p->scale * dot;
        max = scores[j - begin] > max ? scores[j - begin] : max;
    }
    return max;
}

/* One head of one token, which sees n_keys; out [head_dim] rests the sums. */
static void attention_row(const mx_attention *p, const float *q, size_t n_keys, float *out)
{
    float max = -FLT_MAX, lanes[LANES] = {0}, weights[MX_ATTENTION_BLOCK];
    memset(out, 0, p->head_dim * sizeof *out);
    for (size_t begin = 0; begin < n_keys; begin += MX_ATTENTION_BLOCK) {
        size_t rest = n_keys - begin, n = rest < MX_ATTENTION_BLOCK ? rest : MX_ATTENTION_BLOCK;
        float before = max;
        max = block_scores(p, q, begin, begin + n, max, weights);
        float factor = mx_exp(before - max);
        for (size_t i = 0; i < LANES; i++) {
            lanes[i] *= factor;
        }
        for (size_t j = 0; j < n; j++) {
            weights[j] = mx_exp(weights[j] - max);
            lanes[j % LANES] += weights[j];
        }
        for (size_t d = 0; d < p->head_dim; d++) {
            float mixed = out[d] * factor;
            for (size_t j = 0; j < n; j++) {
                float value = kv_element(p, p->v, (begin + j) * p->head_dim + d);
                mixed = fmaf(weights[j], value, mixed);
            }
            out[d] = mixed;
        }
    }
    float sum = fold(lanes);
    for (size_t d = 0; d < p->head_dim; d++) {
        out[d] /= sum;
    }
}

void mx_ref_attention(const mx_attention *p)
{
    for (size_t t = 0; t < p->n_tokens; t++) {
        for (size_t h = 0; h < p->n_heads; h++) {
            size_t at = t * p->stride + h * p->head_dim;
            attention_row(p, p->q + at, p->n_keys + t, p->out + at);
        }
    }
}

void mx_ref_silu_mul(const float *g, const float *u, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++) {
        out[i] = (g[i] / (1.0f + mx_exp(-g[i]))) * u[i];
    }
}

void mx_ref_add(const float *x, size_t n, float *inout)
{
    for (size_t i = 0; i < n; i++) {
        inout[i] += x[i];
    }
}

void mx_ref_row_stats(const float *x, size_t n, mx_row_stats *stats)
{
    *stats = (mx_row_stats){.max = -INFINITY};
    for (size_t i = 0; i < n; i++) {
        if (x[i] > stats->max) {
            stats->max = x[i];
            stats->argmax = (uint32_t)i;
        }
    }
    double lanes[LANES] = {0};
    for (size_t i = 0; i < n; i++) {
        lanes[i % LANES] += (double)mx_exp(x[i] - stats->max);
    }
    stats->sum_exp = fold_double(lanes);
}

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

float mx_exp2_weight(float s, float m)
{
    bool near = fabsf(m) < MX_EXP2_NEAR;
    float x = near ? s : s - m, rest = near ? m : 0;
    x = x < rest + MX_EXP2_LOWEST ? rest + MX_EXP2_LOWEST : x;
    if (isnan(x)) {
        return x; /* n below would be no integer */
    }
    float shift = MX_EXP_ROUNDER - rest, shifted = x + shift, r = x - (shifted - shift);
    float p = fmaf(MX_EXP2_C3, r, MX_EXP2_C2);
    p = fmaf(p, r, MX_EXP2_C1);
    return ldexpf(fmaf(p, r, 1.0f), (int)(shifted - MX_EXP_ROUNDER));
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

/* ---- attention ------------------------------------------------------------- */

uint16_t mx_bf16_operand(float x)
{
    uint16_t rounded = mx_f32_to_bf16(x);
    return (rounded & 0x7FFF) < MX_BF16_LEAST ? 0 : rounded;
}

/* Pair sum, from `sum`, of b(factor * a[i]) [n] and pairs of stored bf16, `stride` apart. */
static float pair_sum(float sum, const float *a, float factor, const uint16_t *pairs, size_t stride,
                      size_t n)
{
    for (size_t first = 0; first < n; first += MX_PAIR_GROUP) {
        size_t end = n - first < MX_PAIR_GROUP ? n : first + MX_PAIR_GROUP;
        float chains[2] = {0, 0};
        for (size_t i = first; i < end; i++) {
            float x = mx_bf16_to_f32(mx_bf16_operand(a[i] * factor));
            chains[i % 2] = fmaf(x, mx_bf16_to_f32(pairs[i / 2 * stride + i % 2]), chains[i % 2]);
        }
        sum = sum + (chains[0] + chains[1]);
    }
    return sum;
}

/* s of the contract: q [head_dim] and key j. */
static float key_score(const mx_attention *p, const float *q, size_t j)
{
    if (p->kv_type == MX_KV_BF16) {
        const uint16_t *k = p->k;
        return pair_sum(0, q, p->scale * MX_EXP_LOG2E,
                        k + j / LANES * p->head_dim * LANES + j % LANES * 2, 2 * LANES,
                        p->head_dim);
    }
    const float *k = (const float *)p->k + j / LANES * p->head_dim * LANES + j % LANES;
    float dot = 0;
    for (size_t d = 0; d < p->head_dim; d++) {
        dot = fmaf(q[d], k[d * LANES], dot);
    }
    return p->scale * dot;
}

/* a of the contract, mixed so far, and values [begin, begin + n) times their weights:
 * dimension d. `begin` is even. */
static float value_mix(const mx_attention *p, float mixed, const float *weights, size_t begin,
                       size_t n, size_t d)
{
    if (p->kv_type == MX_KV_BF16) {
        const uint16_t *v = (const uint16_t *)p->v + (begin * p->head_dim + 2 * d);
        return pair_sum(mixed, weights, 1, v, 2 * p->head_dim, n);
    }
    const float *v = (const float *)p->v + begin * p->head_dim + d;
    for (size_t j = 0; j < n; j++) {
        mixed = fmaf(weights[j], v[j * p->head_dim], mixed);
    }
    return mixed;
}

/* Scores [n] to weights; m of the contract becomes m'. Returns c. */
static float scores_to_weights(const mx_attention *p, float *scores, size_t n, float *m)
{
    float top = -INFINITY, before = *m;
    for (size_t j = 0; j < n; j++) {
        top = scores[j] > top ? scores[j] : top;
    }
    if (p->kv_type == MX_KV_BF16) {
        *m = top > before + MX_EXP2_REACH ? ceilf(top) : before;
        for (size_t j = 0; j < n; j++) {
            scores[j] = mx_exp2_weight(scores[j], *m);
        }
        float change = before - *m;
        return *m == before ? 1
                            : ldexpf(1, (int)(change > MX_EXP2_FORGET ? change : MX_EXP2_FORGET));
    }
    *m = top > before ? top : before;
    for (size_t j = 0; j < n; j++) {
        scores[j] = mx_exp(scores[j] - *m);
    }
    return mx_exp(before - *m);
}

/* a [head_dim] of the contract times c. */
static void mix_scale(const mx_attention *p, float c, float *a)
{
    for (size_t d = 0; d < p->head_dim; d++) {
        bool forgotten = p->kv_type == MX_KV_BF16 && c != 1 && fabsf(a[d] * c) < MX_EXP2_FORGOTTEN;
        a[d] = forgotten ? 0 : a[d] * c;
    }
}

/* One head of one token, which sees n_keys; out [head_dim] rests the sums. */
static void attention_row(const mx_attention *p, const float *q, size_t n_keys, float *out)
{
    float max = -FLT_MAX, lanes[LANES] = {0}, weights[MX_ATTENTION_BLOCK];
    memset(out, 0, p->head_dim * sizeof *out);
    for (size_t begin = 0; begin < n_keys; begin += MX_ATTENTION_BLOCK) {
        size_t rest = n_keys - begin, n = rest < MX_ATTENTION_BLOCK ? rest : MX_ATTENTION_BLOCK;
        for (size_t j = 0; j < n; j++) {
            weights[j] = key_score(p, q, begin + j);
        }
        float factor = scores_to_weights(p, weights, n, &max);
        for (size_t i = 0; i < LANES; i++) {
            lanes[i] *= factor;
        }
        for (size_t j = 0; j < n; j++) {
            lanes[j % LANES] += weights[j];
        }
        mix_scale(p, factor, out);
        for (size_t d = 0; d < p->head_dim; d++) {
            out[d] = value_mix(p, out[d], weights, begin, n, d);
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

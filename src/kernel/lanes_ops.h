/*
 * Norm, rotation, softmax statistics and element-wise steps over `lanes`. An ISA's
 * file includes its lanes_<isa>.h, then this, and so gets its own copy.
 */
#ifndef MX_KERNEL_LANES_OPS_H
#define MX_KERNEL_LANES_OPS_H

#include "kernel/kernel.h"
#include "kernel/lanes_exp.h"

#include <math.h>

static void lanes_rms_norm(const float *x, const float *w, float eps, size_t n, float *out)
{
    lanes sum = lanes_set(0);
    size_t whole = n / 16 * 16;
    for (size_t i = 0; i < whole; i += 16) {
        lanes v = lanes_load(x + i);
        sum = lanes_fma(v, v, sum);
    }
    /* Missing lanes add +0 to sums that are never -0. */
    lanes tail = lanes_load_part(x + whole, n - whole);
    sum = lanes_fma(tail, tail, sum);
    float r = 1.0f / sqrtf(lanes_fold(sum) / (float)n + eps);
    for (size_t i = 0; i < whole; i += 16) {
        lanes v = lanes_mul(lanes_load(x + i), lanes_set(r));
        lanes_store(out + i, lanes_mul(v, lanes_load(w + i)));
    }
    lanes v = lanes_mul(tail, lanes_set(r));
    v = lanes_mul(v, lanes_load_part(w + whole, n - whole));
    lanes_store_part(out + whole, v, n - whole);
}

static inline void lanes_rotate(lanes *a, lanes *b, lanes cos, lanes sin)
{
    lanes rotated = lanes_sub(lanes_mul(*a, cos), lanes_mul(*b, sin));
    *b = lanes_add(lanes_mul(*b, cos), lanes_mul(*a, sin));
    *a = rotated;
}

static void lanes_rope(float *x, size_t n_heads, size_t head_dim, const float *cos,
                       const float *sin)
{
    size_t half = head_dim / 2;
    for (size_t i = 0; i < half; i += 16) {
        size_t n = half - i < 16 ? half - i : 16;
        lanes c = lanes_load_part(cos + i, n), s = lanes_load_part(sin + i, n);
        for (size_t h = 0; h < n_heads; h++) {
            float *low = x + h * head_dim + i, *high = low + half;
            lanes a = lanes_load_part(low, n), b = lanes_load_part(high, n);
            lanes_rotate(&a, &b, c, s);
            lanes_store_part(low, a, n);
            lanes_store_part(high, b, n);
        }
    }
}

static inline lanes lanes_silu(lanes g, lanes u)
{
    lanes e = lanes_exp(lanes_xor(g, lanes_set(-0.0f)));
    return lanes_mul(lanes_div(g, lanes_add(lanes_set(1.0f), e)), u);
}

static void lanes_silu_mul(const float *g, const float *u, size_t n, float *out)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        lanes_store(out + i, lanes_silu(lanes_load(g + i), lanes_load(u + i)));
    }
    lanes v = lanes_silu(lanes_load_part(g + i, n - i), lanes_load_part(u + i, n - i));
    lanes_store_part(out + i, v, n - i);
}

static void lanes_add_row(const float *x, size_t n, float *inout)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        lanes_store(inout + i, lanes_add(lanes_load(inout + i), lanes_load(x + i)));
    }
    lanes v = lanes_add(lanes_load_part(inout + i, n - i), lanes_load_part(x + i, n - i));
    lanes_store_part(inout + i, v, n - i);
}

/* The largest of x [n], NaN passed over: -Inf when nothing else is there. */
static float lanes_row_max(const float *x, size_t n)
{
    lanes max = lanes_set(-INFINITY);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        max = lanes_max(lanes_load(x + i), max);
    }
    lanes tail = lanes_load_part(x + i, n - i);
    max = lanes_max(lanes_select(lanes_first(n - i), tail, max), max);
    return lanes_fold_max(max);
}

/* The first index of x [n] that equals `value`, 0 when there is none. */
static size_t lanes_row_find(const float *x, size_t n, float value)
{
    for (size_t i = 0; i < n; i += 16) {
        size_t part = n - i < 16 ? n - i : 16;
        lanes_mask same = lanes_equal(lanes_load_part(x + i, part), lanes_set(value));
        uint32_t bits = lanes_mask_bits(same) & ((1u << part) - 1);
        if (bits != 0) {
            return i + (size_t)__builtin_ctz(bits);
        }
    }
    return 0;
}

static void lanes_row_stats(const float *x, size_t n, mx_row_stats *stats)
{
    float max = lanes_row_max(x, n);
    *stats = (mx_row_stats){.max = max};
    if (max > -INFINITY) {
        stats->argmax = (uint32_t)lanes_row_find(x, n, max);
        stats->max = x[stats->argmax]; /* of +0 and -0 the first */
    }
    lanes_double sum = lanes_double_zero();
    for (size_t i = 0; i < n; i += 16) {
        size_t part = n - i < 16 ? n - i : 16;
        lanes e = lanes_exp(lanes_sub(lanes_load_part(x + i, part), lanes_set(max)));
        sum = lanes_double_add(sum, lanes_select(lanes_first(part), e, lanes_set(0)));
    }
    stats->sum_exp = lanes_double_fold(sum);
}

#endif

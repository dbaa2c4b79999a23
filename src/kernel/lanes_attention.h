/*
 * Attention over `lanes`: scores with lanes over 16 key positions, the mix of
 * values with lanes over the head dimension. Heads of the group share the loads of
 * keys and values. Included after lanes_ops.h.
 */
#ifndef MX_KERNEL_LANES_ATTENTION_H
#define MX_KERNEL_LANES_ATTENTION_H

#include "kernel/unroll.h"

static inline size_t attention_stride(const mx_attention *p)
{
    return (p->n_keys + 15) / 16 * 16;
}

/* Scores of n_heads heads from `head` on and n_tiles tiles of 16 keys. */
MX_TEMPLATE void scores_tile(const mx_attention *p, size_t head, size_t tile, int n_heads,
                             int n_tiles)
{
    size_t dim = p->head_dim;
    const float *q = p->q + head * dim, *k = p->k + tile * dim * 16;
    lanes dot[LANES_HEADS][LANES_KEYS];
    MX_UNROLL
    for (int h = 0; h < n_heads; h++) {
        MX_UNROLL
        for (int i = 0; i < n_tiles; i++) {
            dot[h][i] = lanes_set(0);
        }
    }
    for (size_t d = 0; d < dim; d++) {
        lanes key[LANES_KEYS];
        MX_UNROLL
        for (int i = 0; i < n_tiles; i++) {
            key[i] = lanes_load(k + ((size_t)i * dim + d) * 16);
        }
        MX_UNROLL
        for (int h = 0; h < n_heads; h++) {
            lanes query = lanes_set(q[(size_t)h * dim + d]);
            MX_UNROLL
            for (int i = 0; i < n_tiles; i++) {
                dot[h][i] = lanes_fma(query, key[i], dot[h][i]);
            }
        }
    }
    MX_UNROLL
    for (int h = 0; h < n_heads; h++) {
        float *scores = p->scores + (head + (size_t)h) * attention_stride(p) + tile * 16;
        MX_UNROLL
        for (int i = 0; i < n_tiles; i++) {
            lanes_store(scores + i * 16, lanes_mul(lanes_set(p->scale), dot[h][i]));
        }
    }
}

MX_TEMPLATE void scores_heads(const mx_attention *p, size_t head, int n_heads)
{
    size_t n_tiles = attention_stride(p) / 16, tile = 0;
    for (; tile + LANES_KEYS <= n_tiles; tile += LANES_KEYS) {
        scores_tile(p, head, tile, n_heads, LANES_KEYS);
    }
    for (; tile < n_tiles; tile++) {
        scores_tile(p, head, tile, n_heads, 1);
    }
}

/* Scores of one head to weights exp(s - max), not yet divided; returns their sum. */
static float scores_softmax(float *scores, size_t n)
{
    lanes max = lanes_set(lanes_row_max(scores, n)), sum = lanes_set(0);
    for (size_t j = 0; j < n; j += 16) {
        lanes e = lanes_exp(lanes_sub(lanes_load(scores + j), max));
        if (n - j < 16) { /* what lies beyond the last key is not ours to add */
            e = lanes_select(lanes_first(n - j), e, lanes_set(0));
        }
        lanes_store(scores + j, e);
        sum = lanes_add(sum, e);
    }
    return lanes_fold(sum);
}

/* out[d .. d + n_dims) of n_heads heads; n_dims = 16 n_lanes, but for a part. */
MX_TEMPLATE void mix_tile(const mx_attention *p, size_t head, const float *sums, size_t d,
                          size_t part, int n_heads, int n_lanes)
{
    const float *scores = p->scores + head * attention_stride(p);
    lanes mixed[LANES_HEADS][LANES_DIMS];
    MX_UNROLL
    for (int h = 0; h < n_heads; h++) {
        MX_UNROLL
        for (int i = 0; i < n_lanes; i++) {
            mixed[h][i] = lanes_set(0);
        }
    }
    for (size_t j = 0; j < p->n_keys; j++) {
        const float *v = p->v + j * p->head_dim + d;
        lanes value[LANES_DIMS];
        MX_UNROLL
        for (int i = 0; i < n_lanes; i++) {
            value[i] = part < 16 ? lanes_load_part(v, part) : lanes_load(v + i * 16);
        }
        MX_UNROLL
        for (int h = 0; h < n_heads; h++) {
            lanes weight = lanes_set(scores[(size_t)h * attention_stride(p) + j]);
            MX_UNROLL
            for (int i = 0; i < n_lanes; i++) {
                mixed[h][i] = lanes_fma(weight, value[i], mixed[h][i]);
            }
        }
    }
    MX_UNROLL
    for (int h = 0; h < n_heads; h++) {
        float *out = p->out + (head + (size_t)h) * p->head_dim + d;
        MX_UNROLL
        for (int i = 0; i < n_lanes; i++) {
            lanes mean = lanes_div(mixed[h][i], lanes_set(sums[h]));
            lanes_store_part(out + i * 16, mean, part);
        }
    }
}

MX_TEMPLATE void mix_heads(const mx_attention *p, size_t head, const float *sums, int n_heads)
{
    size_t d = 0;
    for (; d + 16 * LANES_DIMS <= p->head_dim; d += 16 * LANES_DIMS) {
        mix_tile(p, head, sums, d, 16, n_heads, LANES_DIMS);
    }
    for (; d + 16 <= p->head_dim; d += 16) {
        mix_tile(p, head, sums, d, 16, n_heads, 1);
    }
    if (d < p->head_dim) {
        mix_tile(p, head, sums, d, p->head_dim - d, n_heads, 1);
    }
}

/* All steps for n_heads (<= LANES_HEADS) heads from `head` on. */
MX_TEMPLATE void attention_heads(const mx_attention *p, size_t head, int n_heads)
{
    float sums[LANES_HEADS];
    scores_heads(p, head, n_heads);
    for (int h = 0; h < n_heads; h++) {
        float *scores = p->scores + (head + (size_t)h) * attention_stride(p);
        sums[h] = scores_softmax(scores, p->n_keys);
    }
    mix_heads(p, head, sums, n_heads);
}

static void lanes_attention(const mx_attention *p)
{
    size_t head = 0;
    for (; head + LANES_HEADS <= p->n_heads; head += LANES_HEADS) {
        attention_heads(p, head, LANES_HEADS);
    }
    switch (p->n_heads - head) {
    case 3:
        attention_heads(p, head, LANES_HEADS < 3 ? LANES_HEADS : 3);
        break;
    case 2:
        attention_heads(p, head, LANES_HEADS < 2 ? LANES_HEADS : 2);
        break;
    case 1:
        attention_heads(p, head, 1);
        break;
    default:
        break;
    }
}

#endif

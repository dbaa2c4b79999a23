/*
 * The rows of attention and their softmax over `lanes`: what the kernels of all
 * storages and of the tile unit share. A row is one query head of one token. Included
 * after an ISA's lanes_<isa>.h.
 */
#ifndef MX_KERNEL_LANES_SOFTMAX_H
#define MX_KERNEL_LANES_SOFTMAX_H

#include "kernel/kernel.h"
#include "kernel/lanes_exp.h"
#include "kernel/unroll.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { MAX_ROWS = 64 }; /* that share a pass over the keys */

/* One query head of one token on its way through the blocks. */
typedef struct attention_row {
    const float *q; /* [head_dim] */
    float *mix;     /* [head_dim]: a of the contract */
    float *out;     /* [head_dim] */
    size_t n_keys;
    float sums[16] __attribute__((aligned(64))); /* z of the contract */
} attention_row;

/* Keys of the block from `begin` on that the row sees: 0 to MX_ATTENTION_BLOCK. */
static inline size_t row_keys(const attention_row *row, size_t begin)
{
    size_t seen = row->n_keys > begin ? row->n_keys - begin : 0;
    return seen < MX_ATTENTION_BLOCK ? seen : MX_ATTENTION_BLOCK;
}

/* Row number `row` of the call, its mix in `mix` [head_dim]. Rows of the output lie a
 * large power of two apart, mixes in scratch share the first-level cache better. */
static inline attention_row row_begin(const mx_attention *p, size_t row, float *mix)
{
    size_t token = row / p->n_heads, at = token * p->stride + row % p->n_heads * p->head_dim;
    attention_row begun = {
        .q = p->q + at, .mix = mix, .out = p->out + at, .n_keys = p->n_keys + token};
    memset(mix, 0, p->head_dim * sizeof *mix);
    return begun;
}

/* out = mix / the sum of its weights. */
static inline void row_end(const attention_row *row, size_t head_dim)
{
    lanes sum = lanes_set(lanes_fold(lanes_load(row->sums)));
    for (size_t d = 0; d < head_dim; d += 16) {
        size_t part = head_dim - d < 16 ? head_dim - d : 16;
        lanes mean = lanes_div(lanes_load_part(row->mix + d, part), sum);
        lanes_store_part(row->out + d, mean, part);
    }
}

/* The largest of scores [n] in each lane, NaN passed over; -Inf where there is none. */
static inline lanes scores_top(const float *scores, size_t n)
{
    lanes top = lanes_set(-INFINITY);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        top = lanes_max(lanes_load(scores + i), top);
    }
    if (i < n) { /* what lies beyond the last key is not ours */
        top = lanes_max(lanes_select(lanes_first(n - i), lanes_load(scores + i), top), top);
    }
    return top;
}

/* m' of the contract with bf16, *max being m: where it moves, so do the row's sums. */
static inline void row_reach(attention_row *row, size_t head_dim, float top, float *max)
{
    if (!(top > *max + MX_EXP2_REACH)) {
        return;
    }
    float before = *max;
    *max = ceilf(top);
    float change = before - *max > MX_EXP2_FORGET ? before - *max : MX_EXP2_FORGET;
    lanes factor = lanes_set_bits((uint32_t)(127 + (int)change) << 23); /* 2^change */
    lanes_store(row->sums, lanes_mul(lanes_load(row->sums), factor));
    lanes size = lanes_set_bits(0x7FFFFFFF), least = lanes_set(MX_EXP2_FORGOTTEN);
    for (size_t d = 0; d < head_dim; d += 16) {
        size_t part = head_dim - d < 16 ? head_dim - d : 16;
        lanes mix = lanes_mul(lanes_load_part(row->mix + d, part), factor);
        mix = lanes_select(lanes_less(lanes_and(mix, size), least), lanes_set(0), mix);
        lanes_store_part(row->mix + d, mix, part);
    }
}

/*
 * Whether every value is finite that a later token of the call sees and the first does
 * not. Then rows may be taken together that see different numbers of keys, bf16: those
 * that a row does not see have the weight 0 and add +0 to its sums, which are never -0.
 */
static inline bool late_values_finite(const mx_attention *p)
{
    const uint16_t *v = p->v;
    bool finite = true;
    for (size_t j = p->n_keys; j < p->n_keys + p->n_tokens - 1; j++) {
        const uint16_t *row = v + j / 2 * p->head_dim * 2 + j % 2;
        for (size_t d = 0; d < p->head_dim; d++) {
            finite &= (row[2 * d] & 0x7F80) != 0x7F80;
        }
    }
    return finite;
}

/* The call's token t by itself. */
static inline mx_attention token_alone(const mx_attention *p, size_t t)
{
    mx_attention lone = *p;
    lone.q += t * p->stride;
    lone.out += t * p->stride;
    lone.n_keys += t;
    lone.n_tokens = 1;
    return lone;
}

#endif

/*
 * A pair of formats with an exact integer product: what the reference and the
 * vector kernels both derive from the two operands.
 */
#ifndef MX_KERNEL_INT_PAIR_H
#define MX_KERNEL_INT_PAIR_H

#include "kernel/kernel.h"

/* Scale byte of a block whose codes are all zero. Its term is +0 whatever the
 * scale, so the layouts store 2^0 and stay inside the range of the fast paths. */
#define MX_SCALE_OF_ZERO MX_E8M0_BIAS

typedef struct mx_int_pair {
    size_t k, block, n_blocks;
    int shift;    /* product of table values * 2^-shift = product of values */
    int dot_bits; /* |block dot| < 2^dot_bits */
} mx_int_pair;

bool mx_int_pair_supported(const mx_quant *weights, const mx_quant *activations, size_t k);

/* The pair must be supported. */
mx_int_pair mx_int_pair_make(const mx_quant *weights, const mx_quant *activations, size_t k);

/* Elements of block b: `block`, fewer in a ragged last one. */
static inline size_t mx_int_pair_length(const mx_int_pair *pair, size_t b)
{
    size_t rest = pair->k - b * pair->block;
    return rest < pair->block ? rest : pair->block;
}

static inline size_t mx_round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static inline size_t mx_min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

#endif

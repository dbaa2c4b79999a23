/*
 * A pair of MX formats with a block product: what the reference and the vector
 * kernels both derive from the two operands.
 *
 * Every element is a whole number of its format's steps, the smallest positive value.
 * So sums of products, rounded or not, are multiples of one power of two: nothing
 * between it and 2^24 of it rounds, and nothing but 0 is smaller.
 */
#ifndef MX_KERNEL_BLOCK_PAIR_H
#define MX_KERNEL_BLOCK_PAIR_H

#include "kernel/kernel.h"

/* Scale byte of a block whose codes are all zero. Its term is +0 whatever the
 * scale, so the layouts store 2^0 and stay inside the range of the fast paths. */
#define MX_SCALE_OF_ZERO MX_E8M0_BIAS

typedef struct mx_block_pair {
    size_t k, block, n_blocks;
    bool is_int;  /* both formats have integer tables: dots are exact */
    int shift;    /* a product of two steps is 2^-shift; of table values: 1 */
    int dot_bits; /* |block dot| <= 2^dot_bits products of two steps */
} mx_block_pair;

/* Significant bits of a format's elements: 1 + mantissa bits, integers without sign. */
int mx_significant_bits(const mx_format *format);

bool mx_block_pair_supported(const mx_quant *weights, const mx_quant *activations, size_t k);

/* True when the dots of a supported pair are exact integers. */
bool mx_block_pair_is_int(const mx_quant *weights, const mx_quant *activations);

/* The pair must be supported. */
mx_block_pair mx_block_pair_make(const mx_quant *weights, const mx_quant *activations, size_t k);

/* Elements of block b: `block`, fewer in a ragged last one. */
static inline size_t mx_block_pair_length(const mx_block_pair *pair, size_t b)
{
    size_t rest = pair->k - b * pair->block;
    return rest < pair->block ? rest : pair->block;
}

/* Places of the smallest and the largest scale byte in a panel or tile of either
 * layout, NaN of tiles not counted. */
enum {
    MX_SCALE_MIN_AT = 0,
    MX_SCALE_MAX_AT = 1,
};

/* Over panels and over tiles; 2^0 lies in both ranges. */
typedef struct mx_scale_range {
    int w_min, w_max, a_min, a_max;
} mx_scale_range;

mx_scale_range mx_scale_range_of(const uint8_t *panels, size_t panel_bytes, size_t n_panels,
                                 const uint8_t *tiles, size_t tile_bytes, size_t n_tiles);

static inline size_t mx_round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static inline size_t mx_min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

#endif

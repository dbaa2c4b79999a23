/* What the exact integer products of many tokens and of few share on AVX2. */
#ifndef MX_KERNEL_LANES_AVX2_INT_H
#define MX_KERNEL_LANES_AVX2_INT_H

#include "kernel/kernel_avx2.h"

#include "kernel/int_layout.h"
#include "kernel/lanes_avx2.h"
#include "kernel/unroll.h"

#include <string.h>

enum { PART_QUADS = 8 }; /* of a block, at most, between two widenings */

/* How weights are multiplied. */
typedef enum weights_kind {
    WEIGHTS_NIBBLES, /* unsigned, sums of up to PART_QUADS quads */
    WEIGHTS_SHORT,   /* bytes of 7 bits: unsigned, sums of two quads */
    WEIGHTS_BYTES,   /* magnitudes, and activations with their signs */
} weights_kind;

/* A product, and what all its panels share. */
typedef struct avx2_product {
    const mx_block_product *product;
    mx_int_layout layout;
    __m256i nibbles; /* code -> value + offset, in both halves */
    weights_kind kind;
    size_t part_quads; /* at most PART_QUADS; nibbles: what 16-bit sums hold */
} avx2_product;

/* Some of `left` panels from `panel` on, of a product of few tokens; returns their number, 0
 * where it does not serve (kernel_avx2_small.c). */
size_t mx_avx2_int_small(const avx2_product *all, size_t panel, size_t left);

MX_TEMPLATE __m256i load_i(const void *p)
{
    return _mm256_load_si256((const __m256i *)p);
}

MX_TEMPLATE void store_i(void *p, __m256i v)
{
    _mm256_store_si256((__m256i *)p, v);
}

MX_TEMPLATE __m256i broadcast_u32(const void *p)
{
    int32_t bits;
    memcpy(&bits, p, sizeof bits);
    return _mm256_set1_epi32(bits);
}

/* The value, of which the compiler knows nothing: it would make trees of sums, and
 * spill most of their leaves. */
MX_TEMPLATE __m256i opaque(__m256i value)
{
    __asm__("" : "+x"(value));
    return value;
}

#endif

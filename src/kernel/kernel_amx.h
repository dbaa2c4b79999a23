/* AMX: its operands (kernel_amx_operands.c) and its products (kernel_amx.c). */
#ifndef MX_KERNEL_KERNEL_AMX_H
#define MX_KERNEL_KERNEL_AMX_H

#include "kernel/kernel_avx512.h"

#include <immintrin.h>

enum {
    MX_AMX_BLOCK = 32,
    MX_AMX_BLOCK_BYTES = 16 * MX_AMX_BLOCK * 2, /* of one operand: a tile register */
};

/*
 * Panels are the AVX-512 kernels'; tiles are theirs with a part added:
 *     rows    bf16 [n_blocks][16 tokens][32]: elements with their scales in them
 * Pairs of exact integer products have elements times 2^-shift there, in every octet in
 * the order 0 2 4 6 1 3 5 7, in which nibbles unpack: their sums are exact in any
 * order. The others have them as they are, even and odd ones in turn.
 */
typedef struct mx_amx_layout {
    mx_block_pair pair;
    /* The AVX-512 kernels' layout, of which one is there, and what both have. Its
     * tile_bytes is that of the whole tile. */
    mx_int_layout ints;
    mx_minifloat_layout minifloats;
    size_t panel_bytes, panel_scales, panel_codes, tile_bytes;
    int top;                 /* the largest scale byte of weights here */
    size_t block_code_bytes; /* of a panel's block of 32 */
    size_t tile_rows;        /* place; 0: none, blocks are no tile operands */
} mx_amx_layout;

mx_amx_layout mx_amx_layout_make(const mx_quant *weights, const mx_quant *activations, size_t k);

/* True when tile registers give the contract's sums for all of the product. */
bool mx_amx_can(const mx_amx_layout *layout, const mx_block_product *product);

/*
 * Weights by table: elements times the largest scale, which scaling down takes from
 * their exponent fields; saturation leaves zeros zero, and there is no -0.
 */
typedef struct mx_amx_tables {
    /* 4-bit codes: bf16, twice over: vpermw looks at 5 bits of an index, so that the
     * lowest one above a nibble needs no masking. */
    __m512i nibbles;
    /* Carriers of minifloats, without their sign: upper and lower bytes of bf16. */
    __m512i high[2], low[2], orders[2];
} mx_amx_tables;
void mx_amx_tables_make(const mx_amx_layout *layout, const mx_format *format,
                        mx_amx_tables *tables);

/* Blocks [first, first + n) of a panel with their scales in them, as the tile unit
 * takes them: pairs of elements, in the order of a tile's rows, by row. What lies
 * `ahead` bytes further on is prefetched; beyond the last panel this does nothing. */
typedef struct mx_amx_block {
    uint8_t pairs[MX_AMX_BLOCK_BYTES] __attribute__((aligned(64))); /* bf16 [16][16 rows][2] */
} mx_amx_block;
void mx_amx_panel_unpack(const mx_amx_layout *layout, const mx_amx_tables *tables,
                         const uint8_t *panel, size_t first, size_t n, size_t ahead,
                         mx_amx_block *blocks);

/* Entries of mx_kernels. */
size_t mx_amx_tile_bytes(const mx_quant *weights, const mx_quant *activations, size_t k);
void mx_amx_tile_pack(const mx_quant *weights, const mx_quant *activations, size_t k,
                      const float *x, size_t x_stride, size_t n_tokens, uint64_t first_stream,
                      uint8_t *tile);

#endif

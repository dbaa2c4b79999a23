/* The AVX-512 kernels, file by file (contracts: kernel/kernel.h). */
#ifndef MX_KERNEL_KERNEL_AVX512_H
#define MX_KERNEL_KERNEL_AVX512_H

#include "kernel/int_layout.h"
#include "kernel/isas.h"
#include "kernel/minifloat_layout.h"

void mx_avx512_int_product(const mx_block_product *product);

/* For kernels that build on these: the product of tiles that are longer than
 * `layout`'s parts of them (its tile_bytes says how long), and making its parts. */
void mx_avx512_int_product_of(const mx_block_product *product, const mx_int_layout *layout);
void mx_avx512_minifloat_product_of(const mx_block_product *product,
                                    const mx_minifloat_layout *layout);
void mx_avx512_tile_pack(const mx_quant *weights, const mx_quant *activations, size_t k,
                         const float *x, size_t x_stride, size_t n_tokens, uint64_t first_stream,
                         uint8_t *tile);

/* attention; and the tile unit's, which leaves what is not for it to this one. */
void mx_avx512_attention(const mx_attention *attention);
void mx_amx_attention(const mx_attention *attention);

#endif

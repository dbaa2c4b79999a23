/* AVX-512: its table. All but the exact integer product is the shared code over lanes. */
#include "kernel/kernel_avx512.h"

#include "kernel/block_layout.h"
#include "kernel/lanes_avx512.h"

#include "kernel/lanes_ops.h"
#include "kernel/lanes_attention.h"
#include "kernel/lanes_bf16.h"
#include "kernel/lanes_f32.h"
#include "kernel/lanes_quant.h"
#include "kernel/lanes_tile.h"
#include "kernel/lanes_minifloat.h"

void mx_avx512_tile_pack(const mx_quant *weights, const mx_quant *activations, size_t k,
                         const float *x, size_t x_stride, size_t n_tokens, uint64_t first_stream,
                         uint8_t *tile)
{
    lanes_block_tile_pack(weights, activations, k, x, x_stride, n_tokens, first_stream, tile);
}

void mx_avx512_minifloat_product_of(const mx_block_product *product,
                                    const mx_minifloat_layout *layout)
{
    lanes_minifloat_product_of(product, layout);
}

static void avx512_block_product(const mx_block_product *product)
{
    if (mx_block_pair_is_int(product->weights, product->activations)) {
        mx_avx512_int_product(product);
    } else {
        lanes_minifloat_product(product);
    }
}

void mx_avx512_attention(const mx_attention *attention)
{
    lanes_attention(attention);
}

void mx_kernels_avx512(mx_kernels *table)
{
    *table = (mx_kernels){
        .name = "avx512",
        .block_supported = mx_block_pair_supported,
        .block_panel_bytes = mx_block_panel_bytes,
        .block_tile_bytes = mx_block_tile_bytes,
        .block_panel_pack = mx_block_panel_pack,
        .block_tile_pack = lanes_block_tile_pack,
        .block_product = avx512_block_product,
        .f32_panel_pack = lanes_f32_panel_pack,
        .bf16_panel_pack = lanes_bf16_panel_pack,
        .f32_tile_pack = lanes_f32_tile_pack,
        .f32_product = lanes_f32_product,
        .bf16_product = lanes_bf16_product,
        .row_cast = lanes_row_cast,
        .rms_norm = lanes_rms_norm,
        .rope = lanes_rope,
        .attention = mx_avx512_attention,
        .silu_mul = lanes_silu_mul,
        .add = lanes_add_row,
        .row_stats = lanes_row_stats,
    };
}

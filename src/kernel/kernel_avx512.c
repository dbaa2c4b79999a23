/* AVX-512: its table. All but the integer product is the shared code over lanes. */
#include "kernel/kernel_avx512.h"

#include "kernel/lanes_avx512.h"

#include "kernel/lanes_ops.h"
#include "kernel/lanes_attention.h"
#include "kernel/lanes_bf16.h"
#include "kernel/lanes_f32.h"
#include "kernel/lanes_quant.h"
#include "kernel/lanes_tile.h"

void mx_avx512_int_tile_pack(const mx_quant *weights, const mx_quant *activations, size_t k,
                             const float *x, size_t x_stride, size_t n_tokens,
                             uint64_t first_stream, uint8_t *tile)
{
    lanes_int_tile_pack(weights, activations, k, x, x_stride, n_tokens, first_stream, tile);
}

void mx_kernels_avx512(mx_kernels *table)
{
    *table = (mx_kernels){
        .name = "avx512",
        .int_supported = mx_int_pair_supported,
        .int_panel_bytes = mx_layout_panel_bytes,
        .int_tile_bytes = mx_layout_tile_bytes,
        .int_panel_pack = mx_layout_panel_pack,
        .int_tile_pack = mx_avx512_int_tile_pack,
        .int_product = mx_avx512_int_product,
        .f32_panel_pack = lanes_f32_panel_pack,
        .f32_product = lanes_f32_product,
        .bf16_product = lanes_bf16_product,
        .row_cast = lanes_row_cast,
        .rms_norm = lanes_rms_norm,
        .rope = lanes_rope,
        .attention = lanes_attention,
        .silu_mul = lanes_silu_mul,
        .add = lanes_add_row,
        .row_stats = lanes_row_stats,
    };
}

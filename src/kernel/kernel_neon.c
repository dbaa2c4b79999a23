/* NEON (ARMv8.2 with dot products): its table. All but the exact integer product is the
 * shared code over lanes. */
#include "kernel/kernel_neon.h"

#include "kernel/block_layout.h"
#include "kernel/lanes_neon.h"

#include "kernel/lanes_ops.h"
#include "kernel/lanes_attention.h"
#include "kernel/lanes_bf16.h"
#include "kernel/lanes_f32.h"
#include "kernel/lanes_quant.h"
#include "kernel/lanes_tile.h"
#include "kernel/lanes_minifloat.h"

static void neon_block_product(const mx_block_product *product)
{
    if (mx_block_pair_is_int(product->weights, product->activations)) {
        mx_neon_int_product(product);
    } else {
        lanes_minifloat_product(product);
    }
}

void mx_kernels_neon(mx_kernels *table)
{
    *table = (mx_kernels){
        .name = "neon",
        .block_supported = mx_block_pair_supported,
        .block_panel_bytes = mx_block_panel_bytes,
        .block_tile_bytes = mx_block_tile_bytes,
        .block_panel_pack = mx_block_panel_pack,
        .block_tile_pack = lanes_block_tile_pack,
        .block_product = neon_block_product,
        .f32_panel_pack = lanes_f32_panel_pack,
        .bf16_panel_pack = lanes_bf16_panel_pack,
        .f32_tile_pack = lanes_f32_tile_pack,
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

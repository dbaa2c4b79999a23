#include "kernel/block_layout.h"

#include "kernel/int_layout.h"
#include "kernel/minifloat_layout.h"

size_t mx_block_panel_bytes(const mx_quant *weights, const mx_quant *activations, size_t k)
{
    return mx_block_pair_is_int(weights, activations)
               ? mx_int_panel_bytes(weights, activations, k)
               : mx_minifloat_panel_bytes(weights, activations, k);
}

size_t mx_block_tile_bytes(const mx_quant *weights, const mx_quant *activations, size_t k)
{
    return mx_block_pair_is_int(weights, activations)
               ? mx_int_tile_bytes(weights, activations, k)
               : mx_minifloat_tile_bytes(weights, activations, k);
}

void mx_block_panel_pack(const mx_quant *weights, const mx_quant *activations, size_t k,
                         const uint8_t *const *codes, const uint8_t *const *scales, size_t n_rows,
                         uint8_t *panel)
{
    if (mx_block_pair_is_int(weights, activations)) {
        mx_int_panel_pack(weights, activations, k, codes, scales, n_rows, panel);
    } else {
        mx_minifloat_panel_pack(weights, activations, k, codes, scales, n_rows, panel);
    }
}

/* The layouts of all block products as entries of mx_kernels: those with exact integer
 * dots have int_layout.h's, the others minifloat_layout.h's. */
#ifndef MX_KERNEL_BLOCK_LAYOUT_H
#define MX_KERNEL_BLOCK_LAYOUT_H

#include "kernel/kernel.h"

size_t mx_block_panel_bytes(const mx_quant *weights, const mx_quant *activations, size_t k);
size_t mx_block_tile_bytes(const mx_quant *weights, const mx_quant *activations, size_t k);
void mx_block_panel_pack(const mx_quant *weights, const mx_quant *activations, size_t k,
                         const uint8_t *const *codes, const uint8_t *const *scales, size_t n_rows,
                         uint8_t *panel);

#endif

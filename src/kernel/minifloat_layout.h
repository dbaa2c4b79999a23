/*
 * Layout of panels and tiles of the pairs without an exact integer product, those
 * with fp8_e4m3, fp8_e5m2 or fp6_e3m2 on either side, shared by the vector kernels
 * (for the others see int_layout.h). Nothing outside src/kernel looks inside.
 *
 * Panel (16 rows): codes that few instructions turn into fp32, at most 8 bits a weight:
 *     header  64 bytes: smallest and largest scale byte
 *     scales  [n_blocks][16]
 *     codes   nibbles: [pair of elements][16], even element in the low nibble;
 *             else [element][16] bytes, of the kind that mx_carrier names
 * Tile (16 tokens):
 *     header  64 bytes: smallest and largest scale byte, NaN not counted
 *     scales  uint8 [n_blocks][16]
 *     factors float [n_blocks][16]: 2^(scale - 127), NaN for 0xFF
 *     values  float [16][stride]: elements without their scale
 * Elements beyond k: value 0. Missing rows: value 0, scale 2^0. Missing tokens:
 * anything.
 *
 * What rare codes of outside checkpoints mean: a NaN element makes every dot of its
 * block NaN, and so is stored as a NaN scale; a panel with Inf elements has 0xFF as its
 * largest scale byte, which keeps it away from the fast paths.
 */
#ifndef MX_KERNEL_MINIFLOAT_LAYOUT_H
#define MX_KERNEL_MINIFLOAT_LAYOUT_H

#include "kernel/block_pair.h"

/* What a byte of weights is. Held value * 2^unit = the element's value. */
typedef enum mx_carrier {
    MX_CARRIER_INT8, /* the format's table value; unit -int_shift */
    MX_CARRIER_E5M2, /* fp8_e5m2, the upper byte of an fp16; unit 0 */
    MX_CARRIER_E4M3, /* fp8_e4m3; taken for an fp16 one place lower, unit 8 */
} mx_carrier;

enum { MX_MINIFLOAT_HEADER = 64 };

typedef struct mx_minifloat_layout {
    mx_block_pair pair;
    mx_carrier carrier;
    bool nibbles; /* 4-bit codes, which a table turns into the carrier's bytes */
    int unit;
    size_t panel_bytes, panel_scales, panel_codes; /* size; places */
    size_t tile_bytes, tile_scales, tile_factors, tile_values;
    size_t stride; /* floats from one token's values to the next one's */
} mx_minifloat_layout;

/* True when weights have a carrier. */
bool mx_minifloat_supported(const mx_format *weights, const mx_format *activations);

mx_minifloat_layout mx_minifloat_layout_make(const mx_quant *weights, const mx_quant *activations,
                                             size_t k);

/* Bytes of codes of `elements`, an even number, of a panel. */
static inline size_t mx_minifloat_code_bytes(const mx_minifloat_layout *layout, size_t elements)
{
    return elements * MX_PANEL_ROWS / (layout->nibbles ? 2 : 1);
}

/* Entries of mx_kernels. */
size_t mx_minifloat_panel_bytes(const mx_quant *weights, const mx_quant *activations, size_t k);
size_t mx_minifloat_tile_bytes(const mx_quant *weights, const mx_quant *activations, size_t k);
void mx_minifloat_panel_pack(const mx_quant *weights, const mx_quant *activations, size_t k,
                             const uint8_t *const *codes, const uint8_t *const *scales,
                             size_t n_rows, uint8_t *panel);

/*
 * True when every block product of the panels and the tiles can be added as
 * fmaf(dot * 2^ew, 2^ea, acc) with all powers normal and dot * 2^ew exact, so that
 * ldexpf's rounding in the contract never shows. Rare data fails this: exponents near
 * the ends of fp32, NaN or Inf among the weights.
 */
bool mx_minifloat_is_plain(const mx_minifloat_layout *layout, mx_scale_range range);

#endif

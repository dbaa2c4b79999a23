/*
 * Layout of panels and tiles of the exact integer product, shared by the vector kernels
 * (other pairs: minifloat_layout.h). Nothing outside src/kernel looks inside.
 *
 * Both operands go in quads: 4 consecutive elements k .. k+3 of one row or token
 * make a 32-bit lane, as vpdpbusd and vpmaddubsw want them. An octet is two quads.
 *
 * Panel (16 rows), weights made unsigned by adding `offset`:
 *     header  64 bytes: smallest and largest scale byte
 *     scales  [n_blocks][16]
 *     codes   4-bit formats: [octet][row][4], byte j of a row = code of element j of
 *             the octet in the low nibble, of element 4 + j in the high one;
 *             else [quad][row][4] bytes, table value + 128
 * Tile (16 tokens):
 *     header  64 bytes: smallest and largest scale byte, NaN not counted
 *     seeds   int32 [n_blocks][16]: -offset * sum of the block's values
 *     slots   uint32 [n_blocks][16]: 128 * scale byte, the place of the block's scale
 *             in a table of vectors indexed by the scale byte
 *     factors float [n_blocks][16]: 2^(scale - 127 - shift), NaN for 0xFF
 *     codes   [quad][token][4] int8 table values
 * Elements beyond k, rows and tokens that are missing: value 0, scale 2^0.
 */
#ifndef MX_KERNEL_INT_LAYOUT_H
#define MX_KERNEL_INT_LAYOUT_H

#include "kernel/block_pair.h"

enum {
    MX_LAYOUT_HEADER = 64,
    MX_QUAD_BYTES = 64,   /* one quad of 16 rows or tokens */
    MX_SLOT_BYTES = 128,  /* one entry of a scale table: 32 rows at most */
    MX_BYTE_OFFSET = 128, /* of weights kept as bytes */
};

typedef struct mx_int_layout {
    mx_block_pair pair;
    bool nibbles; /* 4-bit codes */
    int offset;
    size_t octets;                                 /* of a row, a ragged end filled up with zeros */
    size_t panel_bytes, panel_scales, panel_codes; /* size; places */
    size_t tile_bytes, tile_seeds, tile_slots, tile_factors, tile_codes;
} mx_int_layout;

mx_int_layout mx_int_layout_make(const mx_quant *weights, const mx_quant *activations, size_t k);

/* Entries of mx_kernels. */
size_t mx_int_panel_bytes(const mx_quant *weights, const mx_quant *activations, size_t k);
size_t mx_int_tile_bytes(const mx_quant *weights, const mx_quant *activations, size_t k);
void mx_int_panel_pack(const mx_quant *weights, const mx_quant *activations, size_t k,
                       const uint8_t *const *codes, const uint8_t *const *scales, size_t n_rows,
                       uint8_t *panel);

/*
 * True when every block product of the panel and the tiles can be added as
 * fmaf((float)dot, 2^e, acc) with 2^e and dot * 2^ew finite and exact, so that
 * ldexpf's rounding in the contract never shows. Rare data fails this: exponents
 * near the ends of fp32, or NaN weights.
 */
bool mx_layout_is_plain(const mx_int_layout *layout, const uint8_t *panel, const uint8_t *tiles,
                        size_t n_tiles);

#endif

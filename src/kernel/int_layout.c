#include "kernel/int_layout.h"

#include <string.h>

/* What makes 4-bit table values unsigned. */
static int nibble_offset(const mx_format *format)
{
    int min = 0;
    for (uint32_t code = 0; code < 1u << format->bits; code++) {
        min = format->int_table[code] < min ? format->int_table[code] : min;
    }
    return -min;
}

mx_int_layout mx_int_layout_make(const mx_quant *weights, const mx_quant *activations, size_t k)
{
    mx_int_layout layout = {
        .pair = mx_int_pair_make(weights, activations, k),
        .nibbles = weights->format->bits <= 4,
        .offset = MX_BYTE_OFFSET,
        .octets = (k + 7) / 8,
        .panel_scales = MX_LAYOUT_HEADER,
        .tile_seeds = MX_LAYOUT_HEADER,
    };
    if (layout.nibbles) {
        layout.offset = nibble_offset(weights->format);
    }
    size_t n_blocks = layout.pair.n_blocks;
    layout.panel_codes = layout.panel_scales + mx_round_up(n_blocks * MX_PANEL_ROWS, 64);
    layout.panel_bytes =
        layout.panel_codes + layout.octets * MX_QUAD_BYTES * (layout.nibbles ? 1 : 2);
    layout.tile_slots = layout.tile_seeds + n_blocks * 64;
    layout.tile_factors = layout.tile_slots + n_blocks * 64;
    layout.tile_codes = layout.tile_factors + n_blocks * 64;
    layout.tile_bytes = layout.tile_codes + layout.octets * 2 * MX_QUAD_BYTES;
    return layout;
}

size_t mx_layout_panel_bytes(const mx_quant *weights, const mx_quant *activations, size_t k)
{
    return mx_int_layout_make(weights, activations, k).panel_bytes;
}

size_t mx_layout_tile_bytes(const mx_quant *weights, const mx_quant *activations, size_t k)
{
    return mx_int_layout_make(weights, activations, k).tile_bytes;
}

/* Codes of up to 8 elements into the place of row r. */
static void octet_pack(const mx_int_layout *layout, const mx_format *format, const uint8_t *codes,
                       size_t n, size_t r, uint8_t *octet)
{
    for (size_t i = 0; i < n; i++) {
        if (layout->nibbles) {
            octet[4 * r + i % 4] |= (uint8_t)(codes[i] << (i < 4 ? 0 : 4));
        } else {
            octet[i / 4 * MX_QUAD_BYTES + 4 * r + i % 4] =
                (uint8_t)(format->int_table[codes[i]] + MX_BYTE_OFFSET);
        }
    }
}

/* One block of one row; returns true when all its values are zero. `octets`: where
 * the block's codes begin in the panel. */
static bool block_pack(const mx_int_layout *layout, const mx_format *format, const uint8_t *packed,
                       size_t n, size_t r, uint8_t *octets)
{
    enum { PIECE = 256 };
    uint8_t codes[PIECE];
    size_t octet_bytes = MX_QUAD_BYTES * (layout->nibbles ? 1 : 2);
    bool zero = true;
    for (size_t at = 0; at < n; at += PIECE) {
        size_t piece = mx_min_size(n - at, PIECE);
        mx_codes_unpack(packed + at / 8 * format->bits, piece, format->bits, codes);
        for (size_t i = 0; i < piece; i++) {
            zero = zero && format->int_table[codes[i]] == 0;
        }
        for (size_t i = 0; i < piece; i += 8) {
            octet_pack(layout, format, codes + i, mx_min_size(piece - i, 8), r,
                       octets + (at + i) / 8 * octet_bytes);
        }
    }
    return zero;
}

/* Fills a panel with rows of zeros. */
static void panel_clear(const mx_int_layout *layout, uint8_t *panel)
{
    memset(panel, 0, layout->panel_scales);
    memset(panel + layout->panel_scales, MX_SCALE_OF_ZERO,
           layout->panel_codes - layout->panel_scales);
    /* Nibble code 0 is value 0 in every format; bytes hold value + offset. */
    memset(panel + layout->panel_codes, layout->nibbles ? 0 : MX_BYTE_OFFSET,
           layout->panel_bytes - layout->panel_codes);
}

void mx_layout_panel_pack(const mx_quant *weights, const mx_quant *activations, size_t k,
                          const uint8_t *const *codes, const uint8_t *const *scales, size_t n_rows,
                          uint8_t *panel)
{
    mx_int_layout layout = mx_int_layout_make(weights, activations, k);
    const mx_int_pair *pair = &layout.pair;
    size_t octet_bytes = MX_QUAD_BYTES * (layout.nibbles ? 1 : 2);
    uint8_t min = MX_SCALE_OF_ZERO, max = MX_SCALE_OF_ZERO;
    panel_clear(&layout, panel);
    for (size_t b = 0; b < pair->n_blocks; b++) {
        size_t octet = b * pair->block / 8;
        for (size_t r = 0; r < n_rows; r++) {
            bool zero = block_pack(
                &layout, weights->format, codes[r] + octet * weights->format->bits,
                mx_int_pair_length(pair, b), r, panel + layout.panel_codes + octet * octet_bytes);
            uint8_t scale = scales[r][b];
            scale = zero && scale != MX_E8M0_NAN ? MX_SCALE_OF_ZERO : scale;
            panel[layout.panel_scales + b * MX_PANEL_ROWS + r] = scale;
            min = scale < min ? scale : min;
            max = scale > max ? scale : max;
        }
    }
    panel[MX_SCALE_MIN_AT] = min;
    panel[MX_SCALE_MAX_AT] = max;
}

bool mx_layout_is_plain(const mx_int_layout *layout, const uint8_t *panel, const uint8_t *tiles,
                        size_t n_tiles)
{
    int w_min = panel[MX_SCALE_MIN_AT], w_max = panel[MX_SCALE_MAX_AT];
    int a_min = MX_SCALE_OF_ZERO, a_max = MX_SCALE_OF_ZERO;
    for (size_t i = 0; i < n_tiles; i++) {
        const uint8_t *header = tiles + i * layout->tile_bytes;
        a_min = header[MX_SCALE_MIN_AT] < a_min ? header[MX_SCALE_MIN_AT] : a_min;
        a_max = header[MX_SCALE_MAX_AT] > a_max ? header[MX_SCALE_MAX_AT] : a_max;
    }
    int bias = 2 * MX_E8M0_BIAS + layout->pair.shift;
    bool weights_fit = w_min >= 1 && w_max - MX_E8M0_BIAS + layout->pair.dot_bits <= 127;
    /* -149: the smallest power of two of fp32. */
    return weights_fit && w_min + a_min - bias >= -149 &&
           w_max + a_max - bias + layout->pair.dot_bits <= 127;
}

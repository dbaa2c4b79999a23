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
        .pair = mx_block_pair_make(weights, activations, k),
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

size_t mx_int_panel_bytes(const mx_quant *weights, const mx_quant *activations, size_t k)
{
    return mx_int_layout_make(weights, activations, k).panel_bytes;
}

size_t mx_int_tile_bytes(const mx_quant *weights, const mx_quant *activations, size_t k)
{
    return mx_int_layout_make(weights, activations, k).tile_bytes;
}

/* ---- packing ------------------------------------------------------------------ */

enum {
    PIECE = 256,            /* elements of a row that are packed at a time */
    PIECE_WORDS = PIECE / 4 /* the most 32-bit words that they take */
};

/* A word is what one row has in an octet of nibbles, or in a quad of bytes. */
typedef struct packer {
    const mx_int_layout *layout;
    unsigned bits;
    uint8_t bytes[256];  /* code -> value + MX_BYTE_OFFSET */
    uint32_t zero, mask; /* of zeros alone: (word & mask) == zero */
    size_t word_elements, block_words;
} packer;

static packer packer_make(const mx_int_layout *layout, const mx_format *format)
{
    packer p = {.layout = layout, .bits = format->bits};
    for (uint32_t code = 0; code < 1u << format->bits; code++) {
        p.bytes[code] = (uint8_t)(format->int_table[code] + MX_BYTE_OFFSET);
    }
    /* Nibble code 0 is value 0 in every format, and so is -0 where there is one. */
    bool signed_zero = format->bits == 4 && format->int_table[8] == 0;
    p.zero = layout->nibbles ? 0 : MX_BYTE_OFFSET * 0x01010101u;
    p.mask = layout->nibbles && signed_zero ? 0x77777777u : UINT32_MAX;
    p.word_elements = layout->nibbles ? 8 : 4;
    p.block_words = mx_round_up(layout->pair.block, 8) / p.word_elements;
    return p;
}

/* An octet's nibbles e0 .. e7 in panel order: e0 e4, e1 e5, e2 e6, e3 e7. Plain
 * shifts, which compilers turn into vectors. */
static inline uint32_t octet_order(uint32_t word)
{
    uint32_t low = word & 0xFFFF, high = word >> 16;
    low = (low | low << 8) & 0x00FF00FF;
    high = (high | high << 8) & 0x00FF00FF;
    low = (low | low << 4) & 0x0F0F0F0F;
    high = (high | high << 4) & 0x0F0F0F0F;
    return low | high << 4;
}

/* n 4-bit codes, packed, as words; what is beyond them becomes code 0. */
static void nibble_words(const uint8_t *packed, size_t n, uint32_t *words)
{
    size_t whole = n / 8, rest = n % 8;
    memcpy(words, packed, whole * sizeof *words);
    if (rest != 0) {
        words[whole] = 0;
        memcpy(&words[whole], packed + whole * sizeof *words, (rest + 1) / 2);
        words[whole] &= (1u << 4 * rest) - 1;
    }
    for (size_t i = 0; i < whole + (rest != 0); i++) {
        words[i] = octet_order(words[i]);
    }
}

/* n elements (PIECE at most) of one row as words, filled up with zeros to whole
 * octets. Words are little-endian, as all that mxlm runs on. */
static void piece_words(const packer *p, const uint8_t *packed, size_t n, uint32_t *words)
{
    uint8_t codes[PIECE] = {0}, nibbles[PIECE / 2] = {0};
    if (p->bits == 4) {
        nibble_words(packed, n, words);
        return;
    }
    mx_codes_unpack(packed, n, p->bits, codes);
    size_t filled = mx_round_up(n, 8);
    if (p->layout->nibbles) {
        mx_codes_pack(codes, filled, 4, nibbles);
        nibble_words(nibbles, filled, words);
        return;
    }
    for (size_t i = 0; i < filled; i++) {
        codes[i] = p->bytes[codes[i]];
    }
    memcpy(words, codes, filled);
}

/* Where a piece begins: its block, and words to that block's end. */
typedef struct piece_place {
    size_t block, left;
} piece_place;

/* A row's scales of the blocks that lie in the piece: a block of zeros has that of
 * zero. `*seen`: a block that began before has held something else. */
static void piece_scales(const packer *p, piece_place at, const uint32_t *words, size_t n_words,
                         const uint8_t *scales, bool *seen, uint8_t *to)
{
    for (size_t i = 0; i < n_words;) {
        size_t end = i + mx_min_size(at.left, n_words - i);
        uint32_t any = 0;
        at.left -= end - i;
        for (; i < end; i++) {
            any |= (words[i] & p->mask) ^ p->zero;
        }
        *seen = *seen || any != 0;
        bool kept = *seen || scales[at.block] == MX_E8M0_NAN;
        to[at.block * MX_PANEL_ROWS] = kept ? scales[at.block] : MX_SCALE_OF_ZERO;
        if (at.left == 0) {
            at.block++;
            at.left = p->block_words;
            *seen = false;
        }
    }
}

/* Rows' words [16][PIECE_WORDS] to [n_words][16] in the panel. */
static void piece_store(uint32_t (*words)[PIECE_WORDS], size_t n_words, uint8_t *codes)
{
    for (size_t i = 0; i < n_words; i++) {
        uint32_t column[MX_PANEL_ROWS];
        for (size_t r = 0; r < MX_PANEL_ROWS; r++) {
            column[r] = words[r][i];
        }
        memcpy(codes + i * sizeof column, column, sizeof column);
    }
}

static void header_write(const mx_int_layout *layout, uint8_t *panel)
{
    uint8_t min = MX_SCALE_OF_ZERO, max = MX_SCALE_OF_ZERO;
    for (size_t i = layout->panel_scales; i < layout->panel_codes; i++) {
        min = panel[i] < min ? panel[i] : min;
        max = panel[i] > max ? panel[i] : max;
    }
    panel[MX_SCALE_MIN_AT] = min;
    panel[MX_SCALE_MAX_AT] = max;
}

void mx_int_panel_pack(const mx_quant *weights, const mx_quant *activations, size_t k,
                       const uint8_t *const *codes, const uint8_t *const *scales, size_t n_rows,
                       uint8_t *panel)
{
    mx_int_layout layout = mx_int_layout_make(weights, activations, k);
    packer p = packer_make(&layout, weights->format);
    uint32_t words[MX_PANEL_ROWS][PIECE_WORDS];
    bool seen[MX_PANEL_ROWS] = {0};
    memset(panel, 0, layout.panel_scales);
    memset(panel + layout.panel_scales, MX_SCALE_OF_ZERO, layout.panel_codes - layout.panel_scales);
    for (size_t r = 0; r < MX_PANEL_ROWS; r++) {
        for (size_t i = 0; i < PIECE_WORDS; i++) {
            words[r][i] = p.zero; /* missing rows stay so */
        }
    }
    for (size_t at = 0; at < k; at += PIECE) {
        size_t n = mx_min_size(k - at, PIECE), first = at / p.word_elements;
        size_t n_words = mx_round_up(n, 8) / p.word_elements;
        piece_place place = {first / p.block_words, p.block_words - first % p.block_words};
        for (size_t r = 0; r < n_rows; r++) {
            piece_words(&p, codes[r] + at / 8 * p.bits, n, words[r]);
            piece_scales(&p, place, words[r], n_words, scales[r], &seen[r],
                         panel + layout.panel_scales + r);
        }
        piece_store(words, n_words, panel + layout.panel_codes + first * MX_QUAD_BYTES);
    }
    header_write(&layout, panel);
}

bool mx_layout_is_plain(const mx_int_layout *layout, const uint8_t *panel, const uint8_t *tiles,
                        size_t n_tiles)
{
    mx_scale_range r =
        mx_scale_range_of(panel, layout->panel_bytes, 1, tiles, layout->tile_bytes, n_tiles);
    int bias = 2 * MX_E8M0_BIAS + layout->pair.shift;
    bool weights_fit = r.w_min >= 1 && r.w_max - MX_E8M0_BIAS + layout->pair.dot_bits <= 127;
    /* -149: the smallest power of two of fp32. */
    return weights_fit && r.w_min + r.a_min - bias >= -149 &&
           r.w_max + r.a_max - bias + layout->pair.dot_bits <= 127;
}

#include "kernel/minifloat_layout.h"

#include <math.h>
#include <string.h>

enum {
    CARRIER_BITS = 4, /* significant bits of fp8_e4m3; fp8_e5m2 has one less */
    E4M3_UNIT = 8,    /* fp16's bias - fp8_e4m3's */
    PIECE = 256,      /* elements of a row that are packed at a time */
};

static mx_carrier carrier_of(const mx_format *format)
{
    if (format->int_table != NULL) {
        return MX_CARRIER_INT8;
    }
    return mx_significant_bits(format) < CARRIER_BITS ? MX_CARRIER_E5M2 : MX_CARRIER_E4M3;
}

bool mx_minifloat_supported(const mx_format *weights, const mx_format *activations)
{
    bool range = weights->exponent_bits <= (mx_significant_bits(weights) < CARRIER_BITS ? 5 : 4);
    bool carried = mx_significant_bits(weights) <= CARRIER_BITS && range && weights->bits <= 8;
    return (weights->int_table != NULL || carried) && activations->bits <= 8;
}

static int carrier_unit(mx_carrier carrier, const mx_format *format)
{
    if (carrier == MX_CARRIER_INT8) {
        return -format->int_shift;
    }
    return carrier == MX_CARRIER_E4M3 ? E4M3_UNIT : 0;
}

mx_minifloat_layout mx_minifloat_layout_make(const mx_quant *weights, const mx_quant *activations,
                                             size_t k)
{
    mx_minifloat_layout layout = {
        .pair = mx_block_pair_make(weights, activations, k),
        .carrier = carrier_of(weights->format),
        .panel_scales = MX_MINIFLOAT_HEADER,
        .tile_scales = MX_MINIFLOAT_HEADER,
        /* An odd number of cache lines: rows a power of two apart would share a few
         * places of the first-level cache. */
        .stride = (mx_round_up(k, 16) / 16 | 1) * 16,
    };
    size_t n_blocks = layout.pair.n_blocks;
    layout.nibbles = layout.carrier == MX_CARRIER_INT8 && weights->format->bits <= 4;
    layout.unit = carrier_unit(layout.carrier, weights->format);
    layout.panel_codes = layout.panel_scales + mx_round_up(n_blocks * MX_PANEL_ROWS, 64);
    layout.panel_bytes = layout.panel_codes + mx_minifloat_code_bytes(&layout, mx_round_up(k, 8));
    layout.tile_factors = layout.tile_scales + mx_round_up(n_blocks * MX_TILE_TOKENS, 64);
    layout.tile_values = layout.tile_factors + n_blocks * MX_TILE_TOKENS * sizeof(float);
    layout.tile_bytes = layout.tile_values + layout.stride * MX_TILE_TOKENS * sizeof(float);
    return layout;
}

size_t mx_minifloat_panel_bytes(const mx_quant *weights, const mx_quant *activations, size_t k)
{
    return mx_minifloat_layout_make(weights, activations, k).panel_bytes;
}

size_t mx_minifloat_tile_bytes(const mx_quant *weights, const mx_quant *activations, size_t k)
{
    return mx_minifloat_layout_make(weights, activations, k).tile_bytes;
}

bool mx_minifloat_is_plain(const mx_minifloat_layout *layout, mx_scale_range r)
{
    enum { ROOM = 8 }; /* |unit| at most: the rows' scales are 2^(ew + unit) */
    const mx_block_pair *pair = &layout->pair;
    int high = pair->dot_bits - pair->shift, bias = 2 * MX_E8M0_BIAS;
    bool powers = r.w_min > ROOM && r.w_max < (int)MX_E8M0_NAN - ROOM && r.a_min > 0;
    /* -149: the smallest power of two of fp32. */
    bool scaled =
        r.w_min - MX_E8M0_BIAS - pair->shift >= -149 && r.w_max - MX_E8M0_BIAS + high <= 127;
    return powers && scaled && r.w_min + r.a_min - bias - pair->shift >= -149 &&
           r.w_max + r.a_max - bias + high <= 127;
}

/* ---- packing ------------------------------------------------------------------ */

/* What is to be known of a code. */
enum {
    CODE_NONZERO = 1,
    CODE_NAN = 2,
    CODE_INF = 4,
};

typedef struct packer {
    const mx_minifloat_layout *layout;
    unsigned bits;
    uint8_t bytes[256]; /* code -> what the panel holds: a nibble, or a carrier's byte */
    uint8_t flags[256]; /* CODE_... */
} packer;

/* A finite value or Inf of a format that the carrier covers. Its magnitude is fp32's
 * with the exponent's bias and the last places of the significand taken off. */
static uint8_t carrier_byte(mx_carrier carrier, float value)
{
    bool e4m3 = carrier == MX_CARRIER_E4M3;
    float magnitude = fabsf(value) * (e4m3 ? 0x1p-120f : 0x1p-112f);
    uint32_t bits;
    memcpy(&bits, &magnitude, sizeof bits);
    bits = bits >> (e4m3 ? 20 : 21) & 0x7F;
    return (uint8_t)(value < 0 ? bits | 0x80 : bits);
}

/* Fills in one code. */
static void packer_code(packer *p, const mx_format *format, uint32_t code)
{
    float value = format->decode(format, code);
    p->flags[code] = value != 0 ? CODE_NONZERO : 0;
    if (isnan(value)) {
        p->flags[code] = CODE_NAN;
    } else if (isinf(value)) {
        p->flags[code] |= CODE_INF;
    }
    if (p->layout->nibbles) {
        p->bytes[code] = (uint8_t)code;
    } else if (p->layout->carrier == MX_CARRIER_INT8) {
        p->bytes[code] = (uint8_t)format->int_table[code];
    } else {
        p->bytes[code] = isnan(value) ? 0 : carrier_byte(p->layout->carrier, value);
    }
}

static packer packer_make(const mx_minifloat_layout *layout, const mx_format *format)
{
    packer p = {.layout = layout, .bits = format->bits};
    for (uint32_t code = 0; code < 1u << format->bits; code++) {
        packer_code(&p, format, code);
    }
    return p;
}

/* A row's scales of the blocks that lie in codes [n] from element `at` on: a block of
 * zeros has that of zero, one with a NaN is NaN. `*flags`: of the codes so far of the
 * block that goes on. Returns those of all codes. */
static uint8_t piece_scales(const packer *p, const uint8_t *codes, size_t at, size_t n,
                            const uint8_t *scales, uint8_t *flags, uint8_t *to)
{
    size_t block = p->layout->pair.block;
    uint8_t all = 0;
    for (size_t i = 0; i < n;) {
        size_t b = (at + i) / block, end = mx_min_size((b + 1) * block - at, n);
        *flags = (at + i) % block == 0 ? 0 : *flags;
        for (; i < end; i++) {
            *flags |= p->flags[codes[i]];
        }
        bool kept = *flags != 0 || scales[b] == MX_E8M0_NAN;
        to[b * MX_PANEL_ROWS] = kept ? scales[b] : MX_SCALE_OF_ZERO;
        if (*flags & CODE_NAN) {
            to[b * MX_PANEL_ROWS] = MX_E8M0_NAN;
        }
        all |= *flags;
    }
    return all;
}

/* Rows' bytes [16][PIECE] to [n][16], or, as nibbles, [n / 2][16]; n is even. */
static void piece_store(uint8_t (*bytes)[PIECE], size_t n, bool nibbles, uint8_t *to)
{
    for (size_t i = 0; i < n; i += nibbles ? 2 : 1, to += MX_PANEL_ROWS) {
        for (size_t r = 0; r < MX_PANEL_ROWS; r++) {
            to[r] = (uint8_t)(nibbles ? bytes[r][i] | bytes[r][i + 1] << 4 : bytes[r][i]);
        }
    }
}

static void header_write(const mx_minifloat_layout *layout, bool infinite, uint8_t *panel)
{
    uint8_t min = MX_SCALE_OF_ZERO, max = infinite ? MX_E8M0_NAN : MX_SCALE_OF_ZERO;
    for (size_t i = layout->panel_scales; i < layout->panel_codes; i++) {
        min = panel[i] < min ? panel[i] : min;
        max = panel[i] > max ? panel[i] : max;
    }
    panel[MX_SCALE_MIN_AT] = min;
    panel[MX_SCALE_MAX_AT] = max;
}

void mx_minifloat_panel_pack(const mx_quant *weights, const mx_quant *activations, size_t k,
                             const uint8_t *const *codes, const uint8_t *const *scales,
                             size_t n_rows, uint8_t *panel)
{
    mx_minifloat_layout layout = mx_minifloat_layout_make(weights, activations, k);
    packer p = packer_make(&layout, weights->format);
    uint8_t bytes[MX_PANEL_ROWS][PIECE] = {{0}}; /* missing rows stay 0 */
    uint8_t block_flags[MX_PANEL_ROWS] = {0}, flags = 0;
    memset(panel, 0, layout.panel_scales);
    memset(panel + layout.panel_scales, MX_SCALE_OF_ZERO, layout.panel_codes - layout.panel_scales);
    for (size_t at = 0; at < k; at += PIECE) {
        size_t n = mx_min_size(k - at, PIECE), filled = mx_round_up(n, 8);
        for (size_t r = 0; r < n_rows; r++) {
            mx_codes_unpack(codes[r] + at / 8 * p.bits, n, p.bits, bytes[r]);
            flags |= piece_scales(&p, bytes[r], at, n, scales[r], &block_flags[r],
                                  panel + layout.panel_scales + r);
            for (size_t i = 0; i < filled; i++) {
                bytes[r][i] = i < n ? p.bytes[bytes[r][i]] : 0;
            }
        }
        piece_store(bytes, filled, layout.nibbles,
                    panel + layout.panel_codes + mx_minifloat_code_bytes(&layout, at));
    }
    header_write(&layout, (flags & CODE_INF) != 0, panel);
}

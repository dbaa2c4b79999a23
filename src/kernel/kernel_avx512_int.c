/*
 * Exact integer product with AVX-512 VNNI.
 *
 * Many tokens ("sweep"): two panels (32 rows) at a time pass over up to 128
 * tokens block by block; fp32 accumulators of the group live in the first-level
 * cache. Integer dots start at the seed -offset * sum(a), which undoes the
 * weights' offset, and end as acc = fma(cvt(dot), 2^e, acc). On Intel all 512-bit
 * arithmetic shares two ports, so instructions beyond the 8 vpdpbusd of 16 rows x
 * token x block cost their full share: the seed comes from a broadcast load, and
 * 2^e from a table of vectors, built once a block, that the token's scale byte
 * indexes. What remains is one convert and one fma.
 *
 * Few tokens: accumulators stay in registers and the panels are read once, as
 * they stream from memory.
 */
#include "kernel/kernel_avx512.h"

#include "kernel/int_layout.h"
#include "kernel/unroll.h"

#include <immintrin.h>
#include <string.h>

enum {
    GROUP_TILES = 8,  /* 128 tokens: accumulators take 16 KiB */
    PIECE_QUADS = 64, /* of a long block, unpacked at a time */
    STEP = 8,         /* tokens at a time: 16 independent vpdpbusd chains */
    SMALL_TOKENS = 8, /* at most so many take the path for few tokens */
    SCALES = 256,
};

MX_TEMPLATE __m512i broadcast_u32(const void *p)
{
    int32_t bits;
    memcpy(&bits, p, sizeof bits);
    return _mm512_set1_epi32(bits);
}

/* 16-entry table code -> value + offset, four times over: vpermb looks at 6 bits of
 * an index, so that whatever lies above a nibble needs no masking. */
static __m512i nibble_table(const mx_int_layout *layout, const mx_format *format)
{
    uint8_t table[16];
    for (size_t i = 0; i < 16; i++) {
        int value = format->int_table[i & ((1u << format->bits) - 1)];
        table[i] = (uint8_t)(value + layout->offset);
    }
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)table));
}

/* Two quads of 16 rows: packed codes, or bytes as they are. */
MX_TEMPLATE void octet_load(const uint8_t *codes, bool nibbles, __m512i table, __m512i quads[2])
{
    __m512i x = _mm512_load_si512(codes);
    if (nibbles) {
        quads[0] = _mm512_permutexvar_epi8(x, table);
        quads[1] = _mm512_permutexvar_epi8(_mm512_srli_epi32(x, 4), table);
    } else {
        quads[0] = x;
        quads[1] = _mm512_load_si512(codes + MX_QUAD_BYTES);
    }
}

/* ---- many tokens ----------------------------------------------------------- */

typedef struct sweep {
    const mx_int_layout *layout;
    __m512i nibbles;
    const uint8_t *panels[2];
    size_t n_panels; /* 1 or 2 */
    const uint8_t *tiles;
    size_t n_tiles;
    bool plain; /* mx_layout_is_plain */
    /* Scratch. The table holds exponents e where the data is not plain, else 2^e. */
    float table[2][SCALES][16] __attribute__((aligned(64)));
    float acc[GROUP_TILES * 16][2][16] __attribute__((aligned(64)));
    int32_t dots[GROUP_TILES * 16][2][16] __attribute__((aligned(64)));
    uint8_t weights[2][PIECE_QUADS][MX_QUAD_BYTES] __attribute__((aligned(64)));
} sweep;

/* A part of a block: quads [first, first + n_quads) of the row. */
typedef struct piece {
    size_t block, first_quad, n_quads;
    bool begins, ends; /* the block */
    const uint8_t *weights[2];
} piece;

/* Range of the block's scale bytes over the tiles, NaN left out. */
static void scale_range(const sweep *s, size_t block, uint32_t *low, uint32_t *high)
{
    __m512i min = _mm512_set1_epi32(SCALES), max = _mm512_setzero_si512();
    for (size_t i = 0; i < s->n_tiles; i++) {
        const uint8_t *tile = s->tiles + i * s->layout->tile_bytes;
        __m512i scale =
            _mm512_srli_epi32(_mm512_load_si512(tile + s->layout->tile_slots + block * 64), 6);
        __mmask16 valid = _mm512_cmpneq_epu32_mask(scale, _mm512_set1_epi32(MX_E8M0_NAN));
        min = _mm512_mask_min_epu32(min, valid, min, scale);
        max = _mm512_mask_max_epu32(max, valid, max, scale);
    }
    *low = _mm512_reduce_min_epu32(min);
    *high = _mm512_reduce_max_epu32(max);
}

/* Table entries of the scale bytes that the block's tokens have. */
static void table_fill(sweep *s, size_t block)
{
    uint32_t low, high;
    scale_range(s, block, &low, &high);
    int bias = 2 * MX_E8M0_BIAS + s->layout->pair.shift;
    for (size_t p = 0; p < s->n_panels; p++) {
        const uint8_t *scales = s->panels[p] + s->layout->panel_scales + block * 16;
        __m512i w = _mm512_cvtepu8_epi32(_mm_load_si128((const __m128i *)scales));
        __mmask16 nan = _mm512_cmpeq_epi32_mask(w, _mm512_set1_epi32(MX_E8M0_NAN));
        __m512 exponent = _mm512_cvtepi32_ps(_mm512_sub_epi32(w, _mm512_set1_epi32(bias)));
        exponent = _mm512_mask_mov_ps(exponent, nan, _mm512_set1_ps(__builtin_nanf("")));
        for (uint32_t a = low; a <= high && a < MX_E8M0_NAN; a++) {
            __m512 e = _mm512_add_ps(exponent, _mm512_set1_ps((float)a));
            e = s->plain ? _mm512_scalef_ps(_mm512_set1_ps(1.0f), e) : e;
            _mm512_store_ps(s->table[p][a], e);
        }
    }
}

/* One row of accumulators at a finished dot. */
MX_TEMPLATE void acc_add(__m512i dot, const float *entry, float *acc, bool plain)
{
    __m512 value = _mm512_cvtepi32_ps(dot), factor = _mm512_load_ps(entry);
    __m512 sum = _mm512_load_ps(acc);
    sum = plain ? _mm512_fmadd_ps(value, factor, sum)
                : _mm512_add_ps(sum, _mm512_scalef_ps(value, factor));
    _mm512_store_ps(acc, sum);
}

/* Dots of 16 * n_panels rows and STEP tokens from `token` on, over one piece. */
MX_TEMPLATE void step_dots(sweep *s, const piece *part, size_t n_quads, size_t tile, size_t token,
                           int n_panels, bool whole, bool plain)
{
    const mx_int_layout *layout = s->layout;
    const uint8_t *base = s->tiles + tile * layout->tile_bytes;
    const uint8_t *lane = base + part->block * 64 + token * 4;
    const uint8_t *a = base + layout->tile_codes + part->first_quad * MX_QUAD_BYTES + token * 4;
    size_t row = tile * 16 + token;
    __m512i dot[2][STEP];
    MX_UNROLL
    for (int p = 0; p < n_panels; p++) {
        MX_UNROLL
        for (int t = 0; t < STEP; t++) {
            dot[p][t] = whole || part->begins ? broadcast_u32(lane + layout->tile_seeds + t * 4)
                                              : _mm512_load_si512(s->dots[row + (size_t)t][p]);
        }
    }
    const uint8_t *w0 = part->weights[0], *w1 = part->weights[1];
    for (size_t q = 0; q < n_quads; q++) {
        __m512i w[2] = {_mm512_load_si512(w0 + q * MX_QUAD_BYTES)};
        if (n_panels > 1) {
            w[1] = _mm512_load_si512(w1 + q * MX_QUAD_BYTES);
        }
        MX_UNROLL
        for (int t = 0; t < STEP; t++) {
            __m512i value = broadcast_u32(a + q * MX_QUAD_BYTES + t * 4);
            MX_UNROLL
            for (int p = 0; p < n_panels; p++) {
                dot[p][t] = _mm512_dpbusd_epi32(dot[p][t], w[p], value);
            }
        }
    }
    MX_UNROLL
    for (int t = 0; t < STEP; t++) {
        uint32_t slot;
        memcpy(&slot, lane + layout->tile_slots + t * 4, sizeof slot);
        MX_UNROLL
        for (int p = 0; p < n_panels; p++) {
            if (whole || part->ends) {
                const char *entry = (const char *)s->table[p] + slot;
                acc_add(dot[p][t], (const float *)(const void *)entry, s->acc[row + (size_t)t][p],
                        plain);
            } else {
                _mm512_store_si512(s->dots[row + (size_t)t][p], dot[p][t]);
            }
        }
    }
}

/* One piece over all tiles of the group; the literal arguments make the copies. */
MX_TEMPLATE void piece_sweep(sweep *s, const piece *part, int n_panels, bool plain)
{
    for (size_t tile = 0; tile < s->n_tiles; tile++) {
        for (size_t token = 0; token < 16; token += STEP) {
            if (part->begins && part->ends && part->n_quads == 8) {
                step_dots(s, part, 8, tile, token, n_panels, true, plain);
            } else {
                step_dots(s, part, part->n_quads, tile, token, n_panels, false, plain);
            }
        }
    }
}

static void piece_sweep_any(sweep *s, const piece *part)
{
    if (!s->plain) {
        s->n_panels == 2 ? piece_sweep(s, part, 2, false) : piece_sweep(s, part, 1, false);
    } else {
        s->n_panels == 2 ? piece_sweep(s, part, 2, true) : piece_sweep(s, part, 1, true);
    }
}

/* Bytes of the piece's weights: in place, or unpacked to scratch. */
static void piece_weights(sweep *s, piece *part)
{
    for (size_t p = 0; p < s->n_panels; p++) {
        const uint8_t *codes = s->panels[p] + s->layout->panel_codes;
        if (!s->layout->nibbles) {
            part->weights[p] = codes + part->first_quad * MX_QUAD_BYTES;
            continue;
        }
        codes += part->first_quad / 2 * MX_QUAD_BYTES;
        for (size_t q = 0; q < part->n_quads; q += 2) {
            __m512i quads[2];
            octet_load(codes + q / 2 * MX_QUAD_BYTES, true, s->nibbles, quads);
            _mm512_store_si512(s->weights[p][q], quads[0]);
            _mm512_store_si512(s->weights[p][q + 1], quads[1]);
        }
        part->weights[p] = s->weights[p][0];
    }
}

static void block_sweep(sweep *s, size_t block)
{
    const mx_int_pair *pair = &s->layout->pair;
    size_t begin = block * pair->block / 4;
    size_t n_quads = mx_round_up(mx_int_pair_length(pair, block), 8) / 4;
    table_fill(s, block);
    for (size_t q = 0; q < n_quads; q += PIECE_QUADS) {
        piece part = {
            .block = block,
            .first_quad = begin + q,
            .n_quads = mx_min_size(n_quads - q, PIECE_QUADS),
            .begins = q == 0,
            .ends = n_quads - q <= PIECE_QUADS,
        };
        piece_weights(s, &part);
        piece_sweep_any(s, &part);
    }
}

/* acc [tokens][n_panels][16] to out columns [row, row + n_rows). */
static void sweep_store(const sweep *s, const mx_int_product *product, size_t token,
                        size_t n_tokens, size_t row)
{
    for (size_t p = 0; p < s->n_panels; p++) {
        size_t n_rows = mx_min_size(product->n_rows - row - p * 16, 16);
        __mmask16 mask = (__mmask16)((1u << n_rows) - 1);
        float *out = product->out + token * product->out_stride + row + p * 16;
        for (size_t t = 0; t < n_tokens; t++) {
            _mm512_mask_storeu_ps(out + t * product->out_stride, mask,
                                  _mm512_load_ps(s->acc[t][p]));
        }
    }
}

static void product_sweep(const mx_int_product *product, const mx_int_layout *layout,
                          size_t first_panel, size_t n_panels, size_t first_tile)
{
    const uint8_t *panels = product->panels + first_panel * layout->panel_bytes;
    size_t token = first_tile * 16,
           n_tokens = mx_min_size(product->n_tokens - token, GROUP_TILES * 16);
    sweep s;
    s.layout = layout;
    s.n_panels = n_panels;
    s.tiles = product->tiles + first_tile * layout->tile_bytes;
    s.n_tiles = (n_tokens + 15) / 16;
    s.plain = true;
    s.nibbles = _mm512_setzero_si512();
    if (layout->nibbles) {
        s.nibbles = nibble_table(layout, product->weights->format);
    }
    for (size_t p = 0; p < n_panels; p++) {
        s.panels[p] = panels + p * layout->panel_bytes;
        s.plain = s.plain && mx_layout_is_plain(layout, s.panels[p], s.tiles, s.n_tiles);
        _mm512_store_ps(s.table[p][MX_E8M0_NAN], _mm512_set1_ps(__builtin_nanf("")));
    }
    memset(s.acc, 0, s.n_tiles * sizeof s.acc[0] * 16);
    for (size_t b = 0; b < layout->pair.n_blocks; b++) {
        block_sweep(&s, b);
    }
    sweep_store(&s, product, token, n_tokens, first_panel * 16);
}

/* ---- few tokens ------------------------------------------------------------ */

/* One block of 16 * n_panels rows x n_tokens: panels and tile at their bases. */
MX_TEMPLATE void small_block(const mx_int_layout *layout, const uint8_t *panels,
                             const uint8_t *tile, size_t block, size_t octet, size_t n_octets,
                             __m512i table, bool nibbles, int n_panels, int n_tokens,
                             __m512 acc[4][SMALL_TOKENS])
{
    size_t octet_bytes = MX_QUAD_BYTES * (nibbles ? 1 : 2);
    const uint8_t *codes = panels + layout->panel_codes + octet * octet_bytes;
    const uint8_t *a = tile + layout->tile_codes + octet * 2 * MX_QUAD_BYTES;
    const uint8_t *lane = tile + block * 64;
    __m512i dot[4][SMALL_TOKENS];
    MX_UNROLL
    for (int p = 0; p < n_panels; p++) {
        MX_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            dot[p][t] = broadcast_u32(lane + layout->tile_seeds + t * 4);
        }
    }
    for (size_t o = 0; o < n_octets; o++) {
        MX_UNROLL
        for (int p = 0; p < n_panels; p++) {
            __m512i w[2];
            octet_load(codes + (size_t)p * layout->panel_bytes + o * octet_bytes, nibbles, table,
                       w);
            MX_UNROLL
            for (int t = 0; t < n_tokens; t++) {
                const uint8_t *quad = a + o * 2 * MX_QUAD_BYTES + t * 4;
                dot[p][t] = _mm512_dpbusd_epi32(dot[p][t], w[0], broadcast_u32(quad));
                dot[p][t] =
                    _mm512_dpbusd_epi32(dot[p][t], w[1], broadcast_u32(quad + MX_QUAD_BYTES));
            }
        }
    }
    MX_UNROLL
    for (int p = 0; p < n_panels; p++) {
        const uint8_t *scales =
            panels + (size_t)p * layout->panel_bytes + layout->panel_scales + block * 16;
        /* Plain panels: bytes 1 .. 254 are exponent fields as they are. */
        __m512i bits = _mm512_cvtepu8_epi32(_mm_load_si128((const __m128i *)scales));
        __m512 scale = _mm512_castsi512_ps(_mm512_slli_epi32(bits, 23));
        MX_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            __m512 factor = _mm512_castsi512_ps(broadcast_u32(lane + layout->tile_factors + t * 4));
            __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(dot[p][t]), scale);
            acc[p][t] = _mm512_fmadd_ps(value, factor, acc[p][t]);
        }
    }
}

MX_TEMPLATE void small_tile(const mx_int_product *product, const mx_int_layout *layout,
                            size_t first_panel, __m512i table, bool nibbles, int n_panels,
                            int n_tokens)
{
    const mx_int_pair *pair = &layout->pair;
    const uint8_t *panels = product->panels + first_panel * layout->panel_bytes;
    __m512 acc[4][SMALL_TOKENS];
    MX_UNROLL
    for (int p = 0; p < n_panels; p++) {
        MX_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            acc[p][t] = _mm512_setzero_ps();
        }
    }
    for (size_t b = 0; b < pair->n_blocks; b++) {
        size_t octet = b * pair->block / 8, n_octets = (mx_int_pair_length(pair, b) + 7) / 8;
        if (n_octets == 4) {
            small_block(layout, panels, product->tiles, b, octet, 4, table, nibbles, n_panels,
                        n_tokens, acc);
        } else {
            small_block(layout, panels, product->tiles, b, octet, n_octets, table, nibbles,
                        n_panels, n_tokens, acc);
        }
    }
    MX_UNROLL
    for (int p = 0; p < n_panels; p++) {
        size_t row = (first_panel + (size_t)p) * 16;
        __mmask16 mask = (__mmask16)((1u << mx_min_size(product->n_rows - row, 16)) - 1);
        MX_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            if ((size_t)t < product->n_tokens) {
                float *out = product->out + (size_t)t * product->out_stride + row;
                _mm512_mask_storeu_ps(out, mask, acc[p][t]);
            }
        }
    }
}

/* Panels taken at once: enough independent chains to hide vpdpbusd's latency. */
static size_t small_panels(size_t n_tokens)
{
    return n_tokens == 1 ? 4 : n_tokens <= 4 ? 2 : 1;
}

MX_TEMPLATE void small_shape(const mx_int_product *product, const mx_int_layout *layout,
                             size_t panel, size_t n_panels, __m512i table, bool nibbles)
{
    size_t n = product->n_tokens;
    if (n == 1) {
        n_panels == 4 ? small_tile(product, layout, panel, table, nibbles, 4, 1)
                      : small_tile(product, layout, panel, table, nibbles, 1, 1);
    } else if (n == 2) {
        n_panels == 2 ? small_tile(product, layout, panel, table, nibbles, 2, 2)
                      : small_tile(product, layout, panel, table, nibbles, 1, 2);
    } else if (n <= 4) {
        n_panels == 2 ? small_tile(product, layout, panel, table, nibbles, 2, 4)
                      : small_tile(product, layout, panel, table, nibbles, 1, 4);
    } else {
        small_tile(product, layout, panel, table, nibbles, 1, 8);
    }
}

static void small_nibbles(const mx_int_product *product, const mx_int_layout *layout, size_t panel,
                          size_t n_panels)
{
    __m512i table = nibble_table(layout, product->weights->format);
    small_shape(product, layout, panel, n_panels, table, true);
}

static void small_bytes(const mx_int_product *product, const mx_int_layout *layout, size_t panel,
                        size_t n_panels)
{
    small_shape(product, layout, panel, n_panels, _mm512_setzero_si512(), false);
}

static void product_small(const mx_int_product *product, const mx_int_layout *layout)
{
    size_t at_once = small_panels(product->n_tokens), n = 0;
    for (size_t panel = 0; panel < product->n_panels; panel += n) {
        n = product->n_panels - panel >= at_once ? at_once : 1;
        bool plain = true;
        for (size_t p = panel; p < panel + n; p++) {
            plain = plain && mx_layout_is_plain(layout, product->panels + p * layout->panel_bytes,
                                                product->tiles, 1);
        }
        if (!plain) {
            n = 1;
            product_sweep(product, layout, panel, 1, 0);
        } else if (layout->nibbles) {
            small_nibbles(product, layout, panel, n);
        } else {
            small_bytes(product, layout, panel, n);
        }
    }
}

void mx_avx512_int_product(const mx_int_product *product)
{
    mx_int_layout layout = mx_int_layout_make(product->weights, product->activations, product->k);
    size_t n_panels = (product->n_rows + 15) / 16; /* panels without rows have no output */
    if (product->n_tokens <= SMALL_TOKENS) {
        mx_int_product valid = *product;
        valid.n_panels = n_panels;
        product_small(&valid, &layout);
        return;
    }
    size_t n_tiles = (product->n_tokens + 15) / 16;
    for (size_t tile = 0; tile < n_tiles; tile += GROUP_TILES) {
        for (size_t panel = 0; panel < n_panels; panel += 2) {
            product_sweep(product, &layout, panel, mx_min_size(n_panels - panel, 2), tile);
        }
    }
}

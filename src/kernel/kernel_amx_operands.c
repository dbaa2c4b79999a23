/* Operands of the tile unit: bf16 with the scales in them (see kernel_amx.c). */
#include "kernel/kernel_amx.h"

#include "kernel/unroll.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

/* ---- layout ------------------------------------------------------------------- */

/* The largest scale byte that leaves every weight finite with it. */
static int top_scale(const mx_format *format)
{
    float max = format->int_table != NULL ? 0x1p7f : format->max;
    return 2 * MX_E8M0_BIAS - ilogbf(max);
}

mx_amx_layout mx_amx_layout_make(const mx_quant *weights, const mx_quant *activations, size_t k)
{
    mx_amx_layout layout = {
        .pair = mx_block_pair_make(weights, activations, k),
        .top = top_scale(weights->format),
    };
    size_t rows_bytes = 0;
    if (layout.pair.block == MX_AMX_BLOCK && k % MX_AMX_BLOCK == 0) {
        rows_bytes = layout.pair.n_blocks * MX_AMX_BLOCK_BYTES;
    }
    if (layout.pair.is_int) {
        mx_int_layout *ints = &layout.ints;
        *ints = mx_int_layout_make(weights, activations, k);
        layout.tile_rows = rows_bytes > 0 ? ints->tile_bytes : 0;
        ints->tile_bytes += rows_bytes;
        layout.panel_bytes = ints->panel_bytes;
        layout.panel_scales = ints->panel_scales;
        layout.panel_codes = ints->panel_codes;
        layout.tile_bytes = ints->tile_bytes;
        layout.block_code_bytes = (size_t)MX_QUAD_BYTES * (ints->nibbles ? 4 : 8);
    } else {
        mx_minifloat_layout *minifloats = &layout.minifloats;
        *minifloats = mx_minifloat_layout_make(weights, activations, k);
        layout.tile_rows = rows_bytes > 0 ? minifloats->tile_bytes : 0;
        minifloats->tile_bytes += rows_bytes;
        layout.panel_bytes = minifloats->panel_bytes;
        layout.panel_scales = minifloats->panel_scales;
        layout.panel_codes = minifloats->panel_codes;
        layout.tile_bytes = minifloats->tile_bytes;
        layout.block_code_bytes = mx_minifloat_code_bytes(minifloats, MX_AMX_BLOCK);
    }
    return layout;
}

/*
 * All products of a block are multiples of one power of two, 2^e with
 * e = ew + ea - shift, and so are sums, whether they are rounded or not. Where
 * 2^e >= 2^-126 nothing is subnormal, accumulators included, and where nothing
 * overflows either, scales in the operands change no rounding. Both ranges contain 2^0,
 * so that the operands are normal and finite with their products.
 */
bool mx_amx_can(const mx_amx_layout *layout, const mx_block_product *product)
{
    if (layout->tile_rows == 0) {
        return false;
    }
    const mx_block_pair *pair = &layout->pair;
    size_t n_panels = (product->n_rows + MX_PANEL_ROWS - 1) / MX_PANEL_ROWS;
    size_t n_tiles = (product->n_tokens + MX_TILE_TOKENS - 1) / MX_TILE_TOKENS;
    mx_scale_range r = mx_scale_range_of(product->panels, layout->panel_bytes, n_panels,
                                         product->tiles, layout->tile_bytes, n_tiles);
    int bias = 2 * MX_E8M0_BIAS + pair->shift;
    return r.w_max <= layout->top && r.w_min + r.a_min - bias >= -126 &&
           r.w_max + r.a_max - bias + pair->dot_bits <= 127;
}

/* ---- tiles -------------------------------------------------------------------- */

/* Where in two vectors of fp32, as 16-bit halves, the upper halves of a block's
 * elements lie, in the order of rows. */
static __m512i row_order(bool is_int)
{
    static const uint8_t octet[8] = {0, 2, 4, 6, 1, 3, 5, 7};
    uint16_t order[MX_AMX_BLOCK];
    for (size_t i = 0; i < MX_AMX_BLOCK; i++) {
        order[i] = (uint16_t)(2 * (is_int ? i / 8 * 8 + octet[i % 8] : i) + 1);
    }
    return _mm512_loadu_si512(order);
}

/* A block's elements as bf16, to `row`. */
static inline void row_store(__m512 low, __m512 high, float factor, __m512i order, uint8_t *row)
{
    __m512 scale = _mm512_set1_ps(factor);
    low = _mm512_mul_ps(low, scale);
    high = _mm512_mul_ps(high, scale);
    _mm512_store_si512(
        row, _mm512_permutex2var_epi16(_mm512_castps_si512(low), order, _mm512_castps_si512(high)));
}

/* One token's block b: quads [8][16][4] from the token's place on. */
static inline void int_row(const mx_int_layout *layout, const uint8_t *tile, size_t b, size_t t,
                           __m512i order, uint8_t *row)
{
    const __m256i places = _mm256_setr_epi32(0, 64, 128, 192, 256, 320, 384, 448);
    const float *factors = (const float *)(const void *)(tile + layout->tile_factors + b * 64);
    const uint8_t *quads = tile + layout->tile_codes + b * 8 * MX_QUAD_BYTES + 4 * t;
    __m256i values = _mm256_i32gather_epi32((const int *)(const void *)quads, places, 1);
    __m512i low = _mm512_cvtepi8_epi32(_mm256_castsi256_si128(values));
    __m512i high = _mm512_cvtepi8_epi32(_mm256_extracti128_si256(values, 1));
    row_store(_mm512_cvtepi32_ps(low), _mm512_cvtepi32_ps(high), factors[t], order, row);
}

static inline void minifloat_row(const mx_minifloat_layout *layout, const uint8_t *tile, size_t b,
                                 size_t t, __m512i order, uint8_t *row)
{
    const float *factors = (const float *)(const void *)(tile + layout->tile_factors + b * 64);
    const float *values = (const float *)(const void *)(tile + layout->tile_values);
    values += t * layout->stride + b * MX_AMX_BLOCK;
    row_store(_mm512_load_ps(values), _mm512_load_ps(values + 16), factors[t], order, row);
}

void mx_amx_tile_pack(const mx_quant *weights, const mx_quant *activations, size_t k,
                      const float *x, size_t x_stride, size_t n_tokens, uint64_t first_stream,
                      uint8_t *tile)
{
    mx_avx512_tile_pack(weights, activations, k, x, x_stride, n_tokens, first_stream, tile);
    mx_amx_layout layout = mx_amx_layout_make(weights, activations, k);
    if (layout.tile_rows == 0) {
        return;
    }
    __m512i order = row_order(layout.pair.is_int);
    for (size_t b = 0; b < layout.pair.n_blocks; b++) {
        uint8_t *rows = tile + layout.tile_rows + b * MX_AMX_BLOCK_BYTES;
        for (size_t t = 0; t < n_tokens; t++) {
            if (layout.pair.is_int) {
                int_row(&layout.ints, tile, b, t, order, rows + t * 64);
            } else {
                minifloat_row(&layout.minifloats, tile, b, t, order, rows + t * 64);
            }
        }
    }
}

size_t mx_amx_tile_bytes(const mx_quant *weights, const mx_quant *activations, size_t k)
{
    return mx_amx_layout_make(weights, activations, k).tile_bytes;
}

/* ---- weights ------------------------------------------------------------------ */

/* Upper halves of 16 fp32. */
static inline __m256i upper_halves(__m512 values)
{
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(values), 16));
}

static __m512i nibble_table(const mx_format *format, float top)
{
    float values[16];
    for (size_t i = 0; i < 16; i++) {
        values[i] = (float)format->int_table[i & ((1u << format->bits) - 1)] * top;
    }
    return _mm512_broadcast_i64x4(upper_halves(_mm512_loadu_ps(values)));
}

static void carrier_tables(mx_carrier carrier, float top, mx_amx_tables *tables)
{
    uint8_t high[128], low[128];
    __m256i byte = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (size_t i = 0; i < 128; i += 16) {
        __m256i half =
            carrier == MX_CARRIER_E4M3 ? _mm256_slli_epi16(byte, 7) : _mm256_slli_epi16(byte, 8);
        __m512 values = _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(top));
        __m256i upper = upper_halves(values);
        _mm_storeu_si128((__m128i *)(void *)(low + i), _mm256_cvtepi16_epi8(upper));
        upper = _mm256_srli_epi16(upper, 8);
        _mm_storeu_si128((__m128i *)(void *)(high + i), _mm256_cvtepi16_epi8(upper));
        byte = _mm256_add_epi16(byte, _mm256_set1_epi16(16));
    }
    for (size_t i = 0; i < 2; i++) {
        tables->high[i] = _mm512_loadu_si512(high + 64 * i);
        tables->low[i] = _mm512_loadu_si512(low + 64 * i);
    }
}

/* Four rows of 16 bytes of two vectors to pairs by row: of the first two, and of the
 * last two. */
static void pair_orders(mx_amx_tables *tables)
{
    uint8_t orders[2][64];
    for (size_t i = 0; i < 2 * 64; i++) {
        size_t row = i % 64 / 4, element = i / 64 * 2 + i % 4 / 2, from = i % 2 * 64;
        orders[i / 64][i % 64] = (uint8_t)(from + element * 16 + row);
    }
    tables->orders[0] = _mm512_loadu_si512(orders[0]);
    tables->orders[1] = _mm512_loadu_si512(orders[1]);
}

void mx_amx_tables_make(const mx_amx_layout *layout, const mx_format *format, mx_amx_tables *tables)
{
    const mx_minifloat_layout *minifloats = &layout->minifloats;
    uint32_t bits = (uint32_t)(layout->top + minifloats->unit) << 23;
    float top;
    memcpy(&top, &bits, sizeof top);
    if (layout->ints.nibbles || minifloats->nibbles) {
        tables->nibbles = nibble_table(format, top);
    } else if (!layout->pair.is_int && minifloats->carrier != MX_CARRIER_INT8) {
        carrier_tables(minifloats->carrier, top, tables);
        pair_orders(tables);
    }
}

/* A block's codes and its rows' scale bytes. */
typedef struct weight_block {
    const mx_amx_tables *tables;
    const uint8_t *codes;
    __m512i down;  /* what the scales take from the tables' bf16 numbers, twice */
    __m512 factor; /* 2^(ew + unit) */
} weight_block;

/* Codes in the 16-bit halves of `index`, to a pair of elements. */
MX_TEMPLATE void nibbles_store(const weight_block *block, __m512i index, uint8_t *to)
{
    __m512i values = _mm512_permutexvar_epi16(index, block->tables->nibbles);
    _mm512_store_si512(to, _mm512_subs_epu16(values, block->down));
}

/* [4 octets][16 rows][4 bytes] of nibbles. */
static inline void block_of_octets(const weight_block *block, uint8_t *pairs)
{
    MX_UNROLL
    for (int octet = 0; octet < 4; octet++) {
        __m512i x = _mm512_load_si512(block->codes + octet * MX_QUAD_BYTES);
        uint8_t *to = pairs + octet * 4 * 64;
        nibbles_store(block, x, to);
        nibbles_store(block, _mm512_srli_epi16(x, 4), to + 64);
        nibbles_store(block, _mm512_srli_epi16(x, 8), to + 2 * 64);
        nibbles_store(block, _mm512_srli_epi16(x, 12), to + 3 * 64);
    }
}

/* [16 pairs][16 rows] of nibbles: the even element in the low one. */
static inline void block_of_nibbles(const weight_block *block, uint8_t *pairs)
{
    MX_UNROLL
    for (int i = 0; i < 16; i++) {
        const uint8_t *at = block->codes + i * MX_PANEL_ROWS;
        __m512i x = _mm512_cvtepu8_epi32(_mm_load_si128((const __m128i *)(const void *)at));
        nibbles_store(block, _mm512_or_si512(x, _mm512_slli_epi32(x, 12)), pairs + i * 64);
    }
}

/* [32 elements][16 rows] of carriers of minifloats. */
static inline void block_of_minifloats(const weight_block *block, uint8_t *pairs)
{
    const mx_amx_tables *tables = block->tables;
    __m512i sign = _mm512_set1_epi8((char)0x80);
    MX_UNROLL
    for (int i = 0; i < 8; i++) {
        __m512i x = _mm512_load_si512(block->codes + i * 64);
        __m512i low = _mm512_permutex2var_epi8(tables->low[0], x, tables->low[1]);
        __m512i high = _mm512_permutex2var_epi8(tables->high[0], x, tables->high[1]);
        high = _mm512_ternarylogic_epi64(high, x, sign, 0xF8); /* high | (x & sign) */
        MX_UNROLL
        for (int j = 0; j < 2; j++) {
            __m512i pair = _mm512_permutex2var_epi8(low, tables->orders[j], high);
            _mm512_store_si512(pairs + (2 * i + j) * 64, _mm512_subs_epu16(pair, block->down));
        }
    }
}

/* Two int32 of every row, times its factor, as a pair. */
MX_TEMPLATE void pair_store(const weight_block *block, __m512i even, __m512i odd, uint8_t *to)
{
    __m512 low = _mm512_mul_ps(_mm512_cvtepi32_ps(even), block->factor);
    __m512 high = _mm512_mul_ps(_mm512_cvtepi32_ps(odd), block->factor);
    __m512i lower = _mm512_srli_epi32(_mm512_castps_si512(low), 16);
    _mm512_store_si512(to, _mm512_mask_blend_epi16(0xAAAAAAAA, lower, _mm512_castps_si512(high)));
}

/* [8 quads][16 rows][4 bytes], stored with 128 added: flipping the top bit takes it
 * off. */
static inline void block_of_quads(const weight_block *block, uint8_t *pairs)
{
    __m512i flip = _mm512_set1_epi8((char)0x80);
    MX_UNROLL
    for (int quad = 0; quad < 8; quad++) {
        __m512i x = _mm512_load_si512(block->codes + quad * MX_QUAD_BYTES), b[4];
        x = _mm512_xor_si512(x, flip);
        MX_UNROLL
        for (int i = 0; i < 4; i++) {
            b[i] = _mm512_srai_epi32(_mm512_slli_epi32(x, (unsigned)(24 - 8 * i)), 24);
        }
        uint8_t *to = pairs + (quad / 2 * 4 + quad % 2) * 64; /* of octets: 0 2, 4 6, 1 3, 5 7 */
        pair_store(block, b[0], b[2], to);
        pair_store(block, b[1], b[3], to + 2 * 64);
    }
}

/* [32 elements][16 rows] of int8. */
static inline void block_of_int8(const weight_block *block, uint8_t *pairs)
{
    MX_UNROLL
    for (int i = 0; i < 16; i++) {
        const __m128i *at = (const __m128i *)(const void *)(block->codes + i * 32);
        __m512i even = _mm512_cvtepi8_epi32(_mm_load_si128(at));
        __m512i odd = _mm512_cvtepi8_epi32(_mm_load_si128(at + 1));
        pair_store(block, even, odd, pairs + i * 64);
    }
}

static void block_unpack(const mx_amx_layout *layout, const weight_block *block, uint8_t *pairs)
{
    const mx_minifloat_layout *minifloats = &layout->minifloats;
    if (layout->pair.is_int) {
        layout->ints.nibbles ? block_of_octets(block, pairs) : block_of_quads(block, pairs);
    } else if (minifloats->nibbles) {
        block_of_nibbles(block, pairs);
    } else if (minifloats->carrier == MX_CARRIER_INT8) {
        block_of_int8(block, pairs);
    } else {
        block_of_minifloats(block, pairs);
    }
}

void mx_amx_panel_unpack(const mx_amx_layout *layout, const mx_amx_tables *tables,
                         const uint8_t *panel, size_t first, size_t n, size_t ahead,
                         mx_amx_block *blocks)
{
    const uint8_t *scales = panel + layout->panel_scales + first * MX_PANEL_ROWS;
    const uint8_t *codes = panel + layout->panel_codes + first * layout->block_code_bytes;
    __m512i unit = _mm512_set1_epi32(layout->minifloats.unit); /* 0 of integer pairs */
    for (size_t b = 0; b < n; b++) {
        for (size_t i = 0; i < layout->block_code_bytes; i += 64) {
            _mm_prefetch((const char *)codes + ahead + i, _MM_HINT_T0);
        }
        _mm_prefetch((const char *)scales + ahead, _MM_HINT_T0);
        __m512i scale = _mm512_cvtepu8_epi32(_mm_load_si128((const __m128i *)(const void *)scales));
        __m512i down = _mm512_sub_epi32(_mm512_set1_epi32(layout->top), scale);
        weight_block block = {
            .tables = tables,
            .codes = codes,
            .down = _mm512_or_si512(_mm512_slli_epi32(down, 7), _mm512_slli_epi32(down, 23)),
            .factor = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(scale, unit), 23)),
        };
        block_unpack(layout, &block, blocks[b].pairs);
        codes += layout->block_code_bytes;
        scales += MX_PANEL_ROWS;
    }
}

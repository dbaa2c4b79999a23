/* Exact integer product of few tokens with AVX2: panels of 4-bit weights are read once and
 * unpacked in registers. */
#include "kernel/lanes_avx2_int.h"

enum {
    SMALL = 4,          /* tokens, at most */
    SMALL_PANELS = 2,   /* read side by side */
    SMALL_AHEAD = 2048, /* bytes of codes */
};

/* Two quads of 4-bit weights, 8 rows (a half) each: sum += over n_tokens. */
MX_TEMPLATE void small_octet(__m256i codes, __m256i table, const uint8_t *a, int half, int n_tokens,
                             __m256i sum[SMALL][2])
{
    __m256i mask = _mm256_set1_epi8(15);
    __m256i first = _mm256_shuffle_epi8(table, _mm256_and_si256(codes, mask));
    __m256i second =
        _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(codes, 4), mask));
    MX_UNROLL
    for (int t = 0; t < n_tokens; t++) {
        __m256i x = _mm256_maddubs_epi16(first, broadcast_u32(a + t * 4));
        __m256i y = _mm256_maddubs_epi16(second, broadcast_u32(a + MX_QUAD_BYTES + t * 4));
        sum[t][half] = opaque(_mm256_add_epi16(sum[t][half], _mm256_add_epi16(x, y)));
    }
}

/* One block of 32 of a plain panel, unpacked in registers; `tile` at its base. */
MX_TEMPLATE void small_block(const mx_int_layout *layout, const uint8_t *panel, const uint8_t *tile,
                             size_t block, __m256i table, int n_tokens, lanes acc[SMALL])
{
    const uint8_t *codes = panel + layout->panel_codes + block * 4 * MX_QUAD_BYTES;
    const uint8_t *a = tile + layout->tile_codes + block * 8 * MX_QUAD_BYTES;
    const uint8_t *scales = panel + layout->panel_scales + block * 16;
    const uint8_t *lane = tile + block * 64;
    /* The processor's own prefetching stops at each page, and begins anew slowly. */
    MX_UNROLL
    for (size_t o = 0; o < 4; o++) {
        _mm_prefetch((const char *)codes + SMALL_AHEAD + o * MX_QUAD_BYTES, _MM_HINT_T0);
    }
    __m256i sum[SMALL][2], ones = _mm256_set1_epi16(1);
    MX_UNROLL
    for (int t = 0; t < n_tokens; t++) {
        sum[t][0] = sum[t][1] = _mm256_setzero_si256();
    }
    MX_UNROLL
    for (size_t o = 0; o < 4; o++) {
        const uint8_t *quads = a + o * 2 * MX_QUAD_BYTES;
        small_octet(load_i(codes + o * MX_QUAD_BYTES), table, quads, 0, n_tokens, sum);
        small_octet(load_i(codes + o * MX_QUAD_BYTES + 32), table, quads, 1, n_tokens, sum);
    }
    MX_UNROLL
    for (int half = 0; half < 2; half++) {
        /* Plain panels: bytes 1 .. 254 are exponent fields as they are. */
        const __m128i *bytes = (const __m128i *)(const void *)(scales + 8 * half);
        __m256i bits = _mm256_slli_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64(bytes)), 23);
        MX_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            __m256i dot = _mm256_add_epi32(_mm256_madd_epi16(sum[t][half], ones),
                                           broadcast_u32(lane + layout->tile_seeds + t * 4));
            __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(dot), _mm256_castsi256_ps(bits));
            __m256i factor = broadcast_u32(lane + layout->tile_factors + t * 4);
            __m256 *to = half == 0 ? &acc[t].low : &acc[t].high;
            *to = _mm256_fmadd_ps(value, _mm256_castsi256_ps(factor), *to);
        }
    }
}

/* n_panels panels, from `panel` on: as many streams of memory, since a processor asks
 * for more lines at once when several pages are read. */
MX_TEMPLATE void small_panels(const avx2_product *all, size_t panel, size_t n_panels, int n_tokens)
{
    const mx_block_product *product = all->product;
    const mx_int_layout *layout = &all->layout;
    const uint8_t *panels = product->panels + panel * layout->panel_bytes;
    lanes acc[SMALL_PANELS][SMALL];
    MX_UNROLL
    for (size_t p = 0; p < n_panels; p++) {
        MX_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            acc[p][t] = lanes_set(0);
        }
    }
    for (size_t b = 0; b < layout->pair.n_blocks; b++) {
        MX_UNROLL
        for (size_t p = 0; p < n_panels; p++) {
            small_block(layout, panels + p * layout->panel_bytes, product->tiles, b, all->nibbles,
                        n_tokens, acc[p]);
        }
    }
    for (size_t p = 0; p < n_panels; p++) {
        size_t row = (panel + p) * 16;
        MX_UNROLL
        for (int t = 0; t < n_tokens; t++) {
            lanes_store_part(product->out + (size_t)t * product->out_stride + row, acc[p][t],
                             mx_min_size(product->n_rows - row, 16));
        }
    }
}

/* True where small_panels serves: whole blocks of 32, 4-bit weights, 16-bit sums. */
static bool small_fits(const avx2_product *all, size_t panel)
{
    const mx_block_product *product = all->product;
    const mx_int_layout *layout = &all->layout;
    return product->n_tokens <= SMALL && layout->nibbles && layout->pair.block == 32 &&
           product->k % 32 == 0 && all->part_quads == 8 &&
           mx_layout_is_plain(layout, product->panels + panel * layout->panel_bytes, product->tiles,
                              1);
}

/* Two panels are too many for 16 registers beside 3 or 4 tokens. */
size_t mx_avx2_int_small(const avx2_product *all, size_t panel, size_t left)
{
    if (!small_fits(all, panel)) {
        return 0;
    }
    size_t n_tokens = all->product->n_tokens;
    if (n_tokens <= 2 && left >= SMALL_PANELS && small_fits(all, panel + 1)) {
        n_tokens == 1 ? small_panels(all, panel, SMALL_PANELS, 1)
                      : small_panels(all, panel, SMALL_PANELS, 2);
        return SMALL_PANELS;
    }
    switch (n_tokens) {
    case 1:
        small_panels(all, panel, 1, 1);
        break;
    case 2:
        small_panels(all, panel, 1, 2);
        break;
    case 3:
        small_panels(all, panel, 1, 3);
        break;
    default:
        small_panels(all, panel, 1, 4);
        break;
    }
    return 1;
}

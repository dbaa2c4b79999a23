/*
 * `lanes`: 16 floats, the unit in which the shared kernels (lanes_*.h) are written;
 * this is AVX-512's. lanes_avx2.h has the same names.
 */
#ifndef MX_KERNEL_LANES_AVX512_H
#define MX_KERNEL_LANES_AVX512_H

#include "kernel/lanes_x86.h"

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

typedef __m512 lanes;
typedef __mmask16 lanes_mask;

/* Of the block product's loop over a block: twice was slower. */
#define LANES_BLOCK_UNROLL

/* Register tiles of the shared templates, in lanes. */
enum {
    LANES_BF16_SUMS = 8,
    LANES_F32_PANELS = 2,
    LANES_F32_TOKENS = 12, /* fp32 product */
    LANES_BLOCK_PANELS = 2,
    LANES_BLOCK_TOKENS = 6, /* block product: two chains each */
    LANES_COLUMNS = 4,      /* attention, by LANES_ROWS rows */
};

static inline lanes lanes_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

/* 16 bf16. */
static inline lanes lanes_load_bf16(const uint16_t *p)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

/* Of lanes that hold two bf16 each: the one in the low half, the one in the high. */
static inline lanes lanes_bf16_low(lanes pair)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(pair), 16));
}

static inline lanes lanes_bf16_high(lanes pair)
{
    __m512i mask = _mm512_set1_epi32((int32_t)0xFFFF0000);
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(pair), mask));
}

/* To the nearest bf16, ties to even. NaN becomes anything. */
static inline lanes lanes_round_bf16(lanes v)
{
    __m512i bits = _mm512_castps_si512(v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    bits = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    return lanes_bf16_high(_mm512_castsi512_ps(bits));
}

static inline void lanes_store(float *p, lanes v)
{
    _mm512_storeu_ps(p, v);
}

/* The first n (0..16) elements; the rest is +0 and memory there is not touched. */
static inline lanes lanes_load_part(const float *p, size_t n)
{
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}

static inline void lanes_store_part(float *p, lanes v, size_t n)
{
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), v);
}

static inline lanes lanes_set(float x)
{
    return _mm512_set1_ps(x);
}

static inline lanes lanes_add(lanes a, lanes b)
{
    return _mm512_add_ps(a, b);
}

static inline lanes lanes_sub(lanes a, lanes b)
{
    return _mm512_sub_ps(a, b);
}

static inline lanes lanes_mul(lanes a, lanes b)
{
    return _mm512_mul_ps(a, b);
}

static inline lanes lanes_div(lanes a, lanes b)
{
    return _mm512_div_ps(a, b);
}

/* a * b + c, rounded once. */
static inline lanes lanes_fma(lanes a, lanes b, lanes c)
{
    return _mm512_fmadd_ps(a, b, c);
}

/* The larger / smaller; b where either is NaN. */
static inline lanes lanes_max(lanes a, lanes b)
{
    return _mm512_max_ps(a, b);
}

static inline lanes lanes_min(lanes a, lanes b)
{
    return _mm512_min_ps(a, b);
}

/* Bit operations. */
static inline lanes lanes_and(lanes a, lanes b)
{
    return _mm512_and_ps(a, b);
}

static inline lanes lanes_or(lanes a, lanes b)
{
    return _mm512_or_ps(a, b);
}

static inline lanes lanes_xor(lanes a, lanes b)
{
    return _mm512_xor_ps(a, b);
}

static inline lanes lanes_set_bits(uint32_t bits)
{
    return _mm512_castsi512_ps(_mm512_set1_epi32((int32_t)bits));
}

/* The larger of the bit patterns, as int32. */
static inline lanes lanes_max_bits(lanes a, lanes b)
{
    return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}

static inline int32_t lanes_fold_max_bits(lanes v)
{
    return _mm512_reduce_max_epi32(_mm512_castps_si512(v));
}

/* False where either is NaN. */
static inline lanes_mask lanes_less(lanes a, lanes b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}

static inline lanes_mask lanes_equal(lanes a, lanes b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}

/* Bit j of the result: the mask's lane j. */
static inline uint32_t lanes_mask_bits(lanes_mask mask)
{
    return mask;
}

/* The first n lanes. */
static inline lanes_mask lanes_first(size_t n)
{
    return (__mmask16)((1u << n) - 1);
}

static inline lanes lanes_select(lanes_mask mask, lanes yes, lanes no)
{
    return _mm512_mask_mov_ps(no, mask, yes);
}

/* p * 2^n, rounded once: n integral, |n| <= 200; |p| in [2^-20, 2^20] or NaN. */
static inline lanes lanes_scale(lanes p, lanes n)
{
    return _mm512_scalef_ps(p, n);
}

/* The sum, in the order of kernel.h. */
static inline float lanes_fold(lanes v)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
}

/* The largest lane, of zeros any. No lane may be NaN. */
static inline float lanes_fold_max(lanes v)
{
    return _mm512_reduce_max_ps(v);
}

/* Integral lanes of at most 127 in magnitude, as bytes. */
static inline lanes_bytes lanes_to_bytes(lanes v)
{
    return _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v));
}

/* int8 as floats. */
static inline lanes lanes_bytes_int8(lanes_bytes bytes)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}

/* Upper bytes of fp16, the lower ones 0. */
static inline lanes lanes_bytes_e5m2(lanes_bytes bytes)
{
    return _mm512_cvtph_ps(_mm256_slli_epi16(_mm256_cvtepu8_epi16(bytes), 8));
}

/* fp8_e4m3 * 2^-8: an fp16 when the bits below the sign go one place down. */
static inline lanes lanes_bytes_e4m3(lanes_bytes bytes)
{
    __m256i half = _mm256_slli_epi16(_mm256_cvtepu8_epi16(bytes), 8);
    half = _mm256_and_si256(_mm256_srai_epi16(half, 1), _mm256_set1_epi16((int16_t)0xBFFF));
    return _mm512_cvtph_ps(half);
}

/* 16 integers as floats. */
static inline lanes lanes_from_u32(const uint32_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_loadu_si512(p));
}

/* out[i]: factor times the sum of the 4 int8 at each i-th 32-bit place of n_quads
 * rows of 64 bytes. */
static inline void lanes_quads_sum(const uint8_t *quads, size_t n_quads, int32_t factor,
                                   int32_t out[16])
{
    __m512i sum = _mm512_setzero_si512(), ones = _mm512_set1_epi8(1);
    for (size_t q = 0; q < n_quads; q++) {
        sum = _mm512_dpbusd_epi32(sum, ones, _mm512_load_si512(quads + q * 64));
    }
    _mm512_storeu_si512(out, _mm512_mullo_epi32(sum, _mm512_set1_epi32(factor)));
}

/* 16 doubles. */
typedef struct lanes_double {
    __m512d low, high;
} lanes_double;

static inline lanes_double lanes_double_zero(void)
{
    return (lanes_double){_mm512_setzero_pd(), _mm512_setzero_pd()};
}

static inline lanes_double lanes_double_add(lanes_double sum, lanes v)
{
    return (lanes_double){
        _mm512_add_pd(sum.low, _mm512_cvtps_pd(_mm512_castps512_ps256(v))),
        _mm512_add_pd(sum.high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1))),
    };
}

static inline double lanes_double_fold(lanes_double v)
{
    __m512d a = _mm512_add_pd(v.low, v.high);
    __m256d b = _mm256_add_pd(_mm512_castpd512_pd256(a), _mm512_extractf64x4_pd(a, 1));
    __m128d c = _mm_add_pd(_mm256_castpd256_pd128(b), _mm256_extractf128_pd(b, 1));
    return _mm_cvtsd_f64(_mm_add_sd(c, _mm_unpackhi_pd(c, c)));
}

/*
 * rows[r][0..16) to panel [16][16], transposed. Pairs of rows interleave to pairs
 * of columns, those to quadruples, and two rounds of 128-bit shuffles finish.
 */
static inline void lanes_transpose(const float *const rows[16], size_t at, float *panel)
{
    __m512 a[16], b[16];
    for (size_t r = 0; r < 16; r++) {
        a[r] = _mm512_loadu_ps(rows[r] + at);
    }
    for (size_t r = 0; r < 16; r += 2) {
        b[r] = _mm512_unpacklo_ps(a[r], a[r + 1]);
        b[r + 1] = _mm512_unpackhi_ps(a[r], a[r + 1]);
    }
    for (size_t r = 0; r < 16; r += 4) {
        for (size_t i = 0; i < 2; i++) {
            __m512d x = _mm512_castps_pd(b[r + i]), y = _mm512_castps_pd(b[r + 2 + i]);
            a[r + 2 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
            a[r + 2 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
        }
    }
    /* a[4 g + i]: 128-bit part p holds column 4 p + i of rows 4 g .. 4 g + 3. */
    for (size_t i = 0; i < 4; i++) {
        __m512 low = _mm512_shuffle_f32x4(a[i], a[4 + i], 0x44);       /* g 0, 1; p 0, 1 */
        __m512 high = _mm512_shuffle_f32x4(a[i], a[4 + i], 0xEE);      /* p 2, 3 */
        __m512 low2 = _mm512_shuffle_f32x4(a[8 + i], a[12 + i], 0x44); /* g 2, 3 */
        __m512 high2 = _mm512_shuffle_f32x4(a[8 + i], a[12 + i], 0xEE);
        _mm512_storeu_ps(panel + i * 16, _mm512_shuffle_f32x4(low, low2, 0x88));
        _mm512_storeu_ps(panel + (4 + i) * 16, _mm512_shuffle_f32x4(low, low2, 0xDD));
        _mm512_storeu_ps(panel + (8 + i) * 16, _mm512_shuffle_f32x4(high, high2, 0x88));
        _mm512_storeu_ps(panel + (12 + i) * 16, _mm512_shuffle_f32x4(high, high2, 0xDD));
    }
}

#endif

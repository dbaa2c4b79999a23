/* `lanes` of AVX2: 16 floats in two registers (see lanes_avx512.h). */
#ifndef MX_KERNEL_LANES_AVX2_H
#define MX_KERNEL_LANES_AVX2_H

#include "kernel/lanes_x86.h"

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

typedef struct lanes {
    __m256 low, high;
} lanes;

typedef lanes lanes_mask; /* all bits of a lane alike */

/* Of the block product's loop over a block: it is bound by instructions here. */
#define LANES_BLOCK_UNROLL MX_UNROLL_TWICE

/* Register tiles of the shared templates, in lanes. */
enum {
    LANES_BF16_SUMS = 4,
    LANES_F32_PANELS = 1,
    LANES_F32_TOKENS = 6, /* fp32 product */
    LANES_BLOCK_PANELS = 1,
    LANES_BLOCK_TOKENS = 3, /* block product: two chains each */
    LANES_COLUMNS = 1,      /* attention, by LANES_ROWS rows */
};

static inline lanes lanes_load(const float *p)
{
    return (lanes){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}

static inline __m256 lanes_half_load_bf16(const uint16_t *p)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

/* 16 bf16. */
static inline lanes lanes_load_bf16(const uint16_t *p)
{
    return (lanes){lanes_half_load_bf16(p), lanes_half_load_bf16(p + 8)};
}

static inline __m256 lanes_half_bf16_low(__m256 pair)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(pair), 16));
}

/* Of lanes that hold two bf16 each: the one in the low half, the one in the high. */
static inline lanes lanes_bf16_low(lanes pair)
{
    return (lanes){lanes_half_bf16_low(pair.low), lanes_half_bf16_low(pair.high)};
}

static inline lanes lanes_bf16_high(lanes pair)
{
    __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32((int32_t)0xFFFF0000));
    return (lanes){_mm256_and_ps(pair.low, mask), _mm256_and_ps(pair.high, mask)};
}

static inline __m256 lanes_half_bf16_up(__m256 v)
{
    __m256i bits = _mm256_castps_si256(v);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    bits = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    return _mm256_castsi256_ps(bits);
}

/* To the nearest bf16, ties to even. NaN becomes anything. */
static inline lanes lanes_round_bf16(lanes v)
{
    return lanes_bf16_high((lanes){lanes_half_bf16_up(v.low), lanes_half_bf16_up(v.high)});
}

static inline void lanes_store(float *p, lanes v)
{
    _mm256_storeu_ps(p, v.low);
    _mm256_storeu_ps(p + 8, v.high);
}

static inline lanes lanes_set(float x)
{
    return (lanes){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}

static inline lanes lanes_set_bits(uint32_t bits)
{
    __m256 v = _mm256_castsi256_ps(_mm256_set1_epi32((int32_t)bits));
    return (lanes){v, v};
}

/* The first n (0..16) lanes. */
static inline lanes_mask lanes_first(size_t n)
{
    __m256i limit = _mm256_set1_epi32((int32_t)n);
    __m256i low = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i high = _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15);
    return (lanes){_mm256_castsi256_ps(_mm256_cmpgt_epi32(limit, low)),
                   _mm256_castsi256_ps(_mm256_cmpgt_epi32(limit, high))};
}

/* The first n elements; the rest is +0 and memory there is not touched. */
static inline lanes lanes_load_part(const float *p, size_t n)
{
    if (n == 16) {
        return lanes_load(p);
    }
    lanes_mask mask = lanes_first(n);
    return (lanes){_mm256_maskload_ps(p, _mm256_castps_si256(mask.low)),
                   _mm256_maskload_ps(p + 8, _mm256_castps_si256(mask.high))};
}

/* By halving: masked stores are microcode on AMD's processors, tens of cycles each. */
static inline void lanes_store_part(float *p, lanes v, size_t n)
{
    if (n == 16) {
        lanes_store(p, v);
        return;
    }
    if (n & 8) {
        _mm256_storeu_ps(p, v.low);
        p += 8;
        v.low = v.high;
    }
    __m128 rest = _mm256_castps256_ps128(v.low);
    if (n & 4) {
        _mm_storeu_ps(p, rest);
        p += 4;
        rest = _mm256_extractf128_ps(v.low, 1);
    }
    if (n & 2) {
        _mm_storel_pi((__m64 *)(void *)p, rest);
        p += 2;
        rest = _mm_movehl_ps(rest, rest);
    }
    if (n & 1) {
        _mm_store_ss(p, rest);
    }
}

static inline lanes lanes_add(lanes a, lanes b)
{
    return (lanes){_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}

static inline lanes lanes_sub(lanes a, lanes b)
{
    return (lanes){_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}

static inline lanes lanes_mul(lanes a, lanes b)
{
    return (lanes){_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}

static inline lanes lanes_div(lanes a, lanes b)
{
    return (lanes){_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}

/* a * b + c, rounded once. */
static inline lanes lanes_fma(lanes a, lanes b, lanes c)
{
    return (lanes){_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}

/* The larger / smaller; b where either is NaN. */
static inline lanes lanes_max(lanes a, lanes b)
{
    return (lanes){_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}

static inline lanes lanes_min(lanes a, lanes b)
{
    return (lanes){_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}

/* Bit operations. */
static inline lanes lanes_and(lanes a, lanes b)
{
    return (lanes){_mm256_and_ps(a.low, b.low), _mm256_and_ps(a.high, b.high)};
}

static inline lanes lanes_or(lanes a, lanes b)
{
    return (lanes){_mm256_or_ps(a.low, b.low), _mm256_or_ps(a.high, b.high)};
}

static inline lanes lanes_xor(lanes a, lanes b)
{
    return (lanes){_mm256_xor_ps(a.low, b.low), _mm256_xor_ps(a.high, b.high)};
}

static inline __m256 lanes_half_max_bits(__m256 a, __m256 b)
{
    return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}

/* The larger of the bit patterns, as int32. */
static inline lanes lanes_max_bits(lanes a, lanes b)
{
    return (lanes){lanes_half_max_bits(a.low, b.low), lanes_half_max_bits(a.high, b.high)};
}

static inline int32_t lanes_fold_max_bits(lanes v)
{
    __m256i a = _mm256_castps_si256(lanes_half_max_bits(v.low, v.high));
    __m128i b = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    b = _mm_max_epi32(b, _mm_shuffle_epi32(b, 0x4E));
    return _mm_cvtsi128_si32(_mm_max_epi32(b, _mm_shuffle_epi32(b, 0xB1)));
}

/* False where either is NaN. */
static inline lanes_mask lanes_less(lanes a, lanes b)
{
    return (lanes){_mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ),
                   _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ)};
}

static inline lanes_mask lanes_equal(lanes a, lanes b)
{
    return (lanes){_mm256_cmp_ps(a.low, b.low, _CMP_EQ_OQ),
                   _mm256_cmp_ps(a.high, b.high, _CMP_EQ_OQ)};
}

/* Bit j of the result: the mask's lane j. */
static inline uint32_t lanes_mask_bits(lanes_mask mask)
{
    return (uint32_t)_mm256_movemask_ps(mask.low) | (uint32_t)_mm256_movemask_ps(mask.high) << 8;
}

static inline lanes lanes_select(lanes_mask mask, lanes yes, lanes no)
{
    return (lanes){_mm256_blendv_ps(no.low, yes.low, mask.low),
                   _mm256_blendv_ps(no.high, yes.high, mask.high)};
}

/* Two factors, so that each is a normal number; only the second product rounds. */
static inline __m256 lanes_half_scale(__m256 p, __m256 n)
{
    __m256i bias = _mm256_set1_epi32(127), exponent = _mm256_cvtps_epi32(n);
    __m256i first = _mm256_srai_epi32(exponent, 1), second = _mm256_sub_epi32(exponent, first);
    __m256i f = _mm256_slli_epi32(_mm256_add_epi32(first, bias), 23);
    __m256i g = _mm256_slli_epi32(_mm256_add_epi32(second, bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(f)), _mm256_castsi256_ps(g));
}

/* p * 2^n, rounded once: n integral, |n| <= 200; |p| in [2^-20, 2^20] or NaN. */
static inline lanes lanes_scale(lanes p, lanes n)
{
    return (lanes){lanes_half_scale(p.low, n.low), lanes_half_scale(p.high, n.high)};
}

/* The sum, in the order of kernel.h. */
static inline float lanes_fold(lanes v)
{
    __m256 a = _mm256_add_ps(v.low, v.high);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
}

/* The largest lane, of zeros any. No lane may be NaN. */
static inline float lanes_fold_max(lanes v)
{
    __m256 a = _mm256_max_ps(v.low, v.high);
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_shuffle_ps(b, b, 1)));
}

/* Integral lanes of at most 127 in magnitude, as bytes. */
static inline lanes_bytes lanes_to_bytes(lanes v)
{
    __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(v.low), _mm256_cvtps_epi32(v.high));
    words = _mm256_permute4x64_epi64(words, 0xD8); /* packs works within 128 bits */
    return _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

/* int8 as floats. */
static inline lanes lanes_bytes_int8(lanes_bytes bytes)
{
    __m256i low = _mm256_cvtepi8_epi32(bytes);
    __m256i high = _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(bytes, bytes));
    return (lanes){_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)};
}

/* Upper bytes of fp16, the lower ones 0. */
static inline lanes lanes_bytes_e5m2(lanes_bytes bytes)
{
    __m128i zero = _mm_setzero_si128();
    return (lanes){_mm256_cvtph_ps(_mm_unpacklo_epi8(zero, bytes)),
                   _mm256_cvtph_ps(_mm_unpackhi_epi8(zero, bytes))};
}

static inline __m256 lanes_half_e4m3(__m128i half)
{
    half = _mm_and_si128(_mm_srai_epi16(half, 1), _mm_set1_epi16((int16_t)0xBFFF));
    return _mm256_cvtph_ps(half);
}

/* fp8_e4m3 * 2^-8: an fp16 when the bits below the sign go one place down. */
static inline lanes lanes_bytes_e4m3(lanes_bytes bytes)
{
    __m128i zero = _mm_setzero_si128();
    return (lanes){lanes_half_e4m3(_mm_unpacklo_epi8(zero, bytes)),
                   lanes_half_e4m3(_mm_unpackhi_epi8(zero, bytes))};
}

/* 16 integers as floats. */
static inline lanes lanes_from_u32(const uint32_t *p)
{
    const __m256i *v = (const __m256i *)(const void *)p;
    return (lanes){_mm256_cvtepi32_ps(_mm256_loadu_si256(v)),
                   _mm256_cvtepi32_ps(_mm256_loadu_si256(v + 1))};
}

/* out[i]: factor times the sum of the 4 int8 at each i-th 32-bit place of n_quads
 * rows of 64 bytes. */
static inline void lanes_quads_sum(const uint8_t *quads, size_t n_quads, int32_t factor,
                                   int32_t out[16])
{
    __m256i ones = _mm256_set1_epi8(1), pairs = _mm256_set1_epi16(1);
    for (size_t half = 0; half < 2; half++) {
        __m256i sum = _mm256_setzero_si256();
        for (size_t q = 0; q < n_quads; q++) {
            const uint8_t *at = quads + q * 64 + half * 32;
            __m256i x = _mm256_load_si256((const __m256i *)(const void *)at);
            x = _mm256_madd_epi16(_mm256_maddubs_epi16(ones, x), pairs);
            sum = _mm256_add_epi32(sum, x);
        }
        sum = _mm256_mullo_epi32(sum, _mm256_set1_epi32(factor));
        _mm256_storeu_si256((__m256i *)(void *)(out + half * 8), sum);
    }
}

/* 16 doubles. */
typedef struct lanes_double {
    __m256d part[4];
} lanes_double;

static inline lanes_double lanes_double_zero(void)
{
    __m256d zero = _mm256_setzero_pd();
    return (lanes_double){{zero, zero, zero, zero}};
}

static inline lanes_double lanes_double_add(lanes_double sum, lanes v)
{
    __m128 quarters[4] = {_mm256_castps256_ps128(v.low), _mm256_extractf128_ps(v.low, 1),
                          _mm256_castps256_ps128(v.high), _mm256_extractf128_ps(v.high, 1)};
    for (int i = 0; i < 4; i++) {
        sum.part[i] = _mm256_add_pd(sum.part[i], _mm256_cvtps_pd(quarters[i]));
    }
    return sum;
}

static inline double lanes_double_fold(lanes_double v)
{
    __m256d low = _mm256_add_pd(v.part[0], v.part[2]);
    __m256d high = _mm256_add_pd(v.part[1], v.part[3]);
    __m256d b = _mm256_add_pd(low, high);
    __m128d c = _mm_add_pd(_mm256_castpd256_pd128(b), _mm256_extractf128_pd(b, 1));
    return _mm_cvtsd_f64(_mm_add_sd(c, _mm_unpackhi_pd(c, c)));
}

/* rows[0..8)[at .. at + 8) to the corner of a [..][16] panel, transposed. */
static inline void lanes_transpose8(const float *const *rows, size_t at, float *panel)
{
    __m256 a[8], b[8];
    for (size_t r = 0; r < 8; r++) {
        a[r] = _mm256_loadu_ps(rows[r] + at);
    }
    for (size_t r = 0; r < 8; r += 2) {
        b[r] = _mm256_unpacklo_ps(a[r], a[r + 1]);
        b[r + 1] = _mm256_unpackhi_ps(a[r], a[r + 1]);
    }
    for (size_t r = 0; r < 8; r += 4) {
        for (size_t i = 0; i < 2; i++) {
            a[r + 2 * i] = _mm256_shuffle_ps(b[r + i], b[r + 2 + i], 0x44);
            a[r + 2 * i + 1] = _mm256_shuffle_ps(b[r + i], b[r + 2 + i], 0xEE);
        }
    }
    /* a[4 g + i]: 128-bit part p holds column 4 p + i of rows 4 g .. 4 g + 3. */
    for (size_t i = 0; i < 4; i++) {
        _mm256_storeu_ps(panel + i * 16, _mm256_permute2f128_ps(a[i], a[4 + i], 0x20));
        _mm256_storeu_ps(panel + (4 + i) * 16, _mm256_permute2f128_ps(a[i], a[4 + i], 0x31));
    }
}

/* rows[r][at .. at + 16) to panel [16][16], transposed. */
static inline void lanes_transpose(const float *const rows[16], size_t at, float *panel)
{
    for (size_t r = 0; r < 16; r += 8) {
        lanes_transpose8(rows + r, at, panel + r);
        lanes_transpose8(rows + r, at + 8, panel + 8 * 16 + r);
    }
}

#endif

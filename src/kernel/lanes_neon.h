/* `lanes` of ARM's Advanced SIMD: 16 floats in four registers (see lanes_avx512.h). */
#ifndef MX_KERNEL_LANES_NEON_H
#define MX_KERNEL_LANES_NEON_H

#include <arm_neon.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Members rather than an array: compilers keep those in registers at once. */
typedef struct lanes {
    float32x4_t q0, q1, q2, q3;
} lanes;

typedef struct lanes_mask { /* all bits of a lane alike */
    uint32x4_t q0, q1, q2, q3;
} lanes_mask;

/* Of the block product's loop over a block: as it is, unmeasured. */
#define LANES_BLOCK_UNROLL

/* Register tiles of the shared templates, in lanes: of 32 registers at most 24 are
 * accumulators. */
enum {
    LANES_BF16_SUMS = 4,
    LANES_F32_PANELS = 1,
    LANES_F32_TOKENS = 6, /* fp32 product */
    LANES_BLOCK_PANELS = 1,
    LANES_BLOCK_TOKENS = 3, /* block product: two chains each */
    LANES_COLUMNS = 1,      /* attention, by LANES_ROWS rows */
};

/* A struct of type `type` whose parts are f of the parts of a, (b, (c)). */
#define LANES_MAP1(type, f, a) ((type){f((a).q0), f((a).q1), f((a).q2), f((a).q3)})
#define LANES_MAP2(type, f, a, b)                                                                  \
    ((type){f((a).q0, (b).q0), f((a).q1, (b).q1), f((a).q2, (b).q2), f((a).q3, (b).q3)})
#define LANES_MAP3(type, f, a, b, c)                                                               \
    ((type){f((a).q0, (b).q0, (c).q0), f((a).q1, (b).q1, (c).q1), f((a).q2, (b).q2, (c).q2),       \
            f((a).q3, (b).q3, (c).q3)})

static inline lanes lanes_load(const float *p)
{
    return (lanes){vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}

static inline float32x4_t lanes_quarter_load_bf16(const uint16_t *p)
{
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}

/* 16 bf16. */
static inline lanes lanes_load_bf16(const uint16_t *p)
{
    return (lanes){lanes_quarter_load_bf16(p), lanes_quarter_load_bf16(p + 4),
                   lanes_quarter_load_bf16(p + 8), lanes_quarter_load_bf16(p + 12)};
}

static inline float32x4_t lanes_quarter_bf16_low(float32x4_t pair)
{
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(pair), 16));
}

static inline float32x4_t lanes_quarter_bf16_high(float32x4_t pair)
{
    uint32x4_t mask = vdupq_n_u32(0xFFFF0000);
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(pair), mask));
}

/* Of lanes that hold two bf16 each: the one in the low half, the one in the high. */
static inline lanes lanes_bf16_low(lanes pair)
{
    return LANES_MAP1(lanes, lanes_quarter_bf16_low, pair);
}

static inline lanes lanes_bf16_high(lanes pair)
{
    return LANES_MAP1(lanes, lanes_quarter_bf16_high, pair);
}

static inline float32x4_t lanes_quarter_bf16_up(float32x4_t v)
{
    uint32x4_t bits = vreinterpretq_u32_f32(v);
    uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    return vreinterpretq_f32_u32(vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7FFF))));
}

/* To the nearest bf16, ties to even. NaN becomes anything. */
static inline lanes lanes_round_bf16(lanes v)
{
    return lanes_bf16_high(LANES_MAP1(lanes, lanes_quarter_bf16_up, v));
}

static inline void lanes_store(float *p, lanes v)
{
    vst1q_f32(p, v.q0);
    vst1q_f32(p + 4, v.q1);
    vst1q_f32(p + 8, v.q2);
    vst1q_f32(p + 12, v.q3);
}

static inline lanes lanes_set(float x)
{
    float32x4_t v = vdupq_n_f32(x);
    return (lanes){v, v, v, v};
}

static inline lanes lanes_set_bits(uint32_t bits)
{
    float32x4_t v = vreinterpretq_f32_u32(vdupq_n_u32(bits));
    return (lanes){v, v, v, v};
}

/* The first n (0..16) lanes. */
static inline lanes_mask lanes_first(size_t n)
{
    static const uint32_t numbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    uint32x4_t limit = vdupq_n_u32((uint32_t)n);
    return (lanes_mask){
        vcltq_u32(vld1q_u32(numbers), limit), vcltq_u32(vld1q_u32(numbers + 4), limit),
        vcltq_u32(vld1q_u32(numbers + 8), limit), vcltq_u32(vld1q_u32(numbers + 12), limit)};
}

/* The first n elements; the rest is +0 and memory there is not touched. */
static inline lanes lanes_load_part(const float *p, size_t n)
{
    float part[16] = {0};
    if (n == 16) {
        return lanes_load(p);
    }
    if (n != 0) { /* p may be no address then */
        memcpy(part, p, n * sizeof *p);
    }
    return lanes_load(part);
}

static inline void lanes_store_part(float *p, lanes v, size_t n)
{
    float part[16];
    if (n == 16) {
        lanes_store(p, v);
        return;
    }
    lanes_store(part, v);
    if (n != 0) {
        memcpy(p, part, n * sizeof *p);
    }
}

static inline lanes lanes_add(lanes a, lanes b)
{
    return LANES_MAP2(lanes, vaddq_f32, a, b);
}

static inline lanes lanes_sub(lanes a, lanes b)
{
    return LANES_MAP2(lanes, vsubq_f32, a, b);
}

static inline lanes lanes_mul(lanes a, lanes b)
{
    return LANES_MAP2(lanes, vmulq_f32, a, b);
}

static inline lanes lanes_div(lanes a, lanes b)
{
    return LANES_MAP2(lanes, vdivq_f32, a, b);
}

/* a * b + c, rounded once. */
static inline lanes lanes_fma(lanes a, lanes b, lanes c)
{
    return LANES_MAP3(lanes, vfmaq_f32, c, a, b);
}

/* Not vmaxq, vminq: they return NaN for NaN and order zeros by sign. */
static inline float32x4_t lanes_quarter_max(float32x4_t a, float32x4_t b)
{
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}

static inline float32x4_t lanes_quarter_min(float32x4_t a, float32x4_t b)
{
    return vbslq_f32(vcltq_f32(a, b), a, b);
}

/* The larger / smaller; b where either is NaN. */
static inline lanes lanes_max(lanes a, lanes b)
{
    return LANES_MAP2(lanes, lanes_quarter_max, a, b);
}

static inline lanes lanes_min(lanes a, lanes b)
{
    return LANES_MAP2(lanes, lanes_quarter_min, a, b);
}

/* Bit operations. */
#define LANES_BITS(f, a, b)                                                                        \
    vreinterpretq_f32_u32(f(vreinterpretq_u32_f32(a), vreinterpretq_u32_f32(b)))
#define LANES_AND(a, b) LANES_BITS(vandq_u32, a, b)
#define LANES_OR(a, b) LANES_BITS(vorrq_u32, a, b)
#define LANES_XOR(a, b) LANES_BITS(veorq_u32, a, b)

static inline lanes lanes_and(lanes a, lanes b)
{
    return LANES_MAP2(lanes, LANES_AND, a, b);
}

static inline lanes lanes_or(lanes a, lanes b)
{
    return LANES_MAP2(lanes, LANES_OR, a, b);
}

static inline lanes lanes_xor(lanes a, lanes b)
{
    return LANES_MAP2(lanes, LANES_XOR, a, b);
}

static inline float32x4_t lanes_quarter_max_bits(float32x4_t a, float32x4_t b)
{
    return vreinterpretq_f32_s32(vmaxq_s32(vreinterpretq_s32_f32(a), vreinterpretq_s32_f32(b)));
}

/* The larger of the bit patterns, as int32. */
static inline lanes lanes_max_bits(lanes a, lanes b)
{
    return LANES_MAP2(lanes, lanes_quarter_max_bits, a, b);
}

static inline int32_t lanes_fold_max_bits(lanes v)
{
    float32x4_t low = lanes_quarter_max_bits(v.q0, v.q1);
    float32x4_t high = lanes_quarter_max_bits(v.q2, v.q3);
    return vmaxvq_s32(vreinterpretq_s32_f32(lanes_quarter_max_bits(low, high)));
}

/* False where either is NaN. */
static inline lanes_mask lanes_less(lanes a, lanes b)
{
    return LANES_MAP2(lanes_mask, vcltq_f32, a, b);
}

static inline lanes_mask lanes_equal(lanes a, lanes b)
{
    return LANES_MAP2(lanes_mask, vceqq_f32, a, b);
}

/* Bit j of the result: the mask's lane j. */
static inline uint32_t lanes_mask_bits(lanes_mask mask)
{
    static const uint32_t places[4] = {1, 2, 4, 8};
    uint32x4_t place = vld1q_u32(places);
    uint32_t low = vaddvq_u32(vandq_u32(mask.q0, place)) | vaddvq_u32(vandq_u32(mask.q1, place))
                                                               << 4;
    uint32_t high = vaddvq_u32(vandq_u32(mask.q2, place)) | vaddvq_u32(vandq_u32(mask.q3, place))
                                                                << 4;
    return low | high << 8;
}

static inline lanes lanes_select(lanes_mask mask, lanes yes, lanes no)
{
    return LANES_MAP3(lanes, vbslq_f32, mask, yes, no);
}

/* Two factors, so that each is a normal number; only the second product rounds. */
static inline float32x4_t lanes_quarter_scale(float32x4_t p, float32x4_t n)
{
    int32x4_t bias = vdupq_n_s32(127), exponent = vcvtnq_s32_f32(n);
    int32x4_t first = vshrq_n_s32(exponent, 1), second = vsubq_s32(exponent, first);
    int32x4_t f = vshlq_n_s32(vaddq_s32(first, bias), 23);
    int32x4_t g = vshlq_n_s32(vaddq_s32(second, bias), 23);
    return vmulq_f32(vmulq_f32(p, vreinterpretq_f32_s32(f)), vreinterpretq_f32_s32(g));
}

/* p * 2^n, rounded once: n integral, |n| <= 200; |p| in [2^-20, 2^20] or NaN. */
static inline lanes lanes_scale(lanes p, lanes n)
{
    return LANES_MAP2(lanes, lanes_quarter_scale, p, n);
}

/* The sum, in the order of kernel.h. */
static inline float lanes_fold(lanes v)
{
    float32x4_t a = vaddq_f32(vaddq_f32(v.q0, v.q2), vaddq_f32(v.q1, v.q3));
    float32x2_t b = vadd_f32(vget_low_f32(a), vget_high_f32(a));
    return vget_lane_f32(b, 0) + vget_lane_f32(b, 1);
}

/* The largest lane, of zeros any. No lane may be NaN. */
static inline float lanes_fold_max(lanes v)
{
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(v.q0, v.q1), vmaxq_f32(v.q2, v.q3)));
}

typedef int32x4_t lanes_bytes; /* 16 bytes, by fours */

/* Integral lanes of at most 127 in magnitude, as bytes. */
static inline lanes_bytes lanes_to_bytes(lanes v)
{
    int16x8_t low = vcombine_s16(vmovn_s32(vcvtnq_s32_f32(v.q0)), vmovn_s32(vcvtnq_s32_f32(v.q1)));
    int16x8_t high = vcombine_s16(vmovn_s32(vcvtnq_s32_f32(v.q2)), vmovn_s32(vcvtnq_s32_f32(v.q3)));
    return vreinterpretq_s32_s8(vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}

static inline lanes_bytes lanes_bytes_zero(void)
{
    return vdupq_n_s32(0);
}

static inline lanes_bytes lanes_bytes_load(const uint8_t *p)
{
    return vreinterpretq_s32_u8(vld1q_u8(p));
}

static inline lanes_bytes lanes_bytes_low_nibbles(lanes_bytes bytes)
{
    return vreinterpretq_s32_u8(vandq_u8(vreinterpretq_u8_s32(bytes), vdupq_n_u8(15)));
}

static inline lanes_bytes lanes_bytes_high_nibbles(lanes_bytes bytes)
{
    return vreinterpretq_s32_u8(vshrq_n_u8(vreinterpretq_u8_s32(bytes), 4));
}

/* table[i] for each byte i < 16. */
static inline lanes_bytes lanes_bytes_lookup(lanes_bytes table, lanes_bytes bytes)
{
    return vreinterpretq_s32_u8(
        vqtbl1q_u8(vreinterpretq_u8_s32(table), vreinterpretq_u8_s32(bytes)));
}

static inline lanes lanes_from_s16(int16x8_t low, int16x8_t high)
{
    return (lanes){vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_high_s16(low)),
                   vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                   vcvtq_f32_s32(vmovl_high_s16(high))};
}

/* int8 as floats. */
static inline lanes lanes_bytes_int8(lanes_bytes bytes)
{
    int8x16_t v = vreinterpretq_s8_s32(bytes);
    return lanes_from_s16(vmovl_s8(vget_low_s8(v)), vmovl_high_s8(v));
}

/* 16 fp16, as bits. */
static inline lanes lanes_from_halves(uint16x8_t low, uint16x8_t high)
{
    float16x8_t a = vreinterpretq_f16_u16(low), b = vreinterpretq_f16_u16(high);
    return (lanes){vcvt_f32_f16(vget_low_f16(a)), vcvt_high_f32_f16(a),
                   vcvt_f32_f16(vget_low_f16(b)), vcvt_high_f32_f16(b)};
}

/* The first or last 8 bytes times 256. */
static inline uint16x8_t lanes_upper_bytes(uint8x16_t v, bool last)
{
    uint8x16_t zero = vdupq_n_u8(0);
    return vreinterpretq_u16_u8(last ? vzip2q_u8(zero, v) : vzip1q_u8(zero, v));
}

/* Upper bytes of fp16, the lower ones 0. */
static inline lanes lanes_bytes_e5m2(lanes_bytes bytes)
{
    uint8x16_t v = vreinterpretq_u8_s32(bytes);
    return lanes_from_halves(lanes_upper_bytes(v, false), lanes_upper_bytes(v, true));
}

static inline uint16x8_t lanes_half_e4m3(uint16x8_t half)
{
    int16x8_t moved = vshrq_n_s16(vreinterpretq_s16_u16(half), 1);
    return vandq_u16(vreinterpretq_u16_s16(moved), vdupq_n_u16(0xBFFF));
}

/* fp8_e4m3 * 2^-8: an fp16 when the bits below the sign go one place down. */
static inline lanes lanes_bytes_e4m3(lanes_bytes bytes)
{
    uint8x16_t v = vreinterpretq_u8_s32(bytes);
    return lanes_from_halves(lanes_half_e4m3(lanes_upper_bytes(v, false)),
                             lanes_half_e4m3(lanes_upper_bytes(v, true)));
}

/* `p` is 16-byte aligned. */
static inline void lanes_bytes_store(uint8_t *p, lanes_bytes bytes)
{
    vst1q_u8(p, vreinterpretq_u8_s32(bytes));
}

static inline lanes_bytes lanes_bytes_low_halves(lanes_bytes a, lanes_bytes b)
{
    return vreinterpretq_s32_s64(vzip1q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
}

static inline lanes_bytes lanes_bytes_high_halves(lanes_bytes a, lanes_bytes b)
{
    return vreinterpretq_s32_s64(vzip2q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
}

/* rows[i]'s j-th 4 bytes become rows[j]'s i-th. */
static inline void lanes_bytes_transpose(lanes_bytes rows[4])
{
    lanes_bytes a = vzip1q_s32(rows[0], rows[1]), b = vzip1q_s32(rows[2], rows[3]);
    lanes_bytes c = vzip2q_s32(rows[0], rows[1]), d = vzip2q_s32(rows[2], rows[3]);
    rows[0] = lanes_bytes_low_halves(a, b);
    rows[1] = lanes_bytes_high_halves(a, b);
    rows[2] = lanes_bytes_low_halves(c, d);
    rows[3] = lanes_bytes_high_halves(c, d);
}

static inline float32x4_t lanes_quarter_from_u32(const uint32_t *p)
{
    return vcvtq_f32_u32(vld1q_u32(p));
}

/* 16 integers as floats. */
static inline lanes lanes_from_u32(const uint32_t *p)
{
    return (lanes){lanes_quarter_from_u32(p), lanes_quarter_from_u32(p + 4),
                   lanes_quarter_from_u32(p + 8), lanes_quarter_from_u32(p + 12)};
}

/* out[i]: factor times the sum of the 4 int8 at each i-th 32-bit place of n_quads
 * rows of 64 bytes. */
static inline void lanes_quads_sum(const uint8_t *quads, size_t n_quads, int32_t factor,
                                   int32_t out[16])
{
    int8x16_t ones = vdupq_n_s8(1);
    for (size_t i = 0; i < 16; i += 4) {
        int32x4_t sum = vdupq_n_s32(0);
        for (size_t q = 0; q < n_quads; q++) {
            sum = vdotq_s32(sum, ones, vreinterpretq_s8_u8(vld1q_u8(quads + q * 64 + i * 4)));
        }
        vst1q_s32(out + i, vmulq_n_s32(sum, factor));
    }
}

/* 16 doubles. */
typedef struct lanes_double {
    float64x2_t part[8];
} lanes_double;

static inline lanes_double lanes_double_zero(void)
{
    float64x2_t zero = vdupq_n_f64(0);
    return (lanes_double){{zero, zero, zero, zero, zero, zero, zero, zero}};
}

static inline lanes_double lanes_double_add(lanes_double sum, lanes v)
{
    float32x4_t quarters[4] = {v.q0, v.q1, v.q2, v.q3};
    for (int i = 0; i < 4; i++) {
        float64x2_t low = vcvt_f64_f32(vget_low_f32(quarters[i]));
        float64x2_t high = vcvt_high_f64_f32(quarters[i]);
        sum.part[2 * i] = vaddq_f64(sum.part[2 * i], low);
        sum.part[2 * i + 1] = vaddq_f64(sum.part[2 * i + 1], high);
    }
    return sum;
}

static inline double lanes_double_fold(lanes_double v)
{
    for (int half = 4; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) {
            v.part[i] = vaddq_f64(v.part[i], v.part[i + half]);
        }
    }
    return vgetq_lane_f64(v.part[0], 0) + vgetq_lane_f64(v.part[0], 1);
}

/* rows[0..4)[at .. at + 4) to the corner of a [..][16] panel, transposed. */
static inline void lanes_transpose4(const float *const *rows, size_t at, float *panel)
{
    float32x4_t a = vld1q_f32(rows[0] + at), b = vld1q_f32(rows[1] + at);
    float32x4_t c = vld1q_f32(rows[2] + at), d = vld1q_f32(rows[3] + at);
    /* Interleaving a with c, b with d, and those again, is the transposition. */
    float32x4_t ac_low = vzip1q_f32(a, c), ac_high = vzip2q_f32(a, c);
    float32x4_t bd_low = vzip1q_f32(b, d), bd_high = vzip2q_f32(b, d);
    vst1q_f32(panel, vzip1q_f32(ac_low, bd_low));
    vst1q_f32(panel + 16, vzip2q_f32(ac_low, bd_low));
    vst1q_f32(panel + 32, vzip1q_f32(ac_high, bd_high));
    vst1q_f32(panel + 48, vzip2q_f32(ac_high, bd_high));
}

/* rows[r][at .. at + 16) to panel [16][16], transposed. */
static inline void lanes_transpose(const float *const rows[16], size_t at, float *panel)
{
    for (size_t r = 0; r < 16; r += 4) {
        for (size_t i = 0; i < 16; i += 4) {
            lanes_transpose4(rows + r, at + i, panel + i * 16 + r);
        }
    }
}

#endif

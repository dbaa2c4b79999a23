/* ARM: sdot on 128-bit registers, 16 products of bytes an instruction. */
#include "bench/peak.h"

#if defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>

#define HIDE(v) __asm__ volatile("" : "+w"(v))

static void int_run(uint64_t n)
{
    int32x4_t c[MX_PEAK_CHAINS];
    int8x16_t x = vdupq_n_s8(1);
    MX_PEAK_UNROLL
    for (int i = 0; i < MX_PEAK_CHAINS; i++) {
        c[i] = vdupq_n_s32(0);
    }
    for (uint64_t j = 0; j < n; j++) {
        MX_PEAK_UNROLL
        for (int i = 0; i < MX_PEAK_CHAINS; i++) {
            c[i] = vdotq_s32(c[i], x, x);
            HIDE(c[i]);
        }
    }
}

static void f32_run(uint64_t n)
{
    float32x4_t c[MX_PEAK_CHAINS], x = vdupq_n_f32(0.5f);
    MX_PEAK_UNROLL
    for (int i = 0; i < MX_PEAK_CHAINS; i++) {
        c[i] = vdupq_n_f32(1);
    }
    for (uint64_t j = 0; j < n; j++) {
        MX_PEAK_UNROLL
        for (int i = 0; i < MX_PEAK_CHAINS; i++) {
            c[i] = vfmaq_f32(c[i], x, x);
            HIDE(c[i]);
        }
    }
}

static uint64_t read_bytes(const uint8_t *data, size_t size)
{
    uint8x16_t sum[8];
    for (int i = 0; i < 8; i++) {
        sum[i] = vdupq_n_u8(0);
    }
    for (size_t at = 0; at < size; at += 128) {
        for (int i = 0; i < 8; i++) {
            sum[i] = veorq_u8(sum[i], vld1q_u8(data + at + 16 * i));
        }
    }
    for (int i = 1; i < 8; i++) {
        sum[0] = veorq_u8(sum[0], sum[i]);
    }
    return vgetq_lane_u64(vreinterpretq_u64_u8(sum[0]), 0);
}

const mx_peak mx_peak_neon = {
    .isa = "neon",
    .int_name = "sdot 128-bit",
    .f32_name = "fmla 128-bit",
    .int_macs = 16 * MX_PEAK_CHAINS,
    .f32_macs = 4 * MX_PEAK_CHAINS,
    .int_run = int_run,
    .f32_run = f32_run,
    .read = read_bytes,
};
#endif

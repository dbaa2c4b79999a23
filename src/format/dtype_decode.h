/* The decoders behind mx_dtype_info.decode, and the one f16 conversion that they
 * share; private to dtype*.c. */
#ifndef MX_FORMAT_DTYPE_DECODE_H
#define MX_FORMAT_DTYPE_DECODE_H

#include "base/status.h"

#include <string.h>

static inline float mx_bits_to_f32(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t mx_f32_to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline uint32_t mx_load_u16(const uint8_t *src)
{
    return (uint32_t)src[0] | (uint32_t)src[1] << 8;
}

/* All ones when `condition` holds: selects without branches, so that loops vectorize. */
static inline uint32_t mx_mask(bool condition)
{
    return 0u - (uint32_t)condition;
}

/*
 * binary16 to binary32. Normal numbers move their exponent by 112 (127 - 15), Inf
 * and NaN by 112 more, to fp32's largest. A subnormal m * 2^-24 is read as
 * 2^-14 * (1 + m / 1024), from which 2^-14 is taken away exactly; no fp32
 * subnormal occurs, which many processors handle slowly.
 */
static inline float mx_f16_expand(uint32_t half)
{
    const uint32_t magnitude = (half & 0x7FFFu) << 13;
    const uint32_t exponent = magnitude & 0x0F800000u;
    const uint32_t tiny = mx_mask(exponent == 0), special = mx_mask(exponent == 0x0F800000u);
    const uint32_t moved =
        magnitude + (112u << 23) + (tiny & (1u << 23)) + (special & (112u << 23));
    const float value = mx_bits_to_f32(moved) - mx_bits_to_f32(tiny & (113u << 23));
    return mx_bits_to_f32(mx_f32_to_bits(value) | (half & 0x8000u) << 16);
}

/* GGUF block types (dtype_blocks.c): src [n / block][block_bytes], dst [n]. */
void mx_q4_0_decode(const uint8_t *src, size_t n, float *dst);
void mx_q4_1_decode(const uint8_t *src, size_t n, float *dst);
void mx_q5_0_decode(const uint8_t *src, size_t n, float *dst);
void mx_q5_1_decode(const uint8_t *src, size_t n, float *dst);
void mx_q8_0_decode(const uint8_t *src, size_t n, float *dst);
void mx_q4_k_decode(const uint8_t *src, size_t n, float *dst);
void mx_q6_k_decode(const uint8_t *src, size_t n, float *dst);
void mx_mxfp4_decode(const uint8_t *src, size_t n, float *dst);

#endif

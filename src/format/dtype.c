/* Types of stored weights: sizes and decoding, for ordinary numbers; block types of
 * GGUF are in dtype_blocks.c. */
#include "format/dtype.h"

#include "format/dtype_decode.h"

#include <assert.h>

/* The plain decoders read bytes through memcpy: tensors in files may lie at any
 * address, and compilers turn the copies into unaligned vector loads. Files are
 * little-endian, and so is every machine that mxlm is built for. */
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "mxlm reads little-endian files in place: big-endian machines are not supported"
#endif

static void decode_f64(const uint8_t *src, size_t n, float *dst)
{
    for (size_t i = 0; i < n; i++) {
        double value;
        memcpy(&value, src + 8 * i, sizeof value);
        dst[i] = (float)value;
    }
}

static void decode_f32(const uint8_t *src, size_t n, float *dst)
{
    if (n > 0) {
        memcpy(dst, src, n * sizeof *dst);
    }
}

static void decode_f16(const uint8_t *src, size_t n, float *dst)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, src + 2 * i, sizeof half);
        dst[i] = mx_f16_expand(half);
    }
}

static void decode_bf16(const uint8_t *src, size_t n, float *dst)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t bits;
        memcpy(&bits, src + 2 * i, sizeof bits);
        dst[i] = mx_bits_to_f32((uint32_t)bits << 16);
    }
}

/* As mx_f16_expand with bias 7: exponents move by 120, subnormals lie below 2^-6.
 * The only special value is S.1111.111, NaN; there is no Inf. */
static void decode_f8_e4m3(const uint8_t *src, size_t n, float *dst)
{
    for (size_t i = 0; i < n; i++) {
        const uint32_t magnitude = (src[i] & 0x7Fu) << 20;
        const uint32_t tiny = mx_mask(magnitude < (1u << 23));
        const uint32_t nan = mx_mask(magnitude == 0x7Fu << 20) & 0x7FC00000u;
        const uint32_t moved = magnitude + (120u << 23) + (tiny & (1u << 23));
        const float value = mx_bits_to_f32(moved) - mx_bits_to_f32(tiny & (121u << 23));
        dst[i] = mx_bits_to_f32(mx_f32_to_bits(value) | nan | (uint32_t)(src[i] & 0x80u) << 24);
    }
}

/* E5M2 is binary16 cut to its upper byte. */
static void decode_f8_e5m2(const uint8_t *src, size_t n, float *dst)
{
    for (size_t i = 0; i < n; i++) {
        dst[i] = mx_f16_expand((uint32_t)src[i] << 8);
    }
}

/* OCP MX v1.0, 5.4.1: 2^(byte - 127), 0xFF NaN. Byte 0 is the fp32 subnormal
 * 2^-127, hence not just an exponent field. */
static void decode_f8_e8m0(const uint8_t *src, size_t n, float *dst)
{
    for (size_t i = 0; i < n; i++) {
        const uint32_t normal = (uint32_t)src[i] << 23;
        const uint32_t bits = src[i] == 0 ? 0x00400000u : normal;
        dst[i] = mx_bits_to_f32(src[i] == 0xFFu ? 0x7FC00000u : bits);
    }
}

static const mx_dtype_info dtype_table[MX_DTYPE_COUNT] = {
    [MX_DTYPE_NONE] = {"unsupported", 1, 0, NULL},
    [MX_DTYPE_F64] = {"F64", 1, 8, decode_f64},
    [MX_DTYPE_F32] = {"F32", 1, 4, decode_f32},
    [MX_DTYPE_F16] = {"F16", 1, 2, decode_f16},
    [MX_DTYPE_BF16] = {"BF16", 1, 2, decode_bf16},
    [MX_DTYPE_I64] = {"I64", 1, 8, NULL},
    [MX_DTYPE_I32] = {"I32", 1, 4, NULL},
    [MX_DTYPE_I16] = {"I16", 1, 2, NULL},
    [MX_DTYPE_I8] = {"I8", 1, 1, NULL},
    [MX_DTYPE_U64] = {"U64", 1, 8, NULL},
    [MX_DTYPE_U32] = {"U32", 1, 4, NULL},
    [MX_DTYPE_U16] = {"U16", 1, 2, NULL},
    [MX_DTYPE_U8] = {"U8", 1, 1, NULL},
    [MX_DTYPE_BOOL] = {"BOOL", 1, 1, NULL},
    [MX_DTYPE_F8_E4M3] = {"F8_E4M3", 1, 1, decode_f8_e4m3},
    [MX_DTYPE_F8_E5M2] = {"F8_E5M2", 1, 1, decode_f8_e5m2},
    [MX_DTYPE_F8_E8M0] = {"F8_E8M0", 1, 1, decode_f8_e8m0},
    [MX_DTYPE_Q4_0] = {"Q4_0", 32, 18, mx_q4_0_decode},
    [MX_DTYPE_Q4_1] = {"Q4_1", 32, 20, mx_q4_1_decode},
    [MX_DTYPE_Q5_0] = {"Q5_0", 32, 22, mx_q5_0_decode},
    [MX_DTYPE_Q5_1] = {"Q5_1", 32, 24, mx_q5_1_decode},
    [MX_DTYPE_Q8_0] = {"Q8_0", 32, 34, mx_q8_0_decode},
    [MX_DTYPE_Q4_K] = {"Q4_K", 256, 144, mx_q4_k_decode},
    [MX_DTYPE_Q6_K] = {"Q6_K", 256, 210, mx_q6_k_decode},
    [MX_DTYPE_MXFP4] = {"MXFP4", 32, 17, mx_mxfp4_decode},
};

const mx_dtype_info *mx_dtype_get(mx_dtype dtype)
{
    assert((unsigned)dtype < MX_DTYPE_COUNT);
    return &dtype_table[dtype];
}

size_t mx_dtype_bytes(mx_dtype dtype, size_t n)
{
    const mx_dtype_info *info = mx_dtype_get(dtype);
    assert(n % info->block == 0);
    return n / info->block * info->block_bytes;
}

float mx_f16_to_f32(uint16_t bits)
{
    return mx_f16_expand(bits);
}

float mx_bf16_to_f32(uint16_t bits)
{
    return mx_bits_to_f32((uint32_t)bits << 16);
}

uint16_t mx_f32_to_f16(float x)
{
    const uint32_t bits = mx_f32_to_bits(x);
    const uint32_t sign = bits >> 16 & 0x8000u;
    const uint32_t magnitude = bits & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u) {
        /* A quiet NaN with the upper part of the payload. */
        return (uint16_t)(sign | 0x7E00u | (magnitude >> 13 & 0x1FFu));
    }
    if (magnitude >= 0x477FF000u) { /* 65520: the tie between 65504 and 2^16 goes up */
        return (uint16_t)(sign | 0x7C00u);
    }
    if (magnitude < 0x38800000u) {
        /* Below 2^-14 the result counts in units of 2^-24. fp32 numbers in
         * [0.5, 1) count in the same units, so one addition rounds to even. */
        const float shifted = mx_bits_to_f32(magnitude) + 0.5f;
        return (uint16_t)(sign | (mx_f32_to_bits(shifted) - 0x3F000000u));
    }
    const uint32_t odd = magnitude >> 13 & 1u;
    return (uint16_t)(sign | ((magnitude - 0x38000000u + 0xFFFu + odd) >> 13));
}

uint16_t mx_f32_to_bf16(float x)
{
    const uint32_t bits = mx_f32_to_bits(x);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) {
        return (uint16_t)(bits >> 16 | 0x40u); /* quiet: a low payload must not round to Inf */
    }
    return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

/*
 * GGUF's block types. Formulas: ggml's dequantize_row_* (ggml-quants.c), whose
 * products and sums are rounded one by one in fp32. Layouts are told per
 * function; a 4-bit byte j holds element j in its low nibble and the element
 * half a block later in its high nibble. Inner loops have fixed counts and no
 * branches, so that compilers vectorize them.
 */
#include "format/dtype_decode.h"

enum { BLOCK = 32, HALF = BLOCK / 2, SUPER_BLOCK = 256 };

/* The 32 numbers of a Q4 block's nibbles. Into a place of their own, here and below:
 * bytes may alias anything, so that loops from src to dst would not vectorize. */
static void unpack_q4(const uint8_t *nibbles, int32_t q[BLOCK])
{
    for (int j = 0; j < HALF; j++) {
        q[j] = nibbles[j] & 15;
        q[j + HALF] = nibbles[j] >> 4;
    }
}

/* f16 d, 16 bytes of nibbles: d * (q - 8). */
void mx_q4_0_decode(const uint8_t *src, size_t n, float *dst)
{
    for (; n > 0; n -= BLOCK, src += 18, dst += BLOCK) {
        const float d = mx_f16_expand(mx_load_u16(src));
        int32_t q[BLOCK];
        unpack_q4(src + 2, q);
        for (int j = 0; j < BLOCK; j++) {
            dst[j] = (float)(q[j] - 8) * d;
        }
    }
}

/* f16 d, f16 m, 16 bytes of nibbles: d * q + m. */
void mx_q4_1_decode(const uint8_t *src, size_t n, float *dst)
{
    for (; n > 0; n -= BLOCK, src += 20, dst += BLOCK) {
        const float d = mx_f16_expand(mx_load_u16(src));
        const float m = mx_f16_expand(mx_load_u16(src + 2));
        int32_t q[BLOCK];
        unpack_q4(src + 4, q);
        for (int j = 0; j < BLOCK; j++) {
            dst[j] = (float)q[j] * d + m;
        }
    }
}

/* The 32 five-bit numbers of a Q5 block: 32 fifth bits, element i at bit i, and
 * the nibbles of the lower four. */
static void unpack_q5(const uint8_t *high, const uint8_t *nibbles, int32_t q[BLOCK])
{
    const uint32_t bits = mx_load_u16(high) | mx_load_u16(high + 2) << 16;
    for (int j = 0; j < HALF; j++) {
        q[j] = (int32_t)((nibbles[j] & 15u) | (bits >> j & 1u) << 4);
        q[j + HALF] = (int32_t)(((uint32_t)nibbles[j] >> 4) | (bits >> (j + HALF) & 1u) << 4);
    }
}

/* f16 d, 4 bytes of fifth bits, 16 bytes of nibbles: d * (q - 16). */
void mx_q5_0_decode(const uint8_t *src, size_t n, float *dst)
{
    for (; n > 0; n -= BLOCK, src += 22, dst += BLOCK) {
        const float d = mx_f16_expand(mx_load_u16(src));
        int32_t q[BLOCK];
        unpack_q5(src + 2, src + 6, q);
        for (int j = 0; j < BLOCK; j++) {
            dst[j] = (float)(q[j] - 16) * d;
        }
    }
}

/* f16 d, f16 m, 4 bytes of fifth bits, 16 bytes of nibbles: d * q + m. */
void mx_q5_1_decode(const uint8_t *src, size_t n, float *dst)
{
    for (; n > 0; n -= BLOCK, src += 24, dst += BLOCK) {
        const float d = mx_f16_expand(mx_load_u16(src));
        const float m = mx_f16_expand(mx_load_u16(src + 2));
        int32_t q[BLOCK];
        unpack_q5(src + 4, src + 8, q);
        for (int j = 0; j < BLOCK; j++) {
            dst[j] = (float)q[j] * d + m;
        }
    }
}

/* f16 d, 32 signed bytes: d * q. */
void mx_q8_0_decode(const uint8_t *src, size_t n, float *dst)
{
    for (; n > 0; n -= BLOCK, src += 34, dst += BLOCK) {
        const float d = mx_f16_expand(mx_load_u16(src));
        const int8_t *q = (const int8_t *)(src + 2);
        for (int j = 0; j < BLOCK; j++) {
            dst[j] = (float)q[j] * d;
        }
    }
}

/* Scale and minimum number g of 8 in Q4_K's 12 bytes: 6 bits each; the first
 * four whole in bytes 0..3 and 4..7, of the last four the low nibbles in bytes
 * 8..11 and the two upper bits atop bytes 0..7. */
static void load_q4_k_scale(const uint8_t *packed, int g, uint32_t *scale, uint32_t *min)
{
    if (g < 4) {
        *scale = packed[g] & 63u;
        *min = packed[g + 4] & 63u;
    } else {
        *scale = (packed[g + 4] & 15u) | (uint32_t)(packed[g - 4] >> 6) << 4;
        *min = (uint32_t)(packed[g + 4] >> 4) | (uint32_t)(packed[g] >> 6) << 4;
    }
}

/*
 * f16 d, f16 dmin, 12 bytes of scales, 128 bytes of nibbles: 8 groups of 32,
 * (d * scale) * q - (dmin * min). Groups 2k and 2k + 1 are the low and the high
 * nibbles of the same 32 bytes.
 */
void mx_q4_k_decode(const uint8_t *src, size_t n, float *dst)
{
    for (; n > 0; n -= SUPER_BLOCK, src += 144, dst += SUPER_BLOCK) {
        const float d = mx_f16_expand(mx_load_u16(src));
        const float dmin = mx_f16_expand(mx_load_u16(src + 2));
        for (int g = 0; g < 8; g++) {
            uint32_t scale, min;
            load_q4_k_scale(src + 4, g, &scale, &min);
            const float step = d * (float)scale;
            const float offset = dmin * (float)min;
            const uint8_t *q = src + 16 + BLOCK * (g / 2);
            const int shift = 4 * (g % 2);
            float *out = dst + BLOCK * g;
            for (int j = 0; j < BLOCK; j++) {
                out[j] = step * (float)(q[j] >> shift & 15) - offset;
            }
        }
    }
}

/*
 * 128 bytes of low nibbles, 64 bytes of upper two bits, 16 signed scales, f16 d:
 * (d * scale) * (q - 32), a scale per 16 elements. In each half of 128 elements,
 * group g of 32 has the low nibbles (g < 2) or the high nibbles of bytes
 * 32 * (g % 2).. and bits 2g, 2g + 1 of the 32 upper bytes.
 */
void mx_q6_k_decode(const uint8_t *src, size_t n, float *dst)
{
    for (; n > 0; n -= SUPER_BLOCK, src += 210, dst += SUPER_BLOCK) {
        const float d = mx_f16_expand(mx_load_u16(src + 208));
        const int8_t *scales = (const int8_t *)(src + 192);
        for (int g = 0; g < 8; g++) {
            const uint8_t *low = src + 64 * (g / 4) + BLOCK * (g % 2);
            const uint8_t *high = src + 128 + BLOCK * (g / 4);
            const int low_shift = 4 * (g / 2 % 2), high_shift = 2 * (g % 4);
            for (int half = 0; half < 2; half++) {
                const float step = d * (float)scales[2 * g + half];
                float *out = dst + BLOCK * g;
                for (int j = HALF * half; j < HALF * (half + 1); j++) {
                    const int q = (low[j] >> low_shift & 15) | (high[j] >> high_shift & 3) << 4;
                    out[j] = step * (float)(q - 32);
                }
            }
        }
    }
}

/* E2M1 values doubled: integers, as in ggml's table. */
static const int8_t e2m1_doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/*
 * A scale byte, 16 bytes of nibbles. With the table doubled, the scale is half of
 * 2^(byte - 127): an fp32 subnormal for bytes 0 and 1. ggml has no NaN scale: byte
 * 0xFF is 2^127 here as there.
 */
void mx_mxfp4_decode(const uint8_t *src, size_t n, float *dst)
{
    for (; n > 0; n -= BLOCK, src += 17, dst += BLOCK) {
        const uint32_t e = src[0];
        const float d = mx_bits_to_f32(e < 2 ? 0x00200000u << e : (e - 1) << 23);
        const uint8_t *q = src + 1;
        for (int j = 0; j < HALF; j++) {
            dst[j] = (float)e2m1_doubled[q[j] & 15] * d;
            dst[j + HALF] = (float)e2m1_doubled[q[j] >> 4] * d;
        }
    }
}

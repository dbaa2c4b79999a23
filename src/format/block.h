/*
 * Blocks: one E8M0 shared scale and up to `block` element codes.
 *
 * Storage of a row of n elements: codes as one little-endian bit stream (4-bit:
 * two a byte, even element in the low nibble; 6-bit: four in three bytes; the
 * row padded to a whole byte), scales as ceil(n / block) bytes. This is Quark's
 * and compressed-tensors' order (reference notes: interop).
 *
 * E8M0 (OCP MX v1.0, 5.4.1): value 2^(byte - 127); 0xFF = NaN, 0x00 = 2^-127;
 * no zero and no Inf.
 */
#ifndef MX_FORMAT_BLOCK_H
#define MX_FORMAT_BLOCK_H

#include "format/format.h"

#define MX_E8M0_BIAS 127
#define MX_E8M0_NAN 0xFFu

/* The numeric contract of one quantized operand. */
typedef struct mx_quant {
    const mx_format *format; /* NULL: unquantized, as fp32 */
    uint32_t block;          /* elements that share a scale; 0: the whole axis */
    mx_scale_rule rule;
    mx_round round;
    bool flush_subnormals; /* a block whose amax is an fp32 subnormal becomes zero */
    uint64_t seed;         /* MX_ROUND_DITHER */
} mx_quant;

/* True when `quant` leaves values as they are (no format, or fp32). */
bool mx_quant_is_none(const mx_quant *quant);
/* True when elements share an E8M0 scale (a format, and not a PLAIN one). */
bool mx_quant_is_scaled(const mx_quant *quant);

/* Block lengths that rows can be packed in: 0 (whole axis), multiples of 8, and 1
 * (a scale for each element: microxcaling's shared_exp_method "none"). */
bool mx_block_is_valid(uint64_t block);

/* Block length along an axis of n elements (quant->block, or n when 0). */
size_t mx_quant_block(const mx_quant *quant, size_t n);
/* Bytes of codes and number of scale bytes of one row of n elements (PLAIN
 * formats: element bytes and 0; unquantized: those of fp32). */
size_t mx_row_code_bytes(const mx_quant *quant, size_t n);
size_t mx_row_scale_count(const mx_quant *quant, size_t n);

/* 2^(byte - 127); NaN for 0xFF; byte 0 is 2^-127 (an fp32 subnormal). */
float mx_e8m0_decode(uint8_t byte);

/*
 * The shared scale byte of a block whose largest magnitude is `amax` (>= 0, or
 * NaN / Inf). With amax = m * 2^k, 1 <= m < 2 (fp32 subnormals normalized), e0 is
 *     FLOOR  k - emax
 *     EVEN   k - emax + [m >= 2 - 2^-(f + 1)], f = mx_format_fraction_bits
 *     RCEIL  k - emax + [m > max * 2^-emax]
 *     CEIL   k - emax + [m > 1]
 * in exact integer arithmetic (microxcaling's Python path takes log2 in fp32,
 * which errs just below powers of two; its CUDA path does not). Result e0 + 127:
 * 0xFF when amax is not finite or e0 > 127, 0 when e0 < -127. amax = 0 counts as
 * 2^-126 (microxcaling). EVEN may round FLT_MAX up, so that the element's value
 * times the scale is 2^128: decoding then gives Inf.
 */
uint8_t mx_scale_encode(const mx_format *format, mx_scale_rule rule, float amax);

/*
 * Quantizes one block x [n], n >= 1, of a scaled format: one code per byte in
 * `codes` [n], returns the scale byte. The contract, for each element:
 *     codes[i] = format->encode(format, (double)x[i] * 2^(127 - scale), round, random)
 *     random   = mx_philox_u32(seed, stream, index + i)     (MX_ROUND_DITHER only)
 * but for two cases, where all codes are 0: a NaN or Inf in the block (scale
 * 0xFF), and flush_subnormals with 0 < amax < 2^-126 (the scale stays that of
 * mx_scale_encode). `stream` is the row, `index` the first element's place in it.
 */
uint8_t mx_block_encode(const mx_quant *quant, const float *x, size_t n, uint64_t stream,
                        uint64_t index, uint8_t *codes);

/* Dequantizes: out[i] = decode(codes[i]) * 2^(scale - 127), exact in fp32 (Inf
 * where it is 2^128 or more); NaN throughout for scale 0xFF. */
void mx_block_decode(const mx_format *format, const uint8_t *codes, uint8_t scale, size_t n,
                     float *out);

/*
 * A row x [n] to packed codes [mx_row_code_bytes] and scales
 * [mx_row_scale_count], and back; quant->block must be valid. `stream` is the
 * row's number within its tensor (activations: the token's position, see
 * model/). PLAIN formats store rounded elements, little-endian, and no scales:
 * Inf stays, any NaN becomes the positive quiet NaN without payload; fp32 and
 * unquantized rows keep their bits.
 */
void mx_row_encode(const mx_quant *quant, const float *x, size_t n, uint64_t stream, uint8_t *codes,
                   uint8_t *scales);
void mx_row_decode(const mx_quant *quant, const uint8_t *codes, const uint8_t *scales, size_t n,
                   float *out);

/* x [n] -> quantize-dequantize -> out [n] (may equal x; no other overlap): the
 * same values as mx_row_encode and mx_row_decode. */
void mx_row_cast(const mx_quant *quant, const float *x, size_t n, uint64_t stream, float *out);

/* Bit-stream packing of one code per byte, `bits` <= 8 each; bits beyond are
 * ignored. `packed` holds (n * bits + 7) / 8 bytes, the last one filled up with
 * zero bits. */
void mx_codes_pack(const uint8_t *codes, size_t n, unsigned bits, uint8_t *packed);
void mx_codes_unpack(const uint8_t *packed, size_t n, unsigned bits, uint8_t *codes);

#endif

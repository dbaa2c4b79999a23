/*
 * Encode and decode shared by the element formats: a format's file fills in a
 * descriptor and points here. These are the specification, written for plainness;
 * block.c uses the integer arithmetic of element_fast.h, which the tests hold
 * equal to them.
 */
#ifndef MX_FORMAT_ELEMENT_H
#define MX_FORMAT_ELEMENT_H

#include "format/format.h"

/*
 * Sign, exponent, mantissa with IEEE bias 2^(exponent_bits - 1) - 1 and
 * subnormals. Codes whose value would exceed `max` are special: Inf where the
 * mantissa is zero, NaN otherwise. That one rule covers e5m2, bf16, fp16 and fp32
 * (IEEE), e4m3fn (only 0x7F and 0xFF are above 448) and the formats without
 * specials.
 */
float mx_minifloat_decode(const mx_format *format, uint32_t code);
uint32_t mx_minifloat_encode(const mx_format *format, double y, mx_round round, uint32_t random);

/* Two's complement in steps of 2^-(bits - 2); encoding clamps to
 * +-(2^(bits - 1) - 1), so the most negative code is never produced. */
float mx_integer_decode(const mx_format *format, uint32_t code);
uint32_t mx_integer_encode(const mx_format *format, double y, mx_round round, uint32_t random);

/* Magnitude code (no sign bit) of `max`. */
uint32_t mx_element_max_code(const mx_format *format);

#endif

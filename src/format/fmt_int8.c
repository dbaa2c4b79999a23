#include "format/element.h"

#define ROW4(n) (n), (n) + 1, (n) + 2, (n) + 3
#define ROW16(n) ROW4(n), ROW4((n) + 4), ROW4((n) + 8), ROW4((n) + 12)
#define ROW64(n) ROW16(n), ROW16((n) + 16), ROW16((n) + 32), ROW16((n) + 48)

/* Two's complement: codes 0..127, then 128..255 as -128..-1. */
static const int8_t table[256] = {ROW64(0), ROW64(64), ROW64(-128), ROW64(-64)};

const mx_format mx_format_int8 = {
    .name = "int8",
    .description = "OCP MXINT8: two's complement in steps of 1/64, clamped to +-127/64",
    .kind = MX_KIND_INT,
    .bits = 8,
    .mantissa_bits = 7,
    .emax = 0,
    .max = 127.0f / 64.0f,
    .int_table = table,
    .int_shift = 6,
    .decode = mx_integer_decode,
    .encode = mx_integer_encode,
};

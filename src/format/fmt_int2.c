/* Not of OCP MX: microxcaling has it. Code 2, which would be -2, is never made. */
#include "format/element.h"

static const int8_t table[4] = {0, 1, -2, -1};

const mx_format mx_format_int2 = {
    .name = "int2",
    .description = "ternary: -1, 0, 1 (microxcaling)",
    .kind = MX_KIND_INT,
    .bits = 2,
    .mantissa_bits = 1,
    .emax = 0,
    .max = 1.0f,
    .int_table = table,
    .int_shift = 0,
    .decode = mx_integer_decode,
    .encode = mx_integer_encode,
};

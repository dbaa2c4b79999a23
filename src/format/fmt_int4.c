/* Not of OCP MX: microxcaling has it, as MXINT8 with fewer bits. -2 is never made. */
#include "format/element.h"

static const int8_t table[16] = {0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1};

const mx_format mx_format_int4 = {
    .name = "int4",
    .description = "two's complement in steps of 1/4, clamped to +-1.75 (microxcaling)",
    .kind = MX_KIND_INT,
    .bits = 4,
    .mantissa_bits = 3,
    .emax = 0,
    .max = 1.75f,
    .int_table = table,
    .int_shift = 2,
    .decode = mx_integer_decode,
    .encode = mx_integer_encode,
};

/*
 * Element formats of OCP Microscaling (MX) v1.0: a constant descriptor each.
 *
 * The scalar decode IS the specification; kernels and packers are tested
 * against it by equality. A new format is one file (fmt_NAME.c, which defines
 * `const mx_format mx_format_NAME`) and one line in formats.def; the command
 * line's help, `mxlm formats`, the tests and the benches walk the list.
 */
#ifndef MX_FORMAT_FORMAT_H
#define MX_FORMAT_FORMAT_H

#include "base/status.h"

typedef enum mx_round {
    MX_ROUND_NEAREST, /* half away from zero: microxcaling's default */
    MX_ROUND_EVEN,    /* half to even (RNE) */
    MX_ROUND_FLOOR,   /* toward zero, as microxcaling's "floor" on magnitudes */
    MX_ROUND_DITHER,  /* stochastic: floor(|y| + u), u uniform in [0, 1) */
} mx_round;

typedef enum mx_scale_rule {
    MX_SCALE_FLOOR, /* OCP 6.3: floor(log2 amax) - emax */
    MX_SCALE_EVEN,  /* the same after rounding amax to the element's mantissa */
    MX_SCALE_RCEIL, /* ceil(log2(amax / max)) */
    MX_SCALE_CEIL,  /* ceil(log2 amax) - emax */
} mx_scale_rule;

typedef enum mx_format_kind {
    MX_KIND_FLOAT, /* minifloat elements under a shared E8M0 scale */
    MX_KIND_INT,   /* two's-complement elements under a shared E8M0 scale */
    MX_KIND_PLAIN, /* bf16, fp16, fp32: no shared scale; block size is unused */
} mx_format_kind;

typedef struct mx_format mx_format;
struct mx_format {
    const char *name;        /* "fp4_e2m1"; the name with "mx" before it is accepted too */
    const char *description; /* one line for `mxlm formats` */
    mx_format_kind kind;
    uint8_t bits;            /* of one element, sign included */
    uint8_t exponent_bits;   /* 0 for integers */
    uint8_t mantissa_bits;   /* explicit; for integers: value bits = bits - 1 */
    int emax;                /* exponent of the largest binade (integers: 0) */
    float max;               /* largest finite magnitude of an element */
    /* value = int_table[code] * 2^-int_shift, when every value fits int8 so;
     * NULL otherwise. [2^bits] */
    const int8_t *int_table;
    int int_shift;
    /* The value of a code (all 2^bits codes; NaN / Inf codes give NaN / Inf). */
    float (*decode)(const mx_format *format, uint32_t code);
    /* The code of y (a value already divided by the shared scale), saturating at
     * +-max; y is finite, |y| of any size. `random` feeds MX_ROUND_DITHER. */
    uint32_t (*encode)(const mx_format *format, double y, mx_round round, uint32_t random);
};

/* All formats in the order of formats.def; `mx_format_count()` of them. */
const mx_format *mx_format_at(size_t index);
size_t mx_format_count(void);

/* By name, with or without "mx" in front, upper or lower case; NULL when
 * unknown. */
const mx_format *mx_format_find(const char *name);

mx_status mx_round_parse(const char *name, mx_round *out, mx_error *err);
mx_status mx_scale_rule_parse(const char *name, mx_scale_rule *out, mx_error *err);
const char *mx_round_name(mx_round round);
const char *mx_scale_rule_name(mx_scale_rule rule);

#endif

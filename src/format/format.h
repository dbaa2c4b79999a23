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
#define MX_ROUND_COUNT 4

typedef enum mx_scale_rule {
    MX_SCALE_FLOOR, /* OCP 6.3: floor(log2 amax) - emax */
    MX_SCALE_EVEN,  /* the same after rounding amax to the element's mantissa */
    MX_SCALE_RCEIL, /* ceil(log2(amax / max)) */
    MX_SCALE_CEIL,  /* ceil(log2 amax) - emax */
} mx_scale_rule;
#define MX_SCALE_RULE_COUNT 4

typedef enum mx_format_kind {
    MX_KIND_FLOAT, /* minifloat elements under a shared E8M0 scale */
    MX_KIND_INT,   /* two's-complement elements under a shared E8M0 scale */
    MX_KIND_PLAIN, /* bf16, fp16, fp32: IEEE layout, no shared scale; block is unused */
} mx_format_kind;

typedef struct mx_format mx_format;
struct mx_format {
    const char *name;        /* "fp4_e2m1"; the name with "mx" before it is accepted too */
    const char *alias;       /* microxcaling's other name ("fp4", "bfloat16") or NULL */
    const char *description; /* one line for `mxlm formats` */
    mx_format_kind kind;
    uint8_t bits;          /* of one element, sign included */
    uint8_t exponent_bits; /* 0 for integers */
    uint8_t mantissa_bits; /* explicit; for integers: value bits = bits - 1 */
    int emax;              /* exponent of the largest binade (integers: 0) */
    float max;             /* largest finite magnitude of an element */
    /* value = int_table[code] * 2^-int_shift, when every value fits int8 so;
     * NULL otherwise. [2^bits] */
    const int8_t *int_table;
    int int_shift;
    /* The value of a code (all 2^bits codes; NaN / Inf codes give NaN / Inf). */
    float (*decode)(const mx_format *format, uint32_t code);
    /*
     * The code of y, a finite value already divided by the shared scale, |y| of
     * any size. The magnitude is rounded to a multiple of the step of its binade
     * (element subnormals kept) and saturates at max. y < 0 that rounds to zero
     * gives the -0 code of FLOAT formats, as microxcaling; y = -0 gives +0.
     * PLAIN formats convert as IEEE 754 does instead: -0 stays, and what rounds
     * beyond max becomes Inf (under MX_ROUND_FLOOR: max).
     * MX_ROUND_DITHER adds random * 2^-32 to |y| in units of the step; exactly:
     * it rounds up iff floor(fraction * 2^32) + random >= 2^32.
     */
    uint32_t (*encode)(const mx_format *format, double y, mx_round round, uint32_t random);
};

/* All formats in the order of formats.def; `mx_format_count()` of them. */
const mx_format *mx_format_at(size_t index);
size_t mx_format_count(void);

/* By name or alias, upper or lower case; formats under a shared scale also with
 * "mx" in front ("mxfp4_e2m1", "mxint8"). NULL when unknown. */
const mx_format *mx_format_find(const char *name);

/* Fraction bits of a significand in the largest binade: mantissa_bits of floats,
 * bits - 2 of integers (OCP MX v1.0: an integer element is s.fff or so, below 2). */
unsigned mx_format_fraction_bits(const mx_format *format);

/* Smallest positive normal and smallest positive value; for integers both are
 * the step 2^-(bits - 2). */
double mx_format_min_normal(const mx_format *format);
double mx_format_min_positive(const mx_format *format);

/* By name; MX_ERR_ARGUMENT, with the names there are, when unknown. */
mx_status mx_round_parse(const char *name, mx_round *out, mx_error *err);
mx_status mx_scale_rule_parse(const char *name, mx_scale_rule *out, mx_error *err);
const char *mx_round_name(mx_round round);
const char *mx_scale_rule_name(mx_scale_rule rule);
/* One line for `mxlm formats`. */
const char *mx_round_meaning(mx_round round);
const char *mx_scale_rule_meaning(mx_scale_rule rule);

#endif

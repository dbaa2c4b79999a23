/*
 * Elements by definition, in double and slowly: the specification that everything
 * faster is tested against (element_fast.h, the kernels). Floats are OCP MX v1.0,
 * section 5.3; rounding is of the magnitude, the sign is put back.
 */
#include "format/element.h"

#include <math.h>

static int minifloat_bias(const mx_format *format)
{
    return (1 << (format->exponent_bits - 1)) - 1;
}

/* Codes above it, where there are any, are Inf and NaN: encoding never makes them. */
uint32_t mx_element_max_code(const mx_format *format)
{
    if (format->kind == MX_KIND_INT) {
        return (1u << (format->bits - 1)) - 1;
    }
    int exponent = format->emax + minifloat_bias(format);
    double fraction = ldexp(format->max, -format->emax) - 1;
    return ((uint32_t)exponent << format->mantissa_bits) +
           (uint32_t)ldexp(fraction, format->mantissa_bits);
}

/* Rounds q >= 0 to an integer. */
static double round_magnitude(double q, mx_round round, uint32_t random)
{
    double whole = floor(q);
    double rest = q - whole; /* exact */
    bool up = false;
    switch (round) {
    case MX_ROUND_NEAREST:
        up = rest >= 0.5;
        break;
    case MX_ROUND_EVEN:
        up = rest > 0.5 || (rest == 0.5 && fmod(whole, 2) != 0);
        break;
    case MX_ROUND_FLOOR:
        break;
    case MX_ROUND_DITHER:
        /* floor() keeps the sum exact: rest + random * 2^-32 would not be. */
        up = floor(ldexp(rest, 32)) + random >= 0x1p32;
        break;
    }
    return up ? whole + 1 : whole;
}

/* Exponent 0 is subnormal. Beyond `max` lie Inf (mantissa 0) and NaN, where a format
 * has them; E4M3 has NaN alone, and its 0x7F has a mantissa of ones. */
float mx_minifloat_decode(const mx_format *format, uint32_t code)
{
    unsigned m = format->mantissa_bits;
    uint32_t mantissa = code & ((1u << m) - 1);
    uint32_t exponent = (code >> m) & ((1u << format->exponent_bits) - 1);
    bool negative = (code >> (format->bits - 1)) & 1;

    double significand = mantissa + (exponent != 0 ? ldexp(1, (int)m) : 0);
    int scale = (exponent != 0 ? (int)exponent : 1) - minifloat_bias(format) - (int)m;
    double magnitude = ldexp(significand, scale);
    if (magnitude > format->max) {
        magnitude = mantissa == 0 ? (double)INFINITY : (double)NAN;
    }
    return (float)(negative ? -magnitude : magnitude);
}

uint32_t mx_minifloat_encode(const mx_format *format, double y, mx_round round, uint32_t random)
{
    int m = format->mantissa_bits;
    int emin = 1 - minifloat_bias(format);
    bool plain = format->kind == MX_KIND_PLAIN;
    bool negative = plain ? signbit(y) != 0 : y < 0;
    uint32_t sign = negative ? 1u << (format->bits - 1) : 0;

    /* All that is beyond twice max is as far out as that. */
    double magnitude = fmin(fabs(y), 2 * (double)format->max);
    if (magnitude == 0) {
        return sign;
    }
    int p = ilogb(magnitude);
    p = p < emin ? emin : p;
    double steps = round_magnitude(ldexp(magnitude, m - p), round, random);
    /* `steps` holds the implicit bit of normal values, so that rounding up to
     * the next binade carries into the exponent. */
    uint32_t code = ((uint32_t)(p - emin) << m) + (uint32_t)steps;
    if (magnitude > format->max) {
        uint32_t max_code = mx_element_max_code(format);
        uint32_t beyond = plain && round != MX_ROUND_FLOOR ? max_code + 1 : max_code; /* Inf */
        code = code > max_code ? beyond : code;
    }
    return sign | code;
}

float mx_integer_decode(const mx_format *format, uint32_t code)
{
    int32_t value = (int32_t)(code & ((1u << format->bits) - 1));
    if (value >> (format->bits - 1)) {
        value -= 1 << format->bits;
    }
    return (float)ldexp(value, 2 - format->bits);
}

uint32_t mx_integer_encode(const mx_format *format, double y, mx_round round, uint32_t random)
{
    /* 2 is beyond every integer format's max; the limit keeps the cast defined. */
    double magnitude = fmin(fabs(y), 2);
    double steps = round_magnitude(ldexp(magnitude, format->bits - 2), round, random);
    uint32_t code = (uint32_t)steps;
    uint32_t max_code = mx_element_max_code(format);
    code = code > max_code ? max_code : code;
    return (y < 0 ? 0u - code : code) & ((1u << format->bits) - 1);
}

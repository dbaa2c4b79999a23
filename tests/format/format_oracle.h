/*
 * An independent account of the element formats and of the scale rules: values
 * built binade by binade, rounding by search among them, logarithms by comparison
 * with powers of two. It shares no line and no formula with src/format. The OCP
 * and microxcaling formats are written down here; a format added later is taken by
 * its descriptor, so that it needs no change here to be tested.
 */
#ifndef MX_TEST_FORMAT_ORACLE_H
#define MX_TEST_FORMAT_ORACLE_H

#include "format/block.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The non-negative finite values of a format in ascending order; the index of a
 * value is its magnitude code. */
typedef struct oracle {
    const mx_format *format;
    double values[130];
    int count;
    int largest_binade; /* exponent of the largest value's binade */
    bool integer;
} oracle;

typedef struct oracle_shape {
    const char *name;
    double first_binade; /* smallest normal value; integers: 1 */
    int steps;           /* values a binade */
    double largest;
} oracle_shape;

static inline oracle_shape oracle_shape_of(const mx_format *format)
{
    static const oracle_shape shapes[] = {
        {"fp4_e2m1", 1, 2, 6},
        {"fp6_e2m3", 1, 8, 7.5},
        {"fp6_e3m2", 0.25, 4, 28},
        {"fp8_e4m3", 1.0 / 64, 8, 448},
        {"fp8_e5m2", 1.0 / 16384, 4, 57344},
        {"int8", 1, 64, 127.0 / 64},
        {"int4", 1, 4, 1.75},
        {"int2", 1, 1, 1},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        if (strcmp(shapes[i].name, format->name) == 0) {
            return shapes[i];
        }
    }
    if (format->kind == MX_KIND_INT) {
        return (oracle_shape){format->name, 1, 1 << (format->bits - 2), format->max};
    }
    double first = ldexp(1, 2 - (1 << (format->exponent_bits - 1)));
    return (oracle_shape){format->name, first, 1 << format->mantissa_bits, format->max};
}

static inline oracle oracle_make(const mx_format *format)
{
    oracle_shape shape = oracle_shape_of(format);
    oracle o = {.format = format, .integer = format->kind == MX_KIND_INT};
    double step = shape.first_binade / shape.steps;
    double binade_end = 2 * shape.first_binade;
    for (double v = 0; v <= shape.largest; v += step) {
        o.values[o.count++] = v;
        if (v + step == binade_end) { /* the next value begins a binade */
            step *= 2;
            binade_end *= 2;
            v -= step / 2; /* the loop adds the doubled step */
        }
    }
    while (ldexp(1, o.largest_binade + 1) <= shape.largest) {
        o.largest_binade++;
    }
    return o;
}

/* The formats under a shared scale, by index; NULL at the end. */
static inline const mx_format *oracle_scaled_at(size_t index)
{
    for (size_t i = 0; i < mx_format_count(); i++) {
        if (mx_format_at(i)->kind != MX_KIND_PLAIN && index-- == 0) {
            return mx_format_at(i);
        }
    }
    return NULL;
}

/* for each `format` under a shared scale */
#define ORACLE_FOREACH(format)                                                                     \
    for (size_t oracle_i = 0; oracle_i < mx_format_count(); oracle_i++)                            \
        for (const mx_format *format = oracle_scaled_at(oracle_i); format != NULL; format = NULL)

/* Index of the last value that is <= y. `guess` speeds up ascending searches. */
static inline int oracle_below(const oracle *o, double y, int guess)
{
    while (guess > 0 && o->values[guess] > y) {
        guess--;
    }
    while (guess + 1 < o->count && o->values[guess + 1] <= y) {
        guess++;
    }
    return guess;
}

/* Index of the value that magnitude y rounds to; `below` is oracle_below. */
static inline int oracle_round(const oracle *o, double y, int below, mx_round round,
                               uint32_t random)
{
    if (below + 1 == o->count) {
        return below; /* saturates */
    }
    double low = o->values[below], high = o->values[below + 1];
    double middle = (low + high) / 2; /* exact */
    switch (round) {
    case MX_ROUND_NEAREST:
        return y >= middle ? below + 1 : below;
    case MX_ROUND_EVEN:
        return y > middle || (y == middle && below % 2 == 1) ? below + 1 : below;
    case MX_ROUND_FLOOR:
        return below;
    case MX_ROUND_DITHER: {
        /* u = random / 2^32 reaches the part that is missing to `high`, the
         * fraction cut off after 32 bits. */
        double cut = floor((y - low) / (high - low) * 4294967296.0);
        return cut + random > 4294967295.0 ? below + 1 : below;
    }
    }
    return below;
}

/* The code of a magnitude's index and the sign of the value it came from. */
static inline uint32_t oracle_code(const oracle *o, int index, bool negative)
{
    uint32_t codes = 1u << o->format->bits;
    if (!negative) {
        return (uint32_t)index;
    }
    return o->integer ? (codes - (uint32_t)index) % codes : codes / 2 + (uint32_t)index;
}

static inline uint32_t oracle_encode(const oracle *o, double y, mx_round round, uint32_t random)
{
    int below = oracle_below(o, fabs(y), 0);
    return oracle_code(o, oracle_round(o, fabs(y), below, round, random), y < 0);
}

/* Whether 2^e >= q for q > 0, without a logarithm. */
static inline bool oracle_power_reaches(int e, double q)
{
    return ldexp(1, e) >= q;
}

/* The scale byte by the rules' formulas in double; amax >= 0. */
static inline unsigned oracle_scale(const oracle *o, mx_scale_rule rule, float amax)
{
    if (!(amax <= 3.402823466e38f)) {
        return 255;
    }
    double a = amax == 0 ? ldexp(1, -126) : amax;
    if (rule == MX_SCALE_EVEN) {
        /* amax rounded, ties up, to as many digits as the largest binade holds. */
        int k = -200;
        while (!oracle_power_reaches(k + 1, a) || ldexp(1, k + 1) == a) {
            k++;
        }
        /* Values in the largest binade, by counting those of a full one. */
        double digits = o->count / 2;
        if (!o->integer) {
            digits = oracle_below(o, ldexp(1, o->largest_binade), 0) -
                     oracle_below(o, ldexp(1, o->largest_binade - 1), 0);
        }
        a = floor(a / ldexp(1, k) * digits + 0.5) / digits * ldexp(1, k);
    }
    double q =
        rule == MX_SCALE_RCEIL ? a / o->values[o->count - 1] : a / ldexp(1, o->largest_binade);
    int e = -160; /* far below the clamp */
    if (rule == MX_SCALE_RCEIL || rule == MX_SCALE_CEIL) {
        while (!oracle_power_reaches(e, q)) {
            e++; /* smallest e with 2^e >= q: the ceiling */
        }
    } else {
        while (ldexp(1, e + 1) <= q) {
            e++; /* largest e with 2^e <= q: the floor */
        }
    }
    return e > 127 ? 255 : e < -127 ? 0 : (unsigned)(e + 127);
}

static inline float oracle_bits_float(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t oracle_float_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* A small generator for test inputs (xorshift64*). */
static inline uint32_t oracle_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (uint32_t)((*state * 0x2545F4914F6CDD1DULL) >> 32);
}

#endif

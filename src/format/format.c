/* The lists: formats, roundings and scale rules, by number and by name. */
#include "format/format.h"

#include <math.h>
#include <string.h>
#include <strings.h>

#define MX_FORMAT(name) extern const mx_format mx_format_##name;
#include "format/formats.def"
#undef MX_FORMAT

static const mx_format *const formats[] = {
#define MX_FORMAT(name) &mx_format_##name,
#include "format/formats.def"
#undef MX_FORMAT
};

typedef struct named {
    const char *name, *meaning;
} named;

static const named rounds[MX_ROUND_COUNT] = {
    [MX_ROUND_NEAREST] = {"nearest", "to nearest, half away from zero (microxcaling's default)"},
    [MX_ROUND_EVEN] = {"even", "to nearest, half to even (RNE)"},
    [MX_ROUND_FLOOR] = {"floor", "toward zero"},
    [MX_ROUND_DITHER] = {"dither", "stochastic: up with the probability of the fraction cut off"},
};

static const named rules[MX_SCALE_RULE_COUNT] = {
    [MX_SCALE_FLOOR] = {"floor", "floor(log2 amax) - emax (OCP MX v1.0 6.3, microxcaling)"},
    [MX_SCALE_EVEN] = {"even", "the same after rounding amax to the element's mantissa (Quark)"},
    [MX_SCALE_RCEIL] = {"rceil", "ceil(log2(amax / max)): nothing saturates (NVIDIA)"},
    [MX_SCALE_CEIL] = {"ceil", "ceil(log2 amax) - emax"},
};

const mx_format *mx_format_at(size_t index)
{
    return index < MX_COUNT(formats) ? formats[index] : NULL;
}

size_t mx_format_count(void)
{
    return MX_COUNT(formats);
}

static bool format_is_called(const mx_format *format, const char *name)
{
    return strcasecmp(format->name, name) == 0 ||
           (format->alias != NULL && strcasecmp(format->alias, name) == 0);
}

const mx_format *mx_format_find(const char *name)
{
    bool prefixed = strncasecmp(name, "mx", 2) == 0;
    for (size_t i = 0; i < MX_COUNT(formats); i++) {
        const mx_format *format = formats[i];
        /* "mxbf16" would name microxcaling's bf16 under a shared scale, which
         * is not what plain bf16 computes. */
        bool shared_scale = format->kind != MX_KIND_PLAIN;
        if (format_is_called(format, name) ||
            (prefixed && shared_scale && format_is_called(format, name + 2))) {
            return format;
        }
    }
    return NULL;
}

unsigned mx_format_fraction_bits(const mx_format *format)
{
    return format->kind == MX_KIND_INT ? format->bits - 2u : format->mantissa_bits;
}

double mx_format_min_normal(const mx_format *format)
{
    if (format->kind == MX_KIND_INT) {
        return ldexp(1, 2 - format->bits);
    }
    return ldexp(1, 2 - (1 << (format->exponent_bits - 1)));
}

double mx_format_min_positive(const mx_format *format)
{
    if (format->kind == MX_KIND_INT) {
        return ldexp(1, 2 - format->bits);
    }
    return ldexp(mx_format_min_normal(format), -format->mantissa_bits);
}

/* Index of `name` in a list of four, or an error that lists them. */
static mx_status named_parse(const named list[4], const char *what, const char *name, size_t *out,
                             mx_error *err)
{
    for (size_t i = 0; i < 4; i++) {
        if (strcasecmp(list[i].name, name) == 0) {
            *out = i;
            return MX_OK;
        }
    }
    *out = 0;
    return mx_error_set(err, MX_ERR_ARGUMENT, "%s: unknown value '%.40s' (%s, %s, %s or %s)", what,
                        name, list[0].name, list[1].name, list[2].name, list[3].name);
}

mx_status mx_round_parse(const char *name, mx_round *out, mx_error *err)
{
    size_t index;
    mx_status status = named_parse(rounds, "round", name, &index, err);
    *out = (mx_round)index;
    return status;
}

mx_status mx_scale_rule_parse(const char *name, mx_scale_rule *out, mx_error *err)
{
    size_t index;
    mx_status status = named_parse(rules, "scale_rule", name, &index, err);
    *out = (mx_scale_rule)index;
    return status;
}

const char *mx_round_name(mx_round round)
{
    return rounds[round].name;
}

const char *mx_scale_rule_name(mx_scale_rule rule)
{
    return rules[rule].name;
}

const char *mx_round_meaning(mx_round round)
{
    return rounds[round].meaning;
}

const char *mx_scale_rule_meaning(mx_scale_rule rule)
{
    return rules[rule].meaning;
}

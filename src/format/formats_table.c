/* `mxlm formats`: what there is, as text and as JSON. */
#include "base/json.h"
#include "base/str.h"
#include "format/specs.h"

#include <stdio.h>

static const char *const kind_names[] = {
    [MX_KIND_FLOAT] = "float",
    [MX_KIND_INT] = "integer",
    [MX_KIND_PLAIN] = "plain",
};

/* ---- text ------------------------------------------------------------------ */

/* Everything is derived from the descriptor: a new format needs no line here. */
static void text_format(mx_str *str, const mx_format *format)
{
    bool scaled = format->kind != MX_KIND_PLAIN;
    char exponent[8] = "-", table[8] = "-";
    if (format->exponent_bits > 0) {
        snprintf(exponent, sizeof exponent, "%d", format->exponent_bits);
    }
    if (format->int_table != NULL) {
        snprintf(table, sizeof table, "x%d", 1 << format->int_shift);
    }
    mx_str_addf(str, "%s%-*s  %4d  %3s  %3d  %4d  %-12.6g  %-12.6g  %-12.6g  %-4s  %s\n",
                scaled ? "mx" : "", scaled ? 8 : 10, format->name, format->bits, exponent,
                format->mantissa_bits, format->emax, format->max, mx_format_min_normal(format),
                mx_format_min_positive(format), table, format->description);
}

static mx_status table_text(const mx_quant *defaults, char **out, mx_error *err)
{
    mx_str str = {0};
    mx_str_addf(&str, "%-10s  %4s  %3s  %3s  %4s  %-12s  %-12s  %-12s  %-4s  %s\n", "format",
                "bits", "exp", "man", "emax", "max", "min normal", "min positive", "int8",
                "description");
    for (size_t i = 0; i < mx_format_count(); i++) {
        text_format(&str, mx_format_at(i));
    }
    mx_str_add(&str, "\nmx formats share an E8M0 scale, 2^(byte - 127), a block (default 32) and "
                     "are named with or without \"mx\".\nint8: values times this factor are "
                     "integers that fit int8, so block products are exact.\n");
    mx_str_add(&str, "\nscale rules (amax: the block's largest magnitude)\n");
    for (int i = 0; i < MX_SCALE_RULE_COUNT; i++) {
        mx_scale_rule rule = (mx_scale_rule)i;
        mx_str_addf(&str, "  %-8s %s%s\n", mx_scale_rule_name(rule), mx_scale_rule_meaning(rule),
                    rule == defaults->rule ? " [default]" : "");
    }
    mx_str_add(&str, "\nroundings\n");
    for (int i = 0; i < MX_ROUND_COUNT; i++) {
        mx_round round = (mx_round)i;
        mx_str_addf(&str, "  %-8s %s%s\n", mx_round_name(round), mx_round_meaning(round),
                    round == defaults->round ? " [default]" : "");
    }
    mx_status status = mx_str_take(&str, out, err);
    mx_str_free(&str);
    return status;
}

/* ---- JSON ------------------------------------------------------------------ */

/* New references below; NULL when out of memory, which json_pack and
 * json_array_append_new pass on. */
static json_t *json_format(const mx_format *format)
{
    json_t *factor = format->int_table != NULL ? json_integer(1 << format->int_shift) : json_null();
    return json_pack("{s:s, s:s?, s:s, s:b, s:i, s:i, s:i, s:i, s:f, s:f, s:f, s:o, s:s}", "name",
                     format->name, "alias", format->alias, "kind", kind_names[format->kind],
                     "shared_scale", format->kind != MX_KIND_PLAIN, "bits", format->bits,
                     "exponent_bits", format->exponent_bits, "mantissa_bits", format->mantissa_bits,
                     "emax", format->emax, "max", (double)format->max, "min_normal",
                     mx_format_min_normal(format), "min_positive", mx_format_min_positive(format),
                     "int8_factor", factor, "description", format->description);
}

static json_t *json_choice(const char *name, const char *meaning, bool is_default)
{
    return json_pack("{s:s, s:s, s:b}", "name", name, "meaning", meaning, "default",
                     (int)is_default);
}

static mx_status table_json(const mx_quant *defaults, char **out, mx_error *err)
{
    json_t *formats = json_array(), *rules = json_array(), *rounds = json_array();
    int failed = 0;
    for (size_t i = 0; i < mx_format_count(); i++) {
        failed |= json_array_append_new(formats, json_format(mx_format_at(i)));
    }
    for (int i = 0; i < MX_SCALE_RULE_COUNT; i++) {
        mx_scale_rule rule = (mx_scale_rule)i;
        failed |= json_array_append_new(rules, json_choice(mx_scale_rule_name(rule),
                                                           mx_scale_rule_meaning(rule),
                                                           rule == defaults->rule));
    }
    for (int i = 0; i < MX_ROUND_COUNT; i++) {
        mx_round round = (mx_round)i;
        failed |=
            json_array_append_new(rounds, json_choice(mx_round_name(round), mx_round_meaning(round),
                                                      round == defaults->round));
    }
    json_t *table = json_pack("{s:o, s:o, s:o, s:i}", "formats", formats, "scale_rules", rules,
                              "roundings", rounds, "default_block", (int)defaults->block);
    if (failed != 0 || table == NULL) {
        json_decref(table);
        return mx_error_nomem(err, "table of formats", 0);
    }
    mx_status status = mx_json_dump(table, 2, out, err);
    json_decref(table);
    return status;
}

mx_status mx_formats_table(bool json, char **out, mx_error *err)
{
    *out = NULL;
    mx_quant defaults = mx_quant_default();
    return json ? table_json(&defaults, out, err) : table_text(&defaults, out, err);
}

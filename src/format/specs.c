/* The settings object: keys of the command line, description, globs. */
#include "format/specs.h"

#include "base/str.h"

#include <ctype.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

mx_quant mx_quant_default(void)
{
    return (mx_quant){.block = 32, .rule = MX_SCALE_FLOOR, .round = MX_ROUND_NEAREST};
}

mx_status mx_specs_create(mx_specs **out, mx_error *err)
{
    *out = calloc(1, sizeof **out);
    if (*out == NULL) {
        return mx_error_nomem(err, "settings", sizeof **out);
    }
    (*out)->weights = mx_quant_default();
    (*out)->activations = mx_quant_default();
    (*out)->head = mx_quant_default();
    return MX_OK;
}

void mx_specs_clear(mx_specs *specs)
{
    for (size_t i = 0; i < specs->n_excludes; i++) {
        free(specs->excludes[i]);
    }
    memset(specs, 0, sizeof *specs);
}

void mx_specs_free(mx_specs *specs)
{
    if (specs != NULL) {
        mx_specs_clear(specs);
        free(specs);
    }
}

mx_status mx_specs_copy(const mx_specs *from, mx_specs *to, mx_error *err)
{
    *to = *from;
    to->n_excludes = 0;
    for (size_t i = 0; i < from->n_excludes; i++) {
        mx_status status = mx_specs_set(to, "exclude", from->excludes[i], err);
        if (status != MX_OK) {
            mx_specs_clear(to);
            return status;
        }
    }
    return MX_OK;
}

/* ---- keys ---------------------------------------------------------------- */

/* Decimal digits only: strtoull alone would take "-1" and " 7". */
static bool text_to_u64(const char *text, uint64_t max, uint64_t *out)
{
    if (!isdigit((unsigned char)text[0])) {
        return false;
    }
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    *out = value;
    return errno == 0 && *end == '\0' && value <= max;
}

static mx_status set_format(mx_quant *quant, const char *key, const char *value, mx_error *err)
{
    const mx_format *format = mx_format_find(value);
    if (format == NULL) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "%s: unknown format '%.40s' (see: mxlm formats)",
                            key, value);
    }
    quant->format = format;
    if (mx_quant_is_none(quant)) {
        quant->format = NULL; /* fp32: one way to say unquantized */
    }
    return MX_OK;
}

/* A head of bf16 and the like would be a cast, which no setting here asks for. */
static mx_status set_head(mx_specs *specs, const char *value, mx_error *err)
{
    mx_quant head = specs->head;
    MX_TRY(set_format(&head, "head", value, err));
    if (head.format != NULL && !mx_quant_is_scaled(&head)) {
        return mx_error_set(err, MX_ERR_ARGUMENT,
                            "head: %s has no shared scales; fp32 leaves the head as it is",
                            head.format->name);
    }
    specs->head = head;
    return MX_OK;
}

static mx_status set_block(mx_specs *specs, const char *value, mx_error *err)
{
    uint64_t block = 0;
    bool whole_axis = strcmp(value, "axis") == 0;
    if (!whole_axis && (!text_to_u64(value, UINT32_MAX, &block) || block == 0 || block % 8 != 0)) {
        return mx_error_set(err, MX_ERR_ARGUMENT,
                            "block: '%.40s' is neither a multiple of 8 nor 'axis'", value);
    }
    specs->weights.block = (uint32_t)block;
    specs->activations.block = (uint32_t)block;
    specs->head.block = (uint32_t)block;
    return MX_OK;
}

/* One rule for all operands, unless the activations have one of their own; which
 * of the two keys came first does not matter. */
static mx_status set_rule(mx_specs *specs, const char *key, const char *value, mx_error *err)
{
    mx_scale_rule rule;
    MX_TRY(mx_scale_rule_parse(value, &rule, err));
    bool activations_alone = strcmp(key, "activation_scale_rule") == 0;
    if (!activations_alone) {
        specs->weights.rule = rule;
        specs->head.rule = rule;
    }
    if (activations_alone || !specs->activation_rule_set) {
        specs->activations.rule = rule;
    }
    specs->activation_rule_set = specs->activation_rule_set || activations_alone;
    return MX_OK;
}

static mx_status set_round(mx_specs *specs, const char *value, mx_error *err)
{
    mx_round round;
    MX_TRY(mx_round_parse(value, &round, err));
    specs->weights.round = round;
    specs->activations.round = round;
    specs->head.round = round;
    return MX_OK;
}

static mx_status set_seed(mx_specs *specs, const char *value, mx_error *err)
{
    uint64_t seed;
    /* JSON integers end at 2^63, and the contract must hold the seed. */
    if (!text_to_u64(value, INT64_MAX, &seed)) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "seed: '%.40s' is not a number below 2^63",
                            value);
    }
    specs->weights.seed = seed;
    specs->activations.seed = seed;
    specs->head.seed = seed;
    return MX_OK;
}

bool mx_glob_is_cheap(const char *glob)
{
    int stars = 0;
    for (const char *at = glob; *at != '\0' && stars <= MX_GLOB_MAX_STARS; at++) {
        stars += *at == '*';
    }
    return stars <= MX_GLOB_MAX_STARS;
}

static mx_status add_exclude(mx_specs *specs, const char *glob, mx_error *err)
{
    if (glob[0] == '\0') {
        return mx_error_set(err, MX_ERR_ARGUMENT, "exclude: the glob is empty");
    }
    if (!mx_glob_is_cheap(glob)) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "exclude: '%.40s' has more than %d stars", glob,
                            MX_GLOB_MAX_STARS);
    }
    if (specs->n_excludes == MX_SPECS_MAX_EXCLUDES) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "exclude: more than %d globs",
                            MX_SPECS_MAX_EXCLUDES);
    }
    char *copy = mx_str_copy(glob, strlen(glob));
    if (copy == NULL) {
        return mx_error_nomem(err, "exclude", strlen(glob) + 1);
    }
    specs->excludes[specs->n_excludes++] = copy;
    return MX_OK;
}

mx_status mx_specs_set(mx_specs *specs, const char *key, const char *value, mx_error *err)
{
    if (strcmp(key, "weights") == 0) {
        return set_format(&specs->weights, key, value, err);
    }
    if (strcmp(key, "activations") == 0) {
        return set_format(&specs->activations, key, value, err);
    }
    if (strcmp(key, "head") == 0) {
        return set_head(specs, value, err);
    }
    if (strcmp(key, "block") == 0) {
        return set_block(specs, value, err);
    }
    if (strcmp(key, "scale_rule") == 0 || strcmp(key, "activation_scale_rule") == 0) {
        return set_rule(specs, key, value, err);
    }
    if (strcmp(key, "round") == 0) {
        return set_round(specs, value, err);
    }
    if (strcmp(key, "seed") == 0) {
        return set_seed(specs, value, err);
    }
    if (strcmp(key, "exclude") == 0) {
        return add_exclude(specs, value, err);
    }
    return mx_error_set(err, MX_ERR_ARGUMENT,
                        "unknown setting '%.40s' (weights, activations, head, block, scale_rule, "
                        "activation_scale_rule, round, seed, exclude)",
                        key);
}

bool mx_specs_excludes(const mx_specs *specs, const char *module)
{
    const char *dot = strrchr(module, '.');
    const char *last = dot != NULL ? dot + 1 : module;
    for (size_t i = 0; i < specs->n_excludes; i++) {
        if (fnmatch(specs->excludes[i], module, 0) == 0 ||
            fnmatch(specs->excludes[i], last, 0) == 0) {
            return true;
        }
    }
    return false;
}

/* ---- description --------------------------------------------------------- */

static void describe_format(mx_str *str, const char *operand, const mx_quant *quant)
{
    const char *prefix = mx_quant_is_scaled(quant) ? "mx" : "";
    const char *name = mx_quant_is_none(quant) ? "fp32" : quant->format->name;
    mx_str_addf(str, "%s %s%s", operand, prefix, name);
}

/* "block 32, floor, even"; nothing for an unquantized operand. */
static void describe_settings(mx_str *str, const mx_quant *quant)
{
    if (mx_quant_is_none(quant)) {
        return;
    }
    if (mx_quant_is_scaled(quant)) {
        if (quant->block == 0) {
            mx_str_add(str, "block axis");
        } else {
            mx_str_addf(str, "block %u", (unsigned)quant->block);
        }
        mx_str_addf(str, ", %s, ", mx_scale_rule_name(quant->rule));
    }
    mx_str_add(str, mx_round_name(quant->round));
    if (quant->round == MX_ROUND_DITHER) {
        mx_str_addf(str, " (seed %llu)", (unsigned long long)quant->seed);
    }
    if (mx_quant_is_scaled(quant) && quant->flush_subnormals) {
        mx_str_add(str, ", flush subnormals");
    }
}

/* What is quantized, their settings once when they do not differ. */
static mx_status describe_operands(const mx_specs *specs, mx_str *out, mx_error *err)
{
    enum { OPERANDS = 3 };
    const mx_quant *quants[OPERANDS] = {&specs->weights, &specs->activations, &specs->head};
    static const char *const names[OPERANDS] = {"W", " / A", " / head"};
    size_t n = mx_quant_is_none(&specs->head) ? OPERANDS - 1 : OPERANDS;
    char *settings[OPERANDS] = {0}; /* owned */
    const char *common = "";
    bool same = true;
    mx_status status = MX_OK;
    for (size_t i = 0; i < n; i++) {
        mx_str text = {0};
        describe_settings(&text, quants[i]);
        MX_TRY_GOTO(status, mx_str_take(&text, &settings[i], err));
        same = same &&
               (settings[i][0] == '\0' || common[0] == '\0' || strcmp(settings[i], common) == 0);
        common = common[0] != '\0' ? common : settings[i];
    }
    for (size_t i = 0; i < n; i++) {
        describe_format(out, names[i], quants[i]);
        if (!same && settings[i][0] != '\0') {
            mx_str_addf(out, " (%s)", settings[i]);
        }
    }
    if (same) {
        mx_str_addf(out, ", %s", common);
    }
done:
    for (size_t i = 0; i < n; i++) {
        free(settings[i]);
    }
    return status;
}

/* One line for people; programs read mx_specs_to_json. */
mx_status mx_specs_describe(const mx_specs *specs, char **out, mx_error *err)
{
    *out = NULL;
    mx_str str = {0};
    if (mx_quant_is_none(&specs->weights) && mx_quant_is_none(&specs->activations) &&
        mx_quant_is_none(&specs->head)) {
        mx_str_add(&str, "unquantized");
        return mx_str_take(&str, out, err);
    }
    mx_status status = describe_operands(specs, &str, err);
    for (size_t i = 0; i < specs->n_excludes; i++) {
        mx_str_addf(&str, "%s%s", i == 0 ? ", except " : " ", specs->excludes[i]);
    }
    if (status == MX_OK) {
        status = mx_str_take(&str, out, err);
    }
    mx_str_free(&str);
    return status;
}

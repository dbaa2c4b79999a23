/* Settings: defaults, keys, errors that name them, globs, description, the JSON
 * contract, the table of formats. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "format/specs.h"

#include <stdlib.h>
#include <string.h>

static mx_specs *specs_new(void)
{
    mx_specs *specs;
    assert_int_equal(mx_specs_create(&specs, NULL), MX_OK);
    return specs;
}

static void set(mx_specs *specs, const char *key, const char *value)
{
    mx_error err = {0};
    if (mx_specs_set(specs, key, value, &err) != MX_OK) {
        fail_msg("%s=%s: %s", key, value, err.text);
    }
}

static void assert_described(const mx_specs *specs, const char *want)
{
    char *text;
    assert_int_equal(mx_specs_describe(specs, &text, NULL), MX_OK);
    assert_string_equal(text, want);
    free(text);
}

static void fresh_specs_are_unquantized(void **state)
{
    (void)state;
    mx_specs *specs = specs_new();
    assert_true(mx_quant_is_none(&specs->weights) && mx_quant_is_none(&specs->activations));
    assert_int_equal(specs->weights.block, 32);
    assert_int_equal(specs->weights.rule, MX_SCALE_FLOOR);
    assert_int_equal(specs->weights.round, MX_ROUND_NEAREST);
    assert_described(specs, "unquantized");
    mx_specs_free(specs);
    mx_specs_free(NULL);
}

static void keys_set_both_operands(void **state)
{
    (void)state;
    mx_specs *specs = specs_new();
    set(specs, "weights", "mxfp4_e2m1");
    set(specs, "activations", "fp6_e2m3");
    set(specs, "block", "16");
    set(specs, "round", "even");
    set(specs, "seed", "9223372036854775807");
    assert_int_equal(specs->activations.block, 16);
    assert_int_equal(specs->weights.round, MX_ROUND_EVEN);
    assert_true(specs->activations.seed == INT64_MAX);
    assert_described(specs, "W mxfp4_e2m1 / A mxfp6_e2m3, block 16, floor, even");
    set(specs, "block", "axis");
    set(specs, "scale_rule", "rceil");
    assert_int_equal(specs->weights.block, 0);
    assert_described(specs, "W mxfp4_e2m1 / A mxfp6_e2m3, block axis, rceil, even");
    set(specs, "activations", "fp32");
    assert_null(specs->activations.format);
    assert_described(specs, "W mxfp4_e2m1 / A fp32, block axis, rceil, even");
    mx_specs_free(specs);
}

/* In either order. */
static void activation_rule_is_its_own(void **state)
{
    (void)state;
    for (int order = 0; order < 2; order++) {
        mx_specs *specs = specs_new();
        set(specs, "weights", "int8");
        set(specs, "activations", "int4");
        set(specs, order == 0 ? "scale_rule" : "activation_scale_rule",
            order == 0 ? "ceil" : "even");
        set(specs, order == 0 ? "activation_scale_rule" : "scale_rule",
            order == 0 ? "even" : "ceil");
        assert_int_equal(specs->weights.rule, MX_SCALE_CEIL);
        assert_int_equal(specs->activations.rule, MX_SCALE_EVEN);
        assert_described(specs,
                         "W mxint8 (block 32, ceil, nearest) / A mxint4 (block 32, even, nearest)");
        mx_specs_free(specs);
    }
}

static void bad_keys_and_values_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *key, *value, *text;
    } cases[] = {
        {"weights", "fp5", "weights: unknown format 'fp5' (see: mxlm formats)"},
        {"activations", "", "activations: unknown format '' (see: mxlm formats)"},
        {"block", "12", "block: '12' is neither a multiple of 8 nor 'axis'"},
        {"block", "0", "block: '0' is neither a multiple of 8 nor 'axis'"},
        {"block", "-8", "block: '-8' is neither a multiple of 8 nor 'axis'"},
        {"block", "32x", "block: '32x' is neither a multiple of 8 nor 'axis'"},
        {"block", "4294967296", "block: '4294967296' is neither a multiple of 8 nor 'axis'"},
        {"round", "up", "round: unknown value 'up' (nearest, even, floor or dither)"},
        {"scale_rule", "max", "scale_rule: unknown value 'max' (floor, even, rceil or ceil)"},
        {"seed", "-1", "seed: '-1' is not a number below 2^63"},
        {"seed", "9223372036854775808", "seed: '9223372036854775808' is not a number below 2^63"},
        {"exclude", "", "exclude: the glob is empty"},
        {"exclude", "*a*b*c*d*", "exclude: '*a*b*c*d*' has more than 4 stars"},
        {"blocks", "32",
         "unknown setting 'blocks' (weights, activations, head, block, scale_rule, "
         "activation_scale_rule, round, seed, exclude)"},
    };
    mx_specs *specs = specs_new();
    for (size_t i = 0; i < MX_COUNT(cases); i++) {
        mx_error err = {0};
        assert_int_equal(mx_specs_set(specs, cases[i].key, cases[i].value, &err), MX_ERR_ARGUMENT);
        assert_string_equal(err.text, cases[i].text);
    }
    assert_described(specs, "unquantized");
    mx_specs_free(specs);
}

static void excludes_are_globs_over_modules(void **state)
{
    (void)state;
    mx_specs *specs = specs_new();
    const char *module = "model.layers.3.self_attn.q_proj";
    assert_false(mx_specs_excludes(specs, module));
    set(specs, "exclude", "down_proj");
    set(specs, "exclude", "*.layers.0.*");
    assert_false(mx_specs_excludes(specs, module));
    assert_true(mx_specs_excludes(specs, "model.layers.9.mlp.down_proj"));
    assert_true(mx_specs_excludes(specs, "model.layers.0.self_attn.q_proj"));
    assert_false(mx_specs_excludes(specs, "model.layers.10.self_attn.q_proj"));
    set(specs, "exclude", "[qk]_proj");
    assert_true(mx_specs_excludes(specs, module));
    assert_true(mx_specs_excludes(specs, "k_proj"));
    set(specs, "weights", "int8");
    assert_described(specs, "W mxint8 / A fp32, block 32, floor, nearest, except down_proj "
                            "*.layers.0.* [qk]_proj");
    while (specs->n_excludes < MX_SPECS_MAX_EXCLUDES) {
        set(specs, "exclude", "x");
    }
    assert_int_equal(mx_specs_set(specs, "exclude", "x", NULL), MX_ERR_ARGUMENT);
    mx_specs_free(specs);
}

static void description_tells_what_acts(void **state)
{
    (void)state;
    mx_specs *specs = specs_new();
    set(specs, "weights", "bf16");
    set(specs, "activations", "bfloat16");
    assert_described(specs, "W bf16 / A bf16, nearest"); /* no scale, no block */
    set(specs, "weights", "fp4_e2m1");
    set(specs, "round", "dither");
    set(specs, "seed", "7");
    specs->weights.flush_subnormals = true;
    assert_described(specs, "W mxfp4_e2m1 (block 32, floor, dither (seed 7), flush subnormals) / "
                            "A bf16 (dither (seed 7))");
    mx_specs_free(specs);
}

/* ---- the JSON contract ---------------------------------------------------- */

static void assert_quant_equal(const mx_quant *a, const mx_quant *b)
{
    assert_ptr_equal(a->format, b->format);
    assert_int_equal(a->block, b->block);
    assert_int_equal(a->rule, b->rule);
    assert_int_equal(a->round, b->round);
    assert_int_equal(a->flush_subnormals, b->flush_subnormals);
    assert_true(a->seed == b->seed);
}

static void contract_makes_the_round_trip(void **state)
{
    (void)state;
    mx_specs *specs = specs_new();
    set(specs, "weights", "fp4_e2m1");
    set(specs, "activations", "int8");
    set(specs, "block", "axis");
    set(specs, "activation_scale_rule", "rceil");
    set(specs, "round", "dither");
    set(specs, "seed", "9223372036854775807");
    set(specs, "exclude", "*.q_proj");
    specs->weights.flush_subnormals = true;

    json_t *object;
    mx_specs back, copy;
    mx_error err = {0};
    assert_int_equal(mx_specs_to_json(specs, &object, &err), MX_OK);
    if (mx_specs_from_json(object, "contract", &back, &err) != MX_OK) {
        fail_msg("%s", err.text);
    }
    assert_quant_equal(&back.weights, &specs->weights);
    assert_quant_equal(&back.activations, &specs->activations);
    assert_int_equal(back.n_excludes, 1);
    assert_string_equal(back.excludes[0], "*.q_proj");

    assert_int_equal(mx_specs_copy(&back, &copy, &err), MX_OK);
    mx_specs_clear(&back);
    assert_int_equal(back.n_excludes, 0);
    assert_quant_equal(&copy.weights, &specs->weights);
    assert_string_equal(copy.excludes[0], "*.q_proj");
    mx_specs_clear(&copy);
    mx_specs_free(specs);
    json_decref(object);
}

static void contract_of_one_operand(void **state)
{
    (void)state;
    mx_specs *specs = specs_new();
    set(specs, "weights", "fp4_e2m1");
    set(specs, "block", "16");
    json_t *object;
    assert_int_equal(mx_specs_to_json(specs, &object, NULL), MX_OK);
    char *text;
    assert_int_equal(mx_json_dump(object, 0, &text, NULL), MX_OK);
    assert_string_equal(text,
                        "{\"weights\": {\"format\": \"fp4_e2m1\", \"block\": 16, \"scale_rule\": "
                        "\"floor\", \"round\": \"nearest\", \"flush_subnormals\": false, "
                        "\"seed\": 0}, \"activations\": null, \"exclude\": []}");
    free(text);
    mx_specs back;
    assert_int_equal(mx_specs_from_json(object, "c", &back, NULL), MX_OK);
    assert_null(back.activations.format);
    /* Switched on later, they go by the weights' settings. */
    assert_int_equal(back.activations.block, 16);
    mx_specs_clear(&back);
    mx_specs_free(specs);
    json_decref(object);
}

/* The head has a format of its own and the weights' settings; a contract without one
 * is that of a model whose head is not quantized. */
static void head_goes_by_the_weights_settings(void **state)
{
    (void)state;
    mx_specs *specs = specs_new(), back;
    json_t *object;
    set(specs, "head", "mxfp6_e2m3");
    assert_described(specs, "W fp32 / A fp32 / head mxfp6_e2m3, block 32, floor, nearest");
    set(specs, "weights", "mxfp4_e2m1");
    set(specs, "scale_rule", "rceil");
    set(specs, "block", "16");
    set(specs, "round", "dither");
    set(specs, "seed", "3");
    assert_described(specs,
                     "W mxfp4_e2m1 / A fp32 / head mxfp6_e2m3, block 16, rceil, dither (seed 3)");
    assert_int_equal(mx_specs_to_json(specs, &object, NULL), MX_OK);
    assert_int_equal(mx_specs_from_json(object, "c", &back, NULL), MX_OK);
    assert_quant_equal(&back.head, &specs->head);
    mx_specs_clear(&back);
    assert_int_equal(json_object_del(object, "head"), 0);
    assert_int_equal(mx_specs_from_json(object, "c", &back, NULL), MX_OK);
    assert_null(back.head.format);
    assert_int_equal(back.head.block, 16);
    mx_specs_clear(&back);
    json_decref(object);
    specs->head.rule = MX_SCALE_EVEN;
    assert_described(specs, "W mxfp4_e2m1 (block 16, rceil, dither (seed 3)) / A fp32 / head "
                            "mxfp6_e2m3 (block 16, even, dither (seed 3))");

    mx_error err = {0};
    assert_int_equal(mx_specs_set(specs, "head", "bf16", &err), MX_ERR_ARGUMENT);
    assert_string_equal(err.text, "head: bf16 has no shared scales; fp32 leaves the head as it is");
    assert_string_equal(specs->head.format->name, "fp6_e2m3");
    set(specs, "head", "fp32");
    assert_null(specs->head.format);
    mx_specs_free(specs);
}

static void contract_is_read_strictly(void **state)
{
    (void)state;
#define OPERAND                                                                                    \
    "{\"format\": \"int8\", \"block\": 32, \"scale_rule\": \"floor\", \"round\": \"even\", "       \
    "\"flush_subnormals\": false, \"seed\": 0}"
    static const struct {
        const char *text, *error;
    } cases[] = {
        {"[]", "f: must be an object"},
        {"{\"weights\": null, \"activations\": null}", "f: exclude: missing"},
        {"{\"weights\": null, \"activations\": null, \"exclude\": [], \"method\": 1}",
         "f: method: unknown field"},
        {"{\"weights\": 3, \"activations\": null, \"exclude\": []}",
         "f: weights: must be an object"},
        {"{\"weights\": null, \"activations\": " OPERAND ", \"exclude\": [1]}",
         "f: exclude: element 0 is not a string"},
        {"{\"weights\": null, \"activations\": null, \"exclude\": [\"\"]}",
         "f: exclude: the glob is empty"},
        {"{\"weights\": {\"format\": \"int8\", \"block\": 32, \"scale_rule\": \"floor\", "
         "\"round\": \"even\", \"flush_subnormals\": false}, \"activations\": null, "
         "\"exclude\": []}",
         "f: weights: seed: missing"},
        {"{\"weights\": {\"format\": \"nf4\", \"block\": 32, \"scale_rule\": \"floor\", "
         "\"round\": \"even\", \"flush_subnormals\": false, \"seed\": 0}, \"activations\": null, "
         "\"exclude\": []}",
         "f: weights: format: unknown value 'nf4'"},
        {"{\"weights\": {\"format\": \"int8\", \"block\": 12, \"scale_rule\": \"floor\", "
         "\"round\": \"even\", \"flush_subnormals\": false, \"seed\": 0}, \"activations\": null, "
         "\"exclude\": []}",
         "f: weights: block: 12 is not 0, 1 or a multiple of 8"},
        {"{\"weights\": {\"format\": \"int8\", \"block\": 32, \"scale_rule\": \"best\", "
         "\"round\": \"even\", \"flush_subnormals\": false, \"seed\": 0}, \"activations\": null, "
         "\"exclude\": []}",
         "f: weights: scale_rule: unknown value 'best' (floor, even, rceil or ceil)"},
        {"{\"weights\": {\"format\": \"int8\", \"block\": 32, \"scale_rule\": \"floor\", "
         "\"round\": \"even\", \"flush_subnormals\": 0, \"seed\": 0}, \"activations\": null, "
         "\"exclude\": []}",
         "f: weights: flush_subnormals: must be true or false"},
        {"{\"weights\": null, \"activations\": null, \"exclude\": [], \"head\": null}",
         "f: head: must be a format with shared scales"},
        {"{\"weights\": null, \"activations\": null, \"exclude\": [], \"head\": {}}",
         "f: head: format: missing"},
    };
    for (size_t i = 0; i < MX_COUNT(cases); i++) {
        json_t *object;
        mx_specs specs;
        mx_error err = {0};
        assert_int_equal(mx_json_parse(cases[i].text, strlen(cases[i].text), "t", &object, &err),
                         MX_OK);
        assert_int_not_equal(mx_specs_from_json(object, "f", &specs, &err), MX_OK);
        assert_string_equal(err.text, cases[i].error);
        assert_int_equal(specs.n_excludes, 0);
        json_decref(object);
    }
}

static void contract_refuses_what_json_cannot_hold(void **state)
{
    (void)state;
    mx_specs *specs = specs_new();
    set(specs, "weights", "int8");
    set(specs, "exclude", "caf\xe9*");
    json_t *object;
    assert_int_equal(mx_specs_to_json(specs, &object, NULL), MX_ERR_ARGUMENT);
    assert_null(object);
    mx_specs_free(specs);
}

/* ---- the table of formats -------------------------------------------------- */

/* The format of that name, wherever it stands. */
static const json_t *table_format(const json_t *formats, const char *name)
{
    for (size_t i = 0; i < json_array_size(formats); i++) {
        const json_t *format = json_array_get(formats, i);
        if (strcmp(json_string_value(json_object_get(format, "name")), name) == 0) {
            return format;
        }
    }
    fail_msg("no format %s", name);
    return NULL;
}

static void table_lists_everything(void **state)
{
    (void)state;
    char *text, *json;
    assert_int_equal(mx_formats_table(false, &text, NULL), MX_OK);
    assert_int_equal(mx_formats_table(true, &json, NULL), MX_OK);
    for (size_t i = 0; i < mx_format_count(); i++) {
        assert_non_null(strstr(text, mx_format_at(i)->description));
    }
    assert_non_null(strstr(text, "mxfp6_e2m3     6    2    3     2  7.5 "));
    assert_non_null(strstr(text, "microxcaling) [default]"));

    json_t *table;
    assert_int_equal(mx_json_parse(json, strlen(json), "table", &table, NULL), MX_OK);
    const json_t *formats = json_object_get(table, "formats");
    assert_int_equal(json_array_size(formats), mx_format_count());
    const json_t *fp4 = table_format(formats, "fp4_e2m1");
    assert_int_equal(json_integer_value(json_object_get(fp4, "int8_factor")), 2);
    assert_true(json_real_value(json_object_get(fp4, "max")) == 6.0);
    assert_true(json_is_null(json_object_get(table_format(formats, "fp6_e3m2"), "int8_factor")));
    assert_int_equal(json_array_size(json_object_get(table, "scale_rules")), MX_SCALE_RULE_COUNT);
    assert_int_equal(json_array_size(json_object_get(table, "roundings")), MX_ROUND_COUNT);
    json_decref(table);
    free(text);
    free(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fresh_specs_are_unquantized),
        cmocka_unit_test(keys_set_both_operands),
        cmocka_unit_test(activation_rule_is_its_own),
        cmocka_unit_test(bad_keys_and_values_are_named),
        cmocka_unit_test(excludes_are_globs_over_modules),
        cmocka_unit_test(description_tells_what_acts),
        cmocka_unit_test(contract_makes_the_round_trip),
        cmocka_unit_test(contract_of_one_operand),
        cmocka_unit_test(head_goes_by_the_weights_settings),
        cmocka_unit_test(contract_is_read_strictly),
        cmocka_unit_test(contract_refuses_what_json_cannot_hold),
        cmocka_unit_test(table_lists_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* microxcaling's MxSpecs: defaults, finalize_mx_specs, what is refused and named. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/file.h"
#include "format/specs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static mx_status load(mx_specs *specs, const char *text, char **note, mx_error *err)
{
    json_t *object;
    assert_int_equal(mx_json_parse(text, strlen(text), "t", &object, err), MX_OK);
    mx_status status = mx_specs_load_json(specs, object, "specs.json", note, err);
    json_decref(object);
    return status;
}

/* Fresh specs with `text` loaded; the caller clears them. */
static mx_specs loaded(const char *text, char **note)
{
    mx_specs specs = {.weights = mx_quant_default(), .activations = mx_quant_default()};
    mx_error err = {0};
    if (load(&specs, text, note, &err) != MX_OK) {
        fail_msg("%s", err.text);
    }
    return specs;
}

/* reference/experiment.md, as written there. */
static void the_experiment_loads(void **state)
{
    (void)state;
    char path[] = "/tmp/mxspecs-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    const char *text =
        "{\"scale_bits\": 8, \"block_size\": 32, \"w_elem_format\": \"fp4_e2m1\", "
        "\"a_elem_format\": \"fp6_e2m3\", \"custom_cuda\": true, \"round\": \"nearest\", "
        "\"quantize_backprop\": false}";
    assert_true(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);

    mx_specs *specs;
    char *note, *description;
    mx_error err = {0};
    assert_int_equal(mx_specs_create(&specs, &err), MX_OK);
    if (mx_specs_load(specs, path, &note, &err) != MX_OK) {
        fail_msg("%s", err.text);
    }
    unlink(path);
    assert_int_equal(mx_specs_describe(specs, &description, &err), MX_OK);
    assert_string_equal(description, "W mxfp4_e2m1 / A mxfp6_e2m3, block 32, floor, nearest");
    assert_true(specs->want_cuda);
    assert_non_null(strstr(note, "custom_cuda: "));
    assert_null(strchr(note, '\n'));
    free(note);
    free(description);
    mx_specs_free(specs);
}

static void missing_keys_take_microxcalings_defaults(void **state)
{
    (void)state;
    char *note;
    mx_specs specs = loaded("{\"w_elem_format\": \"int8\"}", &note);
    assert_ptr_equal(specs.weights.format, mx_format_find("int8"));
    assert_null(specs.activations.format);
    assert_int_equal(specs.weights.block, 0); /* block_size 0: the whole axis */
    assert_int_equal(specs.weights.round, MX_ROUND_NEAREST);
    assert_false(specs.weights.flush_subnormals || specs.want_cuda);
    assert_null(note);
    mx_specs_clear(&specs);
    /* Nothing asked for: finalize_mx_specs returns None. */
    specs = loaded("{}", &note);
    assert_true(mx_quant_is_none(&specs.weights) && mx_quant_is_none(&specs.activations));
    mx_specs_clear(&specs);
}

static void null_is_the_default(void **state)
{
    (void)state;
    mx_specs specs = loaded("{\"a_elem_format\": \"fp4\", \"w_elem_format\": null, "
                            "\"block_size\": null, \"round\": \"floor\", "
                            "\"round_mx_output\": null, \"shared_exp_method\": null, "
                            "\"scale_bits\": null, \"custom_cuda\": null}",
                            NULL);
    assert_ptr_equal(specs.activations.format, mx_format_find("fp4_e2m1"));
    assert_null(specs.weights.format);
    assert_int_equal(specs.activations.round, MX_ROUND_FLOOR);
    mx_specs_clear(&specs);
}

static void every_acting_key_acts(void **state)
{
    (void)state;
    mx_specs specs = loaded("{\"a_elem_format\": \"FP8_E5M2\", \"block_size\": 16, "
                            "\"mx_flush_fp32_subnorms\": true, \"scale_bits\": 0}",
                            NULL);
    assert_ptr_equal(specs.activations.format, mx_format_find("fp8_e5m2"));
    assert_int_equal(specs.activations.block, 16);
    assert_true(specs.activations.flush_subnormals);
    mx_specs_clear(&specs);
    specs = loaded("{\"a_elem_format\": \"int4\", \"block_size\": 32, "
                   "\"shared_exp_method\": \"none\"}",
                   NULL);
    assert_int_equal(specs.activations.block, 1);
    mx_specs_clear(&specs);
}

/* mx.Linear reads round_mx_output; finalize_mx_specs fills it from `round` when it
 * is missing, so `round` in a full MxSpecs dump does nothing. */
static void round_goes_by_finalize(void **state)
{
    (void)state;
    char *note;
    mx_specs specs = loaded("{\"w_elem_format\": \"int8\", \"round\": \"even\"}", &note);
    assert_int_equal(specs.weights.round, MX_ROUND_EVEN);
    assert_string_equal(note, "round: 'even' sets round_mx_output, as finalize_mx_specs does "
                              "(mx.Linear given this dict without finalize_mx_specs rounds "
                              "'nearest')");
    free(note);
    mx_specs_clear(&specs);

    specs = loaded("{\"w_elem_format\": \"int8\", \"round\": \"even\", "
                   "\"round_mx_output\": \"nearest\"}",
                   &note);
    assert_int_equal(specs.weights.round, MX_ROUND_NEAREST);
    assert_string_equal(note, "round: 'even' has no effect, round_mx_output 'nearest' governs "
                              "both operands");
    free(note);
    mx_specs_clear(&specs);

    specs = loaded("{\"w_elem_format\": \"int8\", \"round_mx_output\": \"dither\"}", &note);
    assert_int_equal(specs.activations.round, MX_ROUND_DITHER);
    assert_null(note);
    mx_specs_clear(&specs);
    /* These two act through bfloat and fp alone. */
    specs = loaded("{\"w_elem_format\": \"int8\", \"round_weight\": \"floor\", "
                   "\"round_output\": \"even\"}",
                   &note);
    assert_int_equal(specs.weights.round, MX_ROUND_NEAREST);
    assert_null(note);
    mx_specs_clear(&specs);
}

static void backward_keys_are_accepted(void **state)
{
    (void)state;
    mx_specs specs =
        loaded("{\"w_elem_format\": \"fp4_e2m1\", \"w_elem_format_bp\": \"int8\", "
               "\"a_elem_format_bp\": \"bfloat16\", \"a_elem_format_bp_ex\": \"fp8_e5m2\", "
               "\"a_elem_format_bp_os\": \"fp6_e3m2\", \"quantize_backprop\": true, "
               "\"round_m\": \"even\", \"round_grad_weight\": \"dither\", \"round_grad_input\": "
               "\"even\", \"round_mx_input_grad_input\": \"even\", \"round_mx_weight_grad_input\": "
               "\"even\", \"round_mx_grad_output_grad_input\": \"even\", "
               "\"round_mx_input_grad_weight\": \"even\", \"round_mx_grad_output_grad_weight\": "
               "\"even\", \"bfloat\": 32, \"fp\": 0, \"bfloat_subnorms\": false, "
               "\"softmax_exp2\": false, \"vec_use_exp2\": false, \"vec_use_recip\": false}",
               NULL);
    assert_ptr_equal(specs.weights.format, mx_format_find("fp4_e2m1"));
    assert_int_equal(specs.weights.round, MX_ROUND_NEAREST);
    mx_specs_clear(&specs);
}

/* What MxSpecs has no key for stays; what it has is replaced. */
static void present_settings_are_kept_or_replaced(void **state)
{
    (void)state;
    mx_specs *specs;
    mx_error err = {0};
    assert_int_equal(mx_specs_create(&specs, &err), MX_OK);
    assert_int_equal(mx_specs_set(specs, "exclude", "lm_head", &err), MX_OK);
    assert_int_equal(mx_specs_set(specs, "scale_rule", "even", &err), MX_OK);
    assert_int_equal(mx_specs_set(specs, "seed", "5", &err), MX_OK);
    assert_int_equal(mx_specs_set(specs, "round", "floor", &err), MX_OK);
    assert_int_equal(load(specs, "{\"w_elem_format\": \"int8\", \"block_size\": 64}", NULL, &err),
                     MX_OK);
    assert_int_equal(specs->weights.rule, MX_SCALE_EVEN);
    assert_int_equal(specs->weights.seed, 5);
    assert_int_equal(specs->n_excludes, 1);
    assert_int_equal(specs->weights.round, MX_ROUND_NEAREST);
    assert_int_equal(specs->weights.block, 64);
    mx_specs_free(specs);
}

static void what_is_refused_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        mx_status status;
        const char *error;
    } cases[] = {
        {"[1]", MX_ERR_FORMAT, "specs.json: must be an object with MxSpecs keys"},
        {"{\"blocksize\": 32}", MX_ERR_ARGUMENT, "specs.json: blocksize: not an MxSpecs key"},
        {"{\"block_size\": \"32\"}", MX_ERR_FORMAT, "specs.json: block_size: must be an integer"},
        {"{\"block_size\": -1}", MX_ERR_FORMAT,
         "specs.json: block_size: -1 is outside 0 to 4294967295"},
        {"{\"block_size\": 12}", MX_ERR_UNSUPPORTED,
         "specs.json: block_size: 12 is not 0, 1 or a multiple of 8"},
        {"{\"scale_bits\": 5}", MX_ERR_UNSUPPORTED,
         "specs.json: scale_bits: 5 is not implemented (8: E8M0)"},
        {"{\"w_elem_format\": \"fp5\"}", MX_ERR_ARGUMENT,
         "specs.json: w_elem_format: unknown element format 'fp5'"},
        {"{\"a_elem_format_bp\": \"fp5\"}", MX_ERR_ARGUMENT,
         "specs.json: a_elem_format_bp: unknown element format 'fp5'"},
        {"{\"w_elem_format\": \"fp32\"}", MX_ERR_ARGUMENT,
         "specs.json: w_elem_format: unknown element format 'fp32'"},
        {"{\"a_elem_format\": \"bfloat16\"}", MX_ERR_UNSUPPORTED,
         "specs.json: a_elem_format: bf16 under a shared scale is not implemented"},
        {"{\"bfloat\": 16}", MX_ERR_UNSUPPORTED,
         "specs.json: bfloat: element-wise rounding is not implemented"},
        {"{\"bfloat\": 9}", MX_ERR_ARGUMENT, "specs.json: bfloat: must be 0 or above 9"},
        {"{\"fp\": 16}", MX_ERR_UNSUPPORTED,
         "specs.json: fp: element-wise rounding is not implemented"},
        {"{\"fp\": 16, \"bfloat\": 16}", MX_ERR_ARGUMENT,
         "specs.json: bfloat: cannot be set together with fp"},
        {"{\"softmax_exp2\": true}", MX_ERR_UNSUPPORTED,
         "specs.json: softmax_exp2: not implemented"},
        {"{\"vec_use_exp2\": true}", MX_ERR_UNSUPPORTED,
         "specs.json: vec_use_exp2: not implemented"},
        {"{\"vec_use_recip\": true}", MX_ERR_UNSUPPORTED,
         "specs.json: vec_use_recip: not implemented"},
        {"{\"vec_use_recip\": 1}", MX_ERR_FORMAT,
         "specs.json: vec_use_recip: must be true or false"},
        {"{\"shared_exp_method\": \"mean\"}", MX_ERR_ARGUMENT,
         "specs.json: shared_exp_method: unknown value 'mean' (max or none)"},
        {"{\"shared_exp_method\": \"none\", \"custom_cuda\": true}", MX_ERR_UNSUPPORTED,
         "specs.json: shared_exp_method: 'none' together with custom_cuda, whose kernels ignore "
         "or reject it"},
        {"{\"round\": \"up\"}", MX_ERR_ARGUMENT, "specs.json: round: unknown rounding 'up'"},
        {"{\"round_grad_input\": \"up\"}", MX_ERR_ARGUMENT,
         "specs.json: round_grad_input: unknown rounding 'up'"},
        {"{\"round_mx_output\": 3}", MX_ERR_FORMAT,
         "specs.json: round_mx_output: must be a string"},
    };
    for (size_t i = 0; i < MX_COUNT(cases); i++) {
        mx_specs specs = {.weights = mx_quant_default(), .activations = mx_quant_default()};
        mx_specs before = specs;
        mx_error err = {0};
        char *note = NULL;
        assert_int_equal(load(&specs, cases[i].text, &note, &err), cases[i].status);
        assert_string_equal(err.text, cases[i].error);
        assert_null(note);
        assert_memory_equal(&specs, &before, sizeof specs);
    }
}

static void a_missing_file_is_named(void **state)
{
    (void)state;
    mx_specs *specs;
    mx_error err = {0};
    assert_int_equal(mx_specs_create(&specs, &err), MX_OK);
    assert_int_equal(mx_specs_load(specs, "/nonexistent/s.json", NULL, &err), MX_ERR_IO);
    assert_non_null(strstr(err.text, "/nonexistent/s.json"));
    mx_specs_free(specs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_experiment_loads),
        cmocka_unit_test(missing_keys_take_microxcalings_defaults),
        cmocka_unit_test(null_is_the_default),
        cmocka_unit_test(every_acting_key_acts),
        cmocka_unit_test(round_goes_by_finalize),
        cmocka_unit_test(backward_keys_are_accepted),
        cmocka_unit_test(present_settings_are_kept_or_replaced),
        cmocka_unit_test(what_is_refused_is_named),
        cmocka_unit_test(a_missing_file_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

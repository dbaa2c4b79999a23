/* mxlm inspect --error: a tiny model and its MXFP4 copy against numpy's figures of the
 * same errors; what is refused. */
#include "quant_fixture.h"

#include "quant/layer_error.h"

#include <math.h>

static const char *tiny_path(char *path)
{
    const char *dir = getenv("MXLM_TEST_DIR");
    assert_non_null(dir);
    snprintf(path, FIXTURE_PATH, "%s/app/fixtures/tiny", dir);
    return path;
}

/* tests/golden/kl.json; its text goes to the file "text". */
static json_t *open_golden(void)
{
    char path[FIXTURE_PATH];
    json_t *root = NULL;
    mx_error err = {0};
    fixture_golden("kl.json", path);
    fixture_ok(mx_json_load(path, (size_t)1 << 20, &root, &err), err);
    const char *text = json_string_value(json_object_get(root, "text"));
    fixture_ok(mx_file_write(fixture_path("text"), text, strlen(text), &err), err);
    return root;
}

/* Quantizes the tiny model's weights once. */
static const char *quantized_path(void)
{
    const char *out = fixture_path("mx");
    if (!mx_path_is_dir(out)) {
        char path[FIXTURE_PATH];
        mx_error err = {0};
        mx_specs *specs = fixture_specs("weights=mxfp4_e2m1");
        const mx_quantize_options options = {.threads = 1};
        fixture_ok(
            mx_quantize_run(tiny_path(path), out, specs, &options, (mx_watch){0}, NULL, &err), err);
        mx_specs_free(specs);
    }
    return out;
}

static mx_status measure(const char *base_path, const char *path, int threads,
                         const mx_errors_options *options, bool json, char **out, mx_error *err)
{
    mx_model *base = NULL, *model = NULL;
    fixture_ok(mx_model_open(base_path, threads, &base, err), *err);
    fixture_ok(mx_model_open(path, threads, &model, err), *err);
    mx_status status = mx_model_errors(base, model, options, (mx_watch){0}, json, out, err);
    mx_model_close(base);
    mx_model_close(model);
    return status;
}

/* Options that take the whole text as one window. */
static mx_errors_options whole_text(const json_t *golden)
{
    const json_t *windows = json_object_get(golden, "windows");
    uint32_t n = 2; /* BOS and the prefix */
    for (size_t i = 0; i < json_array_size(windows); i++) {
        const json_t *window = json_array_get(windows, i);
        n += (uint32_t)json_integer_value(json_object_get(window, "targets"));
    }
    return (mx_errors_options){.calib_path = fixture_path("text"), .calib_length = n};
}

static void check_close(double found, double wanted, const char *what)
{
    if (!(fabs(found - wanted) <= 2e-5 * fabs(wanted))) {
        fail_msg("%s: %.9g, wanted %.9g", what, found, wanted);
    }
}

static void test_golden(void **state)
{
    (void)state;
    static const char *const names[] = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                        "gate_proj", "up_proj", "down_proj"};
    char path[FIXTURE_PATH], *json = NULL;
    mx_error err = {0};
    json_t *golden = open_golden(), *root = NULL;
    mx_errors_options options = whole_text(golden);
    fixture_ok(measure(tiny_path(path), quantized_path(), 2, &options, true, &json, &err), err);
    fixture_ok(mx_json_parse(json, strlen(json), "errors", &root, &err), err);
    const json_t *layers = json_object_get(root, "layers");
    const json_t *wanted = json_object_get(golden, "layers");
    assert_int_equal(json_array_size(layers), 2);
    assert_int_equal(json_array_size(wanted), 2);
    for (size_t i = 0; i < 2; i++) {
        const json_t *layer = json_array_get(layers, i), *theirs = json_array_get(wanted, i);
        const json_t *projections = json_object_get(layer, "projections");
        for (size_t p = 0; p < MX_COUNT(names); p++) {
            const json_t *figures = json_object_get(projections, names[p]);
            check_close(json_real_value(json_object_get(figures, "weight_sqnr_db")),
                        json_real_value(json_array_get(json_object_get(theirs, "sqnr"), p)),
                        names[p]);
            check_close(json_real_value(json_object_get(figures, "output_relative_mse")),
                        json_real_value(json_array_get(json_object_get(theirs, "output"), p)),
                        names[p]);
        }
        check_close(json_real_value(json_object_get(layer, "output_relative_mse")),
                    json_real_value(json_object_get(theirs, "hidden")), "layer");
    }
    json_decref(root);
    json_decref(golden);
    free(json);
}

/* Text in windows, by one thread and several: the same bytes. */
static void test_threads(void **state)
{
    (void)state;
    char path[FIXTURE_PATH], *one = NULL, *more = NULL;
    mx_error err = {0};
    json_decref(open_golden());
    mx_errors_options options = {
        .calib_path = fixture_path("text"), .calib_samples = 4, .calib_length = 24};
    fixture_ok(measure(tiny_path(path), quantized_path(), 1, &options, true, &one, &err), err);
    fixture_ok(measure(tiny_path(path), quantized_path(), 5, &options, true, &more, &err), err);
    assert_string_equal(one, more);
    free(one);
    free(more);
}

static void test_text(void **state)
{
    (void)state;
    char path[FIXTURE_PATH], *text = NULL;
    mx_error err = {0};
    mx_errors_options options = {0};
    fixture_ok(measure(tiny_path(path), quantized_path(), 1, &options, false, &text, &err), err);
    assert_non_null(strstr(text, "weights: SQNR, dB"));
    assert_null(strstr(text, "outputs:"));
    free(text);
    /* A model against itself: weights as they were, outputs without error. */
    json_decref(open_golden());
    options.calib_path = fixture_path("text");
    options.calib_length = 32;
    fixture_ok(measure(path, path, 1, &options, false, &text, &err), err);
    assert_non_null(strstr(text, "    0        -        -        -"));
    assert_non_null(strstr(text, "    1    0.000    0.000    0.000"));
    free(text);
}

static void test_refused(void **state)
{
    (void)state;
    char tiny[FIXTURE_PATH], other[FIXTURE_PATH], *out = NULL;
    mx_error err = {0};
    mx_errors_options options = {0};
    tiny_path(tiny);
    fixture_golden("llama_gqa", other);
    fixture_fails(measure(tiny, other, 1, &options, false, &out, &err), MX_ERR_ARGUMENT,
                  "another shape", err);
    options = (mx_errors_options){.calib_path = "nowhere.txt"};
    fixture_fails(measure(tiny, tiny, 1, &options, false, &out, &err), MX_ERR_IO, "nowhere.txt",
                  err);
    options = (mx_errors_options){.calib_path = "nowhere.txt", .calib_length = 513};
    fixture_fails(measure(tiny, tiny, 1, &options, false, &out, &err), MX_ERR_ARGUMENT,
                  "the models take 2 to 512", err);
    assert_null(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}

/*
 * Tiny random Llama models against transformers (float32) and against the same
 * model with microxcaling's quantization and float64 products. tools/README.md
 * tells what each model covers and where the tolerances come from.
 */
#include "model/model_fixture.h"

#include <math.h>

typedef struct oracle {
    const char *model;
    mx_safetensors *golden;
    char path[FIXTURE_PATH]; /* of the model's directory */
} oracle;

/* Token ids of prompt `prompt`, malloc'd; NULL when there is no such prompt. */
static int32_t *read_prompt(const oracle *o, int prompt, uint32_t *n)
{
    char name[32];
    snprintf(name, sizeof name, "ids.%d", prompt);
    const mx_tensor *tensor = mx_safetensors_find(o->golden, name);
    if (tensor == NULL) {
        return NULL;
    }
    assert_int_equal(tensor->dtype, MX_DTYPE_U8);
    *n = (uint32_t)tensor->size;
    int32_t *ids = malloc(*n * sizeof *ids);
    assert_non_null(ids);
    for (uint32_t i = 0; i < *n; i++) {
        ids[i] = tensor->data[i];
    }
    return ids;
}

static double largest_magnitude(const float *x, size_t n)
{
    double largest = 0;
    for (size_t i = 0; i < n; i++) {
        double magnitude = fabs((double)x[i]);
        /* No fmax: vectorizing that is an internal error of GCC 12 for aarch64. */
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest;
}

/* Largest difference; NaN anywhere is infinitely far. */
static double largest_difference(const float *x, const float *y, size_t n)
{
    double largest = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)x[i] - (double)y[i]);
        largest = isnan(d) ? INFINITY : fmax(largest, d);
    }
    return largest;
}

/* One prompt's expected logits of one variant against the model's. */
static void compare_prompt(const oracle *o, mx_model *model, const char *variant, int prompt,
                           const int32_t *ids, uint32_t n, double tolerance)
{
    char name[64];
    snprintf(name, sizeof name, "%s.%d", variant, prompt);
    const mx_tensor *tensor = fixture_tensor(o->golden, name, MX_DTYPE_F32);
    size_t rows = tensor->shape[0], count = rows * model->config.vocab;
    assert_true(rows > 0 && rows <= n && tensor->shape[1] == model->config.vocab);
    float *expected = fixture_words(tensor);  /* [rows][vocab] */
    float *got = malloc(count * sizeof *got); /* [rows][vocab] */
    assert_non_null(got);
    fixture_sequence(model, ids, n, rows, got);
    double error = largest_difference(got, expected, count) / largest_magnitude(expected, count);
    print_message("%s %s: %zu rows, largest difference %.2e of %.2e\n", o->model, name, rows, error,
                  tolerance);
    if (!(error <= tolerance)) {
        fail_msg("%s %s: logits differ by %.2e, allowed %.2e", o->model, name, error, tolerance);
    }
    free(expected);
    free(got);
}

static void compare_variant(const oracle *o, const char *variant)
{
    char key[64];
    snprintf(key, sizeof key, "%s.tolerance", variant);
    const char *settings = mx_safetensors_metadata(o->golden, variant);
    const char *tolerance = mx_safetensors_metadata(o->golden, key);
    assert_non_null(settings);
    assert_non_null(tolerance);
    mx_model *model = fixture_open(o->path, 2, NULL);
    fixture_apply(model, settings);
    uint32_t n = 0;
    int prompt = 0;
    for (int32_t *ids; (ids = read_prompt(o, prompt, &n)) != NULL; prompt++) {
        compare_prompt(o, model, variant, prompt, ids, n, strtod(tolerance, NULL));
        free(ids);
    }
    assert_true(prompt > 0);
    mx_model_close(model);
}

static void agrees_with_oracle(void **state)
{
    oracle o = {.model = *state};
    mx_error err = {0};
    char file[FIXTURE_PATH], name[64], variants[256], *rest = variants;
    snprintf(name, sizeof name, "llama_%s", o.model);
    fixture_golden(name, o.path);
    snprintf(name, sizeof name, "llama_%s.safetensors", o.model);
    fixture_golden(name, file);
    fixture_ok(mx_safetensors_open(file, &o.golden, &err), err);
    const char *list = mx_safetensors_metadata(o.golden, "variants");
    assert_non_null(list);
    assert_true((size_t)snprintf(variants, sizeof variants, "%s", list) < sizeof variants);
    for (char *variant; (variant = strtok_r(rest, " ", &rest)) != NULL;) {
        compare_variant(&o, variant);
    }
    mx_safetensors_close(o.golden);
}

/* A model without tokenizer.json runs on ids, and says so when asked for text. */
static void tokenizer_is_missed_only_when_needed(void **state)
{
    (void)state;
    char path[FIXTURE_PATH];
    mx_error err = {0};
    const mx_tokenizer *tokenizer;
    fixture_golden("llama_mha", path);
    mx_model *model = fixture_open(path, 1, NULL);
    assert_int_equal(mx_model_tokenizer(model, &tokenizer, &err), MX_ERR_FORMAT);
    assert_null(tokenizer);
    assert_non_null(strstr(err.text, "tokenizer.json"));
    mx_model_close(model);
}

int main(void)
{
#define ORACLE(name)                                                                               \
    {                                                                                              \
#name, agrees_with_oracle, NULL, NULL, #name                                               \
    }
    const struct CMUnitTest tests[] = {
        ORACLE(mha),
        ORACLE(gqa),
        ORACLE(llama3),
        ORACLE(linear),
        ORACLE(params),
        ORACLE(bias),
        ORACLE(headdim),
        ORACLE(ragged),
        ORACLE(sharded),
        ORACLE(long),
        cmocka_unit_test(tokenizer_is_missed_only_when_needed),
    };
#undef ORACLE
    return cmocka_run_group_tests(tests, NULL, NULL);
}

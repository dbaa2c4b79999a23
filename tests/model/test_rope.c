/*
 * Rotary frequencies and angles against transformers' LlamaRotaryEmbedding, and
 * the spellings of config.json that lead to them (tools/oracle_llama.py).
 */
#include "model/model_fixture.h"
#include "model/rope.h"

#include <math.h>

/* Distance in units of the last place of two floats of one sign. */
static int32_t ulps_between(float x, float y)
{
    int32_t a, b;
    memcpy(&a, &x, sizeof a);
    memcpy(&b, &y, sizeof b);
    return a > b ? a - b : b - a;
}

static float *read_floats(const mx_safetensors *golden, const char *prefix, const char *name,
                          size_t count)
{
    char key[64];
    snprintf(key, sizeof key, "%s.%s", prefix, name);
    const mx_tensor *tensor = fixture_tensor(golden, key, MX_DTYPE_F32);
    assert_int_equal(mx_tensor_count(tensor), count);
    return fixture_words(tensor);
}

/* Largest distance of a frequency. (transformers' powf is SLEEF's, now and then one
 * unit from correctly rounded; the golden's cases hold no such frequency.) */
static int32_t check_frequencies(const mx_safetensors *golden, const char *name,
                                 const mx_llama_config *config, float *inv_freq)
{
    size_t half = config->head_dim / 2;
    int32_t worst = 0;
    float *expected = read_floats(golden, "inv_freq", name, half);
    mx_rope_frequencies(&config->rope, config->head_dim, inv_freq);
    for (size_t i = 0; i < half; i++) {
        int32_t ulps = ulps_between(inv_freq[i], expected[i]);
        worst = ulps > worst ? ulps : worst;
    }
    free(expected);
    return worst;
}

/* Angles from transformers' own frequencies: what remains is the float32 product
 * and the last bit of cos and sin. */
static double check_angles(const mx_safetensors *golden, const char *name, uint32_t head_dim)
{
    const mx_tensor *tensor = fixture_tensor(golden, "positions", MX_DTYPE_I32);
    size_t half = head_dim / 2, n = tensor->shape[0];
    int32_t *positions = fixture_words(tensor);                       /* [n] */
    float *inv_freq = read_floats(golden, "inv_freq", name, half);    /* [half] */
    float *cos_expected = read_floats(golden, "cos", name, n * half); /* [n][half] */
    float *sin_expected = read_floats(golden, "sin", name, n * half); /* [n][half] */
    float cos_row[256], sin_row[256];
    double worst = 0;
    assert_true(half <= 256 && n > 0);
    for (size_t p = 0; p < n; p++) {
        mx_rope_angles(inv_freq, head_dim, (uint32_t)positions[p], cos_row, sin_row);
        for (size_t i = 0; i < half; i++) {
            worst = fmax(worst, fabs((double)cos_row[i] - (double)cos_expected[p * half + i]));
            worst = fmax(worst, fabs((double)sin_row[i] - (double)sin_expected[p * half + i]));
        }
    }
    free(positions);
    free(inv_freq);
    free(cos_expected);
    free(sin_expected);
    return worst;
}

static void case_agrees(const mx_safetensors *golden, const char *name)
{
    mx_error err = {0};
    json_t *root;
    mx_llama_config config;
    float inv_freq[256];
    const char *text = mx_safetensors_metadata(golden, name);
    assert_non_null(text);
    fixture_ok(mx_json_parse(text, strlen(text), name, &root, &err), err);
    fixture_ok(mx_llama_config_parse(root, name, &config, &err), err);
    json_decref(root);
    assert_true(config.head_dim <= 512);
    int32_t ulps = check_frequencies(golden, name, &config, inv_freq);
    double angle = check_angles(golden, name, config.head_dim);
    print_message("%s: frequencies within %d units, cos and sin within %.1e\n", name, ulps, angle);
    assert_int_equal(ulps, 0);
    assert_true(angle <= 6e-8); /* one unit in the last place below 1 */
}

static void rope_agrees_with_transformers(void **state)
{
    (void)state;
    char path[FIXTURE_PATH], cases[256], *rest = cases;
    mx_error err = {0};
    mx_safetensors *golden;
    fixture_golden("llama_rope.safetensors", path);
    fixture_ok(mx_safetensors_open(path, &golden, &err), err);
    const char *list = mx_safetensors_metadata(golden, "cases");
    assert_non_null(list);
    assert_true((size_t)snprintf(cases, sizeof cases, "%s", list) < sizeof cases);
    int count = 0;
    for (char *name; (name = strtok_r(rest, " ", &rest)) != NULL; count++) {
        case_agrees(golden, name);
    }
    assert_int_equal(count, 7);
    mx_safetensors_close(golden);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rope_agrees_with_transformers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

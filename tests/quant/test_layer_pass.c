/*
 * Derivatives of a decoder layer against torch's autograd in float64
 * (tools/oracle_layer.py): the output, the input's derivative and that of every
 * group of parameters, the same bits for any team.
 */
#include "quant/quant_fixture.h"

#include "io/safetensors.h"
#include "quant/layer_pass.h"

#include <math.h>

static mx_safetensors *golden;

static const char *const names[MX_PROJ_COUNT] = {"q", "k", "v", "o", "gate", "up", "down"};
static const char *const norm_names[MX_NORM_COUNT] = {"attention", "mlp"};
static const uint32_t windows = 2, length = 136;

static const mx_llama_config config = {
    .hidden = 24,
    .intermediate = 40,
    .layers = 1,
    .heads = 4,
    .kv_heads = 2,
    .head_dim = 8,
    .norm_eps = 1e-5F,
    .rope = {.kind = MX_ROPE_DEFAULT, .theta = 10000, .factor = 1},
};

static const float *tensor(const char *kind, const char *name, size_t *count)
{
    char key[64];
    snprintf(key, sizeof key, "%s%s", kind, name);
    const mx_tensor *found = mx_safetensors_find(golden, key);
    assert_non_null(found);
    assert_int_equal(found->dtype, MX_DTYPE_F32);
    if (count != NULL) {
        *count = found->size / sizeof(float);
    }
    return (const float *)(const void *)found->data;
}

static mx_layer_params make_params(void)
{
    mx_layer_params params = {0};
    for (int p = 0; p < MX_PROJ_COUNT; p++) {
        params.weights[p] = tensor("weight.", names[p], NULL);
        params.biases[p] = tensor("bias.", names[p], NULL);
    }
    for (int n = 0; n < MX_NORM_COUNT; n++) {
        params.norms[n] = tensor("norm.", norm_names[n], NULL);
    }
    return params;
}

/* Everything that one backward pass makes. */
typedef struct results {
    float *y;
    mx_layer_gradients gradients;
} results;

static float *room(const char *kind, const char *name)
{
    size_t count;
    tensor(kind, name, &count);
    float *values = malloc(count * sizeof *values);
    assert_non_null(values);
    memset(values, 0xFF, count * sizeof *values); /* NaN: to be overwritten */
    return values;
}

static results run_layer(const mx_layer_params *params, int threads)
{
    mx_error err = {0};
    mx_backend backend;
    mx_layer_pass pass;
    results r = {.y = room("y", ""), .gradients = {.x = room("d.", "x")}};
    fixture_ok(mx_backend_init(&backend, threads, &err), err);
    fixture_ok(mx_layer_pass_init(&pass, &config, &backend, windows, length, &err), err);
    for (int p = 0; p < MX_PROJ_COUNT; p++) {
        r.gradients.weights[p] = room("weight.", names[p]);
    }
    for (int n = 0; n < MX_NORM_COUNT; n++) {
        r.gradients.norms[n] = room("norm.", norm_names[n]);
    }
    const float *x = tensor("x", "", NULL);
    mx_layer_pass_forward(&pass, params, x, windows, r.y);
    mx_layer_pass_backward(&pass, params, x, tensor("d_y", "", NULL), &r.gradients);
    mx_layer_pass_clear(&pass);
    mx_backend_clear(&backend);
    return r;
}

static void free_results(results *r)
{
    free(r->y);
    free(r->gradients.x);
    for (int p = 0; p < MX_PROJ_COUNT; p++) {
        free(r->gradients.weights[p]);
    }
    for (int n = 0; n < MX_NORM_COUNT; n++) {
        free(r->gradients.norms[n]);
    }
}

/* Distance as a share of the oracle's norm. */
static void check_close(const char *kind, const char *name, const float *ours)
{
    size_t count;
    const float *theirs = tensor(kind, name, &count);
    double gap = 0, size = 0;
    for (size_t i = 0; i < count; i++) {
        double d = (double)ours[i] - theirs[i];
        gap += d * d;
        size += (double)theirs[i] * theirs[i];
    }
    if (!(gap <= 1e-11 * size)) {
        fail_msg("%s%s: off by %g of its norm", kind, name, sqrt(gap / size));
    }
}

static void test_oracle(void **state)
{
    (void)state;
    mx_layer_params params = make_params();
    results r = run_layer(&params, 1);
    check_close("y", "", r.y);
    check_close("d.", "x", r.gradients.x);
    for (int p = 0; p < MX_PROJ_COUNT; p++) {
        check_close("d.weight.", names[p], r.gradients.weights[p]);
    }
    for (int n = 0; n < MX_NORM_COUNT; n++) {
        check_close("d.norm.", norm_names[n], r.gradients.norms[n]);
    }
    free_results(&r);
}

static void test_threads(void **state)
{
    (void)state;
    mx_layer_params params = make_params();
    const mx_quant quant = {.format = mx_format_find("fp6_e2m3"), .block = 8};
    for (int p = 0; p < MX_PROJ_COUNT; p++) {
        params.activations[p] = quant;
    }
    results one = run_layer(&params, 1), three = run_layer(&params, 3);
    size_t count;
    tensor("y", "", &count);
    assert_memory_equal(one.y, three.y, count * sizeof *one.y);
    assert_memory_equal(one.gradients.x, three.gradients.x, count * sizeof *one.y);
    for (int p = 0; p < MX_PROJ_COUNT; p++) {
        tensor("weight.", names[p], &count);
        assert_memory_equal(one.gradients.weights[p], three.gradients.weights[p],
                            count * sizeof *one.y);
    }
    for (int n = 0; n < MX_NORM_COUNT; n++) {
        assert_memory_equal(one.gradients.norms[n], three.gradients.norms[n],
                            config.hidden * sizeof *one.y);
    }
    free_results(&one);
    free_results(&three);
}

/* A rounded input passes its derivative on unchanged: the weights' derivative is the
 * rounded input's product, the input's that of the linear layer. */
static void test_straight_through(void **state)
{
    (void)state;
    mx_layer_params params = make_params();
    results plain = run_layer(&params, 1);
    /* Down alone: its input's rounding changes its own gradient and y, no other's. */
    params.activations[MX_PROJ_DOWN] = (mx_quant){.format = mx_format_find("fp4_e2m1"), .block = 8};
    results rounded = run_layer(&params, 1);
    size_t count;
    for (int p = 0; p < MX_PROJ_COUNT; p++) {
        tensor("weight.", names[p], &count);
        bool same = memcmp(plain.gradients.weights[p], rounded.gradients.weights[p],
                           count * sizeof(float)) == 0;
        assert_true(same == (p != MX_PROJ_DOWN));
    }
    tensor("y", "", &count);
    assert_memory_not_equal(plain.y, rounded.y, count * sizeof(float));
    assert_memory_equal(plain.gradients.x, rounded.gradients.x, count * sizeof(float));
    free_results(&plain);
    free_results(&rounded);
}

static int setup(void **state)
{
    mx_error err = {0};
    char path[FIXTURE_PATH];
    (void)state;
    fixture_golden("layer_pass.safetensors", path);
    fixture_ok(mx_safetensors_open(path, &golden, &err), err);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    mx_safetensors_close(golden);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_oracle),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_straight_through),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

/* microxcaling's own outputs, equal bit for bit: seven formats, three roundings,
 * blocks of 32 and 16, a ragged width (shared data, golden/microxcaling.safetensors);
 * and its other options (golden/microxcaling_options.safetensors of the tests, made by
 * tools/oracle_microxcaling.py). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "format_oracle.h"
#include "io/safetensors.h"

enum { WIDTH_MAX = 64 };

static const float *golden_row(const mx_tensor *tensor, uint64_t row, float *buffer)
{
    size_t bytes = (size_t)tensor->shape[1] * sizeof(float);
    memcpy(buffer, tensor->data + row * bytes, bytes); /* maps need not be aligned */
    return buffer;
}

static bool same_value(const mx_quant *quant, float got, float want)
{
    /* microxcaling keeps integers as floats, where -0 exists; two's complement has
     * none. NaN has many patterns. */
    if ((quant->format->kind == MX_KIND_INT && want == 0) || isnan(want)) {
        return want == 0 ? got == 0 : isnan(got);
    }
    return memcmp(&got, &want, sizeof got) == 0;
}

/* Casts every row of `input` and compares with `want`; number of values. */
static uint64_t compare(const mx_quant *quant, const mx_tensor *input, const mx_tensor *want)
{
    assert_non_null(input);
    assert_true(want->dtype == MX_DTYPE_F32 && want->n_dims == 2 && input->n_dims == 2);
    assert_true(input->shape[1] == want->shape[1] && input->shape[0] == want->shape[0]);
    assert_true(want->shape[1] <= WIDTH_MAX);
    float x[WIDTH_MAX], expected[WIDTH_MAX], out[WIDTH_MAX];
    size_t width = (size_t)want->shape[1];
    for (uint64_t row = 0; row < want->shape[0]; row++) {
        mx_row_cast(quant, golden_row(input, row, x), width, row, out);
        golden_row(want, row, expected);
        for (size_t i = 0; i < width; i++) {
            if (!same_value(quant, out[i], expected[i])) {
                fail_msg("%s row %llu column %zu: x %a gives %a, not %a", want->name,
                         (unsigned long long)row, i, x[i], out[i], expected[i]);
            }
        }
    }
    return want->shape[0] * width;
}

static mx_safetensors *golden_open(const char *dir, const char *name)
{
    char path[4096];
    mx_error err = {0};
    mx_safetensors *golden;
    snprintf(path, sizeof path, "%s/golden/%s", dir, name);
    if (mx_safetensors_open(path, &golden, &err) != MX_OK) {
        fail_msg("%s", err.text);
    }
    return golden;
}

static void all_outputs_are_equal(void **state)
{
    (void)state;
    const char *dir = getenv("MXLM_DATA_DIR");
    if (dir == NULL) {
        print_message("MXLM_DATA_DIR is not set: golden/microxcaling.safetensors is needed\n");
        skip();
    }
    mx_safetensors *golden = golden_open(dir, "microxcaling.safetensors");
    size_t cases = 0;
    uint64_t values = 0;
    for (size_t i = 0; i < mx_safetensors_count(golden); i++) {
        const mx_tensor *want = mx_safetensors_at(golden, i);
        char format[32], rounding[32], input[32];
        mx_quant quant = {0};
        unsigned width;
        if (sscanf(want->name, "%31[^.].%31[^.].b%u.%u", format, rounding, &quant.block, &width) ==
            4) {
            quant.format = mx_format_find(format);
            assert_int_equal(mx_round_parse(rounding, &quant.round, NULL), MX_OK);
            snprintf(input, sizeof input, "input.%u", width);
            values += compare(&quant, mx_safetensors_find(golden, input), want);
            cases++;
        }
    }
    mx_safetensors_close(golden);
    assert_int_equal(cases, 63); /* 7 formats, 3 roundings, 3 layouts */
    print_message("%zu outputs, %llu values equal\n", cases, (unsigned long long)values);
}

/* int2, the whole axis, other blocks, shared_exp_method none, flushing, NaN, Inf. */
static void all_options_are_equal(void **state)
{
    (void)state;
    const char *dir = getenv("MXLM_TEST_DIR");
    assert_non_null(dir);
    mx_safetensors *golden = golden_open(dir, "microxcaling_options.safetensors");
    const mx_tensor *input = mx_safetensors_find(golden, "input");
    size_t cases = 0;
    for (size_t i = 0; i < mx_safetensors_count(golden); i++) {
        const mx_tensor *want = mx_safetensors_at(golden, i);
        char format[32], rounding[32], method[8];
        mx_quant quant = {0};
        unsigned flush;
        if (sscanf(want->name, "%31[^.].%31[^.].b%u.%7[^.].flush%u", format, rounding, &quant.block,
                   method, &flush) == 5) {
            quant.format = mx_format_find(format);
            assert_int_equal(mx_round_parse(rounding, &quant.round, NULL), MX_OK);
            quant.block = strcmp(method, "none") == 0 ? 1 : quant.block;
            quant.flush_subnormals = flush != 0;
            compare(&quant, input, want);
            cases++;
        }
    }
    mx_safetensors_close(golden);
    assert_int_equal(cases, 50); /* 5 formats, 2 roundings, 5 layouts */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_outputs_are_equal),
        cmocka_unit_test(all_options_are_equal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

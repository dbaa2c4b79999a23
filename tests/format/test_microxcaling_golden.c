/* microxcaling's own outputs (shared data, golden/microxcaling.safetensors): seven
 * formats, three roundings, blocks of 32 and 16, a ragged width; equal bit for bit. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "format_oracle.h"
#include "io/safetensors.h"

enum { WIDTH_MAX = 64 };

typedef struct golden_case {
    char format[32], round[32];
    unsigned block, width;
} golden_case;

static const float *golden_row(const mx_tensor *tensor, uint64_t row, float *buffer)
{
    size_t bytes = (size_t)tensor->shape[1] * sizeof(float);
    memcpy(buffer, tensor->data + row * bytes, bytes); /* maps need not be aligned */
    return buffer;
}

/* Number of values compared. */
static uint64_t compare(const mx_safetensors *golden, const mx_tensor *want, const golden_case *c)
{
    char input_name[32];
    snprintf(input_name, sizeof input_name, "input.%u", c->width);
    const mx_tensor *input = mx_safetensors_find(golden, input_name);
    assert_non_null(input);
    assert_true(input->shape[1] == c->width && input->shape[0] == want->shape[0]);

    mx_quant quant = {.format = mx_format_find(c->format), .block = c->block};
    assert_non_null(quant.format);
    assert_int_equal(mx_round_parse(c->round, &quant.round, NULL), MX_OK);
    float x[WIDTH_MAX], expected[WIDTH_MAX], out[WIDTH_MAX];
    for (uint64_t row = 0; row < want->shape[0]; row++) {
        mx_row_cast(&quant, golden_row(input, row, x), c->width, row, out);
        golden_row(want, row, expected);
        for (unsigned i = 0; i < c->width; i++) {
            /* microxcaling keeps integers as floats, where -0 exists; two's
             * complement has none. */
            if (quant.format->kind == MX_KIND_INT && expected[i] == 0) {
                expected[i] = 0;
            }
            if (memcmp(&out[i], &expected[i], sizeof out[i]) != 0) {
                fail_msg("%s row %llu column %u: x %a gives %a, not %a", want->name,
                         (unsigned long long)row, i, x[i], out[i], expected[i]);
            }
        }
    }
    return want->shape[0] * c->width;
}

static void all_outputs_are_equal(void **state)
{
    (void)state;
    const char *dir = getenv("MXLM_DATA_DIR");
    if (dir == NULL) {
        print_message("MXLM_DATA_DIR is not set: golden/microxcaling.safetensors is needed\n");
        skip();
    }
    char path[4096];
    mx_error err = {0};
    mx_safetensors *golden;
    snprintf(path, sizeof path, "%s/golden/microxcaling.safetensors", dir);
    if (mx_safetensors_open(path, &golden, &err) != MX_OK) {
        fail_msg("%s", err.text);
    }
    size_t cases = 0;
    uint64_t values = 0;
    for (size_t i = 0; i < mx_safetensors_count(golden); i++) {
        const mx_tensor *tensor = mx_safetensors_at(golden, i);
        golden_case c;
        if (sscanf(tensor->name, "%31[^.].%31[^.].b%u.%u", c.format, c.round, &c.block, &c.width) ==
            4) {
            assert_true(tensor->dtype == MX_DTYPE_F32 && c.width <= WIDTH_MAX);
            values += compare(golden, tensor, &c);
            cases++;
        }
    }
    mx_safetensors_close(golden);
    assert_int_equal(cases, 63); /* 7 formats, 3 roundings, 3 layouts */
    print_message("%zu outputs, %llu values equal\n", cases, (unsigned long long)values);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_outputs_are_equal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Round to nearest: rows equal mx_row_encode's, for any team; bad weights are
 * named. */
#include "quant/quant_fixture.h"

#include <math.h>

enum { N_ROWS = 53, N_COLS = 77 };

/* A weight in memory. */
typedef struct weight {
    float values[N_ROWS][N_COLS];
    mx_tensor tensor;
    mx_rows rows;
} weight;

static weight *weight_make(void)
{
    weight *w = calloc(1, sizeof *w);
    assert_non_null(w);
    uint32_t seed = 99;
    for (int i = 0; i < N_ROWS * N_COLS; i++) {
        seed = seed * 1664525u + 1013904223u;
        w->values[i / N_COLS][i % N_COLS] =
            ldexpf((float)(int32_t)seed, -33 - (int)(seed >> 7 & 15));
    }
    w->tensor = (mx_tensor){.name = "w", .dtype = MX_DTYPE_F32, .n_dims = 2, .file = "memory"};
    w->tensor.shape[0] = N_ROWS;
    w->tensor.shape[1] = N_COLS;
    w->tensor.data = (const uint8_t *)w->values;
    w->tensor.size = sizeof w->values;
    w->rows = (mx_rows){.tensor = &w->tensor,
                        .n_rows = N_ROWS,
                        .n_cols = N_COLS,
                        .row_bytes = N_COLS * sizeof(float)};
    return w;
}

static const char *const settings[] = {
    "weights=fp4_e2m1",
    "weights=fp4_e2m1 block=16 scale_rule=even round=even",
    "weights=fp6_e2m3 scale_rule=rceil",
    "weights=fp6_e3m2 block=8 round=floor",
    "weights=fp8_e4m3 block=axis",
    "weights=fp8_e5m2 scale_rule=ceil",
    "weights=int8",
    "weights=int4 round=dither seed=12",
    "weights=int2",
    "weights=bf16",
    "weights=fp16",
    "weights=fp32",
};

static void test_equals_row_encode(void **state)
{
    (void)state;
    mx_error err = {0};
    weight *w = weight_make();
    for (size_t s = 0; s < MX_COUNT(settings); s++) {
        mx_specs *specs = fixture_specs(settings[s]);
        const mx_quant *quant = &specs->weights;
        size_t code_bytes = mx_row_code_bytes(quant, N_COLS);
        size_t n_scales = mx_row_scale_count(quant, N_COLS);
        uint8_t *codes = malloc(N_ROWS * code_bytes), *row_codes = malloc(code_bytes);
        uint8_t *scales = malloc(N_ROWS * n_scales + 1), *row_scales = malloc(n_scales + 1);
        for (int threads = 0; threads <= 5; threads++) {
            mx_team *team = NULL; /* threads 0: no team at all */
            if (threads > 0) {
                fixture_ok(mx_team_create(threads, &team, &err), err);
            }
            memset(codes, 0xA5, N_ROWS * code_bytes);
            memset(scales, 0xA5, N_ROWS * n_scales);
            for (size_t begin = 0, end; begin < N_ROWS; begin = end) { /* in parts */
                end = begin + 23 < N_ROWS ? begin + 23 : N_ROWS;
                fixture_ok(mx_rtn_rows(&w->rows, begin, end, quant, team,
                                       codes + begin * code_bytes, scales + begin * n_scales, &err),
                           err);
            }
            mx_team_free(team);
            for (size_t r = 0; r < N_ROWS; r++) {
                mx_row_encode(quant, w->values[r], N_COLS, r, row_codes, row_scales);
                assert_memory_equal(codes + r * code_bytes, row_codes, code_bytes);
                assert_memory_equal(scales + r * n_scales, row_scales, n_scales);
            }
        }
        free(codes);
        free(row_codes);
        free(scales);
        free(row_scales);
        mx_specs_free(specs);
    }
    free(w);
}

static void test_noise(void **state)
{
    (void)state;
    mx_error err = {0};
    weight *w = weight_make();
    mx_specs *specs = fixture_specs("weights=fp6_e2m3 round=even");
    const mx_quant *quant = &specs->weights;
    size_t code_bytes = mx_row_code_bytes(quant, N_COLS);
    size_t n_scales = mx_row_scale_count(quant, N_COLS);
    uint8_t *codes = malloc(N_ROWS * code_bytes), *scales = malloc(N_ROWS * n_scales);
    fixture_ok(mx_rtn_rows(&w->rows, 0, N_ROWS, quant, NULL, codes, scales, &err), err);
    double signal = 0, noise = 0; /* row sums, then rows in order: the contract's order */
    for (size_t r = 0; r < N_ROWS; r++) {
        float q[N_COLS];
        double row_signal = 0, row_noise = 0;
        mx_row_cast(quant, w->values[r], N_COLS, r, q);
        for (size_t i = 0; i < N_COLS; i++) {
            double x = (double)w->values[r][i];
            row_signal += x * x;
            row_noise += (x - (double)q[i]) * (x - (double)q[i]);
        }
        signal += row_signal;
        noise += row_noise;
    }
    for (int threads = 1; threads <= 4; threads++) {
        mx_team *team;
        double got_signal = 0, got_noise = 0;
        fixture_ok(mx_team_create(threads, &team, &err), err);
        for (size_t begin = 0, end; begin < N_ROWS; begin = end) { /* in parts */
            end = begin + 17 < N_ROWS ? begin + 17 : N_ROWS;
            fixture_ok(mx_rtn_noise(&w->rows, begin, end, quant, team, codes + begin * code_bytes,
                                    scales + begin * n_scales, &got_signal, &got_noise, &err),
                       err);
        }
        mx_team_free(team);
        assert_true(got_signal == signal && got_noise == noise);
        assert_true(noise > 0);
    }
    free(codes);
    free(scales);
    mx_specs_free(specs);
    free(w);
}

/* Row 40 and row 7 are bad: the first in order is named, whoever finds it. */
static void expect_refused(const char *setting, float value, const char *words)
{
    mx_error err = {0};
    weight *w = weight_make();
    uint8_t codes[N_ROWS * N_COLS * 4], scales[N_ROWS * N_COLS];
    mx_specs *specs = fixture_specs(setting);
    w->values[40][1] = value;
    w->values[7][76] = value;
    for (int threads = 1; threads <= 4; threads++) {
        mx_team *team;
        fixture_ok(mx_team_create(threads, &team, &err), err);
        fixture_fails(mx_rtn_rows(&w->rows, 0, N_ROWS, &specs->weights, team, codes, scales, &err),
                      MX_ERR_FORMAT, words, err);
        mx_team_free(team);
    }
    mx_specs_free(specs);
    free(w);
}

static void test_bad_values_are_named(void **state)
{
    (void)state;
    expect_refused("weights=fp4_e2m1", NAN, "memory: w: row 7, column 76 is NaN");
    expect_refused("weights=fp8_e5m2", -INFINITY, "memory: w: row 7, column 76 is infinite");
    expect_refused("weights=bf16", NAN, "memory: w: row 7, column 76 is NaN");
    /* FLT_MAX is finite, and rounding its scale up passes the last E8M0 exponent. */
    expect_refused("weights=int8 scale_rule=ceil", 3.4028235e38f, "memory: w: row 7 holds");
}

static void test_type_without_values(void **state)
{
    (void)state;
    mx_error err = {0};
    weight *w = weight_make();
    mx_specs *specs = fixture_specs("weights=fp4_e2m1");
    uint8_t codes[8], scales[8]; /* never reached */
    w->tensor.dtype = MX_DTYPE_I32;
    fixture_fails(mx_rtn_rows(&w->rows, 0, N_ROWS, &specs->weights, NULL, codes, scales, &err),
                  MX_ERR_UNSUPPORTED, "memory: w: cannot quantize", err);
    mx_specs_free(specs);
    free(w);
}

static void test_projection_names(void **state)
{
    (void)state;
    static const char *const yes[] = {
        "model.layers.0.self_attn.q_proj.weight", "model.layers.15.self_attn.k_proj.weight",
        "model.layers.2.self_attn.v_proj.weight", "model.layers.100.self_attn.o_proj.weight",
        "model.layers.0.mlp.gate_proj.weight",    "model.layers.0.mlp.up_proj.weight",
        "model.layers.29.mlp.down_proj.weight",
    };
    static const char *const no[] = {
        "model.embed_tokens.weight",
        "lm_head.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "model.norm.weight",
        "",
    };
    for (size_t i = 0; i < MX_COUNT(yes); i++) {
        assert_true(mx_projection_is(yes[i]));
    }
    for (size_t i = 0; i < MX_COUNT(no); i++) {
        assert_false(mx_projection_is(no[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_row_encode),    cmocka_unit_test(test_noise),
        cmocka_unit_test(test_bad_values_are_named), cmocka_unit_test(test_type_without_values),
        cmocka_unit_test(test_projection_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * search and gptq against an independent numpy version (tools/oracle_quant.py), on
 * every team; and what they do with inputs that are degenerate.
 */
#include "quant/quant_fixture.h"

#include "base/json.h"
#include "quant/method.h"

#include <math.h>

enum { MAX_COLS = 160, MAX_ROWS = 5 };

typedef struct method_case {
    const json_t *json;
    mx_quant quant;
    size_t rows, cols, tokens;
    float weights[MAX_ROWS * MAX_COLS];
    double hessian[MAX_COLS * MAX_COLS], cross[MAX_COLS * MAX_COLS];
    double residual[MAX_ROWS * MAX_COLS];
    mx_method_settings settings;
} method_case;

static double at(const json_t *list, size_t index)
{
    const json_t *value = json_array_get(list, index);
    assert_non_null(value);
    return json_number_value(value);
}

static double field(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

/* mean over tokens of a[t][i] * b[t][j], the scales of the two applied: exact. */
static void mean_product(const method_case *c, const char *a, size_t rows, double scale,
                         double *out)
{
    const json_t *left = json_object_get(c->json, a), *right = json_object_get(c->json, "x");
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < c->cols; j++) {
            double sum = 0;
            for (size_t t = 0; t < c->tokens; t++) {
                sum += at(left, t * rows + i) * at(right, t * c->cols + j);
            }
            out[i * c->cols + j] = sum * scale / (double)c->tokens;
        }
    }
}

static void read_case(const json_t *json, method_case *c)
{
    *c = (method_case){.json = json,
                       .rows = (size_t)field(json, "rows"),
                       .cols = (size_t)field(json, "cols"),
                       .tokens = (size_t)field(json, "tokens")};
    assert_true(c->rows <= MAX_ROWS && c->cols <= MAX_COLS);
    c->quant = (mx_quant){
        .format = mx_format_find(json_string_value(json_object_get(json, "format"))),
        .block = (uint32_t)field(json, "block"),
        .rule = MX_SCALE_FLOOR,
        .round = MX_ROUND_EVEN,
    };
    for (size_t i = 0; i < c->rows * c->cols; i++) {
        c->weights[i] = (float)at(json_object_get(json, "weights"), i);
    }
    mean_product(c, "x", c->cols, 1.0 / 64, c->hessian);
    mean_product(c, "taught", c->cols, 1.0 / 64, c->cross);
    mean_product(c, "lack", c->rows, 1.0 / 512, c->residual);
    c->settings = (mx_method_settings){.search_range = 1,
                                       .damp = field(json, "damp"),
                                       .correct = field(json, "correct"),
                                       .passes = (int)field(json, "passes")};
}

static mx_method_problem make_problem(const method_case *c, bool taught, mx_team *team)
{
    return (mx_method_problem){
        .quant = &c->quant,
        .n_rows = c->rows,
        .n_cols = c->cols,
        .weights = c->weights,
        .hessian = c->hessian,
        .cross = taught ? c->cross : NULL,
        .residual = taught ? c->residual : NULL,
        .settings = c->settings,
        .team = team,
        .name = "w",
    };
}

typedef struct result {
    uint8_t codes[MAX_ROWS * MAX_COLS]; /* packed */
    uint8_t scales[MAX_ROWS * MAX_COLS];
} result;

static void run_method(const char *name, const mx_method_problem *problem, result *out)
{
    mx_error err = {0};
    const mx_method *method;
    memset(out, 0, sizeof *out);
    fixture_ok(mx_method_find(name, &method, &err), err);
    fixture_ok(method->quantize(problem, out->codes, out->scales, &err), err);
}

/* Codes and scales are those of `golden`: [codes, scales]. */
static void check_result(const method_case *c, const result *r, const char *golden)
{
    const json_t *pair = json_object_get(c->json, golden);
    const json_t *codes = json_array_get(pair, 0), *scales = json_array_get(pair, 1);
    size_t code_bytes = mx_row_code_bytes(&c->quant, c->cols);
    size_t n_scales = mx_row_scale_count(&c->quant, c->cols);
    assert_int_equal(json_array_size(scales), c->rows * n_scales);
    for (size_t i = 0; i < c->rows * n_scales; i++) {
        assert_int_equal(r->scales[i], (int)at(scales, i));
    }
    for (size_t row = 0; row < c->rows; row++) {
        uint8_t unpacked[MAX_COLS];
        mx_codes_unpack(r->codes + row * code_bytes, c->cols, c->quant.format->bits, unpacked);
        for (size_t i = 0; i < c->cols; i++) {
            if (unpacked[i] != (int)at(codes, row * c->cols + i)) {
                fail_msg("%s: row %zu, column %zu: code %d, not %d", golden, row, i, unpacked[i],
                         (int)at(codes, row * c->cols + i));
            }
        }
    }
}

static void for_cases(void (*check)(const method_case *c, mx_team *team))
{
    mx_error err = {0};
    char path[FIXTURE_PATH];
    json_t *cases;
    fixture_golden("methods.json", path);
    fixture_ok(mx_json_load(path, (size_t)1 << 20, &cases, &err), err);
    assert_int_equal(json_array_size(cases), 4);
    method_case *c = malloc(sizeof *c);
    assert_non_null(c);
    for (int threads = 1; threads <= 3; threads++) {
        mx_team *team;
        fixture_ok(mx_team_create(threads, &team, &err), err);
        for (size_t i = 0; i < json_array_size(cases); i++) {
            read_case(json_array_get(cases, i), c);
            check(c, team);
        }
        mx_team_free(team);
    }
    free(c);
    json_decref(cases);
}

static void check_search(const method_case *c, mx_team *team)
{
    result r;
    mx_method_problem problem = make_problem(c, false, team);
    run_method("search", &problem, &r);
    check_result(c, &r, "search");
}

static void test_search(void **state)
{
    (void)state;
    for_cases(check_search);
}

static void check_gptq(const method_case *c, mx_team *team)
{
    result r;
    mx_method_problem problem = make_problem(c, false, team);
    run_method("gptq", &problem, &r);
    check_result(c, &r, "gptq");
    problem = make_problem(c, true, team);
    run_method("gptq", &problem, &r);
    check_result(c, &r, "gptq_taught");
}

static void test_gptq(void **state)
{
    (void)state;
    for_cases(check_gptq);
}

/* ---- degenerate inputs ---------------------------------------------------------- */

static method_case *plain_case(size_t rows, size_t cols)
{
    method_case *c = calloc(1, sizeof *c);
    assert_non_null(c);
    c->rows = rows;
    c->cols = cols;
    c->quant =
        (mx_quant){.format = mx_format_find("fp4_e2m1"), .block = 32, .round = MX_ROUND_EVEN};
    c->settings = (mx_method_settings){.search_range = 1, .damp = 0.01, .passes = 2};
    for (size_t i = 0; i < rows * cols; i++) {
        c->weights[i] = (float)((double)(i * 7919 % 1009) / 1009 - 0.5);
    }
    return c;
}

/* Inputs that were always zero say nothing, and all weigh alike: each block has the
 * exponent of least square error. */
static void test_dead_inputs(void **state)
{
    (void)state;
    method_case *c = plain_case(3, 64);
    result search, gptq;
    mx_method_problem problem = make_problem(c, false, NULL);
    run_method("search", &problem, &search);
    run_method("gptq", &problem, &gptq);
    assert_memory_equal(&search, &gptq, sizeof search);
    for (size_t block = 0; block < 6; block++) {
        const float *w = c->weights + block * 32;
        double least = INFINITY;
        int best = 0;
        for (int scale = 110; scale < 130; scale++) {
            double error = 0, value;
            for (size_t i = 0; i < 32; i++) {
                mx_method_round(&c->quant, w[i], (uint8_t)scale, &value);
                error += (value - (double)w[i]) * (value - (double)w[i]);
            }
            best = error < least ? scale : best;
            least = fmin(error, least);
        }
        assert_int_equal(search.scales[block], best);
    }
    free(c);
}

/* One calibration token: a Hessian of rank one, made definite by damping. */
static void test_one_token(void **state)
{
    (void)state;
    method_case *c = plain_case(4, 96);
    result gptq, again;
    for (size_t i = 0; i < c->cols; i++) {
        for (size_t j = 0; j < c->cols; j++) {
            c->hessian[i * c->cols + j] = cos((double)i) * cos((double)j);
        }
    }
    mx_method_problem problem = make_problem(c, false, NULL);
    run_method("gptq", &problem, &gptq);
    run_method("gptq", &problem, &again);
    assert_memory_equal(&gptq, &again, sizeof gptq);
    assert_null(memchr(gptq.scales, MX_E8M0_NAN, sizeof gptq.scales));
    for (size_t row = 0; row < c->rows; row++) {
        /* The output on that token is kept far better than by rounding alone. */
        float q[96], rtn[96];
        uint8_t codes[48], scales[3];
        double lost = 0, lost_rtn = 0;
        mx_row_decode(&c->quant, gptq.codes + row * 48, gptq.scales + row * 3, 96, q);
        mx_row_encode(&c->quant, c->weights + row * 96, 96, row, codes, scales);
        mx_row_decode(&c->quant, codes, scales, 96, rtn);
        for (size_t i = 0; i < c->cols; i++) {
            lost += cos((double)i) * ((double)q[i] - (double)c->weights[row * 96 + i]);
            lost_rtn += cos((double)i) * ((double)rtn[i] - (double)c->weights[row * 96 + i]);
        }
        assert_true(fabs(lost) < 0.02 || fabs(lost) < fabs(lost_rtn));
    }
    free(c);
}

/* sum over rows of (q - w) H (q - w)^T, H damped as the methods do. */
static double row_errors(const method_case *c, const mx_method_problem *problem, const result *r)
{
    size_t n = c->cols, code_bytes = mx_row_code_bytes(&c->quant, n);
    size_t n_scales = mx_row_scale_count(&c->quant, n);
    double *h = malloc(n * n * sizeof *h), sum = 0;
    assert_non_null(h);
    mx_method_damped(problem, h);
    for (size_t row = 0; row < c->rows; row++) {
        float q[MAX_COLS];
        mx_row_decode(&c->quant, r->codes + row * code_bytes, r->scales + row * n_scales, n, q);
        for (size_t i = 0; i < n; i++) {
            for (size_t j = 0; j < n; j++) {
                sum += ((double)q[i] - (double)c->weights[row * n + i]) * h[i * n + j] *
                       ((double)q[j] - (double)c->weights[row * n + j]);
            }
        }
    }
    free(h);
    return sum;
}

/* No pass of descent makes the error larger, and the first pays, even where H has
 * rank one but for its damping. */
static void test_descent(void **state)
{
    (void)state;
    static const char *const methods[] = {"search", "gptq"};
    method_case *c = plain_case(5, 104); /* the last block is short */
    for (size_t i = 0; i < c->cols; i++) {
        for (size_t j = 0; j < c->cols; j++) {
            c->hessian[i * c->cols + j] = cos((double)i) * cos((double)j);
        }
    }
    for (size_t m = 0; m < MX_COUNT(methods); m++) {
        double errors[4];
        for (int passes = 0; passes < 4; passes++) {
            result r;
            c->settings.passes = passes;
            mx_method_problem problem = make_problem(c, false, NULL);
            run_method(methods[m], &problem, &r);
            errors[passes] = row_errors(c, &problem, &r);
        }
        assert_true(errors[1] < errors[0]);
        assert_true(errors[2] <= errors[1] && errors[3] <= errors[2]);
    }
    free(c);
}

static void test_refused(void **state)
{
    (void)state;
    mx_error err = {0};
    const mx_method *method;
    result r;
    fixture_fails(mx_method_find("awq", &method, &err), MX_ERR_ARGUMENT, "rtn, search, gptq", err);
    assert_null(method);
    method_case *c = plain_case(2, 64);
    c->quant.round = MX_ROUND_DITHER;
    mx_method_problem problem = make_problem(c, false, NULL);
    fixture_ok(mx_method_find("search", &method, &err), err);
    fixture_fails(method->quantize(&problem, r.codes, r.scales, &err), MX_ERR_UNSUPPORTED,
                  "round dither goes with rtn", err);
    c->quant.round = MX_ROUND_EVEN;
    c->hessian[1] = NAN;
    fixture_ok(mx_method_find("gptq", &method, &err), err);
    fixture_fails(method->quantize(&problem, r.codes, r.scales, &err), MX_ERR_ARGUMENT, "singular",
                  err);
    free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_search),      cmocka_unit_test(test_gptq),
        cmocka_unit_test(test_dead_inputs), cmocka_unit_test(test_one_token),
        cmocka_unit_test(test_descent),     cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

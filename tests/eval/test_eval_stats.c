#include "eval_fixture.h"

#include "eval/eval_stats.h"
#include "eval/mt19937.h"

/* ---- the generator -------------------------------------------------------- */

static void check_random_case(const json_t *item)
{
    static uint32_t choices[700];
    uint32_t seed = (uint32_t)json_integer_value(json_object_get(item, "seed"));
    const json_t *u32 = json_object_get(item, "u32"), *real = json_object_get(item, "random");
    const json_t *picks = json_object_get(item, "choices"), *odd = json_object_get(item, "odd");
    mx_mt19937 mt;

    mx_mt19937_seed(&mt, seed);
    assert_int_equal(json_array_size(u32), 100);
    for (size_t i = 0; i < 1300; i++) {
        uint32_t value = mx_mt19937_u32(&mt);
        if (i % 13 == 0) {
            assert_int_equal(value, json_integer_value(json_array_get(u32, i / 13)));
        }
    }
    mx_mt19937_seed(&mt, seed);
    assert_int_equal(json_array_size(real), 20);
    for (size_t i = 0; i < 700; i++) {
        double value = mx_mt19937_random(&mt);
        if (i % 35 == 0) {
            assert_true(value == json_real_value(json_array_get(real, i / 35)));
        }
    }
    mx_mt19937_seed(&mt, seed);
    mx_mt19937_choices(&mt, 5153, choices, 13); /* in two parts: the state goes on */
    mx_mt19937_choices(&mt, 5153, choices + 13, 700 - 13);
    for (size_t i = 0; i < 700; i++) {
        assert_int_equal(choices[i], json_integer_value(json_array_get(picks, i)));
    }
    mx_mt19937_seed(&mt, seed);
    assert_int_equal(mx_mt19937_u32(&mt), json_integer_value(json_array_get(odd, 0)));
    mx_mt19937_choices(&mt, 977, choices, 700);
    for (size_t i = 0; i < 100; i++) {
        assert_int_equal(choices[7 * i], json_integer_value(json_array_get(odd, i + 1)));
    }
}

static void test_random(void **state)
{
    (void)state;
    json_t *root = NULL;
    const json_t *cases = fixture_golden("random", &root);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        check_random_case(json_array_get(cases, i));
    }
    json_decref(root);
}

/* ---- standard errors -------------------------------------------------------- */

static void check_bootstrap_case(const json_t *item, mx_team *team)
{
    const json_t *array = json_object_get(item, "values");
    size_t n = json_array_size(array);
    double *values = malloc(n * sizeof *values), stderror = -1;
    uint32_t iters = (uint32_t)json_integer_value(json_object_get(item, "iters"));
    mx_error err = {0};
    assert_non_null(values);
    for (size_t i = 0; i < n; i++) {
        values[i] = json_number_value(json_array_get(array, i));
    }
    fixture_ok(
        mx_bootstrap_perplexity_stderr(values, n, iters, team, (mx_watch){0}, &stderror, &err),
        err);
    /* Every digit: the same numbers in the same order. */
    assert_true(stderror == fixture_real(item, "stderr"));
    free(values);
}

static void test_bootstrap(void **state)
{
    (void)state;
    json_t *root = NULL;
    mx_team *team = NULL;
    mx_error err = {0};
    fixture_ok(mx_team_create(3, &team, &err), err);
    const json_t *cases = fixture_golden("bootstrap", &root);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        check_bootstrap_case(json_array_get(cases, i), NULL);
        check_bootstrap_case(json_array_get(cases, i), team);
    }
    mx_team_free(team);
    json_decref(root);
}

static bool stop(void *ctx, const mx_progress *progress)
{
    int *calls = ctx;
    assert_string_equal(progress->stage, "bootstrap");
    assert_true(progress->done < progress->total);
    return ++*calls < 3;
}

static void test_bootstrap_limits(void **state)
{
    (void)state;
    double values[3] = {-1, -2, -4}, stderror = 0;
    int calls = 0;
    mx_error err = {0};
    fixture_ok(mx_bootstrap_perplexity_stderr(values, 3, 0, NULL, (mx_watch){0}, &stderror, &err),
               err);
    assert_true(isnan(stderror));
    mx_status status = mx_bootstrap_perplexity_stderr(
        values, 3, 100000, NULL, (mx_watch){.fn = stop, .ctx = &calls}, &stderror, &err);
    assert_int_equal(status, MX_ERR_CANCELLED);
    assert_int_equal(calls, 3);
    assert_true(isnan(stderror));
}

static void test_mean_stderr(void **state)
{
    (void)state;
    /* acc of golden/lm_eval_results.json: 1,517 right answers of 5,153. Their order
     * moves the last digits of the sum. */
    static double right[5153];
    for (size_t i = 0; i < 1517; i++) {
        right[i] = 1;
    }
    assert_true(mx_mean(right, 5153) == 0.2943916165340578);
    assert_true(fabs(mx_mean_stderr(right, 5153) - 0.006349750457397488) < 1e-15);
    const double few[] = {2, 4, 4, 4, 5, 5, 7, 9};
    assert_true(fabs(mx_sample_stddev(few, 8) - sqrt(32.0 / 7)) < 1e-15);
    assert_true(isnan(mx_sample_stddev(few, 1)));
    assert_true(fabs(mx_perplexity(few, 8) - exp(-5)) < 1e-17);
}

/* A ratio's error by its definition, and that it is a mean's when all b are 1. */
static void test_ratio_stderr(void **state)
{
    (void)state;
    const double a[] = {3, 8, 2, 9}, ones[] = {1, 1, 1, 1}, b[] = {1, 3, 1, 2};
    assert_true(fabs(mx_ratio_stderr(a, ones, 4) - mx_mean_stderr(a, 4)) < 1e-15);
    double r = 22.0 / 7;
    double squares = (3 - r) * (3 - r) + (8 - 3 * r) * (8 - 3 * r) + (2 - r) * (2 - r) +
                     (9 - 2 * r) * (9 - 2 * r);
    assert_true(fabs(mx_ratio_stderr(a, b, 4) - sqrt(4.0 / 3 * squares) / 7) < 1e-15);
    assert_true(isnan(mx_ratio_stderr(a, b, 1)));
}

static void test_mcnemar(void **state)
{
    (void)state;
    json_t *root = NULL;
    const json_t *cases = fixture_golden("mcnemar", &root);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *item = json_array_get(cases, i);
        mx_mcnemar test = mx_mcnemar_test((uint64_t)fixture_real(item, "lost"),
                                          (uint64_t)fixture_real(item, "gained"));
        double p = fixture_real(item, "p");
        assert_true(fabs(test.p - p) <= 1e-11 * p);
        assert_true(test.exact == json_is_true(json_object_get(item, "exact")));
    }
    json_decref(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),           cmocka_unit_test(test_bootstrap),
        cmocka_unit_test(test_bootstrap_limits), cmocka_unit_test(test_mean_stderr),
        cmocka_unit_test(test_ratio_stderr),     cmocka_unit_test(test_mcnemar),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

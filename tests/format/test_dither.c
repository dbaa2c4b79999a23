/* Stochastic rounding: unbiased, reproducible, independent of how work is cut. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "format_oracle.h"

enum { DRAWS = 1 << 16 };

/* Share of `draws` dithered copies of y (anchor 4 holds the scale at 1) that became
 * `high`; the others must be `low`. */
static double share_rounded_up(float y, float low, float high)
{
    mx_quant quant = {
        .format = mx_format_find("fp4_e2m1"), .block = 8, .round = MX_ROUND_DITHER, .seed = 42};
    static float x[DRAWS], out[DRAWS];
    for (int i = 0; i < DRAWS; i++) {
        x[i] = i % 8 == 7 ? 4 : y;
    }
    mx_row_cast(&quant, x, DRAWS, 0, out);
    int up = 0, all = 0;
    for (int i = 0; i < DRAWS; i++) {
        if (i % 8 != 7) {
            assert_true(out[i] == low || out[i] == high);
            up += out[i] == high;
            all++;
        }
    }
    return (double)up / all;
}

static void probability_is_the_fraction(void **state)
{
    (void)state;
    static const struct {
        float y, low, high;
        double p;
    } cases[] = {
        {0.125f, 0, 0.5f, 0.25},
        {1.375f, 1, 1.5f, 0.75},
        {2.5f, 2, 3, 0.5},
        {-4.25f, -4, -6, 0.125},
        {3, 3, 4, 0},
        {0.03125f, 0, 0.5f, 0.0625},
    };
    for (size_t i = 0; i < MX_COUNT(cases); i++) {
        double p = cases[i].p;
        double share = share_rounded_up(cases[i].y, cases[i].low, cases[i].high);
        double sigma = sqrt(p * (1 - p) / (DRAWS * 7 / 8));
        assert_true(fabs(share - p) <= 4 * sigma);
    }
}

static void cast_row(uint64_t seed, uint64_t stream, const float *x, size_t n, float *out)
{
    mx_quant quant = {
        .format = mx_format_find("fp6_e2m3"), .block = 32, .round = MX_ROUND_DITHER, .seed = seed};
    mx_row_cast(&quant, x, n, stream, out);
}

static void same_seed_same_bits(void **state)
{
    (void)state;
    float x[500], a[500], b[500];
    uint64_t generator = 3;
    for (int i = 0; i < 500; i++) {
        x[i] = (float)oracle_random(&generator) / 4294967296.0f - 0.5f;
    }
    cast_row(1, 7, x, 500, a);
    cast_row(1, 7, x, 500, b);
    assert_memory_equal(a, b, sizeof a);
    /* The beginning of a row does not know how long the row is. */
    cast_row(1, 7, x, 160, b);
    assert_memory_equal(a, b, 160 * sizeof *a);
    cast_row(2, 7, x, 500, b);
    assert_memory_not_equal(a, b, sizeof a);
    cast_row(1, 8, x, 500, b);
    assert_memory_not_equal(a, b, sizeof a);
}

static void mean_is_unbiased(void **state)
{
    (void)state;
    float x[32], out[32];
    double sum = 0, want = 0;
    for (int i = 0; i < 32; i++) {
        x[i] = 0.37f * (float)(i % 11) - 1.1f;
        want += x[i];
    }
    enum { ROWS = 4000 };
    for (uint64_t row = 0; row < ROWS; row++) {
        cast_row(9, row, x, 32, out);
        for (int i = 0; i < 32; i++) {
            sum += out[i];
        }
    }
    /* An element's deviation is at most half a step of 1/4 (amax 2.6, e0 -1). */
    assert_true(fabs(sum / ROWS - want) < 5 * 0.125 * sqrt(32.0 / ROWS));
}

static void exact_values_stay(void **state)
{
    (void)state;
    const float x[8] = {0, 0.5f, -1, 1.5f, 2, -3, 4, 6};
    float out[8];
    mx_quant quant = {.format = mx_format_find("fp4_e2m1"), .block = 8, .round = MX_ROUND_DITHER};
    for (uint64_t stream = 0; stream < 1000; stream++) {
        mx_row_cast(&quant, x, 8, stream, out);
        assert_memory_equal(out, x, sizeof x);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(probability_is_the_fraction),
        cmocka_unit_test(same_seed_same_bits),
        cmocka_unit_test(mean_is_unbiased),
        cmocka_unit_test(exact_values_stay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

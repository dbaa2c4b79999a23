/* Sampling against the distribution it draws from. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "model/sampler.h"

#include <math.h>

enum { VOCAB = 6, DRAWS = 200000 };

static const float logits[VOCAB] = {1.0f, 3.0f, 2.0f, 3.0f, -1.0f, 0.0f};

static void count_draws(float temperature, float top_p, uint64_t seed, double share[VOCAB])
{
    mx_sampler sampler;
    size_t counts[VOCAB] = {0};
    assert_int_equal(mx_sampler_init(&sampler, VOCAB, temperature, top_p, seed, NULL), MX_OK);
    for (uint64_t i = 0; i < DRAWS; i++) {
        counts[mx_sampler_next(&sampler, logits, i)]++;
    }
    mx_sampler_clear(&sampler);
    for (size_t i = 0; i < VOCAB; i++) {
        share[i] = (double)counts[i] / DRAWS;
    }
}

/* softmax over the tokens of `keep`. */
static void expect_shares(const double share[VOCAB], const bool keep[VOCAB], double temperature)
{
    double total = 0;
    for (size_t i = 0; i < VOCAB; i++) {
        total += keep[i] ? exp(logits[i] / temperature) : 0;
    }
    for (size_t i = 0; i < VOCAB; i++) {
        double p = keep[i] ? exp(logits[i] / temperature) / total : 0;
        /* Five standard deviations of a binomial share. */
        assert_true(fabs(share[i] - p) <= 5 * sqrt(p * (1 - p) / DRAWS));
    }
}

static void greedy_takes_the_first_of_the_largest(void **state)
{
    (void)state;
    mx_sampler sampler;
    assert_int_equal(mx_sampler_init(&sampler, VOCAB, 0.0f, 1.0f, 1, NULL), MX_OK);
    assert_int_equal(mx_sampler_next(&sampler, logits, 0), 1);
    mx_sampler_clear(&sampler);
}

static void draws_follow_the_softmax(void **state)
{
    (void)state;
    const bool all[VOCAB] = {true, true, true, true, true, true};
    double share[VOCAB];
    count_draws(1.0f, 1.0f, 7, share);
    expect_shares(share, all, 1.0);
    count_draws(2.5f, 1.0f, 8, share);
    expect_shares(share, all, 2.5);
}

static void top_p_keeps_the_smallest_nucleus(void **state)
{
    (void)state;
    /* At temperature 1 tokens 1 and 3 hold 0.39 each: 0.7 is reached by both. */
    const bool two[VOCAB] = {[1] = true, [3] = true};
    const bool one[VOCAB] = {[1] = true};
    double share[VOCAB];
    count_draws(1.0f, 0.7f, 9, share);
    expect_shares(share, two, 1.0);
    count_draws(1.0f, 0.01f, 9, share);
    expect_shares(share, one, 1.0);
}

static void the_same_seed_gives_the_same_draws(void **state)
{
    (void)state;
    mx_sampler a, b, c;
    assert_int_equal(mx_sampler_init(&a, VOCAB, 1.0f, 0.9f, 5, NULL), MX_OK);
    assert_int_equal(mx_sampler_init(&b, VOCAB, 1.0f, 0.9f, 5, NULL), MX_OK);
    assert_int_equal(mx_sampler_init(&c, VOCAB, 1.0f, 0.9f, 6, NULL), MX_OK);
    size_t differ = 0;
    for (uint64_t i = 0; i < 1000; i++) {
        uint32_t from_a = mx_sampler_next(&a, logits, i);
        assert_int_equal(from_a, mx_sampler_next(&b, logits, i));
        differ += from_a != mx_sampler_next(&c, logits, i);
    }
    assert_true(differ > 300);
    mx_sampler_clear(&a);
    mx_sampler_clear(&b);
    mx_sampler_clear(&c);
}

static void bad_settings_are_errors(void **state)
{
    (void)state;
    mx_sampler sampler;
    const float bad[][2] = {{-1.0f, 1.0f}, {NAN, 1.0f},  {INFINITY, 1.0f},
                            {1.0f, 0.0f},  {1.0f, 1.5f}, {1.0f, NAN}};
    for (size_t i = 0; i < MX_COUNT(bad); i++) {
        mx_error err = {0};
        assert_int_equal(mx_sampler_init(&sampler, VOCAB, bad[i][0], bad[i][1], 0, &err),
                         MX_ERR_ARGUMENT);
        assert_true(err.text[0] != '\0');
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_first_of_the_largest),
        cmocka_unit_test(draws_follow_the_softmax),
        cmocka_unit_test(top_p_keeps_the_smallest_nucleus),
        cmocka_unit_test(the_same_seed_gives_the_same_draws),
        cmocka_unit_test(bad_settings_are_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

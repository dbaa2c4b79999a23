/* Sampling against the distribution it draws from. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/rng.h"
#include "model/sampler.h"

#include <math.h>
#include <stdlib.h>

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

typedef struct weighted {
    double weight;
    uint32_t token;
} weighted;

static int falling(const void *a, const void *b)
{
    const weighted *x = a, *y = b;
    if (x->weight != y->weight) {
        return x->weight > y->weight ? -1 : 1;
    }
    return x->token < y->token ? -1 : x->token > y->token;
}

/* The definition, with the whole vocabulary sorted. */
static uint32_t draw_by_definition(const float *row, size_t n, double temperature, double top_p,
                                   uint64_t seed, uint64_t position)
{
    weighted *all = malloc(n * sizeof *all);
    assert_non_null(all);
    double total = 0, mass = 0;
    float top = row[0];
    for (size_t i = 0; i < n; i++) {
        top = row[i] > top ? row[i] : top;
    }
    for (size_t i = 0; i < n; i++) {
        all[i] = (weighted){exp(((double)row[i] - (double)top) / temperature), (uint32_t)i};
        total += all[i].weight;
    }
    qsort(all, n, sizeof *all, falling);
    size_t kept = 0;
    do {
        mass += all[kept++].weight;
    } while (kept < n && mass < top_p * total);
    uint32_t bits[4];
    mx_philox(seed, 0, position, bits);
    double left = (double)(((uint64_t)bits[0] << 32 | bits[1]) >> 11) * 0x1p-53 * mass;
    size_t i = 0;
    while (i < kept && (left -= all[i].weight) >= 0) {
        i++;
    }
    assert_true(i < kept);
    uint32_t token = all[i].token;
    free(all);
    return token;
}

/* Only part of the vocabulary is sorted: that must not show, whether the weights are
 * all alike, tied in groups, or steep. */
static void nucleus_is_that_of_the_whole_vocabulary(void **state)
{
    (void)state;
    enum { N = 1500 };
    static float row[N];
    const float spreads[] = {0.0f, 0.01f, 1.0f, 6.0f, 60.0f};
    const float shares[] = {0.001f, 0.5f, 0.9f, 0.999f, 0.99999994f};
    for (size_t c = 0; c < MX_COUNT(spreads) * MX_COUNT(shares); c++) {
        float spread = spreads[c / MX_COUNT(shares)], top_p = shares[c % MX_COUNT(shares)];
        mx_sampler sampler;
        assert_int_equal(mx_sampler_init(&sampler, N, 0.8f, top_p, c, NULL), MX_OK);
        for (uint64_t position = 0; position < 20; position++) {
            for (uint32_t i = 0; i < N; i++) {
                uint32_t level = mx_philox_u32(99, position, i) % (position < 10 ? 7 : 10007);
                row[i] = spread * (float)level / (position < 10 ? 7.0f : 10007.0f);
            }
            assert_int_equal(mx_sampler_next(&sampler, row, position),
                             draw_by_definition(row, N, (double)0.8f, (double)top_p, c, position));
        }
        mx_sampler_clear(&sampler);
    }
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
        cmocka_unit_test(nucleus_is_that_of_the_whole_vocabulary),
        cmocka_unit_test(bad_settings_are_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

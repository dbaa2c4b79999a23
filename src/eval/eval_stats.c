/*
 * Means, standard errors and tests. Sums run in the order of the documents and
 * without compensation, since lm_eval's do: only so are its figures reproduced
 * (tests/golden/eval.json). Formulas and their sources: eval_stats.h.
 */
#include "eval/eval_stats.h"

#include "base/clock.h"
#include "eval/mt19937.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BOOTSTRAP_CHUNK 1000 /* draws a seed */
#define BOOTSTRAP_BATCH 512  /* indices drawn at a time: they stay in the L1 cache */

double mx_mean(const double *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += x[i];
    }
    return sum / (double)n;
}

double mx_sample_stddev(const double *x, size_t n)
{
    if (n < 2) {
        return NAN;
    }
    double mean = mx_mean(x, n), sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += (x[i] - mean) * (x[i] - mean);
    }
    return sqrt(sum / (double)(n - 1));
}

double mx_mean_stderr(const double *x, size_t n)
{
    return mx_sample_stddev(x, n) / sqrt((double)n);
}

static int compare_float(const void *left, const void *right)
{
    float a = *(const float *)left, b = *(const float *)right;
    return (a > b) - (a < b);
}

mx_status mx_percentile(const float *x, size_t n, double fraction, double *out, mx_error *err)
{
    float *sorted = malloc(n * sizeof *sorted);
    if (sorted == NULL) {
        return mx_error_nomem(err, "percentile", n * sizeof *sorted);
    }
    memcpy(sorted, x, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, compare_float);
    double place = fraction * (double)(n - 1);
    size_t below = (size_t)place, above = below + 1 < n ? below + 1 : below;
    double low = (double)sorted[below], high = (double)sorted[above];
    *out = low + (high - low) * (place - (double)below);
    free(sorted);
    return MX_OK;
}

double mx_perplexity(const double *x, size_t n)
{
    return exp(-mx_mean(x, n));
}

/* One bootstrap; threads share it and write to draws of their own. */
typedef struct bootstrap_run {
    const double *x; /* [n] */
    size_t n;
    size_t chunk;  /* draws a seed */
    size_t first;  /* seed of range index 0 */
    double *draws; /* [seeds][chunk] */
} bootstrap_run;

/* exp(-mean) of one resample of x, summed in the order drawn. */
static double bootstrap_draw(const bootstrap_run *run, mx_mt19937 *mt)
{
    uint32_t choices[BOOTSTRAP_BATCH];
    double sum = 0;
    for (size_t done = 0; done < run->n;) {
        size_t count = run->n - done < BOOTSTRAP_BATCH ? run->n - done : BOOTSTRAP_BATCH;
        mx_mt19937_choices(mt, (uint32_t)run->n, choices, count);
        for (size_t i = 0; i < count; i++) {
            sum += run->x[choices[i]];
        }
        done += count;
    }
    return exp(-(sum / (double)run->n));
}

/* Seeds [first + begin, first + end). */
static void bootstrap_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const bootstrap_run *run = ctx;
    mx_mt19937 mt;
    for (size_t i = begin; i < end; i++) {
        size_t seed = run->first + i;
        mx_mt19937_seed(&mt, (uint32_t)seed);
        for (size_t d = 0; d < run->chunk; d++) {
            run->draws[seed * run->chunk + d] = bootstrap_draw(run, &mt);
        }
    }
}

/* Runs all seeds, some at a time so that the watch is asked now and then. */
static mx_status bootstrap_all(bootstrap_run *run, size_t seeds, mx_team *team, mx_watch watch,
                               mx_error *err)
{
    size_t step = 4 * (size_t)(team != NULL ? mx_team_size(team) : 1);
    mx_progress progress = {.stage = "bootstrap", .unit = "draws", .total = seeds * run->chunk};
    double start = mx_clock_seconds();
    for (run->first = 0;; run->first += step) {
        size_t done = run->first < seeds ? run->first : seeds;
        progress.done = done * run->chunk;
        progress.seconds = mx_clock_seconds() - start;
        if (watch.fn != NULL && !watch.fn(watch.ctx, &progress)) {
            return mx_error_set(err, MX_ERR_CANCELLED, "bootstrap: cancelled");
        }
        if (done == seeds) {
            return MX_OK;
        }
        size_t count = seeds - run->first < step ? seeds - run->first : step;
        mx_team_for(team, count, 1, bootstrap_range, run);
    }
}

/* Draws keep the places that seed and number give them, and the deviation is taken
 * over all in order: the result does not depend on the threads. */
mx_status mx_bootstrap_perplexity_stderr(const double *x, size_t n, uint32_t iters, mx_team *team,
                                         mx_watch watch, double *out, mx_error *err)
{
    *out = NAN;
    if (iters < 2 || n == 0) {
        return MX_OK;
    }
    if (n > INT32_MAX) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED, "bootstrap: %zu documents", n);
    }
    size_t chunk = iters < BOOTSTRAP_CHUNK ? iters : BOOTSTRAP_CHUNK;
    size_t seeds = iters / chunk;
    bootstrap_run run = {.x = x, .n = n, .chunk = chunk};
    run.draws = malloc(seeds * chunk * sizeof *run.draws);
    if (run.draws == NULL) {
        return mx_error_nomem(err, "bootstrap", seeds * chunk * sizeof *run.draws);
    }
    mx_status status = bootstrap_all(&run, seeds, team, watch, err);
    if (status == MX_OK) {
        *out = mx_sample_stddev(run.draws, seeds * chunk);
    }
    free(run.draws);
    return status;
}

/* Linearization: a ratio of sums varies like the residuals a - ratio * b. */
double mx_ratio_stderr(const double *a, const double *b, size_t n)
{
    if (n < 2) {
        return NAN;
    }
    double sum_a = 0, sum_b = 0, squares = 0;
    for (size_t i = 0; i < n; i++) {
        sum_a += a[i];
        sum_b += b[i];
    }
    double ratio = sum_a / sum_b;
    for (size_t i = 0; i < n; i++) {
        double residual = a[i] - ratio * b[i];
        squares += residual * residual;
    }
    return sqrt((double)n / (double)(n - 1) * squares) / sum_b;
}

mx_mcnemar mx_mcnemar_test(uint64_t lost, uint64_t gained)
{
    mx_mcnemar test = {.lost = lost, .gained = gained, .p = 1};
    uint64_t flips = lost + gained;
    uint64_t fewer = lost < gained ? lost : gained;
    test.exact = flips < 25;
    if (test.exact) {
        /* 2 * P(X <= fewer), X binomial(flips, 1/2); the terms are integers
         * below 2^25 and the scaling is by a power of two: exact. */
        double term = 1, sum = 1;
        for (uint64_t i = 1; i <= fewer; i++) {
            term = term * (double)(flips - i + 1) / (double)i;
            sum += term;
        }
        test.p = fmin(1.0, ldexp(sum, 1 - (int)flips));
    } else {
        double excess = (double)(flips - 2 * fewer) - 1;
        double statistic = excess > 0 ? excess * excess / (double)flips : 0;
        test.p = erfc(sqrt(statistic / 2));
    }
    return test;
}

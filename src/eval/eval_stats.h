/*
 * Statistics of evaluations, with lm-evaluation-harness' definitions
 * (lm_eval/api/metrics.py). Sums run left to right in document order, as
 * Python's sum of floats does up to 3.11, so that golden results keep all their
 * digits.
 */
#ifndef MX_EVAL_EVAL_STATS_H
#define MX_EVAL_EVAL_STATS_H

#include "base/team.h"

/* sum x / n over x [n] in order; n >= 1. */
double mx_mean(const double *x, size_t n);
/* sqrt(sum (x - mean)^2 / (n - 1)); NaN for n < 2. */
double mx_sample_stddev(const double *x, size_t n);
/* mx_sample_stddev / sqrt(n): the standard error of a mean. */
double mx_mean_stderr(const double *x, size_t n);
/* The value below which a share `fraction` of x [n] lies, n >= 1: between the order
 * statistics floor(h) and floor(h) + 1 of h = fraction (n - 1), counted from 0, linearly
 * (Hyndman and Fan's type 7, numpy's and R's default). */
mx_status mx_percentile(const float *x, size_t n, double fraction, double *out, mx_error *err);
/* exp(-mean x). */
double mx_perplexity(const double *x, size_t n);

/*
 * lm_eval's bootstrap_stderr of `perplexity`: chunks of min(1000, iters) draws,
 * chunk i from random.Random(i).choices(x, k=n), iters / chunk chunks; the
 * sample standard deviation of exp(-mean) over all draws. iters below 2 give
 * NaN. Chunks run on the team (may be NULL); the result does not depend on it.
 */
mx_status mx_bootstrap_perplexity_stderr(const double *x, size_t n, uint32_t iters, mx_team *team,
                                         mx_watch watch, double *out, mx_error *err);

/*
 * Standard error of the ratio r = sum a / sum b over n pairs, by the delta
 * method (Cochran, "Sampling Techniques", 6.4):
 *     se = sqrt(n / (n - 1) * sum (a_i - r b_i)^2) / sum b.
 * NaN for n < 2.
 */
double mx_ratio_stderr(const double *a, const double *b, size_t n);

/* McNemar's test of paired right / wrong answers. */
typedef struct mx_mcnemar {
    uint64_t lost, gained; /* right only in the baseline; right only in the other */
    bool exact;            /* binomial; otherwise chi-square with continuity correction */
    double p;              /* two-sided */
} mx_mcnemar;

/* Exact below 25 flips (the usual rule), chi-square with one degree of freedom
 * and statistic (|lost - gained| - 1)^2 / (lost + gained) from there on. */
mx_mcnemar mx_mcnemar_test(uint64_t lost, uint64_t gained);

#endif

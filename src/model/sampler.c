#define _GNU_SOURCE
#include "model/sampler.h"

#include "base/rng.h"

#include <math.h>
#include <stdlib.h>

mx_status mx_sampler_init(mx_sampler *sampler, size_t vocab, float temperature, float top_p,
                          uint64_t seed, mx_error *err)
{
    *sampler = (mx_sampler){0};
    if (!(temperature >= 0.0f) || isinf(temperature)) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "temperature: must be 0 or a positive number");
    }
    if (!(top_p > 0.0f && top_p <= 1.0f)) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "top-p: must lie above 0 and at most at 1");
    }
    sampler->temperature = temperature;
    sampler->top_p = top_p;
    sampler->seed = seed;
    sampler->vocab = vocab;
    if (temperature == 0.0f) {
        return MX_OK;
    }
    sampler->order = malloc(vocab * sizeof *sampler->order);
    sampler->weights = malloc(vocab * sizeof *sampler->weights);
    if (sampler->order == NULL || sampler->weights == NULL) {
        mx_sampler_clear(sampler);
        return mx_error_nomem(err, "sampler", vocab * sizeof *sampler->weights);
    }
    return MX_OK;
}

void mx_sampler_clear(mx_sampler *sampler)
{
    free(sampler->order);
    free(sampler->weights);
    *sampler = (mx_sampler){0};
}

static uint32_t largest(const float *logits, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++) {
        if (logits[i] > logits[best]) {
            best = i;
        }
    }
    return (uint32_t)best;
}

/* Falling weight, then rising index: a total order, so that the draw does not
 * depend on how qsort breaks ties. */
static int by_weight(const void *a, const void *b, void *ctx)
{
    const double *weights = ctx;
    uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    if (weights[i] != weights[j]) {
        return weights[i] > weights[j] ? -1 : 1;
    }
    return i < j ? -1 : i > j;
}

/*
 * Puts the nucleus in front of `order`; its size, and its mass. Tokens below half
 * the mean weight of what may be left out cannot belong to it: all of them together
 * weigh less than half of that. The other half is room for rounding. So a few
 * tokens are sorted, not the vocabulary.
 */
static size_t nucleus(const mx_sampler *sampler, double total, double *mass)
{
    double wanted = (double)sampler->top_p * total;
    double least = (total - wanted) / (2 * (double)sampler->vocab);
    size_t n = 0, kept = 0;
    for (size_t i = 0; i < sampler->vocab; i++) {
        if (sampler->weights[i] >= least) {
            sampler->order[n++] = (uint32_t)i;
        }
    }
    qsort_r(sampler->order, n, sizeof *sampler->order, by_weight, sampler->weights);
    *mass = 0;
    while (kept < n && (kept == 0 || *mass < wanted)) {
        *mass += sampler->weights[sampler->order[kept]];
        kept++;
    }
    return kept;
}

uint32_t mx_sampler_next(mx_sampler *sampler, const float *logits, uint64_t position)
{
    size_t n = sampler->vocab;
    uint32_t best = largest(logits, n);
    if (sampler->temperature == 0.0f) {
        return best;
    }
    double total = 0;
    for (size_t i = 0; i < n; i++) {
        double scaled = ((double)logits[i] - (double)logits[best]) / (double)sampler->temperature;
        sampler->weights[i] = exp(scaled);
        sampler->order[i] = (uint32_t)i;
        total += sampler->weights[i];
    }
    size_t kept = n;
    double mass = total;
    if (sampler->top_p < 1.0f) {
        kept = nucleus(sampler, total, &mass);
    }
    uint32_t bits[4];
    mx_philox(sampler->seed, 0, position, bits);
    uint64_t mantissa = ((uint64_t)bits[0] << 32 | bits[1]) >> 11;
    double left = (double)mantissa * 0x1p-53 * mass;
    for (size_t i = 0; i < kept; i++) {
        left -= sampler->weights[sampler->order[i]];
        if (left < 0) {
            return sampler->order[i];
        }
    }
    return best; /* rounding left the last sliver of mass over, or a logit was NaN */
}

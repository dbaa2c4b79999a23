/* Choosing the next token from logits. */
#ifndef MX_MODEL_SAMPLER_H
#define MX_MODEL_SAMPLER_H

#include "base/status.h"

typedef struct mx_sampler {
    float temperature; /* 0: greedy */
    float top_p;       /* (0, 1]; 1: off */
    uint64_t seed;
    size_t vocab;
    uint32_t *order; /* [vocab] scratch, owned */
    double *weights; /* [vocab] scratch, owned */
} mx_sampler;

/* Checks the settings and takes the scratch. */
mx_status mx_sampler_init(mx_sampler *sampler, size_t vocab, float temperature, float top_p,
                          uint64_t seed, mx_error *err);
void mx_sampler_clear(mx_sampler *sampler);

/*
 * The next token. Greedy: the first index of the largest logit. Otherwise one
 * draw from softmax(logits / temperature), restricted to the fewest tokens, in
 * order of probability (ties by index), whose mass reaches top_p. The draw is
 * Philox at (seed, position): the same text for the same seed.
 */
uint32_t mx_sampler_next(mx_sampler *sampler, const float *logits /* [vocab] */, uint64_t position);

#endif

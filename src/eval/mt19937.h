/*
 * MT19937 (Matsumoto and Nishimura, 1998) seeded and drawn from as Python's
 * random.Random does, so that bootstrap standard errors equal lm_eval's.
 */
#ifndef MX_EVAL_MT19937_H
#define MX_EVAL_MT19937_H

#include <stddef.h>
#include <stdint.h>

#define MX_MT_WORDS 624

typedef struct mx_mt19937 {
    uint32_t state[MX_MT_WORDS];
    uint32_t output[MX_MT_WORDS]; /* the tempered state */
    size_t next;                  /* of output */
} mx_mt19937;

/* random.Random(seed) of an int: init_by_array over its 32-bit digits. */
void mx_mt19937_seed(mx_mt19937 *mt, uint32_t seed);
uint32_t mx_mt19937_u32(mx_mt19937 *mt);
/* Random.random(): 53 bits in [0, 1). */
double mx_mt19937_random(mx_mt19937 *mt);
/* Indices that Random.choices(population, k=count) takes from a population of
 * n <= 2^31 - 1: floor(random() * n). */
void mx_mt19937_choices(mx_mt19937 *mt, uint32_t n, uint32_t *out, size_t count);

#endif

/*
 * Philox4x32-10, a counter-based generator (Salmon et al., "Parallel Random
 * Numbers: As Easy as 1, 2, 3", SC 2011): the number at a counter depends on
 * nothing else, so stochastic rounding and sampling are the same for any thread
 * count and order.
 */
#ifndef MX_BASE_RNG_H
#define MX_BASE_RNG_H

#include <stdint.h>

/* Four independent 32-bit numbers at (seed, counter_hi, counter_lo). */
void mx_philox(uint64_t seed, uint64_t counter_hi, uint64_t counter_lo, uint32_t out[4]);

/* One 32-bit number for element `index` of stream `stream`. */
uint32_t mx_philox_u32(uint64_t seed, uint64_t stream, uint64_t index);

#endif

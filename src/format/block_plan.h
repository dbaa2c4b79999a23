/* Pieces of block.c that row.c puts together; of no use outside this layer. */
#ifndef MX_FORMAT_BLOCK_PLAN_H
#define MX_FORMAT_BLOCK_PLAN_H

#include "base/rng.h"
#include "format/block.h"
#include "format/element_fast.h"

/* The random number of an element; 0 unless the rounding is stochastic. */
static inline uint32_t mx_quant_random(const mx_quant *quant, uint64_t stream, uint64_t index)
{
    return quant->round == MX_ROUND_DITHER ? mx_philox_u32(quant->seed, stream, index) : 0;
}

/* What has to be known of a whole block before its elements can be encoded. */
typedef struct mx_block_plan {
    uint8_t scale;
    bool zero; /* all codes are 0: NaN or Inf inside, or flushed */
} mx_block_plan;

/* Reads the whole block x [n], n >= 1: its scale by quant's rule. */
mx_block_plan mx_block_scan(const mx_quant *quant, const float *x, size_t n);

/* Encodes a part x [n] of the planned block; `index` is the place of x[0] in the
 * row. One code per byte. */
void mx_block_encode_planned(const mx_codec *codec, const mx_quant *quant, mx_block_plan plan,
                             const float *x, size_t n, uint64_t stream, uint64_t index,
                             uint8_t *codes);
/* The values of a part of a block, from codes [n], one a byte, and its scale. */
void mx_block_decode_planned(const mx_codec *codec, const uint8_t *codes, uint8_t scale, size_t n,
                             float *out);

#endif

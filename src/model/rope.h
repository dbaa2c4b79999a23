/* Rotary position embedding: frequencies and the table of angles. */
#ifndef MX_MODEL_ROPE_H
#define MX_MODEL_ROPE_H

#include "io/hf_config.h"

/*
 * inv_freq [head_dim / 2] as Hugging Face transformers computes them
 * (modeling_rope_utils.py), every step in float32 like there: the angles at large
 * positions depend on the last bit.
 */
void mx_rope_frequencies(const mx_rope_config *config, uint32_t head_dim, float *inv_freq);

/* cos and sin [head_dim / 2] of position `position`: the angle is one float32
 * product, its functions correctly rounded as far as libm's double ones are. */
void mx_rope_angles(const float *inv_freq, uint32_t head_dim, uint32_t position, float *cos_out,
                    float *sin_out);

#endif

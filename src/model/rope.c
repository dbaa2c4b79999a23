#include "model/rope.h"

#include <math.h>

#define MX_TWO_PI 6.283185307179586

/* The llama3 rule: long wavelengths are slowed by `factor`, short ones kept,
 * those between interpolated. PyTorch divides a scalar by a tensor as
 * reciprocal times scalar, hence the two roundings where one would do. */
static float llama3_frequency(const mx_rope_config *config, float inv_freq)
{
    float low_wavelength = (float)(config->original_context / config->low_freq_factor);
    float high_wavelength = (float)(config->original_context / config->high_freq_factor);
    float wavelength = (1.0f / inv_freq) * (float)MX_TWO_PI;
    float slowed = inv_freq / (float)config->factor;
    if (wavelength > low_wavelength) {
        return slowed;
    }
    if (wavelength < high_wavelength) {
        return inv_freq;
    }
    float span = (float)(config->high_freq_factor - config->low_freq_factor);
    float smooth = (1.0f / wavelength) * (float)config->original_context;
    smooth = (smooth - (float)config->low_freq_factor) / span;
    return ((1.0f - smooth) * inv_freq) / (float)config->factor + smooth * inv_freq;
}

void mx_rope_frequencies(const mx_rope_config *config, uint32_t head_dim, float *inv_freq)
{
    for (uint32_t i = 0; i < head_dim / 2; i++) {
        float exponent = (float)(2 * i) / (float)head_dim;
        float power = (float)pow((double)(float)config->theta, (double)exponent);
        float frequency = 1.0f / power;
        switch (config->kind) {
        case MX_ROPE_DEFAULT:
            break;
        case MX_ROPE_LINEAR:
            frequency /= (float)config->factor;
            break;
        case MX_ROPE_FACTORS:
            frequency /= config->factors[i];
            break;
        case MX_ROPE_LLAMA3:
            frequency = llama3_frequency(config, frequency);
            break;
        }
        inv_freq[i] = frequency;
    }
}

void mx_rope_angles(const float *inv_freq, uint32_t head_dim, uint32_t position, float *cos_out,
                    float *sin_out)
{
    for (uint32_t i = 0; i < head_dim / 2; i++) {
        float angle = (float)position * inv_freq[i];
        cos_out[i] = (float)cos((double)angle);
        sin_out[i] = (float)sin((double)angle);
    }
}

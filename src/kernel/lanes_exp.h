/* The exponential of the contracts over `lanes`. */
#ifndef MX_KERNEL_LANES_EXP_H
#define MX_KERNEL_LANES_EXP_H

#include "kernel/exp_constants.h"

#include <math.h>
#include <stdbool.h>

/* mx_exp of every lane. */
static inline lanes lanes_exp(lanes x)
{
    /* Operand order: max and min pass a NaN x on. */
    x = lanes_max(lanes_set(MX_EXP_LOWEST), x);
    x = lanes_min(lanes_set(MX_EXP_HIGHEST), x);
    lanes rounder = lanes_set(MX_EXP_ROUNDER);
    lanes n = lanes_sub(lanes_fma(x, lanes_set(MX_EXP_LOG2E), rounder), rounder);
    lanes r = lanes_fma(n, lanes_set(-MX_EXP_LN2_HIGH), x);
    r = lanes_fma(n, lanes_set(-MX_EXP_LN2_LOW), r);
    lanes p = lanes_fma(lanes_set(MX_EXP_C6), r, lanes_set(MX_EXP_C5));
    p = lanes_fma(p, r, lanes_set(MX_EXP_C4));
    p = lanes_fma(p, r, lanes_set(MX_EXP_C3));
    p = lanes_fma(p, r, lanes_set(MX_EXP_C2));
    p = lanes_fma(p, r, lanes_set(1.0f));
    p = lanes_fma(p, r, lanes_set(1.0f));
    return lanes_scale(p, n);
}

/* What mx_exp2_weight makes of m: x = s - origin is at least `lowest`, and adding `shift`
 * rounds it to an integer. */
typedef struct exp2_place {
    float origin, lowest, shift;
} exp2_place;

static inline exp2_place exp2_place_make(float m)
{
    bool near = fabsf(m) < MX_EXP2_NEAR;
    float rest = near ? m : 0;
    return (exp2_place){near ? 0 : m, rest + MX_EXP2_LOWEST, MX_EXP_ROUNDER - rest};
}

/* mx_exp2_weight of every lane. */
static inline lanes lanes_exp2_weight(lanes s, exp2_place at)
{
    /* Operand order: NaN passes on. */
    lanes x = lanes_max(lanes_set(at.lowest), lanes_sub(s, lanes_set(at.origin)));
    lanes shift = lanes_set(at.shift), shifted = lanes_add(x, shift);
    lanes r = lanes_sub(x, lanes_sub(shifted, shift));
    lanes p = lanes_fma(lanes_set(MX_EXP2_C3), r, lanes_set(MX_EXP2_C2));
    p = lanes_fma(p, r, lanes_set(MX_EXP2_C1));
    p = lanes_fma(p, r, lanes_set(1.0f));
    return lanes_scale(p, lanes_sub(shifted, lanes_set(MX_EXP_ROUNDER)));
}

#endif

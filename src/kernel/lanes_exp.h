/* The exponential of the contracts over `lanes`. */
#ifndef MX_KERNEL_LANES_EXP_H
#define MX_KERNEL_LANES_EXP_H

#include "kernel/exp_constants.h"

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

/* mx_exp2_weight of every lane. */
static inline lanes lanes_exp2_weight(lanes x)
{
    x = lanes_max(lanes_set(MX_EXP2_LOWEST), x); /* operand order: NaN passes on */
    lanes rounder = lanes_set(MX_EXP_ROUNDER);
    lanes n = lanes_sub(lanes_add(x, rounder), rounder);
    lanes r = lanes_sub(x, n);
    lanes p = lanes_fma(lanes_set(MX_EXP2_C3), r, lanes_set(MX_EXP2_C2));
    p = lanes_fma(p, r, lanes_set(MX_EXP2_C1));
    p = lanes_fma(p, r, lanes_set(1.0f));
    return lanes_scale(p, n);
}

#endif

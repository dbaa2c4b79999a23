/* Second moments of what a projection sees in calibration. */
#ifndef MX_QUANT_MOMENTS_H
#define MX_QUANT_MOMENTS_H

#include "model/session.h"

/* Sums in double, call after call; means after finish. */
typedef struct mx_moments {
    const mx_session *session; /* borrowed */
    mx_projection projection;
    size_t n_cols; /* of the projection */
    size_t n_tokens;
    double *hessian; /* [n_cols][n_cols]: x x^T, x quantized as the model's specs say */
    float *cast;     /* [threads][n_cols] */
    double *x;       /* [block of tokens][n_cols] */
} mx_moments;

mx_status mx_moments_init(mx_moments *moments, const mx_session *session, mx_projection projection,
                          mx_error *err);
void mx_moments_clear(mx_moments *moments); /* idempotent */

/* An mx_tap_fn, its ctx the moments: adds the projection's inputs and ends the layer. */
bool mx_moments_tap(void *moments, uint32_t layer, mx_projection projection, const float *x,
                    size_t n_tokens);
void mx_moments_finish(mx_moments *moments);

#endif

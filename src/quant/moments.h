/* Second moments of what a projection sees in calibration. */
#ifndef MX_QUANT_MOMENTS_H
#define MX_QUANT_MOMENTS_H

#include "model/session.h"

typedef struct mx_moments_config {
    mx_projection projection;
    const mx_session *student; /* borrowed, as the teacher's */
    const mx_session *teacher; /* of the unquantized model; NULL: the Hessian alone */
    size_t chunk;              /* tokens of one call at most */
} mx_moments_config;

/* Sums in double, call after call; means after finish. x^ is the student's input,
 * quantized as its specs say, x the teacher's. */
typedef struct mx_moments {
    mx_moments_config config;
    size_t n_cols, hidden; /* of the projection, of the residual stream */
    size_t n_tokens;
    double *hessian;       /* [n_cols][n_cols]: x^ x^^T */
    double *cross;         /* [n_cols][n_cols]: x x^^T; NULL without a teacher */
    double *residual;      /* [hidden][n_cols]: r x^^T, r what the student's residual stream lacks;
                              NULL too where the projection's output is not added to it */
    float *taught_x;       /* [chunk][n_cols]: the teacher's, of this chunk */
    float *taught_h;       /* [chunk][hidden] */
    float *cast;           /* [threads][n_cols] */
    double *ours, *theirs; /* [block of tokens][n_cols or hidden] */
} mx_moments;

mx_status mx_moments_init(mx_moments *moments, const mx_moments_config *config, mx_error *err);
void mx_moments_clear(mx_moments *moments); /* idempotent */

/* Each an mx_tap_fn, its ctx the moments: first the teacher's chunk, which ends its layer
 * unless the projection is the layer's last; then the student's, which ends its layer. */
bool mx_moments_teach(void *moments, uint32_t layer, mx_projection projection, const float *x,
                      size_t n_tokens);
bool mx_moments_add(void *moments, uint32_t layer, mx_projection projection, const float *x,
                    size_t n_tokens);
void mx_moments_finish(mx_moments *moments);

#endif

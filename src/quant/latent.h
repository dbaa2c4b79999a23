/*
 * Weights under training: a real number behind every code of a matrix, moved by
 * Adam (Kingma and Ba, 2014) in units of its block's scale. The scales stay.
 */
#ifndef MX_QUANT_LATENT_H
#define MX_QUANT_LATENT_H

#include "base/team.h"
#include "format/element_fast.h"
#include "quant/method.h"

typedef struct mx_latent {
    const mx_quant *quant; /* borrowed */
    size_t n_rows, n_cols, block, n_scales;
    mx_codec codec;
    const uint8_t *scales;     /* [n_rows][n_scales], borrowed; none is NaN */
    float *arena;              /* the five below, each [n_rows][n_cols] */
    float *weights;            /* the real numbers */
    float *values;             /* the same rounded: what the codes stand for */
    float *gradient;           /* of the values, from the caller */
    float *mean, *mean_square; /* of gradients, decaying */
} mx_latent;

/*
 * Numbers that round to `codes` (packed rows): `original` [n_rows][n_cols] where it
 * does; elsewhere, where the method behind the codes had its reasons, a random place
 * on the original's side of the code's cell. Not the nearest such place: weights at
 * their cells' edges would all turn over at the first steps.
 */
mx_status mx_latent_init(mx_latent *latent, const mx_quant *quant, size_t n_rows, size_t n_cols,
                         const float *original, const uint8_t *codes, const uint8_t *scales,
                         mx_team *team, mx_error *err);
void mx_latent_clear(mx_latent *latent); /* idempotent */

/* Rounds: weights to values. */
void mx_latent_round(mx_latent *latent, mx_team *team);
/* The codes of the values, packed [n_rows][mx_row_code_bytes]. */
void mx_latent_codes(const mx_latent *latent, mx_team *team, uint8_t *codes);

/* Step `step`, from 1, against the gradient: about `rate` scales for a gradient of
 * steady sign. Nothing leaves the range of the format. */
void mx_latent_step(mx_latent *latent, mx_team *team, double rate, uint32_t step);

#endif

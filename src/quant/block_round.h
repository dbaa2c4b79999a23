/*
 * Rounding one block of a row on its grid so that the row's error, measured by a
 * second-moment matrix H of the inputs, is least. Shared by the methods that see
 * more of H than its diagonal.
 */
#ifndef MX_QUANT_BLOCK_ROUND_H
#define MX_QUANT_BLOCK_ROUND_H

#include "quant/method.h"

/* Scratch and result; best_* swap places with the others. */
typedef struct mx_block_trial {
    double *w, *errors, *best_errors; /* [n] */
    uint8_t *codes, *best_codes;      /* [n], one code a byte */
} mx_block_trial;

typedef struct mx_block_task {
    const mx_quant *quant;
    size_t n;
    const double *aim;     /* [n]: where the error is nought, given the rest of the row */
    const double *nearest; /* [n]: codes are the nearest to these; NULL: error feedback */
    const double *factor;  /* [n][stride]: upper U, U^T U the inverse of the block's H */
    size_t stride;
    int scale, range; /* scale bytes tried: scale, and up to `range` to each side */
    double limit;     /* only errors below it will do */
} mx_block_task;

/* Bytes of a trial's scratch for blocks of `block`; and the trial inside it. */
size_t mx_block_trial_size(size_t block);
void mx_block_trial_place(void *memory, size_t block, mx_block_trial *trial);

/*
 * The scale byte whose codes have the least error (aim - q) H (aim - q)^T = sum of
 * err_j^2, err_j = (w_j - q_j) / U_jj, w_k = aim_k - sum of err_j U_jk over j < k.
 * With feedback each code is w_j's nearest, as in GPTQ. best_codes and best_errors
 * are those of the scale; MX_E8M0_NAN when none is below the limit.
 */
uint8_t mx_block_round(const mx_block_task *task, mx_block_trial *trial);

#endif

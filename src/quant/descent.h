/*
 * Block coordinate descent on codes that are chosen already: one block of a row
 * after the other is rounded again with the rest of the row as it is, and kept
 * where the row's error (q - t) H (q - t)^T falls. So errors of far columns come to
 * make up for each other, which neither the diagonal of H nor one walk over the
 * columns can arrange.
 */
#ifndef MX_QUANT_DESCENT_H
#define MX_QUANT_DESCENT_H

#include "quant/method.h"

typedef struct mx_descent_config {
    const mx_method_problem *problem; /* its settings: passes, search_range */
    const double *target;             /* [n_rows][n_cols]: t */
    const double *hessian;            /* [n_cols][n_cols]: H, positive definite */
    uint8_t *codes;                   /* [n_rows][n_cols], one a byte; in and out */
    uint8_t *scales;                  /* [n_rows][blocks]; in and out */
    /*
     * True: a block is rounded with error feedback towards what is best given the
     * rest, at its scale or one beside it. False: codes are the target's nearest
     * values, and only the scale is chosen, the rule's or one beside it.
     */
    bool feedback;
} mx_descent_config;

/* The same bits for any team. */
mx_status mx_descent_run(const mx_descent_config *config, mx_error *err);

#endif

/*
 * Dense double-precision algebra of calibration, over OpenBLAS and LAPACKE.
 *
 * Every BLAS call is single-threaded and works on a tile whose size is fixed, so
 * that bits do not depend on the number of threads; a team spreads the tiles.
 * They may depend on the processor, for which OpenBLAS picks its kernels.
 * Matrices are row-major; "upper" is U with A = U^T U.
 */
#ifndef MX_QUANT_LINALG_H
#define MX_QUANT_LINALG_H

#include "base/team.h"

/*
 * sum[i][j] += sum over t of a[t][i] * b[t][j]; a [n][rows], b [n][cols], sum
 * [rows][cols]. With a == b (and rows == cols) only tiles on and above the
 * diagonal are computed: mx_linalg_mirror completes them.
 */
void mx_linalg_gram(mx_team *team, const double *a, size_t rows, const double *b, size_t cols,
                    size_t n, double *sum);
/* Copies the upper triangle of a [n][n] to the lower. */
void mx_linalg_mirror(double *a, size_t n);

/* c [m][n] = a [m][k] * b [k][n] + beta * c. */
void mx_linalg_multiply(mx_team *team, const double *a, const double *b, size_t m, size_t k,
                        size_t n, double beta, double *c);

/* Cholesky factor of the positive definite a [n][n], in place: the upper triangle
 * becomes U. False when a is not positive definite in double precision. */
bool mx_linalg_cholesky(double *a, size_t n);
/* From U to the inverse of U^T U, in the upper triangle. */
bool mx_linalg_invert(double *u, size_t n);
/* x [rows][n] = x * (U^T U)^-1, row by row. */
bool mx_linalg_solve_rows(mx_team *team, const double *u, size_t n, double *x, size_t rows);

#endif

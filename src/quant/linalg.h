/*
 * Dense algebra of calibration, over OpenBLAS and LAPACKE: double precision where
 * equations are solved, single where weights are learned.
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

/* c [m][n] = a [m][k] * b [k][n]. */
void mx_linalg_multiply(mx_team *team, const double *a, const double *b, size_t m, size_t k,
                        size_t n, double *c);

/* Cholesky factor of the positive definite a [n][n], in place: the upper triangle
 * becomes U. False when a is not positive definite in double precision. */
bool mx_linalg_cholesky(double *a, size_t n);
/* From U to the inverse of U^T U, in the upper triangle. */
bool mx_linalg_invert(double *u, size_t n);
/* x [rows][n] = x * (U^T U)^-1, row by row. */
bool mx_linalg_solve_rows(mx_team *team, const double *u, size_t n, double *x, size_t rows);

/* One product of fp32 matrices: c [m][n] = alpha op(a) op(b) + beta c, where op
 * transposes on request: a is [m][k] or, transposed, [k][m]; b is [k][n] or [n][k].
 * Rows lie lda, ldb, ldc floats apart. */
typedef struct mx_sgemm {
    bool transpose_a, transpose_b;
    size_t m, n, k;
    float alpha;
    const float *a;
    size_t lda;
    const float *b;
    size_t ldb;
    float beta;
    float *c;
    size_t ldc;
} mx_sgemm;

/* In the calling thread: for teams that split something else. */
void mx_linalg_sgemm(const mx_sgemm *product);
/* Over a team, tile by tile of c; k is never split. */
void mx_linalg_sgemm_team(mx_team *team, const mx_sgemm *product);

#endif

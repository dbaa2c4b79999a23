#include "quant/linalg.h"

#include <cblas.h>
#include <lapacke.h>
#include <pthread.h>

/* Columns and rows of a tile of results. */
enum { TILE = 192, SGEMM_TILE = 256 };

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* OpenBLAS's own threads would split sums by their number. The setting belongs to
 * the process; mxlm is its only user there. */
static void one_thread(void)
{
    openblas_set_num_threads(1);
}

static void begin(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, one_thread);
}

typedef struct gram_job {
    const double *a; /* [n][cols] */
    size_t cols, n;
    double *sum; /* [cols][cols] */
} gram_job;

static void gram_range(void *ctx, size_t first, size_t last, int thread)
{
    (void)thread;
    const gram_job *job = ctx;
    size_t cols = job->cols, across = (cols + TILE - 1) / TILE;
    for (size_t tile = first; tile < last; tile++) {
        size_t row = tile / across * TILE, col = tile % across * TILE;
        if (col < row) {
            continue;
        }
        cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)min_size(cols - row, TILE),
                    (blasint)min_size(cols - col, TILE), (blasint)job->n, 1.0, job->a + row,
                    (blasint)cols, job->a + col, (blasint)cols, 1.0, job->sum + row * cols + col,
                    (blasint)cols);
    }
}

void mx_linalg_gram(mx_team *team, const double *a, size_t cols, size_t n, double *sum)
{
    begin();
    gram_job job = {.a = a, .cols = cols, .n = n, .sum = sum};
    size_t across = (cols + TILE - 1) / TILE;
    mx_team_for(team, across * across, 1, gram_range, &job);
}

void mx_linalg_mirror(double *a, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t j = i + 1; j < n; j++) {
            a[j * n + i] = a[i * n + j];
        }
    }
}

/* Row-major upper is LAPACK's lower: the _work forms, column by column, take it
 * without a transposed copy. */
bool mx_linalg_cholesky(double *a, size_t n)
{
    begin();
    return LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'L', (lapack_int)n, a, (lapack_int)n) == 0;
}

bool mx_linalg_invert(double *u, size_t n)
{
    begin();
    return LAPACKE_dpotri_work(LAPACK_COL_MAJOR, 'L', (lapack_int)n, u, (lapack_int)n) == 0;
}

void mx_linalg_sgemm(const mx_sgemm *p)
{
    begin();
    cblas_sgemm(CblasRowMajor, p->transpose_a ? CblasTrans : CblasNoTrans,
                p->transpose_b ? CblasTrans : CblasNoTrans, (blasint)p->m, (blasint)p->n,
                (blasint)p->k, p->alpha, p->a, (blasint)p->lda, p->b, (blasint)p->ldb, p->beta,
                p->c, (blasint)p->ldc);
}

static void sgemm_range(void *ctx, size_t first, size_t last, int thread)
{
    (void)thread;
    const mx_sgemm *whole = ctx;
    size_t across = (whole->n + SGEMM_TILE - 1) / SGEMM_TILE;
    for (size_t tile = first; tile < last; tile++) {
        size_t row = tile / across * SGEMM_TILE, col = tile % across * SGEMM_TILE;
        mx_sgemm part = *whole;
        part.m = min_size(whole->m - row, SGEMM_TILE);
        part.n = min_size(whole->n - col, SGEMM_TILE);
        part.a += whole->transpose_a ? row : row * whole->lda;
        part.b += whole->transpose_b ? col * whole->ldb : col;
        part.c += row * whole->ldc + col;
        mx_linalg_sgemm(&part);
    }
}

void mx_linalg_sgemm_team(mx_team *team, const mx_sgemm *product)
{
    mx_sgemm whole = *product;
    size_t down = (whole.m + SGEMM_TILE - 1) / SGEMM_TILE;
    size_t across = (whole.n + SGEMM_TILE - 1) / SGEMM_TILE;
    mx_team_for(team, down * across, 1, sgemm_range, &whole);
}

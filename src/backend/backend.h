/*
 * The backend runs whole operations of the forward pass over a thread team and a
 * kernel table.
 */
#ifndef MX_BACKEND_BACKEND_H
#define MX_BACKEND_BACKEND_H

#include "base/team.h"
#include "format/dtype.h"
#include "kernel/kernel.h"

/* How a weight matrix is held. */
typedef enum mx_matrix_kind {
    MX_MATRIX_STORED, /* rows of a plain or GGUF type, usually in the file's map */
    MX_MATRIX_CODES,  /* canonical packed MX codes and scales; fp32 product */
    MX_MATRIX_PANELS, /* the kernels' own layout; exact integer product */
} mx_matrix_kind;

/* A weight matrix [n_rows][n_cols] and its optional bias. */
typedef struct mx_matrix {
    mx_matrix_kind kind;
    size_t n_rows, n_cols;
    mx_dtype dtype;             /* STORED */
    const uint8_t *data;        /* STORED: rows, or CODES: codes; borrowed */
    const uint8_t *scales;      /* CODES: [n_rows][scale count]; borrowed */
    size_t row_bytes;           /* of data */
    uint32_t permuted_head_dim; /* STORED: GGUF row permutation, 0 none (io/checkpoint.h) */
    mx_quant quant;             /* CODES, PANELS */
    uint8_t *owned;             /* memory behind codes + scales or panels, freed with the matrix */
    const uint8_t *panels;      /* PANELS */
    uint64_t stored_bytes;      /* bytes of codes + scales, or of the stored rows */
    float *bias;                /* [n_rows] or NULL; owned */
} mx_matrix;

typedef struct mx_backend {
    mx_kernels kernels;
    mx_team *team; /* owned */
    uint32_t cpu_flags;
} mx_backend;

mx_status mx_backend_init(mx_backend *backend, int threads, mx_error *err);
void mx_backend_clear(mx_backend *backend);

#endif

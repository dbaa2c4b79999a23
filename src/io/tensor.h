/* A named tensor inside a mapped file, checked against the file's bounds. */
#ifndef MX_IO_TENSOR_H
#define MX_IO_TENSOR_H

#include "format/dtype.h"

#define MX_TENSOR_MAX_DIMS 8

typedef struct mx_tensor {
    const char *name; /* owned by the reader */
    mx_dtype dtype;   /* MX_DTYPE_NONE: a type of the container that mxlm does not read */
    int n_dims;       /* 0: a scalar */
    uint64_t shape[MX_TENSOR_MAX_DIMS]; /* outermost first, as in PyTorch */
    const uint8_t *data;                /* into the map; little-endian, may be unaligned */
    uint64_t size;                      /* bytes; equals what shape and dtype ask for */
    const char *file;                   /* path of the file it lies in, for messages */
    uint64_t offset;                    /* of data within that file */
    const char *type_name;              /* the type as the container calls it, for messages */
} mx_tensor;

/* Number of elements; the readers have checked that it does not overflow. */
uint64_t mx_tensor_count(const mx_tensor *tensor);

#endif

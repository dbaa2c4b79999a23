/* The tensors of one container, in order and by name; private to src/io. */
#ifndef MX_IO_TENSOR_SET_H
#define MX_IO_TENSOR_SET_H

#include "io/tensor.h"

typedef struct mx_tensor_set {
    mx_tensor *items; /* [count], owned; in the container's order */
    size_t count;
    const mx_tensor **by_name; /* [count], owned; ascending names */
} mx_tensor_set;

/* Allocates room for `count` tensors (0 is fine); `set` was zero. */
mx_status mx_tensor_set_alloc(mx_tensor_set *set, size_t count, mx_error *err);
/* Makes the set searchable once names are filled in. A name that occurs twice is
 * MX_ERR_FORMAT; `where` names the source. */
mx_status mx_tensor_set_index(mx_tensor_set *set, const char *where, mx_error *err);
/* NULL when absent. */
const mx_tensor *mx_tensor_set_find(const mx_tensor_set *set, const char *name);
void mx_tensor_set_free(mx_tensor_set *set);

/* The product of the dimensions; false when it does not fit int64. A zero
 * dimension does not excuse others that overflow. */
bool mx_shape_count(const uint64_t *shape, int n_dims, uint64_t *count);

#endif

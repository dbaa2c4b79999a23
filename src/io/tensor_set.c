/* Tensors by position and by name; see the header. */
#include "io/tensor_set.h"

#include <stdlib.h>
#include <string.h>

/* Cannot overflow: readers have put the shape through mx_shape_count. */
uint64_t mx_tensor_count(const mx_tensor *tensor)
{
    uint64_t count = 1;
    for (int i = 0; i < tensor->n_dims; i++) {
        count *= tensor->shape[i];
    }
    return count;
}

/* Zeros are left out of the product that is checked: 0 * 2^63 * 2^63 is no shape. */
bool mx_shape_count(const uint64_t *shape, int n_dims, uint64_t *count)
{
    uint64_t product = 1, non_zero = 1;
    for (int i = 0; i < n_dims; i++) {
        const uint64_t dim = shape[i] == 0 ? 1 : shape[i];
        if (dim > (uint64_t)INT64_MAX / non_zero) {
            return false;
        }
        non_zero *= dim;
        product *= shape[i];
    }
    *count = product;
    return true;
}

mx_status mx_tensor_set_alloc(mx_tensor_set *set, size_t count, mx_error *err)
{
    /* One more than asked: calloc(0) may return NULL. */
    set->items = calloc(count + 1, sizeof *set->items);
    set->by_name = calloc(count + 1, sizeof *set->by_name);
    if (set->items == NULL || set->by_name == NULL) {
        mx_tensor_set_free(set);
        return mx_error_nomem(err, "list of tensors", count * sizeof *set->items);
    }
    set->count = count;
    return MX_OK;
}

/* qsort and the search below must order alike: bytes, not the locale's letters. */
static int compare_names(const void *a, const void *b)
{
    const mx_tensor *const *left = a, *const *right = b;
    return strcmp((*left)->name, (*right)->name);
}

mx_status mx_tensor_set_index(mx_tensor_set *set, const char *where, mx_error *err)
{
    for (size_t i = 0; i < set->count; i++) {
        set->by_name[i] = &set->items[i];
    }
    qsort(set->by_name, set->count, sizeof(const mx_tensor *), compare_names);
    /* Sorted, so equal names are neighbours. */
    for (size_t i = 1; i < set->count; i++) {
        if (strcmp(set->by_name[i - 1]->name, set->by_name[i]->name) == 0) {
            return mx_error_set(err, MX_ERR_FORMAT, "%s: tensor %s: occurs twice", where,
                                set->by_name[i]->name);
        }
    }
    return MX_OK;
}

const mx_tensor *mx_tensor_set_find(const mx_tensor_set *set, const char *name)
{
    size_t low = 0, high = set->count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const int order = strcmp(set->by_name[middle]->name, name);
        if (order == 0) {
            return set->by_name[middle];
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return NULL;
}

void mx_tensor_set_free(mx_tensor_set *set)
{
    free(set->items);
    free(set->by_name);
    *set = (mx_tensor_set){0};
}

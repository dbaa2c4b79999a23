/* Memory of many pages that is read as a whole, again and again. */
#ifndef MX_BASE_LARGE_H
#define MX_BASE_LARGE_H

#include <stddef.h>

/*
 * `size` bytes, uninitialized, at least 64-byte aligned, in huge pages where the
 * system has them: reading a matrix in pages of 4 KB spends a tenth of its time on
 * page tables. NULL when there is no memory; free() releases it.
 */
void *mx_large_alloc(size_t size);

#endif

#define _GNU_SOURCE
#include "base/large.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#define HUGE_PAGE ((size_t)2 << 20)

void *mx_large_alloc(size_t size)
{
    size_t alignment = size < HUGE_PAGE ? 64 : HUGE_PAGE;
    if (size > SIZE_MAX - alignment) {
        return NULL;
    }
    void *memory = aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
#if defined(MADV_HUGEPAGE)
    if (memory != NULL && size >= HUGE_PAGE) {
        /* A hint. Whole pages only: the last, part of one would take all of it. */
        (void)madvise(memory, size / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
    }
#endif
    return memory;
}

#include "kernel/isas.h"

void mx_kernels_init(uint32_t flags, mx_kernels *table)
{
    (void)flags; /* unused where no ISA file applies */
    mx_kernels_ref(table);
#define MX_ISA(name, needed)                                                                       \
    if ((flags & (needed)) == (needed)) {                                                          \
        mx_kernels_##name(table);                                                                  \
    }
#include "kernel/isas.def"
#undef MX_ISA
}

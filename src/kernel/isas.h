/* What each ISA's files give to dispatch.c. */
#ifndef MX_KERNEL_ISAS_H
#define MX_KERNEL_ISAS_H

#include "kernel/kernel.h"

/* The scalar reference: fills the whole table. */
void mx_kernels_ref(mx_kernels *table);

#define MX_ISA(name, flags) void mx_kernels_##name(mx_kernels *table);
#include "kernel/isas.def"
#undef MX_ISA

#endif

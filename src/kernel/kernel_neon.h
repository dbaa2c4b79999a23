/* The NEON kernels, file by file (contracts: kernel/kernel.h). */
#ifndef MX_KERNEL_KERNEL_NEON_H
#define MX_KERNEL_KERNEL_NEON_H

#include "kernel/isas.h"

void mx_neon_int_product(const mx_block_product *product);

#endif

/* The AVX2 kernels, file by file (contracts: kernel/kernel.h). */
#ifndef MX_KERNEL_KERNEL_AVX2_H
#define MX_KERNEL_KERNEL_AVX2_H

#include "kernel/isas.h"

void mx_avx2_int_product(const mx_block_product *product);

#endif

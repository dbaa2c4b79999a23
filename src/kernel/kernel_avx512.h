/* The AVX-512 kernels, file by file (contracts: kernel/kernel.h). */
#ifndef MX_KERNEL_KERNEL_AVX512_H
#define MX_KERNEL_KERNEL_AVX512_H

#include "kernel/isas.h"

void mx_avx512_int_product(const mx_int_product *product);

#endif

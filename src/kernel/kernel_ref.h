/* The scalar reference, part by part (contracts: kernel/kernel.h). */
#ifndef MX_KERNEL_KERNEL_REF_H
#define MX_KERNEL_KERNEL_REF_H

#include "kernel/isas.h"

void mx_ref_rms_norm(const float *x, const float *w, float eps, size_t n, float *out);
void mx_ref_rope(float *x, size_t n_heads, size_t head_dim, const float *cos, const float *sin);
void mx_ref_attention(const mx_attention *attention);
void mx_ref_silu_mul(const float *g, const float *u, size_t n, float *out);
void mx_ref_add(const float *x, size_t n, float *inout);
void mx_ref_row_stats(const float *x, size_t n, mx_row_stats *stats);

#endif

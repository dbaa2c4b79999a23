/*
 * Storage types of tensors in files, GGUF's block types included, and the exact
 * fp32 values of their elements. Dequantization of GGUF types follows ggml's
 * formulas in fp32, multiply and add rounded separately (no fused operations),
 * so that the unquantized baseline equals other readers' values bit for bit.
 */
#ifndef MX_FORMAT_DTYPE_H
#define MX_FORMAT_DTYPE_H

#include "base/status.h"

typedef enum mx_dtype {
    MX_DTYPE_NONE = 0, /* a type that a file may hold and mxlm does not read */
    MX_DTYPE_F64,
    MX_DTYPE_F32,
    MX_DTYPE_F16,
    MX_DTYPE_BF16,
    MX_DTYPE_I64,
    MX_DTYPE_I32,
    MX_DTYPE_I16,
    MX_DTYPE_I8,
    MX_DTYPE_U64,
    MX_DTYPE_U32,
    MX_DTYPE_U16,
    MX_DTYPE_U8,
    MX_DTYPE_BOOL,
    MX_DTYPE_F8_E4M3, /* OCP FP8: no Inf, 0x7F and 0xFF NaN */
    MX_DTYPE_F8_E5M2,
    MX_DTYPE_F8_E8M0, /* a power of two: shared scales */
    MX_DTYPE_Q4_0,    /* from here: GGUF block types */
    MX_DTYPE_Q4_1,
    MX_DTYPE_Q5_0,
    MX_DTYPE_Q5_1,
    MX_DTYPE_Q8_0,
    MX_DTYPE_Q4_K,
    MX_DTYPE_Q6_K,
    MX_DTYPE_MXFP4, /* GGUF type 39: 17-byte blocks of 32 */
    MX_DTYPE_COUNT
} mx_dtype;

typedef struct mx_dtype_info {
    const char *name;     /* "BF16", "Q4_1" */
    uint16_t block;       /* elements a block (1 for plain types) */
    uint16_t block_bytes; /* bytes a block; 0 for MX_DTYPE_NONE */
    /* Expands n elements (a multiple of `block`) from src [n / block *
     * block_bytes] of any alignment to dst [n] in fp32 (F64 is rounded); NULL for
     * types that are not weights (integers, BOOL, NONE). */
    void (*decode)(const uint8_t *src, size_t n, float *dst);
} mx_dtype_info;

/* Never NULL for a valid dtype. */
const mx_dtype_info *mx_dtype_get(mx_dtype dtype);

/* Bytes of n elements, n a multiple of the type's block. */
size_t mx_dtype_bytes(mx_dtype dtype, size_t n);

float mx_f16_to_f32(uint16_t bits);
float mx_bf16_to_f32(uint16_t bits);
uint16_t mx_f32_to_f16(float x);  /* RNE; overflow gives Inf, NaN stays NaN */
uint16_t mx_f32_to_bf16(float x); /* RNE, NaN stays NaN */

#endif

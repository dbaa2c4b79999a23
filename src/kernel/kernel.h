/*
 * Kernels: one table of function pointers, filled with the scalar reference
 * first and then overwritten ISA by ISA under a CPU-flag mask (dispatch.c,
 * isas.def), so that tests can walk the ladder.
 *
 * The law: every kernel of every ISA gives the same bits as the scalar
 * reference (NaN payloads aside). Each function's comment is its numeric
 * contract. Kernels never allocate, thread or dispatch; they handle ragged edges
 * and never touch memory outside the ranges stated. Callers split rows (in
 * panels) and tokens (in tiles) over threads, never K.
 *
 * Lane order ("16-lane sum"): lane j = sum over i ascending of term[16 i + j],
 * starting from +0, missing terms of a ragged end skipped; then the 16 lanes are
 * folded: l[j] += l[j + 8] (j < 8), l[j] += l[j + 4], += l[j + 2], += l[j + 1].
 */
#ifndef MX_KERNEL_KERNEL_H
#define MX_KERNEL_KERNEL_H

#include "base/cpu.h"
#include "format/block.h"

#define MX_PANEL_ROWS 16  /* weight rows a panel */
#define MX_TILE_TOKENS 16 /* tokens a tile */
#define MX_BF16_TOKENS 8  /* most tokens of bf16_product */
#define MX_F32_TOKENS 12  /* tokens a tile of f32_product */
#define MX_F32_SLICE 512  /* columns a slice of it: a multiple of all storage types' blocks */

/*
 * Block product of weights and tokens, both in MX formats with the same block. For
 * token t and row r, over blocks b ascending, from acc = +0:
 *     e   = fma chain over the block's even elements, ascending, of wi * ai, from +0
 *     o   = the same over its odd elements
 *     dot = e + o
 *     acc = acc + ldexpf(dot, ew + ea)
 * where wi, ai are elements' values without their scale and ew, ea the scales'
 * exponents; a NaN scale makes the block's term NaN. Values, and so all sums, are
 * multiples of 2^-32 or larger and finite but for Inf and NaN codes, so nothing in a
 * dot is subnormal or overflows. ldexpf rounds once (it is exact unless the result is
 * subnormal beyond 2^-149 or overflows), so for exponents in range the last step is
 * fmaf(dot, 2^(ew + ea), acc).
 *
 * When both formats have an int8 table the dot is the exact sum, rounded to fp32 once
 * (which only blocks of more than a thousand elements show), so that any order gives it:
 *     dot = (float)(sum over the block of wi * ai, integers) * 2^-(w_shift + a_shift)
 */
typedef struct mx_block_product {
    const mx_quant *weights, *activations;
    size_t k;              /* columns; the last block may be ragged */
    const uint8_t *panels; /* n_panels consecutive panels of block_panel_bytes */
    size_t n_panels;
    size_t n_rows;        /* valid rows of all panels: <= 16 * n_panels */
    const uint8_t *tiles; /* ceil(n_tokens / 16) tiles of block_tile_bytes */
    size_t n_tokens;
    float *out; /* [n_tokens][out_stride]; columns [0, n_rows) are written */
    size_t out_stride;
} mx_block_product;

/*
 * fp32 product: out[t][r] = fma chain over k ascending, from +0:
 *     acc = fmaf(x[t][k], w[r][k], acc)
 * x is packed: by slices of MX_F32_SLICE columns, within a slice by tiles of
 * MX_F32_TOKENS tokens, each [columns][tokens], the last slice and the last tile
 * narrower and nothing between them. One token is packed as it is. A product may take
 * part of the columns, the chains going on from out, and part of the tokens.
 */
typedef struct mx_f32_product {
    const float *panels; /* [n_panels][k][16]: columns [first_k, first_k + k) of the rows */
    size_t n_panels, n_rows;
    size_t first_k, k; /* whole slices, or the rest of x's columns; first_k 0: from +0 */
    const float *x;    /* packed, all columns of x_tokens tokens */
    size_t x_tokens;
    size_t first_token, n_tokens; /* whole tiles, or the rest of x's tokens */
    float *out;                   /* [n_tokens][out_stride] */
    size_t out_stride;
} mx_f32_product;

/* Columns of the slice at `begin` (a multiple of MX_F32_SLICE) of those up to `end`. */
static inline size_t mx_f32_slice_width(size_t begin, size_t end)
{
    return end - begin < MX_F32_SLICE ? end - begin : MX_F32_SLICE;
}

/* Where the tile that starts with `token` begins in the slice at column `begin`. */
static inline size_t mx_f32_tile_offset(size_t n_tokens, size_t begin, size_t width, size_t token)
{
    return begin * n_tokens + width * token;
}

/* The same for few tokens and rows of bf16 as a file holds them, little-endian at any
 * address. */
typedef struct mx_bf16_product {
    const uint8_t *rows; /* [n_rows], row_bytes apart, 2 k bytes of each are read */
    size_t row_bytes, n_rows, k;
    const float *x;            /* [n_tokens][x_stride], columns [0, k) */
    size_t x_stride, n_tokens; /* 1 .. MX_BF16_TOKENS */
    float *out;                /* [n_tokens][out_stride] */
    size_t out_stride;
} mx_bf16_product;

/* How keys and values are stored, and attention's products with them taken. */
typedef enum mx_kv_type {
    MX_KV_FP32, /* float */
    MX_KV_BF16, /* uint16_t, of mx_bf16_operand; products of such operands, sums in fp32 */
} mx_kv_type;

/* Keys a block of attention; blocks start at multiples of it. */
#define MX_ATTENTION_BLOCK 64

/* Terms of a pair sum that share two chains. */
#define MX_PAIR_GROUP 32

/*
 * Attention of n_tokens consecutive tokens of one sequence, for the n_heads query
 * heads that share one KV head. Token t sees keys [0, n_keys + t). Softmax is taken
 * online, block by block (Milakov and Gimelshein, arXiv 1805.02867; Dao et al.,
 * arXiv 2205.14135). Per token and head, from m = -FLT_MAX, z[16] = +0, a[d] = +0,
 * over blocks of MX_ATTENTION_BLOCK keys ascending, of the last one the keys seen:
 *     s[j] = scale * (fma chain over d ascending of q[d] * K[j][d])
 *     m' = the largest of m and the s[j] that are not NaN
 *     c = mx_exp(m - m');  p[j] = mx_exp(s[j] - m')
 *     z[i] = z[i] * c, then + p[j] for j = i, i + 16, ... of the block
 *     a[d] = a[d] * c, then the fma chain over j ascending of p[j] * V[j][d];  m = m'
 * and out[d] = a[d] / (z folded as in the 16-lane sum). Blocks lie at places of the
 * sequence, not of the call, so a token's bits do not depend on n_tokens.
 *
 * MX_KV_BF16: with b(x) = mx_bf16_operand(x), pair sums instead of chains, powers of 2 to
 * the precision that is left, and an m that is an integer and rests while it serves, which
 * is nearly always: sums scale by powers of 2, so no bit depends on which one.
 *     s[j] = pair sum over d of b(q[d] * (scale * MX_EXP_LOG2E)) * K[j][d], from +0
 *     top = the largest of the s[j] that are not NaN
 *     m' = top > m + MX_EXP2_REACH ? ceil(top) : m;  where it moved,
 *         c = 2^(the larger of m - m' and MX_EXP2_FORGET);  z[i] = z[i] * c
 *         a[d] = a[d] * c, but +0 where that is below MX_EXP2_FORGOTTEN in magnitude
 *     p[j] = mx_exp2_weight(s[j], m'), added to z as above
 *     a[d] = pair sum over j of b(p[j]) * V[j][d], from a[d]
 * Pair sum over i from x: sum = x, then per MX_PAIR_GROUP of i (aligned to multiples of it)
 *     sum = sum + (e + o), e and o the fma chains from +0 over the group's even and odd i
 * which is what tdpbf16ps computes (kernel_amx_attention.c), and what any other
 * instruction set computes with as many fma as a single chain takes. Operands are 0 or at
 * least 2^-55, weights at least 2^-54.5: products are multiples of 2^-123, what was scaled
 * down as well, and no sum is ever subnormal: units that take those for 0 give the same bits.
 */
typedef struct mx_attention {
    const float *q; /* [n_tokens][stride], of it [n_heads][head_dim] */
    size_t stride;  /* of q and out */
    size_t n_tokens, n_heads, head_dim;
    mx_kv_type kv_type; /* of k and v; bf16: head_dim is even */
    /* n = n_keys + n_tokens - 1. Keys in tiles of 16:
     *     fp32 [ceil(n / 16)][head_dim][16], bf16 [ceil(n / 16)][head_dim / 2][16][2] */
    const void *k;
    const void *v;  /* fp32 [n][head_dim], bf16 [ceil(n / 2)][head_dim][2] */
    float *scratch; /* [MX_ATTENTION_SCRATCH_ROWS][head_dim], 64-byte aligned */
    size_t n_keys;  /* that the first token sees, itself included: >= 1 */
    float scale;    /* > 0 */
    float *out;     /* like q, which it may not overlap */
} mx_attention;

#define MX_ATTENTION_SCRATCH_ROWS ((size_t)4 * MX_ATTENTION_BLOCK)

/* Statistics of one row of logits. */
typedef struct mx_row_stats {
    float max;
    uint32_t argmax; /* the first index that holds max */
    double sum_exp;  /* 16-lane sum, in double, of (double)mx_exp(x[i] - max) */
} mx_row_stats;

typedef struct mx_kernels {
    const char *name; /* of the last ISA of isas.def that wrote to the table, or "ref" */

    /* --- block product ----------------------------------------------------- */

    /* True when the pair has one: MX formats of at most 8 bits, equal block length
     * along k, the whole axis or a multiple of 8; where both have int tables,
     * max|wi| * max|ai| * block < 2^31. (Formats beyond fp8_e4m3's and fp8_e5m2's
     * significand and range have none as weights.) */
    bool (*block_supported)(const mx_quant *weights, const mx_quant *activations, size_t k);
    /* Bytes of one panel (16 rows x k) / one tile (16 tokens x k) in this
     * table's own layout, multiples of 64. Base addresses are 64-byte aligned. */
    size_t (*block_panel_bytes)(const mx_quant *weights, const mx_quant *activations, size_t k);
    size_t (*block_tile_bytes)(const mx_quant *weights, const mx_quant *activations, size_t k);
    /* Canonical packed rows (format/block.h) to a panel; rows beyond n_rows
     * (1..16) become zero weights. codes[r], scales[r] point to row r. */
    void (*block_panel_pack)(const mx_quant *weights, const mx_quant *activations, size_t k,
                             const uint8_t *const *codes, const uint8_t *const *scales,
                             size_t n_rows, uint8_t *panel);
    /* Quantizes n_tokens (1..16) rows x [n_tokens][x_stride] to a tile, bit-equal
     * to mx_row_encode with stream = first_stream + token. The places of missing
     * tokens hold anything. */
    void (*block_tile_pack)(const mx_quant *weights, const mx_quant *activations, size_t k,
                            const float *x, size_t x_stride, size_t n_tokens, uint64_t first_stream,
                            uint8_t *tile);
    void (*block_product)(const mx_block_product *product);

    /* --- fp32 product ------------------------------------------------------ */

    /* rows[r] [k] for r < n_rows (1..16) to a panel [k][16]; missing rows zero. */
    void (*f32_panel_pack)(const float *const *rows, size_t n_rows, size_t k, float *panel);
    /* The same of rows of bf16, little-endian at any address. */
    void (*bf16_panel_pack)(const uint8_t *const *rows, size_t n_rows, size_t k, float *panel);
    /* Tokens [first, first + MX_F32_TOKENS) or up to n_tokens, rows x [][x_stride] of k
     * columns, to their places in packed [n_tokens * k]. */
    void (*f32_tile_pack)(const float *x, size_t x_stride, size_t k, size_t first, size_t n_tokens,
                          float *packed);
    void (*f32_product)(const mx_f32_product *product);
    void (*bf16_product)(const mx_bf16_product *product);
    /* x [n] -> quantize-dequantize -> out [n], bit-equal to mx_row_cast. */
    void (*row_cast)(const mx_quant *quant, const float *x, size_t n, uint64_t stream, float *out);

    /* --- the rest of the forward pass -------------------------------------- */

    /* s = 16-lane sum of fmaf(x, x, lane); r = 1 / sqrtf(s / n + eps);
     * out[i] = (x[i] * r) * w[i]. */
    void (*rms_norm)(const float *x, const float *w, float eps, size_t n, float *out);
    /* Rotates n_heads heads in place, halves paired (Hugging Face order):
     * a' = a cos - b sin, b' = b cos + a sin, each product rounded, then the sum.
     * cos, sin [head_dim / 2]. */
    void (*rope)(float *x, size_t n_heads, size_t head_dim, const float *cos, const float *sin);
    void (*attention)(const mx_attention *attention);
    /* out[i] = (g[i] / (1 + mx_exp(-g[i]))) * u[i]; may alias. */
    void (*silu_mul)(const float *g, const float *u, size_t n, float *out);
    void (*add)(const float *x, size_t n, float *inout); /* inout[i] += x[i] */
    void (*row_stats)(const float *x, size_t n, mx_row_stats *stats);
} mx_kernels;

/*
 * Fills `table` for the CPU flags (base/cpu.h): scalar reference, then every ISA
 * that `flags` allows, in the order of isas.def.
 */
void mx_kernels_init(uint32_t flags, mx_kernels *table);

/* x as an operand of bf16 products: rounded to the nearest bf16, ties to even, then 0
 * where the magnitude is below 2^-55, the number of bits MX_BF16_LEAST. NaN stays NaN. */
uint16_t mx_bf16_operand(float x);
#define MX_BF16_LEAST 0x2400

/* The scalar exponential of the contract above: range reduction by ln 2 in two
 * parts and a polynomial, all fmaf; within 1 ulp or so of exp, 0 below about
 * -103, Inf above about 88.7, NaN for NaN. */
float mx_exp(float x);

/* 2^(s - m) for weights of attention, m an integer or +-FLT_MAX or Inf, s - m at most
 * MX_EXP2_REACH: within 1.1e-4 of it relatively, a cubic, all fmaf; 2^-54 where s - m is
 * below -54, NaN for NaN. s - m is exact where |m| < MX_EXP2_NEAR, elsewhere rounded. */
float mx_exp2_weight(float s, float m);

#endif

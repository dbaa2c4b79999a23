/*
 * Causal attention with a backward pass, a tile of queries at a time: the scores of
 * a tile are made again rather than kept (as FlashAttention does; Dao et al., 2022).
 *     P = softmax(s Q K^T),  O = P V
 *     dV = P^T dO,  dP = dO V^T,  dS = P (dP - rowsum(dO O)),
 *     dQ = s dS K,  dK = s dS^T Q
 */
#include "quant/layer_pass.h"
#include "quant/linalg.h"

#include <math.h>
#include <string.h>

/* Queries [first, first + rows) of one head of one window; rows of q and o lie
 * `wide` floats apart, those of k and v `narrow`. */
typedef struct tile {
    size_t first, rows, keys; /* keys: those the last of them sees */
    size_t dim, wide, narrow, stride;
    size_t at_q, at_k; /* offsets of the window's head in q and in k */
    size_t heads;
    float *log_sums; /* of the first query; `heads` apart */
    float scale;
    float *p, *d_p; /* [rows][stride] */
} tile;

/* p = s Q K^T */
static void tile_scores(const mx_layer_pass *pass, const tile *t)
{
    mx_linalg_sgemm(&(mx_sgemm){.transpose_b = true,
                                .m = t->rows,
                                .n = t->keys,
                                .k = t->dim,
                                .alpha = t->scale,
                                .a = pass->q + t->at_q + t->first * t->wide,
                                .lda = t->wide,
                                .b = pass->k + t->at_k,
                                .ldb = t->narrow,
                                .c = t->p,
                                .ldc = t->stride});
}

/* p to probabilities; keeps what the backward pass makes them again from. */
static void tile_softmax(const tile *t)
{
    for (size_t r = 0; r < t->rows; r++) {
        float *p = t->p + r * t->stride;
        size_t seen = t->first + r + 1;
        float max = p[0], sum = 0;
        for (size_t j = 1; j < seen; j++) {
            max = p[j] > max ? p[j] : max;
        }
        for (size_t j = 0; j < seen; j++) {
            p[j] = expf(p[j] - max);
            sum += p[j];
        }
        float by = 1 / sum;
        for (size_t j = 0; j < seen; j++) {
            p[j] *= by;
        }
        memset(p + seen, 0, (t->keys - seen) * sizeof *p);
        t->log_sums[r * t->heads] = max + logf(sum);
    }
}

static void tile_forward(const mx_layer_pass *pass, const tile *t)
{
    tile_scores(pass, t);
    tile_softmax(t);
    mx_linalg_sgemm(&(mx_sgemm){.m = t->rows,
                                .n = t->dim,
                                .k = t->keys,
                                .alpha = 1,
                                .a = t->p,
                                .lda = t->stride,
                                .b = pass->v + t->at_k,
                                .ldb = t->narrow,
                                .c = pass->mixed + t->at_q + t->first * t->wide,
                                .ldc = t->wide});
}

/* p to probabilities again, d_p (there: dP) to dS. */
static void tile_softmax_back(const mx_layer_pass *pass, const tile *t)
{
    for (size_t r = 0; r < t->rows; r++) {
        float *p = t->p + r * t->stride, *d_p = t->d_p + r * t->stride;
        size_t at = t->at_q + (t->first + r) * t->wide, seen = t->first + r + 1;
        float log_sum = t->log_sums[r * t->heads], inner = 0;
        for (size_t d = 0; d < t->dim; d++) {
            inner += pass->d_mixed[at + d] * pass->mixed[at + d];
        }
        for (size_t j = 0; j < seen; j++) {
            p[j] = expf(p[j] - log_sum);
            d_p[j] = p[j] * (d_p[j] - inner);
        }
        memset(p + seen, 0, (t->keys - seen) * sizeof *p);
        memset(d_p + seen, 0, (t->keys - seen) * sizeof *d_p);
    }
}

static void tile_backward(const mx_layer_pass *pass, const tile *t)
{
    const float *d_o = pass->d_mixed + t->at_q + t->first * t->wide;
    tile_scores(pass, t);
    mx_linalg_sgemm(&(mx_sgemm){.transpose_b = true,
                                .m = t->rows,
                                .n = t->keys,
                                .k = t->dim,
                                .alpha = 1,
                                .a = d_o,
                                .lda = t->wide,
                                .b = pass->v + t->at_k,
                                .ldb = t->narrow,
                                .c = t->d_p,
                                .ldc = t->stride});
    tile_softmax_back(pass, t);
    mx_sgemm d_q = {.m = t->rows,
                    .n = t->dim,
                    .k = t->keys,
                    .alpha = t->scale,
                    .a = t->d_p,
                    .lda = t->stride,
                    .b = pass->k + t->at_k,
                    .ldb = t->narrow,
                    .c = pass->d_q + t->at_q + t->first * t->wide,
                    .ldc = t->wide};
    mx_linalg_sgemm(&d_q);
    /* All heads of a group add to the keys and values that they share. */
    mx_sgemm add = {.transpose_a = true,
                    .m = t->keys,
                    .n = t->dim,
                    .k = t->rows,
                    .alpha = t->scale,
                    .a = t->d_p,
                    .lda = t->stride,
                    .b = pass->q + t->at_q + t->first * t->wide,
                    .ldb = t->wide,
                    .beta = 1,
                    .c = pass->d_k + t->at_k,
                    .ldc = t->narrow};
    mx_linalg_sgemm(&add);
    add.alpha = 1;
    add.a = t->p;
    add.b = d_o;
    add.c = pass->d_v + t->at_k;
    mx_linalg_sgemm(&add);
}

typedef struct sweep {
    mx_layer_pass *pass;
    void (*fn)(const mx_layer_pass *pass, const tile *t);
} sweep;

/* One item: a window and a KV head, with all query heads that share it. */
static void sweep_range(void *ctx, size_t begin, size_t end, int thread)
{
    const sweep *s = ctx;
    const mx_layer_pass *pass = s->pass;
    const mx_llama_config *config = pass->config;
    size_t dim = config->head_dim, group = config->heads / config->kv_heads;
    float *scores = pass->scores + (size_t)thread * 2 * MX_SCORE_ROWS * pass->length;
    tile t = {.dim = dim,
              .wide = config->heads * dim,
              .narrow = config->kv_heads * dim,
              .stride = pass->length,
              .heads = config->heads,
              .scale = 1 / sqrtf((float)dim),
              .p = scores,
              .d_p = scores + (size_t)MX_SCORE_ROWS * pass->length};
    for (size_t item = begin; item < end; item++) {
        size_t token = item / config->kv_heads * pass->length, kv = item % config->kv_heads;
        t.at_k = token * t.narrow + kv * dim;
        for (size_t head = kv * group; head < (kv + 1) * group; head++) {
            t.at_q = token * t.wide + head * dim;
            for (t.first = 0; t.first < pass->length; t.first += MX_SCORE_ROWS) {
                size_t left = pass->length - t.first;
                t.rows = left < MX_SCORE_ROWS ? left : MX_SCORE_ROWS;
                t.keys = t.first + t.rows;
                t.log_sums = pass->log_sums + (token + t.first) * t.heads + head;
                s->fn(pass, &t);
            }
        }
    }
}

static void run_sweep(mx_layer_pass *pass, void (*fn)(const mx_layer_pass *pass, const tile *t))
{
    sweep s = {.pass = pass, .fn = fn};
    size_t windows = pass->n_tokens / pass->length;
    mx_team_for(pass->backend->team, windows * pass->config->kv_heads, 1, sweep_range, &s);
}

void mx_layer_attention_forward(mx_layer_pass *pass)
{
    run_sweep(pass, tile_forward);
}

void mx_layer_attention_backward(mx_layer_pass *pass)
{
    size_t bytes = pass->n_tokens * pass->config->kv_heads * pass->config->head_dim * sizeof(float);
    memset(pass->d_k, 0, bytes);
    memset(pass->d_v, 0, bytes);
    run_sweep(pass, tile_backward);
}

/*
 * A model of random weights in the shape of a config, for benches: no checkpoint
 * is read, and none has to exist.
 */
#ifndef MX_MODEL_RANDOM_MODEL_H
#define MX_MODEL_RANDOM_MODEL_H

#include "model/model.h"

/*
 * Makes a model without checkpoint and tokenizer. Projections are in the weight
 * format of `specs` (NULL or unquantized, and what it excludes: bf16), codes
 * uniform over the finite codes of the format, scales so that a product keeps the
 * size of its input (weights of about 1 / sqrt(in)), give or take one binade.
 * Embedding and head are bf16, or the head (with a tied embedding) of specs' head
 * format; norms 1. Every number is Philox at (seed, matrix,
 * row, column): the same for any thread count.
 *
 * A config whose weights exceed the machine's memory is MX_ERR_UNSUPPORTED: sizes
 * in it justify nothing else. Frees with mx_model_close.
 */
mx_status mx_model_random(const mx_llama_config *config, const mx_specs *specs, uint64_t seed,
                          int threads, mx_model **out, mx_error *err);

/*
 * A matrix [n_rows][n_cols] of that kind, owned by `out`: `quant` scaled gives
 * CODES (mx_matrix_pack makes panels of them), a PLAIN format STORED rows; none is
 * MX_ERR_ARGUMENT. `id` tells matrices of one seed apart.
 */
mx_status mx_matrix_random(const mx_quant *quant, size_t n_rows, size_t n_cols, uint64_t seed,
                           uint32_t id, mx_team *team, mx_matrix *out, mx_error *err);

#endif

/*
 * Exact speculative decoding: tokens are proposed cheaply, one forward pass runs
 * them all, and the sampler then chooses at every position as if it had come there
 * one token at a time. A proposed token that it does not choose ends the run. Since
 * logits do not depend on what else is in the pass, bit for bit, and a draw depends
 * on (seed, position) alone, the text is that of plain decoding, sampled or greedy.
 */
#ifndef MX_MODEL_SPECULATE_H
#define MX_MODEL_SPECULATE_H

#include "model/draft.h"
#include "model/speculate_pace.h"

typedef struct mx_speculator {
    mx_pace pace;    /* pace.longest 0: never proposes */
    mx_draft *draft; /* owned; NULL: looks n-grams up */
    uint32_t kind;   /* of the last proposal */
} mx_speculator;

/* Speculates as options->speculate and ->draft say, for text of up to `limit`
 * positions. */
mx_status mx_speculator_init(mx_speculator *speculator, const mx_model *model, uint32_t limit,
                             const mx_generate_options *options, mx_error *err);
void mx_speculator_clear(mx_speculator *speculator);

/* Reads the prompt tokens [n]. */
mx_status mx_speculator_begin(mx_speculator *speculator, const int32_t *tokens, size_t n,
                              mx_error *err);

/* Puts up to `room` proposed tokens behind tokens [n] and their number, which may be
 * 0, into *n_proposed. */
mx_status mx_speculator_propose(mx_speculator *speculator, int32_t *tokens, size_t n, uint32_t room,
                                uint32_t *n_proposed, mx_error *err);

/* What became of the last proposal; see mx_pace_record. */
void mx_speculator_record(mx_speculator *speculator, uint32_t proposed, uint32_t accepted,
                          double seconds);

#endif

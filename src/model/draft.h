/* A second, cheaper model that proposes tokens. */
#ifndef MX_MODEL_DRAFT_H
#define MX_MODEL_DRAFT_H

#include "model/session.h"

typedef struct mx_draft mx_draft;

/*
 * Makes `model` (borrowed; may be the target itself) ready to propose for `target`,
 * in sequences of up to `limit` positions. It chooses as `options` say, with the
 * target's seed: at the same position both draw the same number, so that models
 * which agree on probabilities choose alike. MX_ERR_ARGUMENT when the two do not
 * have the same tokens; the line says which differs.
 */
mx_status mx_draft_create(const mx_model *target, mx_model *model, uint32_t limit,
                          const mx_generate_options *options, mx_draft **out, mx_error *err);
void mx_draft_free(mx_draft *draft);

/* Brings its KV store up to tokens [n], n >= 1; what agrees with the calls before
 * stays. Does nothing beyond the draft model's context. */
mx_status mx_draft_follow(mx_draft *draft, const int32_t *tokens, size_t n, mx_error *err);

/*
 * Puts what the draft model lets follow tokens [n] behind them: up to `room` tokens,
 * whose number is left in *n_proposed (0 where its context ends).
 */
mx_status mx_draft_propose(mx_draft *draft, int32_t *tokens, size_t n, uint32_t room,
                           uint32_t *n_proposed, mx_error *err);

#endif

/* mx_eval_run over any scorer: the seam at which tests put a stand-in for a
 * model. */
#ifndef MX_EVAL_EVAL_RUN_H
#define MX_EVAL_EVAL_RUN_H

#include "eval/results.h"

typedef struct mx_eval_setup {
    mx_eval_options options; /* as asked for; resolved by mx_eval_execute */
    const mx_tokenizer *tokenizer;
    mx_scorer scorer;
    mx_scorer kl_scorer; /* of tasks beside a base model; zero without one */
    int32_t bos, eos;    /* -1: none */
    uint32_t max_context;
    const mx_model *model; /* described in the results; may be NULL */
    mx_team *team;         /* for the bootstrap; may be NULL */
} mx_eval_setup;

/* See mx_eval_run in mxlm.h. */
mx_status mx_eval_execute(const mx_eval_setup *setup, mx_watch watch, char **table, char **json,
                          mx_error *err);

#endif

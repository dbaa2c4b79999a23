/*
 * Evaluation tasks, computed as lm-evaluation-harness computes them
 * (reference notes: lm-eval). A task is one file and one line in tasks.def.
 */
#ifndef MX_EVAL_EVAL_H
#define MX_EVAL_EVAL_H

#include "base/json.h"
#include "model/session.h"

/* One document: context and continuation as token ids. Log-likelihood is that of
 * the last n_targets tokens given all before them. */
typedef struct mx_document {
    int32_t *tokens;    /* [n_tokens], owned by the task's list */
    uint32_t n_tokens;
    uint32_t n_targets; /* 1 <= n_targets < n_tokens */
    uint32_t index;     /* in the data file */
    uint64_t words, bytes; /* perplexity: scored text's size; 0 otherwise */
} mx_document;

/* What the model said of it. */
typedef struct mx_outcome {
    double log_likelihood; /* summed over the targets */
    bool greedy;           /* every target is the argmax */
    bool done;
} mx_outcome;

typedef struct mx_document_list {
    mx_document *items;
    size_t count;
    size_t original; /* before --limit */
} mx_document_list;

void mx_document_list_free(mx_document_list *list);

/*
 * Scores documents not yet `done`, batch_size at a time, longest first;
 * outcomes [count] in list order. `on_done` (may be NULL) is called once for
 * each finished document in the calling thread.
 */
typedef mx_status (*mx_outcome_fn)(void *ctx, const mx_document *document,
                                   const mx_outcome *outcome, mx_error *err);
mx_status mx_score_documents(mx_model *model, const mx_document_list *list, uint32_t batch_size,
                             mx_watch watch, mx_outcome_fn on_done, void *ctx,
                             mx_outcome *outcomes, mx_error *err);

#endif

/*
 * Evaluation tasks, computed as lm-evaluation-harness computes them
 * (reference notes: lm-eval). A task is one file and one line in tasks.def.
 *
 * The walk: a task's `load` turns its data into a document list -> a scorer
 * gives one outcome a document -> metrics with standard errors (eval_stats.h)
 * -> table and JSON (results.h), samples (samples.h), compare (compare.h).
 */
#ifndef MX_EVAL_EVAL_H
#define MX_EVAL_EVAL_H

#include "base/json.h"
#include "model/session.h"

/* ---- documents ------------------------------------------------------------ */

/*
 * One document: the log-likelihood asked for is that of the last n_targets
 * tokens, each given all tokens before it. The last token is therefore only
 * predicted, never fed.
 */
typedef struct mx_document {
    const int32_t *tokens; /* [n_tokens], in the list's pool */
    size_t first;          /* of tokens in the pool; windows of a text overlap there */
    uint32_t n_tokens;
    uint32_t n_targets;    /* 1 <= n_targets < n_tokens */
    uint32_t index;        /* in the data */
    char *text;            /* context and target, owned; NULL for a window of a text */
    size_t target_offset;  /* bytes of context in `text` */
    uint64_t words, bytes; /* size of the scored text of a window; 0 otherwise */
} mx_document;

/* What the model said of it. */
typedef struct mx_outcome {
    double log_likelihood; /* natural logarithm, summed over the targets */
    bool greedy;           /* every target is the argmax */
    bool done;
    /* Beside a base model (MX_TASK_KL) only. */
    float *divergences; /* [n_targets]: KL of the distributions at each, in nats; borrowed */
    uint32_t agreed;    /* targets at which both models' argmax is the same token */
} mx_outcome;

/* Zero-initialize; every part is owned. */
typedef struct mx_document_list {
    mx_document *items;
    size_t count, capacity;
    size_t original; /* documents of the data before --limit */
    int32_t *pool;   /* [pool_size] token ids of all documents */
    size_t pool_size, pool_capacity;
    uint64_t hash; /* FNV-1a of the documents' texts: the same data, the same number */
} mx_document_list;

#define MX_HASH_START UINT64_C(0xcbf29ce484222325)
uint64_t mx_hash_bytes(uint64_t hash, const void *bytes, size_t size);

/* Appends token ids to the pool. */
mx_status mx_document_list_add_tokens(mx_document_list *list, const int32_t *ids, size_t n_ids,
                                      mx_error *err);
/* Appends a document that uses pool tokens [first, first + n_tokens); takes
 * over `document->text`, also on failure. */
mx_status mx_document_list_add(mx_document_list *list, const mx_document *document, mx_error *err);
/* Fixes the `tokens` pointers; call once, after the last addition. */
void mx_document_list_finish(mx_document_list *list);
void mx_document_list_free(mx_document_list *list);

/* ---- scoring --------------------------------------------------------------- */

/* Who computes log-likelihoods: a model's session, or a test's stand-in. */
typedef struct mx_scorer {
    void *ctx;
    /* Before the first batch of a list: no batch will exceed these. */
    mx_status (*prepare)(void *ctx, const mx_session_config *limits, mx_error *err);
    /* Scores n documents in one go into outcomes [n]: log_likelihood and greedy; where
     * `divergences` points to room, what is behind it and agreed. */
    mx_status (*score)(void *ctx, const mx_document *const *batch, size_t n, mx_outcome *outcomes,
                       mx_error *err);
    void (*free)(void *ctx);
} mx_scorer;

/* A scorer over a model; the model outlives it. */
mx_status mx_scorer_open(mx_model *model, mx_scorer *out, mx_error *err);
/*
 * The same beside a base model, run in lockstep over the same tokens: also the
 * Kullback-Leibler divergence KL(base || model) = sum_v p(v) ln(p(v) / q(v)) of the
 * next token's distributions, in nats, over the whole vocabulary. Both models outlive
 * it. Tokens that mean different things are MX_ERR_ARGUMENT.
 */
mx_status mx_kl_scorer_open(mx_model *model, mx_model *base, mx_scorer *out, mx_error *err);
void mx_scorer_close(mx_scorer *scorer); /* idempotent */

/* Called once for each finished document, in the calling thread. */
typedef mx_status (*mx_outcome_fn)(void *ctx, const mx_document *document,
                                   const mx_outcome *outcome, mx_error *err);

/* What a call did, for rates. */
typedef struct mx_score_work {
    uint64_t tokens; /* fed */
    double seconds;  /* of scoring, preparing the session not included */
} mx_score_work;

/*
 * Scores the documents that are not `done` yet, longest first, at most
 * batch_size a pass (0: 32) and fewer when they are long; outcomes [count] in
 * list order. Outcomes do not depend on the batching. A log-likelihood or a
 * divergence that is not finite is MX_ERR_FORMAT. `stage` names the work for the watch; `*tokens`
 * (may be NULL) receives the number of tokens fed.
 */
mx_status mx_score_documents(const mx_scorer *scorer, const mx_document_list *list,
                             uint32_t batch_size, const char *stage, mx_watch watch,
                             mx_outcome_fn on_done, void *ctx, mx_outcome *outcomes,
                             mx_score_work *work, mx_error *err);

/* ---- tasks ------------------------------------------------------------------ */

/* What loading a task may depend on. */
typedef struct mx_task_context {
    const mx_eval_options *options; /* resolved: window, stride not 0 */
    const mx_tokenizer *tokenizer;
    int32_t bos;          /* put in front with options->add_bos; -1: the model has none */
    int32_t prefix;       /* stands for an empty context: BOS, else EOS, else -1 */
    uint32_t max_context; /* tokens that may be fed at once */
} mx_task_context;

/* How outcomes become metrics. */
typedef enum mx_task_kind {
    MX_TASK_TARGET, /* predict the end of a passage: acc, perplexity a document */
    MX_TASK_TEXT,   /* all of a text: perplexity a word, byte and token */
    MX_TASK_KL,     /* all of a text, beside a base model: KL divergence, top-1 agreement */
} mx_task_kind;

typedef struct mx_task {
    const char *name;
    const char *description; /* one line for help */
    mx_task_kind kind;
    double version;
    bool takes_file; /* written "name:FILE" */
    /* Fills `list` (zero-initialized; freed by the caller also on failure) and
     * `*source`, where the data came from (malloc'd). `file` is NULL unless
     * takes_file. */
    mx_status (*load)(const mx_task_context *context, const char *file, mx_document_list *list,
                      char **source, mx_error *err);
} mx_task;

/* The tasks of tasks.def, in order; NULL beyond the end. */
const mx_task *mx_task_at(size_t index);

/* One task asked for. */
typedef struct mx_task_request {
    const mx_task *task;
    char *file; /* owned; NULL unless task->takes_file */
    char *name; /* owned; "lambada_openai", "perplexity:wiki.txt" (the file's base name) */
} mx_task_request;

/* Parses "a,b,perplexity:FILE". A name unknown, empty or given twice is
 * MX_ERR_ARGUMENT. `*out` [*count] is freed with mx_task_requests_free. */
mx_status mx_task_requests_parse(const char *text, mx_task_request **out, size_t *count,
                                 mx_error *err);
void mx_task_requests_free(mx_task_request *requests, size_t count);

#endif

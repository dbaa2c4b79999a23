/*
 * Results of an evaluation: metrics with standard errors, lm_eval's table and
 * lm_eval's results JSON with an "mxlm" object beside its keys.
 */
#ifndef MX_EVAL_RESULTS_H
#define MX_EVAL_RESULTS_H

#include "eval/eval.h"

typedef struct mx_metric {
    const char *name; /* "acc", "perplexity"; JSON keys "acc,none", "acc_stderr,none" */
    double value;     /* may be Inf */
    double stderror;  /* NaN: not available */
    bool higher_is_better;
} mx_metric;

#define MX_MAX_METRICS 4

/* A task that was run. Everything but `request` is owned. */
typedef struct mx_task_result {
    const mx_task_request *request;
    char *source; /* where the data came from */
    mx_document_list documents;
    mx_outcome *outcomes;              /* [documents.count] */
    float *divergences;                /* [targets of all documents], of MX_TASK_KL */
    size_t resumed;                    /* outcomes read from samples, not scored now */
    mx_score_work work;                /* of this run */
    mx_metric metrics[MX_MAX_METRICS]; /* in the order of lm_eval's results */
    size_t n_metrics;
} mx_task_result;

/* sum of a window's divergences over its targets, in order; MX_TASK_KL only. */
double mx_outcome_divergence(const mx_document *document, const mx_outcome *outcome);

/* Frees what the result owns (not the request) and zeroes it. */
void mx_task_result_free(mx_task_result *result);

/*
 * Fills the metrics from finished outcomes.
 * MX_TASK_TARGET: perplexity = exp(-mean ll), stderr by bootstrap (0 iterations:
 * none); acc = mean of greedy, stderr = sample deviation / sqrt(n).
 * MX_TASK_TEXT: word_, byte_, token_perplexity = exp(-sum ll / count),
 * bits_per_byte; stderr by the delta method over windows (lm_eval has none).
 * MX_TASK_KL: kl = mean over targets of KL(base || model) in nats, top1_agreement = share
 * of targets with the same argmax, token_perplexity, with such errors; kl_p99 = 99th
 * percentile over targets, between neighbours linearly (numpy's default).
 */
mx_status mx_task_result_measure(mx_task_result *result, uint32_t bootstrap_iters, mx_team *team,
                                 mx_watch watch, mx_error *err);

/* lm_eval's table of the results, in the order given; `*out` is malloc'd. */
mx_status mx_results_table(const mx_task_result *results, size_t count, char **out, mx_error *err);

/* What the JSON tells beyond the tasks. */
typedef struct mx_results_run {
    const mx_eval_options *options; /* resolved */
    const mx_model *model;          /* NULL: parts that describe a model are null */
    double seconds;                 /* of the whole evaluation, loading data included */
} mx_results_run;

/* The results JSON (new reference): lm_eval's keys and "mxlm". */
mx_status mx_results_json(const mx_results_run *run, const mx_task_result *results, size_t count,
                          json_t **out, mx_error *err);

#endif

/*
 * Comparison of results files: what each says (compare_load.c), how two differ
 * (compare_difference.c), and the report (compare_markdown.c, compare_json.c).
 */
#ifndef MX_EVAL_COMPARE_H
#define MX_EVAL_COMPARE_H

#include "base/json.h"
#include "eval/eval_stats.h"

#define MX_COMPARE_MAX_FILES 16

/* A metric of a task; NaN: not there. */
typedef struct mx_compare_metric {
    double value; /* Inf when the file has null */
    double stderror;
} mx_compare_metric;

/* Metrics shown, whichever kind of task has them. */
typedef enum mx_compare_metric_id {
    MX_COMPARE_ACC,
    MX_COMPARE_PERPLEXITY,
    MX_COMPARE_WORD,
    MX_COMPARE_TOKEN,
    MX_COMPARE_BITS,
    MX_COMPARE_KL,
    MX_COMPARE_KL_P99,
    MX_COMPARE_TOP1,
    MX_COMPARE_METRICS
} mx_compare_metric_id;

/* JSON name ("acc") and title ("accuracy") of a metric. */
const char *mx_compare_metric_name(mx_compare_metric_id id);
const char *mx_compare_metric_title(mx_compare_metric_id id);

/* One task of one file. */
typedef struct mx_compare_task {
    const char *name;  /* borrowed from the file's JSON */
    const char *hash;  /* of its documents; borrowed */
    bool text;         /* perplexity of a text: sizes; otherwise: right */
    size_t count;      /* documents */
    double *lls;       /* [count], owned */
    double *words;     /* [count], owned; text only */
    double *tokens;    /* [count], owned; text only */
    double *bytes;     /* [count], owned; text only */
    double *kl;        /* [count], owned: divergence from a base model, summed over a window;
                          NULL unless the task has it */
    double *agreed;    /* [count], owned: tokens with the same argmax; with kl */
    const char *right; /* [count] of '0', '1', borrowed; NULL for text */
    mx_compare_metric metrics[MX_COMPARE_METRICS];
    double seconds, tokens_per_second;
    int64_t resumed; /* documents that `seconds` does not cover */
} mx_compare_task;

/* Sizes; NaN: the file does not say. */
typedef struct mx_compare_sizes {
    double projection_bytes, projection_bytes_fp32, total_bytes, peak_resident_bytes;
    double activation_bits, activation_bytes_token;
} mx_compare_sizes;

typedef struct mx_compare_file {
    const char *path;
    json_t *root;                    /* owned */
    const char *model, *specs, *isa; /* borrowed; "?" when not told */
    const char *base, *base_specs;   /* of the model that kl is measured from; borrowed; "" */
    int64_t threads;                 /* 0: not told */
    bool add_bos;
    mx_compare_sizes sizes;
    mx_compare_task *tasks; /* [n_tasks], owned */
    size_t n_tasks;
} mx_compare_file;

/* Reads and checks a results file; outside data. Freed by the caller also on
 * failure (`*out` zeroed first). */
mx_status mx_compare_load(const char *path, mx_compare_file *out, mx_error *err);
void mx_compare_file_free(mx_compare_file *file);
/* NULL when the file has no such task. */
const mx_compare_task *mx_compare_find(const mx_compare_file *file, const char *task);

/* How `other` differs from `base` on the same documents. */
typedef struct mx_compare_difference {
    double change[MX_COMPARE_METRICS];           /* other - base of ACC, KL, TOP1; NaN otherwise */
    double change_stderr[MX_COMPARE_METRICS];    /* paired */
    mx_mcnemar mcnemar;                          /* not for text */
    double log_ratio[MX_COMPARE_METRICS];        /* ln(other / base) of a perplexity; else NaN */
    double log_ratio_stderr[MX_COMPARE_METRICS]; /* paired */
} mx_compare_difference;

/* Fails when the two are not of the same documents. */
mx_status mx_compare_tasks(const mx_compare_file *base_file, const mx_compare_task *base,
                           const mx_compare_file *other_file, const mx_compare_task *other,
                           mx_compare_difference *out, mx_error *err);

/* How much of what plain rounding (RTN) loses against the baseline a file wins back: 1 is
 * the baseline, 0 is RTN. NaN where RTN loses nothing or the task lacks the figure. */
typedef struct mx_compare_recovery {
    double loss, loss_stderr; /* of ln(perplexity), any of a task: they share their losses */
    double acc, acc_stderr;
    double kl, kl_stderr; /* of the mean divergence, the baseline's being 0 */
} mx_compare_recovery;

/* The three are of the same documents. `base` may be NULL for a task that has kl. */
mx_status mx_compare_recover(const mx_compare_task *base, const mx_compare_task *rtn,
                             const mx_compare_task *other, mx_compare_recovery *out, mx_error *err);

/* What is reported: the tasks that all files have, and kl tasks of any: a baseline has
 * nothing to diverge from. */
typedef struct mx_compare_report {
    const mx_compare_file *files; /* [n_files], [0] is the baseline */
    size_t n_files;
    size_t rtn;                    /* index of the file with plain rounding; 0: none is named */
    const mx_compare_task **tasks; /* [n_tasks][n_files]; NULL where a file lacks it */
    mx_compare_difference *differences; /* [n_tasks][n_files]; where both files have it */
    mx_compare_recovery *recoveries;    /* [n_tasks][n_files]; where all three have it */
    size_t n_tasks;
    const char **dropped; /* [n_dropped] names of tasks that not all have */
    size_t n_dropped;
} mx_compare_report;

/* The first file's that has task `t`. */
const mx_compare_task *mx_compare_any(const mx_compare_report *report, size_t t);
/* True when file `f` and what it is measured against both have task `t`. */
bool mx_compare_has_difference(const mx_compare_report *report, size_t t, size_t f);
bool mx_compare_has_recovery(const mx_compare_report *report, size_t t, size_t f);

/* The report for people and for programs; `*out` is malloc'd, NULL on failure. Only
 * memory can fail. */
mx_status mx_compare_markdown(const mx_compare_report *report, char **out, mx_error *err);
mx_status mx_compare_json(const mx_compare_report *report, char **out, mx_error *err);

#endif

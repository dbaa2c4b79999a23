/* The insides of a bench; private to src/bench. */
#ifndef MX_BENCH_BENCH_IMPL_H
#define MX_BENCH_BENCH_IMPL_H

#include "base/str.h"
#include "bench/bench.h"
#include "model/session.h"

#define MX_BENCH_MAX_ROUNDS 64u
#define MX_BENCH_MAX_COUNTS 16u /* thread counts */
#define MX_BENCH_CHUNK 512u     /* tokens of one forward call of a prefill, as in generate */
#define MX_BENCH_BATCH 4u       /* sequences of batch decode */

typedef struct mx_bench mx_bench;
typedef struct mx_bench_row mx_bench_row;

/* Seconds of one unit of the row's work (row->work, row->amount). */
typedef mx_status (*mx_bench_fn)(mx_bench *bench, const mx_bench_row *row, double *seconds,
                                 mx_error *err);

/* Equal shapes among the projections: their matrices take turns, as they do in a
 * forward pass, so that caches hold no more of them than they would there. */
typedef struct mx_bench_weights {
    char name[24];              /* "q o", "gate up" */
    const mx_matrix **matrices; /* [count], the model's or `owned` */
    size_t count;
    mx_matrix *owned; /* [count] or NULL */
    bool quantized;   /* the model's formats; else the fp32 baseline */
} mx_bench_weights;

/* One line of the report: a step with its bound, or a figure. */
struct mx_bench_row {
    const char *section; /* "machine", "load", "kernel", "prefill", "decode", "peer" */
    char name[64];
    uint32_t threads;
    uint32_t tokens;    /* 0: does not apply */
    uint32_t sequences; /* decode */
    const char *unit;
    double amount;                   /* units of one run: value = amount / seconds */
    mx_bench_fn run;                 /* NULL: a figure that something else records */
    uint32_t max_rounds;             /* long steps run in the first few rounds only */
    bool warm;                       /* run once before the rounds, not counted */
    mx_work work;                    /* of one run; zero: no bound */
    const mx_bench_weights *weights; /* kernel */
    void (*peak_run)(uint64_t n);    /* machine: n steps of peak_macs each */
    double peak_macs;
    size_t companion; /* row + 1 of a figure that run() records, or 0 */
    mx_bound bound;
    uint32_t n;                         /* rounds measured */
    double values[MX_BENCH_MAX_ROUNDS]; /* in `unit` */
    double roofs[MX_BENCH_MAX_ROUNDS];  /* the bound in `unit`, 0 without */
};

struct mx_bench {
    const mx_bench_source *source;
    const mx_bench_options *options;
    mx_watch watch;
    double started; /* mx_clock_seconds */
    uint32_t counts[MX_BENCH_MAX_COUNTS], n_counts, max_threads;
    uint32_t rounds;
    mx_model *model;
    mx_session *session; /* of the largest thread count; fits the smaller ones too */
    uint32_t context;    /* positions of a sequence in it */
    int32_t *tokens;     /* [context] random ids */
    float *logits;       /* [MX_BENCH_BATCH][vocab] */
    mx_roof roof;
    mx_bench_weights *weights; /* [n_weights] */
    size_t n_weights;
    float *x, *out; /* kernels: input and output of the largest product */
    uint8_t *operand_scratch, *product_scratch;
    mx_bench_row *rows; /* [n_rows] */
    size_t n_rows, capacity;
    uint64_t runs_done, runs_total;
    double load_average; /* of the machine when the bench began; < 0 unknown */
};

/* Appends a row (copied). The index serves, pointers move. */
mx_status mx_bench_add(mx_bench *bench, const mx_bench_row *row, size_t *index, mx_error *err);
void mx_bench_record(mx_bench_row *row, double value, double roof);
/* True when options->only names the section, or is NULL. */
bool mx_bench_wants(const mx_bench *bench, const char *section);

/* Bench parts: each adds its rows, for all thread counts. */
mx_status mx_bench_plan_machine(mx_bench *bench, mx_error *err);
mx_status mx_bench_plan_kernels(mx_bench *bench, mx_error *err);
mx_status mx_bench_plan_model(mx_bench *bench, mx_error *err);
mx_status mx_bench_plan_peer(mx_bench *bench, mx_error *err);

/* Adds the product of `tokens` tokens with a matrix to the work, in the arithmetic that
 * bounds it on this machine, and its bytes once. */
void mx_bench_add_matrix(const mx_bench *bench, const mx_matrix *matrix, double tokens,
                         mx_work *work);

/* Opens the model (bench->model, prepared), session and ids; measures loading and
 * resident memory. */
mx_status mx_bench_load(mx_bench *bench, mx_error *err);

/* Runs the peer once for each thread count and records its rows. */
mx_status mx_bench_peer_round(mx_bench *bench, mx_error *err);

void mx_bench_free_kernels(mx_bench *bench);

/* ---- statistics and reports -------------------------------------------------- */

double mx_bench_median(const double *values, size_t n); /* 0 when n is 0 */
double mx_bench_row_value(const mx_bench_row *row);     /* median */
double mx_bench_row_share(const mx_bench_row *row);     /* median of value / roof; 0 without */

mx_status mx_bench_table(const mx_bench *bench, char **out, mx_error *err);
mx_status mx_bench_csv(const mx_bench *bench, char **out, mx_error *err);
mx_status mx_bench_json(const mx_bench *bench, char **out, mx_error *err);

#endif

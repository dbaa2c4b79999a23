/*
 * Measures a model and its machine in one run: every round measures the limits
 * that bound a step (roof.h) before and after the step, so that neighbours who slow the
 * machine slow both; what is reported are medians over the rounds, the share
 * being the median of the rounds' own shares.
 */
#ifndef MX_BENCH_BENCH_H
#define MX_BENCH_BENCH_H

#include "bench/roof.h"
#include "model/model.h"

/* Where the model comes from. */
typedef struct mx_bench_source {
    const char *name; /* path, for reports */
    bool from_file;   /* opening it is measured as loading */
    /* Opens it with `threads`; may be called several times. */
    mx_status (*open)(void *ctx, int threads, mx_model **out, mx_error *err);
    void *ctx;
} mx_bench_source;

/* Runs what `options` asks for: table, csv and json are freed with
 * mx_string_free. */
mx_status mx_bench_run(const mx_bench_source *source, const mx_bench_options *options,
                       mx_watch watch, char **table, char **csv, char **json, mx_error *err);

#endif

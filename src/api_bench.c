/* mx_bench_model and mx_bench_shape: where the measured model comes from, and where
 * the results go. */
#include "base/file.h"
#include "bench/bench.h"
#include "model/random_model.h"

#include <stdlib.h>
#include <string.h>

enum { CONFIG_LIMIT = 1 << 20, SEED = 1 };

typedef struct model_source {
    const char *path;
    const mx_specs *specs;  /* NULL: as stored */
    mx_llama_config config; /* of random weights */
} model_source;

static mx_status open_file(void *ctx, int threads, mx_model **out, mx_error *err)
{
    const model_source *source = ctx;
    mx_watch nobody = {0};
    MX_TRY(mx_model_open(source->path, threads, out, err));
    if (source->specs == NULL) {
        return MX_OK;
    }
    mx_status status = mx_model_apply(*out, source->specs, nobody, err);
    if (status != MX_OK) {
        mx_model_close(*out);
        *out = NULL;
    }
    return status;
}

static mx_status open_random(void *ctx, int threads, mx_model **out, mx_error *err)
{
    const model_source *source = ctx;
    return mx_model_random(&source->config, source->specs, SEED, threads, out, err);
}

/* Opens a result file when one is wanted: before the bench, which may take minutes,
 * and not after it. */
static mx_status open_result(const char *path, mx_atomic_file **out, mx_error *err)
{
    *out = NULL;
    return path != NULL ? mx_atomic_open(path, out, err) : MX_OK;
}

static mx_status write_result(mx_atomic_file **file, const char *text, mx_error *err)
{
    if (*file == NULL) {
        return MX_OK;
    }
    MX_TRY(mx_atomic_write(*file, text, strlen(text), err));
    mx_status status = mx_atomic_commit(*file, err);
    *file = NULL; /* freed in any case */
    return status;
}

static mx_status run(const mx_bench_source *source, const mx_bench_options *options, mx_watch watch,
                     char **table, mx_error *err)
{
    char *csv_text = NULL, *json_text = NULL;
    mx_atomic_file *csv = NULL, *json = NULL;
    mx_status status;
    *table = NULL;
    MX_TRY_GOTO(status, open_result(options->csv_path, &csv, err));
    MX_TRY_GOTO(status, open_result(options->json_path, &json, err));
    MX_TRY_GOTO(status, mx_bench_run(source, options, watch, table, &csv_text, &json_text, err));
    MX_TRY_GOTO(status, write_result(&csv, csv_text, err));
    MX_TRY_GOTO(status, write_result(&json, json_text, err));
done:
    mx_atomic_abort(csv);
    mx_atomic_abort(json);
    free(csv_text);
    free(json_text);
    if (status != MX_OK) {
        free(*table);
        *table = NULL;
    }
    return status;
}

mx_status mx_bench_model(const char *model_path, const mx_specs *specs,
                         const mx_bench_options *options, mx_watch watch, char **table,
                         mx_error *err)
{
    model_source context = {.path = model_path, .specs = specs};
    mx_bench_source source = {model_path, true, open_file, &context};
    return run(&source, options, watch, table, err);
}

mx_status mx_bench_shape(const char *config_path, const mx_specs *specs,
                         const mx_bench_options *options, mx_watch watch, char **table,
                         mx_error *err)
{
    model_source context = {.path = config_path, .specs = specs};
    mx_bench_source source = {config_path, false, open_random, &context};
    json_t *root = NULL;
    *table = NULL;
    MX_TRY(mx_json_load(config_path, CONFIG_LIMIT, &root, err));
    mx_status status = mx_llama_config_parse(root, config_path, &context.config, err);
    json_decref(root);
    return status == MX_OK ? run(&source, options, watch, table, err) : status;
}

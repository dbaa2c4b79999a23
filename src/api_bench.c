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

static mx_status run(const mx_bench_source *source, const mx_bench_options *options, mx_watch watch,
                     char **table, mx_error *err)
{
    char *csv = NULL, *json = NULL;
    mx_status status = mx_bench_run(source, options, watch, table, &csv, &json, err);
    if (status == MX_OK && options->csv_path != NULL) {
        status = mx_file_write(options->csv_path, csv, strlen(csv), err);
    }
    if (status == MX_OK && options->json_path != NULL) {
        status = mx_file_write(options->json_path, json, strlen(json), err);
    }
    free(csv);
    free(json);
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

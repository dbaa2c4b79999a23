/* Opening the model: time to load, time to the first token, memory. */
#include "bench/bench_impl.h"

#include "base/clock.h"
#include "base/rng.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    LOAD_ROUNDS = 3,
    PROMPT_TOKENS = 16, /* of the first token's time */
    LONG_CONTEXT = 4096,
    SHORT_CONTEXT = 512,
    SEED = 2,
};

/* Ids that every vocabulary of the model's size has, without a pattern. */
static mx_status make_tokens(mx_bench *bench, mx_error *err)
{
    const mx_llama_config *config = &bench->model->config;
    uint32_t most = bench->options->quick ? SHORT_CONTEXT : LONG_CONTEXT;
    bench->context = config->context < most ? config->context : most;
    bench->tokens = calloc(bench->context, sizeof *bench->tokens);
    size_t logits = (size_t)MX_BENCH_BATCH * config->vocab * sizeof(float);
    bench->logits = malloc(logits);
    if (bench->tokens == NULL || bench->logits == NULL) {
        return mx_error_nomem(err, "bench: logits", logits);
    }
    for (uint32_t i = 0; i < bench->context; i++) {
        bench->tokens[i] = (int32_t)(mx_philox_u32(SEED, 0, i) % config->vocab);
    }
    return MX_OK;
}

static mx_status make_session(mx_bench *bench, mx_error *err)
{
    mx_session_config config = {
        .max_tokens = MX_BENCH_CHUNK,
        .max_sequences = MX_BENCH_BATCH,
        .max_context = bench->context,
        .keep_kv = true,
    };
    return mx_session_create(bench->model, &config, &bench->session, err);
}

static mx_status prefill(mx_bench *bench, uint32_t n, mx_error *err)
{
    n = n < bench->context ? n : bench->context;
    mx_segment segment = {.tokens = bench->tokens, .n_tokens = n};
    uint32_t last = n - 1;
    MX_TRY(mx_session_forward(bench->session, &segment, 1, err));
    return mx_session_logits(bench->session, &last, 1, bench->logits, err);
}

static void unload(mx_bench *bench)
{
    mx_session_free(bench->session);
    mx_model_close(bench->model);
    free(bench->tokens);
    free(bench->logits);
    bench->session = NULL;
    bench->model = NULL;
    bench->tokens = NULL;
    bench->logits = NULL;
}

static mx_status load_once(mx_bench *bench, double *loaded, double *first, mx_error *err)
{
    double start = mx_clock_seconds();
    MX_TRY(bench->source->open(bench->source->ctx, (int)bench->max_threads, &bench->model, err));
    if (bench->options->kv != NULL) {
        MX_TRY(mx_model_set_kv(bench->model, bench->options->kv, err));
    }
    MX_TRY(make_tokens(bench, err));
    MX_TRY(make_session(bench, err));
    *loaded = mx_clock_seconds() - start;
    MX_TRY(prefill(bench, PROMPT_TOKENS, err));
    *first = mx_clock_seconds() - start;
    return MX_OK;
}

static mx_status add_figure(mx_bench *bench, const char *name, const char *unit, uint32_t tokens,
                            size_t *index, mx_error *err)
{
    mx_bench_row row = {
        .section = "load", .threads = bench->max_threads, .tokens = tokens, .unit = unit};
    snprintf(row.name, sizeof row.name, "%s", name);
    return mx_bench_add(bench, &row, index, err);
}

/* After a prompt of the usual length, before the bench takes memory of its own. */
static mx_status measure_memory(mx_bench *bench, mx_error *err)
{
    size_t resident, peak;
    MX_TRY(prefill(bench, SHORT_CONTEXT, err));
    MX_TRY(add_figure(bench, "resident memory", "MB", SHORT_CONTEXT, &resident, err));
    MX_TRY(add_figure(bench, "largest resident memory", "MB", SHORT_CONTEXT, &peak, err));
    mx_bench_record(&bench->rows[resident], (double)mx_memory_resident() / 1e6, 0);
    mx_bench_record(&bench->rows[peak], (double)mx_memory_peak() / 1e6, 0);
    return MX_OK;
}

mx_status mx_bench_load(mx_bench *bench, mx_error *err)
{
    bool measured = bench->source->from_file && mx_bench_wants(bench, "load");
    uint32_t rounds = measured && !bench->options->quick ? LOAD_ROUNDS : 1;
    size_t load = 0, first = 0;
    if (measured) {
        MX_TRY(add_figure(bench, "load", "s", 0, &load, err));
        MX_TRY(add_figure(bench, "load to first token", "s", PROMPT_TOKENS, &first, err));
    }
    for (uint32_t i = 0; i < rounds; i++) {
        double loaded, token;
        unload(bench);
        MX_TRY(load_once(bench, &loaded, &token, err));
        if (measured) {
            mx_bench_record(&bench->rows[load], loaded, 0);
            mx_bench_record(&bench->rows[first], token, 0);
        }
    }
    return mx_bench_wants(bench, "load") ? measure_memory(bench, err) : MX_OK;
}

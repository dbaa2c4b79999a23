/* The whole forward pass: prefill, decode, batch decode. */
#include "bench/bench_impl.h"

#include "base/clock.h"
#include "kernel/block_pair.h"
#include "model/kv_store.h"

#include <stdio.h>

enum { DECODE_TOKENS = 64, QUICK_DECODE_TOKENS = 16, LONG_PREFILL = 4096, LONG_ROUNDS = 3 };

/* ---- runs -------------------------------------------------------------------- */

/* One chunk of sequence 0. */
static mx_status forward_chunk(mx_bench *bench, uint32_t start, uint32_t n, mx_error *err)
{
    mx_segment segment = {
        .sequence = 0, .start = start, .tokens = bench->tokens + start, .n_tokens = n};
    return mx_session_forward(bench->session, &segment, 1, err);
}

/* Tokens in chunks as `generate` takes a prompt, then the logits of the last. */
static mx_status run_prefill(mx_bench *bench, const mx_bench_row *row, double *seconds,
                             mx_error *err)
{
    uint32_t last = 0;
    double start = mx_clock_seconds(), before = mx_session_attention_seconds(bench->session);
    for (uint32_t at = 0; at < row->tokens; at += MX_BENCH_CHUNK) {
        uint32_t left = row->tokens - at, n = left < MX_BENCH_CHUNK ? left : MX_BENCH_CHUNK;
        MX_TRY(forward_chunk(bench, at, n, err));
        last = n - 1;
    }
    MX_TRY(mx_session_logits(bench->session, &last, 1, bench->logits, err));
    *seconds = mx_clock_seconds() - start;
    if (row->companion != 0) {
        double attention = mx_session_attention_seconds(bench->session) - before;
        mx_bench_record(&bench->rows[row->companion - 1], 100 * attention / *seconds, 0);
    }
    return MX_OK;
}

/* row->tokens steps from an empty context, each with logits of every sequence, as
 * llama-bench's tg test does. */
static mx_status run_decode(mx_bench *bench, const mx_bench_row *row, double *seconds,
                            mx_error *err)
{
    mx_segment segments[MX_BENCH_BATCH];
    uint32_t rows[MX_BENCH_BATCH];
    double start = mx_clock_seconds();
    for (uint32_t step = 0; step < row->tokens; step++) {
        for (uint32_t s = 0; s < row->sequences; s++) {
            const int32_t *token = bench->tokens + (step + s) % bench->context;
            segments[s] = (mx_segment){s, step, token, 1};
            rows[s] = s;
        }
        MX_TRY(mx_session_forward(bench->session, segments, row->sequences, err));
        MX_TRY(mx_session_logits(bench->session, rows, row->sequences, bench->logits, err));
    }
    *seconds = mx_clock_seconds() - start;
    return MX_OK;
}

/* ---- plan -------------------------------------------------------------------- */

void mx_bench_add_matrix(const mx_bench *bench, const mx_matrix *matrix, double tokens,
                         mx_work *work)
{
    double macs = (double)matrix->n_rows * (double)matrix->n_cols * tokens;
    const mx_peak *peak = mx_peak_find(bench->model->backend.kernels.name);
    bool any_block = peak != NULL && peak->any_block;
    if (matrix->kind == MX_MATRIX_PANELS &&
        (any_block || mx_block_pair_is_int(&matrix->weights, &matrix->activations))) {
        work->int_macs += macs;
    } else {
        work->f32_macs += macs;
    }
    work->bytes += (double)matrix->stored_bytes;
}

/*
 * Work of one forward call of `tokens` tokens with logits for `rows` of them: the
 * products with weights, each weight read once. Attention is left out of the
 * operations: a limit that nothing can pass, and attention's cost shows as a
 * share lost.
 */
static mx_work call_work(const mx_bench *bench, double tokens, double rows)
{
    const mx_model *model = bench->model;
    mx_work work = {0};
    for (uint32_t layer = 0; layer < model->config.layers; layer++) {
        for (int p = 0; p < MX_PROJ_COUNT; p++) {
            mx_bench_add_matrix(bench, &model->layers[layer].projections[p], tokens, &work);
        }
    }
    mx_bench_add_matrix(bench, mx_model_head(model), rows, &work);
    work.working_set = (size_t)work.bytes;
    return work;
}

static mx_status add_prefill(mx_bench *bench, uint32_t threads, uint32_t tokens, bool is_long,
                             mx_error *err)
{
    mx_bench_row row = {
        .section = "prefill",
        .threads = threads,
        .tokens = tokens,
        .unit = "tok/s",
        .amount = tokens,
        .run = run_prefill,
        .warm = !is_long,
        .max_rounds = is_long ? LONG_ROUNDS : 0,
        .work = call_work(bench, tokens, 1),
    };
    double calls = (tokens + MX_BENCH_CHUNK - 1) / MX_BENCH_CHUNK;
    row.work.bytes *= calls;
    if (is_long) {
        mx_bench_row share = {.section = "prefill",
                              .name = "attention's share of the time",
                              .threads = threads,
                              .tokens = tokens,
                              .unit = "%"};
        MX_TRY(mx_bench_add(bench, &share, &row.companion, err));
        row.companion++;
    }
    snprintf(row.name, sizeof row.name, "prefill");
    return mx_bench_add(bench, &row, NULL, err);
}

static mx_status add_decode(mx_bench *bench, uint32_t threads, uint32_t tokens, uint32_t sequences,
                            mx_error *err)
{
    const mx_llama_config *config = &bench->model->config;
    mx_bench_row row = {
        .section = "decode",
        .threads = threads,
        .tokens = tokens,
        .sequences = sequences,
        .unit = "tok/s",
        .amount = (double)tokens * sequences,
        .run = run_decode,
        .warm = true,
        .work = call_work(bench, sequences, sequences),
    };
    /* Keys and values of the tokens before. */
    double kv = 2.0 * (double)mx_kv_element_bytes(bench->model->kv_type) * config->layers *
                config->kv_heads * config->head_dim;
    row.work.bytes += kv * sequences * (tokens + 1) / 2;
    row.work.int_macs *= tokens;
    row.work.f32_macs *= tokens;
    row.work.bytes *= tokens;
    snprintf(row.name, sizeof row.name, "decode %u sequence%s", sequences,
             sequences > 1 ? "s" : "");
    return mx_bench_add(bench, &row, NULL, err);
}

mx_status mx_bench_plan_model(mx_bench *bench, mx_error *err)
{
    bool quick = bench->options->quick;
    uint32_t context = bench->context;
    uint32_t tokens = context < MX_BENCH_CHUNK ? context : MX_BENCH_CHUNK;
    uint32_t steps = quick ? QUICK_DECODE_TOKENS : DECODE_TOKENS;
    steps = steps < context ? steps : context;
    uint32_t most = context / MX_BENCH_CHUNK * MX_BENCH_CHUNK;
    most = most < LONG_PREFILL ? most : LONG_PREFILL;
    for (uint32_t c = 0; c < bench->n_counts; c++) {
        uint32_t threads = bench->counts[c];
        if (mx_bench_wants(bench, "prefill")) {
            MX_TRY(add_prefill(bench, threads, tokens, false, err));
        }
        /* A line through fewer than three chunks would say little. */
        if (mx_bench_wants(bench, "prefill") && most >= 3 * MX_BENCH_CHUNK && !quick) {
            MX_TRY(add_prefill(bench, threads, most, true, err));
        }
        if (mx_bench_wants(bench, "decode")) {
            MX_TRY(add_decode(bench, threads, steps, 1, err));
            MX_TRY(add_decode(bench, threads, steps, MX_BENCH_BATCH, err));
        }
    }
    return MX_OK;
}

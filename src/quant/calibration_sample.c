/* Calibration text from the model itself, for users without a text. */
#include "quant/calibration.h"

#include "base/clock.h"
#include "base/rng.h"
#include "model/sampler.h"
#include "model/session.h"

#include <stdlib.h>
#include <string.h>

/* Windows written side by side, and the stream of first tokens. */
enum { SAMPLE_BATCH = 64, FIRST_STREAM = 3 };

typedef struct sample_job {
    mx_session *session;
    const mx_model *model;
    mx_windows *windows;
    uint64_t seed;
    uint32_t first, n;    /* windows [first, first + n) are being written */
    uint32_t position;    /* of the tokens just run */
    mx_sampler *samplers; /* [threads] */
    float *logits;        /* [SAMPLE_BATCH][vocab] */
    mx_segment *segments; /* [SAMPLE_BATCH] */
} sample_job;

static int32_t *window_token(const sample_job *job, size_t i)
{
    return job->windows->tokens + (job->first + i) * job->windows->length + job->position;
}

static void draw_range(void *ctx, size_t begin, size_t end, int thread)
{
    const sample_job *job = ctx;
    for (size_t i = begin; i < end; i++) {
        int32_t *token = window_token(job, i);
        uint64_t place = (uint64_t)(token - job->windows->tokens);
        const float *logits = job->logits + i * job->model->config.vocab;
        token[1] = (int32_t)mx_sampler_next(&job->samplers[thread], logits, place);
    }
}

static int32_t first_token(const sample_job *job, size_t i)
{
    const mx_llama_config *config = &job->model->config;
    if (config->bos_id >= 0 && (uint32_t)config->bos_id < config->vocab) {
        return (int32_t)config->bos_id;
    }
    uint64_t draw = mx_philox_u32(job->seed, FIRST_STREAM, job->first + i);
    return (int32_t)((draw * config->vocab) >> 32);
}

static mx_status sample_batch(sample_job *job, mx_error *err)
{
    uint32_t rows[SAMPLE_BATCH];
    job->position = 0;
    for (uint32_t i = 0; i < job->n; i++) {
        rows[i] = i;
        *window_token(job, i) = first_token(job, i);
    }
    for (; job->position + 1 < job->windows->length; job->position++) {
        for (uint32_t i = 0; i < job->n; i++) {
            job->segments[i] = (mx_segment){.sequence = i,
                                            .start = job->position,
                                            .tokens = window_token(job, i),
                                            .n_tokens = 1};
        }
        MX_TRY(mx_session_forward(job->session, job->segments, job->n, err));
        MX_TRY(mx_session_logits(job->session, rows, job->n, job->logits, err));
        mx_team_for(job->model->backend.team, job->n, 1, draw_range, job);
    }
    return MX_OK;
}

static mx_status sample_all(sample_job *job, mx_watch watch, mx_error *err)
{
    double start = mx_clock_seconds();
    for (job->first = 0; job->first < job->windows->n; job->first += job->n) {
        mx_progress progress = {.stage = "calibration text",
                                .unit = "windows",
                                .done = job->first,
                                .total = job->windows->n,
                                .seconds = mx_clock_seconds() - start};
        if (watch.fn != NULL && !watch.fn(watch.ctx, &progress)) {
            return mx_error_set(err, MX_ERR_CANCELLED, "calibration text: stopped");
        }
        uint32_t left = job->windows->n - job->first;
        job->n = left < SAMPLE_BATCH ? left : SAMPLE_BATCH;
        MX_TRY(sample_batch(job, err));
    }
    return MX_OK;
}

static mx_status sample_alloc(sample_job *job, size_t threads, mx_error *err)
{
    size_t vocab = job->model->config.vocab;
    size_t tokens = (size_t)job->windows->n * job->windows->length;
    job->windows->tokens = malloc(tokens * sizeof *job->windows->tokens);
    job->logits = malloc(SAMPLE_BATCH * vocab * sizeof *job->logits);
    job->segments = calloc(SAMPLE_BATCH, sizeof *job->segments);
    job->samplers = calloc(threads, sizeof *job->samplers);
    if (job->windows->tokens == NULL || job->logits == NULL || job->segments == NULL ||
        job->samplers == NULL) {
        return mx_error_nomem(err, "calibration text", SAMPLE_BATCH * vocab * sizeof(float));
    }
    for (size_t i = 0; i < threads; i++) {
        MX_TRY(mx_sampler_init(&job->samplers[i], vocab, 1.0f, 1.0f, job->seed, err));
    }
    return MX_OK;
}

mx_status mx_windows_sample(mx_model *model, uint32_t samples, uint32_t length, uint64_t seed,
                            mx_watch watch, mx_windows *out, mx_error *err)
{
    *out = (mx_windows){.n = samples, .length = length};
    size_t threads = (size_t)mx_team_size(model->backend.team);
    sample_job job = {.model = model, .windows = out, .seed = seed};
    const mx_session_config config = {.max_tokens = SAMPLE_BATCH,
                                      .max_sequences = SAMPLE_BATCH,
                                      .max_context = length,
                                      .keep_kv = true};
    mx_status status;
    MX_TRY_GOTO(status, sample_alloc(&job, threads, err));
    MX_TRY_GOTO(status, mx_session_create(model, &config, &job.session, err));
    status = sample_all(&job, watch, err);
done:
    mx_session_free(job.session);
    for (size_t i = 0; job.samplers != NULL && i < threads; i++) {
        mx_sampler_clear(&job.samplers[i]);
    }
    free(job.samplers);
    free(job.segments);
    free(job.logits);
    if (status != MX_OK) {
        mx_windows_clear(out);
    }
    return status;
}

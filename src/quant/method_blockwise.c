/*
 * Learned rounding, a decoder layer at a time (in the manner of SignRound: Cheng et
 * al., 2023). From GPTQ's codes on, the numbers behind the codes of a layer's
 * projections move against the gradient of
 *     mean over tokens of |y - y*|^2 / |y*|^2
 * y being the layer's output with quantized weights and inputs behind the quantized
 * layers before it, y* what it should be. Rounding has the derivative of leaving
 * alone. Windows at the end of the calibration text, which are not trained on,
 * decide which iterate is kept; the start is one of them, so by them the result is
 * never worse than GPTQ's.
 */
#include "base/rng.h"
#include "quant/latent.h"
#include "quant/layer_pass.h"
#include "quant/refine.h"
#include "quant/spill.h"

#include <stdlib.h>
#include <string.h>

enum {
    BATCH_TOKENS = 1024,
    HELD_SHARE = 16, /* one window of so many is held out, */
    HELD_MOST = 16,  /* up to so many */
    CHECKS = 5,      /* looks at the held-out windows on the way */
    TOKEN_GRAIN = 8,
    ORDER_STREAM = 3, /* of Philox; calibration.h has the others */
};

/* How far a number moves in all under a gradient of steady sign, in scales. More is
 * worse: too many codes change at once for their gradients to hold. */
static const double rate_total = 0.2;

/* Share of the earlier layers' error that a layer is to undo. */
static const float taught_share = 0.5F;

typedef struct learner {
    const mx_refine_problem *problem;
    mx_team *team;
    mx_layer_pass pass;
    mx_layer_params params;
    mx_latent latents[MX_PROJ_COUNT];
    mx_spill target_room;          /* behind target */
    float *target;                 /* [windows][length][hidden] */
    uint32_t batch, held, trained; /* windows: of a step, held out, trained on */
    uint32_t *order;               /* [trained] */
    float *x, *y, *d_y, *aim;      /* [batch][length][hidden] */
    double *losses;                /* [batch * length] */
    double least;                  /* held-out loss of the codes kept */
} learner;

static size_t window_floats(const learner *l)
{
    return (size_t)l->problem->length * l->problem->model->config.hidden;
}

/* ---- loss --------------------------------------------------------------------------- */

/* Each token's share of the loss, and its derivative. */
static void loss_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const learner *l = ctx;
    size_t n = l->problem->model->config.hidden;
    for (size_t t = begin; t < end; t++) {
        const float *y = l->y + t * n, *aim = l->aim + t * n;
        double size = 0, gap = 0;
        for (size_t i = 0; i < n; i++) {
            double d = (double)y[i] - aim[i];
            size += (double)aim[i] * aim[i];
            gap += d * d;
        }
        double weight = size > 0 ? 1 / size : 0;
        l->losses[t] = gap * weight;
        for (size_t i = 0; i < n; i++) {
            l->d_y[t * n + i] = (float)(2 * weight) * (y[i] - aim[i]);
        }
    }
}

/* Summed loss of n windows whose input lies in x and whose target in aim. */
static double forward_loss(learner *l, uint32_t n)
{
    mx_layer_pass_forward(&l->pass, &l->params, l->x, n, l->y);
    size_t tokens = (size_t)n * l->problem->length;
    mx_team_for(l->team, tokens, TOKEN_GRAIN, loss_range, l);
    double sum = 0;
    for (size_t t = 0; t < tokens; t++) {
        sum += l->losses[t];
    }
    return sum;
}

static void gather(learner *l, uint32_t slot, uint32_t window)
{
    size_t n = window_floats(l);
    memcpy(l->x + slot * n, l->problem->x + window * n, n * sizeof *l->x);
    memcpy(l->aim + slot * n, l->target + window * n, n * sizeof *l->aim);
}

static void round_all(learner *l)
{
    for (int p = 0; p < MX_PROJ_COUNT; p++) {
        if (l->problem->codes[p] != NULL) {
            mx_latent_round(&l->latents[p], l->team);
        }
    }
}

/* Loss of the present iterate on the held-out windows; on all where there is but one. */
static double held_loss(learner *l)
{
    uint32_t first = l->held > 0 ? l->trained : 0, end = l->problem->windows;
    double loss = 0;
    round_all(l);
    for (uint32_t window = first; window < end;) {
        uint32_t n = 0;
        for (; n < l->batch && window < end; n++, window++) {
            gather(l, n, window);
        }
        loss += forward_loss(l, n);
    }
    return loss;
}

/* Writes the codes of the present iterate over the problem's if it is the best so far. */
static void keep_if_best(learner *l)
{
    double loss = held_loss(l);
    if (!(loss < l->least)) {
        return;
    }
    l->least = loss;
    for (int p = 0; p < MX_PROJ_COUNT; p++) {
        if (l->problem->codes[p] != NULL) {
            mx_latent_codes(&l->latents[p], l->team, l->problem->codes[p]);
        }
    }
}

/* ---- steps ---------------------------------------------------------------------------- */

/* A fresh order of the windows trained on for each pass over them. */
static void shuffle(learner *l, uint32_t pass)
{
    for (uint32_t i = 0; i < l->trained; i++) {
        l->order[i] = i;
    }
    for (uint32_t i = 0; i + 1 < l->trained; i++) {
        uint64_t stream = (uint64_t)pass << 32 | (uint64_t)l->problem->layer << 8 | ORDER_STREAM;
        uint64_t u = mx_philox_u32(l->problem->seed, stream, i);
        uint32_t j = i + (uint32_t)(u * (l->trained - i) >> 32), kept = l->order[i];
        l->order[i] = l->order[j];
        l->order[j] = kept;
    }
}

/* One step on the next windows of the order; `at` counts them from the start. */
static void train_step(learner *l, uint32_t step, uint32_t steps, uint64_t *at)
{
    for (uint32_t slot = 0; slot < l->batch; slot++, ++*at) {
        if (*at % l->trained == 0) {
            shuffle(l, (uint32_t)(*at / l->trained));
        }
        gather(l, slot, l->order[*at % l->trained]);
    }
    mx_layer_gradients gradients = {0};
    for (int p = 0; p < MX_PROJ_COUNT; p++) {
        gradients.weights[p] = l->latents[p].gradient;
    }
    round_all(l);
    forward_loss(l, l->batch);
    mx_layer_pass_backward(&l->pass, &l->params, l->x, l->d_y, &gradients);
    /* Falls linearly, and comes to rate_total scales in all. */
    double rate = 2 * rate_total / steps * (1 - (step - 0.5) / steps);
    for (int p = 0; p < MX_PROJ_COUNT; p++) {
        if (l->problem->codes[p] != NULL) {
            mx_latent_step(&l->latents[p], l->team, rate, step);
        }
    }
}

static mx_status train(learner *l, mx_error *err)
{
    uint32_t steps = l->problem->settings.iterations, every = (steps + CHECKS - 1) / CHECKS;
    uint64_t at = 0;
    l->least = held_loss(l);
    for (uint32_t step = 1; step <= steps; step++) {
        train_step(l, step, steps, &at);
        if (step % every == 0 || step == steps) {
            keep_if_best(l);
        }
        MX_TRY(l->problem->progress(l->problem->progress_ctx, (double)step / steps, err));
    }
    return MX_OK;
}

/* ---- preparation ------------------------------------------------------------------------ */

static void set_params(learner *l)
{
    const mx_model *model = l->problem->model;
    const mx_layer *layer = &model->layers[l->problem->layer];
    l->params = (mx_layer_params){.index = l->problem->layer,
                                  .norms = {layer->attention_norm, layer->mlp_norm}};
    for (int p = 0; p < MX_PROJ_COUNT; p++) {
        l->params.weights[p] = l->problem->weights[p];
        l->params.biases[p] = layer->projections[p].bias;
    }
}

/* What the layer's output should be: of the unquantized layer behind the quantized
 * ones before it, moved by a share toward the unquantized model's. */
static mx_status make_target(learner *l, mx_error *err)
{
    const mx_refine_problem *problem = l->problem;
    size_t n = window_floats(l), count = problem->windows * n;
    MX_TRY(mx_spill_open(count * sizeof *l->target, problem->spill_limit, problem->spill_dir,
                         &l->target_room, err));
    l->target = l->target_room.data;
    for (uint32_t window = 0; window < problem->windows; window += l->batch) {
        uint32_t left = problem->windows - window;
        mx_layer_pass_forward(&l->pass, &l->params, problem->x + window * n,
                              left < l->batch ? left : l->batch, l->target + window * n);
    }
    for (size_t i = 0; problem->taught != NULL && i < count; i++) {
        l->target[i] += taught_share * (problem->taught[i] - l->target[i]);
    }
    return MX_OK;
}

static mx_status start_latents(learner *l, mx_error *err)
{
    const mx_refine_problem *problem = l->problem;
    for (int p = 0; p < MX_PROJ_COUNT; p++) {
        if (problem->codes[p] == NULL) {
            continue;
        }
        size_t rows, cols;
        mx_projection_shape(&problem->model->config, (mx_projection)p, &rows, &cols);
        MX_TRY(mx_latent_init(&l->latents[p], problem->quant, rows, cols, problem->weights[p],
                              problem->codes[p], problem->scales[p], l->team, err));
        l->params.weights[p] = l->latents[p].values;
        l->params.activations[p] =
            problem->model->layers[problem->layer].projections[p].activations;
    }
    return MX_OK;
}

static mx_status learner_init(learner *l, mx_error *err)
{
    const mx_refine_problem *problem = l->problem;
    const mx_backend *backend = &problem->model->backend;
    uint32_t batch = BATCH_TOKENS / problem->length;
    l->team = backend->team;
    l->batch = batch > 0 ? batch : 1;
    l->held = problem->windows / HELD_SHARE;
    l->held = l->held > HELD_MOST ? HELD_MOST : l->held > 0 ? l->held : problem->windows > 1;
    l->trained = problem->windows - l->held;
    size_t tokens = (size_t)l->batch * problem->length, n = l->batch * window_floats(l);
    l->order = malloc(l->trained * sizeof *l->order);
    l->losses = malloc(tokens * sizeof *l->losses);
    l->x = malloc(n * sizeof *l->x);
    l->y = malloc(n * sizeof *l->y);
    l->d_y = malloc(n * sizeof *l->d_y);
    l->aim = malloc(n * sizeof *l->aim);
    if (l->order == NULL || l->losses == NULL || l->x == NULL || l->y == NULL || l->d_y == NULL ||
        l->aim == NULL) {
        return mx_error_nomem(err, problem->name, 4 * n * sizeof *l->x);
    }
    set_params(l);
    MX_TRY(mx_layer_pass_init(&l->pass, &problem->model->config, backend, l->batch, problem->length,
                              err));
    MX_TRY(make_target(l, err));
    return start_latents(l, err);
}

static void learner_clear(learner *l)
{
    for (int p = 0; p < MX_PROJ_COUNT; p++) {
        mx_latent_clear(&l->latents[p]);
    }
    mx_layer_pass_clear(&l->pass);
    mx_spill_close(&l->target_room);
    free(l->order);
    free(l->losses);
    free(l->x);
    free(l->y);
    free(l->d_y);
    free(l->aim);
}

static mx_status blockwise_refine(const mx_refine_problem *problem, mx_error *err)
{
    learner l = {.problem = problem};
    mx_status status;
    MX_TRY_GOTO(status, learner_init(&l, err));
    status = train(&l, err);
done:
    learner_clear(&l);
    return status;
}

/* GPTQ's codes to start from. */
static mx_status blockwise_start(const mx_method_problem *problem, uint8_t *codes, uint8_t *scales,
                                 mx_error *err)
{
    return mx_method_gptq.quantize(problem, codes, scales, err);
}

static void blockwise_describe(const mx_method_settings *settings, json_t *object)
{
    mx_method_gptq.describe(settings, object);
    json_object_set_new(object, "iterations", json_integer(settings->iterations));
}

const mx_method mx_method_blockwise = {
    .name = "blockwise",
    .quantize = blockwise_start,
    .refine = blockwise_refine,
    .corrects = true,
    .describe = blockwise_describe,
};

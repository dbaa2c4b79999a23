/*
 * The forward pass of a Llama decoder, to be read top to bottom.
 *
 * T tokens of several sequences lie one after the other without padding; every
 * step is a loop over tokens (or over tokens and heads) or a product with a
 * weight matrix. No step's arithmetic depends on which other tokens are there.
 */
#include "base/clock.h"
#include "model/forward.h"
#include "model/rope.h"

#include <math.h>
#include <string.h>

enum { TOKEN_GRAIN = 8 };

/* What a loop over tokens sees. */
typedef struct step {
    mx_session *session;
    const mx_llama_config *config;
    const mx_kernels *kernels;
    const mx_layer *layer;
    uint32_t index; /* of the layer */
    mx_tap_fn tap;  /* calibration's, or NULL */
    void *tap_ctx;
    uint32_t kv_layer;    /* the layer's place in the KV store */
    bool residual_due;    /* normed holds an output that hidden lacks */
    const float *norm;    /* [hidden] */
    const uint32_t *rows; /* logits: tokens to gather */
    mx_row_stats *stats;
} step;

static void for_tokens(step *s, size_t n, mx_range_fn fn)
{
    mx_team_for(s->session->model->backend.team, n, TOKEN_GRAIN, fn, s);
}

/* hidden = embedding row of each token. */
static void embed_range(void *ctx, size_t begin, size_t end, int thread)
{
    const step *s = ctx;
    mx_session *session = s->session;
    size_t n = s->config->hidden;
    /* A row decodes in whole blocks of its storage type, hence aside first. */
    float *row = session->rows + (size_t)thread * session->row_stride;
    for (size_t t = begin; t < end; t++) {
        mx_matrix_row(&session->model->embedding, (size_t)session->places[t].token, row);
        memcpy(session->hidden + t * n, row, n * sizeof(float));
    }
}

/* hidden += normed, which holds a projection's output. */
static void residual_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const step *s = ctx;
    size_t n = s->config->hidden;
    s->kernels->add(s->session->normed + begin * n, (end - begin) * n,
                    s->session->hidden + begin * n);
}

/* normed = rms_norm(hidden), after the addition that is still due. */
static void norm_range(void *ctx, size_t begin, size_t end, int thread)
{
    const step *s = ctx;
    size_t n = s->config->hidden;
    for (size_t t = begin; t < end; t++) {
        if (s->residual_due) {
            residual_range(ctx, t, t + 1, thread);
        }
        s->kernels->rms_norm(s->session->hidden + t * n, s->norm, s->config->norm_eps, n,
                             s->session->normed + t * n);
    }
}

/* Rotates q and k by position; stores k and v. */
static void rope_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const step *s = ctx;
    mx_session *session = s->session;
    size_t dim = s->config->head_dim, half = dim / 2;
    size_t heads = s->config->heads, kv_heads = s->config->kv_heads;
    for (size_t t = begin; t < end; t++) {
        const mx_place *place = &session->places[t];
        const float *cos_row = session->cos + place->position * half;
        const float *sin_row = session->sin + place->position * half;
        float *k = session->k + t * kv_heads * dim;
        const float *v = session->v + t * kv_heads * dim;
        s->kernels->rope(session->q + t * heads * dim, heads, dim, cos_row, sin_row);
        s->kernels->rope(k, kv_heads, dim, cos_row, sin_row);
        for (uint32_t h = 0; h < kv_heads; h++) {
            mx_kv_put(&session->kv, s->kv_layer, h, place->base, place->position, k + h * dim,
                      v + h * dim);
        }
    }
}

/* mixed = attention of each (KV head, query tile) over the positions up to each
 * token's own. Tiles of a head follow each other: they read the same keys and values. */
static void attention_range(void *ctx, size_t begin, size_t end, int thread)
{
    const step *s = ctx;
    mx_session *session = s->session;
    size_t dim = s->config->head_dim, kv_heads = s->config->kv_heads;
    size_t group = s->config->heads / kv_heads, stride = s->config->heads * dim;
    for (size_t item = begin; item < end; item++) {
        const mx_query_tile *tile = &session->query_tiles[item % session->n_query_tiles];
        uint32_t head = (uint32_t)(item / session->n_query_tiles);
        const mx_place *place = &session->places[tile->first];
        size_t at = tile->first * stride + head * group * dim;
        mx_attention attention = {
            .q = session->q + at,
            .stride = stride,
            .n_tokens = tile->n_tokens,
            .n_heads = group,
            .head_dim = dim,
            .kv_type = session->kv.type,
            .k = mx_kv_keys(&session->kv, s->kv_layer, head, place->base),
            .v = mx_kv_values(&session->kv, s->kv_layer, head, place->base),
            .scratch = session->attention_scratch + (size_t)thread * session->attention_stride,
            .n_keys = (size_t)place->position + 1,
            .scale = 1.0f / sqrtf((float)dim),
            .out = session->mixed + at,
        };
        s->kernels->attention(&attention);
    }
}

/* gate = silu(gate) * up. */
static void silu_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const step *s = ctx;
    size_t n = s->config->intermediate;
    s->kernels->silu_mul(s->session->gate + begin * n, s->session->up + begin * n,
                         (end - begin) * n, s->session->gate + begin * n);
}

/* The input of some projections: x [T][in], whose rows `make` makes (NULL: they are
 * there). */
typedef struct layer_input {
    const float *x;
    mx_range_fn make;
} layer_input;

/* Shows the input to the tap, which has to see all of it before it is quantized.
 * False when the tap has seen enough of this layer. */
static bool show(step *s, mx_projection first, size_t n, layer_input *in)
{
    size_t n_tokens = s->session->n_tokens;
    if (s->tap == NULL) {
        return true;
    }
    if (in->make != NULL) {
        for_tokens(s, n_tokens, in->make);
        in->make = NULL;
        s->residual_due = false;
    }
    for (size_t i = 0; i < n; i++) {
        if (!s->tap(s->tap_ctx, s->index, (mx_projection)(first + i), in->x, n_tokens)) {
            return false;
        }
    }
    return true;
}

/* Projections first .. first + n - 1 of one input, which is quantized once for all
 * that share its format. False when the tap has seen enough of this layer. */
static bool project(step *s, mx_projection first, size_t n, layer_input in, float *const *outs)
{
    mx_session *session = s->session;
    mx_backend *backend = &session->model->backend;
    const mx_matrix *matrices[MX_PRODUCTS];
    mx_operand operand = {0};
    if (!show(s, first, n, &in)) {
        return false;
    }
    mx_operand_source source = {in.x, session->n_tokens, session->streams, in.make, s};
    for (size_t i = 0, end; i < n; i = end) {
        matrices[i] = &s->layer->projections[first + i];
        mx_operand_prepare(backend, matrices[i], &source, session->operand_scratch, &operand);
        source.make = NULL;
        s->residual_due = false; /* a norm has seen to it */
        for (end = i + 1; end < n; end++) {
            matrices[end] = &s->layer->projections[first + end];
            if (!mx_operand_fits(&operand, matrices[end])) {
                break;
            }
        }
        mx_matrix_products(backend, matrices + i, end - i, &operand, session->product_scratch,
                           outs + i);
    }
    return true;
}

static void set_streams(mx_session *session, uint32_t layer, uint32_t input)
{
    for (size_t t = 0; t < session->n_tokens; t++) {
        session->streams[t] = mx_forward_stream(layer, input, session->places[t].position);
    }
}

/* Leaves the output, which is yet to be added to hidden, in normed. */
static bool attention_block(step *s)
{
    mx_session *session = s->session;
    layer_input normed = {session->normed, norm_range}, mixed = {session->mixed, NULL};
    float *const qkv[] = {session->q, session->k, session->v};

    s->norm = s->layer->attention_norm;
    set_streams(session, s->index, 0);
    if (!project(s, MX_PROJ_Q, MX_COUNT(qkv), normed, qkv)) {
        return false;
    }
    for_tokens(s, session->n_tokens, rope_range);
    double start = mx_clock_seconds();
    mx_team_for(session->model->backend.team, session->n_query_tiles * s->config->kv_heads, 1,
                attention_range, s);
    session->attention_seconds += mx_clock_seconds() - start;
    set_streams(session, s->index, 1);
    s->residual_due = project(s, MX_PROJ_O, 1, mixed, &session->normed);
    return s->residual_due;
}

/* The same, for the multilayer perceptron. */
static bool mlp_block(step *s)
{
    mx_session *session = s->session;
    layer_input normed = {session->normed, norm_range}, gated = {session->gate, silu_range};
    float *const gate_up[] = {session->gate, session->up};

    s->norm = s->layer->mlp_norm;
    set_streams(session, s->index, 2);
    if (!project(s, MX_PROJ_GATE, MX_COUNT(gate_up), normed, gate_up)) {
        return false;
    }
    set_streams(session, s->index, 3);
    s->residual_due = project(s, MX_PROJ_DOWN, 1, gated, &session->normed);
    return s->residual_due;
}

/* The addition that the next norm would have made. */
static void finish_residual(step *s)
{
    if (s->residual_due) {
        for_tokens(s, s->session->n_tokens, residual_range);
    }
    s->residual_due = false;
}

/* Angles up to the largest position of this call, made once each. */
static void extend_angles(mx_session *session)
{
    const mx_llama_config *config = &session->model->config;
    uint32_t half = config->head_dim / 2, need = 0;
    for (size_t t = 0; t < session->n_tokens; t++) {
        uint32_t end = session->places[t].position + 1;
        need = end > need ? end : need;
    }
    if (need <= session->angles_ready) {
        return;
    }
    for (uint32_t p = session->angles_ready; p < need; p++) {
        mx_rope_angles(session->frequencies, config->head_dim, p, session->cos + (size_t)p * half,
                       session->sin + (size_t)p * half);
    }
    session->angles_ready = need;
}

void mx_forward_init(mx_session *session)
{
    const mx_llama_config *config = &session->model->config;
    mx_rope_frequencies(&config->rope, config->head_dim, session->frequencies);
}

static step step_make(mx_session *session)
{
    return (step){
        .session = session,
        .config = &session->model->config,
        .kernels = &session->model->backend.kernels,
    };
}

void mx_forward_embed(mx_session *session)
{
    step s = step_make(session);
    for_tokens(&s, session->n_tokens, embed_range);
    mx_model_drop_embedding(session->model);
}

static bool run_layer(step *s, uint32_t layer)
{
    mx_session *session = s->session;
    s->layer = &session->model->layers[layer];
    s->index = layer;
    s->kv_layer = session->config.keep_kv ? layer : 0;
    return attention_block(s) && mlp_block(s);
}

bool mx_forward_layer(mx_session *session, uint32_t layer, mx_tap_fn tap, void *tap_ctx)
{
    step s = step_make(session);
    s.tap = tap;
    s.tap_ctx = tap_ctx;
    extend_angles(session);
    bool whole = run_layer(&s, layer);
    finish_residual(&s);
    return whole;
}

void mx_forward_run(mx_session *session)
{
    step s = step_make(session);
    mx_forward_embed(session);
    extend_angles(session);
    for (uint32_t layer = 0; layer < session->model->config.layers; layer++) {
        run_layer(&s, layer);
    }
    finish_residual(&s);
}

/* score_hidden = rms_norm of the gathered rows. */
static void gather_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const step *s = ctx;
    size_t n = s->config->hidden;
    for (size_t i = begin; i < end; i++) {
        s->kernels->rms_norm(s->session->hidden + s->rows[i] * n, s->session->model->final_norm,
                             s->config->norm_eps, n, s->session->score_hidden + i * n);
    }
}

void mx_forward_logits(mx_session *session, const uint32_t *rows, size_t n_rows, float *out)
{
    step s = step_make(session);
    s.rows = rows;
    mx_backend *backend = &session->model->backend;
    const mx_matrix *head = mx_model_head(session->model);
    mx_operand operand = {0};
    for (size_t i = 0; i < n_rows; i++) {
        session->streams[i] =
            mx_forward_stream(s.config->layers, 0, session->places[rows[i]].position);
    }
    mx_operand_source source = {session->score_hidden, n_rows, session->streams, gather_range, &s};
    mx_operand_prepare(backend, head, &source, session->operand_scratch, &operand);
    mx_matrix_product(backend, head, &operand, session->product_scratch, out);
}

static void stats_range(void *ctx, size_t begin, size_t end, int thread)
{
    (void)thread;
    const step *s = ctx;
    size_t vocab = s->config->vocab;
    for (size_t i = begin; i < end; i++) {
        s->kernels->row_stats(s->session->logits + i * vocab, vocab, &s->stats[i]);
    }
}

void mx_forward_stats(mx_session *session, size_t n_rows, mx_row_stats *stats)
{
    step s = step_make(session);
    s.stats = stats;
    for_tokens(&s, n_rows, stats_range);
}

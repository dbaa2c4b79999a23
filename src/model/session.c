/* The session's memory and the calls around the forward pass (llama.c). */
#include "model/session.h"

#include "model/forward.h"

#include <stdlib.h>
#include <string.h>

/* Rows of logits held at once when scoring. */
enum { SCORE_ROWS = 128 };

/* Rows that pass together over the keys; the kernels take so many at once. */
enum { QUERY_ROWS = 64 };

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* One allocation carved into 64-byte aligned parts: first pass sums, second pass
 * hands out. */
typedef struct carver {
    uint8_t *base; /* NULL while summing */
    size_t used;
} carver;

static void *carve(carver *c, size_t bytes)
{
    void *part = c->base != NULL ? c->base + c->used : NULL;
    c->used += (bytes + 63) / 64 * 64;
    return part;
}

/* Scratch for the largest operand and product of any matrix. */
static void scratch_sizes(const mx_model *model, size_t tokens, size_t *operand, size_t *product)
{
    const mx_matrix *head = mx_model_head(model);
    *operand = mx_operand_bytes(&model->backend, head, SCORE_ROWS);
    *product = mx_product_bytes(&model->backend, head);
    for (uint32_t layer = 0; layer < model->config.layers; layer++) {
        for (int p = 0; p < MX_PROJ_COUNT; p++) {
            const mx_matrix *matrix = &model->layers[layer].projections[p];
            *operand = max_size(*operand, mx_operand_bytes(&model->backend, matrix, tokens));
            *product = max_size(*product, mx_product_bytes(&model->backend, matrix));
        }
    }
}

static void carve_buffers(mx_session *session, carver *c)
{
    const mx_llama_config *config = &session->model->config;
    size_t tokens = session->config.max_tokens;
    size_t heads = (size_t)config->heads * config->head_dim;
    size_t kv = (size_t)config->kv_heads * config->head_dim;
    size_t operand, product;
    scratch_sizes(session->model, tokens, &operand, &product);
    size_t threads = (size_t)mx_team_size(session->model->backend.team);
    size_t angles = (size_t)session->config.max_context * (config->head_dim / 2);

    session->hidden = carve(c, tokens * config->hidden * sizeof(float));
    session->normed = carve(c, tokens * config->hidden * sizeof(float));
    session->q = carve(c, tokens * heads * sizeof(float));
    session->k = carve(c, tokens * kv * sizeof(float));
    session->v = carve(c, tokens * kv * sizeof(float));
    session->mixed = carve(c, tokens * heads * sizeof(float));
    session->gate = carve(c, tokens * config->intermediate * sizeof(float));
    session->up = carve(c, tokens * config->intermediate * sizeof(float));
    session->frequencies = carve(c, config->head_dim / 2 * sizeof(float));
    session->cos = carve(c, angles * sizeof(float));
    session->sin = carve(c, angles * sizeof(float));
    session->operand_scratch = carve(c, operand);
    session->product_scratch = carve(c, product);
    session->streams = carve(c, max_size(tokens, SCORE_ROWS) * sizeof(uint64_t));
    session->places = carve(c, tokens * sizeof(mx_place));
    session->query_tiles = carve(c, tokens * sizeof(mx_query_tile));
    session->filled = carve(c, session->config.max_sequences * sizeof(uint32_t));
    session->attention_stride = MX_ATTENTION_SCRATCH_ROWS * config->head_dim;
    session->attention_scratch = carve(c, threads * session->attention_stride * sizeof(float));
    session->row_stride = (config->hidden + 255u) / 256 * 256;
    session->rows = carve(c, threads * session->row_stride * sizeof(float));
}

static mx_status check_config(const mx_model *model, const mx_session_config *config, mx_error *err)
{
    if (config->max_tokens == 0 || config->max_sequences == 0 || config->max_context == 0) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "session: sizes must be at least 1");
    }
    if (config->max_context > model->config.context) {
        return mx_error_set(err, MX_ERR_ARGUMENT,
                            "session: %u positions, but the model has max_position_embeddings %u",
                            config->max_context, model->config.context);
    }
    return MX_OK;
}

mx_status mx_session_create(mx_model *model, const mx_session_config *config, mx_session **out,
                            mx_error *err)
{
    *out = NULL;
    MX_TRY(check_config(model, config, err));
    MX_TRY(mx_model_prepare(model, err));
    mx_session *session = calloc(1, sizeof *session);
    if (session == NULL) {
        return mx_error_nomem(err, "session", sizeof *session);
    }
    session->model = model;
    session->config = *config;
    mx_status status;
    carver c = {0};
    carve_buffers(session, &c);
    session->arena = aligned_alloc(64, c.used);
    if (session->arena == NULL) {
        status = mx_error_nomem(err, "session", c.used);
        goto done;
    }
    c = (carver){.base = session->arena};
    carve_buffers(session, &c);
    size_t capacity = (size_t)config->max_context + 15;
    size_t positions = config->keep_kv ? capacity / 16 * 16 * config->max_sequences
                                       : config->max_tokens + 16ull * config->max_sequences;
    MX_TRY_GOTO(status, mx_kv_init(&model->config, model->kv_type,
                                   config->keep_kv ? model->config.layers : 1, positions,
                                   &session->kv, err));
    memset(session->filled, 0, config->max_sequences * sizeof *session->filled);
    mx_forward_init(session);
    *out = session;
    session = NULL;
done:
    mx_session_free(session);
    return status;
}

void mx_session_free(mx_session *session)
{
    if (session == NULL) {
        return;
    }
    mx_kv_clear(&session->kv);
    free(session->arena);
    free(session->logits);
    free(session->score_hidden);
    free(session);
}

static mx_status check_segment(const mx_session *session, const mx_segment *segment, size_t index,
                               mx_error *err)
{
    const mx_session_config *config = &session->config;
    if (segment->sequence >= config->max_sequences || segment->n_tokens == 0) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "segment %zu: sequence or length out of range",
                            index);
    }
    if (!config->keep_kv && segment->start != 0) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "segment %zu: this session keeps no KV", index);
    }
    if (segment->start > config->max_context ||
        segment->n_tokens > config->max_context - segment->start) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "segment %zu: more than %u positions", index,
                            config->max_context);
    }
    if (config->keep_kv && segment->start > session->filled[segment->sequence]) {
        return mx_error_set(err, MX_ERR_ARGUMENT,
                            "segment %zu: start %u, but sequence %u has %u positions", index,
                            segment->start, segment->sequence, session->filled[segment->sequence]);
    }
    for (uint32_t i = 0; i < segment->n_tokens; i++) {
        int32_t id = segment->tokens[i];
        if (id < 0 || (uint32_t)id >= session->model->config.vocab) {
            return mx_error_set(err, MX_ERR_ARGUMENT,
                                "segment %zu: token %u: id %d is outside the vocabulary of %u",
                                index, i, id, session->model->config.vocab);
        }
    }
    return MX_OK;
}

/* Cuts tokens [first, first + n) of one sequence into query tiles of about QUERY_ROWS
 * rows, a row being one head of one token. */
static void add_query_tiles(mx_session *session, size_t first, uint32_t n)
{
    uint32_t group = session->model->config.heads / session->model->config.kv_heads;
    uint32_t most = group < QUERY_ROWS ? QUERY_ROWS / group : 1;
    for (uint32_t i = 0; i < n; i += most) {
        session->query_tiles[session->n_query_tiles++] =
            (mx_query_tile){.first = (uint32_t)first + i, .n_tokens = n - i < most ? n - i : most};
    }
}

/* Lays the segments out: per token its sequence's place in the KV store and its
 * position. */
static mx_status place_tokens(mx_session *session, const mx_segment *segments, size_t n_segments,
                              mx_error *err)
{
    size_t n = 0, packed = 0;
    session->n_query_tiles = 0;
    size_t capacity = ((size_t)session->config.max_context + 15) / 16 * 16;
    for (size_t s = 0; s < n_segments; s++) {
        const mx_segment *segment = &segments[s];
        MX_TRY(check_segment(session, segment, s, err));
        for (size_t other = 0; session->config.keep_kv && other < s; other++) {
            if (segments[other].sequence == segment->sequence) {
                return mx_error_set(err, MX_ERR_ARGUMENT, "segment %zu: sequence %u stands twice",
                                    s, segment->sequence);
            }
        }
        if (segment->n_tokens > session->config.max_tokens - n) {
            return mx_error_set(err, MX_ERR_ARGUMENT, "more than %u tokens in one call",
                                session->config.max_tokens);
        }
        size_t base = session->config.keep_kv ? segment->sequence * capacity : packed;
        for (uint32_t i = 0; i < segment->n_tokens; i++, n++) {
            session->places[n] = (mx_place){
                .base = base, .position = segment->start + i, .token = segment->tokens[i]};
        }
        add_query_tiles(session, n - segment->n_tokens, segment->n_tokens);
        packed += ((size_t)segment->n_tokens + 15) / 16 * 16;
    }
    session->n_tokens = n;
    return MX_OK;
}

/* Checks and places the tokens of a call; none are in force after a failure. */
static mx_status begin_call(mx_session *session, const mx_segment *segments, size_t n_segments,
                            mx_error *err)
{
    session->n_tokens = 0;
    if (n_segments == 0 || n_segments > session->config.max_sequences) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "%zu segments, but room for 1 to %u sequences",
                            n_segments, session->config.max_sequences);
    }
    mx_status status = place_tokens(session, segments, n_segments, err);
    if (status != MX_OK) {
        session->n_tokens = 0;
    }
    return status;
}

mx_status mx_session_forward(mx_session *session, const mx_segment *segments, size_t n_segments,
                             mx_error *err)
{
    MX_TRY(begin_call(session, segments, n_segments, err));
    mx_forward_run(session);
    for (size_t s = 0; s < n_segments; s++) {
        /* Not the larger of old and new: what lies beyond belongs to another text. */
        session->filled[segments[s].sequence] = segments[s].start + segments[s].n_tokens;
    }
    return MX_OK;
}

mx_status mx_session_embed(mx_session *session, const mx_segment *segments, size_t n_segments,
                           float *hidden, mx_error *err)
{
    MX_TRY(begin_call(session, segments, n_segments, err));
    mx_forward_embed(session);
    size_t width = session->model->config.hidden;
    memcpy(hidden, session->hidden, session->n_tokens * width * sizeof(float));
    return MX_OK;
}

mx_status mx_session_layer(mx_session *session, uint32_t layer, const mx_segment *segments,
                           size_t n_segments, float *hidden, mx_tap_fn tap, void *tap_ctx,
                           mx_error *err)
{
    if (layer >= session->model->config.layers) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "layer %u: the model has %u", layer,
                            session->model->config.layers);
    }
    MX_TRY(begin_call(session, segments, n_segments, err));
    size_t bytes = session->n_tokens * session->model->config.hidden * sizeof(float);
    for (size_t s = 0; s < n_segments; s++) {
        session->filled[segments[s].sequence] = 0;
    }
    memcpy(session->hidden, hidden, bytes);
    if (mx_forward_layer(session, layer, tap, tap_ctx)) {
        memcpy(hidden, session->hidden, bytes);
    }
    return MX_OK;
}

static mx_status check_rows(const mx_session *session, const uint32_t *rows, size_t n_rows,
                            mx_error *err)
{
    for (size_t i = 0; i < n_rows; i++) {
        if (rows[i] >= session->n_tokens) {
            return mx_error_set(err, MX_ERR_ARGUMENT, "row %u: the last call had %zu tokens",
                                rows[i], session->n_tokens);
        }
    }
    return MX_OK;
}

/* Gathered hidden states [SCORE_ROWS][hidden], allocated at first use. */
static mx_status reserve_score_hidden(mx_session *session, mx_error *err)
{
    size_t bytes = (size_t)SCORE_ROWS * session->model->config.hidden * sizeof(float);
    if (session->score_hidden == NULL) {
        session->score_hidden = malloc(bytes);
    }
    return session->score_hidden != NULL ? MX_OK : mx_error_nomem(err, "hidden states", bytes);
}

mx_status mx_session_logits(mx_session *session, const uint32_t *rows, size_t n_rows, float *out,
                            mx_error *err)
{
    MX_TRY(check_rows(session, rows, n_rows, err));
    MX_TRY(reserve_score_hidden(session, err));
    for (size_t i = 0; i < n_rows; i += SCORE_ROWS) {
        size_t n = n_rows - i < SCORE_ROWS ? n_rows - i : SCORE_ROWS;
        mx_forward_logits(session, rows + i, n, out + i * session->model->config.vocab);
    }
    return MX_OK;
}

mx_status mx_session_score(mx_session *session, const uint32_t *rows, const int32_t *picks,
                           size_t n_rows, mx_row_stats *stats, float *picked, mx_error *err)
{
    size_t vocab = session->model->config.vocab;
    MX_TRY(check_rows(session, rows, n_rows, err));
    MX_TRY(reserve_score_hidden(session, err));
    if (session->logits == NULL) {
        session->logits = malloc(SCORE_ROWS * vocab * sizeof(float));
        if (session->logits == NULL) {
            return mx_error_nomem(err, "logits", SCORE_ROWS * vocab * sizeof(float));
        }
    }
    for (size_t i = 0; i < n_rows; i++) {
        if (picks[i] < 0 || (size_t)picks[i] >= vocab) {
            return mx_error_set(err, MX_ERR_ARGUMENT, "pick %d is outside the vocabulary",
                                picks[i]);
        }
    }
    for (size_t i = 0; i < n_rows; i += SCORE_ROWS) {
        size_t n = n_rows - i < SCORE_ROWS ? n_rows - i : SCORE_ROWS;
        mx_forward_logits(session, rows + i, n, session->logits);
        mx_forward_stats(session, n, stats + i);
        for (size_t j = 0; j < n; j++) {
            picked[i + j] = session->logits[j * vocab + (size_t)picks[i + j]];
        }
    }
    return MX_OK;
}

double mx_session_attention_seconds(const mx_session *session)
{
    return session->attention_seconds;
}

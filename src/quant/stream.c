#include "quant/moments.h"

#include "model/forward.h"

#include <stdlib.h>

/* Tokens run together: enough to keep every core busy. */
enum { STREAM_TOKENS = 4096 };

static float *window_hidden(const mx_stream *stream, uint32_t window)
{
    size_t width = stream->model->config.hidden;
    return (float *)stream->hidden.data + (size_t)window * stream->windows->length * width;
}

/* Segments of windows [first, first + step), of which there may be fewer. */
static uint32_t set_segments(mx_stream *stream, uint32_t first)
{
    const mx_windows *windows = stream->windows;
    uint32_t left = windows->n - first, n = left < stream->step ? left : stream->step;
    for (uint32_t i = 0; i < n; i++) {
        stream->segments[i] =
            (mx_segment){.sequence = i,
                         .tokens = windows->tokens + (size_t)(first + i) * windows->length,
                         .n_tokens = windows->length};
    }
    return n;
}

static mx_status embed_windows(mx_stream *stream, mx_error *err)
{
    for (uint32_t first = 0; first < stream->windows->n; first += stream->step) {
        uint32_t n = set_segments(stream, first);
        MX_TRY(mx_session_embed(stream->session, stream->segments, n, window_hidden(stream, first),
                                err));
    }
    return MX_OK;
}

mx_status mx_stream_open(mx_model *model, const mx_stream_config *config, mx_stream *out,
                         mx_error *err)
{
    const mx_windows *windows = config->windows;
    uint32_t step = STREAM_TOKENS / windows->length;
    step = step > windows->n ? windows->n : step;
    step = step > 0 ? step : 1;
    *out = (mx_stream){
        .model = model, .windows = windows, .step = step, .chunk = (size_t)step * windows->length};
    const mx_session_config session = {
        .max_tokens = step * windows->length,
        .max_sequences = step,
        .max_context = windows->length,
    };
    size_t bytes = (size_t)windows->n * windows->length * model->config.hidden * sizeof(float);
    mx_status status;
    out->segments = calloc(step, sizeof *out->segments);
    if (out->segments == NULL) {
        return mx_error_nomem(err, "segments", step * sizeof *out->segments);
    }
    MX_TRY_GOTO(status,
                mx_spill_open(bytes, config->spill_limit, config->spill_dir, &out->hidden, err));
    MX_TRY_GOTO(status, mx_session_create(model, &session, &out->session, err));
    status = embed_windows(out, err);
done:
    if (status != MX_OK) {
        mx_stream_close(out);
    }
    return status;
}

void mx_stream_close(mx_stream *stream)
{
    mx_session_free(stream->session);
    mx_spill_close(&stream->hidden);
    free(stream->segments);
    *stream = (mx_stream){0};
}

typedef struct tap {
    mx_session *session;
    mx_projection projection;
    mx_input_fn fn;
    void *ctx;
} tap;

static bool tap_input(void *ctx, uint32_t layer, mx_projection projection, const float *x,
                      size_t n_tokens)
{
    (void)layer;
    const tap *t = ctx;
    if (projection != t->projection) {
        return true;
    }
    t->fn(t->ctx, x, t->session->streams, n_tokens);
    return false;
}

mx_status mx_stream_tap(mx_stream *stream, uint32_t layer, mx_projection projection, uint32_t first,
                        mx_input_fn fn, void *ctx, mx_error *err)
{
    tap t = {.session = stream->session, .projection = projection, .fn = fn, .ctx = ctx};
    uint32_t n = set_segments(stream, first);
    return mx_session_layer(stream->session, layer, stream->segments, n,
                            window_hidden(stream, first), tap_input, &t, err);
}

mx_status mx_stream_advance(mx_stream *stream, uint32_t layer, mx_error *err)
{
    for (uint32_t first = 0; first < stream->windows->n; first += stream->step) {
        uint32_t n = set_segments(stream, first);
        MX_TRY(mx_session_layer(stream->session, layer, stream->segments, n,
                                window_hidden(stream, first), NULL, NULL, err));
    }
    return MX_OK;
}

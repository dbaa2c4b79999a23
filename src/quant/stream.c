#include "quant/stream.h"

#include "model/forward.h"

#include <stdlib.h>

static float *window_hidden(const mx_stream *stream, uint32_t window)
{
    size_t width = stream->session->model->config.hidden;
    return stream->hidden + (size_t)window * stream->windows->length * width;
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
    uint32_t step = config->max_tokens / windows->length;
    step = step > windows->n ? windows->n : step;
    step = step > 0 ? step : 1;
    *out = (mx_stream){.windows = windows, .step = step};
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
                mx_spill_open(bytes, config->spill_limit, config->spill_dir, &out->room, err));
    out->hidden = out->room.data;
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
    mx_spill_close(&stream->room);
    free(stream->segments);
    *stream = (mx_stream){0};
}

mx_status mx_stream_run(mx_stream *stream, uint32_t layer, uint32_t first, mx_tap_fn tap, void *ctx,
                        mx_error *err)
{
    uint32_t n = set_segments(stream, first);
    return mx_session_layer(stream->session, layer, stream->segments, n,
                            window_hidden(stream, first), tap, ctx, err);
}

mx_status mx_stream_run_all(mx_stream *stream, uint32_t layer, mx_tap_fn tap, void *ctx,
                            mx_error *err)
{
    for (uint32_t first = 0; first < stream->windows->n; first += stream->step) {
        MX_TRY(mx_stream_run(stream, layer, first, tap, ctx, err));
    }
    return MX_OK;
}

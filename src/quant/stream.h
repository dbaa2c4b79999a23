/*
 * Hidden states of all calibration windows on their way through a model, layer by
 * layer.
 */
#ifndef MX_QUANT_STREAM_H
#define MX_QUANT_STREAM_H

#include "model/session.h"
#include "quant/calibration.h"
#include "quant/spill.h"

typedef struct mx_stream_config {
    const mx_windows *windows;
    uint32_t max_tokens; /* run together: as many windows as they hold, at least one */
    const char *spill_dir;
    size_t spill_limit;
} mx_stream_config;

/* The inputs of a layer for all windows. */
typedef struct mx_stream {
    const mx_windows *windows;
    mx_session *session;
    mx_segment *segments; /* [step] */
    mx_spill room;        /* behind hidden */
    float *hidden;        /* [windows][length][hidden] */
    uint32_t step;        /* windows run together, whatever the threads */
} mx_stream;

/* Embeds the windows: hidden is then the input of layer 0. The model is borrowed. */
mx_status mx_stream_open(mx_model *model, const mx_stream_config *config, mx_stream *out,
                         mx_error *err);
void mx_stream_close(mx_stream *stream); /* idempotent */

/*
 * Runs `layer` over windows [first, first + step): their hidden states become its
 * output, unless `tap` (as of mx_session_layer) ends it before.
 */
mx_status mx_stream_run(mx_stream *stream, uint32_t layer, uint32_t first, mx_tap_fn tap, void *ctx,
                        mx_error *err);
/* The same over all windows, step by step. */
mx_status mx_stream_run_all(mx_stream *stream, uint32_t layer, mx_tap_fn tap, void *ctx,
                            mx_error *err);

#endif

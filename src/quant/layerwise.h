/*
 * Quantizes a model layer by layer with calibration. The hidden states of all
 * calibration windows stream through the quantized prefix; inside a layer the
 * groups q k v, o, gate up, down follow each other, each seeing the inputs that
 * the groups before it, quantized, produce.
 */
#ifndef MX_QUANT_LAYERWISE_H
#define MX_QUANT_LAYERWISE_H

#include "model/model.h"
#include "quant/method.h"

/* Where codes go, and where those of an interrupted run come from. */
typedef struct mx_layer_sink {
    void *ctx;
    /* True when the projection's codes are there already. */
    bool (*has)(void *ctx, uint32_t layer, mx_projection projection);
    /* Reads them back: `packed` receives codes, then scales. */
    mx_status (*load)(void *ctx, uint32_t layer, mx_projection projection, uint8_t *packed,
                      mx_error *err);
    mx_status (*store)(void *ctx, uint32_t layer, mx_projection projection, const uint8_t *codes,
                       const uint8_t *scales, mx_error *err);
} mx_layer_sink;

typedef struct mx_layerwise {
    const char *model_path;
    const mx_specs *specs; /* weights of a scaled format */
    const mx_method *method;
    mx_method_settings settings;
    const char *calib_path; /* NULL: the model's own text */
    uint32_t samples, length;
    uint64_t seed;
    int threads;
    const char *spill_dir; /* for hidden states beyond spill_limit bytes */
    size_t spill_limit;
    mx_watch watch;
    mx_layer_sink sink;
    /* Told at the end. */
    uint32_t windows;       /* used: fewer than `samples` when the text is short */
    uint64_t source_tokens; /* of the text; 0: sampled */
} mx_layerwise;

/*
 * Runs the whole. Excluded projections stay as they are. Equal jobs store equal
 * bytes, whatever the threads and wherever an earlier run stopped.
 */
mx_status mx_layerwise_run(mx_layerwise *job, mx_error *err);

#endif

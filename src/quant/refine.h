/*
 * What a method gets that improves the codes of a whole decoder layer at once,
 * after they were chosen projection by projection.
 */
#ifndef MX_QUANT_REFINE_H
#define MX_QUANT_REFINE_H

#include "model/model.h"
#include "quant/method.h"

struct mx_refine_problem {
    const mx_model *model; /* for its sizes, norms, biases and backend */
    uint32_t layer;
    const mx_quant *quant;               /* of weights: a scaled format */
    const float *weights[MX_PROJ_COUNT]; /* [rows][cols], unquantized */
    /* Packed codes [rows][mx_row_code_bytes], rewritten, and scales
     * [rows][mx_row_scale_count]; NULL: the projection stays unquantized. */
    uint8_t *codes[MX_PROJ_COUNT];
    const uint8_t *scales[MX_PROJ_COUNT];
    /* [windows][length][hidden]: the layer's input behind the quantized layers before
     * it, and the unquantized model's output of the layer (NULL: not heeded). */
    const float *x, *taught;
    uint32_t windows, length;
    uint64_t seed;
    const char *spill_dir; /* for a third such array beyond spill_limit bytes */
    size_t spill_limit;
    mx_method_settings settings;
    const char *name; /* of the layer, for messages */
    /* Called now and then with the share done, in [0, 1]; a failure ends the work. */
    mx_status (*progress)(void *ctx, double share, mx_error *err);
    void *progress_ctx;
};

#endif

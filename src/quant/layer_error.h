/*
 * Where a quantized model goes wrong: the error of every projection's weights, and with
 * text that of its outputs and of every layer's.
 */
#ifndef MX_QUANT_LAYER_ERROR_H
#define MX_QUANT_LAYER_ERROR_H

#include "quant/calibration.h"

/* One decoder layer. With W, x of the base and W', x' of the quantized model, sums over
 * all weights, or all tokens and outputs: */
typedef struct mx_layer_error {
    /* 10 log10(sum W^2 / sum (W' - W)^2), dB; Inf where both are equal. */
    double sqnr[MX_PROJ_COUNT];
    /* sum |W' Q(x) - W x|^2 / sum |W x|^2, Q the quantized model's rounding of inputs: the
     * error that the projection adds by itself. NaN without text. */
    double output[MX_PROJ_COUNT];
    /* sum |h' - h|^2 / sum |h|^2 of the layer's output h (the residual stream), h' of the
     * quantized model from its first layer on. NaN without text. */
    double hidden;
} mx_layer_error;

typedef struct mx_layer_errors {
    mx_layer_error *layers; /* [n], owned */
    uint32_t n;
    bool norms_differ; /* factors were moved between norms and weights: W and W' are unlike */
} mx_layer_errors;

/*
 * Measures `quantized` against `base`, two models of the same shape that have not been
 * used; `windows` NULL: weights alone. Results do not depend on the threads.
 */
mx_status mx_layer_errors_measure(mx_model *base, mx_model *quantized, const mx_windows *windows,
                                  mx_watch watch, mx_layer_errors *out, mx_error *err);
void mx_layer_errors_clear(mx_layer_errors *errors);

/* The report as two tables, or as JSON; malloc'd. `windows` as measured. */
mx_status mx_layer_errors_text(const mx_layer_errors *errors, char **out, mx_error *err);
mx_status mx_layer_errors_json(const mx_layer_errors *errors, const mx_model *base,
                               const mx_model *quantized, const mx_windows *windows, char **out,
                               mx_error *err);

#endif

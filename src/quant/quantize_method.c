/* A method's settings from the caller's options, and their record. */
#include "quant/quantize_plan.h"

#include "base/file.h"

mx_method_settings mx_quantize_method_settings(const mx_quantize_options *options)
{
    return (mx_method_settings){
        .search_range = options->search_range > 0 ? (int)options->search_range : 1,
        .damp = options->damp > 0 ? (double)options->damp : MX_METHOD_DAMP,
        .correct = (double)options->correct,
        .passes = MX_METHOD_PASSES,
        .iterations = options->iterations > 0 ? options->iterations : MX_METHOD_ITERATIONS,
    };
}

mx_status mx_quantize_method_json(const mx_method *method, const mx_quantize_options *options,
                                  json_t **out, mx_error *err)
{
    if (method->quantize == NULL) {
        *out = json_string(method->name);
        return *out != NULL ? MX_OK : mx_error_nomem(err, "method", 0);
    }
    const mx_method_settings settings = mx_quantize_method_settings(options);
    uint32_t samples = options->calib_samples, length = options->calib_length;
    *out = json_pack("{s:s, s:s, s:I, s:I, s:I}", "name", method->name, "calibration",
                     options->calib_path != NULL ? mx_path_base(options->calib_path) : "sampled",
                     "samples", (json_int_t)(samples > 0 ? samples : MX_CALIB_SAMPLES), "length",
                     (json_int_t)(length > 0 ? length : MX_CALIB_LENGTH), "seed",
                     (json_int_t)options->seed);
    if (*out == NULL) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "calibration: the file name is not UTF-8");
    }
    if (method->describe != NULL) {
        method->describe(&settings, *out);
    }
    return MX_OK;
}

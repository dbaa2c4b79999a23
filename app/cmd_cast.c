#include "app.h"

#include "numeric.h"
#include "progress.h"

static int cast(const app_command *command, char **operands, app_numeric *numeric)
{
    if (numeric->weights == NULL) {
        return app_usage_error(command, "--format FORMAT is required");
    }
    mx_specs *specs = NULL;
    int code = app_numeric_specs(command, numeric, &specs);
    if (code != APP_GO) {
        return code;
    }
    mx_error err = {0};
    char *report = NULL;
    mx_status status =
        mx_cast_run(operands[0], operands[1], specs, app_progress_begin(), &report, &err);
    app_progress_end();
    mx_specs_free(specs);
    if (status == MX_ERR_CANCELLED) {
        app_error("interrupted");
        return APP_FAILED;
    }
    app_print_take(report);
    return app_status(status, &err);
}

int app_cast(int argc, char **argv)
{
    app_numeric numeric = {0};
    const app_option options[] = {
        {"format", 0, APP_TEXT, &numeric.weights, "FORMAT",
         "element format (required); \"mxlm formats\" lists them"},
        APP_BLOCK_ROW(numeric),
        APP_SCALE_RULE_ROW(numeric),
        APP_ROUND_ROW(numeric),
        APP_SEED_ROW(numeric),
    };
    const app_command command = {
        .name = "cast",
        .synopsis = "--format FORMAT [options] IN.safetensors OUT.safetensors",
        .about = "Quantizes and dequantizes every float tensor of IN along its last axis and\n"
                 "writes the values to OUT; other tensors are copied. Prints for each tensor the\n"
                 "signal-to-quantization-noise ratio, the largest error, and the shares of\n"
                 "saturated values and of values flushed to zero.\n",
        .options = options,
        .n_options = APP_COUNT(options),
        .min_operands = 2,
        .max_operands = 2,
    };
    size_t n = 0;
    int code = app_options_parse(&command, argc, argv, &n);
    if (code == APP_GO) {
        code = cast(&command, argv + 1, &numeric);
    }
    return code;
}

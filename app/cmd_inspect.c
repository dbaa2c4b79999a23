#include "app.h"

#include "progress.h"

typedef struct inspect_args {
    bool json;
    const char *base_path; /* --error */
    int threads;
    mx_errors_options errors;
} inspect_args;

static mx_status inspect(const char *path, const inspect_args *args, char **text, mx_error *err)
{
    mx_model *model = NULL;
    /* One thread: nothing is computed. */
    mx_status status = mx_model_open(path, 1, &model, err);
    if (status == MX_OK) {
        status = mx_model_inspect(model, args->json, text, err);
    }
    mx_model_close(model);
    return status;
}

static mx_status inspect_errors(const char *path, const inspect_args *args, char **text,
                                mx_error *err)
{
    mx_model *base = NULL, *model = NULL;
    mx_watch watch = app_progress_begin();
    mx_status status = mx_model_open(args->base_path, args->threads, &base, err);
    if (status == MX_OK) {
        status = mx_model_open(path, args->threads, &model, err);
    }
    if (status == MX_OK) {
        status = mx_model_errors(base, model, &args->errors, watch, args->json, text, err);
    }
    app_progress_end();
    mx_model_close(base);
    mx_model_close(model);
    return status;
}

/* Options that say how errors are measured mean nothing without --error. */
static bool has_stray_option(const inspect_args *args)
{
    const mx_errors_options *errors = &args->errors;
    return args->base_path == NULL &&
           (errors->calib_path != NULL || errors->calib_samples > 0 || errors->calib_length > 0);
}

int app_inspect(int argc, char **argv)
{
    inspect_args args = {0};
    const app_option options[] = {
        {"error", 0, APP_TEXT, &args.base_path, "BASE",
         "show MODEL's error against the unquantized BASE by layer and\n"
         "projection: SQNR of the weights; with --calib, of outputs too"},
        {"calib", 0, APP_TEXT, &args.errors.calib_path, "FILE.txt",
         "--error: text for the errors of outputs"},
        {"calib-samples", 0, APP_U32, &args.errors.calib_samples, "N", "windows of it (8)"},
        {"calib-length", 0, APP_U32, &args.errors.calib_length, "N", "tokens of a window (512)"},
        {"threads", 0, APP_THREADS, &args.threads, "N",
         "--error: threads (all cores); results do not depend on it"},
        {"json", 0, APP_FLAG, &args.json, NULL, "print JSON"},
    };
    const app_command command = {
        .name = "inspect",
        .synopsis = "MODEL [--json] | --error BASE MODEL [--calib FILE.txt] [--json]",
        .about = "Shows a model's configuration, tensors, formats and sizes; or, with --error,\n"
                 "where a quantized model departs from the one that it was made of.\n",
        .options = options,
        .n_options = APP_COUNT(options),
        .min_operands = 1,
        .max_operands = 1,
    };
    size_t n = 0;
    int code = app_options_parse(&command, argc, argv, &n);
    if (code != APP_GO) {
        return code;
    }
    if (has_stray_option(&args)) {
        return app_usage_error(&command, "--calib and its options need --error BASE");
    }
    mx_error err = {0};
    char *text = NULL;
    mx_status status = args.base_path != NULL ? inspect_errors(argv[1], &args, &text, &err)
                                              : inspect(argv[1], &args, &text, &err);
    if (status == MX_ERR_CANCELLED) {
        app_error("interrupted");
        return APP_FAILED;
    }
    app_print_take(text);
    return app_status(status, &err);
}

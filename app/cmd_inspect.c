#include "app.h"

int app_inspect(int argc, char **argv)
{
    bool json = false;
    const app_option options[] = {
        {"json", 0, APP_FLAG, &json, NULL, "print JSON"},
    };
    const app_command command = {
        .name = "inspect",
        .synopsis = "MODEL [--json]",
        .about = "Shows a model's configuration, tensors, formats and sizes.\n",
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
    mx_error err = {0};
    mx_model *model = NULL;
    char *text = NULL;
    /* One thread: nothing is computed. */
    mx_status status = mx_model_open(argv[1], 1, &model, &err);
    if (status == MX_OK) {
        status = mx_model_inspect(model, json, &text, &err);
    }
    mx_model_close(model);
    app_print_take(text);
    return app_status(status, &err);
}

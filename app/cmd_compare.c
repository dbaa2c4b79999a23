#include "app.h"

int app_compare(int argc, char **argv)
{
    bool json = false;
    const app_option options[] = {
        {"json", 0, APP_FLAG, &json, NULL, "print JSON instead of Markdown"},
    };
    const app_command command = {
        .name = "compare",
        .synopsis = "BASE.json NEW.json ... [--json]",
        .about = "Compares results that \"mxlm eval --output\" wrote; the first is the baseline.\n"
                 "Prints accuracy and perplexity with standard errors, McNemar's p for accuracy\n"
                 "flips (when both runs hold the same documents), memory of weights and\n"
                 "activations, and runtime.\n",
        .options = options,
        .n_options = APP_COUNT(options),
        .min_operands = 2,
        .max_operands = SIZE_MAX,
    };
    size_t n = 0;
    int code = app_options_parse(&command, argc, argv, &n);
    if (code != APP_GO) {
        return code;
    }
    mx_error err = {0};
    char *text = NULL;
    mx_status status = mx_compare_run((const char *const *)(argv + 1), n, json ? NULL : &text,
                                      json ? &text : NULL, &err);
    app_print_take(text);
    return app_status(status, &err);
}

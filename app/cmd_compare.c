#include "app.h"

#include <stdlib.h>

/* BASE, then RTN's results when they are given, then the others. */
static int compare(char **operands, size_t n, const char *rtn, bool json)
{
    mx_error err = {0};
    char *text = NULL;
    size_t n_paths = 0;
    const char **paths = malloc((n + 1) * sizeof *paths);
    if (paths == NULL) {
        app_error("out of memory");
        return APP_FAILED;
    }
    paths[n_paths++] = operands[0];
    if (rtn != NULL) {
        paths[n_paths++] = rtn;
    }
    for (size_t i = 1; i < n; i++) {
        paths[n_paths++] = operands[i];
    }
    mx_status status = mx_compare_run(paths, n_paths, rtn != NULL ? 1 : 0, json ? NULL : &text,
                                      json ? &text : NULL, &err);
    free(paths);
    app_print_take(text);
    return app_status(status, &err);
}

int app_compare(int argc, char **argv)
{
    bool json = false;
    const char *rtn = NULL;
    const app_option options[] = {
        {"rtn", 0, APP_TEXT, &rtn, "FILE.json",
         "results of plain rounding: shown beside BASE, and with each NEW\n"
         "the share of its loss that is recovered"},
        {"json", 0, APP_FLAG, &json, NULL, "print JSON instead of Markdown"},
    };
    const app_command command = {
        .name = "compare",
        .synopsis = "BASE.json NEW.json ... [--rtn FILE.json] [--json]",
        .about = "Compares results that \"mxlm eval --output\" wrote; the first is the baseline.\n"
                 "Prints accuracy and perplexity with standard errors, McNemar's p for accuracy\n"
                 "flips (when both runs hold the same documents), KL divergence where a run has\n"
                 "it, memory of weights and activations, and runtime.\n",
        .options = options,
        .n_options = APP_COUNT(options),
        .min_operands = 2,
        .max_operands = SIZE_MAX,
    };
    size_t n = 0;
    int code = app_options_parse(&command, argc, argv, &n);
    return code == APP_GO ? compare(argv + 1, n, rtn, json) : code;
}

#include "app.h"

int app_formats(int argc, char **argv)
{
    bool json = false;
    const app_option options[] = {
        {"json", 0, APP_FLAG, &json, NULL, "print JSON"},
    };
    const app_command command = {
        .name = "formats",
        .synopsis = "[--json]",
        .about = "Lists the element formats, scale rules and rounding modes that the other verbs\n"
                 "take. A name is accepted with and without \"mx\" in front.\n",
        .options = options,
        .n_options = APP_COUNT(options),
    };
    size_t n = 0;
    int code = app_options_parse(&command, argc, argv, &n);
    if (code != APP_GO) {
        return code;
    }
    mx_error err = {0};
    char *table = NULL;
    code = app_status(mx_formats_table(json, &table, &err), &err);
    app_print_take(table);
    return code;
}

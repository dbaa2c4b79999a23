#include "app.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define HELP_INDENT 30 /* column where an option's explanation begins */

void app_list_free(app_list *list)
{
    free(list->items);
    list->items = NULL;
    list->count = 0;
}

int app_usage_error(const app_command *command, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "mxlm: %s: ", command->name);
    vfprintf(stderr, fmt, args);
    fprintf(stderr, " (see mxlm %s --help)\n", command->name);
    va_end(args);
    return APP_USAGE;
}

/* ---- help ---------------------------------------------------------------- */

static void option_spelling(const app_option *option, char *out, size_t size)
{
    const char *value = option->value != NULL ? option->value : "";
    const char *space = option->value != NULL ? " " : "";
    if (option->letter != 0) {
        snprintf(out, size, "-%c, --%s%s%s", option->letter, option->name, space, value);
    } else {
        snprintf(out, size, "--%s%s%s", option->name, space, value);
    }
}

static void option_help(const char *spelling, const char *help, FILE *out)
{
    fprintf(out, "  %-*s", HELP_INDENT - 2, spelling);
    /* A spelling that reaches the column would run into the explanation. */
    if (strlen(spelling) > HELP_INDENT - 4) {
        fprintf(out, "\n%*s", HELP_INDENT, "");
    }
    for (const char *c = help; *c != '\0'; c++) {
        fputc(*c, out);
        if (*c == '\n') {
            fprintf(out, "%*s", HELP_INDENT, "");
        }
    }
    fputc('\n', out);
}

void app_options_help(const app_command *command, FILE *out)
{
    fprintf(out, "usage: mxlm %s %s\n\n%s\noptions:\n", command->name, command->synopsis,
            command->about);
    for (size_t i = 0; i < command->n_options; i++) {
        char spelling[96];
        option_spelling(&command->options[i], spelling, sizeof(spelling));
        option_help(spelling, command->options[i].help, out);
    }
    option_help("-h, --help", "show this help", out);
}

/* ---- values --------------------------------------------------------------- */

/* Decimal digits only: strtoull alone would take "-1", " 1" and "1x". */
static bool parse_unsigned(const char *text, uint64_t max, uint64_t *out)
{
    if (text[0] == '\0' || text[strspn(text, "0123456789")] != '\0') {
        return false;
    }
    errno = 0;
    unsigned long long value = strtoull(text, NULL, 10);
    if (errno != 0 || value > max) {
        return false;
    }
    *out = value;
    return true;
}

static bool parse_real(const char *text, float *out)
{
    char *end = NULL;
    if (text[0] == '\0' || strchr("0123456789.", text[0]) == NULL) {
        return false;
    }
    float value = strtof(text, &end);
    if (*end != '\0' || !isfinite(value)) {
        return false;
    }
    *out = value;
    return true;
}

static int bad_number(const app_command *command, const app_option *option, const char *value,
                      const char *wanted)
{
    return app_usage_error(command, "--%s: '%s' is not %s", option->name, value, wanted);
}

static int store_list(app_list *list, int argc, const char *value)
{
    if (list->items == NULL) {
        /* No command line repeats an option more often than it has words. */
        list->items = calloc((size_t)argc, sizeof(*list->items));
        if (list->items == NULL) {
            app_error("out of memory");
            return APP_FAILED;
        }
    }
    list->items[list->count++] = value;
    return APP_GO;
}

static int store_value(const app_command *command, const app_option *option, int argc,
                       const char *value)
{
    uint64_t number = 0;
    switch (option->kind) {
    case APP_FLAG:
        break; /* has no value: never called */
    case APP_TEXT:
        *(const char **)option->target = value;
        break;
    case APP_LIST:
        return store_list(option->target, argc, value);
    case APP_U32:
        if (!parse_unsigned(value, UINT32_MAX, &number)) {
            return bad_number(command, option, value, "a whole number from 0 to 4294967295");
        }
        *(uint32_t *)option->target = (uint32_t)number;
        break;
    case APP_U64:
        if (!parse_unsigned(value, UINT64_MAX, option->target)) {
            return bad_number(command, option, value, "a whole number");
        }
        break;
    case APP_THREADS:
        if (!parse_unsigned(value, 256, &number)) {
            return bad_number(command, option, value, "a whole number from 0 to 256");
        }
        *(int *)option->target = (int)number;
        break;
    case APP_REAL:
        if (!parse_real(value, option->target)) {
            return bad_number(command, option, value, "a number of 0 or more");
        }
        break;
    }
    return APP_GO;
}

/* ---- the command line ------------------------------------------------------ */

/* The option of a word "--name", "--name=value" or "-l"; `*inline_value` is the
 * text behind '=', or NULL. */
static const app_option *find_option(const app_command *command, const char *word,
                                     const char **inline_value)
{
    *inline_value = NULL;
    bool is_long = word[1] == '-';
    const char *name = word + (is_long ? 2 : 1);
    size_t length = strcspn(name, "=");
    for (size_t i = 0; i < command->n_options; i++) {
        const app_option *option = &command->options[i];
        bool match =
            is_long ? strlen(option->name) == length && strncmp(option->name, name, length) == 0
                    : option->letter != 0 && name[0] == option->letter && name[1] == '\0';
        if (match) {
            if (is_long && name[length] == '=') {
                *inline_value = name + length + 1;
            }
            return option;
        }
    }
    return NULL;
}

/* Handles the option word argv[*index]; advances over a separate value. */
static int parse_option(const app_command *command, int argc, char **argv, int *index)
{
    const char *word = argv[*index];
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        app_options_help(command, stdout);
        return APP_OK;
    }
    const char *value = NULL;
    const app_option *option = find_option(command, word, &value);
    if (option == NULL) {
        return app_usage_error(command, "unknown option '%.*s'", (int)strcspn(word, "="), word);
    }
    if (option->kind == APP_FLAG) {
        if (value != NULL) {
            return app_usage_error(command, "--%s takes no value", option->name);
        }
        *(bool *)option->target = true;
        return APP_GO;
    }
    if (value == NULL) {
        if (*index + 1 >= argc) {
            return app_usage_error(command, "--%s needs a value: %s", option->name, option->value);
        }
        value = argv[++*index];
    }
    return store_value(command, option, argc, value);
}

int app_options_parse(const app_command *command, int argc, char **argv, size_t *n_operands)
{
    int n = 0;
    bool only_operands = false;
    for (int i = 1; i < argc; i++) {
        char *word = argv[i];
        if (only_operands || word[0] != '-' || word[1] == '\0') {
            argv[1 + n++] = word;
        } else if (strcmp(word, "--") == 0) {
            only_operands = true;
        } else {
            int code = parse_option(command, argc, argv, &i);
            if (code != APP_GO) {
                return code;
            }
        }
    }
    *n_operands = (size_t)n;
    if (*n_operands < command->min_operands) {
        return app_usage_error(command, "too few arguments: mxlm %s %s", command->name,
                               command->synopsis);
    }
    if (*n_operands > command->max_operands) {
        return app_usage_error(command, "unexpected argument '%s'",
                               argv[1 + command->max_operands]);
    }
    return APP_GO;
}

/*
 * The one parser of command lines. A verb declares its options in a table; the
 * same table checks values and prints the help, so the two cannot disagree.
 */
#ifndef APP_OPTIONS_H
#define APP_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef enum app_option_kind {
    APP_FLAG,    /* bool: no value */
    APP_TEXT,    /* const char *: borrowed from argv */
    APP_LIST,    /* app_list: may be repeated */
    APP_U32,     /* uint32_t */
    APP_U64,     /* uint64_t */
    APP_THREADS, /* int: 0 to 256 */
    APP_REAL,    /* float, finite and not negative */
} app_option_kind;

/* Values of a repeated option; the array is freed with app_list_free, the
 * strings are argv's. */
typedef struct app_list {
    const char **items;
    size_t count;
} app_list;

void app_list_free(app_list *list);

typedef struct app_option {
    const char *name; /* without dashes: "batch-size" is --batch-size */
    char letter;      /* a one-letter form, 0 for none */
    app_option_kind kind;
    void *target;
    const char *value; /* name of the value in the help; NULL for flags */
    const char *help;  /* a newline starts a new line at the same indent */
} app_option;

typedef struct app_command {
    const char *name;     /* the verb */
    const char *synopsis; /* what follows "mxlm NAME" */
    const char *about;    /* a paragraph, ending in a newline */
    const app_option *options;
    size_t n_options;
    size_t min_operands, max_operands;
} app_command;

#define APP_GO (-1) /* parsed: carry on */

/*
 * Parses argv[1..): "--name value", "--name=value", "-l value", flags, operands
 * in any order, "--" before operands that start with a dash. Operands are moved
 * to the front of argv[1..) and counted. Returns APP_GO, or an exit code after
 * printing the help (--help, -h) or a usage error.
 */
int app_options_parse(const app_command *command, int argc, char **argv, size_t *n_operands);

void app_options_help(const app_command *command, FILE *out);

/* "mxlm: VERB: TEXT" and where to find help, on stderr; returns APP_USAGE. */
int app_usage_error(const app_command *command, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#endif

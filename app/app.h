/*
 * The mxlm program: verbs over mxlm.h. A verb is one file cmd_NAME.c and one
 * line in verbs.def.
 */
#ifndef APP_H
#define APP_H

#include "mxlm.h"

#include "options.h"

/* Exit codes of every verb. */
enum {
    APP_OK = 0,
    APP_FAILED = 1, /* the work failed: one line on stderr says why */
    APP_USAGE = 2,  /* the command line is wrong */
};

#define APP_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* argv[0] is the verb's name; returns an exit code. */
typedef int (*app_verb_fn)(int argc, char **argv);

#define APP_VERB(name, summary) int app_##name(int argc, char **argv);
#include "verbs.def"
#undef APP_VERB

/* Prints "mxlm: TEXT" on stderr. */
void app_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/*
 * Exit code of a library call's status; prints `err` when it failed. What the
 * library calls a wrong argument is a usage error, everything else a failure.
 */
int app_status(mx_status status, const mx_error *err);

/* Writes a string of the library to stdout, ending in one newline, and frees it;
 * NULL writes nothing. */
void app_print_take(char *text);

#endif

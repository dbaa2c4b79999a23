/* Status codes travel up; one line of text says what went wrong and where. */
#ifndef MX_BASE_STATUS_H
#define MX_BASE_STATUS_H

#include "mxlm.h"

#if defined(__GNUC__)
#define MX_PRINTF(fmt_index, arg_index) __attribute__((format(printf, fmt_index, arg_index)))
#else
#define MX_PRINTF(fmt_index, arg_index)
#endif

/* Number of elements of an array object. */
#define MX_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/*
 * Fills `err` (may be NULL) with a formatted line, control characters replaced,
 * and returns `status`, so that a failing function ends in
 * `return mx_error_set(err, MX_ERR_FORMAT, "%s: ...", path)`.
 */
mx_status mx_error_set(mx_error *err, mx_status status, const char *fmt, ...) MX_PRINTF(3, 4);

/* The same for a failed allocation of `bytes`. */
mx_status mx_error_nomem(mx_error *err, const char *what, size_t bytes);

/* Returns from the enclosing function when `expr` is not MX_OK. */
#define MX_TRY(expr)                                                                               \
    do {                                                                                           \
        mx_status mx_try_status_ = (expr);                                                         \
        if (mx_try_status_ != MX_OK) {                                                             \
            return mx_try_status_;                                                                 \
        }                                                                                          \
    } while (0)

/* Sets `status` and jumps to `done` when `expr` is not MX_OK. */
#define MX_TRY_GOTO(status, expr)                                                                  \
    do {                                                                                           \
        (status) = (expr);                                                                         \
        if ((status) != MX_OK) {                                                                   \
            goto done;                                                                             \
        }                                                                                          \
    } while (0)

#endif

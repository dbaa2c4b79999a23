/* A growable string: the one way text is put together. */
#ifndef MX_BASE_STR_H
#define MX_BASE_STR_H

#include "base/status.h"

/* Zero-initialize; `data` is NUL-terminated or NULL when nothing was added.
 * After an allocation fails, `failed` stays set and additions do nothing, so
 * that callers check once, in mx_str_take. */
typedef struct mx_str {
    char *data;
    size_t length, capacity;
    bool failed;
} mx_str;

void mx_str_add(mx_str *str, const char *text);
void mx_str_add_bytes(mx_str *str, const void *bytes, size_t size);
void mx_str_addf(mx_str *str, const char *fmt, ...) MX_PRINTF(2, 3);
void mx_str_free(mx_str *str);

/* Hands the text to the caller (malloc'd, "" when empty) and resets `str`;
 * MX_ERR_NOMEM when an addition failed. */
mx_status mx_str_take(mx_str *str, char **out, mx_error *err);

/* malloc'd copy of at most `length` bytes of `text`, NUL-terminated; NULL when
 * out of memory. */
char *mx_str_copy(const char *text, size_t length);

#endif

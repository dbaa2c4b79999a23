#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Names inside outside data may hold newlines or escape sequences; an error is
 * one line that is safe to print on a terminal. */
static void replace_control_characters(char *text)
{
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if (c < 0x20 || c == 0x7F) {
            *text = '?';
        }
    }
}

mx_status mx_error_set(mx_error *err, mx_status status, const char *fmt, ...)
{
    if (err == NULL) {
        return status;
    }
    /* Formatted aside: an argument may point into err->text itself. */
    char text[sizeof err->text];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    replace_control_characters(text);
    err->status = status;
    memcpy(err->text, text, sizeof text);
    return status;
}

mx_status mx_error_nomem(mx_error *err, const char *what, size_t bytes)
{
    return mx_error_set(err, MX_ERR_NOMEM, "%s: out of memory (%zu bytes)", what, bytes);
}

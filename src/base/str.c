#include "base/str.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Makes room for `extra` more bytes and the NUL. */
static bool str_reserve(mx_str *str, size_t extra)
{
    if (str->failed || extra > SIZE_MAX / 2 - str->length - 1) {
        str->failed = true;
        return false;
    }
    size_t need = str->length + extra + 1;
    if (need <= str->capacity) {
        return true;
    }
    size_t capacity = str->capacity < 128 ? 128 : str->capacity;
    while (capacity < need) {
        capacity *= 2;
    }
    char *data = realloc(str->data, capacity);
    if (data == NULL) {
        str->failed = true;
        return false;
    }
    str->data = data;
    str->capacity = capacity;
    return true;
}

void mx_str_add_bytes(mx_str *str, const void *bytes, size_t size)
{
    if (!str_reserve(str, size)) {
        return;
    }
    if (size > 0) {
        memcpy(str->data + str->length, bytes, size);
    }
    str->length += size;
    str->data[str->length] = '\0';
}

void mx_str_add(mx_str *str, const char *text)
{
    mx_str_add_bytes(str, text, strlen(text));
}

void mx_str_addf(mx_str *str, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int length = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (length < 0 || !str_reserve(str, (size_t)length)) {
        str->failed = true;
        return;
    }
    va_start(args, fmt);
    vsnprintf(str->data + str->length, (size_t)length + 1, fmt, args);
    va_end(args);
    str->length += (size_t)length;
}

void mx_str_free(mx_str *str)
{
    free(str->data);
    *str = (mx_str){0};
}

mx_status mx_str_take(mx_str *str, char **out, mx_error *err)
{
    *out = NULL;
    if (str->data == NULL) {
        mx_str_add(str, "");
    }
    if (str->failed) {
        size_t length = str->length;
        mx_str_free(str);
        return mx_error_nomem(err, "text", length);
    }
    *out = str->data;
    *str = (mx_str){0};
    return MX_OK;
}

char *mx_str_copy(const char *text, size_t length)
{
    const char *end = memchr(text, '\0', length);
    size_t n = end != NULL ? (size_t)(end - text) : length;
    char *copy = malloc(n + 1);
    if (copy != NULL) {
        memcpy(copy, text, n);
        copy[n] = '\0';
    }
    return copy;
}

/* Unicode normal forms (UAX 15) over utf8proc's tables. */
#include "io/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

const char *const mx_normal_form_names[4] = {"NFC", "NFD", "NFKC", "NFKD"};

/* STABLE keeps composition exclusions, without which it is not NFC. */
static utf8proc_option_t form_options(mx_normal_form form)
{
    utf8proc_option_t options = UTF8PROC_STABLE;
    options |= form == MX_NFC || form == MX_NFKC ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
    options |= form == MX_NFKC || form == MX_NFKD ? UTF8PROC_COMPAT : 0;
    return options;
}

static int combining_class(utf8proc_int32_t c)
{
    return utf8proc_get_property(c)->combining_class;
}

/* Stable sort of c[n] by combining class: counting, because one character may
 * carry a million marks and utf8proc's own exchange sort is quadratic. */
static void sort_marks(utf8proc_int32_t *c, utf8proc_int32_t *space, size_t n)
{
    size_t start[257] = {0};
    for (size_t i = 0; i < n; i++) {
        start[combining_class(c[i]) + 1]++;
    }
    for (size_t class = 1; class < 257; class ++) {
        start[class] += start[class - 1];
    }
    for (size_t i = 0; i < n; i++) {
        space[start[combining_class(c[i])]++] = c[i];
    }
    memcpy(c, space, n * sizeof *c);
}

/* Canonical ordering: every run of marks (class not 0) by class. */
static void order_marks(utf8proc_int32_t *c, utf8proc_int32_t *space, size_t n)
{
    for (size_t begin = 0; begin < n;) {
        size_t end = begin;
        bool sorted = true;
        while (end < n && combining_class(c[end]) != 0) {
            sorted =
                sorted && (end == begin || combining_class(c[end - 1]) <= combining_class(c[end]));
            end++;
        }
        if (!sorted) {
            sort_marks(c + begin, space, end - begin);
        }
        begin = end + 1;
    }
}

/* Decomposes `text` into `out` [capacity]; returns the number of characters,
 * which may exceed the capacity (then nothing beyond it was written). */
static size_t decompose(const char *text, size_t length, utf8proc_option_t options,
                        utf8proc_int32_t *out, size_t capacity)
{
    size_t n = 0;
    for (size_t i = 0, size; i < length; i += size) {
        utf8proc_int32_t c = (utf8proc_int32_t)mx_utf8_decode(text + i, &size);
        utf8proc_int32_t none;
        size_t room = n < capacity ? capacity - n : 0;
        n += (size_t)utf8proc_decompose_char(c, room > 0 ? out + n : &none, (utf8proc_ssize_t)room,
                                             options, NULL);
    }
    return n;
}

/* Decomposes, orders, and leaves composition and encoding to utf8proc, whose own
 * decomposition of a whole text would order in quadratic time. */
static mx_status normalize_once(utf8proc_option_t options, const char *text, size_t length,
                                char **out, size_t *out_length, mx_error *err)
{
    /* utf8proc_decompose_char takes the wish to decompose as such. */
    utf8proc_option_t split = (options & ~(unsigned)UTF8PROC_COMPOSE) | UTF8PROC_DECOMPOSE;
    size_t n = decompose(text, length, split, NULL, 0);
    /* One more than needed: utf8proc_reencode ends the text with a NUL. */
    utf8proc_int32_t *buffer = malloc((n + 1) * sizeof *buffer);
    utf8proc_int32_t *space = malloc((n + 1) * sizeof *space);
    mx_status status = MX_OK;
    if (buffer == NULL || space == NULL) {
        status = mx_error_nomem(err, "normalized text", (n + 1) * sizeof *buffer);
        goto done;
    }
    decompose(text, length, split, buffer, n);
    order_marks(buffer, space, n);
    utf8proc_ssize_t bytes = utf8proc_reencode(buffer, (utf8proc_ssize_t)n, options);
    if (bytes < 0) {
        status = mx_error_set(err, MX_ERR_FORMAT, "text: %s", utf8proc_errmsg(bytes));
        goto done;
    }
    *out = (char *)buffer; /* reencoded in place */
    *out_length = (size_t)bytes;
    buffer = NULL;
done:
    free(buffer);
    free(space);
    return status;
}

/* The common case, and a fast one. */
static bool is_ascii(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if ((uint8_t)text[i] >= 0x80) {
            return false;
        }
    }
    return true;
}

/* Forms are applied one after the other; each result replaces the one before. */
mx_status mx_normalize(const mx_normal_form *forms, size_t n_forms, const char *text, size_t length,
                       char **out, size_t *out_length, mx_error *err)
{
    *out = NULL;
    *out_length = length;
    if (is_ascii(text, length)) {
        return MX_OK; /* ASCII is in every normal form */
    }
    for (size_t i = 0; i < n_forms; i++) {
        char *next = NULL;
        size_t next_length = 0;
        mx_status status = normalize_once(form_options(forms[i]), *out != NULL ? *out : text,
                                          *out_length, &next, &next_length, err);
        free(*out);
        *out = next;
        *out_length = next_length;
        MX_TRY(status);
    }
    return MX_OK;
}

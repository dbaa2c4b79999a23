/*
 * A cursor over JSON text for the two members of a tokenizer.json that make up
 * nearly all of it, the vocabulary and the merges: as JSON values they would take
 * some twenty times their size. The rest of the file goes to the JSON library.
 */
#include "io/tokenizer_impl.h"

#include <string.h>

char mx_cursor_peek(mx_cursor *cursor)
{
    while (cursor->at < cursor->size) {
        char c = cursor->text[cursor->at];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t') {
            return c;
        }
        cursor->at++;
    }
    return '\0';
}

bool mx_cursor_take(mx_cursor *cursor, char c)
{
    if (mx_cursor_peek(cursor) != c || c == '\0') {
        return false;
    }
    cursor->at++;
    return true;
}

/* Four hexadecimal digits, behind "\u". */
static bool take_hex4(mx_cursor *cursor, uint32_t *out)
{
    if (cursor->size - cursor->at < 4) {
        return false;
    }
    *out = 0;
    for (int i = 0; i < 4; i++) {
        char c = cursor->text[cursor->at++];
        uint32_t digit = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                         : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
                         : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10)
                                                : 16;
        if (digit == 16) {
            return false;
        }
        *out = *out << 4 | digit;
    }
    return true;
}

/* "\uXXXX", or two of them for a character beyond 16 bits; U+0000 is refused, so
 * that no text can end early as a C string. */
static bool take_unicode(mx_cursor *cursor, mx_str *out)
{
    uint32_t c, low;
    if (!take_hex4(cursor, &c) || c == 0 || (c >= 0xDC00 && c < 0xE000)) {
        return false;
    }
    if (c >= 0xD800 && c < 0xDC00) {
        if (cursor->size - cursor->at < 2 || memcmp(cursor->text + cursor->at, "\\u", 2) != 0) {
            return false;
        }
        cursor->at += 2;
        if (!take_hex4(cursor, &low) || low < 0xDC00 || low >= 0xE000) {
            return false;
        }
        c = 0x10000 + ((c - 0xD800) << 10 | (low - 0xDC00));
    }
    mx_utf8_add(out, c);
    return true;
}

static bool take_escape(mx_cursor *cursor, mx_str *out)
{
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    if (cursor->at == cursor->size) {
        return false;
    }
    char c = cursor->text[cursor->at++];
    if (c == 'u') {
        return take_unicode(cursor, out);
    }
    const char *name = memchr(names, c, sizeof names - 1);
    if (name != NULL) {
        mx_str_add_bytes(out, &values[name - names], 1);
    }
    return name != NULL;
}

/* The rest of a string from its first escape on; `begin` is where it starts. */
static bool take_escaped(mx_cursor *cursor, size_t begin, const char **text, size_t *length)
{
    /* Two texts may be in use at a time: both sides of a merge. */
    mx_str *out = &cursor->decoded[cursor->turn ^= 1];
    out->length = 0;
    mx_str_add_bytes(out, cursor->text + begin, cursor->at - begin);
    while (cursor->at < cursor->size && !out->failed) {
        char c = cursor->text[cursor->at++];
        if (c == '"') {
            *text = out->data;
            *length = out->length;
            return true;
        }
        if ((uint8_t)c < 0x20 || (c == '\\' && !take_escape(cursor, out))) {
            return false;
        }
        if (c != '\\') {
            mx_str_add_bytes(out, &c, 1);
        }
    }
    return false;
}

/* Nearly every text is free of escapes and is taken as it lies in the file. */
bool mx_cursor_string(mx_cursor *cursor, const char **text, size_t *length)
{
    if (!mx_cursor_take(cursor, '"')) {
        return false;
    }
    size_t begin = cursor->at;
    for (; cursor->at < cursor->size; cursor->at++) {
        char c = cursor->text[cursor->at];
        if (c == '"') {
            *text = cursor->text + begin;
            *length = cursor->at++ - begin;
            return true;
        }
        if (c == '\\') {
            return take_escaped(cursor, begin, text, length);
        }
        if ((uint8_t)c < 0x20) {
            return false;
        }
    }
    return false;
}

/* No sign, fraction or exponent, no leading zero: what ids look like, and nothing
 * that could be rounded. Stops adding digits before the value can wrap. */
bool mx_cursor_id(mx_cursor *cursor, uint32_t *out)
{
    uint64_t value = 0;
    char first = mx_cursor_peek(cursor);
    size_t begin = cursor->at;
    for (; cursor->at < cursor->size; cursor->at++) {
        char c = cursor->text[cursor->at];
        if (c < '0' || c > '9' || value > INT32_MAX) {
            break;
        }
        value = value * 10 + (uint64_t)(c - '0');
    }
    size_t digits = cursor->at - begin;
    *out = (uint32_t)value;
    return digits > 0 && value <= INT32_MAX && (first != '0' || digits == 1);
}

/* Brackets are only counted, in any mixture: what is skipped is either parsed by
 * the JSON library later or read by a stricter function of this file. */
bool mx_cursor_skip(mx_cursor *cursor)
{
    size_t depth = 0;
    do {
        const char *text;
        size_t length;
        char c = mx_cursor_peek(cursor);
        if (c == '"') {
            if (!mx_cursor_string(cursor, &text, &length)) {
                return false;
            }
            continue;
        }
        if (c == '\0' || (depth == 0 && strchr(",:]}", c) != NULL)) {
            return false;
        }
        depth += c == '{' || c == '[';
        depth -= c == '}' || c == ']';
        cursor->at++;
        /* A number or a word is one value, not one per character. */
        while (strchr("{}[],:", c) == NULL && cursor->at < cursor->size &&
               strchr("{}[],: \n\r\t\"", cursor->text[cursor->at]) == NULL) {
            cursor->at++;
        }
    } while (depth > 0);
    return true;
}

/* Duplicate members are refused later, by the JSON library. */
bool mx_cursor_member(mx_cursor *cursor, const char *name)
{
    const char *key;
    size_t length;
    if (!mx_cursor_take(cursor, '{')) {
        return false;
    }
    while (mx_cursor_string(cursor, &key, &length) && mx_cursor_take(cursor, ':')) {
        if (length == strlen(name) && memcmp(key, name, length) == 0) {
            mx_cursor_peek(cursor);
            return true;
        }
        if (!mx_cursor_skip(cursor) || !mx_cursor_take(cursor, ',')) {
            break;
        }
    }
    return false;
}

void mx_cursor_free(mx_cursor *cursor)
{
    mx_str_free(&cursor->decoded[0]);
    mx_str_free(&cursor->decoded[1]);
}

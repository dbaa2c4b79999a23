/* UTF-8, character classes and GPT-2's byte-level alphabet. */
#include "io/tokenizer_impl.h"

#include <string.h>
#include <utf8proc.h>

/* Bytes of a well-formed sequence at `s` [n > 0], 0 when it is not one (Unicode
 * standard, table 3-7). */
static size_t utf8_sequence(const uint8_t *s, size_t n)
{
    uint8_t lead = s[0];
    if (lead < 0x80) {
        return 1;
    }
    size_t size = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    if (lead < 0xC2 || lead > 0xF4 || n < size) {
        return 0;
    }
    /* The second byte alone decides on overlong forms, surrogates, the end. */
    uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (s[1] < low || s[1] > high) {
        return 0;
    }
    for (size_t i = 2; i < size; i++) {
        if ((s[i] & 0xC0) != 0x80) {
            return 0;
        }
    }
    return size;
}

/* Eight ASCII bytes at a time; the rest one character at a time. */
size_t mx_utf8_check(const char *text, size_t length)
{
    const uint8_t *s = (const uint8_t *)text;
    size_t i = 0;
    while (i < length) {
        uint64_t word;
        if (length - i >= sizeof word) {
            memcpy(&word, s + i, sizeof word);
            if ((word & 0x8080808080808080U) == 0) {
                i += sizeof word;
                continue;
            }
        }
        size_t size = utf8_sequence(s + i, length - i);
        if (size == 0) {
            return i;
        }
        i += size;
    }
    return length;
}

/* Needs no checks: all text here has been through mx_utf8_check. */
uint32_t mx_utf8_decode(const char *text, size_t *size)
{
    const uint8_t *s = (const uint8_t *)text;
    if (s[0] < 0x80) {
        *size = 1;
        return s[0];
    }
    if (s[0] < 0xE0) {
        *size = 2;
        return (s[0] & 0x1FU) << 6 | (s[1] & 0x3FU);
    }
    if (s[0] < 0xF0) {
        *size = 3;
        return (s[0] & 0x0FU) << 12 | (s[1] & 0x3FU) << 6 | (s[2] & 0x3FU);
    }
    *size = 4;
    return (s[0] & 0x07U) << 18 | (s[1] & 0x3FU) << 12 | (s[2] & 0x3FU) << 6 | (s[3] & 0x3FU);
}

size_t mx_utf8_previous(const char *text, size_t end)
{
    do {
        end--;
    } while (end > 0 && ((uint8_t)text[end] & 0xC0) == 0x80);
    return end;
}

void mx_utf8_add(mx_str *str, uint32_t character)
{
    utf8proc_uint8_t bytes[4];
    utf8proc_ssize_t size = utf8proc_encode_char((utf8proc_int32_t)character, bytes);
    mx_str_add_bytes(str, bytes, (size_t)size);
}

/* The property White_Space, which is not the category Z. */
bool mx_char_is_space(uint32_t c)
{
    if (c < 0x80) {
        return c == ' ' || (c >= 0x09 && c <= 0x0D);
    }
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
           c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/* From categories, because utf8proc has no Alphabetic property: letters, marks,
 * decimal digits, letter numbers and connectors make up all of \w but a few. */
bool mx_char_is_word(uint32_t c)
{
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        /* Join_Control, and the symbols that are Alphabetic: circled and
         * squared letters. */
        return c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) ||
               (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
               (c >= 0x1F170 && c <= 0x1F189);
    }
}

/* Rust's char::is_numeric, by which `tokenizers` finds digits. */
bool mx_char_is_numeric(uint32_t c)
{
    if (c < 0x80) {
        return c >= '0' && c <= '9';
    }
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
           category == UTF8PROC_CATEGORY_NO;
}

/*
 * The alphabet (bytes_to_unicode of GPT-2's encoder.py): printable bytes of
 * Latin-1 stand for themselves; the others, in ascending order, are the
 * characters from 256 on: 0..32, 127..160 and 173.
 */
uint32_t mx_alphabet_char(uint8_t byte)
{
    if (byte <= 32) {
        return 256U + byte;
    }
    if (byte >= 127 && byte <= 160) {
        return 256U + 33 + (byte - 127U);
    }
    return byte == 173 ? 256U + 33 + 34 : byte;
}

/* The byte of a character, -1 when it is not of the alphabet. */
static int alphabet_byte(uint32_t c)
{
    if (c < 256) {
        return mx_alphabet_char((uint8_t)c) == c ? (int)c : -1;
    }
    uint32_t n = c - 256;
    if (n < 33) {
        return (int)n;
    }
    if (n < 33 + 34) {
        return (int)(n - 33 + 127);
    }
    return n == 33 + 34 ? 173 : -1;
}

bool mx_alphabet_decode(const char *text, size_t length, char *out, size_t *out_length)
{
    size_t n = 0;
    for (size_t i = 0, size; i < length; i += size) {
        int byte = alphabet_byte(mx_utf8_decode(text + i, &size));
        if (byte < 0) {
            return false;
        }
        out[n++] = (char)byte;
    }
    *out_length = n;
    return true;
}

void mx_alphabet_add(mx_str *str, const char *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        mx_utf8_add(str, mx_alphabet_char((uint8_t)bytes[i]));
    }
}

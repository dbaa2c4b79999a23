/* White space as Python's str.isspace has it, which lm_eval's rstrip and split go by:
 * FS to US, NEL and the typographic spaces, which C's isspace leaves out. */
#include "eval/whitespace.h"

#include <stdint.h>

/* The white-space characters beyond one byte, as UTF-8: U+0085, U+00A0, U+1680,
 * U+2000 to U+200A, U+2028, U+2029, U+202F, U+205F, U+3000. */
static bool whitespace_two(uint8_t a, uint8_t b)
{
    return a == 0xC2 && (b == 0x85 || b == 0xA0);
}

static bool whitespace_three(uint8_t a, uint8_t b, uint8_t c)
{
    if (a == 0xE1) {
        return b == 0x9A && c == 0x80;
    }
    if (a == 0xE3) {
        return b == 0x80 && c == 0x80;
    }
    if (a != 0xE2) {
        return false;
    }
    bool general = b == 0x80 && ((c >= 0x80 && c <= 0x8A) || c == 0xA8 || c == 0xA9 || c == 0xAF);
    return general || (b == 0x81 && c == 0x9F);
}

size_t mx_whitespace_length(const char *text, size_t length)
{
    const uint8_t *s = (const uint8_t *)text;
    if (length == 0) {
        return 0;
    }
    /* Tab to carriage return, the four separators FS to US, and space. */
    if ((s[0] >= 0x09 && s[0] <= 0x0D) || (s[0] >= 0x1C && s[0] <= 0x20)) {
        return 1;
    }
    if (length >= 2 && whitespace_two(s[0], s[1])) {
        return 2;
    }
    return length >= 3 && whitespace_three(s[0], s[1], s[2]) ? 3 : 0;
}

/* A tail of a longer character is no white space of its own: continuation bytes do
 * not start one, so looking back is safe. */
size_t mx_whitespace_strip(const char *text, size_t length)
{
    for (;;) {
        /* Looks back for a character of 1 to 3 bytes that ends here. */
        size_t size = 1;
        while (size <= 3 && size <= length &&
               mx_whitespace_length(text + length - size, size) != size) {
            size++;
        }
        if (size > 3 || size > length) {
            return length;
        }
        length -= size;
    }
}

/* Keeps its place between calls: windows of one text are counted in one pass. */
size_t mx_whitespace_runs(mx_whitespace_scan *scan, const char *text, size_t length, size_t to)
{
    size_t runs = 0;
    while (scan->at < to) {
        size_t size = mx_whitespace_length(text + scan->at, length - scan->at);
        runs += size > 0 && !scan->inside;
        scan->inside = size > 0;
        scan->at += size > 0 ? size : 1;
    }
    return runs;
}

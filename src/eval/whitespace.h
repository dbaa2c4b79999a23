/* White space as Python's str.isspace, str.rstrip and re's \s have it. */
#ifndef MX_EVAL_WHITESPACE_H
#define MX_EVAL_WHITESPACE_H

#include <stdbool.h>
#include <stddef.h>

/* Length in bytes of the UTF-8 white-space character at text[0..length), 0 when
 * there is none. */
size_t mx_whitespace_length(const char *text, size_t length);

/* Length of the text without its trailing white space. */
size_t mx_whitespace_strip(const char *text, size_t length);

/* A position in a text that is read in pieces; zero-initialize. */
typedef struct mx_whitespace_scan {
    size_t at;
    bool inside; /* a run of white space reaches `at` */
} mx_whitespace_scan;

/*
 * Advances to byte `to` (or to the end of the character there) of text
 * [length] and returns the number of maximal runs of white space that begin on
 * the way. Over a whole text, len(re.split(r"\s+", text)) is one more.
 */
size_t mx_whitespace_runs(mx_whitespace_scan *scan, const char *text, size_t length, size_t to);

#endif

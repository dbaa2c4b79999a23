/*
 * Patterns of tokenizer files. `tokenizers` runs them with Oniguruma; here PCRE2
 * does (UTF + UCP, JIT where there is one). The two agree on most of what such
 * patterns use. What they read differently is translated by the table below;
 * everything else outside the common subset is refused, so that a pattern never
 * quietly means something else.
 *
 *   Oniguruma            PCRE2                       here
 *   \s = White_Space     also U+180E                 spelled out
 *   \w is UTS 18's       letters, digits, _ only     spelled out
 *   \h = hex digit       horizontal space            spelled out
 *   \v = U+000B          vertical space              \x0b
 *   \uHHHH               not known                   \x{HHHH}
 *   {,n}                 literal before 10.43        {0,n}
 *   ^ $ at every line    only with MULTILINE         MULTILINE
 *   [a[b]] nests, &&     literals                    refused
 *   (?i) to the end of   to the end of the group     only at the start
 *     this alternative
 *   x{n}+ repeats        is possessive               refused
 */
#include "io/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

/* Longer patterns are not written by hand, and compiled size grows with them. */
#define MAX_PATTERN (64 * 1024)

/* Class members, usable inside brackets. Complements are enumerated, because a
 * class cannot hold a negated set. */
static const char SPACE_MEMBERS[] = "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}"
                                    "\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";
static const char NOT_SPACE_MEMBERS[] =
    "\\x00-\\x08\\x0e-\\x1f\\x21-\\x84\\x86-\\x9f\\xa1-\\x{167f}\\x{1681}-\\x{1fff}"
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}"
    "\\x{3001}-\\x{10ffff}";
#define WORD_MEMBERS                                                                               \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}"                                         \
    "\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}"                                                   \
    "\\x{1f170}-\\x{1f189}"
/* Outside brackets Oniguruma asks its Latin-1 table first, where the superscripts
 * and fractions are word characters as well. */
#define LONE_WORD_MEMBERS WORD_MEMBERS "\\xb2\\xb3\\xb9\\xbc-\\xbe"
static const char HEX_MEMBERS[] = "0-9a-fA-F";

typedef struct translation {
    const char *where;
    const char *source;
    size_t at; /* next byte of source; source is NUL-terminated */
    mx_str out;
    mx_error *err;
} translation;

static mx_status refuse(translation *t, const char *reason)
{
    return mx_error_set(t->err, MX_ERR_UNSUPPORTED, "%s: pre_tokenizer: pattern: byte %zu: %s",
                        t->where, t->at, reason);
}

static bool is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool is_alnum(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* "\xHH", "\x{H...}", "\uHHHH": the character as \x{...}. `at` is behind the x or u. */
static mx_status translate_hex(translation *t, bool is_u)
{
    const char *s = t->source + t->at;
    bool braces = !is_u && s[0] == '{';
    size_t begin = braces ? 1 : 0, n = 0;
    while (n < 8 && is_hex(s[begin + n]) && (braces || n < (is_u ? 4U : 2U))) {
        n++;
    }
    bool complete = braces ? n > 0 && s[begin + n] == '}' : n == (is_u ? 4U : 2U);
    if (!complete) {
        return refuse(t, "this form of \\x or \\u is not supported");
    }
    unsigned long value = strtoul(s + begin, NULL, 16);
    if (!is_u && !braces && value >= 0x80) {
        return refuse(t, "\\xHH above 7F is a raw byte there"); /* not a character */
    }
    mx_str_addf(&t->out, "\\x{%lx}", value);
    t->at += begin + n + (braces ? 1 : 0);
    return MX_OK;
}

/* "\p{Name}", "\p{^Name}", "\P{Name}": names are PCRE2's to judge. */
static mx_status translate_property(translation *t, char kind)
{
    const char *s = t->source + t->at;
    size_t n = 1;
    if (s[0] != '{') {
        return refuse(t, "\\p needs a name in braces");
    }
    while (is_alnum(s[n]) || s[n] == '_' || (n == 1 && s[n] == '^')) {
        n++;
    }
    if (s[n] != '}') {
        return refuse(t, "bad property name");
    }
    mx_str_addf(&t->out, "\\%c", kind);
    mx_str_add_bytes(&t->out, s, n + 1);
    t->at += n + 1;
    return MX_OK;
}

/* A set of characters, as members inside brackets or as a class of its own. */
static mx_status add_set(translation *t, const char *members, const char *complement, bool negated,
                         bool in_class)
{
    if (in_class) {
        if (negated && complement == NULL) {
            return refuse(t, "this negated set inside [...] is not supported");
        }
        mx_str_add(&t->out, negated ? complement : members);
    } else {
        mx_str_addf(&t->out, "[%s%s]", negated ? "^" : "", members);
    }
    return MX_OK;
}

/* One escape; `at` is behind the backslash. `*is_set` says that it stands for
 * more than one character. */
static mx_status translate_escape(translation *t, bool in_class, bool *is_set)
{
    char c = t->source[t->at];
    if (c == '\0') {
        return refuse(t, "ends in a backslash");
    }
    t->at++;
    *is_set = strchr("sSwWhHdDpP", c) != NULL;
    switch (c) {
    case 's':
    case 'S':
        return add_set(t, SPACE_MEMBERS, NOT_SPACE_MEMBERS, c == 'S', in_class);
    case 'w':
    case 'W':
        return add_set(t, in_class ? WORD_MEMBERS : LONE_WORD_MEMBERS, NULL, c == 'W', in_class);
    case 'h':
    case 'H':
        return add_set(t, HEX_MEMBERS, NULL, c == 'H', in_class);
    case 'd':
        mx_str_add(&t->out, "\\p{Nd}");
        return MX_OK;
    case 'D':
        mx_str_add(&t->out, "\\P{Nd}");
        return MX_OK;
    case 'p':
    case 'P':
        return translate_property(t, c);
    case 'x':
    case 'u':
        return translate_hex(t, c == 'u');
    case 'v':
        mx_str_add(&t->out, "\\x0b");
        return MX_OK;
    case 'r':
    case 'n':
    case 't':
    case 'f':
    case 'a':
    case 'e':
        mx_str_addf(&t->out, "\\%c", c);
        return MX_OK;
    case 'A':
    case 'z':
        if (!in_class) {
            mx_str_addf(&t->out, "\\%c", c);
            return MX_OK;
        }
        break;
    case 'b':
    case 'B':
        if (!in_class) {
            mx_str_addf(&t->out,
                        c == 'b' ? "(?:(?<=[%s])(?![%s])|(?<![%s])(?=[%s]))"
                                 : "(?:(?<=[%s])(?=[%s])|(?<![%s])(?![%s]))",
                        LONE_WORD_MEMBERS, LONE_WORD_MEMBERS, LONE_WORD_MEMBERS, LONE_WORD_MEMBERS);
            return MX_OK;
        }
        break;
    default:
        if ((uint8_t)c < 0x80 && !is_alnum(c)) {
            mx_str_addf(&t->out, "\\%c", c);
            return MX_OK;
        }
        break;
    }
    t->at--;
    return refuse(t, "this escape is not supported");
}

/* "[...]"; `at` is behind the bracket. */
static mx_status translate_class(translation *t)
{
    mx_str_add(&t->out, "[");
    if (t->source[t->at] == '^') {
        mx_str_add(&t->out, "^");
        t->at++;
    }
    if (t->source[t->at] == ']') {
        return refuse(t, "']' first in a class is not supported");
    }
    for (bool after_set = false;;) {
        char c = t->source[t->at];
        if (c == '\0') {
            return refuse(t, "a class is not closed");
        }
        if (c == '[' || (c == '&' && t->source[t->at + 1] == '&')) {
            return refuse(t, "nested and intersected classes are not supported");
        }
        t->at++;
        if (c == ']') {
            mx_str_add(&t->out, "]");
            return MX_OK;
        }
        if (c == '-' && after_set) {
            /* Behind a set that now ends in a plain character, '-' would open a range. */
            mx_str_add(&t->out, "\\-");
            after_set = false;
            continue;
        }
        if (c == '-' && t->source[t->at] == '\\' && strchr("sSwWhHdDpP", t->source[t->at + 1])) {
            return refuse(t, "a range that ends in a set is not supported");
        }
        after_set = false;
        if (c == '\\') {
            MX_TRY(translate_escape(t, true, &after_set));
        } else {
            mx_str_add_bytes(&t->out, &c, 1);
        }
    }
}

/* The opening of a group; `at` is behind the parenthesis. */
static mx_status translate_group(translation *t)
{
    static const char *const openings[] = {"?:", "?=", "?!", "?<=", "?<!", "?>", "?i:", "?-i:"};
    const char *s = t->source + t->at;
    if (*s == '*') {
        return refuse(t, "'(*' is not supported");
    }
    if (*s != '?') {
        mx_str_add(&t->out, "(");
        return MX_OK;
    }
    for (size_t i = 0; i < MX_COUNT(openings); i++) {
        size_t n = strlen(openings[i]);
        if (strncmp(s, openings[i], n) == 0) {
            mx_str_addf(&t->out, "(%s", openings[i]);
            t->at += n;
            return MX_OK;
        }
    }
    if (t->at == 1 && strncmp(s, "?i)", 3) == 0) {
        mx_str_add(&t->out, "(?i)");
        t->at += 3;
        return MX_OK;
    }
    return refuse(t, "this kind of group is not supported");
}

/* "{n}", "{n,}", "{,m}", "{n,m}" with its suffix; any other '{' is a literal.
 * `at` is behind the brace. */
static mx_status translate_interval(translation *t)
{
    const char *s = t->source + t->at;
    size_t low = strspn(s, "0123456789");
    bool comma = s[low] == ',';
    size_t high = comma ? strspn(s + low + 1, "0123456789") : 0;
    size_t end = low + comma + high;
    if (s[end] != '}' || low + high == 0) {
        mx_str_add(&t->out, "\\{");
        return MX_OK;
    }
    char suffix = s[end + 1];
    if (suffix == '+' || (suffix == '?' && !comma)) {
        t->at += end + 1;
        return refuse(t, "this suffix of an interval is not supported");
    }
    mx_str_add(&t->out, low == 0 ? "{0" : "{");
    mx_str_add_bytes(&t->out, s, end + 1);
    t->at += end + 1;
    return MX_OK;
}

/* Everything not named here is the same to both engines. */
static mx_status translate_one(translation *t)
{
    char c = t->source[t->at++];
    bool is_set;
    switch (c) {
    case '\\':
        return translate_escape(t, false, &is_set);
    case '[':
        return translate_class(t);
    case '(':
        return translate_group(t);
    case '{':
        return translate_interval(t);
    default:
        mx_str_add_bytes(&t->out, &c, 1);
        return MX_OK;
    }
}

/* A walk over the pattern that knows just enough of its syntax to tell sets, groups
 * and intervals from literals; what is malformed is left to PCRE2 to refuse. */
mx_status mx_pattern_translate(const char *source, const char *where, char **out, mx_error *err)
{
    *out = NULL;
    translation t = {.where = where, .source = source, .err = err};
    size_t length = strlen(source);
    if (length > MAX_PATTERN) {
        return refuse(&t, "too long");
    }
    while (t.at < length) {
        mx_status status = translate_one(&t);
        if (status != MX_OK) {
            mx_str_free(&t.out);
            return status;
        }
    }
    return mx_str_take(&t.out, out, err);
}

/* A literal string needs no escaping: PCRE2 has an option for it. */
mx_status mx_pattern_compile(mx_pattern *pattern, const char *source, bool is_regex,
                             const char *where, mx_error *err)
{
    *pattern = (mx_pattern){.is_regex = is_regex, .source = mx_str_copy(source, strlen(source))};
    if (pattern->source == NULL) {
        return mx_error_nomem(err, "pattern", strlen(source));
    }
    char *translated = NULL;
    if (is_regex) {
        MX_TRY(mx_pattern_translate(source, where, &translated, err));
    }
    uint32_t options = PCRE2_UTF | (is_regex ? PCRE2_UCP | PCRE2_MULTILINE : PCRE2_LITERAL);
    int code = 0;
    PCRE2_SIZE offset = 0;
    /* Newline is \n alone in Oniguruma; a PCRE2 library may be built otherwise. */
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (context != NULL) {
        pcre2_set_newline(context, PCRE2_NEWLINE_LF);
        pattern->code = pcre2_compile((PCRE2_SPTR)(is_regex ? translated : source),
                                      PCRE2_ZERO_TERMINATED, options, &code, &offset, context);
        pcre2_compile_context_free(context);
    }
    free(translated);
    if (pattern->code == NULL) {
        PCRE2_UCHAR reason[128] = "out of memory";
        pcre2_get_error_message(code, reason, sizeof reason);
        return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: pre_tokenizer: pattern: byte %zu: %s",
                            where, (size_t)offset, (const char *)reason);
    }
    /* Without JIT (not built in, or no executable memory) matching interprets. */
    pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE);
    return MX_OK;
}

void mx_pattern_free(mx_pattern *pattern)
{
    pcre2_code_free(pattern->code);
    free(pattern->source);
    *pattern = (mx_pattern){0};
}

mx_status mx_matcher_create(mx_matcher *matcher, size_t length, mx_error *err)
{
    /* One pair: only the whole match is of interest. */
    matcher->data = pcre2_match_data_create(1, NULL);
    matcher->context = pcre2_match_context_create(NULL);
    if (matcher->data == NULL || matcher->context == NULL) {
        return mx_error_nomem(err, "pattern matcher", 0);
    }
    /* Bounds one match by what an honest pattern needs: a few steps back over
     * every character, and a few hundred bytes for each. */
    size_t steps = 100000 + 16 * length;
    size_t kib = 65536 + length / 2;
    pcre2_set_match_limit(matcher->context, steps < UINT32_MAX ? (uint32_t)steps : UINT32_MAX);
    pcre2_set_heap_limit(matcher->context, kib < UINT32_MAX ? (uint32_t)kib : UINT32_MAX);
    return MX_OK;
}

void mx_matcher_free(mx_matcher *matcher)
{
    pcre2_match_data_free(matcher->data);
    pcre2_match_context_free(matcher->context);
    *matcher = (mx_matcher){0};
}

/* Errors other than "no match" are never taken for one: the rest of the text would
 * silently become a single word. */
static mx_status scan_match(const mx_scan *scan, int *count, mx_error *err)
{
    mx_matcher *matcher = scan->matcher;
    PCRE2_SPTR text = (PCRE2_SPTR)scan->text;
    const pcre2_code *code = scan->pattern->code;
    /* The text was checked once, as a whole. */
    *count = pcre2_match(code, text, scan->length, scan->position, PCRE2_NO_UTF_CHECK,
                         matcher->data, matcher->context);
    if (*count == PCRE2_ERROR_JIT_STACKLIMIT) {
        /* The interpreter backtracks on the heap. */
        *count = pcre2_match(code, text, scan->length, scan->position,
                             PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, matcher->data, matcher->context);
    }
    if (*count < 0 && *count != PCRE2_ERROR_NOMATCH) {
        PCRE2_UCHAR reason[128] = "";
        pcre2_get_error_message(*count, reason, sizeof reason);
        return mx_error_set(err, MX_ERR_UNSUPPORTED,
                            "text: the tokenizer's pattern gave up in a stretch of %zu bytes: %s",
                            scan->length, (const char *)reason);
    }
    return MX_OK;
}

/* The rules for empty matches are those of the Rust bindings to Oniguruma, which
 * `tokenizers` iterates with; they decide where text is split. */
mx_status mx_scan_next(mx_scan *scan, bool *found, size_t *begin, size_t *end, mx_error *err)
{
    *found = false;
    while (scan->position <= scan->length) {
        int count;
        MX_TRY(scan_match(scan, &count, err));
        if (count == PCRE2_ERROR_NOMATCH) {
            break;
        }
        const PCRE2_SIZE *range = pcre2_get_ovector_pointer(scan->matcher->data);
        *begin = range[0];
        *end = range[1];
        if (*begin == *end && *end == scan->last_end) {
            /* An empty match right behind a match is none: step over a character. */
            size_t size = 1;
            if (scan->position < scan->length) {
                mx_utf8_decode(scan->text + scan->position, &size);
            }
            scan->position += size;
            continue;
        }
        scan->position = scan->last_end = *end;
        *found = true;
        return MX_OK;
    }
    scan->position = scan->length + 1;
    return MX_OK;
}

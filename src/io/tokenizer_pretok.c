/*
 * Pre-tokenizer steps. `tokenizers` runs one step over all pieces, then the next;
 * a step never looks beyond its piece, so running every piece through all steps
 * at once gives the same words in the same order, without lists of pieces.
 */
#include "io/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

const char *const mx_split_behavior_names[5] = {"Removed", "Isolated", "MergedWithPrevious",
                                                "MergedWithNext", "Contiguous"};

const char mx_gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* Compiled once, here; a tokenizer that opens can be used. */
mx_status mx_tokenizer_add_step(mx_tokenizer *tokenizer, const mx_pretok_step *step,
                                const char *source, mx_error *err)
{
    if (tokenizer->n_steps == MX_TOKENIZER_MAX_STEPS) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: pre_tokenizer: more than %d steps",
                            tokenizer->where, MX_TOKENIZER_MAX_STEPS);
    }
    mx_pretok_step *added = &tokenizer->steps[tokenizer->n_steps++];
    bool is_regex = step->pattern.is_regex;
    *added = *step;
    added->pattern = (mx_pattern){0};
    return source == NULL
               ? MX_OK
               : mx_pattern_compile(&added->pattern, source, is_regex, tokenizer->where, err);
}

/* ---- one step ---------------------------------------------------------------- */

static mx_status run_steps(mx_encoder *encoder, size_t step, const char *text, size_t length,
                           mx_error *err);

/* A step at work: its text is cut into matches and the stretches between them,
 * in order; the behavior decides which of them are joined or dropped. */
typedef struct splitter {
    mx_encoder *encoder;
    size_t step;
    const char *text;
    size_t begin, end; /* a piece that may still grow */
    bool pending, previous_match;
    mx_error *err;
} splitter;

/* A finished piece goes through the steps that follow. */
static mx_status splitter_emit(splitter *s, size_t begin, size_t end)
{
    return run_steps(s->encoder, s->step + 1, s->text + begin, end - begin, s->err);
}

static mx_status splitter_flush(splitter *s)
{
    bool pending = s->pending;
    s->pending = false;
    return pending ? splitter_emit(s, s->begin, s->end) : MX_OK;
}

/* Does this stretch join the pending piece? */
static bool splitter_joins(const splitter *s, mx_split_behavior behavior, bool is_match)
{
    switch (behavior) {
    case MX_SPLIT_MERGED_WITH_PREVIOUS:
        return is_match && !s->previous_match;
    case MX_SPLIT_MERGED_WITH_NEXT:
        return !is_match && s->previous_match;
    case MX_SPLIT_CONTIGUOUS:
        return is_match == s->previous_match;
    default:
        return false;
    }
}

/* The next stretch, in order. A removed one separates without leaving a piece. */
static mx_status splitter_take(splitter *s, size_t begin, size_t end, bool is_match)
{
    const mx_pretok_step *step = &s->encoder->tokenizer->steps[s->step];
    is_match = is_match != step->invert;
    if (step->behavior == MX_SPLIT_REMOVED && is_match) {
        return MX_OK;
    }
    if (s->pending && splitter_joins(s, step->behavior, is_match)) {
        s->end = end;
    } else {
        MX_TRY(splitter_flush(s));
        s->begin = begin;
        s->end = end;
        s->pending = true;
    }
    s->previous_match = is_match;
    return MX_OK;
}

/* Stretches alternate with matches; empty matches are stretches too, since they
 * take part in the joining. */
static mx_status split_by_pattern(splitter *s, const mx_pattern *pattern, size_t length)
{
    mx_scan scan = {.pattern = pattern,
                    .matcher = &s->encoder->matcher,
                    .text = s->text,
                    .length = length,
                    .last_end = SIZE_MAX};
    size_t previous = 0;
    for (;;) {
        bool found;
        size_t begin = 0, end = 0;
        MX_TRY(mx_scan_next(&scan, &found, &begin, &end, s->err));
        if (!found) {
            break;
        }
        if (previous != begin) {
            MX_TRY(splitter_take(s, previous, begin, false));
        }
        MX_TRY(splitter_take(s, begin, end, true));
        previous = end;
    }
    if (previous != length) {
        MX_TRY(splitter_take(s, previous, length, false));
    }
    return splitter_flush(s);
}

/* The pattern \p{N} would say the same; a look at each character is cheaper. */
static mx_status split_by_digits(splitter *s, size_t length)
{
    size_t previous = 0;
    for (size_t i = 0, size; i < length; i += size) {
        if (!mx_char_is_numeric(mx_utf8_decode(s->text + i, &size))) {
            continue;
        }
        if (previous < i) {
            MX_TRY(splitter_take(s, previous, i, false));
        }
        MX_TRY(splitter_take(s, i, i + size, true));
        previous = i + size;
    }
    if (previous < length) {
        MX_TRY(splitter_take(s, previous, length, false));
    }
    return splitter_flush(s);
}

/* ByteLevel's add_prefix_space: a copy with a space in front. Only the last step
 * does this, so one buffer is enough. */
static mx_status prefix_space(mx_encoder *encoder, const char **text, size_t *length, mx_error *err)
{
    if (**text == ' ') {
        return MX_OK;
    }
    size_t need = *length + 1;
    if (need > encoder->prefixed_capacity) {
        size_t capacity = need > 256 ? need + need / 2 : 256;
        char *grown = realloc(encoder->prefixed, capacity);
        if (grown == NULL) {
            return mx_error_nomem(err, "text", capacity);
        }
        encoder->prefixed = grown;
        encoder->prefixed_capacity = capacity;
    }
    encoder->prefixed[0] = ' ';
    memcpy(encoder->prefixed + 1, *text, *length);
    *text = encoder->prefixed;
    *length = need;
    return MX_OK;
}

/* Depth first: a piece goes through all later steps before the next piece is cut. */
static mx_status run_steps(mx_encoder *encoder, size_t step, const char *text, size_t length,
                           mx_error *err)
{
    if (length == 0) {
        return MX_OK;
    }
    const mx_tokenizer *tokenizer = encoder->tokenizer;
    if (step == tokenizer->n_steps) {
        return mx_bpe_encode(encoder, text, length, err);
    }
    const mx_pretok_step *at = &tokenizer->steps[step];
    if (at->add_prefix_space) {
        MX_TRY(prefix_space(encoder, &text, &length, err));
    }
    splitter s = {.encoder = encoder, .step = step, .text = text, .err = err};
    if (at->kind == MX_STEP_DIGITS) {
        return split_by_digits(&s, length);
    }
    return at->pattern.code == NULL ? splitter_emit(&s, 0, length)
                                    : split_by_pattern(&s, &at->pattern, length);
}

/* The work space is shared by all steps: each is done with a match before the piece
 * is passed on. */
mx_status mx_pretok_run(mx_encoder *encoder, const char *text, size_t length, mx_error *err)
{
    return run_steps(encoder, 0, text, length, err);
}

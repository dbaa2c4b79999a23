/*
 * Added tokens: found in the text before anything else is done to it, leftmost
 * first, the longest at a place. Their flags work as in `tokenizers`
 * (added_vocabulary.rs).
 */
#include "io/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

/* By length, not up to a NUL as mx_str_copy: lengths are what matching goes by. */
static char *copy_bytes(const char *bytes, size_t length)
{
    char *copy = malloc(length + 1);
    if (copy != NULL) {
        memcpy(copy, bytes, length);
        copy[length] = '\0';
    }
    return copy;
}

/* Everything about two tokens but their text and id. */
static bool same_flags(const mx_added_token *a, const mx_added_token *b)
{
    return a->single_word == b->single_word && a->lstrip == b->lstrip && a->rstrip == b->rstrip &&
           a->match_normalized == b->match_normalized && a->special == b->special;
}

/* A token that is already there, or NULL. */
static const mx_added_token *added_by_id(const mx_tokenizer *tokenizer, uint32_t id)
{
    uint32_t index = tokenizer->vocab.tokens[id].added;
    return index == 0 ? NULL : &tokenizer->added.items[index - 1];
}

static mx_status added_reserve(mx_added *added, mx_error *err)
{
    if (added->n < added->capacity) {
        return MX_OK;
    }
    uint32_t capacity = added->capacity == 0 ? 32 : added->capacity * 2;
    mx_added_token *items = realloc(added->items, capacity * sizeof *items);
    if (items == NULL) {
        return mx_error_nomem(err, "added tokens", capacity * sizeof *items);
    }
    added->items = items;
    added->capacity = capacity;
    return MX_OK;
}

/* Two tokens for one id would make decoding a matter of chance; the same token
 * twice is harmless, and files have it. */
mx_status mx_tokenizer_add_token(mx_tokenizer *tokenizer, const mx_added_token *like,
                                 const char *content, size_t length, mx_error *err)
{
    const char *where = tokenizer->where;
    int shown = length < 64 ? (int)length : 64;
    if (length > MX_TOKENIZER_MAX_ADDED) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED,
                            "%s: added token %u: %zu bytes of text, at most %d are supported",
                            where, like->id, length, MX_TOKENIZER_MAX_ADDED);
    }
    if (like->id >= tokenizer->vocab.n_ids) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: added token '%.*s': id %u is out of range",
                            where, shown, content, like->id);
    }
    const mx_added_token *twin = added_by_id(tokenizer, like->id);
    if (twin != NULL) {
        bool same = twin->length == length && same_flags(twin, like) &&
                    memcmp(twin->content, content, length) == 0;
        return same ? MX_OK
                    : mx_error_set(err, MX_ERR_FORMAT, "%s: added token '%.*s': id %u is taken",
                                   where, shown, content, like->id);
    }
    MX_TRY(added_reserve(&tokenizer->added, err));
    mx_added_token *item = &tokenizer->added.items[tokenizer->added.n];
    *item = *like;
    item->normalized = NULL;
    item->length = (uint32_t)length;
    item->content = copy_bytes(content, length);
    if (item->content == NULL) {
        return mx_error_nomem(err, "added token", length);
    }
    tokenizer->vocab.tokens[like->id].added = ++tokenizer->added.n;
    return MX_OK;
}

void mx_added_free(mx_added *added)
{
    for (uint32_t i = 0; i < added->n; i++) {
        free(added->items[i].content);
        free(added->items[i].normalized);
    }
    free(added->items);
    free(added->all.order);
    free(added->raw.order);
    free(added->normalized.order);
    *added = (mx_added){0};
}

/* ---- sorted patterns -------------------------------------------------------- */

/* The text that token `index` stands for in this set. */
static const char *token_text(const mx_added *added, const mx_match_set *set, uint32_t index,
                              uint32_t *length)
{
    const mx_added_token *token = &added->items[index];
    bool normalized = set->normalized && token->normalized != NULL;
    *length = normalized ? token->normalized_length : token->length;
    return normalized ? token->normalized : token->content;
}

/* Bytewise, a prefix before what it is a prefix of. */
static int compare_tokens(const mx_added *added, const mx_match_set *set, uint32_t a, uint32_t b)
{
    uint32_t na, nb;
    const char *ta = token_text(added, set, a, &na);
    const char *tb = token_text(added, set, b, &nb);
    int order = memcmp(ta, tb, na < nb ? na : nb);
    return order != 0 ? order : (na > nb) - (na < nb);
}

/* Bottom-up merge sort of set->order: qsort has no context argument in C17, and
 * its worst case is the file's choice. */
static mx_status sort_tokens(const mx_added *added, mx_match_set *set, mx_error *err)
{
    uint32_t *order = set->order, n = set->n;
    uint32_t *space = malloc(((size_t)n + 1) * sizeof *space);
    if (space == NULL) {
        return mx_error_nomem(err, "added tokens", n * sizeof *space);
    }
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t begin = 0; begin < n; begin += 2 * width) {
            size_t middle = begin + width < n ? begin + width : n;
            size_t end = begin + 2 * width < n ? begin + 2 * width : n;
            for (size_t i = begin, left = begin, right = middle; i < end; i++) {
                bool take_left =
                    left < middle &&
                    (right >= end || compare_tokens(added, set, order[left], order[right]) <= 0);
                space[i] = take_left ? order[left++] : order[right++];
            }
        }
        memcpy(order, space, n * sizeof *order);
    }
    free(space);
    return MX_OK;
}

/* The ranges of a sorted set by first byte. No text is empty. */
static void index_first_bytes(const mx_added *added, mx_match_set *set)
{
    uint32_t at = 0;
    for (unsigned byte = 0; byte < 256; byte++) {
        set->first[byte] = at;
        for (uint32_t length; at < set->n; at++) {
            if ((uint8_t)token_text(added, set, set->order[at], &length)[0] != byte) {
                break;
            }
        }
    }
    set->first[256] = set->n;
}

typedef enum mx_which_tokens { ALL_TOKENS, RAW_TOKENS, NORMALIZED_TOKENS } mx_which_tokens;

/* Two patterns of one text are refused, as `tokenizers` does: which of the two
 * matches would depend on the order of its hash table. */
static mx_status match_set_build(const mx_tokenizer *tokenizer, mx_which_tokens which,
                                 mx_match_set *set, mx_error *err)
{
    const mx_added *added = &tokenizer->added;
    set->normalized = which == NORMALIZED_TOKENS;
    set->order = malloc(((size_t)added->n + 1) * sizeof *set->order);
    if (set->order == NULL) {
        return mx_error_nomem(err, "added tokens", added->n * sizeof *set->order);
    }
    for (uint32_t i = 0; i < added->n; i++) {
        if (which == ALL_TOKENS || added->items[i].match_normalized == set->normalized) {
            set->order[set->n++] = i;
        }
    }
    MX_TRY(sort_tokens(added, set, err));
    index_first_bytes(added, set);
    for (uint32_t i = 1; i < set->n; i++) {
        if (compare_tokens(added, set, set->order[i - 1], set->order[i]) == 0) {
            return mx_error_set(err, MX_ERR_FORMAT, "%s: added token '%.64s': two match this text",
                                tokenizer->where, added->items[set->order[i]].content);
        }
    }
    return MX_OK;
}

/* Tokens that match normalized text are normalized themselves, each alone, once. */
mx_status mx_added_finish(mx_tokenizer *tokenizer, mx_error *err)
{
    mx_added *added = &tokenizer->added;
    for (uint32_t i = 0; i < added->n; i++) {
        mx_added_token *token = &added->items[i];
        if (!token->match_normalized) {
            continue;
        }
        size_t length = 0;
        MX_TRY(mx_normalize(tokenizer->normalizers, tokenizer->n_normalizers, token->content,
                            token->length, &token->normalized, &length, err));
        token->normalized_length = (uint32_t)length;
    }
    MX_TRY(match_set_build(tokenizer, ALL_TOKENS, &added->all, err));
    MX_TRY(match_set_build(tokenizer, RAW_TOKENS, &added->raw, err));
    return match_set_build(tokenizer, NORMALIZED_TOKENS, &added->normalized, err);
}

/* The first index in [low, high) whose byte at `depth` is above `byte - 1`; all
 * texts in the range agree before `depth` and are longer than it. */
static uint32_t lower_bound(const mx_added *added, const mx_match_set *set, uint32_t low,
                            uint32_t high, uint32_t depth, unsigned byte)
{
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        uint32_t length;
        const char *text = token_text(added, set, set->order[middle], &length);
        if ((uint8_t)text[depth] < byte) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* The longest token of the set that is a prefix of text[n > 0], -1 for none. */
static int32_t longest_prefix(const mx_added *added, const mx_match_set *set, const char *text,
                              size_t n)
{
    uint8_t lead = (uint8_t)text[0];
    uint32_t low = set->first[lead], high = set->first[lead + 1];
    int32_t best = -1;
    for (uint32_t depth = 1; low < high; depth++) {
        /* Sorted: the one text that ends here, if any, is the first. */
        uint32_t length;
        token_text(added, set, set->order[low], &length);
        if (length == depth) {
            best = (int32_t)set->order[low++];
        }
        if (depth == n) {
            break;
        }
        unsigned byte = (uint8_t)text[depth];
        low = lower_bound(added, set, low, high, depth, byte);
        high = lower_bound(added, set, low, high, depth, byte + 1);
    }
    return best;
}

/* The longest prefix of a text that is the whole text is the text itself. */
int32_t mx_added_find(const mx_added *added, const char *content, size_t length)
{
    if (length == 0 || added->n == 0) {
        return -1;
    }
    int32_t index = longest_prefix(added, &added->all, content, length);
    return index >= 0 && added->items[index].length == length ? index : -1;
}

/* ---- walking over text ------------------------------------------------------- */

/* No word character touches the match on either side. */
static bool single_word_at(const char *text, size_t length, size_t begin, size_t end)
{
    size_t size;
    bool before =
        begin > 0 && mx_char_is_word(mx_utf8_decode(text + mx_utf8_previous(text, begin), &size));
    bool after = end < length && mx_char_is_word(mx_utf8_decode(text + end, &size));
    return !before && !after;
}

/* White space before `begin` down to `limit` goes to the token. */
static size_t strip_left(const char *text, size_t begin, size_t limit)
{
    while (begin > limit) {
        size_t size;
        size_t previous = mx_utf8_previous(text, begin);
        if (!mx_char_is_space(mx_utf8_decode(text + previous, &size))) {
            break;
        }
        begin = previous;
    }
    return begin;
}

/* White space behind `end` goes to the token. */
static size_t strip_right(const char *text, size_t length, size_t end)
{
    while (end < length) {
        size_t size;
        if (!mx_char_is_space(mx_utf8_decode(text + end, &size))) {
            break;
        }
        end += size;
    }
    return end;
}

/* The next match from walk->scan on: its token and range, stripped as its flags
 * say. A match that its single_word discards is skipped whole. */
static int32_t added_match(mx_added_walk *walk, size_t *begin, size_t *end)
{
    const mx_match_set *set = walk->set;
    while (set->n > 0 && walk->scan < walk->length) {
        size_t at = walk->scan;
        uint8_t lead = (uint8_t)walk->text[at];
        int32_t index = set->first[lead] == set->first[lead + 1]
                            ? -1
                            : longest_prefix(walk->added, set, walk->text + at, walk->length - at);
        if (index < 0) {
            walk->scan++;
            continue;
        }
        const mx_added_token *token = &walk->added->items[index];
        uint32_t length;
        token_text(walk->added, set, (uint32_t)index, &length);
        walk->scan = at + length;
        if (token->single_word && !single_word_at(walk->text, walk->length, at, at + length)) {
            continue;
        }
        *begin = token->lstrip ? strip_left(walk->text, at, walk->emitted) : at;
        *end = token->rstrip ? strip_right(walk->text, walk->length, at + length) : at + length;
        return index;
    }
    walk->scan = walk->length;
    return -1;
}

/* A match is found together with the stretch before it, and yielded in the next
 * call. */
bool mx_added_next(mx_added_walk *walk, int32_t *token, size_t *begin, size_t *end)
{
    if (walk->token < 0) {
        size_t match_begin = walk->length;
        walk->token = added_match(walk, &match_begin, &walk->token_end);
        if (walk->emitted < match_begin) {
            *token = -1;
            *begin = walk->emitted;
            *end = match_begin;
            walk->emitted = match_begin;
            return true;
        }
    }
    *token = walk->token;
    *begin = *end = walk->token_end;
    if (walk->token < 0) {
        return false;
    }
    /* White space that rstrip took may hold another token's text, which matches
     * again: as in `tokenizers`, the stretch then goes on behind that match. */
    walk->emitted = walk->token_end;
    walk->token = -1;
    return true;
}

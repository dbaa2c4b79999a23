/* Reads tokenizer.json: version, model (vocabulary, merges), added tokens. */
#include "io/tokenizer_impl.h"

#include "base/json.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Ids index tables: they may be this large in any file, and no larger than the
 * vocabulary has bytes of text (an entry takes at least five). */
#define SMALL_ID_LIMIT ((size_t)1 << 16)

/*
 * The file in parts: `rest` is its text with the vocabulary and the merges cut
 * out, small enough for a tree of JSON values; those two are read by a cursor.
 */
typedef struct document {
    mx_str rest;
    mx_cursor vocab, merges; /* text NULL: no such member of the model */
} document;

/* Bytes count from the start of the member: that is where a reader would look. */
static mx_status bad_json(const mx_tokenizer *tokenizer, const char *field, const mx_cursor *cursor,
                          const char *wanted, mx_error *err)
{
    if (cursor->decoded[0].failed || cursor->decoded[1].failed) {
        return mx_error_nomem(err, field, cursor->size);
    }
    return mx_error_set(err, MX_ERR_FORMAT, "%s: model: %s: byte %zu: must be %s", tokenizer->where,
                        field, cursor->at, wanted);
}

/* ---- vocabulary --------------------------------------------------------------- */

typedef mx_status (*vocab_entry_fn)(mx_tokenizer *tokenizer, void *ctx, const char *text,
                                    size_t length, uint32_t id, mx_error *err);

/* Calls `fn` for every entry of the vocabulary. */
static mx_status vocab_for_each(mx_tokenizer *tokenizer, mx_cursor cursor, vocab_entry_fn fn,
                                void *ctx, mx_error *err)
{
    static const char wanted[] = "an object of texts and ids from 0 to 2147483647";
    mx_status status = MX_OK;
    bool well_formed = mx_cursor_take(&cursor, '{');
    bool more = well_formed && mx_cursor_peek(&cursor) != '}';
    while (more && status == MX_OK) {
        const char *text;
        size_t length;
        uint32_t id;
        well_formed = mx_cursor_string(&cursor, &text, &length) && mx_cursor_take(&cursor, ':') &&
                      mx_cursor_id(&cursor, &id);
        if (!well_formed) {
            break;
        }
        status = fn(tokenizer, ctx, text, length, id, err);
        more = mx_cursor_take(&cursor, ',');
    }
    if (status == MX_OK && !(well_formed && mx_cursor_take(&cursor, '}'))) {
        status = bad_json(tokenizer, "vocab", &cursor, wanted, err);
    }
    mx_cursor_free(&cursor);
    return status;
}

typedef struct vocab_size {
    size_t n_entries, n_bytes, limit;
    uint32_t n_ids;
} vocab_size;

/* The first pass: how much room the vocabulary needs. Ids are checked here, before
 * anything is allocated by them. */
static mx_status measure_entry(mx_tokenizer *tokenizer, void *ctx, const char *text, size_t length,
                               uint32_t id, mx_error *err)
{
    vocab_size *size = ctx;
    if (id >= size->limit) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: model: vocab: '%.*s': id %u is not below %zu",
                            tokenizer->where, length < 64 ? (int)length : 64, text, id,
                            size->limit);
    }
    size->n_entries++;
    size->n_bytes += length;
    size->n_ids = id >= size->n_ids ? id + 1 : size->n_ids;
    return MX_OK;
}

/* The second pass. */
static mx_status add_entry(mx_tokenizer *tokenizer, void *ctx, const char *text, size_t length,
                           uint32_t id, mx_error *err)
{
    (void)ctx;
    return mx_vocab_add(&tokenizer->vocab, id, text, length, tokenizer->where, err);
}

/* Texts that added_tokens gives and the vocabulary lacks get the ids after its
 * last, in order (added_vocabulary.rs); there is room for them. */
static mx_status read_vocab(mx_tokenizer *tokenizer, const document *doc, size_t n_added,
                            mx_error *err)
{
    vocab_size size = {.limit = SMALL_ID_LIMIT};
    size.limit = doc->vocab.size > size.limit ? doc->vocab.size : size.limit;
    MX_TRY(vocab_for_each(tokenizer, doc->vocab, measure_entry, &size, err));
    if (size.n_entries == 0) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: model: vocab: is empty", tokenizer->where);
    }
    if (size.n_entries + n_added > size.n_ids) {
        size.n_ids = (uint32_t)(size.n_entries + n_added); /* both bounded by the file's size */
    }
    MX_TRY(mx_vocab_create(&tokenizer->vocab, size.n_ids, (uint32_t)size.n_entries, size.n_bytes,
                           err));
    return vocab_for_each(tokenizer, doc->vocab, add_entry, NULL, err);
}

/* ---- merges --------------------------------------------------------------------- */

/* One merge: "a b" with exactly one space, or ["a", "b"]. */
typedef struct merge_texts {
    const char *left, *right;
    size_t left_length, right_length;
    bool is_comment; /* the first line of a merges.txt that was copied whole */
} merge_texts;

/* The older form, a line of merges.txt. */
static bool take_merge_line(mx_cursor *cursor, merge_texts *out)
{
    const char *text;
    size_t length;
    if (!mx_cursor_string(cursor, &text, &length)) {
        return false;
    }
    out->is_comment = length >= 8 && memcmp(text, "#version", 8) == 0;
    const char *space = memchr(text, ' ', length);
    if (out->is_comment || space == NULL) {
        return out->is_comment;
    }
    out->left = text;
    out->left_length = (size_t)(space - text);
    out->right = space + 1;
    out->right_length = length - out->left_length - 1;
    return memchr(out->right, ' ', out->right_length) == NULL;
}

/* Files have one form or the other; a mixture does no harm. */
static bool take_merge(mx_cursor *cursor, merge_texts *out)
{
    if (mx_cursor_peek(cursor) == '"') {
        return take_merge_line(cursor, out);
    }
    out->is_comment = false;
    return mx_cursor_take(cursor, '[') && mx_cursor_string(cursor, &out->left, &out->left_length) &&
           mx_cursor_take(cursor, ',') &&
           mx_cursor_string(cursor, &out->right, &out->right_length) && mx_cursor_take(cursor, ']');
}

/* Walks over all merges; adds them when `add` is set. `*n` is their number. */
static mx_status merges_walk(mx_tokenizer *tokenizer, mx_cursor cursor, bool add, uint32_t *n,
                             mx_error *err)
{
    mx_status status = MX_OK;
    bool well_formed = mx_cursor_take(&cursor, '[');
    bool more = well_formed && mx_cursor_peek(&cursor) != ']';
    *n = 0;
    while (more && status == MX_OK) {
        merge_texts merge;
        well_formed = take_merge(&cursor, &merge);
        if (!well_formed) {
            break;
        }
        if (add && !merge.is_comment) {
            status = mx_bpe_add(tokenizer, *n, merge.left, merge.left_length, merge.right,
                                merge.right_length, err);
        }
        *n += !merge.is_comment;
        more = mx_cursor_take(&cursor, ',');
    }
    if (status == MX_OK && !(well_formed && mx_cursor_take(&cursor, ']'))) {
        status =
            bad_json(tokenizer, "merges", &cursor, "an array of \"a b\" or of [\"a\", \"b\"]", err);
    }
    mx_cursor_free(&cursor);
    return status;
}

/* Counted first: the table never grows. */
static mx_status read_merges(mx_tokenizer *tokenizer, const document *doc, mx_error *err)
{
    uint32_t n = 0;
    MX_TRY(merges_walk(tokenizer, doc->merges, false, &n, err));
    MX_TRY(mx_bpe_create(&tokenizer->bpe, n, err));
    return merges_walk(tokenizer, doc->merges, true, &n, err);
}

/* ---- model ------------------------------------------------------------------------ */

/* Options of BPE that change its results and that mxlm does not have. */
static mx_status refuse_model_options(const json_t *model, const char *where, mx_error *err)
{
    double dropout;
    bool byte_fallback;
    MX_TRY(mx_json_get_real(model, "dropout", where, false, 0, &dropout, err));
    if (dropout != 0) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: dropout: not supported", where);
    }
    MX_TRY(mx_json_get_bool(model, "byte_fallback", where, false, false, &byte_fallback, err));
    if (byte_fallback) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: byte_fallback: not supported", where);
    }
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < MX_COUNT(affixes); i++) {
        const char *affix;
        MX_TRY(mx_json_get_string(model, affixes[i], where, false, "", &affix, err));
        if (*affix != '\0') {
            return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: %s: not supported", where,
                                affixes[i]);
        }
    }
    return MX_OK;
}

/* Defaults are those of BpeBuilder in `tokenizers`. */
static mx_status read_model_options(mx_tokenizer *tokenizer, const json_t *model, const char *where,
                                    mx_error *err)
{
    const char *type, *unk;
    /* Older files (GPT-2's) do not name the type. */
    MX_TRY(mx_json_get_string(model, "type", where, false, "BPE", &type, err));
    if (strcmp(type, "BPE") != 0) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: type: '%.64s' is not supported", where,
                            type);
    }
    MX_TRY(refuse_model_options(model, where, err));
    mx_bpe *bpe = &tokenizer->bpe;
    MX_TRY(mx_json_get_bool(model, "fuse_unk", where, false, false, &bpe->fuse_unk, err));
    MX_TRY(mx_json_get_bool(model, "ignore_merges", where, false, false, &bpe->ignore_merges, err));
    MX_TRY(mx_json_get_string(model, "unk_token", where, false, NULL, &unk, err));
    if (unk != NULL) {
        tokenizer->unk_token = mx_str_copy(unk, strlen(unk));
        if (tokenizer->unk_token == NULL) {
            return mx_error_nomem(err, "unk_token", strlen(unk));
        }
    }
    return MX_OK;
}

/* Vocabulary and merges were left as text by the first pass over the file: as JSON
 * values they would take tens of times their size. */
static mx_status read_model(mx_tokenizer *tokenizer, const document *doc, const json_t *root,
                            size_t n_added, mx_error *err)
{
    const json_t *model = json_object_get(root, "model");
    if (!json_is_object(model) || doc->vocab.text == NULL || doc->merges.text == NULL) {
        return mx_error_set(err, MX_ERR_FORMAT,
                            "%s: model: must be an object with vocab and merges", tokenizer->where);
    }
    mx_str where = {0};
    mx_str_addf(&where, "%s: model", tokenizer->where);
    char *name = NULL;
    MX_TRY(mx_str_take(&where, &name, err));
    mx_status status = read_model_options(tokenizer, model, name, err);
    free(name);
    MX_TRY(status);
    MX_TRY(read_vocab(tokenizer, doc, n_added, err));
    return read_merges(tokenizer, doc, err);
}

/* ---- added tokens --------------------------------------------------------------------- */

/*
 * The id that a text gets by the rules of added_vocabulary.rs: the vocabulary's,
 * else that of an equal text before, else the next free one. An equal text is
 * looked for where the file says; elsewhere mx_added_finish finds the two.
 */
static mx_status added_id(const mx_tokenizer *tokenizer, const char *content, size_t length,
                          uint32_t hint, uint32_t *next_id, uint32_t *out, mx_error *err)
{
    int32_t id;
    MX_TRY(mx_vocab_find_text(&tokenizer->vocab, content, length, &id, err));
    if (id >= 0) {
        *out = (uint32_t)id;
        return MX_OK;
    }
    if (hint < *next_id && tokenizer->vocab.tokens[hint].added > 0) {
        const mx_added_token *token =
            &tokenizer->added.items[tokenizer->vocab.tokens[hint].added - 1];
        if (token->length == length && memcmp(token->content, content, length) == 0) {
            *out = hint;
            return MX_OK;
        }
    }
    *out = (*next_id)++;
    return MX_OK;
}

/* All members are required, as there. */
static mx_status read_added_token(mx_tokenizer *tokenizer, const json_t *value, const char *where,
                                  uint32_t *next_id, mx_error *err)
{
    mx_added_token token = {0};
    const char *content;
    int64_t id;
    MX_TRY(mx_json_get_string(value, "content", where, true, NULL, &content, err));
    MX_TRY(mx_json_get_int(value, "id", where, true, 0, 0, INT32_MAX, &id, err));
    MX_TRY(mx_json_get_bool(value, "single_word", where, true, false, &token.single_word, err));
    MX_TRY(mx_json_get_bool(value, "lstrip", where, true, false, &token.lstrip, err));
    MX_TRY(mx_json_get_bool(value, "rstrip", where, true, false, &token.rstrip, err));
    MX_TRY(mx_json_get_bool(value, "normalized", where, true, false, &token.match_normalized, err));
    MX_TRY(mx_json_get_bool(value, "special", where, true, false, &token.special, err));
    size_t length = strlen(content);
    if (length == 0) {
        return MX_OK; /* never matches; `tokenizers` passes it over as well */
    }
    MX_TRY(added_id(tokenizer, content, length, (uint32_t)id, next_id, &token.id, err));
    if (token.id != (uint32_t)id) {
        /* `tokenizers` warns and goes on with its own id; whoever wrote the file
         * meant another one, so nobody's embedding rows can be trusted. */
        return mx_error_set(err, MX_ERR_UNSUPPORTED,
                            "%s: id: '%.64s' has id %" PRId64 " here, and %u by its place", where,
                            content, id, token.id);
    }
    return mx_tokenizer_add_token(tokenizer, &token, content, length, err);
}

/* In file order: ids of new texts follow from it. */
static mx_status read_added(mx_tokenizer *tokenizer, const json_t *added, mx_error *err)
{
    uint32_t next_id = tokenizer->vocab.n_model;
    for (size_t i = 0; i < json_array_size(added); i++) {
        mx_str where = {0};
        char *name = NULL;
        mx_str_addf(&where, "%s: added_tokens[%zu]", tokenizer->where, i);
        MX_TRY(mx_str_take(&where, &name, err));
        const json_t *value = json_array_get(added, i);
        mx_status status = json_is_object(value)
                               ? read_added_token(tokenizer, value, name, &next_id, err)
                               : mx_error_set(err, MX_ERR_FORMAT, "%s: must be an object", name);
        free(name);
        MX_TRY(status);
    }
    return MX_OK;
}

/* ---- the file --------------------------------------------------------------------------- */

/* Ids that neither the model nor an added token has, at the end of the table,
 * were only room. */
static void trim_ids(mx_vocab *vocab)
{
    while (vocab->n_ids > 0 && !vocab->tokens[vocab->n_ids - 1].in_model &&
           vocab->tokens[vocab->n_ids - 1].added == 0) {
        vocab->n_ids--;
    }
}

/*
 * `truncation` and `padding` are not read: transformers switches both off unless
 * a call asks for them, and so does every user of a causal model.
 */
static mx_status read_root(mx_tokenizer *tokenizer, const document *doc, const json_t *root,
                           mx_error *err)
{
    const char *version;
    if (!json_is_object(root)) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: must be a JSON object", tokenizer->where);
    }
    MX_TRY(mx_json_get_string(root, "version", tokenizer->where, false, "1.0", &version, err));
    if (strcmp(version, "1.0") != 0) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: version: '%.64s' is not supported",
                            tokenizer->where, version);
    }
    const json_t *added = json_object_get(root, "added_tokens");
    if (added != NULL && !json_is_null(added) && !json_is_array(added)) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: added_tokens: must be an array",
                            tokenizer->where);
    }
    MX_TRY(read_model(tokenizer, doc, root, json_array_size(added), err));
    MX_TRY(read_added(tokenizer, added, err));
    trim_ids(&tokenizer->vocab);
    MX_TRY(mx_tokenizer_read_pipeline(tokenizer, root, err));
    return mx_tokenizer_finish(tokenizer, err);
}

/* The span of model.`name`, its text NULL when there is none. A file that is not
 * well-formed may yield a wrong one: then what is left is not either. */
static mx_cursor find_in_model(const char *json, size_t size, const char *name)
{
    mx_cursor cursor = {.text = json, .size = size};
    mx_cursor found = {0};
    if (mx_cursor_member(&cursor, "model") && mx_cursor_member(&cursor, name)) {
        size_t begin = cursor.at;
        if (mx_cursor_skip(&cursor)) {
            found.text = json + begin;
            found.size = cursor.at - begin;
        }
    }
    mx_cursor_free(&cursor);
    return found;
}

/* Cuts the vocabulary and the merges out of the text; null stands in for them. */
static mx_status document_split(const char *json, size_t size, document *doc, mx_error *err)
{
    doc->vocab = find_in_model(json, size, "vocab");
    doc->merges = find_in_model(json, size, "merges");
    const mx_cursor *first = &doc->vocab, *second = &doc->merges;
    if (second->text != NULL && (first->text == NULL || second->text < first->text)) {
        first = &doc->merges;
        second = &doc->vocab;
    }
    const char *at = json;
    const mx_cursor *cuts[] = {first, second};
    for (size_t i = 0; i < MX_COUNT(cuts); i++) {
        if (cuts[i]->text != NULL) {
            mx_str_add_bytes(&doc->rest, at, (size_t)(cuts[i]->text - at));
            mx_str_add(&doc->rest, "null");
            at = cuts[i]->text + cuts[i]->size;
        }
    }
    mx_str_add_bytes(&doc->rest, at, size - (size_t)(at - json));
    return doc->rest.failed ? mx_error_nomem(err, "tokenizer.json", size) : MX_OK;
}

/* UTF-8 is checked once for all that reads the text afterwards. */
mx_status mx_tokenizer_parse_json(const char *json, size_t size, const char *where,
                                  mx_tokenizer **out, mx_error *err)
{
    *out = NULL;
    document doc = {0};
    json_t *root = NULL;
    mx_tokenizer *tokenizer = NULL;
    mx_status status;
    size_t valid = mx_utf8_check(json, size);
    if (valid < size) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: byte %zu: not valid UTF-8", where, valid);
    }
    MX_TRY_GOTO(status, document_split(json, size, &doc, err));
    MX_TRY_GOTO(status, mx_json_parse(doc.rest.data, doc.rest.length, where, &root, err));
    MX_TRY_GOTO(status, mx_tokenizer_create(where, &tokenizer, err));
    MX_TRY_GOTO(status, read_root(tokenizer, &doc, root, err));
    *out = tokenizer;
    tokenizer = NULL;
done:
    mx_tokenizer_close(tokenizer);
    json_decref(root);
    mx_str_free(&doc.rest);
    return status;
}

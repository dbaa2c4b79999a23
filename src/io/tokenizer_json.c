/* Reads tokenizer.json: version, model (vocabulary, merges), added tokens. */
#include "io/tokenizer_impl.h"

#include "base/json.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Ids index tables: they may be this large in any file, and no larger than the
 * file has bytes (an entry takes at least six). */
#define SMALL_ID_LIMIT ((size_t)1 << 16)

/* ---- vocabulary --------------------------------------------------------------- */

/* Largest id + 1 and total text of the vocabulary; every value checked. */
static mx_status measure_vocab(const mx_tokenizer *tokenizer, json_t *vocab, size_t limit,
                               uint32_t *n_ids, size_t *n_bytes, mx_error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach(vocab, key, value)
    {
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || (size_t)id >= limit) {
            return mx_error_set(err, MX_ERR_FORMAT,
                                "%s: model: vocab: '%.64s': must be an id below %zu",
                                tokenizer->where, key, limit);
        }
        *n_ids = (uint32_t)id >= *n_ids ? (uint32_t)id + 1 : *n_ids;
        *n_bytes += strlen(key);
    }
    return MX_OK;
}

/* Texts that added_tokens gives and the vocabulary lacks get the ids after its
 * last, in order (added_vocabulary.rs); room for them. */
static mx_status read_vocab(mx_tokenizer *tokenizer, const json_t *model, size_t n_added,
                            size_t size, mx_error *err)
{
    json_t *vocab = json_object_get(model, "vocab");
    if (!json_is_object(vocab) || json_object_size(vocab) == 0) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: model: vocab: must be a non-empty object",
                            tokenizer->where);
    }
    size_t limit = size > SMALL_ID_LIMIT ? size : SMALL_ID_LIMIT;
    size_t n_entries = json_object_size(vocab), n_bytes = 0;
    uint32_t n_ids = 0;
    MX_TRY(measure_vocab(tokenizer, vocab, limit, &n_ids, &n_bytes, err));
    if (n_entries + n_added > n_ids) {
        n_ids = (uint32_t)(n_entries + n_added); /* both bounded by the file's size */
    }
    MX_TRY(mx_vocab_create(&tokenizer->vocab, n_ids, (uint32_t)n_entries, n_bytes, err));
    const char *key;
    json_t *value;
    json_object_foreach(vocab, key, value)
    {
        MX_TRY(mx_vocab_add(&tokenizer->vocab, (uint32_t)json_integer_value(value), key,
                            strlen(key), tokenizer->where, err));
    }
    return MX_OK;
}

/* ---- merges --------------------------------------------------------------------- */

static mx_status bad_merge(const mx_tokenizer *tokenizer, size_t index, mx_error *err)
{
    return mx_error_set(err, MX_ERR_FORMAT,
                        "%s: model: merges[%zu]: must be two texts, \"a b\" or [\"a\", \"b\"]",
                        tokenizer->where, index);
}

/* "a b": exactly one space. */
static mx_status read_merge_text(mx_tokenizer *tokenizer, uint32_t rank, size_t index,
                                 const char *text, mx_error *err)
{
    const char *space = strchr(text, ' ');
    if (space == NULL || strchr(space + 1, ' ') != NULL) {
        return bad_merge(tokenizer, index, err);
    }
    return mx_bpe_add(tokenizer, rank, text, (size_t)(space - text), space + 1, strlen(space + 1),
                      err);
}

static mx_status read_merge_pair(mx_tokenizer *tokenizer, uint32_t rank, size_t index,
                                 const json_t *pair, mx_error *err)
{
    const json_t *left = json_array_get(pair, 0);
    const json_t *right = json_array_get(pair, 1);
    if (json_array_size(pair) != 2 || !json_is_string(left) || !json_is_string(right)) {
        return bad_merge(tokenizer, index, err);
    }
    return mx_bpe_add(tokenizer, rank, json_string_value(left), json_string_length(left),
                      json_string_value(right), json_string_length(right), err);
}

static mx_status read_merges(mx_tokenizer *tokenizer, const json_t *model, mx_error *err)
{
    const json_t *merges = json_object_get(model, "merges");
    if (!json_is_array(merges)) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: model: merges: must be an array",
                            tokenizer->where);
    }
    MX_TRY(mx_bpe_create(&tokenizer->bpe, json_array_size(merges), err));
    uint32_t rank = 0;
    for (size_t i = 0; i < json_array_size(merges); i++) {
        const json_t *merge = json_array_get(merges, i);
        const char *text = json_string_value(merge);
        if (text != NULL && strncmp(text, "#version", 8) == 0) {
            continue; /* the first line of a merges.txt that was copied whole */
        }
        MX_TRY(text != NULL ? read_merge_text(tokenizer, rank, i, text, err)
                            : read_merge_pair(tokenizer, rank, i, merge, err));
        rank++;
    }
    return MX_OK;
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

static mx_status read_model(mx_tokenizer *tokenizer, const json_t *root, size_t n_added,
                            size_t size, mx_error *err)
{
    const json_t *model = json_object_get(root, "model");
    if (!json_is_object(model)) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: model: must be an object", tokenizer->where);
    }
    mx_str where = {0};
    mx_str_addf(&where, "%s: model", tokenizer->where);
    char *name = NULL;
    MX_TRY(mx_str_take(&where, &name, err));
    mx_status status = read_model_options(tokenizer, model, name, err);
    free(name);
    MX_TRY(status);
    MX_TRY(read_vocab(tokenizer, model, n_added, size, err));
    return read_merges(tokenizer, model, err);
}

/* ---- added tokens --------------------------------------------------------------------- */

/*
 * The id that a text gets by the rules of added_vocabulary.rs: the vocabulary's,
 * else that of an equal text before, else the next free one. An equal text is
 * looked for where the file says; elsewhere mx_added_finish finds the two.
 */
static uint32_t added_id(const mx_tokenizer *tokenizer, const char *content, size_t length,
                         uint32_t hint, uint32_t *next_id)
{
    int32_t id = mx_vocab_find_text(&tokenizer->vocab, content, length);
    if (id >= 0) {
        return (uint32_t)id;
    }
    if (hint < *next_id && tokenizer->vocab.tokens[hint].added > 0) {
        const mx_added_token *token =
            &tokenizer->added.items[tokenizer->vocab.tokens[hint].added - 1];
        if (token->length == length && memcmp(token->content, content, length) == 0) {
            return hint;
        }
    }
    return (*next_id)++;
}

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
    token.id = added_id(tokenizer, content, length, (uint32_t)id, next_id);
    if (token.id != (uint32_t)id) {
        /* `tokenizers` warns and goes on with its own id; whoever wrote the file
         * meant another one, so nobody's embedding rows can be trusted. */
        return mx_error_set(err, MX_ERR_UNSUPPORTED,
                            "%s: id: '%.64s' has id %" PRId64 " here, and %u by its place", where,
                            content, id, token.id);
    }
    return mx_tokenizer_add_token(tokenizer, &token, content, length, err);
}

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
static mx_status read_root(mx_tokenizer *tokenizer, const json_t *root, size_t size, mx_error *err)
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
    MX_TRY(read_model(tokenizer, root, json_array_size(added), size, err));
    MX_TRY(read_added(tokenizer, added, err));
    trim_ids(&tokenizer->vocab);
    MX_TRY(mx_tokenizer_read_pipeline(tokenizer, root, err));
    return mx_tokenizer_finish(tokenizer, err);
}

mx_status mx_tokenizer_parse_json(const char *json, size_t size, const char *where,
                                  mx_tokenizer **out, mx_error *err)
{
    *out = NULL;
    json_t *root = NULL;
    mx_tokenizer *tokenizer = NULL;
    mx_status status;
    MX_TRY_GOTO(status, mx_json_parse(json, size, where, &root, err));
    MX_TRY_GOTO(status, mx_tokenizer_create(where, &tokenizer, err));
    MX_TRY_GOTO(status, read_root(tokenizer, root, size, err));
    *out = tokenizer;
    tokenizer = NULL;
done:
    mx_tokenizer_close(tokenizer);
    json_decref(root);
    return status;
}

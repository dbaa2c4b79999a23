/* The tokenizer as a whole: opening, encoding, asking about tokens. */
#include "io/tokenizer_impl.h"

#include "base/file.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* Larger than any tokenizer by far; keeps offsets in 32 bits. */
#define MAX_JSON_BYTES ((size_t)512 << 20)

/* Empty but closable: readers fill it and close it when they fail. */
mx_status mx_tokenizer_create(const char *where, mx_tokenizer **out, mx_error *err)
{
    mx_tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (tokenizer == NULL) {
        return mx_error_nomem(err, "tokenizer", sizeof *tokenizer);
    }
    tokenizer->bpe.unk = -1;
    tokenizer->where = mx_str_copy(where, strlen(where));
    if (tokenizer->where == NULL) {
        free(tokenizer);
        return mx_error_nomem(err, "tokenizer", strlen(where));
    }
    *out = tokenizer;
    return MX_OK;
}

void mx_tokenizer_close(mx_tokenizer *tokenizer)
{
    if (tokenizer == NULL) {
        return;
    }
    for (size_t i = 0; i < tokenizer->n_steps; i++) {
        mx_pattern_free(&tokenizer->steps[i].pattern);
    }
    mx_vocab_free(&tokenizer->vocab);
    mx_added_free(&tokenizer->added);
    mx_bpe_free(&tokenizer->bpe);
    free(tokenizer->template.prefix.data);
    free(tokenizer->template.suffix.data);
    free(tokenizer->unk_token);
    free(tokenizer->where);
    free(tokenizer);
}

/* The ids of the 256 single bytes, and of the unknown token where one is needed. */
static mx_status finish_bytes(mx_tokenizer *tokenizer, mx_error *err)
{
    mx_bpe *bpe = &tokenizer->bpe;
    bool complete = true;
    for (int byte = 0; byte < 256; byte++) {
        char c = (char)byte;
        bpe->byte_id[byte] = mx_vocab_find(&tokenizer->vocab, &c, 1, false);
        complete = complete && bpe->byte_id[byte] >= 0;
    }
    if (tokenizer->unk_token != NULL) {
        MX_TRY(mx_vocab_find_text(&tokenizer->vocab, tokenizer->unk_token,
                                  strlen(tokenizer->unk_token), &bpe->unk, err));
        if (bpe->unk < 0 && !complete) {
            return mx_error_set(err, MX_ERR_FORMAT,
                                "%s: model: unk_token: '%.64s' is not in the vocabulary",
                                tokenizer->where, tokenizer->unk_token);
        }
    }
    return MX_OK;
}

/* Ids that no token has would be embedded as whatever row lies there. */
static mx_status check_template(const mx_tokenizer *tokenizer, const mx_ids *ids, mx_error *err)
{
    for (size_t i = 0; i < ids->n; i++) {
        size_t length;
        mx_tokenizer_bytes(tokenizer, ids->data[i], &length);
        if (length == 0) {
            return mx_error_set(err, MX_ERR_FORMAT, "%s: post_processor: id %d is not a token",
                                tokenizer->where, ids->data[i]);
        }
    }
    return MX_OK;
}

/* Without ByteLevel, words would be characters and the vocabulary plain text: a
 * different model family (SentencePiece), which is refused, not approximated. */
mx_status mx_tokenizer_finish(mx_tokenizer *tokenizer, mx_error *err)
{
    size_t n = tokenizer->n_steps;
    if (n == 0 || tokenizer->steps[n - 1].kind != MX_STEP_BYTE_LEVEL) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED,
                            "%s: pre_tokenizer: does not end in ByteLevel (only byte-level "
                            "vocabularies are supported)",
                            tokenizer->where);
    }
    MX_TRY(finish_bytes(tokenizer, err));
    MX_TRY(mx_added_finish(tokenizer, err));
    MX_TRY(check_template(tokenizer, &tokenizer->template.prefix, err));
    return check_template(tokenizer, &tokenizer->template.suffix, err);
}

/* ---- opening --------------------------------------------------------------------- */

/* Everything is copied out, so that the checkpoint need not stay open. */
static mx_status open_gguf(const char *path, mx_tokenizer **out, mx_error *err)
{
    mx_gguf *gguf = NULL;
    MX_TRY(mx_gguf_open(path, &gguf, err));
    mx_status status = mx_tokenizer_from_gguf(gguf, out, err);
    mx_gguf_close(gguf);
    return status;
}

/* By content, not by name: GGUF files go by any. */
static mx_status open_file(const char *path, mx_tokenizer **out, mx_error *err)
{
    mx_map map;
    MX_TRY(mx_map_open(path, &map, err));
    mx_status status;
    if (map.size >= 4 && memcmp(map.data, "GGUF", 4) == 0) {
        status = open_gguf(path, out, err);
    } else if (map.size > MAX_JSON_BYTES) {
        status = mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: %zu bytes are too many for a tokenizer",
                              path, map.size);
    } else {
        status = mx_tokenizer_parse_json(map.size > 0 ? (const char *)map.data : "", map.size, path,
                                         out, err);
    }
    mx_map_close(&map);
    return status;
}

mx_status mx_tokenizer_open(const char *path, mx_tokenizer **out, mx_error *err)
{
    *out = NULL;
    if (!mx_path_is_dir(path)) {
        return open_file(path, out, err);
    }
    /* tokenizer_config.json is left alone: transformers ignores its add_bos_token
     * when there is a tokenizer.json, whose post-processor decides. */
    char *file = mx_path_join(path, "tokenizer.json");
    if (file == NULL) {
        return mx_error_nomem(err, "path", strlen(path));
    }
    mx_status status = open_file(file, out, err);
    free(file);
    return status;
}

/* ---- encoding --------------------------------------------------------------------- */

/* Normalized text: added tokens that match in it, words between them. */
static mx_status encode_normalized(mx_encoder *encoder, const char *text, size_t length,
                                   mx_error *err)
{
    const mx_added *added = &encoder->tokenizer->added;
    mx_added_walk walk = {
        .added = added, .set = &added->normalized, .text = text, .length = length, .token = -1};
    int32_t token;
    for (size_t begin, end; mx_added_next(&walk, &token, &begin, &end);) {
        MX_TRY(token >= 0 ? mx_ids_add(&encoder->ids, (int32_t)added->items[token].id, err)
                          : mx_pretok_run(encoder, text + begin, end - begin, err));
    }
    return MX_OK;
}

/* A stretch is normalized by itself, as in `tokenizers`: a mark behind an added
 * token never joins the letter before it. */
static mx_status encode_stretch(mx_encoder *encoder, const char *text, size_t length, mx_error *err)
{
    const mx_tokenizer *tokenizer = encoder->tokenizer;
    char *normalized = NULL;
    MX_TRY(mx_normalize(tokenizer->normalizers, tokenizer->n_normalizers, text, length, &normalized,
                        &length, err));
    mx_status status =
        encode_normalized(encoder, normalized != NULL ? normalized : text, length, err);
    free(normalized);
    return status;
}

/* Raw text: added tokens that are not to be normalized, stretches between them. */
static mx_status encode_text(mx_encoder *encoder, const char *text, size_t length, mx_error *err)
{
    const mx_added *added = &encoder->tokenizer->added;
    mx_added_walk walk = {
        .added = added, .set = &added->raw, .text = text, .length = length, .token = -1};
    int32_t token;
    for (size_t begin, end; mx_added_next(&walk, &token, &begin, &end);) {
        MX_TRY(token >= 0 ? mx_ids_add(&encoder->ids, (int32_t)added->items[token].id, err)
                          : encode_stretch(encoder, text + begin, end - begin, err));
    }
    return MX_OK;
}

static mx_status add_all(mx_ids *ids, const mx_ids *extra, mx_error *err)
{
    for (size_t i = 0; i < extra->n; i++) {
        MX_TRY(mx_ids_add(ids, extra->data[i], err));
    }
    return MX_OK;
}

/* The post-processor works on ids alone: what it adds never meets the text. */
static mx_status encode_all(mx_encoder *encoder, const char *text, size_t length, bool add_special,
                            mx_error *err)
{
    const mx_template *template = &encoder->tokenizer->template;
    MX_TRY(mx_matcher_create(&encoder->matcher, length, err));
    if (add_special) {
        MX_TRY(add_all(&encoder->ids, &template->prefix, err));
    }
    MX_TRY(encode_text(encoder, text, length, err));
    return add_special ? add_all(&encoder->ids, &template->suffix, err) : MX_OK;
}

mx_status mx_tokenizer_encode(const mx_tokenizer *tokenizer, const char *text, size_t length,
                              bool add_special, int32_t **ids, size_t *n_ids, mx_error *err)
{
    *ids = NULL;
    *n_ids = 0;
    if (length > INT32_MAX) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "text: %zu bytes, at most %d can be encoded",
                            length, INT32_MAX);
    }
    size_t valid = mx_utf8_check(text, length);
    if (valid < length) {
        return mx_error_set(err, MX_ERR_FORMAT, "text: byte %zu: not valid UTF-8", valid);
    }
    mx_encoder encoder = {.tokenizer = tokenizer};
    mx_status status = encode_all(&encoder, text, length, add_special, err);
    if (status == MX_OK && encoder.ids.data == NULL) {
        encoder.ids.data = malloc(sizeof *encoder.ids.data); /* no ids, yet not NULL */
        status = encoder.ids.data == NULL ? mx_error_nomem(err, "token ids", 1) : MX_OK;
    }
    mx_matcher_free(&encoder.matcher);
    mx_word_space_free(&encoder.space);
    free(encoder.prefixed);
    if (status != MX_OK) {
        free(encoder.ids.data);
        return status;
    }
    *ids = encoder.ids.data;
    *n_ids = encoder.ids.n;
    return MX_OK;
}

void mx_ids_free(int32_t *ids)
{
    free(ids);
}

/* ---- tokens ------------------------------------------------------------------------- */

uint32_t mx_tokenizer_vocab(const mx_tokenizer *tokenizer)
{
    return tokenizer->vocab.n_ids;
}

/* Text from a user: not all of it is UTF-8, which the vocabulary takes for granted. */
mx_status mx_tokenizer_id(const mx_tokenizer *tokenizer, const char *token, int32_t *id,
                          mx_error *err)
{
    size_t length = strlen(token);
    int32_t index = mx_added_find(&tokenizer->added, token, length);
    if (index >= 0) {
        *id = (int32_t)tokenizer->added.items[index].id;
        return MX_OK;
    }
    if (mx_utf8_check(token, length) < length) {
        *id = -1;
        return MX_OK;
    }
    return mx_vocab_find_text(&tokenizer->vocab, token, length, id, err);
}

int32_t mx_tokenizer_bos(const mx_tokenizer *tokenizer)
{
    const mx_ids *prefix = &tokenizer->template.prefix;
    return prefix->n > 0 ? prefix->data[0] : -1;
}

/* The added token of an id, or NULL. */
static const mx_added_token *added_token(const mx_tokenizer *tokenizer, int32_t id)
{
    if (id < 0 || (uint32_t)id >= tokenizer->vocab.n_ids) {
        return NULL;
    }
    uint32_t index = tokenizer->vocab.tokens[id].added;
    return index == 0 ? NULL : &tokenizer->added.items[index - 1];
}

/* Added tokens are their text; the model's tokens are bytes, maybe half a character. */
const char *mx_tokenizer_bytes(const mx_tokenizer *tokenizer, int32_t id, size_t *length)
{
    *length = 0;
    if (id < 0 || (uint32_t)id >= tokenizer->vocab.n_ids) {
        return "";
    }
    const mx_added_token *added = added_token(tokenizer, id);
    if (added != NULL) {
        *length = added->length;
        return added->content;
    }
    const mx_token *token = &tokenizer->vocab.tokens[id];
    *length = token->length;
    return tokenizer->vocab.bytes + token->offset;
}

bool mx_tokenizer_is_special(const mx_tokenizer *tokenizer, int32_t id)
{
    const mx_added_token *added = added_token(tokenizer, id);
    return added != NULL && added->special;
}

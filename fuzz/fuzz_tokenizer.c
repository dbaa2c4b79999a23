/*
 * tokenizer.json, or the metadata of a GGUF file, from any bytes; what is accepted encodes a text,
 * gives the same ids after being written and read again, and has bytes for every id.
 *
 * The input is the file, after a tokenizer.json optionally a zero byte and a text.
 */
#include "io/tokenizer.h"

#include <stdlib.h>
#include <string.h>

static const char sample[] = "It's 12 <s> caf\xC3\xA9 e\xCC\x81 \xE6\x97\xA5\r\n  a<a><b>ab";

static void require(bool condition)
{
    if (!condition) {
        abort();
    }
}

static mx_status encode(const mx_tokenizer *tokenizer, const char *text, size_t length,
                        int32_t **ids, size_t *n)
{
    mx_error err = {0};
    mx_status status = mx_tokenizer_encode(tokenizer, text, length, true, ids, n, &err);
    require((status == MX_OK) == (*ids != NULL));
    require(status == MX_OK || err.text[0] != '\0');
    return status;
}

/* Both give the same ids, or the same kind of error. */
static void check_same(const mx_tokenizer *one, const mx_tokenizer *two, const char *text,
                       size_t length)
{
    int32_t *ids[2];
    size_t n[2];
    mx_status status = encode(one, text, length, &ids[0], &n[0]);
    require(encode(two, text, length, &ids[1], &n[1]) == status);
    require(n[0] == n[1]);
    for (size_t i = 0; i < n[0]; i++) {
        size_t size;
        require(ids[0][i] == ids[1][i]);
        require(ids[0][i] >= 0 && (uint32_t)ids[0][i] < mx_tokenizer_vocab(one));
        require(mx_tokenizer_bytes(one, ids[0][i], &size) != NULL);
    }
    mx_ids_free(ids[0]);
    mx_ids_free(ids[1]);
}

static void check_tokenizer(const mx_tokenizer *tokenizer, const char *text, size_t length)
{
    char *json = NULL;
    mx_error err = {0};
    mx_tokenizer *again = NULL;
    require(mx_tokenizer_to_json(tokenizer, &json, &err) == MX_OK);
    require(mx_tokenizer_parse_json(json, strlen(json), "again", &again, &err) == MX_OK);
    require(mx_tokenizer_vocab(again) == mx_tokenizer_vocab(tokenizer));
    require(mx_tokenizer_bos(again) == mx_tokenizer_bos(tokenizer));
    check_same(tokenizer, again, sample, sizeof sample - 1);
    check_same(tokenizer, again, text, length);
    mx_tokenizer_close(again);
    free(json);
}

static mx_status parse_gguf(const uint8_t *data, size_t size, mx_tokenizer **out, mx_error *err)
{
    mx_gguf *gguf = NULL;
    mx_status status = mx_gguf_parse(data, size, "input", &gguf, err);
    if (status == MX_OK) {
        status = mx_tokenizer_from_gguf(gguf, out, err);
    }
    mx_gguf_close(gguf);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool is_gguf = size >= 4 && memcmp(data, "GGUF", 4) == 0;
    const uint8_t *zero = size > 0 && !is_gguf ? memchr(data, 0, size) : NULL;
    size_t json_size = zero != NULL ? (size_t)(zero - data) : size;
    const char *text = zero != NULL ? (const char *)zero + 1 : sample;
    size_t length = zero != NULL ? size - json_size - 1 : sizeof sample - 1;
    mx_error err = {0};
    mx_tokenizer *tokenizer = NULL;
    mx_status status =
        is_gguf ? parse_gguf(data, size, &tokenizer, &err)
                : mx_tokenizer_parse_json((const char *)data, json_size, "input", &tokenizer, &err);
    require((status == MX_OK) == (tokenizer != NULL));
    require(status == MX_OK || (err.status == status && err.text[0] != '\0'));
    if (tokenizer != NULL) {
        check_tokenizer(tokenizer, text, length);
        mx_tokenizer_close(tokenizer);
    }
    return 0;
}

/*
 * Byte-level BPE tokenizers (Llama-3, SmolLM2, GPT-2 families) as Hugging Face
 * `tokenizers` runs them: added tokens, normal forms, pre-tokenizer pattern read
 * from the file and run by PCRE2 (UTF + UCP), byte-level alphabet, merges,
 * template of the post-processor. A component of tokenizer.json that mxlm does not
 * implement is MX_ERR_UNSUPPORTED and is named. Only `truncation` and `padding`
 * are passed over, which transformers switches off as well.
 *
 * Encoding does not change a tokenizer: several threads may share one. Merging is
 * n log n in the length of a word; matching the pattern is bounded and fails
 * (MX_ERR_UNSUPPORTED) rather than run on. Text that is not UTF-8 is MX_ERR_FORMAT
 * and names the byte.
 */
#ifndef MX_IO_TOKENIZER_H
#define MX_IO_TOKENIZER_H

#include "base/status.h"
#include "io/gguf.h"

/* `where` names the source in messages. Bytes are copied as needed. */
mx_status mx_tokenizer_parse_json(const char *json, size_t size, const char *where,
                                  mx_tokenizer **out, mx_error *err);
/* tokenizer.ggml.model gpt2, with a `pre` that is known by name (llama-bpe, smollm,
 * gpt-2). Control and user-defined tokens are found in text. */
mx_status mx_tokenizer_from_gguf(const mx_gguf *gguf, mx_tokenizer **out, mx_error *err);
/* mx_tokenizer_open, _close, _encode, mx_ids_free: see mxlm.h. */

uint32_t mx_tokenizer_vocab(const mx_tokenizer *tokenizer); /* largest id + 1 */
/* Id of a token by its text (added tokens, then the vocabulary's byte-level
 * spelling), -1 when absent. Only memory can fail. */
mx_status mx_tokenizer_id(const mx_tokenizer *tokenizer, const char *token, int32_t *id,
                          mx_error *err);
/* BOS that add_special puts in front, -1 when the post-processor adds none. */
int32_t mx_tokenizer_bos(const mx_tokenizer *tokenizer);

/* The raw bytes of one token (byte-level alphabet undone; an added token's own
 * text). Borrowed; not NUL-terminated; `*length` 0 for ids out of range. */
const char *mx_tokenizer_bytes(const mx_tokenizer *tokenizer, int32_t id, size_t *length);
/* True for special tokens (skipped when text is shown). */
bool mx_tokenizer_is_special(const mx_tokenizer *tokenizer, int32_t id);

/* The tokenizer as tokenizer.json text (malloc'd), which `tokenizers` loads and
 * which gives the same ids: for checkpoints written from GGUF. A tokenizer read
 * from tokenizer.json is copied as a file instead. */
mx_status mx_tokenizer_to_json(const mx_tokenizer *tokenizer, char **out, mx_error *err);

#endif

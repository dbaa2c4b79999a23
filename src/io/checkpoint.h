/*
 * A checkpoint, wherever it lies: a Hugging Face directory (one safetensors file
 * or shards with an index), or a GGUF file. Tensors go by Hugging Face names
 * ("model.layers.0.self_attn.q_proj.weight"); differences of the container are
 * undone here: GGUF's names, and its row permutation of q_proj and k_proj.
 */
#ifndef MX_IO_CHECKPOINT_H
#define MX_IO_CHECKPOINT_H

#include "format/specs.h"
#include "io/gguf.h"
#include "io/hf_config.h"
#include "io/tensor.h"

typedef struct mx_checkpoint mx_checkpoint;

/*
 * Opens and checks: every tensor that the config asks for is there in its shape
 * (packed code and scale shapes for a quantized directory) and in a type that
 * mxlm reads; a tensor that a model of this config does not have is refused by
 * name, since ignoring it would change the model silently.
 */
mx_status mx_checkpoint_open(const char *path, mx_checkpoint **out, mx_error *err);
void mx_checkpoint_close(mx_checkpoint *checkpoint);

/* As given to mx_checkpoint_open. */
const char *mx_checkpoint_path(const mx_checkpoint *checkpoint);
bool mx_checkpoint_is_gguf(const mx_checkpoint *checkpoint);
/* The GGUF reader (metadata, tokenizer); NULL for a directory. Borrowed. */
const mx_gguf *mx_checkpoint_gguf(const mx_checkpoint *checkpoint);
/* Sizes and constants of the model, from either container. */
const mx_llama_config *mx_checkpoint_config(const mx_checkpoint *checkpoint);
/* config.json as parsed (borrowed); NULL for GGUF. */
const json_t *mx_checkpoint_config_json(const mx_checkpoint *checkpoint);

/* The numeric contract of a checkpoint that mxlm quantize (or Quark, in the
 * OCP-MX layout) wrote; NULL when the weights are unquantized. A
 * quantization_config that mxlm cannot honour made mx_checkpoint_open fail. */
const mx_specs *mx_checkpoint_specs(const mx_checkpoint *checkpoint);
/* How mxlm quantized it ("rtn"); NULL when unquantized or written by Quark. */
const char *mx_checkpoint_method(const mx_checkpoint *checkpoint);

/* Every tensor, by Hugging Face name, in a fixed order. */
size_t mx_checkpoint_count(const mx_checkpoint *checkpoint);
const mx_tensor *mx_checkpoint_at(const mx_checkpoint *checkpoint, size_t index);
const mx_tensor *mx_checkpoint_find(const mx_checkpoint *checkpoint, const char *name);

/*
 * Rows of a weight as the model wants them; a 1-D tensor (bias, norm) is n_rows
 * rows of one element. For GGUF's q_proj and k_proj, row r of the model is row
 * mx_rows_source(rows, r) of the stored tensor; for everything else they are
 * equal. For a quantized weight (mx_checkpoint_specs, and not excluded) the rows
 * are packed codes, n_cols and row_bytes count bytes, and the scales are the rows
 * of "X.weight_scale".
 */
typedef struct mx_rows {
    const mx_tensor *tensor; /* [n_rows][n_cols], or packed codes (then dtype U8) */
    uint64_t n_rows, n_cols; /* of the stored tensor */
    size_t row_bytes;
    uint32_t permuted_head_dim; /* 0: rows in place */
} mx_rows;

/* MX_ERR_FORMAT when the checkpoint has no tensor of that name. */
mx_status mx_checkpoint_rows(const mx_checkpoint *checkpoint, const char *name, mx_rows *out,
                             mx_error *err);
/* The stored row that is row `row` of the model. */
uint64_t mx_rows_source(const mx_rows *rows, uint64_t row);
/* Pointer to the stored bytes of model row `row`. */
const uint8_t *mx_rows_at(const mx_rows *rows, uint64_t row);

/* Releases the resident pages of a tensor's bytes (a hint). */
void mx_checkpoint_drop(const mx_checkpoint *checkpoint, const mx_tensor *tensor);

#endif

/*
 * The tensors of a Llama model: names in Hugging Face and GGUF files, and the
 * shapes that a config asks for. One table drives reading, checking and writing.
 */
#ifndef MX_IO_LLAMA_LAYOUT_H
#define MX_IO_LLAMA_LAYOUT_H

#include "format/specs.h"
#include "io/hf_config.h"

#define MX_LLAMA_NAME_SIZE 96   /* of any tensor or module name, NUL included */
#define MX_LLAMA_PROJECTIONS 7u /* q, k, v, o, gate, up, down */

typedef struct mx_llama_tensor {
    char name[MX_LLAMA_NAME_SIZE]; /* Hugging Face name */
    int n_dims;                    /* 1 or 2 */
    uint64_t shape[2];             /* [out][in], or [size] */
    bool projection;               /* one of the seven weights that are quantized */
    bool optional;                 /* may be absent: the head of a tied model, old rotary buffers */
    uint32_t permuted_head_dim;    /* GGUF stores its rows permuted (q, k); 0: not */
} mx_llama_tensor;

/* How many tensors (optional ones included) the config asks for, and each of
 * them, layer by layer; index < count. */
size_t mx_llama_tensor_count(const mx_llama_config *config);
void mx_llama_tensor_at(const mx_llama_config *config, size_t index, mx_llama_tensor *out);

/* What the config says of the tensor of that Hugging Face name; false when a
 * model of this config has no such tensor (a bias that it does not announce, a
 * layer beyond the last, any other name). */
bool mx_llama_tensor_find(const mx_llama_config *config, const char *name, mx_llama_tensor *out);

/* The Hugging Face name of a GGUF tensor ("blk.0.attn_q.weight") in `out`; false
 * when the llama architecture has no such tensor. */
bool mx_llama_name_from_gguf(const char *gguf_name, char *out, size_t size);

/* True for "...q_proj.weight" and the other six projections; `*module_length` (may
 * be NULL) is the length of the name without ".weight". */
bool mx_llama_is_projection(const char *name, size_t *module_length);

/* The weight that is the output head: the embedding when tied. */
const char *mx_llama_head_name(const mx_llama_config *config);

/* How `specs` quantize the weight of that Hugging Face name: a projection that is not
 * excluded, or the head. NULL: it stays as it is. */
const mx_quant *mx_llama_weight_quant(const mx_llama_config *config, const mx_specs *specs,
                                      const char *name);

/* Module name of projection `kind` (0 to 6, in the order above) of a layer:
 * "model.layers.3.self_attn.q_proj". */
void mx_llama_module(uint32_t layer, uint32_t kind, char out[MX_LLAMA_NAME_SIZE]);

#endif

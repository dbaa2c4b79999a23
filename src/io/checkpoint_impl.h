/* The checkpoint's insides; private to checkpoint*.c. */
#ifndef MX_IO_CHECKPOINT_IMPL_H
#define MX_IO_CHECKPOINT_IMPL_H

#include "io/checkpoint.h"
#include "io/llama_layout.h"
#include "io/safetensors.h"
#include "io/tensor_set.h"

struct mx_checkpoint {
    char *path;
    mx_llama_config config;
    mx_tensor_set tensors; /* by Hugging Face name; copies of the readers' entries */

    /* A directory: */
    json_t *config_json;
    mx_safetensors **shards; /* [n_shards], owned */
    size_t n_shards;
    bool quantized;
    mx_specs specs;     /* when quantized */
    const char *method; /* in config_json, or NULL */

    /* A GGUF file: */
    mx_gguf *gguf;
    char *names;         /* Hugging Face names of its tensors */
    uint8_t *biases;     /* q and k biases with their permutation undone */
    float *rope_factors; /* rope.factors of the config */
};

/* Fill a checkpoint that has its path, from a directory and from a GGUF file: config
 * and tensors, not yet held against each other. The caller closes it on failure. */
mx_status mx_checkpoint_load_dir(mx_checkpoint *checkpoint, mx_error *err);
mx_status mx_checkpoint_load_gguf(mx_checkpoint *checkpoint, mx_error *err);

/* The promises of mx_checkpoint_open, once tensors and config are there. */
mx_status mx_checkpoint_verify(mx_checkpoint *checkpoint, mx_error *err);

/* Where row `row` of the model lies among the stored rows of a GGUF q or k. */
uint64_t mx_permuted_row(uint64_t row, uint32_t head_dim);

#endif

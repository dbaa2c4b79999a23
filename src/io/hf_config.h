/* config.json of a Llama-architecture model, checked and completed. */
#ifndef MX_IO_HF_CONFIG_H
#define MX_IO_HF_CONFIG_H

#include "base/json.h"

typedef enum mx_rope_kind {
    MX_ROPE_DEFAULT, /* inv_freq[i] = theta^(-2i / head_dim) */
    MX_ROPE_LINEAR,  /* all of them divided by factor */
    MX_ROPE_LLAMA3,  /* by factor below low_freq, smoothly up to high_freq */
    MX_ROPE_FACTORS, /* inv_freq[i] divided by factors[i]: GGUF's rope_freqs.weight where it
                        is not what Llama 3's constants give */
} mx_rope_kind;

typedef struct mx_rope_config {
    mx_rope_kind kind;
    double theta;
    double factor;           /* linear, llama3; 1 otherwise */
    double low_freq_factor;  /* llama3 */
    double high_freq_factor; /* llama3 */
    double original_context; /* llama3: original_max_position_embeddings */
    const float *factors;    /* [head_dim / 2] for MX_ROPE_FACTORS, owned by the checkpoint */
} mx_rope_config;

typedef struct mx_llama_config {
    uint32_t hidden;       /* hidden_size */
    uint32_t intermediate; /* intermediate_size */
    uint32_t layers;       /* num_hidden_layers */
    uint32_t heads;        /* num_attention_heads */
    uint32_t kv_heads;     /* num_key_value_heads; divides heads */
    uint32_t head_dim;     /* even; hidden / heads unless given */
    uint32_t vocab;        /* vocab_size */
    uint32_t context;      /* max_position_embeddings */
    float norm_eps;        /* rms_norm_eps */
    bool tied;             /* tie_word_embeddings */
    bool attention_bias, mlp_bias;
    int32_t bos_id; /* -1: none */
    int32_t eos_ids[8];
    uint32_t n_eos;
    mx_rope_config rope;
} mx_llama_config;

/* Bounds of the sizes, far above every published model: products of any three
 * fit 64 bits. */
#define MX_LLAMA_MAX_WIDTH (1u << 20) /* hidden, intermediate, heads * head_dim */
#define MX_LLAMA_MAX_LAYERS 4096u
#define MX_LLAMA_MAX_VOCAB (1u << 26)

/*
 * Parses a config.json object. model_type must be "llama" (or architectures
 * ["LlamaForCausalLM"]), hidden_act "silu"; rope_scaling and rope_parameters
 * (theta inside) both accepted; rope types other than default, linear, llama3
 * are MX_ERR_UNSUPPORTED. All sizes are bounded so that products fit 64 bits.
 */
mx_status mx_llama_config_parse(const json_t *root, const char *where, mx_llama_config *out,
                                mx_error *err);

/* The checks between fields, for a config put together elsewhere (GGUF). */
mx_status mx_llama_config_check(const mx_llama_config *config, const char *where, mx_error *err);

/* The same as a config.json object (without quantization_config): what a
 * checkpoint written from a GGUF file carries. New reference. MX_ROPE_FACTORS has
 * no such form: MX_ERR_UNSUPPORTED. */
mx_status mx_llama_config_to_json(const mx_llama_config *config, json_t **out, mx_error *err);

#endif

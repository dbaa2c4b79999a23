/*
 * A Llama model ready to run: checked weights, a kernel table, a thread team.
 */
#ifndef MX_MODEL_MODEL_H
#define MX_MODEL_MODEL_H

#include "backend/backend.h"
#include "io/checkpoint.h"
#include "io/tokenizer.h"

/* One decoder layer. Shapes are [out][in] as stored by Hugging Face. */
typedef struct mx_layer {
    mx_matrix q;    /* [heads * head_dim][hidden] */
    mx_matrix k;    /* [kv_heads * head_dim][hidden] */
    mx_matrix v;    /* [kv_heads * head_dim][hidden] */
    mx_matrix o;    /* [hidden][heads * head_dim] */
    mx_matrix gate; /* [intermediate][hidden] */
    mx_matrix up;   /* [intermediate][hidden] */
    mx_matrix down; /* [hidden][intermediate] */
    float *attention_norm; /* [hidden], owned */
    float *mlp_norm;       /* [hidden], owned */
} mx_layer;

struct mx_model {
    mx_checkpoint *checkpoint;
    mx_llama_config config; /* a copy of the checkpoint's */
    mx_tokenizer *tokenizer;
    mx_specs specs;         /* what is in force: weights and activations */
    bool weights_quantized;
    mx_backend backend;
    mx_layer *layers;       /* [config.layers] */
    mx_matrix embedding;    /* [vocab][hidden] */
    mx_matrix head;         /* [vocab][hidden]; the embedding itself when tied */
    float *final_norm;      /* [hidden], owned */
};

/* Bytes of weights, for reports. */
typedef struct mx_weight_sizes {
    uint64_t projection_bytes; /* the seven projections of all layers, as stored (codes + scales) */
    uint64_t projection_bytes_fp32; /* the same at 4 bytes a weight */
    uint64_t total_bytes;      /* all weights: projections, embedding, head, norms, biases */
    uint64_t total_bytes_fp32;
    uint64_t projection_count;      /* weights */
    double activation_bits;         /* bits an element of the projections' inputs, scales included */
    double activation_bytes_token;  /* bytes a token over the projections' inputs, all layers:
                                       each distinct input counted once (qkv, o, gate/up, down) */
    double activation_bytes_token_fp32;
} mx_weight_sizes;

void mx_model_sizes(const mx_model *model, mx_weight_sizes *out);

#endif

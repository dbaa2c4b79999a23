/*
 * A Llama model ready to run: checked weights, a kernel table, a thread team.
 */
#ifndef MX_MODEL_MODEL_H
#define MX_MODEL_MODEL_H

#include "backend/backend.h"
#include "io/checkpoint.h"
#include "io/tokenizer.h"

/* The seven projections of a decoder layer, in the order of the forward pass. */
typedef enum mx_projection {
    MX_PROJ_Q,    /* [heads * head_dim][hidden] */
    MX_PROJ_K,    /* [kv_heads * head_dim][hidden] */
    MX_PROJ_V,    /* [kv_heads * head_dim][hidden] */
    MX_PROJ_O,    /* [hidden][heads * head_dim] */
    MX_PROJ_GATE, /* [intermediate][hidden] */
    MX_PROJ_UP,   /* [intermediate][hidden] */
    MX_PROJ_DOWN, /* [hidden][intermediate] */
    MX_PROJ_COUNT
} mx_projection;

typedef struct mx_layer {
    mx_matrix projections[MX_PROJ_COUNT]; /* shapes above, [out][in] */
    float *attention_norm;                /* [hidden], owned */
    float *mlp_norm;                      /* [hidden], owned */
} mx_layer;

struct mx_model {
    mx_checkpoint *checkpoint;
    mx_llama_config config;  /* a copy of the checkpoint's */
    mx_tokenizer *tokenizer; /* NULL when the directory has none */
    mx_specs specs;          /* what is in force: weights, activations, head */
    bool prepared;           /* matrices are in their final form */
    mx_kv_type kv_type;      /* how sessions made from now on store keys and values */
    mx_backend backend;
    mx_layer *layers;    /* [config.layers] */
    mx_matrix embedding; /* [vocab][hidden] */
    mx_matrix head;      /* [vocab][hidden]; all zero when the embedding is the head as it
                            is stored: use mx_model_head */
    float *final_norm;   /* [hidden], owned */
};

/* The output head: the embedding when tied and not quantized. A tied one that is
 * quantized has the codes as its product takes them; the embedding then reads single
 * rows from the file: decoded from its codes, or rounded as they are read. */
const mx_matrix *mx_model_head(const mx_model *model);

/* The tokenizer, or an error that says which file is missing. */
mx_status mx_model_tokenizer(const mx_model *model, const mx_tokenizer **out, mx_error *err);

/* MX_ERR_ARGUMENT unless a token id is the same piece of text to both models: bytes of
 * every token, and whether it is special. `role` names the other in the message. */
mx_status mx_model_check_tokens(const mx_model *model, const mx_model *other, const char *role,
                                mx_error *err);

/* "model.layers.LAYER.self_attn.q_proj" and so on, without ".weight", into
 * name [96]. */
void mx_projection_name(uint32_t layer, mx_projection projection, char *name);

/* Rows (outputs) and columns (inputs) of a projection by the config. */
void mx_projection_shape(const mx_llama_config *config, mx_projection projection, size_t *rows,
                         size_t *cols);

/*
 * Replaces an unquantized projection by packed codes and scales (row layout of
 * format/block.h) in one malloc'd block `codes`, which the model takes over in
 * any case; scales lie `code_bytes` behind its start. PLAIN formats have no
 * scales. Becomes panels at once where the settings allow, so that canonical
 * codes of one matrix at a time are held.
 */
mx_status mx_model_set_projection(mx_model *model, uint32_t layer, mx_projection projection,
                                  const mx_quant *weights, uint8_t *codes, size_t code_bytes,
                                  mx_error *err);

/* The same for the head, and with it a tied embedding: `quant` has shared scales. */
mx_status mx_model_set_head(mx_model *model, const mx_quant *quant, uint8_t *codes,
                            size_t code_bytes, mx_error *err);

/* "fp32", "bf16". */
const char *mx_kv_type_name(mx_kv_type type);

/*
 * Gives back pages of an embedding table that is read by single rows alone: the
 * system maps 64 KB around each, so that the table would fill memory beside its own
 * panels. A few microseconds.
 */
void mx_model_drop_embedding(const mx_model *model);

/* Brings all matrices into the form that model->specs asks for; called by
 * mx_session_create. Settings are final from then on. */
mx_status mx_model_prepare(mx_model *model, mx_error *err);

/* Sizes of weights and of the projections' inputs, for reports. */
typedef struct mx_model_size {
    uint64_t projection_weights;    /* number of weights in the quantizable projections */
    uint64_t projection_bytes;      /* as stored: codes and scales, or rows */
    uint64_t projection_bytes_fp32; /* the same at 4 bytes a weight */
    uint64_t total_bytes; /* projections, embedding, head (once when tied), norms, biases */
    uint64_t total_bytes_fp32;
    double activation_bits;             /* bits an element of the inputs, scales included */
    double activation_bytes_token;      /* all layers; inputs shared by q/k/v and by gate/up
                                           counted once */
    double activation_bytes_token_fp32; /* the same at 4 bytes an element */
} mx_model_size;

void mx_model_measure(const mx_model *model, mx_model_size *out);

#endif

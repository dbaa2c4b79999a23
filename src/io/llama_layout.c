/*
 * Names and shapes: transformers' LlamaForCausalLM, and llama.cpp's table for the
 * llama architecture (gguf-py, tensor_mapping.py).
 */
#include "io/llama_layout.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Sizes that shapes are made of. */
typedef enum dim { NONE, HIDDEN, INTERMEDIATE, QUERY, KEY_VALUE, VOCAB, HALF_HEAD } dim;

/* When a config asks for the tensor. */
typedef enum need { ALWAYS, ATTENTION_BIAS, MLP_BIAS, OPTIONAL, UNLESS_TIED } need;

typedef struct part {
    const char *name; /* Hugging Face name, behind "model.layers.N." for parts of a layer */
    const char *gguf; /* GGUF name, behind "blk.N."; NULL: none */
    dim out, in;      /* in = NONE: one dimension */
    need when;
    bool projection, permuted;
} part;

static const part model_parts[] = {
    {"model.embed_tokens.weight", "token_embd.weight", VOCAB, HIDDEN, ALWAYS, false, false},
    {"model.norm.weight", "output_norm.weight", HIDDEN, NONE, ALWAYS, false, false},
    {"lm_head.weight", "output.weight", VOCAB, HIDDEN, UNLESS_TIED, false, false},
};

static const part layer_parts[] = {
    {"input_layernorm.weight", "attn_norm.weight", HIDDEN, NONE, ALWAYS, false, false},
    {"self_attn.q_proj.weight", "attn_q.weight", QUERY, HIDDEN, ALWAYS, true, true},
    {"self_attn.k_proj.weight", "attn_k.weight", KEY_VALUE, HIDDEN, ALWAYS, true, true},
    {"self_attn.v_proj.weight", "attn_v.weight", KEY_VALUE, HIDDEN, ALWAYS, true, false},
    {"self_attn.o_proj.weight", "attn_output.weight", HIDDEN, QUERY, ALWAYS, true, false},
    {"self_attn.q_proj.bias", "attn_q.bias", QUERY, NONE, ATTENTION_BIAS, false, true},
    {"self_attn.k_proj.bias", "attn_k.bias", KEY_VALUE, NONE, ATTENTION_BIAS, false, true},
    {"self_attn.v_proj.bias", "attn_v.bias", KEY_VALUE, NONE, ATTENTION_BIAS, false, false},
    {"self_attn.o_proj.bias", "attn_output.bias", HIDDEN, NONE, ATTENTION_BIAS, false, false},
    {"post_attention_layernorm.weight", "ffn_norm.weight", HIDDEN, NONE, ALWAYS, false, false},
    {"mlp.gate_proj.weight", "ffn_gate.weight", INTERMEDIATE, HIDDEN, ALWAYS, true, false},
    {"mlp.up_proj.weight", "ffn_up.weight", INTERMEDIATE, HIDDEN, ALWAYS, true, false},
    {"mlp.down_proj.weight", "ffn_down.weight", HIDDEN, INTERMEDIATE, ALWAYS, true, false},
    {"mlp.gate_proj.bias", "ffn_gate.bias", INTERMEDIATE, NONE, MLP_BIAS, false, false},
    {"mlp.up_proj.bias", "ffn_up.bias", INTERMEDIATE, NONE, MLP_BIAS, false, false},
    {"mlp.down_proj.bias", "ffn_down.bias", HIDDEN, NONE, MLP_BIAS, false, false},
    /* What rope's theta gives anyway; checkpoints of 2023 carry it. */
    {"self_attn.rotary_emb.inv_freq", NULL, HALF_HEAD, NONE, OPTIONAL, false, false},
};

/* Sizes are bounded by hf_config.h: no product here overflows. */
static uint64_t dim_size(const mx_llama_config *config, dim which)
{
    switch (which) {
    case HIDDEN:
        return config->hidden;
    case INTERMEDIATE:
        return config->intermediate;
    case QUERY:
        return (uint64_t)config->heads * config->head_dim;
    case KEY_VALUE:
        return (uint64_t)config->kv_heads * config->head_dim;
    case VOCAB:
        return config->vocab;
    case HALF_HEAD:
        return config->head_dim / 2;
    case NONE:
        break;
    }
    return 1;
}

/* Whether a model of this config has such a tensor at all. */
static bool part_exists(const mx_llama_config *config, const part *p)
{
    return !(p->when == ATTENTION_BIAS && !config->attention_bias) &&
           !(p->when == MLP_BIAS && !config->mlp_bias);
}

/* Everything but the name, which depends on the layer. */
static void describe(const mx_llama_config *config, const part *p, mx_llama_tensor *out)
{
    out->n_dims = p->in == NONE ? 1 : 2;
    out->shape[0] = dim_size(config, p->out);
    out->shape[1] = dim_size(config, p->in);
    out->projection = p->projection;
    out->optional = p->when == OPTIONAL || (p->when == UNLESS_TIED && config->tied);
    out->permuted_head_dim = p->permuted ? config->head_dim : 0;
}

/* The index-th part of a layer that exists under this config. */
static const part *existing_part(const mx_llama_config *config, size_t index)
{
    for (size_t i = 0; i < MX_COUNT(layer_parts); i++) {
        if (part_exists(config, &layer_parts[i]) && index-- == 0) {
            return &layer_parts[i];
        }
    }
    return NULL;
}

/* All layers have the same parts, so positions are plain arithmetic. */
static size_t count_layer_parts(const mx_llama_config *config)
{
    size_t count = 0;
    for (size_t i = 0; i < MX_COUNT(layer_parts); i++) {
        count += part_exists(config, &layer_parts[i]);
    }
    return count;
}

size_t mx_llama_tensor_count(const mx_llama_config *config)
{
    return MX_COUNT(model_parts) + count_layer_parts(config) * config->layers;
}

void mx_llama_tensor_at(const mx_llama_config *config, size_t index, mx_llama_tensor *out)
{
    assert(index < mx_llama_tensor_count(config));
    if (index < MX_COUNT(model_parts)) {
        describe(config, &model_parts[index], out);
        snprintf(out->name, sizeof out->name, "%s", model_parts[index].name);
        return;
    }
    index -= MX_COUNT(model_parts);
    const size_t per_layer = count_layer_parts(config);
    const part *p = existing_part(config, index % per_layer);
    describe(config, p, out);
    snprintf(out->name, sizeof out->name, "model.layers.%zu.%s", index / per_layer, p->name);
}

/* The part behind "PREFIX<number>." and the number; NULL when `name` does not
 * start so. Numbers are canonical: no sign, no leading zero. */
static const char *split_layer(const char *name, const char *prefix, unsigned long *layer)
{
    const size_t length = strlen(prefix);
    if (strncmp(name, prefix, length) != 0) {
        return NULL;
    }
    const char *digits = name + length;
    const size_t n_digits = strspn(digits, "0123456789");
    if (n_digits == 0 || n_digits > 6 || (n_digits > 1 && digits[0] == '0') ||
        digits[n_digits] != '.') {
        return NULL;
    }
    *layer = strtoul(digits, NULL, 10);
    return digits + n_digits + 1;
}

/* The entry of `table` with that Hugging Face (or GGUF) name. */
static const part *find_part(const part *table, size_t count, const char *name, bool gguf)
{
    for (size_t i = 0; i < count; i++) {
        const char *known = gguf ? table[i].gguf : table[i].name;
        if (known != NULL && strcmp(known, name) == 0) {
            return &table[i];
        }
    }
    return NULL;
}

bool mx_llama_tensor_find(const mx_llama_config *config, const char *name, mx_llama_tensor *out)
{
    unsigned long layer = 0;
    const char *rest = split_layer(name, "model.layers.", &layer);
    const part *p;
    if (rest == NULL) {
        p = find_part(model_parts, MX_COUNT(model_parts), name, false);
    } else {
        p = find_part(layer_parts, MX_COUNT(layer_parts), rest, false);
    }
    if (p == NULL || !part_exists(config, p) || layer >= config->layers) {
        return false;
    }
    describe(config, p, out);
    snprintf(out->name, sizeof out->name, "%s", name);
    return true;
}

/* Names alone: whether the config has such a layer is checked by the caller. */
bool mx_llama_name_from_gguf(const char *gguf_name, char *out, size_t size)
{
    unsigned long layer;
    const char *rest = split_layer(gguf_name, "blk.", &layer);
    int length;
    if (rest == NULL) {
        const part *p = find_part(model_parts, MX_COUNT(model_parts), gguf_name, true);
        length = p == NULL ? -1 : snprintf(out, size, "%s", p->name);
    } else {
        const part *p = find_part(layer_parts, MX_COUNT(layer_parts), rest, true);
        length = p == NULL ? -1 : snprintf(out, size, "model.layers.%lu.%s", layer, p->name);
    }
    return length >= 0 && (size_t)length < size;
}

bool mx_llama_is_projection(const char *name, size_t *module_length)
{
    unsigned long layer;
    const char *rest = split_layer(name, "model.layers.", &layer);
    const part *p =
        rest == NULL ? NULL : find_part(layer_parts, MX_COUNT(layer_parts), rest, false);
    if (p == NULL || !p->projection) {
        return false;
    }
    if (module_length != NULL) {
        *module_length = strlen(name) - strlen(".weight");
    }
    return true;
}

const char *mx_llama_head_name(const mx_llama_config *config)
{
    return config->tied ? "model.embed_tokens.weight" : "lm_head.weight";
}

const mx_quant *mx_llama_weight_quant(const mx_llama_config *config, const mx_specs *specs,
                                      const char *name)
{
    char module[MX_LLAMA_NAME_SIZE];
    size_t length = 0;
    const mx_quant *quant = NULL;
    if (strcmp(name, mx_llama_head_name(config)) == 0) {
        quant = &specs->head;
    } else if (mx_llama_is_projection(name, &length) && length < sizeof module) {
        memcpy(module, name, length);
        module[length] = '\0';
        quant = mx_specs_excludes(specs, module) ? NULL : &specs->weights;
    }
    return quant != NULL && !mx_quant_is_none(quant) ? quant : NULL;
}

void mx_llama_module(uint32_t layer, uint32_t kind, char out[MX_LLAMA_NAME_SIZE])
{
    assert(kind < MX_LLAMA_PROJECTIONS);
    const part *p = layer_parts;
    while (!p->projection || kind-- > 0) {
        p++;
    }
    snprintf(out, MX_LLAMA_NAME_SIZE, "model.layers.%u.%.*s", layer,
             (int)(strlen(p->name) - strlen(".weight")), p->name);
}

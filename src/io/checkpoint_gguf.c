/* A GGUF file of the llama architecture: config from metadata, Hugging Face names,
 * biases in Hugging Face's order. */
#include "io/checkpoint_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char rope_freqs_name[] = "rope_freqs.weight";

/* ---- config -------------------------------------------------------------- */

/* Metadata strings have no NUL at the end. */
static bool string_is(mx_gguf_string string, const char *text)
{
    return string.data != NULL && string.length == strlen(text) &&
           memcmp(string.data, text, string.length) == 0;
}

static mx_status unsupported_string(const mx_gguf *gguf, const char *key, mx_gguf_string value,
                                    mx_error *err)
{
    return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: %s: '%.*s' is not supported",
                        mx_gguf_path(gguf), key, (int)(value.length > 100 ? 100 : value.length),
                        value.data);
}

/* Hyperparameters that are read below, and those that say nothing that the
 * tensors do not. Any other "llama." key describes a model that mxlm does not
 * compute. */
static mx_status check_keys(const mx_gguf *gguf, mx_error *err)
{
    static const char prefix[] = "llama.";
    static const char *const known[] = {"context_length",
                                        "embedding_length",
                                        "block_count",
                                        "feed_forward_length",
                                        "attention.head_count",
                                        "attention.head_count_kv",
                                        "attention.layer_norm_rms_epsilon",
                                        "attention.key_length",
                                        "attention.value_length",
                                        "attention.causal",
                                        "rope.dimension_count",
                                        "rope.freq_base",
                                        "rope.scale_linear",
                                        "rope.scaling.type",
                                        "rope.scaling.factor",
                                        "rope.scaling.original_context_length",
                                        "rope.scaling.finetuned",
                                        "vocab_size",
                                        "expert_count",
                                        "expert_used_count",
                                        "tensor_data_layout"};
    for (size_t i = 0; i < mx_gguf_key_count(gguf); i++) {
        const mx_gguf_string key = mx_gguf_key_at(gguf, i);
        const size_t skip = sizeof prefix - 1;
        if (key.length < skip || memcmp(key.data, prefix, skip) != 0) {
            continue;
        }
        const mx_gguf_string rest = {key.data + skip, key.length - skip};
        bool found = false;
        for (size_t k = 0; k < MX_COUNT(known); k++) {
            found = found || string_is(rest, known[k]);
        }
        if (!found) {
            return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: %.*s: not supported",
                                mx_gguf_path(gguf), (int)(key.length > 100 ? 100 : key.length),
                                key.data);
        }
    }
    return MX_OK;
}

/* general.architecture, and the switches that would make it another one. */
static mx_status check_architecture(const mx_gguf *gguf, mx_error *err)
{
    mx_gguf_string architecture;
    MX_TRY(mx_gguf_get_string(gguf, "general.architecture", true, &architecture, err));
    if (!string_is(architecture, "llama")) {
        return unsupported_string(gguf, "general.architecture", architecture, err);
    }
    MX_TRY(check_keys(gguf, err));
    int64_t experts;
    bool causal;
    MX_TRY(mx_gguf_get_int(gguf, "llama.expert_count", false, 0, 0, INT32_MAX, &experts, err));
    MX_TRY(mx_gguf_get_bool(gguf, "llama.attention.causal", false, true, &causal, err));
    if (experts != 0 || !causal) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: %s: not supported", mx_gguf_path(gguf),
                            experts != 0 ? "llama.expert_count" : "llama.attention.causal");
    }
    return MX_OK;
}

static mx_status get_size(const mx_gguf *gguf, const char *key, bool required, uint32_t fallback,
                          uint32_t max, uint32_t *out, mx_error *err)
{
    int64_t value;
    MX_TRY(mx_gguf_get_int(gguf, key, required, fallback, 1, max, &value, err));
    *out = (uint32_t)value;
    return MX_OK;
}

/* Keys and values have one width, and all of it is rotated: LlamaAttention. */
static mx_status read_head_dim(const mx_gguf *gguf, mx_llama_config *out, mx_error *err)
{
    const uint32_t width = MX_LLAMA_MAX_WIDTH, derived = out->hidden / out->heads;
    uint32_t value_length, rotated;
    MX_TRY(
        get_size(gguf, "llama.attention.key_length", false, derived, width, &out->head_dim, err));
    MX_TRY(get_size(gguf, "llama.attention.value_length", false, out->head_dim, width,
                    &value_length, err));
    MX_TRY(
        get_size(gguf, "llama.rope.dimension_count", false, out->head_dim, width, &rotated, err));
    if (value_length != out->head_dim || rotated != out->head_dim) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: %s: %u is not attention.key_length %u",
                            mx_gguf_path(gguf),
                            rotated != out->head_dim ? "llama.rope.dimension_count"
                                                     : "llama.attention.value_length",
                            rotated != out->head_dim ? rotated : value_length, out->head_dim);
    }
    return MX_OK;
}

/* Old files do not tell vocab_size: the embedding has as many rows. */
static mx_status read_sizes(const mx_gguf *gguf, mx_llama_config *out, mx_error *err)
{
    const uint32_t width = MX_LLAMA_MAX_WIDTH;
    const mx_tensor *embedding = mx_gguf_find(gguf, "token_embd.weight");
    const bool counts =
        embedding != NULL && embedding->n_dims == 2 && embedding->shape[0] <= MX_LLAMA_MAX_VOCAB;
    const uint32_t rows = counts ? (uint32_t)embedding->shape[0] : 0;
    MX_TRY(get_size(gguf, "llama.embedding_length", true, 0, width, &out->hidden, err));
    MX_TRY(get_size(gguf, "llama.feed_forward_length", true, 0, width, &out->intermediate, err));
    MX_TRY(get_size(gguf, "llama.block_count", true, 0, MX_LLAMA_MAX_LAYERS, &out->layers, err));
    MX_TRY(get_size(gguf, "llama.attention.head_count", true, 0, width, &out->heads, err));
    MX_TRY(get_size(gguf, "llama.attention.head_count_kv", false, out->heads, width, &out->kv_heads,
                    err));
    MX_TRY(get_size(gguf, "llama.context_length", true, 0, INT32_MAX, &out->context, err));
    MX_TRY(get_size(gguf, "llama.vocab_size", !counts, rows, MX_LLAMA_MAX_VOCAB, &out->vocab, err));
    return read_head_dim(gguf, out, err);
}

/* Adds the id unless it is there already. */
static mx_status add_eos(const mx_gguf *gguf, const char *key, mx_llama_config *out, mx_error *err)
{
    int64_t id;
    MX_TRY(mx_gguf_get_int(gguf, key, false, -1, 0, INT32_MAX, &id, err));
    const bool known = out->n_eos > 0 && out->eos_ids[0] == (int32_t)id;
    if (id >= 0 && !known) {
        out->eos_ids[out->n_eos++] = (int32_t)id;
    }
    return MX_OK;
}

static mx_status read_special_tokens(const mx_gguf *gguf, mx_llama_config *out, mx_error *err)
{
    int64_t bos;
    MX_TRY(
        mx_gguf_get_int(gguf, "tokenizer.ggml.bos_token_id", false, -1, 0, INT32_MAX, &bos, err));
    out->bos_id = (int32_t)bos;
    /* End of turn ends a generation just as the end of text does. */
    MX_TRY(add_eos(gguf, "tokenizer.ggml.eos_token_id", out, err));
    return add_eos(gguf, "tokenizer.ggml.eot_token_id", out, err);
}

/* ---- rotary embedding ---------------------------------------------------- */

/* Linear scaling has two spellings, the type may be left out. */
static mx_status read_rope(const mx_gguf *gguf, mx_rope_config *out, mx_error *err)
{
    const char *type_key = "llama.rope.scaling.type";
    mx_gguf_string type;
    double old_factor;
    *out = (mx_rope_config){.kind = MX_ROPE_DEFAULT, .factor = 1};
    MX_TRY(mx_gguf_get_real(gguf, "llama.rope.freq_base", false, 10000.0, &out->theta, err));
    MX_TRY(mx_gguf_get_real(gguf, "llama.rope.scale_linear", false, 1.0, &old_factor, err));
    MX_TRY(
        mx_gguf_get_real(gguf, "llama.rope.scaling.factor", false, old_factor, &out->factor, err));
    MX_TRY(mx_gguf_get_string(gguf, type_key, false, &type, err));
    if (!(out->theta > 0) || out->factor < 0) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: %s: must be positive", mx_gguf_path(gguf),
                            out->theta > 0 ? "llama.rope.scaling.factor" : "llama.rope.freq_base");
    }
    if (string_is(type, "none") || out->factor == 0) {
        out->factor = 1; /* a factor of 0 means none to ggml */
    } else if (type.data != NULL && !string_is(type, "linear")) {
        return unsupported_string(gguf, type_key, type, err);
    }
    out->kind = out->factor == 1 ? MX_ROPE_DEFAULT : MX_ROPE_LINEAR;
    return MX_OK;
}

/* What llama3 scaling divides the frequency number i of `n` by: the formula of
 * transformers' llama3 rope, as GGUF converters apply it. */
static double llama3_factor(const mx_rope_config *rope, size_t i, size_t n)
{
    const double frequency = pow(rope->theta, -(double)i / (double)n);
    const double turns = rope->original_context * frequency / (2 * 3.14159265358979323846);
    if (turns < rope->low_freq_factor) {
        return rope->factor;
    }
    if (turns > rope->high_freq_factor) {
        return 1;
    }
    const double smooth =
        (turns - rope->low_freq_factor) / (rope->high_freq_factor - rope->low_freq_factor);
    return 1 / ((1 - smooth) / rope->factor + smooth);
}

/* Converters keep of llama3 scaling only the factors. Llama 3.1 and later share
 * all constants but the factor, which is what the lowest frequency has: when these
 * give the same factors (to the converters' fp32 rounding), the rule is known. */
static bool rope_is_llama3(const mx_rope_config *rope, const float *factors, size_t n,
                           mx_rope_config *out)
{
    *out = (mx_rope_config){.kind = MX_ROPE_LLAMA3,
                            .theta = rope->theta,
                            .factor = factors[n - 1],
                            .low_freq_factor = 1,
                            .high_freq_factor = 4,
                            .original_context = 8192};
    if (out->factor < 1) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        const double expected = llama3_factor(out, i, n);
        if (!(fabs(factors[i] - expected) <= 1e-5 * expected)) {
            return false;
        }
    }
    return true;
}

/* The tensor of divisors: recognized as llama3 scaling, or carried as it is. */
static mx_status read_rope_factors(mx_checkpoint *checkpoint, const mx_tensor *tensor,
                                   mx_error *err)
{
    mx_rope_config *rope = &checkpoint->config.rope;
    const size_t n = checkpoint->config.head_dim / 2;
    if (tensor->dtype != MX_DTYPE_F32 || mx_tensor_count(tensor) != n ||
        rope->kind != MX_ROPE_DEFAULT) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED,
                            "%s: tensor %s: must be %zu F32 factors without other rope scaling",
                            tensor->file, tensor->name, n);
    }
    float *factors = checkpoint->rope_factors = malloc(n * sizeof *factors);
    if (factors == NULL) {
        return mx_error_nomem(err, rope_freqs_name, n * sizeof *factors);
    }
    mx_dtype_get(MX_DTYPE_F32)->decode(tensor->data, n, factors);
    bool all_one = true;
    for (size_t i = 0; i < n; i++) {
        if (!(factors[i] > 0) || !isfinite(factors[i])) {
            return mx_error_set(err, MX_ERR_FORMAT, "%s: tensor %s: element %zu is not positive",
                                tensor->file, tensor->name, i);
        }
        all_one = all_one && factors[i] == 1;
    }
    mx_rope_config llama3;
    if (rope_is_llama3(rope, factors, n, &llama3)) {
        *rope = all_one ? *rope : llama3;
    } else if (!all_one) {
        rope->kind = MX_ROPE_FACTORS;
        rope->factors = factors;
    }
    return MX_OK;
}

/* Everything that config.json would say. What GGUF does not say in metadata (ties,
 * biases) follows from which tensors are there. */
static mx_status read_config(mx_checkpoint *checkpoint, mx_error *err)
{
    const mx_gguf *gguf = checkpoint->gguf;
    mx_llama_config *config = &checkpoint->config;
    double eps;
    MX_TRY(check_architecture(gguf, err));
    MX_TRY(read_sizes(gguf, config, err));
    MX_TRY(mx_gguf_get_real(gguf, "llama.attention.layer_norm_rms_epsilon", true, 0, &eps, err));
    config->norm_eps = (float)eps;
    MX_TRY(read_special_tokens(gguf, config, err));
    MX_TRY(read_rope(gguf, &config->rope, err));
    config->tied = mx_gguf_find(gguf, "output.weight") == NULL;
    config->attention_bias = mx_gguf_find(gguf, "blk.0.attn_q.bias") != NULL;
    config->mlp_bias = mx_gguf_find(gguf, "blk.0.ffn_gate.bias") != NULL;
    MX_TRY(mx_llama_config_check(config, mx_gguf_path(gguf), err));
    const mx_tensor *factors = mx_gguf_find(gguf, rope_freqs_name);
    return factors == NULL ? MX_OK : read_rope_factors(checkpoint, factors, err);
}

/* ---- tensors ------------------------------------------------------------- */

/* Entries under Hugging Face names, in the file's order. rope_freqs.weight has
 * become part of the config. */
static mx_status rename_tensors(mx_checkpoint *checkpoint, mx_error *err)
{
    const mx_gguf *gguf = checkpoint->gguf;
    const size_t count = mx_gguf_count(gguf) - (mx_gguf_find(gguf, rope_freqs_name) != NULL);
    MX_TRY(mx_tensor_set_alloc(&checkpoint->tensors, count, err));
    char *name = checkpoint->names = malloc(count * MX_LLAMA_NAME_SIZE + 1);
    if (name == NULL) {
        return mx_error_nomem(err, "tensor names", count * MX_LLAMA_NAME_SIZE);
    }
    mx_tensor *next = checkpoint->tensors.items;
    for (size_t i = 0; i < mx_gguf_count(gguf); i++) {
        const mx_tensor *tensor = mx_gguf_at(gguf, i);
        if (strcmp(tensor->name, rope_freqs_name) == 0) {
            continue;
        }
        if (!mx_llama_name_from_gguf(tensor->name, name, MX_LLAMA_NAME_SIZE)) {
            return mx_error_set(err, MX_ERR_UNSUPPORTED,
                                "%s: tensor %s: the llama architecture has no such tensor",
                                tensor->file, tensor->name);
        }
        *next = *tensor;
        next->name = name;
        next++;
        name += MX_LLAMA_NAME_SIZE;
    }
    return mx_tensor_set_index(&checkpoint->tensors, checkpoint->path, err);
}

/* Whether the rows of a q or k bias lie permuted. What is wrong with one that
 * does not fit the config is for mx_checkpoint_verify to tell. */
static bool is_permuted_bias(const mx_llama_config *config, const mx_tensor *tensor,
                             mx_llama_tensor *layout)
{
    return tensor->n_dims == 1 && mx_llama_tensor_find(config, tensor->name, layout) &&
           layout->permuted_head_dim != 0 && tensor->shape[0] == layout->shape[0] &&
           mx_dtype_get(tensor->dtype)->block == 1;
}

/* Biases of q and k are permuted like the rows; they are small, so they are put
 * in order once and for all, where big matrices go through mx_rows. */
static mx_status order_biases(mx_checkpoint *checkpoint, mx_error *err)
{
    mx_tensor_set *tensors = &checkpoint->tensors;
    mx_llama_tensor layout;
    size_t bytes = 0;
    for (size_t i = 0; i < tensors->count; i++) {
        if (is_permuted_bias(&checkpoint->config, &tensors->items[i], &layout)) {
            bytes += (size_t)tensors->items[i].size;
        }
    }
    uint8_t *next = checkpoint->biases = malloc(bytes + 1);
    if (next == NULL) {
        return mx_error_nomem(err, "biases", bytes);
    }
    for (size_t i = 0; i < tensors->count; i++) {
        mx_tensor *tensor = &tensors->items[i];
        if (is_permuted_bias(&checkpoint->config, tensor, &layout)) {
            const size_t element = mx_dtype_get(tensor->dtype)->block_bytes;
            for (uint64_t row = 0; row < tensor->shape[0]; row++) {
                const uint64_t from = mx_permuted_row(row, layout.permuted_head_dim);
                memcpy(next + row * element, tensor->data + from * element, element);
            }
            tensor->data = next;
            next += tensor->size;
        }
    }
    return MX_OK;
}

mx_status mx_checkpoint_load_gguf(mx_checkpoint *checkpoint, mx_error *err)
{
    MX_TRY(mx_gguf_open(checkpoint->path, &checkpoint->gguf, err));
    MX_TRY(read_config(checkpoint, err));
    MX_TRY(rename_tensors(checkpoint, err));
    return order_biases(checkpoint, err);
}

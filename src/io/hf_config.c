/*
 * Field names, defaults and meanings are those of transformers' LlamaConfig. Where
 * it would go on with a value that mxlm cannot honour (another activation, a rope
 * type, a partial rotation), the field is refused by its name.
 */
#include "io/hf_config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One object of the configuration and how messages call it. */
typedef struct scope {
    const json_t *object;
    const char *where; /* path of the file */
} scope;

static mx_status unsupported(const char *where, const char *field, const char *value, mx_error *err)
{
    return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: %s: %s is not supported", where, field,
                        value);
}

/* A positive size of at most `max`. */
static mx_status get_size(scope in, const char *key, bool required, uint32_t fallback, uint32_t max,
                          uint32_t *out, mx_error *err)
{
    int64_t value = 0;
    MX_TRY(mx_json_get_int(in.object, key, in.where, required, fallback, 1, max, &value, err));
    *out = (uint32_t)value;
    return MX_OK;
}

/* ---- architecture -------------------------------------------------------- */

/* model_type decides; files without one are recognized by their single class. */
static bool is_llama(const json_t *root)
{
    const char *type = json_string_value(json_object_get(root, "model_type"));
    if (type != NULL) {
        return strcmp(type, "llama") == 0;
    }
    const json_t *list = json_object_get(root, "architectures");
    const char *name = json_string_value(json_array_get(list, 0));
    return json_array_size(list) == 1 && name != NULL && strcmp(name, "LlamaForCausalLM") == 0;
}

/* Variants of the forward pass that a config can ask for and src/model does not
 * have: running on would give fluent nonsense. */
static mx_status check_architecture(scope in, mx_error *err)
{
    if (!is_llama(in.object)) {
        const char *type = json_string_value(json_object_get(in.object, "model_type"));
        return unsupported(in.where, "model_type",
                           type != NULL ? type : "an architecture other than llama", err);
    }
    const char *act = NULL;
    MX_TRY(mx_json_get_string(in.object, "hidden_act", in.where, false, "silu", &act, err));
    if (strcmp(act, "silu") != 0) {
        return unsupported(in.where, "hidden_act", act, err);
    }
    bool interleaved = false;
    MX_TRY(
        mx_json_get_bool(in.object, "rope_interleaved", in.where, false, false, &interleaved, err));
    if (interleaved) {
        return unsupported(in.where, "rope_interleaved", "true", err);
    }
    return MX_OK;
}

/* Absent and null are the same to transformers, and so here. */
static mx_status parse_sizes(scope in, mx_llama_config *out, mx_error *err)
{
    const uint32_t width = MX_LLAMA_MAX_WIDTH;
    MX_TRY(get_size(in, "hidden_size", true, 0, width, &out->hidden, err));
    MX_TRY(get_size(in, "intermediate_size", true, 0, width, &out->intermediate, err));
    MX_TRY(get_size(in, "num_hidden_layers", true, 0, MX_LLAMA_MAX_LAYERS, &out->layers, err));
    MX_TRY(get_size(in, "num_attention_heads", true, 0, width, &out->heads, err));
    MX_TRY(get_size(in, "num_key_value_heads", false, out->heads, width, &out->kv_heads, err));
    MX_TRY(get_size(in, "vocab_size", true, 0, MX_LLAMA_MAX_VOCAB, &out->vocab, err));
    MX_TRY(get_size(in, "max_position_embeddings", false, 2048, INT32_MAX, &out->context, err));
    const json_t *head_dim = json_object_get(in.object, "head_dim");
    if ((head_dim == NULL || json_is_null(head_dim)) && out->hidden % out->heads != 0) {
        return mx_error_set(err, MX_ERR_FORMAT,
                            "%s: head_dim: missing, and hidden_size %u is not a multiple of "
                            "num_attention_heads %u",
                            in.where, out->hidden, out->heads);
    }
    /* hidden < heads leaves 0, which is no size: let the check below refuse it. */
    const uint32_t derived = out->hidden / out->heads;
    MX_TRY(get_size(in, "head_dim", false, derived, width, &out->head_dim, err));
    return MX_OK;
}

/* What must hold between sizes, whichever container they come from: heads share
 * key-value heads evenly, rotary embedding pairs the halves of a head, and products
 * of sizes stay far from overflow. */
mx_status mx_llama_config_check(const mx_llama_config *config, const char *where, mx_error *err)
{
    if (config->heads % config->kv_heads != 0) {
        return mx_error_set(err, MX_ERR_FORMAT,
                            "%s: num_key_value_heads: %u does not divide num_attention_heads %u",
                            where, config->kv_heads, config->heads);
    }
    if (config->head_dim == 0 || config->head_dim % 2 != 0) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: head_dim: %u is not a positive even number",
                            where, config->head_dim);
    }
    if ((uint64_t)config->heads * config->head_dim > MX_LLAMA_MAX_WIDTH) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED,
                            "%s: head_dim: %u heads of %u are more than %u in all", where,
                            config->heads, config->head_dim, MX_LLAMA_MAX_WIDTH);
    }
    if (!(config->norm_eps > 0) || !isfinite(config->norm_eps)) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: rms_norm_eps: must be positive", where);
    }
    return MX_OK;
}

/* ---- special tokens ------------------------------------------------------ */

/* Not compared with vocab_size: an id that never occurs does no harm. */
static mx_status parse_token_id(const json_t *value, const char *where, const char *key,
                                int32_t *out, mx_error *err)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        json_integer_value(value) > INT32_MAX) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: %s: must be a token id", where, key);
    }
    *out = (int32_t)json_integer_value(value);
    return MX_OK;
}

/* eos_token_id: absent, null, one id or a list of ids. */
static mx_status parse_eos(scope in, mx_llama_config *out, mx_error *err)
{
    const char *key = "eos_token_id";
    const json_t *value = json_object_get(in.object, key);
    if (value == NULL || json_is_null(value)) {
        return MX_OK;
    }
    if (!json_is_array(value)) {
        out->n_eos = 1;
        return parse_token_id(value, in.where, key, &out->eos_ids[0], err);
    }
    if (json_array_size(value) > MX_COUNT(out->eos_ids)) {
        return unsupported(in.where, key, "a list of more than 8", err);
    }
    for (size_t i = 0; i < json_array_size(value); i++) {
        MX_TRY(parse_token_id(json_array_get(value, i), in.where, key, &out->eos_ids[i], err));
    }
    out->n_eos = (uint32_t)json_array_size(value);
    return MX_OK;
}

static mx_status parse_special_tokens(scope in, mx_llama_config *out, mx_error *err)
{
    const json_t *bos = json_object_get(in.object, "bos_token_id");
    out->bos_id = -1;
    if (bos != NULL && !json_is_null(bos)) {
        MX_TRY(parse_token_id(bos, in.where, "bos_token_id", &out->bos_id, err));
    }
    return parse_eos(in, out, err);
}

/* ---- rotary embedding ---------------------------------------------------- */

/* A positive, finite number. */
static mx_status get_positive(scope in, const char *key, bool required, double fallback,
                              double *out, mx_error *err)
{
    MX_TRY(mx_json_get_real(in.object, key, in.where, required, fallback, out, err));
    if (!(*out > 0) || !isfinite(*out)) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: %s: must be positive", in.where, key);
    }
    return MX_OK;
}

/* rope_type and the older type; both present must agree. */
static mx_status parse_rope_kind(scope in, mx_rope_kind *out, mx_error *err)
{
    static const struct {
        const char *name;
        mx_rope_kind kind;
    } kinds[] = {
        {"default", MX_ROPE_DEFAULT}, {"linear", MX_ROPE_LINEAR}, {"llama3", MX_ROPE_LLAMA3}};
    const char *type = NULL, *old = NULL;
    MX_TRY(mx_json_get_string(in.object, "rope_type", in.where, false, NULL, &type, err));
    MX_TRY(mx_json_get_string(in.object, "type", in.where, false, type, &old, err));
    type = type == NULL ? old : type;
    if (type == NULL || strcmp(type, old) != 0) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: rope_type: %s", in.where,
                            type == NULL ? "missing" : "contradicts type");
    }
    for (size_t i = 0; i < MX_COUNT(kinds); i++) {
        if (strcmp(kinds[i].name, type) == 0) {
            *out = kinds[i].kind;
            return MX_OK;
        }
    }
    return unsupported(in.where, "rope_type", type, err);
}

/* Fields that change nothing for the kinds that are supported; whatever else has
 * a value asks for something that mxlm does not do. */
static mx_status check_rope_fields(scope in, mx_rope_kind kind, mx_error *err)
{
    static const char *const any_kind[] = {"rope_type", "type", "rope_theta"};
    static const char *const llama3[] = {"factor", "low_freq_factor", "high_freq_factor",
                                         "original_max_position_embeddings"};
    const size_t n_scaling = kind == MX_ROPE_LLAMA3 ? MX_COUNT(llama3) : kind == MX_ROPE_LINEAR;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)in.object, key, value)
    {
        bool known = json_is_null(value);
        for (size_t i = 0; i < MX_COUNT(any_kind); i++) {
            known = known || strcmp(key, any_kind[i]) == 0;
        }
        for (size_t i = 0; i < n_scaling; i++) {
            known = known || strcmp(key, llama3[i]) == 0;
        }
        if (strcmp(key, "partial_rotary_factor") == 0 && json_is_number(value)) {
            known = json_number_value(value) == 1.0;
        }
        if (!known) {
            return mx_error_set(err, MX_ERR_UNSUPPORTED,
                                "%s: rope parameter %s: not supported for this rope_type", in.where,
                                key);
        }
    }
    return MX_OK;
}

/* All three are needed: transformers would guess the context from another field. */
static mx_status parse_llama3(scope in, mx_rope_config *out, mx_error *err)
{
    MX_TRY(get_positive(in, "low_freq_factor", true, 0, &out->low_freq_factor, err));
    MX_TRY(get_positive(in, "high_freq_factor", true, 0, &out->high_freq_factor, err));
    int64_t context = 0;
    MX_TRY(mx_json_get_int(in.object, "original_max_position_embeddings", in.where, true, 0, 1,
                           INT32_MAX, &context, err));
    out->original_context = (double)context;
    if (out->high_freq_factor <= out->low_freq_factor) {
        return mx_error_set(err, MX_ERR_FORMAT,
                            "%s: high_freq_factor: must be above low_freq_factor", in.where);
    }
    return MX_OK;
}

/* One of rope_scaling and rope_parameters; `theta` is the root's rope_theta. */
static mx_status parse_rope_object(scope in, double theta, mx_rope_config *out, mx_error *err)
{
    *out = (mx_rope_config){.factor = 1};
    MX_TRY(get_positive(in, "rope_theta", false, theta, &out->theta, err));
    MX_TRY(parse_rope_kind(in, &out->kind, err));
    MX_TRY(check_rope_fields(in, out->kind, err));
    if (out->kind != MX_ROPE_DEFAULT) {
        MX_TRY(get_positive(in, "factor", true, 1, &out->factor, err));
    }
    return out->kind == MX_ROPE_LLAMA3 ? parse_llama3(in, out, err) : MX_OK;
}

/* Compared exactly: both spellings come from the same numbers. */
static bool rope_equal(const mx_rope_config *a, const mx_rope_config *b)
{
    return a->kind == b->kind && a->theta == b->theta && a->factor == b->factor &&
           a->low_freq_factor == b->low_freq_factor && a->high_freq_factor == b->high_freq_factor &&
           a->original_context == b->original_context;
}

static mx_status rope_member(scope in, const char *key, const json_t **out, mx_error *err)
{
    const json_t *value = json_object_get(in.object, key);
    *out = json_is_null(value) ? NULL : value;
    if (*out != NULL && !json_is_object(*out)) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: %s: must be an object", in.where, key);
    }
    return MX_OK;
}

/* transformers 4 writes rope_theta and rope_scaling, transformers 5
 * rope_parameters with the theta inside. A file that holds both must mean one. */
static mx_status parse_rope(scope in, mx_rope_config *out, mx_error *err)
{
    double theta = 0, partial = 1;
    MX_TRY(get_positive(in, "rope_theta", false, 10000.0, &theta, err));
    MX_TRY(get_positive(in, "partial_rotary_factor", false, 1.0, &partial, err));
    if (partial != 1.0) {
        return unsupported(in.where, "partial_rotary_factor", "a part of the head", err);
    }
    const json_t *scaling, *parameters;
    MX_TRY(rope_member(in, "rope_scaling", &scaling, err));
    MX_TRY(rope_member(in, "rope_parameters", &parameters, err));
    if (scaling == NULL && parameters == NULL) {
        *out = (mx_rope_config){.kind = MX_ROPE_DEFAULT, .theta = theta, .factor = 1};
        return MX_OK;
    }
    const scope first = {parameters != NULL ? parameters : scaling, in.where};
    MX_TRY(parse_rope_object(first, theta, out, err));
    if (parameters != NULL && scaling != NULL) {
        mx_rope_config other;
        MX_TRY(parse_rope_object((scope){scaling, in.where}, out->theta, &other, err));
        if (!rope_equal(out, &other)) {
            return mx_error_set(err, MX_ERR_FORMAT, "%s: rope_scaling: contradicts rope_parameters",
                                in.where);
        }
    }
    if (json_object_get(in.object, "rope_theta") != NULL && out->theta != theta) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: rope_theta: contradicts rope_parameters",
                            in.where);
    }
    return MX_OK;
}

/* ---- the whole ----------------------------------------------------------- */

/* Order matters: sizes first, since later fields are checked against them. */
static mx_status parse_root(scope in, mx_llama_config *out, mx_error *err)
{
    double eps = 0;
    MX_TRY(check_architecture(in, err));
    MX_TRY(parse_sizes(in, out, err));
    MX_TRY(mx_json_get_real(in.object, "rms_norm_eps", in.where, false, 1e-6, &eps, err));
    out->norm_eps = (float)eps;
    MX_TRY(mx_json_get_bool(in.object, "tie_word_embeddings", in.where, false, false, &out->tied,
                            err));
    MX_TRY(mx_json_get_bool(in.object, "attention_bias", in.where, false, false,
                            &out->attention_bias, err));
    MX_TRY(mx_json_get_bool(in.object, "mlp_bias", in.where, false, false, &out->mlp_bias, err));
    MX_TRY(parse_special_tokens(in, out, err));
    MX_TRY(parse_rope(in, &out->rope, err));
    return mx_llama_config_check(out, in.where, err);
}

mx_status mx_llama_config_parse(const json_t *root, const char *where, mx_llama_config *out,
                                mx_error *err)
{
    *out = (mx_llama_config){0};
    if (!json_is_object(root)) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: must be a JSON object", where);
    }
    const mx_status status = parse_root((scope){root, where}, out, err);
    if (status != MX_OK) {
        *out = (mx_llama_config){0};
    }
    return status;
}

/* A single id as a number: older readers know no list. */
static json_t *eos_to_json(const mx_llama_config *config)
{
    if (config->n_eos == 0) {
        return json_null();
    }
    if (config->n_eos == 1) {
        return json_integer(config->eos_ids[0]);
    }
    json_t *list = json_array();
    for (uint32_t i = 0; i < config->n_eos; i++) {
        json_array_append_new(list, json_integer(config->eos_ids[i]));
    }
    return list;
}

/* rope_scaling as transformers 4 writes it, which newer ones read too. */
static json_t *rope_to_json(const mx_rope_config *rope)
{
    switch (rope->kind) {
    case MX_ROPE_LINEAR:
        return json_pack("{s:s, s:f}", "rope_type", "linear", "factor", rope->factor);
    case MX_ROPE_LLAMA3:
        return json_pack("{s:s, s:f, s:f, s:f, s:I}", "rope_type", "llama3", "factor", rope->factor,
                         "low_freq_factor", rope->low_freq_factor, "high_freq_factor",
                         rope->high_freq_factor, "original_max_position_embeddings",
                         (json_int_t)rope->original_context);
    default:
        return json_null();
    }
}

/* The shortest decimal that reads back as the same float: 1e-05, not
 * 9.9999997473787516e-06. */
static double float_to_short_double(float value)
{
    char text[32];
    for (int digits = 1; digits < 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtof(text, NULL) == value) {
            break;
        }
    }
    return strtod(text, NULL);
}

/* For directories made of GGUF files: what transformers needs to load them. */
mx_status mx_llama_config_to_json(const mx_llama_config *config, json_t **out, mx_error *err)
{
    *out = NULL;
    if (config->rope.kind == MX_ROPE_FACTORS) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED,
                            "rope_freqs.weight: these factors have no form in config.json");
    }
    json_t *root = json_pack(
        "{s:[s], s:s, s:b, s:b, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:b, "
        "s:o, s:o, s:o}",
        "architectures", "LlamaForCausalLM", "model_type", "llama", "attention_bias",
        (int)config->attention_bias, "mlp_bias", (int)config->mlp_bias, "hidden_act", "silu",
        "hidden_size", (json_int_t)config->hidden, "intermediate_size",
        (json_int_t)config->intermediate, "num_hidden_layers", (json_int_t)config->layers,
        "num_attention_heads", (json_int_t)config->heads, "num_key_value_heads",
        (json_int_t)config->kv_heads, "head_dim", (json_int_t)config->head_dim, "vocab_size",
        (json_int_t)config->vocab, "max_position_embeddings", (json_int_t)config->context,
        "rms_norm_eps", float_to_short_double(config->norm_eps), "rope_theta", config->rope.theta,
        "tie_word_embeddings", (int)config->tied, "rope_scaling", rope_to_json(&config->rope),
        "bos_token_id", config->bos_id < 0 ? json_null() : json_integer(config->bos_id),
        "eos_token_id", eos_to_json(config));
    if (root == NULL) {
        return mx_error_nomem(err, "config.json", 0);
    }
    *out = root;
    return MX_OK;
}

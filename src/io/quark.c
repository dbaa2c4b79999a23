/*
 * Reading is a whitelist: every field is understood, is known to say nothing, or is
 * refused by its name. Field names and values: amd/Quark's QConfig and QTensorConfig
 * as its exporter writes them, and what vLLM's quark loader reads.
 */
#include "io/quark.h"

#include "io/llama_layout.h"

#include <assert.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Version of the object "mxlm"; a change of its meaning counts up. */
enum { MXLM_VERSION = 1 };

/* More exclude patterns than any model has modules of interest: each is compared
 * with every module. */
enum { MAX_PATTERNS = 4096 };

/* ---- names --------------------------------------------------------------- */

/* Quark's name of an element format: mxlm's own but for fp4. */
static const char *quark_dtype(const mx_format *format)
{
    return strcmp(format->name, "fp4_e2m1") == 0 ? "fp4" : format->name;
}

/* Quark's round_method; "half_even" is the only one its MX path uses. */
static const char *quark_round(mx_round round)
{
    switch (round) {
    case MX_ROUND_EVEN:
        return "half_even";
    case MX_ROUND_NEAREST:
        return "round";
    default:
        return mx_round_name(round);
    }
}

/* True for formats whose weights have codes and shared scales. */
static bool has_scales(const mx_quant *quant)
{
    return quant->format != NULL && quant->format->kind != MX_KIND_PLAIN;
}

/* Quark's OCP-MX layout, as its loaders know it: MXFP4 and MXFP6 over blocks of 32. */
static bool is_quark_operand(const mx_quant *quant)
{
    static const char *const names[] = {"fp4_e2m1", "fp6_e2m3", "fp6_e3m2"};
    bool found = !has_scales(quant);
    for (size_t i = 0; i < MX_COUNT(names) && !found; i++) {
        found = quant->block == 32 && strcmp(quant->format->name, names[i]) == 0;
    }
    return found;
}

/* The head's contract; NULL: it is not quantized. */
static const mx_quant *head_quant(const mx_specs *specs)
{
    return has_scales(&specs->head) ? &specs->head : NULL;
}

/* quant_method. Quark packs int4 and int2 into 32-bit words, gives int8 and fp8
 * float scales, and stores per-channel scales as vectors: a loader that went by
 * "quark" would misread such bytes, one that meets "mxlm" refuses them. Nor do
 * they take a quantized head: vLLM's never looks for one, and a tied embedding of
 * codes is nobody else's layout. */
static const char *quant_method(const mx_specs *specs)
{
    bool quark = is_quark_operand(&specs->weights) && is_quark_operand(&specs->activations) &&
                 head_quant(specs) == NULL;
    return quark ? "quark" : "mxlm";
}

/* ---- writing ------------------------------------------------------------- */

/* Quark's QTensorConfig of one operand. A block that is the whole axis is a
 * channel's scale. New reference. */
static json_t *operand_to_json(const mx_quant *quant, bool is_dynamic)
{
    if (!has_scales(quant)) {
        return json_null(); /* bf16 and the like: Quark leaves such operands alone */
    }
    json_t *group = quant->block == 0 ? json_null() : json_integer((json_int_t)quant->block);
    return json_pack("{s:s, s:b, s:s, s:i, s:o, s:n, s:s, s:s, s:s, s:s, s:n, s:s, s:b}", "dtype",
                     quark_dtype(quant->format), "is_dynamic", (int)is_dynamic, "qscheme",
                     quant->block == 0 ? "per_channel" : "per_group", "ch_axis", -1, "group_size",
                     group, "symmetric", "round_method", quark_round(quant->round), "scale_type",
                     "float", "scale_format", "e8m0", "scale_calculation_mode",
                     mx_scale_rule_name(quant->rule), "mx_element_dtype", "observer_cls",
                     "PerBlockMXObserver", "is_scale_quant", 0);
}

/* Quark's QConfig of a layer: its weights and inputs. */
static json_t *layer_to_json(const mx_quant *weights, const mx_quant *activations)
{
    return json_pack("{s:o, s:o, s:n, s:n, s:n}", "weight", operand_to_json(weights, false),
                     "input_tensors", operand_to_json(activations, true), "output_tensors", "bias",
                     "target_device");
}

/* The layers that differ from the rest: a quantized head, under the name that it has
 * as a module, tied or not. */
static json_t *layers_to_json(const mx_specs *specs)
{
    json_t *layers = json_object();
    if (head_quant(specs) != NULL) {
        json_object_set_new(layers, "lm_head", layer_to_json(&specs->head, &specs->activations));
    }
    return layers;
}

/* "lm_head" unless quantized, and every excluded projection. Names, not globs: consumers differ in
 * what they make of patterns. */
static json_t *exclude_to_json(const mx_specs *specs, const mx_llama_config *config)
{
    json_t *list = json_array();
    if (head_quant(specs) == NULL) {
        json_array_append_new(list, json_string("lm_head"));
    }
    for (uint32_t layer = 0; layer < config->layers && specs->n_excludes > 0; layer++) {
        for (uint32_t kind = 0; kind < MX_LLAMA_PROJECTIONS; kind++) {
            char module[MX_LLAMA_NAME_SIZE];
            mx_llama_module(layer, kind, module);
            if (mx_specs_excludes(specs, module)) {
                json_array_append_new(list, json_string(module));
            }
        }
    }
    return list;
}

/* Fields and nulls as Quark 0.11 writes them: its readers index some without asking. */
mx_status mx_quark_to_json(const mx_specs *specs, const mx_llama_config *config, const char *method,
                           json_t **out, mx_error *err)
{
    *out = NULL;
    if (!has_scales(&specs->weights)) {
        return mx_error_set(err, MX_ERR_ARGUMENT,
                            "quantization_config: weights need a format with shared scales");
    }
    json_t *contract;
    MX_TRY(mx_specs_to_json(specs, &contract, err));
    json_t *mxlm =
        json_pack("{s:i, s:o, s:s}", "version", MXLM_VERSION, "specs", contract, "method", method);
    json_t *export = json_pack("{s:[], s:f, s:s, s:s, s:n}", "kv_cache_group", "min_kv_scale", 0.0,
                               "pack_method", "reorder", "weight_format", "real_quantized",
                               "weight_merge_groups");
    json_t *global = layer_to_json(&specs->weights, &specs->activations);
    *out = json_pack("{s:s, s:s, s:o, s:o, s:o, s:{}, s:{}, s:n, s:n, s:o, s:o}", "quant_method",
                     quant_method(specs), "quant_mode", "eager_mode", "export", export,
                     "global_quant_config", global, "layer_quant_config", layers_to_json(specs),
                     "layer_type_quant_config", "kv_cache_quant_config", "algo_config",
                     "softmax_quant_spec", "exclude", exclude_to_json(specs, config), "mxlm", mxlm);
    return *out == NULL ? mx_error_nomem(err, "quantization_config", 0) : MX_OK;
}

/* ---- reading: fields ----------------------------------------------------- */

/* Null, false and empty lists and objects ask for nothing. */
static bool asks_nothing(const json_t *value)
{
    return value == NULL || json_is_null(value) || json_is_false(value) ||
           (json_is_array(value) && json_array_size(value) == 0) ||
           (json_is_object(value) && json_object_size(value) == 0);
}

/* The field is known to be there; its value is what mxlm cannot do. */
static mx_status refuse(const char *place, const char *field, mx_error *err)
{
    return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: %s: this value is not supported", place,
                        field);
}

/* Refuses every field of `object` that asks for something and is not in `known`. */
static mx_status check_fields(const json_t *object, const char *place, const char *const *known,
                              size_t n_known, mx_error *err)
{
    if (!json_is_object(object)) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: must be an object", place);
    }
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        bool found = asks_nothing(value);
        for (size_t i = 0; i < n_known && !found; i++) {
            found = strcmp(key, known[i]) == 0;
        }
        if (!found) {
            return refuse(place, key, err);
        }
    }
    return MX_OK;
}

/* A string field that must have one of `allowed` values (comma-free, n of them). */
static mx_status expect_string(const json_t *object, const char *key, const char *place,
                               const char *const *allowed, size_t n, mx_error *err)
{
    const char *value = NULL;
    MX_TRY(mx_json_get_string(object, key, place, true, NULL, &value, err));
    for (size_t i = 0; i < n; i++) {
        if (strcmp(value, allowed[i]) == 0) {
            return MX_OK;
        }
    }
    return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: %s: %s is not supported", place, key, value);
}

/* ---- reading: Quark's own contract --------------------------------------- */

/* Quark packs int4 into 32-bit words in an order of its own: not read. */
static mx_status parse_dtype(const json_t *object, const char *place, mx_quant *out, mx_error *err)
{
    static const char *const names[] = {"fp4", "fp6_e2m3", "fp6_e3m2", "fp8_e4m3", "fp8_e5m2"};
    const char *name = NULL;
    MX_TRY(expect_string(object, "dtype", place, names, MX_COUNT(names), err));
    MX_TRY(mx_json_get_string(object, "dtype", place, true, NULL, &name, err));
    out->format = mx_format_find(strcmp(name, "fp4") == 0 ? "fp4_e2m1" : name);
    assert(out->format != NULL); /* formats.def has all five */
    return MX_OK;
}

/* scale_calculation_mode: Quark's three names are mxlm's, with the same meaning. */
static mx_status parse_rule(const json_t *object, const char *place, mx_quant *out, mx_error *err)
{
    static const char *const modes[] = {"even", "floor", "ceil"};
    const char *key = "scale_calculation_mode", *mode = NULL;
    MX_TRY(expect_string(object, key, place, modes, MX_COUNT(modes), err));
    MX_TRY(mx_json_get_string(object, key, place, true, NULL, &mode, err));
    return mx_scale_rule_parse(mode, &out->rule, err);
}

/* One of weight and input_tensors: an element format with an E8M0 scale per group
 * of 32 along the input dimension, rounded half to even. */
static mx_status parse_operand(const json_t *object, const char *place, bool is_dynamic,
                               mx_quant *out, mx_error *err)
{
    static const char *const known[] = {
        "dtype", "is_dynamic", "qscheme", "ch_axis", "group_size", "round_method", "scale_type",
        "scale_format", "scale_calculation_mode", "observer_cls", "symmetric",
        /* Hints for Quark's implementation, without effect on values: */
        "enable_buffer_reuse", "max_input_numel"};
    static const char *const per_group[] = {"per_group"}, *const e8m0[] = {"e8m0"},
                             *const half_even[] = {"half_even"},
                             *const observer[] = {"PerBlockMXObserver"};
    *out = mx_quant_default();
    out->round = MX_ROUND_EVEN;
    int64_t block = 0, axis = 0;
    bool dynamic = false;
    MX_TRY(check_fields(object, place, known, MX_COUNT(known), err));
    MX_TRY(parse_dtype(object, place, out, err));
    MX_TRY(parse_rule(object, place, out, err));
    MX_TRY(expect_string(object, "qscheme", place, per_group, 1, err));
    MX_TRY(expect_string(object, "scale_format", place, e8m0, 1, err));
    MX_TRY(expect_string(object, "round_method", place, half_even, 1, err));
    if (json_object_get(object, "observer_cls") != NULL) {
        MX_TRY(expect_string(object, "observer_cls", place, observer, 1, err));
    }
    MX_TRY(mx_json_get_int(object, "ch_axis", place, false, -1, -1, -1, &axis, err));
    MX_TRY(mx_json_get_bool(object, "is_dynamic", place, false, is_dynamic, &dynamic, err));
    if (dynamic != is_dynamic) {
        return refuse(place, "is_dynamic", err);
    }
    MX_TRY(mx_json_get_int(object, "group_size", place, true, 0, 1, INT32_MAX, &block, err));
    if (block != 32) {
        return refuse(place, "group_size", err);
    }
    out->block = (uint32_t)block;
    return MX_OK;
}

/* global_quant_config: one contract for all layers. Weight-only files leave the
 * activations unquantized, with the weights' settings for whoever switches them on. */
static mx_status parse_global(const json_t *object, const char *where, mx_specs *out, mx_error *err)
{
    static const char *const known[] = {"weight", "input_tensors", "target_device"};
    const json_t *global = json_object_get(object, "global_quant_config");
    char place[600];
    snprintf(place, sizeof place, "%s: quantization_config.global_quant_config", where);
    MX_TRY(check_fields(global, place, known, MX_COUNT(known), err));
    const json_t *weight = json_object_get(global, "weight");
    const json_t *input = json_object_get(global, "input_tensors");
    snprintf(place, sizeof place, "%s: quantization_config.global_quant_config.weight", where);
    MX_TRY(parse_operand(weight, place, false, &out->weights, err));
    out->activations = out->weights;
    out->activations.format = NULL;
    if (input == NULL || json_is_null(input)) {
        return MX_OK;
    }
    snprintf(place, sizeof place, "%s: quantization_config.global_quant_config.input_tensors",
             where);
    return parse_operand(input, place, true, &out->activations, err);
}

/* How the tensors were written. */
static mx_status check_export(const json_t *object, const char *where, mx_error *err)
{
    static const char *const known[] = {"weight_format", "pack_method",
                                        /* of a KV cache and of scales merged by hand: */
                                        "min_kv_scale", "weight_merge_groups"};
    static const char *const formats[] = {"real_quantized"};
    /* Both orders are the same for packed floats; they differ for int4. */
    static const char *const orders[] = {"reorder", "order"};
    const json_t *export = json_object_get(object, "export");
    char place[600];
    snprintf(place, sizeof place, "%s: quantization_config.export", where);
    MX_TRY(check_fields(export, place, known, MX_COUNT(known), err));
    MX_TRY(expect_string(export, "weight_format", place, formats, 1, err));
    return expect_string(export, "pack_method", place, orders, 2, err);
}

/* Algorithms that end in ordinary weights; rotations, for one, would have to be
 * undone while the model runs. */
static mx_status check_algorithm(const json_t *algorithm, const char *place, mx_error *err)
{
    static const char *const folded[] = {"gptq", "gptaq", "awq", "smooth", "autosmoothquant"};
    MX_TRY(expect_string(algorithm, "name", place, folded, MX_COUNT(folded), err));
    return asks_nothing(json_object_get(algorithm, "desc_act"))
               ? MX_OK
               : refuse(place, "algo_config.desc_act", err);
}

/* Older files hold one algorithm, newer ones a list. */
static mx_status check_algorithms(const json_t *object, const char *place, mx_error *err)
{
    const json_t *algorithms = json_object_get(object, "algo_config");
    if (asks_nothing(algorithms)) {
        return MX_OK;
    }
    if (!json_is_array(algorithms)) {
        return check_algorithm(algorithms, place, err);
    }
    for (size_t i = 0; i < json_array_size(algorithms); i++) {
        MX_TRY(check_algorithm(json_array_get(algorithms, i), place, err));
    }
    return MX_OK;
}

/* ---- reading: excludes --------------------------------------------------- */

/* Quark takes regular expressions too, behind "re:". */
static mx_status check_glob(const char *glob, const char *place, mx_error *err)
{
    if (!mx_glob_is_cheap(glob)) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: exclude: '%.40s' has more than %d stars",
                            place, glob, MX_GLOB_MAX_STARS);
    }
    if (strncmp(glob, "re:", 3) == 0) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED,
                            "%s: exclude: %.40s: regular expressions are not supported", place,
                            glob);
    }
    return MX_OK;
}

/* Checked once, before each is matched with every module. */
static mx_status check_patterns(const json_t *patterns, const char *place, mx_error *err)
{
    if (!json_is_array(patterns) || json_array_size(patterns) > MAX_PATTERNS) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: exclude: must be a list of at most %d", place,
                            MAX_PATTERNS);
    }
    for (size_t i = 0; i < json_array_size(patterns); i++) {
        const char *pattern = json_string_value(json_array_get(patterns, i));
        if (pattern == NULL) {
            return mx_error_set(err, MX_ERR_FORMAT, "%s: exclude: element %zu is not a string",
                                place, i);
        }
        MX_TRY(check_glob(pattern, place, err));
    }
    return MX_OK;
}

/* Quark matches whole module names. */
static bool matches_any(const json_t *patterns, const char *module)
{
    for (size_t i = 0; i < json_array_size(patterns); i++) {
        if (fnmatch(json_string_value(json_array_get(patterns, i)), module, 0) == 0) {
            return true;
        }
    }
    return false;
}

/* What `flags` [layers][MX_LLAMA_PROJECTIONS] say, as mxlm's excludes: a kind of
 * projection that all layers exclude by its last name, others one by one. */
static mx_status set_excludes(const bool *flags, uint32_t layers, mx_specs *out, mx_error *err)
{
    char module[MX_LLAMA_NAME_SIZE];
    for (uint32_t kind = 0; kind < MX_LLAMA_PROJECTIONS; kind++) {
        uint32_t excluded = 0;
        for (uint32_t layer = 0; layer < layers; layer++) {
            excluded += flags[layer * MX_LLAMA_PROJECTIONS + kind];
        }
        for (uint32_t layer = 0; layer < layers && excluded < layers; layer++) {
            if (flags[layer * MX_LLAMA_PROJECTIONS + kind]) {
                mx_llama_module(layer, kind, module);
                MX_TRY(mx_specs_set(out, "exclude", module, err));
            }
        }
        if (excluded == layers) {
            mx_llama_module(0, kind, module);
            MX_TRY(mx_specs_set(out, "exclude", strrchr(module, '.') + 1, err));
        }
    }
    return MX_OK;
}

/* Decides for every projection, then says it in mxlm's terms. */
static mx_status parse_excludes(const json_t *object, const mx_llama_config *config,
                                const char *place, mx_specs *out, mx_error *err)
{
    const json_t *patterns = json_object_get(object, "exclude");
    if (patterns == NULL || json_is_null(patterns)) {
        return MX_OK;
    }
    MX_TRY(check_patterns(patterns, place, err));
    const size_t count = (size_t)config->layers * MX_LLAMA_PROJECTIONS;
    bool *flags = calloc(count, sizeof *flags);
    if (flags == NULL) {
        return mx_error_nomem(err, "quantization_config.exclude", count);
    }
    for (size_t i = 0; i < count; i++) {
        char module[MX_LLAMA_NAME_SIZE];
        mx_llama_module((uint32_t)(i / MX_LLAMA_PROJECTIONS), i % MX_LLAMA_PROJECTIONS, module);
        flags[i] = matches_any(patterns, module);
    }
    const mx_status status = set_excludes(flags, config->layers, out, err);
    free(flags);
    return status;
}

/* A file that Quark wrote itself. */
static mx_status parse_quark(const json_t *object, const mx_llama_config *config, const char *where,
                             mx_specs *out, mx_error *err)
{
    static const char *const known[] = {
        "quant_method", "export", "global_quant_config", "exclude", "algo_config",
        /* How Quark ran; nothing that a reader does differently: */
        "quant_mode", "version", "log_severity_level", "custom_mode"};
    char place[600];
    snprintf(place, sizeof place, "%s: quantization_config", where);
    MX_TRY(check_fields(object, place, known, MX_COUNT(known), err));
    MX_TRY(check_export(object, where, err));
    MX_TRY(check_algorithms(object, place, err));
    MX_TRY(parse_global(object, where, out, err));
    return parse_excludes(object, config, place, out, err);
}

/* ---- reading: mxlm's contract -------------------------------------------- */

/* Every field must be what mxlm writes for these settings: a file whose Quark part
 * was edited would mean two different things to two readers. */
static mx_status check_agreement(const json_t *object, const json_t *expected, const char *where,
                                 mx_error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)expected, key, value)
    {
        if (strcmp(key, "mxlm") != 0 && !json_equal(value, json_object_get(object, key))) {
            return mx_error_set(err, MX_ERR_FORMAT,
                                "%s: quantization_config.%s: contradicts quantization_config.mxlm",
                                where, key);
        }
    }
    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        if (json_object_get(expected, key) == NULL && !asks_nothing(value)) {
            return refuse(where, key, err);
        }
    }
    return MX_OK;
}

/* A file that mxlm wrote. */
static mx_status parse_mxlm(const json_t *object, const mx_llama_config *config, const char *where,
                            mx_specs *out, const char **method, mx_error *err)
{
    static const char *const known[] = {"version", "specs", "method"};
    const json_t *mxlm = json_object_get(object, "mxlm");
    char place[600];
    int64_t version = 0;
    snprintf(place, sizeof place, "%s: quantization_config.mxlm", where);
    MX_TRY(check_fields(mxlm, place, known, MX_COUNT(known), err));
    MX_TRY(mx_json_get_int(mxlm, "version", place, true, 0, 1, INT32_MAX, &version, err));
    if (version != MXLM_VERSION) {
        return refuse(place, "version", err);
    }
    const json_t *named = json_object_get(mxlm, "method");
    if (json_is_object(named)) {
        snprintf(place, sizeof place, "%s: quantization_config.mxlm.method", where);
        MX_TRY(mx_json_get_string(named, "name", place, true, NULL, method, err));
    } else {
        MX_TRY(mx_json_get_string(mxlm, "method", place, true, NULL, method, err));
    }
    snprintf(place, sizeof place, "%s: quantization_config.mxlm.specs", where);
    MX_TRY(mx_specs_from_json(json_object_get(mxlm, "specs"), place, out, err));
    json_t *expected = NULL;
    MX_TRY(mx_quark_to_json(out, config, *method, &expected, err));
    const mx_status status = check_agreement(object, expected, where, err);
    json_decref(expected);
    return status;
}

mx_status mx_quark_parse(const json_t *object, const mx_llama_config *config, const char *where,
                         mx_specs *out, const char **method, mx_error *err)
{
    *out = (mx_specs){0};
    *method = NULL;
    const char *name = NULL;
    char place[600];
    snprintf(place, sizeof place, "%s: quantization_config", where);
    if (!json_is_object(object)) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: must be an object", place);
    }
    MX_TRY(mx_json_get_string(object, "quant_method", place, true, NULL, &name, err));
    const bool is_mxlm = strcmp(name, "mxlm") == 0;
    if (!is_mxlm && strcmp(name, "quark") != 0) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: quant_method: %s is not supported", place,
                            name);
    }
    const mx_status status = is_mxlm || json_object_get(object, "mxlm") != NULL
                                 ? parse_mxlm(object, config, where, out, method, err)
                                 : parse_quark(object, config, where, out, err);
    if (status != MX_OK) {
        mx_specs_clear(out);
        *method = NULL;
    }
    return status;
}

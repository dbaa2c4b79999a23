/* microxcaling's MxSpecs: its keys, defaults and dependency rules. */
#include "base/str.h"
#include "format/specs.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MXSPECS_FILE_LIMIT (1u << 20)

typedef enum key_type {
    KEY_INT,
    KEY_BOOL,
    KEY_FORMAT, /* ElemFormat.from_str */
    KEY_ROUND,
    KEY_METHOD, /* shared_exp_method */
} key_type;

/* Every key of MxSpecs.__init__. Those that load_* below does not read act in the
 * backward pass or the optimizer only, or through bfloat / fp, which are refused. */
static const struct {
    const char *name;
    key_type type;
} keys[] = {
    {"scale_bits", KEY_INT},
    {"w_elem_format", KEY_FORMAT},
    {"a_elem_format", KEY_FORMAT},
    {"w_elem_format_bp", KEY_FORMAT},
    {"a_elem_format_bp", KEY_FORMAT},
    {"a_elem_format_bp_ex", KEY_FORMAT},
    {"a_elem_format_bp_os", KEY_FORMAT},
    {"mx_flush_fp32_subnorms", KEY_BOOL},
    {"shared_exp_method", KEY_METHOD},
    {"block_size", KEY_INT},
    {"bfloat", KEY_INT},
    {"fp", KEY_INT},
    {"bfloat_subnorms", KEY_BOOL},
    {"quantize_backprop", KEY_BOOL},
    {"round", KEY_ROUND},
    {"round_m", KEY_ROUND},
    {"round_weight", KEY_ROUND},
    {"round_output", KEY_ROUND},
    {"round_grad_weight", KEY_ROUND},
    {"round_grad_input", KEY_ROUND},
    {"round_mx_output", KEY_ROUND},
    {"round_mx_input_grad_input", KEY_ROUND},
    {"round_mx_weight_grad_input", KEY_ROUND},
    {"round_mx_grad_output_grad_input", KEY_ROUND},
    {"round_mx_input_grad_weight", KEY_ROUND},
    {"round_mx_grad_output_grad_weight", KEY_ROUND},
    {"softmax_exp2", KEY_BOOL},
    {"vec_use_exp2", KEY_BOOL},
    {"vec_use_recip", KEY_BOOL},
    {"custom_cuda", KEY_BOOL},
};

/* What the forward pass reads; the same for both operands but for the format. */
typedef struct forward {
    const mx_format *weights, *activations;
    uint32_t block;
    mx_round round;
    bool flush_subnormals, custom_cuda;
} forward;

/* ---- keys and the types of their values ------------------------------------ */

/* *out NULL when the key is missing or null. */
static mx_status get_format(const json_t *object, const char *key, const char *where,
                            const mx_format **out, mx_error *err)
{
    const char *name;
    *out = NULL;
    MX_TRY(mx_json_get_string(object, key, where, false, NULL, &name, err));
    if (name == NULL) {
        return MX_OK;
    }
    mx_quant quant = {.format = mx_format_find(name)};
    if (mx_quant_is_none(&quant)) { /* fp32 is no ElemFormat either */
        return mx_error_set(err, MX_ERR_ARGUMENT, "%s: %s: unknown element format '%.40s'", where,
                            key, name);
    }
    *out = quant.format;
    return MX_OK;
}

static mx_status get_round(const json_t *object, const char *key, const char *where,
                           mx_round fallback, mx_round *out, mx_error *err)
{
    const char *name;
    *out = fallback;
    MX_TRY(mx_json_get_string(object, key, where, false, NULL, &name, err));
    mx_error reason;
    if (name != NULL && mx_round_parse(name, out, &reason) != MX_OK) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "%s: %s: unknown rounding '%.40s'", where, key,
                            name);
    }
    return MX_OK;
}

static mx_status get_method(const json_t *object, const char *where, bool *none, mx_error *err)
{
    const char *name;
    MX_TRY(mx_json_get_string(object, "shared_exp_method", where, false, "max", &name, err));
    *none = strcmp(name, "none") == 0;
    if (!*none && strcmp(name, "max") != 0) {
        return mx_error_set(err, MX_ERR_ARGUMENT,
                            "%s: shared_exp_method: unknown value '%.40s' (max or none)", where,
                            name);
    }
    return MX_OK;
}

static mx_status get_count(const json_t *object, const char *key, const char *where, int64_t *out,
                           mx_error *err)
{
    return mx_json_get_int(object, key, where, false, 0, 0, UINT32_MAX, out, err);
}

/* The value of a known key, whether or not it acts. */
static mx_status check_value(const json_t *object, const char *where, const char *key,
                             key_type type, mx_error *err)
{
    int64_t number;
    bool flag;
    const mx_format *format;
    mx_round round;
    switch (type) {
    case KEY_INT:
        return get_count(object, key, where, &number, err);
    case KEY_BOOL:
        return mx_json_get_bool(object, key, where, false, false, &flag, err);
    case KEY_FORMAT:
        return get_format(object, key, where, &format, err);
    case KEY_ROUND:
        return get_round(object, key, where, MX_ROUND_NEAREST, &round, err);
    case KEY_METHOD:
        return get_method(object, where, &flag, err);
    }
    return MX_OK;
}

/* Known keys with values of the right type. A dict handed to finalize_mx_specs
 * may hold anything there; a misspelled key would quietly leave a default. */
static mx_status check_keys(const json_t *object, const char *where, mx_error *err)
{
    if (!json_is_object(object)) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: must be an object with MxSpecs keys", where);
    }
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        size_t i = 0;
        while (i < MX_COUNT(keys) && strcmp(keys[i].name, key) != 0) {
            i++;
        }
        if (i == MX_COUNT(keys)) {
            return mx_error_set(err, MX_ERR_ARGUMENT, "%s: %.60s: not an MxSpecs key", where, key);
        }
        MX_TRY(check_value(object, where, key, keys[i].type, err));
    }
    return MX_OK;
}

/* ---- what mxlm does not implement ------------------------------------------ */

/* bfloat and fp round inputs, weights and outputs element by element
 * (elemwise_ops.py); 0 is off, and so is bfloat 32. */
static mx_status refuse_elementwise(const json_t *object, const char *where, mx_error *err)
{
    int64_t bfloat, fp;
    MX_TRY(get_count(object, "bfloat", where, &bfloat, err));
    MX_TRY(get_count(object, "fp", where, &fp, err));
    if (bfloat > 0 && fp > 0) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "%s: bfloat: cannot be set together with fp",
                            where);
    }
    if ((bfloat > 0 && bfloat <= 9) || (fp > 0 && fp <= 6)) {
        return mx_error_set(err, MX_ERR_ARGUMENT, "%s: %s: must be 0 or above %d", where,
                            bfloat > 0 ? "bfloat" : "fp", bfloat > 0 ? 9 : 6);
    }
    if ((bfloat > 0 && bfloat != 32) || fp > 0) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED,
                            "%s: %s: element-wise rounding is not implemented", where,
                            bfloat > 0 ? "bfloat" : "fp");
    }
    return MX_OK;
}

static mx_status refuse_true(const json_t *object, const char *where, const char *key,
                             mx_error *err)
{
    bool flag;
    MX_TRY(mx_json_get_bool(object, key, where, false, false, &flag, err));
    if (flag) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: %s: not implemented", where, key);
    }
    return MX_OK;
}

/* Refused, not ignored: results would not be what microxcaling computes. */
static mx_status refuse_unimplemented(const json_t *object, const char *where, mx_error *err)
{
    MX_TRY(refuse_elementwise(object, where, err));
    MX_TRY(refuse_true(object, where, "softmax_exp2", err));
    MX_TRY(refuse_true(object, where, "vec_use_exp2", err));
    MX_TRY(refuse_true(object, where, "vec_use_recip", err));
    int64_t scale_bits;
    MX_TRY(get_count(object, "scale_bits", where, &scale_bits, err));
    if (scale_bits != 0 && scale_bits != 8) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED,
                            "%s: scale_bits: %lld is not implemented (8: E8M0)", where,
                            (long long)scale_bits);
    }
    return MX_OK;
}

/* ---- what acts -------------------------------------------------------------- */

static mx_status load_format(const json_t *object, const char *where, const char *key,
                             const mx_format **out, mx_error *err)
{
    MX_TRY(get_format(object, key, where, out, err));
    if (*out != NULL && (*out)->kind == MX_KIND_PLAIN) {
        /* Not plain rounding: values at the top of a block saturate. */
        return mx_error_set(err, MX_ERR_UNSUPPORTED,
                            "%s: %s: %s under a shared scale is not implemented", where, key,
                            (*out)->name);
    }
    return MX_OK;
}

/* shared_exp_method "none" is a scale of its own for every element: a block of one. */
static mx_status load_block(const json_t *object, const char *where, forward *out, mx_error *err)
{
    int64_t block;
    bool none;
    MX_TRY(get_count(object, "block_size", where, &block, err));
    MX_TRY(get_method(object, where, &none, err));
    if (!mx_block_is_valid((uint64_t)block)) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED,
                            "%s: block_size: %lld is not 0, 1 or a multiple of 8", where,
                            (long long)block);
    }
    if (none && out->custom_cuda) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED,
                            "%s: shared_exp_method: 'none' together with custom_cuda, whose "
                            "kernels ignore or reject it",
                            where);
    }
    out->block = none ? 1 : (uint32_t)block;
    return MX_OK;
}

static mx_status load_forward(const json_t *object, const char *where, forward *out, mx_error *err)
{
    mx_round round;
    MX_TRY(load_format(object, where, "w_elem_format", &out->weights, err));
    MX_TRY(load_format(object, where, "a_elem_format", &out->activations, err));
    MX_TRY(mx_json_get_bool(object, "custom_cuda", where, false, false, &out->custom_cuda, err));
    MX_TRY(mx_json_get_bool(object, "mx_flush_fp32_subnorms", where, false, false,
                            &out->flush_subnormals, err));
    MX_TRY(load_block(object, where, out, err));
    /* finalize_mx_specs: assign_if_none("round_mx_output", "round"). Its early exit
     * to "no quantization" needs no code: without element formats, none happens. */
    MX_TRY(get_round(object, "round", where, MX_ROUND_NEAREST, &round, err));
    return get_round(object, "round_mx_output", where, round, &out->round, err);
}

/* What a reader of the dict may take differently. */
static mx_status write_note(const json_t *object, const forward *loaded, char **note, mx_error *err)
{
    mx_str str = {0};
    const char *round = json_string_value(json_object_get(object, "round"));
    const char *acts = mx_round_name(loaded->round);
    bool own = json_is_string(json_object_get(object, "round_mx_output"));
    if (round != NULL && own && strcasecmp(round, acts) != 0) {
        mx_str_addf(&str,
                    "round: '%.20s' has no effect, round_mx_output '%s' governs both operands",
                    round, acts);
    } else if (round != NULL && !own && loaded->round != MX_ROUND_NEAREST) {
        mx_str_addf(&str,
                    "round: '%s' sets round_mx_output, as finalize_mx_specs does (mx.Linear given "
                    "this dict without finalize_mx_specs rounds 'nearest')",
                    acts);
    }
    if (loaded->custom_cuda) {
        mx_str_addf(&str,
                    "%scustom_cuda: the CUDA backend is used where there is one, else the CPU "
                    "backend; quantized values are the same",
                    str.length > 0 ? "; " : "");
    }
    if (str.length == 0 && !str.failed) {
        return MX_OK;
    }
    mx_status status = mx_str_take(&str, note, err);
    mx_str_free(&str);
    return status;
}

static void quant_apply(mx_quant *quant, const forward *loaded, const mx_format *format)
{
    quant->format = format;
    quant->block = loaded->block;
    quant->round = loaded->round;
    quant->flush_subnormals = loaded->flush_subnormals;
}

mx_status mx_specs_load_json(mx_specs *specs, const json_t *object, const char *where, char **note,
                             mx_error *err)
{
    forward loaded = {0};
    char *text = NULL;
    if (note != NULL) {
        *note = NULL;
    }
    MX_TRY(check_keys(object, where, err));
    MX_TRY(refuse_unimplemented(object, where, err));
    MX_TRY(load_forward(object, where, &loaded, err));
    MX_TRY(write_note(object, &loaded, &text, err));

    quant_apply(&specs->weights, &loaded, loaded.weights);
    quant_apply(&specs->activations, &loaded, loaded.activations);
    quant_apply(&specs->head, &loaded, specs->head.format); /* MxSpecs knows no head */
    specs->want_cuda = loaded.custom_cuda;
    if (note != NULL) {
        *note = text;
    } else {
        free(text);
    }
    return MX_OK;
}

mx_status mx_specs_load(mx_specs *specs, const char *path, char **note, mx_error *err)
{
    if (note != NULL) {
        *note = NULL;
    }
    json_t *object = NULL;
    MX_TRY(mx_json_load(path, MXSPECS_FILE_LIMIT, &object, err));
    mx_status status = mx_specs_load_json(specs, object, path, note, err);
    json_decref(object);
    return status;
}

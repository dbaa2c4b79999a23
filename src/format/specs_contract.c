/* The numeric contract in JSON: what checkpoints and results record. */
#include "base/str.h"
#include "format/specs.h"

#include <stdlib.h>
#include <string.h>

static const char *const operand_fields[] = {
    "format", "block", "scale_rule", "round", "flush_subnormals", "seed",
};
/* "head" is written when it is quantized, and may be missing. */
static const char *const contract_fields[] = {"weights", "activations", "exclude", "head"};
enum { REQUIRED_FIELDS = 3 };

/* ---- writing -------------------------------------------------------------- */

/* New reference; NULL when out of memory. */
static json_t *quant_to_json(const mx_quant *quant)
{
    if (mx_quant_is_none(quant)) {
        return json_null();
    }
    return json_pack("{s:s, s:I, s:s, s:s, s:b, s:I}", "format", quant->format->name, "block",
                     (json_int_t)quant->block, "scale_rule", mx_scale_rule_name(quant->rule),
                     "round", mx_round_name(quant->round), "flush_subnormals",
                     (int)quant->flush_subnormals, "seed", (json_int_t)quant->seed);
}

static json_t *excludes_to_json(const mx_specs *specs)
{
    json_t *list = json_array();
    for (size_t i = 0; i < specs->n_excludes; i++) {
        if (json_array_append_new(list, json_string(specs->excludes[i])) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

mx_status mx_specs_to_json(const mx_specs *specs, json_t **out, mx_error *err)
{
    *out = NULL;
    /* A NULL part makes the whole pack fail and releases the others. A glob that
     * is not UTF-8 ends here too: jansson refuses it. */
    json_t *object =
        json_pack("{s:o, s:o, s:o}", "weights", quant_to_json(&specs->weights), "activations",
                  quant_to_json(&specs->activations), "exclude", excludes_to_json(specs));
    if (object == NULL) {
        return mx_error_set(err, MX_ERR_ARGUMENT,
                            "settings cannot be written as JSON: out of memory, or an exclude "
                            "that is not UTF-8");
    }
    if (!mx_quant_is_none(&specs->head) &&
        json_object_set_new(object, "head", quant_to_json(&specs->head)) != 0) {
        json_decref(object);
        return mx_error_nomem(err, "settings", 0);
    }
    *out = object;
    return MX_OK;
}

/* ---- reading -------------------------------------------------------------- */

/* The first n_required of `fields`, perhaps the others, and nothing else. */
static mx_status check_fields(const json_t *object, const char *where, const char *const *fields,
                              size_t n_required, size_t n_fields, mx_error *err)
{
    if (!json_is_object(object)) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: must be an object", where);
    }
    for (size_t i = 0; i < n_required; i++) {
        if (json_object_get(object, fields[i]) == NULL) {
            return mx_error_set(err, MX_ERR_FORMAT, "%s: %s: missing", where, fields[i]);
        }
    }
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        bool known = false;
        for (size_t i = 0; i < n_fields; i++) {
            known = known || strcmp(key, fields[i]) == 0;
        }
        if (!known) {
            return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: %.60s: unknown field", where, key);
        }
    }
    return MX_OK;
}

/* Names parsed by `format.c` report without the file; this one puts it in front. */
static mx_status read_names(const json_t *object, const char *where, mx_quant *out, mx_error *err)
{
    const char *format, *rule, *round;
    MX_TRY(mx_json_get_string(object, "format", where, true, NULL, &format, err));
    MX_TRY(mx_json_get_string(object, "scale_rule", where, true, NULL, &rule, err));
    MX_TRY(mx_json_get_string(object, "round", where, true, NULL, &round, err));
    out->format = mx_format_find(format);
    if (out->format == NULL || mx_quant_is_none(out)) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: format: unknown value '%.40s'", where,
                            format);
    }
    mx_error reason;
    if (mx_scale_rule_parse(rule, &out->rule, &reason) != MX_OK ||
        mx_round_parse(round, &out->round, &reason) != MX_OK) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: %s", where, reason.text);
    }
    return MX_OK;
}

/* Null is unquantized. Every field is required: a default would be a guess about how
 * somebody else's weights were made. */
static mx_status read_quant(const json_t *contract, const char *where, const char *operand,
                            mx_quant *out, mx_error *err)
{
    *out = mx_quant_default();
    const json_t *object = json_object_get(contract, operand);
    if (json_is_null(object)) {
        return MX_OK;
    }
    mx_str path = {0};
    char *place = NULL;
    mx_str_addf(&path, "%s: %s", where, operand);
    MX_TRY(mx_str_take(&path, &place, err));

    int64_t block = 0, seed = 0;
    mx_status status;
    MX_TRY_GOTO(status, check_fields(object, place, operand_fields, MX_COUNT(operand_fields),
                                     MX_COUNT(operand_fields), err));
    MX_TRY_GOTO(status, read_names(object, place, out, err));
    MX_TRY_GOTO(status,
                mx_json_get_int(object, "block", place, true, 0, 0, UINT32_MAX, &block, err));
    MX_TRY_GOTO(status, mx_json_get_int(object, "seed", place, true, 0, 0, INT64_MAX, &seed, err));
    MX_TRY_GOTO(status, mx_json_get_bool(object, "flush_subnormals", place, true, false,
                                         &out->flush_subnormals, err));
    if (!mx_block_is_valid((uint64_t)block)) {
        status =
            mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: block: %lld is not 0, 1 or a multiple of 8",
                         place, (long long)block);
    }
    out->block = (uint32_t)block;
    out->seed = (uint64_t)seed;
done:
    free(place);
    return status;
}

/* Of a head that is not told, the settings are the weights'. */
static mx_status read_head(const json_t *contract, const char *where, mx_specs *out, mx_error *err)
{
    if (json_object_get(contract, "head") == NULL) {
        out->head = out->weights;
        out->head.format = NULL;
        return MX_OK;
    }
    MX_TRY(read_quant(contract, where, "head", &out->head, err));
    if (!mx_quant_is_scaled(&out->head)) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED,
                            "%s: head: must be a format with shared scales", where);
    }
    return MX_OK;
}

static mx_status read_excludes(const json_t *contract, const char *where, mx_specs *out,
                               mx_error *err)
{
    const json_t *list = json_object_get(contract, "exclude");
    if (!json_is_array(list)) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: exclude: must be an array of strings", where);
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *glob = json_string_value(json_array_get(list, i));
        if (glob == NULL) {
            return mx_error_set(err, MX_ERR_FORMAT, "%s: exclude: element %zu is not a string",
                                where, i);
        }
        mx_error reason;
        mx_status status = mx_specs_set(out, "exclude", glob, &reason);
        if (status != MX_OK) {
            /* What is a wrong argument from a user is unsupported in a file. */
            status = status == MX_ERR_ARGUMENT ? MX_ERR_UNSUPPORTED : status;
            return mx_error_set(err, status, "%s: %s", where, reason.text);
        }
    }
    return MX_OK;
}

mx_status mx_specs_from_json(const json_t *object, const char *where, mx_specs *out, mx_error *err)
{
    memset(out, 0, sizeof *out);
    mx_status status;
    MX_TRY_GOTO(status, check_fields(object, where, contract_fields, REQUIRED_FIELDS,
                                     MX_COUNT(contract_fields), err));
    MX_TRY_GOTO(status, read_quant(object, where, "weights", &out->weights, err));
    MX_TRY_GOTO(status, read_quant(object, where, "activations", &out->activations, err));
    MX_TRY_GOTO(status, read_excludes(object, where, out, err));
    MX_TRY_GOTO(status, read_head(object, where, out, err));
    if (out->activations.format == NULL && out->weights.format != NULL) {
        /* Activations that the user switches on later go by the weights' settings. */
        out->activations = out->weights;
        out->activations.format = NULL;
    }
done:
    if (status != MX_OK) {
        mx_specs_clear(out);
    }
    return status;
}

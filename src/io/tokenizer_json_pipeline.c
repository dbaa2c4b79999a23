/* Reads what surrounds the model in a tokenizer.json: normalizer, pre_tokenizer,
 * post_processor, decoder. */
#include "io/tokenizer_impl.h"

#include "base/json.h"

#include <stdlib.h>
#include <string.h>

/* Sequences may hold sequences; deeper than anyone writes is refused. */
#define MAX_DEPTH 4
/* Special tokens around a text; templates of real models add one or two. */
#define MAX_TEMPLATE_IDS 256

/* Where a component is, for messages ("path: pre_tokenizer"), and whose it is. */
typedef struct reader {
    mx_tokenizer *tokenizer;
    const char *where;
    mx_error *err;
} reader;

typedef mx_status (*read_one_fn)(reader *r, const json_t *value, const char *type);

static mx_status unsupported_type(const reader *r, const char *type)
{
    return mx_error_set(r->err, MX_ERR_UNSUPPORTED, "%s: type: '%.64s' is not supported", r->where,
                        type);
}

/* Calls `read_one` for a component, or in order for the members of a Sequence,
 * whose list goes by `list_key`. */
static mx_status read_component(reader *r, const json_t *value, const char *list_key, int depth,
                                read_one_fn read_one)
{
    const char *type;
    if (!json_is_object(value)) {
        return mx_error_set(r->err, MX_ERR_FORMAT, "%s: must be an object", r->where);
    }
    MX_TRY(mx_json_get_string(value, "type", r->where, true, NULL, &type, r->err));
    if (strcmp(type, "Sequence") != 0) {
        return read_one(r, value, type);
    }
    const json_t *list = json_object_get(value, list_key);
    if (!json_is_array(list) || depth == MAX_DEPTH) {
        return mx_error_set(r->err, MX_ERR_FORMAT,
                            "%s: %s: must be an array, nested at most %d deep", r->where, list_key,
                            MAX_DEPTH);
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        MX_TRY(read_component(r, json_array_get(list, i), list_key, depth + 1, read_one));
    }
    return MX_OK;
}

/* ---- normalizer ------------------------------------------------------------------- */

/* Lowercase, Replace and the like are for other model families. */
static mx_status read_normalizer(reader *r, const json_t *value, const char *type)
{
    (void)value;
    mx_tokenizer *tokenizer = r->tokenizer;
    for (size_t i = 0; i < MX_COUNT(mx_normal_form_names); i++) {
        if (strcmp(type, mx_normal_form_names[i]) != 0) {
            continue;
        }
        if (tokenizer->n_normalizers == MX_TOKENIZER_MAX_STEPS) {
            return mx_error_set(r->err, MX_ERR_UNSUPPORTED, "%s: more than %d steps", r->where,
                                MX_TOKENIZER_MAX_STEPS);
        }
        tokenizer->normalizers[tokenizer->n_normalizers++] = (mx_normal_form)i;
        return MX_OK;
    }
    return unsupported_type(r, type);
}

/* ---- pre_tokenizer ------------------------------------------------------------------ */

/* `pattern` is an enum of Rust, written as an object with one member. */
static mx_status read_split(reader *r, const json_t *value)
{
    const json_t *pattern = json_object_get(value, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex");
    const json_t *text = json_object_get(pattern, "String");
    const json_t *source = regex != NULL ? regex : text;
    if (!json_is_string(source)) {
        return mx_error_set(r->err, MX_ERR_FORMAT,
                            "%s: Split: pattern: must be {\"Regex\": text} or {\"String\": text}",
                            r->where);
    }
    const char *name;
    mx_pretok_step step = {.kind = MX_STEP_SPLIT, .pattern.is_regex = regex != NULL};
    MX_TRY(mx_json_get_string(value, "behavior", r->where, true, NULL, &name, r->err));
    MX_TRY(mx_json_get_bool(value, "invert", r->where, true, false, &step.invert, r->err));
    size_t behavior = 0;
    while (behavior < MX_COUNT(mx_split_behavior_names) &&
           strcmp(name, mx_split_behavior_names[behavior]) != 0) {
        behavior++;
    }
    if (behavior == MX_COUNT(mx_split_behavior_names)) {
        return mx_error_set(r->err, MX_ERR_UNSUPPORTED, "%s: behavior: '%.64s' is not supported",
                            r->where, name);
    }
    step.behavior = (mx_split_behavior)behavior;
    return mx_tokenizer_add_step(r->tokenizer, &step, json_string_value(source), r->err);
}

/* "Digits" are all numeric characters, fractions and Roman numerals included. */
static mx_status read_digits(reader *r, const json_t *value)
{
    bool individual;
    MX_TRY(
        mx_json_get_bool(value, "individual_digits", r->where, true, false, &individual, r->err));
    mx_pretok_step step = {.kind = MX_STEP_DIGITS,
                           .behavior = individual ? MX_SPLIT_ISOLATED : MX_SPLIT_CONTIGUOUS};
    return mx_tokenizer_add_step(r->tokenizer, &step, NULL, r->err);
}

/* use_regex came later than the others and is true when it is missing. */
static mx_status read_byte_level(reader *r, const json_t *value)
{
    mx_pretok_step step = {
        .kind = MX_STEP_BYTE_LEVEL, .behavior = MX_SPLIT_ISOLATED, .pattern.is_regex = true};
    bool use_regex;
    MX_TRY(mx_json_get_bool(value, "add_prefix_space", r->where, true, true, &step.add_prefix_space,
                            r->err));
    MX_TRY(mx_json_get_bool(value, "use_regex", r->where, false, true, &use_regex, r->err));
    return mx_tokenizer_add_step(r->tokenizer, &step, use_regex ? mx_gpt2_pattern : NULL, r->err);
}

static mx_status read_pre_tokenizer(reader *r, const json_t *value, const char *type)
{
    const mx_tokenizer *tokenizer = r->tokenizer;
    size_t n = tokenizer->n_steps;
    if (n > 0 && tokenizer->steps[n - 1].kind == MX_STEP_BYTE_LEVEL) {
        /* It would see the byte-level alphabet instead of text. */
        return mx_error_set(r->err, MX_ERR_UNSUPPORTED, "%s: '%.64s' after ByteLevel", r->where,
                            type);
    }
    if (strcmp(type, "Split") == 0) {
        return read_split(r, value);
    }
    if (strcmp(type, "Digits") == 0) {
        return read_digits(r, value);
    }
    return strcmp(type, "ByteLevel") == 0 ? read_byte_level(r, value) : unsupported_type(r, type);
}

/* ---- post_processor ------------------------------------------------------------------ */

/* The ids of special token `name` of a template. */
static mx_status read_special(reader *r, const json_t *specials, const char *name, mx_ids *out)
{
    const json_t *ids = json_object_get(json_object_get(specials, name), "ids");
    if (!json_is_array(ids)) {
        return mx_error_set(r->err, MX_ERR_FORMAT, "%s: special_tokens: '%.64s' has no ids",
                            r->where, name);
    }
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        json_int_t value = json_is_integer(id) ? json_integer_value(id) : -1;
        if (value < 0 || value >= (json_int_t)r->tokenizer->vocab.n_ids) {
            return mx_error_set(r->err, MX_ERR_FORMAT,
                                "%s: special_tokens: '%.64s': ids must be of the vocabulary",
                                r->where, name);
        }
        if (out->n == MAX_TEMPLATE_IDS) {
            return mx_error_set(r->err, MX_ERR_UNSUPPORTED, "%s: more than %d special tokens",
                                r->where, MAX_TEMPLATE_IDS);
        }
        MX_TRY(mx_ids_add(out, (int32_t)value, r->err));
    }
    return MX_OK;
}

/* "single": special tokens around sequence A. */
static mx_status read_template(reader *r, const json_t *value)
{
    mx_template *template = &r->tokenizer->template;
    const json_t *single = json_object_get(value, "single");
    const json_t *specials = json_object_get(value, "special_tokens");
    if (template->present) {
        return mx_error_set(r->err, MX_ERR_UNSUPPORTED, "%s: two templates", r->where);
    }
    template->present = true;
    if (!json_is_array(single) || !json_is_object(specials)) {
        return mx_error_set(r->err, MX_ERR_FORMAT,
                            "%s: TemplateProcessing: needs single and special_tokens", r->where);
    }
    bool seen = false;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *piece = json_array_get(single, i);
        const json_t *special = json_object_get(json_object_get(piece, "SpecialToken"), "id");
        const json_t *sequence = json_object_get(json_object_get(piece, "Sequence"), "id");
        if (json_is_string(special)) {
            MX_TRY(read_special(r, specials, json_string_value(special),
                                seen ? &template->suffix : &template->prefix));
        } else if (json_is_string(sequence) && strcmp(json_string_value(sequence), "A") == 0 &&
                   !seen) {
            seen = true;
        } else {
            return mx_error_set(r->err, MX_ERR_UNSUPPORTED,
                                "%s: single[%zu]: only special tokens around one sequence A",
                                r->where, i);
        }
    }
    return seen ? MX_OK
                : mx_error_set(r->err, MX_ERR_UNSUPPORTED, "%s: single: without sequence A",
                               r->where);
}

/* BertProcessing and RobertaProcessing belong to encoders. */
static mx_status read_post_processor(reader *r, const json_t *value, const char *type)
{
    if (strcmp(type, "ByteLevel") == 0) {
        return MX_OK; /* trims offsets; ids stay */
    }
    return strcmp(type, "TemplateProcessing") == 0 ? read_template(r, value)
                                                   : unsupported_type(r, type);
}

/* ---- decoder ------------------------------------------------------------------------- */

/* Tokens are always shown as their bytes, which is what ByteLevel does. */
static mx_status read_decoder(reader *r, const json_t *value, const char *type)
{
    (void)value;
    return strcmp(type, "ByteLevel") == 0 ? MX_OK : unsupported_type(r, type);
}

/* ---- all ------------------------------------------------------------------------------ */

/* An absent component and null are the same. */
mx_status mx_tokenizer_read_pipeline(mx_tokenizer *tokenizer, const json_t *root, mx_error *err)
{
    static const struct {
        const char *key, *list_key;
        read_one_fn read_one;
    } components[] = {
        {"normalizer", "normalizers", read_normalizer},
        {"pre_tokenizer", "pretokenizers", read_pre_tokenizer},
        {"post_processor", "processors", read_post_processor},
        {"decoder", "decoders", read_decoder},
    };
    for (size_t i = 0; i < MX_COUNT(components); i++) {
        const json_t *value = json_object_get(root, components[i].key);
        if (value == NULL || json_is_null(value)) {
            continue;
        }
        mx_str where = {0};
        char *name = NULL;
        mx_str_addf(&where, "%s: %s", tokenizer->where, components[i].key);
        MX_TRY(mx_str_take(&where, &name, err));
        reader r = {.tokenizer = tokenizer, .where = name, .err = err};
        mx_status status =
            read_component(&r, value, components[i].list_key, 0, components[i].read_one);
        free(name);
        MX_TRY(status);
    }
    return MX_OK;
}

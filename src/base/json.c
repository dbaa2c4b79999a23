#include "base/json.h"

#include "base/file.h"

#include <stdlib.h>
#include <string.h>

mx_status mx_json_parse(const char *text, size_t size, const char *where, json_t **out,
                        mx_error *err)
{
    /* jansson also refuses \u0000, so that no name can end early as a C string. */
    json_error_t json_error;
    *out = json_loadb(text, size, JSON_REJECT_DUPLICATES, &json_error);
    if (*out == NULL) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: not valid JSON at line %d column %d: %s",
                            where, json_error.line, json_error.column, json_error.text);
    }
    return MX_OK;
}

mx_status mx_json_load(const char *path, size_t limit, json_t **out, mx_error *err)
{
    *out = NULL;
    char *text = NULL;
    size_t size = 0;
    MX_TRY(mx_file_read(path, limit, &text, &size, err));
    mx_status status = mx_json_parse(text, size, path, out, err);
    free(text);
    return status;
}

/* The member, NULL when missing or null. */
static const json_t *json_member(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

static mx_status json_missing(const char *where, const char *key, mx_error *err)
{
    return mx_error_set(err, MX_ERR_FORMAT, "%s: %s: missing", where, key);
}

static mx_status json_wrong_type(const char *where, const char *key, const char *wanted,
                                 mx_error *err)
{
    return mx_error_set(err, MX_ERR_FORMAT, "%s: %s: must be %s", where, key, wanted);
}

mx_status mx_json_get_int(const json_t *object, const char *key, const char *where, bool required,
                          int64_t fallback, int64_t min, int64_t max, int64_t *out, mx_error *err)
{
    const json_t *value = json_member(object, key);
    *out = fallback;
    if (value == NULL) {
        return required ? json_missing(where, key, err) : MX_OK;
    }
    if (!json_is_integer(value)) {
        return json_wrong_type(where, key, "an integer", err);
    }
    int64_t number = (int64_t)json_integer_value(value);
    if (number < min || number > max) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: %s: %lld is outside %lld to %lld", where, key,
                            (long long)number, (long long)min, (long long)max);
    }
    *out = number;
    return MX_OK;
}

mx_status mx_json_get_real(const json_t *object, const char *key, const char *where, bool required,
                           double fallback, double *out, mx_error *err)
{
    const json_t *value = json_member(object, key);
    *out = fallback;
    if (value == NULL) {
        return required ? json_missing(where, key, err) : MX_OK;
    }
    if (!json_is_number(value)) {
        return json_wrong_type(where, key, "a number", err);
    }
    *out = json_number_value(value);
    return MX_OK;
}

mx_status mx_json_get_bool(const json_t *object, const char *key, const char *where, bool required,
                           bool fallback, bool *out, mx_error *err)
{
    const json_t *value = json_member(object, key);
    *out = fallback;
    if (value == NULL) {
        return required ? json_missing(where, key, err) : MX_OK;
    }
    if (!json_is_boolean(value)) {
        return json_wrong_type(where, key, "true or false", err);
    }
    *out = json_is_true(value);
    return MX_OK;
}

mx_status mx_json_get_string(const json_t *object, const char *key, const char *where,
                             bool required, const char *fallback, const char **out, mx_error *err)
{
    const json_t *value = json_member(object, key);
    *out = fallback;
    if (value == NULL) {
        return required ? json_missing(where, key, err) : MX_OK;
    }
    if (!json_is_string(value)) {
        return json_wrong_type(where, key, "a string", err);
    }
    *out = json_string_value(value);
    return MX_OK;
}

mx_status mx_json_dump(const json_t *value, int indent, char **out, mx_error *err)
{
    *out = NULL;
    size_t flags = JSON_ENCODE_ANY | JSON_REAL_PRECISION(17);
    if (indent > 0) {
        flags |= JSON_INDENT((size_t)indent);
    }
    char *text = json_dumps(value, flags);
    if (text == NULL) {
        return mx_error_nomem(err, "JSON text", 0);
    }
    if (indent > 0) {
        size_t length = strlen(text);
        char *longer = realloc(text, length + 2);
        if (longer == NULL) {
            free(text);
            return mx_error_nomem(err, "JSON text", length + 2);
        }
        text = longer;
        memcpy(text + length, "\n", 2);
    }
    *out = text;
    return MX_OK;
}

/*
 * JSON over jansson: strict parsing of outside data and typed access whose
 * errors name file and field.
 */
#ifndef MX_BASE_JSON_H
#define MX_BASE_JSON_H

#include "base/status.h"

#include <jansson.h>

/*
 * Parses `size` bytes; duplicate keys and nesting beyond jansson's limit are
 * errors. `where` names the source in messages ("dir/config.json"). `*out` is a
 * new reference: json_decref.
 */
mx_status mx_json_parse(const char *text, size_t size, const char *where, json_t **out,
                        mx_error *err);
/* Reads a file of at most `limit` bytes and parses it. */
mx_status mx_json_load(const char *path, size_t limit, json_t **out, mx_error *err);

/*
 * Typed members of an object. A missing member (or null) yields `fallback` when
 * `required` is false, and an error otherwise; a wrong type or a value outside
 * [min, max] is always an error. Strings are borrowed from `object`.
 */
mx_status mx_json_get_int(const json_t *object, const char *key, const char *where, bool required,
                          int64_t fallback, int64_t min, int64_t max, int64_t *out, mx_error *err);
mx_status mx_json_get_real(const json_t *object, const char *key, const char *where, bool required,
                           double fallback, double *out, mx_error *err);
mx_status mx_json_get_bool(const json_t *object, const char *key, const char *where, bool required,
                           bool fallback, bool *out, mx_error *err);
mx_status mx_json_get_string(const json_t *object, const char *key, const char *where,
                             bool required, const char *fallback, const char **out, mx_error *err);

/* Serializes with two-space indentation and a final newline (indent 0: one
 * line, no newline), keys in insertion order, reals with 17 digits. `*out` is
 * malloc'd. */
mx_status mx_json_dump(const json_t *value, int indent, char **out, mx_error *err);

#endif

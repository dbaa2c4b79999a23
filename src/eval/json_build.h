/* Building JSON whose failures (out of memory) are checked once, at the end. */
#ifndef MX_EVAL_JSON_BUILD_H
#define MX_EVAL_JSON_BUILD_H

#include "base/json.h"

/* Sets a member, taking over `value`; `*failed` is set when either is NULL or
 * memory runs out. */
void mx_json_put(json_t *object, const char *key, json_t *value, bool *failed);
/* The same for arrays. */
void mx_json_push(json_t *array, json_t *value, bool *failed);

/* A string, null for NULL; bytes that are not UTF-8 (paths) become '?'. */
json_t *mx_json_text(const char *text);
/* A real; JSON has no Inf and NaN: they become null. */
json_t *mx_json_real(double value);

#endif

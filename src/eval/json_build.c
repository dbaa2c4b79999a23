/* Building JSON with one check at the end: jansson's "new" setters free a value that
 * they cannot place and take NULL for a failure, so a flag is all that is needed. */
#include "eval/json_build.h"

#include "base/str.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void mx_json_put(json_t *object, const char *key, json_t *value, bool *failed)
{
    if (json_object_set_new(object, key, value) != 0) {
        *failed = true;
    }
}

void mx_json_push(json_t *array, json_t *value, bool *failed)
{
    if (json_array_append_new(array, value) != 0) {
        *failed = true;
    }
}

json_t *mx_json_text(const char *text)
{
    if (text == NULL) {
        return json_null();
    }
    json_t *value = json_string(text);
    if (value != NULL) {
        return value;
    }
    /* Not UTF-8: keep what is ASCII. */
    char *plain = mx_str_copy(text, strlen(text));
    for (char *c = plain; plain != NULL && *c != '\0'; c++) {
        *c = (unsigned char)*c < 0x80 ? *c : '?';
    }
    value = plain != NULL ? json_string(plain) : NULL;
    free(plain);
    return value;
}

/* JSON has neither NaN nor Inf; json_real refuses them. */
json_t *mx_json_real(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

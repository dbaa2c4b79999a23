/* Any bytes as a GGUF file: an error, or tensors and metadata inside the file. */
#include "io/gguf.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint8_t sink;

static void touch(const void *data, size_t size)
{
    const uint8_t *bytes = data;
    for (size_t at = 0; at < size; at++) {
        sink = (uint8_t)(sink + bytes[at]);
    }
}

/* All getters: each must answer or refuse, whatever the key's type. */
static void read_key(const mx_gguf *gguf, const char *key)
{
    mx_gguf_string string;
    int64_t integer;
    double real;
    bool flag;
    size_t count;
    if (mx_gguf_get_string(gguf, key, true, &string, NULL) == MX_OK) {
        touch(string.data, string.length);
    }
    (void)mx_gguf_get_int(gguf, key, true, 0, INT64_MIN, INT64_MAX, &integer, NULL);
    (void)mx_gguf_get_real(gguf, key, true, 0, &real, NULL);
    (void)mx_gguf_get_bool(gguf, key, true, false, &flag, NULL);
    if (mx_gguf_get_array(gguf, key, true, &count, NULL) != MX_OK) {
        return;
    }
    for (size_t i = 0; i < count && i < 1000; i++) {
        if (mx_gguf_array_string(gguf, key, i, &string, NULL) == MX_OK) {
            touch(string.data, string.length);
        }
        (void)mx_gguf_array_int(gguf, key, i, &integer, NULL);
        (void)mx_gguf_array_real(gguf, key, i, &real, NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mx_gguf *gguf;
    mx_error error = {0};
    if (mx_gguf_parse(data, size, "fuzz", &gguf, &error) != MX_OK) {
        if (gguf != NULL || error.text[0] == '\0') {
            abort();
        }
        return 0;
    }
    for (size_t i = 0; i < mx_gguf_count(gguf); i++) {
        const mx_tensor *tensor = mx_gguf_at(gguf, i);
        if (mx_gguf_find(gguf, tensor->name) != tensor) {
            abort();
        }
        touch(tensor->data, (size_t)tensor->size);
    }
    for (size_t i = 0; i < mx_gguf_key_count(gguf) && i < 100; i++) {
        const mx_gguf_string key = mx_gguf_key_at(gguf, i);
        char *name = malloc(key.length + 1);
        if (name != NULL) {
            memcpy(name, key.data, key.length);
            name[key.length] = '\0';
            read_key(gguf, name);
            free(name);
        }
    }
    mx_gguf_close(gguf);
    return 0;
}

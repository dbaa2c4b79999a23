/* Any bytes as a safetensors file: an error, or tensors that lie inside the file. */
#include "io/safetensors.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mx_safetensors *reader;
    mx_error error = {0};
    if (mx_safetensors_parse(data, size, "fuzz", &reader, &error) != MX_OK) {
        if (reader != NULL || error.text[0] == '\0') {
            abort();
        }
        return 0;
    }
    volatile uint8_t sum = 0;
    for (size_t i = 0; i < mx_safetensors_count(reader); i++) {
        const mx_tensor *tensor = mx_safetensors_at(reader, i);
        if (mx_safetensors_find(reader, tensor->name) != tensor) {
            abort();
        }
        for (uint64_t at = 0; at < tensor->size; at++) {
            sum = (uint8_t)(sum + tensor->data[at]);
        }
    }
    (void)mx_safetensors_metadata(reader, "format");
    mx_safetensors_close(reader);
    return 0;
}

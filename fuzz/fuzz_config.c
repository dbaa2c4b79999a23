/* Any bytes as config.json: an error, or a config that can be written and read back
 * as itself; quantization_config along with it. */
#include "io/llama_layout.h"
#include "io/quark.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_config(const mx_llama_config *config)
{
    mx_llama_config again;
    json_t *root = NULL;
    if (mx_llama_config_to_json(config, &root, NULL) != MX_OK ||
        mx_llama_config_parse(root, "fuzz", &again, NULL) != MX_OK ||
        again.head_dim != config->head_dim || again.norm_eps != config->norm_eps ||
        again.rope.kind != config->rope.kind || again.rope.theta != config->rope.theta) {
        abort();
    }
    json_decref(root);
    mx_llama_tensor tensor, found;
    const size_t count = mx_llama_tensor_count(config);
    for (size_t i = 0; i < count; i += 1 + count / 64) {
        mx_llama_tensor_at(config, i, &tensor);
        if (!mx_llama_tensor_find(config, tensor.name, &found)) {
            abort();
        }
    }
}

static void check_contract(const json_t *object, const mx_llama_config *config)
{
    mx_specs specs, again;
    const char *method;
    mx_error error = {0};
    if (mx_quark_parse(object, config, "fuzz", &specs, &method, &error) != MX_OK) {
        if (error.text[0] == '\0') {
            abort();
        }
        return;
    }
    json_t *written;
    if (mx_quark_to_json(&specs, config, "rtn", &written, NULL) != MX_OK ||
        mx_quark_parse(written, config, "fuzz", &again, &method, &error) != MX_OK ||
        again.weights.format != specs.weights.format) {
        abort();
    }
    json_decref(written);
    mx_specs_clear(&again);
    mx_specs_clear(&specs);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *root;
    mx_llama_config config;
    mx_error error = {0};
    if (mx_json_parse((const char *)data, size, "fuzz", &root, &error) != MX_OK) {
        return 0;
    }
    if (mx_llama_config_parse(root, "fuzz", &config, &error) == MX_OK) {
        check_config(&config);
        /* Names of the modules of thousands of layers would only be slow here. */
        config.layers = config.layers > 8 ? 8 : config.layers;
        const json_t *object = json_object_get(root, "quantization_config");
        if (object != NULL) {
            check_contract(object, &config);
        }
    } else if (error.text[0] == '\0') {
        abort();
    }
    json_decref(root);
    return 0;
}

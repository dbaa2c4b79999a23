/* mx_model_inspect: what a checkpoint holds, as text or JSON. */
#include "base/str.h"
#include "model/model.h"

#include <string.h>

/* Tensors that differ only in their layer number are told in one line. */
typedef struct tensor_group {
    char name[128]; /* the layer number replaced by '*' */
    const mx_tensor *first;
    size_t count;
    uint64_t bytes;
} tensor_group;

enum { MAX_GROUPS = 64 };

static void group_name(const char *name, char *out, size_t size)
{
    static const char prefix[] = "model.layers.";
    size_t length = sizeof prefix - 1;
    if (strncmp(name, prefix, length) == 0) {
        const char *rest = name + length + strspn(name + length, "0123456789");
        snprintf(out, size, "%s*%s", prefix, rest);
    } else {
        snprintf(out, size, "%s", name);
    }
}

static bool same_kind(const mx_tensor *a, const mx_tensor *b)
{
    return a->dtype == b->dtype && a->n_dims == b->n_dims &&
           memcmp(a->shape, b->shape, (size_t)a->n_dims * sizeof a->shape[0]) == 0;
}

/* Groups in order of first appearance; returns how many. Tensors beyond the room
 * are counted in `*left_out`. */
static size_t group_tensors(const mx_model *model, tensor_group *groups, size_t *left_out)
{
    size_t n = 0;
    *left_out = 0;
    for (size_t i = 0; i < mx_checkpoint_count(model->checkpoint); i++) {
        const mx_tensor *tensor = mx_checkpoint_at(model->checkpoint, i);
        char name[sizeof groups->name];
        group_name(tensor->name, name, sizeof name);
        size_t g = 0;
        while (g < n &&
               !(strcmp(groups[g].name, name) == 0 && same_kind(groups[g].first, tensor))) {
            g++;
        }
        if (g == MAX_GROUPS) {
            ++*left_out;
            continue;
        }
        if (g == n) {
            groups[n++] = (tensor_group){.first = tensor};
            memcpy(groups[g].name, name, sizeof name);
        }
        groups[g].count++;
        groups[g].bytes += tensor->size;
    }
    return n;
}

static void add_shape(mx_str *out, const mx_tensor *tensor)
{
    mx_str_add(out, "[");
    for (int d = 0; d < tensor->n_dims; d++) {
        mx_str_addf(out, "%s%llu", d > 0 ? ", " : "", (unsigned long long)tensor->shape[d]);
    }
    mx_str_add(out, "]");
}

static const char *rope_name(mx_rope_kind kind)
{
    static const char *const names[] = {
        [MX_ROPE_DEFAULT] = "default",
        [MX_ROPE_LINEAR] = "linear",
        [MX_ROPE_LLAMA3] = "llama3",
        [MX_ROPE_FACTORS] = "factors",
    };
    return names[kind];
}

static void add_config_text(mx_str *out, const mx_model *model)
{
    const mx_llama_config *c = &model->config;
    mx_str_addf(out, "model        %s\n", mx_checkpoint_path(model->checkpoint));
    mx_str_addf(out, "container    %s\n",
                mx_checkpoint_is_gguf(model->checkpoint) ? "GGUF" : "Hugging Face directory");
    mx_str_addf(out, "architecture llama, %u layers, hidden %u, intermediate %u\n", c->layers,
                c->hidden, c->intermediate);
    mx_str_addf(out, "attention    %u heads, %u KV heads, head_dim %u%s\n", c->heads, c->kv_heads,
                c->head_dim, c->attention_bias ? ", biases" : "");
    mx_str_addf(out, "rope         %s, theta %g, context %u\n", rope_name(c->rope.kind),
                c->rope.theta, c->context);
    mx_str_addf(out, "vocabulary   %u, %s head\n", c->vocab, c->tied ? "tied" : "separate");
}

static void add_sizes_text(mx_str *out, const mx_model_size *size)
{
    mx_str_addf(out, "projections  %llu weights, %.3f MB (%.3f bits a weight; %.3f MB in fp32)\n",
                (unsigned long long)size->projection_weights, (double)size->projection_bytes / 1e6,
                8.0 * (double)size->projection_bytes / (double)size->projection_weights,
                (double)size->projection_bytes_fp32 / 1e6);
    mx_str_addf(out, "all weights  %.3f MB (%.3f MB in fp32)\n", (double)size->total_bytes / 1e6,
                (double)size->total_bytes_fp32 / 1e6);
    mx_str_addf(out, "activations  %.2f bits an element, %.0f bytes a token\n",
                size->activation_bits, size->activation_bytes_token);
}

static mx_status inspect_text(const mx_model *model, char **out, mx_error *err)
{
    mx_str text = {0};
    mx_model_size size;
    char *contract = NULL;
    MX_TRY(mx_specs_describe(&model->specs, &contract, err));
    mx_model_measure(model, &size);
    add_config_text(&text, model);
    mx_str_addf(&text, "numerics     %s\n", contract);
    mx_string_free(contract);
    add_sizes_text(&text, &size);
    tensor_group groups[MAX_GROUPS];
    size_t left_out, n = group_tensors(model, groups, &left_out);
    mx_str_addf(&text, "\n%-52s %5s %-8s %14s  %s\n", "tensor", "count", "type", "bytes", "shape");
    for (size_t g = 0; g < n; g++) {
        mx_str_addf(&text, "%-52s %5zu %-8s %14llu  ", groups[g].name, groups[g].count,
                    mx_dtype_get(groups[g].first->dtype)->name,
                    (unsigned long long)groups[g].bytes);
        add_shape(&text, groups[g].first);
        mx_str_add(&text, "\n");
    }
    if (left_out > 0) {
        mx_str_addf(&text, "(and %zu tensors of further kinds)\n", left_out);
    }
    return mx_str_take(&text, out, err);
}

static json_t *tensors_json(const mx_model *model)
{
    json_t *tensors = json_array();
    for (size_t i = 0; i < mx_checkpoint_count(model->checkpoint); i++) {
        const mx_tensor *tensor = mx_checkpoint_at(model->checkpoint, i);
        json_t *shape = json_array();
        for (int d = 0; d < tensor->n_dims; d++) {
            json_array_append_new(shape, json_integer((json_int_t)tensor->shape[d]));
        }
        json_array_append_new(tensors,
                              json_pack("{s:s, s:s, s:o, s:I}", "name", tensor->name, "dtype",
                                        mx_dtype_get(tensor->dtype)->name, "shape", shape, "bytes",
                                        (json_int_t)tensor->size));
    }
    return tensors;
}

static json_t *sizes_json(const mx_model_size *size)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f}", "projection_weights",
                     (json_int_t)size->projection_weights, "projection_bytes",
                     (json_int_t)size->projection_bytes, "projection_bytes_fp32",
                     (json_int_t)size->projection_bytes_fp32, "total_bytes",
                     (json_int_t)size->total_bytes, "total_bytes_fp32",
                     (json_int_t)size->total_bytes_fp32, "activation_bits", size->activation_bits,
                     "activation_bytes_token", size->activation_bytes_token,
                     "activation_bytes_token_fp32", size->activation_bytes_token_fp32);
}

static mx_status inspect_json(const mx_model *model, char **out, mx_error *err)
{
    json_t *config = NULL, *specs = NULL;
    mx_model_size size;
    mx_model_measure(model, &size);
    MX_TRY(mx_llama_config_to_json(&model->config, &config, err));
    mx_status status = mx_specs_to_json(&model->specs, &specs, err);
    if (status != MX_OK) {
        json_decref(config);
        return status;
    }
    json_t *root = json_pack(
        "{s:s, s:s, s:o, s:o, s:o, s:o}", "path", mx_checkpoint_path(model->checkpoint),
        "container", mx_checkpoint_is_gguf(model->checkpoint) ? "gguf" : "huggingface", "config",
        config, "specs", specs, "sizes", sizes_json(&size), "tensors", tensors_json(model));
    if (root == NULL) {
        return mx_error_nomem(err, "inspect", 0);
    }
    status = mx_json_dump(root, 2, out, err);
    json_decref(root);
    return status;
}

mx_status mx_model_inspect(const mx_model *model, bool json, char **out, mx_error *err)
{
    *out = NULL;
    return json ? inspect_json(model, out, err) : inspect_text(model, out, err);
}

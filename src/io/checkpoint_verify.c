/* Tensors against the config: names, shapes, types, packed codes and scales. */
#include "io/checkpoint_impl.h"

#include <stdio.h>
#include <string.h>

/* Sizes of the config are taken as right: it is what the model is built from. */
static mx_status shape_error(const mx_tensor *tensor, uint64_t rows, uint64_t cols, mx_error *err)
{
    return mx_error_set(err, MX_ERR_FORMAT,
                        "%s: tensor %s: shape: must be [%llu, %llu] by the config", tensor->file,
                        tensor->name, (unsigned long long)rows, (unsigned long long)cols);
}

static bool is_matrix(const mx_tensor *tensor, uint64_t rows, uint64_t cols)
{
    return tensor->n_dims == 2 && tensor->shape[0] == rows && tensor->shape[1] == cols;
}

/* A tensor of ordinary elements. The type comes first: packed codes in a directory
 * that does not say so would only look like a wrong shape. */
static mx_status check_plain(const mx_tensor *tensor, const mx_llama_tensor *layout, mx_error *err)
{
    if (mx_dtype_get(tensor->dtype)->decode == NULL) {
        return mx_error_set(err, MX_ERR_UNSUPPORTED, "%s: tensor %s: type %s cannot be weights%s",
                            tensor->file, tensor->name, tensor->type_name,
                            layout->projection ? " here (codes without quantization_config?)" : "");
    }
    if (layout->n_dims == 1 && (tensor->n_dims != 1 || tensor->shape[0] != layout->shape[0])) {
        return mx_error_set(err, MX_ERR_FORMAT,
                            "%s: tensor %s: shape: must be [%llu] by the config", tensor->file,
                            tensor->name, (unsigned long long)layout->shape[0]);
    }
    if (layout->n_dims == 2 && !is_matrix(tensor, layout->shape[0], layout->shape[1])) {
        return shape_error(tensor, layout->shape[0], layout->shape[1], err);
    }
    return MX_OK;
}

/* Bytes are bytes: 8-bit codes and scales may be stored under their own types. */
static bool holds_codes(const mx_quant *quant, mx_dtype dtype)
{
    static const struct {
        const char *format;
        mx_dtype dtype;
    } own_types[] = {
        {"fp8_e4m3", MX_DTYPE_F8_E4M3}, {"fp8_e5m2", MX_DTYPE_F8_E5M2}, {"int8", MX_DTYPE_I8}};
    for (size_t i = 0; i < MX_COUNT(own_types); i++) {
        if (dtype == own_types[i].dtype && strcmp(quant->format->name, own_types[i].format) == 0) {
            return true;
        }
    }
    return dtype == MX_DTYPE_U8;
}

/* Codes [out][code bytes] and scales [out][blocks]; users then see U8 for both. */
static mx_status check_packed(mx_checkpoint *checkpoint, mx_tensor *codes, const mx_quant *quant,
                              const mx_llama_tensor *layout, mx_error *err)
{
    const uint64_t rows = layout->shape[0], cols = layout->shape[1];
    const size_t code_bytes = mx_row_code_bytes(quant, cols);
    const size_t n_scales = mx_row_scale_count(quant, cols);
    char name[MX_LLAMA_NAME_SIZE + 8];
    snprintf(name, sizeof name, "%s_scale", codes->name);
    if (!holds_codes(quant, codes->dtype)) {
        return mx_error_set(err, MX_ERR_FORMAT,
                            "%s: tensor %s: type %s, but quantization_config wants %s codes in U8",
                            codes->file, codes->name, codes->type_name, quant->format->name);
    }
    if (!is_matrix(codes, rows, code_bytes)) {
        return shape_error(codes, rows, code_bytes, err);
    }
    /* The set is ours: only lookups give it out as constant. */
    mx_tensor *scales = (mx_tensor *)(uintptr_t)mx_tensor_set_find(&checkpoint->tensors, name);
    if (scales == NULL) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: tensor %s: missing", codes->file, name);
    }
    if (scales->dtype != MX_DTYPE_U8 && scales->dtype != MX_DTYPE_F8_E8M0) {
        return mx_error_set(err, MX_ERR_FORMAT, "%s: tensor %s: type %s, must be U8 (E8M0)",
                            scales->file, name, scales->type_name);
    }
    if (!is_matrix(scales, rows, n_scales)) {
        return shape_error(scales, rows, n_scales, err);
    }
    codes->dtype = scales->dtype = MX_DTYPE_U8;
    return MX_OK;
}

/* The format of a weight that the contract says is packed; NULL: it is not. */
static const mx_quant *packed_quant(const mx_checkpoint *checkpoint, const char *name)
{
    return checkpoint->quantized
               ? mx_llama_weight_quant(&checkpoint->config, &checkpoint->specs, name)
               : NULL;
}

/* True for "X.weight_scale" of a packed X.weight. */
static bool is_scale_of_packed(const mx_checkpoint *checkpoint, const char *name)
{
    static const char suffix[] = "_scale";
    char weight[MX_LLAMA_NAME_SIZE];
    const size_t length = strlen(name), tail = sizeof suffix - 1;
    if (length <= tail || length - tail >= sizeof weight ||
        strcmp(name + length - tail, suffix) != 0) {
        return false;
    }
    memcpy(weight, name, length - tail);
    weight[length - tail] = '\0';
    return packed_quant(checkpoint, weight) != NULL;
}

/* Known names by their layout, scales with their codes, anything else is refused. */
static mx_status check_tensor(mx_checkpoint *checkpoint, mx_tensor *tensor, mx_error *err)
{
    mx_llama_tensor layout;
    if (mx_llama_tensor_find(&checkpoint->config, tensor->name, &layout)) {
        const mx_quant *quant = packed_quant(checkpoint, tensor->name);
        return quant != NULL ? check_packed(checkpoint, tensor, quant, &layout, err)
                             : check_plain(tensor, &layout, err);
    }
    if (is_scale_of_packed(checkpoint, tensor->name)) {
        return MX_OK; /* checked with its codes */
    }
    return mx_error_set(err, MX_ERR_UNSUPPORTED,
                        "%s: tensor %s: a Llama model of this config has no such tensor",
                        tensor->file, tensor->name);
}

mx_status mx_checkpoint_verify(mx_checkpoint *checkpoint, mx_error *err)
{
    for (size_t i = 0; i < checkpoint->tensors.count; i++) {
        MX_TRY(check_tensor(checkpoint, &checkpoint->tensors.items[i], err));
    }
    /* And the other way: everything that the config asks for. */
    const size_t needed = mx_llama_tensor_count(&checkpoint->config);
    for (size_t i = 0; i < needed; i++) {
        mx_llama_tensor layout;
        mx_llama_tensor_at(&checkpoint->config, i, &layout);
        if (!layout.optional && mx_checkpoint_find(checkpoint, layout.name) == NULL) {
            return mx_error_set(err, MX_ERR_FORMAT, "%s: tensor %s: missing", checkpoint->path,
                                layout.name);
        }
    }
    return MX_OK;
}

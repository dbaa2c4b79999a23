#include "quant/quantize_plan.h"

#include "base/str.h"
#include "io/llama_layout.h"

#include <stdlib.h>
#include <string.h>

/* The storage type of a PLAIN weight format. */
static mx_dtype plain_dtype(const mx_format *format)
{
    if (format->bits == 32) {
        return MX_DTYPE_F32;
    }
    return format->exponent_bits == 5 ? MX_DTYPE_F16 : MX_DTYPE_BF16;
}

static mx_tensor_plan *add_tensor(mx_quantize_plan *plan, const char *name, mx_dtype dtype,
                                  uint64_t rows, uint64_t cols)
{
    mx_tensor_plan *tensor = &plan->tensors[plan->n_tensors++];
    *tensor = (mx_tensor_plan){.name = name, .dtype = dtype, .n_dims = 2, .shape = {rows, cols}};
    return tensor;
}

/* X.weight [out][code bytes] and X.weight_scale [out][blocks], both U8. */
static mx_status add_packed(mx_quantize_plan *plan, mx_quantize_item *item, mx_error *err)
{
    const mx_quant *quant = item->quant;
    const mx_tensor *source = item->rows.tensor;
    mx_str name = {0};
    mx_str_addf(&name, "%s_scale", source->name);
    char **scale_name = &plan->scale_names[plan->n_items];
    MX_TRY(mx_str_take(&name, scale_name, err));
    size_t code_bytes = mx_row_code_bytes(quant, item->rows.n_cols);
    size_t scales = mx_row_scale_count(quant, item->rows.n_cols);
    add_tensor(plan, source->name, MX_DTYPE_U8, item->rows.n_rows, code_bytes);
    add_tensor(plan, *scale_name, MX_DTYPE_U8, item->rows.n_rows, scales);
    item->bytes_out = item->rows.n_rows * (code_bytes + scales);
    return MX_OK;
}

/* A tensor that keeps its shape under another type. */
static void add_plain(mx_quantize_plan *plan, mx_quantize_item *item, mx_dtype dtype)
{
    const mx_tensor *source = item->rows.tensor;
    mx_tensor_plan *tensor = add_tensor(plan, source->name, dtype, 0, 0);
    tensor->n_dims = source->n_dims;
    memcpy(tensor->shape, source->shape, sizeof tensor->shape);
    item->bytes_out = mx_tensor_count(source) * mx_dtype_get(dtype)->block_bytes;
}

static mx_status add_item(mx_quantize_plan *plan, const mx_checkpoint *checkpoint,
                          const mx_tensor *tensor, const mx_specs *specs, mx_team *team,
                          mx_error *err)
{
    mx_quantize_item *item = &plan->items[plan->n_items];
    MX_TRY(mx_checkpoint_rows(checkpoint, tensor->name, &item->rows, err));
    item->quant = mx_llama_weight_quant(mx_checkpoint_config(checkpoint), specs, tensor->name);
    plan->n_excluded += mx_projection_is(tensor->name) && item->quant == NULL;
    item->plan = plan->n_tensors;
    if (item->quant != NULL && mx_quant_is_scaled(item->quant)) {
        item->action = MX_ITEM_PACK;
        MX_TRY(add_packed(plan, item, err));
    } else if (item->quant != NULL) {
        item->action = MX_ITEM_CAST;
        add_plain(plan, item, plain_dtype(item->quant->format));
    } else if (mx_dtype_get(tensor->dtype)->block == 1) {
        item->action = MX_ITEM_COPY;
        add_plain(plan, item, tensor->dtype);
    } else {
        mx_dtype dtype;
        item->action = MX_ITEM_EXPAND;
        MX_TRY(mx_expand_dtype(&item->rows, team, &dtype, err));
        mx_checkpoint_drop(checkpoint, tensor);
        add_plain(plan, item, dtype);
    }
    plan->bytes_in += tensor->size;
    plan->n_items++;
    return MX_OK;
}

mx_status mx_quantize_plan_init(mx_quantize_plan *plan, const mx_checkpoint *checkpoint,
                                const mx_specs *specs, mx_team *team, mx_error *err)
{
    *plan = (mx_quantize_plan){0};
    size_t count = mx_checkpoint_count(checkpoint);
    mx_status status = MX_OK;
    plan->items = calloc(count + 1, sizeof *plan->items);
    plan->tensors = calloc(2 * count + 1, sizeof *plan->tensors);
    plan->scale_names = calloc(count + 1, sizeof *plan->scale_names);
    if (plan->items == NULL || plan->tensors == NULL || plan->scale_names == NULL) {
        status = mx_error_nomem(err, "quantize", count * sizeof *plan->tensors);
        goto done;
    }
    for (size_t i = 0; i < count; i++) {
        const mx_tensor *tensor = mx_checkpoint_at(checkpoint, i);
        /* A tied model's head is its embedding; a copy would only take room. */
        if (mx_checkpoint_config(checkpoint)->tied && strcmp(tensor->name, "lm_head.weight") == 0) {
            continue;
        }
        MX_TRY_GOTO(status, add_item(plan, checkpoint, tensor, specs, team, err));
    }
done:
    if (status != MX_OK) {
        mx_quantize_plan_clear(plan);
    }
    return status;
}

void mx_quantize_plan_clear(mx_quantize_plan *plan)
{
    /* One more than n_items: an item may fail after its name was made. */
    for (size_t i = 0; plan->scale_names != NULL && i <= plan->n_items; i++) {
        free(plan->scale_names[i]);
    }
    free(plan->scale_names);
    free(plan->tensors);
    free(plan->items);
    *plan = (mx_quantize_plan){0};
}

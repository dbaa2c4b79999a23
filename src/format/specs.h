/*
 * mx_specs: the settings object behind the public header, and microxcaling's
 * MxSpecs keys (mx/specs.py) read onto it.
 */
#ifndef MX_FORMAT_SPECS_H
#define MX_FORMAT_SPECS_H

#include "base/json.h"
#include "format/block.h"

#define MX_SPECS_MAX_EXCLUDES 64

struct mx_specs {
    mx_quant weights;     /* format NULL: unquantized */
    mx_quant activations; /* format NULL: unquantized */
    char *excludes[MX_SPECS_MAX_EXCLUDES]; /* owned globs over module names */
    size_t n_excludes;
    bool want_cuda; /* custom_cuda was set */
    /* microxcaling's element-wise pre-rounding of inputs and outputs (bfloat /
     * fp width); format NULL: none. Refused unless implemented. */
};

/* True when a projection named like "model.layers.3.self_attn.q_proj" is
 * excluded: a glob (fnmatch) matches its full name or its last component. */
bool mx_specs_excludes(const mx_specs *specs, const char *module);

/*
 * The numeric contract as a JSON object, recorded in checkpoints and results,
 * and its strict reader (unknown fields and unknown values are errors):
 * {"weights": {"format", "block", "scale_rule", "round", "flush_subnormals",
 *  "seed"}, "activations": {...} or null, "exclude": [...]}.
 */
mx_status mx_specs_to_json(const mx_specs *specs, json_t **out, mx_error *err);
mx_status mx_specs_from_json(const json_t *object, const char *where, mx_specs *out, mx_error *err);

/* Frees what a mx_specs by value owns and zeroes it. */
void mx_specs_clear(mx_specs *specs);
mx_status mx_specs_copy(const mx_specs *from, mx_specs *to, mx_error *err);

#endif

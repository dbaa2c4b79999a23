/*
 * mx_specs: the settings object behind the public header, its JSON contract, and
 * microxcaling's MxSpecs keys (mx/specs.py) read onto it.
 */
#ifndef MX_FORMAT_SPECS_H
#define MX_FORMAT_SPECS_H

#include "base/json.h"
#include "format/block.h"

#define MX_SPECS_MAX_EXCLUDES 64

/* Stars in one glob, of the command line and of files. fnmatch tries every way to
 * spread a name over them, so a name of n letters costs n^stars. */
#define MX_GLOB_MAX_STARS 4

/* False for a glob with more than MX_GLOB_MAX_STARS stars. */
bool mx_glob_is_cheap(const char *glob);

/* Unquantized, block 32, scale rule floor, round nearest (microxcaling's default),
 * seed 0: all operands of a fresh mx_specs. */
mx_quant mx_quant_default(void);

struct mx_specs {
    mx_quant weights;     /* format NULL: unquantized */
    mx_quant activations; /* format NULL: unquantized */
    /* The output head and, when tied, the embedding; format NULL: unquantized. Its
     * input goes by `activations`. */
    mx_quant head;
    char *excludes[MX_SPECS_MAX_EXCLUDES]; /* owned globs over module names, all cheap */
    size_t n_excludes;
    bool want_cuda; /* custom_cuda was set; not part of the numeric contract */
    /* activation_scale_rule was set: scale_rule leaves the activations' alone,
     * whichever comes first. */
    bool activation_rule_set;
};

/* True when a projection named like "model.layers.3.self_attn.q_proj" is
 * excluded: a glob (fnmatch) matches its full name or its last component. */
bool mx_specs_excludes(const mx_specs *specs, const char *module);

/*
 * The numeric contract as a JSON object, recorded in checkpoints and results,
 * and its strict reader (every field is required; unknown fields and unknown
 * values are errors):
 * {"weights": {"format", "block", "scale_rule", "round", "flush_subnormals",
 *  "seed"} or null, "activations": {...} or null, "exclude": [...], "head": {...}}.
 * "head" is left out when unquantized, as in files older than it. "block" 0 is the whole axis;
 * "seed" is below 2^63. `out` needs no initialization; it is cleared when reading fails.
 */
mx_status mx_specs_to_json(const mx_specs *specs, json_t **out, mx_error *err);
mx_status mx_specs_from_json(const json_t *object, const char *where, mx_specs *out, mx_error *err);

/*
 * mx_specs_load for a parsed object; `where` names the source in messages.
 *
 * The object is the dict that a user hands to finalize_mx_specs. What acts on
 * the forward pass of mx.Linear (mx/linear.py):
 *   w_elem_format, a_elem_format   element formats; null: unquantized. float16
 *       and bfloat16 under a shared scale are not implemented.
 *   round_mx_output    rounding of both operands; missing or null: `round`
 *       (finalize_mx_specs). Given both, `round` has no effect: the note says so.
 *   block_size         0, the default: the whole axis
 *   shared_exp_method  "max", or "none": a block of one element
 *   scale_bits         8, or 0, which means 8
 *   mx_flush_fp32_subnorms, custom_cuda (sets want_cuda)
 * bfloat and fp (element-wise rounding of inputs and outputs) must be off;
 * round_weight, round_output and bfloat_subnorms act through them alone.
 * softmax_exp2, vec_use_exp2 and vec_use_recip must be off.
 * Checked, and without effect on inference: quantize_backprop, every *_bp*
 * format, round_m, round_grad_* and round_mx_*_grad_*.
 *
 * Excludes, the seed, the head's format and the scale rules, for which MxSpecs has
 * no key, stay as they are; every other setting is replaced, a missing key by its default. Wrong
 * types are MX_ERR_FORMAT, unknown keys and values MX_ERR_ARGUMENT, what is not
 * implemented MX_ERR_UNSUPPORTED; `specs` is unchanged then.
 */
mx_status mx_specs_load_json(mx_specs *specs, const json_t *object, const char *where, char **note,
                             mx_error *err);

/* Frees what a mx_specs by value owns and zeroes it. */
void mx_specs_clear(mx_specs *specs);
/* A deep copy; `to` needs no initialization and is zeroed on failure. */
mx_status mx_specs_copy(const mx_specs *from, mx_specs *to, mx_error *err);

#endif

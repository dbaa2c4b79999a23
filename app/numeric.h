/* The options that say what is quantized and how, shared by the verbs that take
 * them, and the mx_specs they stand for. */
#ifndef APP_NUMERIC_H
#define APP_NUMERIC_H

#include "app.h"

typedef struct app_numeric {
    const char *specs_path;
    const char *weights, *activations, *head, *block;
    const char *scale_rule, *activation_scale_rule;
    const char *round, *seed;
    app_list excludes;
} app_numeric;

/* Rows of an option table. `n` is an app_numeric; the defaults are texts for the
 * help. */
#define APP_TEXT_ROW(name, target, value, help) APP_ROW(name, APP_TEXT, target, value, help)
#define APP_ROW(name, kind, target, value, help)                                                   \
    {                                                                                              \
        name, 0, kind, target, value, help                                                         \
    }
#define APP_BLOCK_ROW(n)                                                                           \
    APP_TEXT_ROW("block", &(n).block, "N",                                                         \
                 "elements that share a scale: a multiple of 8, or \"axis\"\n"                     \
                 "for the whole axis (32)")
#define APP_SCALE_RULE_ROW(n)                                                                      \
    APP_TEXT_ROW("scale-rule", &(n).scale_rule, "RULE",                                            \
                 "shared exponent: floor, even, rceil or ceil (floor)")
#define APP_ROUND_ROW(n)                                                                           \
    APP_TEXT_ROW("round", &(n).round, "MODE",                                                      \
                 "element rounding: nearest (ties away from zero), even,\n"                        \
                 "floor or dither (nearest)")
#define APP_SEED_ROW(n) APP_TEXT_ROW("seed", &(n).seed, "N", "seed of --round dither (0)")

#define APP_KV_ROW(at)                                                                             \
    APP_TEXT_ROW("kv", at, "FORMAT",                                                               \
                 "keep keys and values, and multiply in attention, as\n"                           \
                 "fp32 (the default) or bf16")

/* Everything but the seed, whose name `generate` needs for sampling. */
#define APP_NUMERIC_ROWS(n, weights_default, activations_default)                                  \
    APP_TEXT_ROW("weights", &(n).weights, "FORMAT",                                                \
                 "format of the projections' weights (" weights_default ");\n"                     \
                 "\"mxlm formats\" lists them, fp32 leaves them as they are"),                     \
        APP_TEXT_ROW("activations", &(n).activations, "FORMAT",                                    \
                     "format of the projections' inputs (" activations_default ")"),               \
        APP_TEXT_ROW("head", &(n).head, "FORMAT",                                                  \
                     "format of the output head and, when tied, of the embedding\n"                \
                     "(unquantized); its input goes by --activations"),                            \
        APP_BLOCK_ROW(n), APP_SCALE_RULE_ROW(n),                                                   \
        APP_TEXT_ROW("activation-scale-rule", &(n).activation_scale_rule, "RULE",                  \
                     "the same for activations alone"),                                            \
        APP_ROUND_ROW(n),                                                                          \
        APP_ROW("exclude", APP_LIST, &(n).excludes, "GLOB",                                        \
                "leave projections whose module name matches, for example\n"                       \
                "'model.layers.0.*' or down_proj; at most 4 stars; may be repeated"),              \
        APP_TEXT_ROW("specs", &(n).specs_path, "FILE.json",                                        \
                     "read microxcaling's MxSpecs; other options override it")

/* True when the options ask for any quantization. */
bool app_numeric_wanted(const app_numeric *numeric);

/*
 * The settings: --specs first, then the options. Usage error when options only
 * make sense with a format and none is given. Prints errors and returns an exit
 * code, or APP_GO with `*out` for mx_specs_free.
 */
int app_numeric_specs(const app_command *command, const app_numeric *numeric, mx_specs **out);

void app_numeric_clear(app_numeric *numeric);

#endif

/* What mx_quantize_run does with each tensor; internal to quantize*.c. */
#ifndef MX_QUANT_QUANTIZE_PLAN_H
#define MX_QUANT_QUANTIZE_PLAN_H

#include "io/export.h"
#include "quant/method.h"
#include "quant/quantize.h"

/* Defaults of calibration and of its methods. */
#define MX_CALIB_SAMPLES 256u
#define MX_CALIB_LENGTH 512u
#define MX_METHOD_DAMP 0.01
#define MX_METHOD_PASSES 6 /* of descent; each saves less than the one before */
#define MX_METHOD_ITERATIONS 100u

typedef enum mx_item_action {
    MX_ITEM_COPY,   /* bytes as stored, GGUF's row permutation undone */
    MX_ITEM_EXPAND, /* a GGUF block type, stored in a plain type that holds it exactly */
    MX_ITEM_CAST,   /* a projection rounded to bf16 / fp16 / fp32 */
    MX_ITEM_PACK,   /* a projection or the head as MX codes and scales: two tensors */
} mx_item_action;

/* One source tensor. */
typedef struct mx_quantize_item {
    mx_rows rows;
    mx_item_action action;
    const mx_quant *quant; /* CAST, PACK: of the settings, borrowed; else NULL */
    size_t plan;           /* its tensor among the plans; PACK: the next is its scales */
    uint64_t bytes_out;    /* of its one or two tensors */
} mx_quantize_item;

typedef struct mx_quantize_plan {
    mx_quantize_item *items; /* [n_items], owned */
    size_t n_items;
    mx_tensor_plan *tensors; /* [n_tensors], owned: what the export declares */
    size_t n_tensors;
    char **scale_names; /* [n_items], owned; NULL but for PACK */
    uint64_t bytes_in;  /* of all items, as stored */
    size_t n_excluded;  /* projections left as they are */
} mx_quantize_plan;

/*
 * Decides every tensor's action and output type, reading the values of GGUF
 * block tensors that are kept (to find the smallest plain type that holds them).
 */
mx_status mx_quantize_plan_init(mx_quantize_plan *plan, const mx_checkpoint *checkpoint,
                                const mx_specs *specs, mx_team *team, mx_error *err);
void mx_quantize_plan_clear(mx_quantize_plan *plan);

/* The narrowest of BF16, F16, F32 that holds every value of a block-type tensor
 * exactly. */
mx_status mx_expand_dtype(const mx_rows *rows, mx_team *team, mx_dtype *out, mx_error *err);

/*
 * Model rows [begin, end) of a block-type tensor as plain elements of `dtype`,
 * into out [end - begin][n_cols].
 */
mx_status mx_expand_rows(const mx_rows *rows, size_t begin, size_t end, mx_dtype dtype,
                         mx_team *team, uint8_t *out, mx_error *err);

/* tokenizer.json and the like: copied from a directory, made from a GGUF file. */
mx_status mx_quantize_write_tokenizer(const mx_checkpoint *checkpoint, mx_export *export,
                                      mx_error *err);
/* config.json: the source's, with quantization_config when weights are MX. `method`
 * is a name, or an object of the name and its parameters. */
mx_status mx_quantize_write_config(const mx_checkpoint *checkpoint, const mx_specs *specs,
                                   const json_t *method, mx_export *export, mx_error *err);

/* What decides the output: source files, calibration text, specs, method; a run is resumed only
 * when they are equal. New reference. */
mx_status mx_quantize_settings(const mx_checkpoint *checkpoint, const mx_specs *specs,
                               const json_t *method, const char *calib_path, json_t **out,
                               mx_error *err);

/* The method's settings, defaults filled in; and the record of method, settings and
 * calibration: a string for rtn, an object {"name", ...} else. New reference. */
mx_method_settings mx_quantize_method_settings(const mx_quantize_options *options);
mx_status mx_quantize_method_json(const mx_method *method, const mx_quantize_options *options,
                                  json_t **out, mx_error *err);

/* Cost and gain of a run, for the summary. */
typedef struct mx_quantize_stats {
    size_t n_projections;
    uint64_t weights;              /* of them */
    uint64_t projection_bytes_in;  /* as stored */
    uint64_t projection_bytes_out; /* codes and scales */
    double signal, noise;          /* over all of them */
    double lowest_sqnr;            /* in dB */
    const char *lowest_name;       /* the projection that has it; NULL: none was noisy */
    uint64_t head_weights;         /* 0: not quantized */
    uint64_t head_bytes_in, head_bytes_out;
    double head_signal, head_noise;
    size_t n_resumed;      /* tensors taken over from an interrupted run */
    const char *method;    /* "rtn" */
    char calibration[256]; /* one line on what it saw; "" for rtn */
    double seconds;
} mx_quantize_stats;

mx_status mx_quantize_report(const mx_quantize_plan *plan, const mx_quantize_stats *stats,
                             const mx_specs *specs, const mx_export *export, const char *out_dir,
                             char **out, mx_error *err);

#endif

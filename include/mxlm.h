/*
 * mxlm: run, quantize and evaluate Llama-architecture language models in OCP
 * Microscaling (MX) formats, with real packed arithmetic.
 *
 * This is the only public header. Rules that hold for every function:
 *  - Objects are opaque. What `mx_X_open` / `mx_X_create` returns is freed by
 *    `mx_X_close` / `mx_X_free`, which accept NULL.
 *  - A function that can fail returns mx_status and takes a caller-owned
 *    `mx_error *err` (may be NULL). On failure every out-parameter is left NULL
 *    or zero and nothing is leaked; `err->text` is one line that names the file
 *    and the field.
 *  - A `char **` out-parameter receives a NUL-terminated UTF-8 string that the
 *    caller frees with mx_string_free.
 *  - Paths are NUL-terminated and in the file system's encoding.
 *  - No function prints, exits or changes global state. An object may be used
 *    by one thread at a time; distinct objects are independent.
 */
#ifndef MXLM_H
#define MXLM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MX_VERSION "0.1.0"

/* ---- status and errors -------------------------------------------------- */

typedef enum mx_status {
    MX_OK = 0,
    MX_ERR_IO,          /* the operating system refused: open, read, write, map */
    MX_ERR_FORMAT,      /* outside data breaks the rules of its format */
    MX_ERR_UNSUPPORTED, /* well-formed, but mxlm does not do it */
    MX_ERR_ARGUMENT,    /* the caller's request is wrong */
    MX_ERR_NOMEM,       /* out of memory */
    MX_ERR_CANCELLED,   /* a progress callback asked to stop */
} mx_status;

typedef struct mx_error {
    mx_status status;
    char text[512];
} mx_error;

const char *mx_version(void);

/* Name of a status for messages, for example "invalid data". Never NULL. */
const char *mx_status_name(mx_status status);

void mx_string_free(char *text);

/* ---- progress of long work ---------------------------------------------- */

typedef struct mx_progress {
    const char *stage;     /* what is being done, for example "quantize" */
    const char *unit;      /* what `done` counts, for example "documents" */
    uint64_t done;         /* units finished */
    uint64_t total;        /* units in all, 0 when unknown */
    uint64_t work_done;    /* finer work measure (tokens, bytes), 0 when unused */
    uint64_t work_total;   /* 0 when unknown or unused */
    const char *work_unit; /* "tokens", "bytes", or NULL */
    double seconds;        /* since the stage began */
} mx_progress;

/* Called now and then from the calling thread. Returning false stops the work
 * cleanly: finished parts stay usable and the function returns
 * MX_ERR_CANCELLED. */
typedef bool (*mx_progress_fn)(void *ctx, const mx_progress *progress);

typedef struct mx_watch {
    mx_progress_fn fn; /* may be NULL: nobody watches, never cancelled */
    void *ctx;
} mx_watch;

/* ---- numeric settings ---------------------------------------------------- */

/*
 * What is quantized and how: weight format, activation format, block size,
 * scale rule, rounding, exclusions. A fresh object says "unquantized".
 */
typedef struct mx_specs mx_specs;

mx_status mx_specs_create(mx_specs **out, mx_error *err);
void mx_specs_free(mx_specs *specs);

/*
 * Sets one key. Keys and values, as on the command line:
 *   weights, activations  a format name ("mxfp4_e2m1", "fp4_e2m1", "int8",
 *                         "bf16", "fp16", "fp32" = unquantized)
 *   head                  the same for the output head and, when tied, the embedding;
 *                         a format with shared scales, or "fp32" = unquantized. Its
 *                         input goes by `activations`
 *   block                 elements that share a scale: 32, 16, any multiple of
 *                         8, or "axis" for the whole axis
 *   scale_rule            floor | even | rceil | ceil
 *   activation_scale_rule the same, for activations alone
 *   round                 nearest | even | floor | dither
 *   seed                  64-bit seed of `dither`
 *   exclude               a glob over module names; may be set repeatedly
 * Unknown keys and values are MX_ERR_ARGUMENT.
 */
mx_status mx_specs_set(mx_specs *specs, const char *key, const char *value, mx_error *err);

/*
 * Reads microxcaling's MxSpecs (a JSON object with its keys) over the present
 * settings, with its defaults and dependency rules (finalize_mx_specs). An
 * option that mxlm does not implement is MX_ERR_UNSUPPORTED and names the key.
 * `*note`, when not NULL, receives an informative line or NULL (for example
 * that custom_cuda falls back to the CPU backend here).
 */
mx_status mx_specs_load(mx_specs *specs, const char *path, char **note, mx_error *err);

/* One line, for example "W mxfp4_e2m1 / A mxfp6_e2m3, block 32, floor, even". */
mx_status mx_specs_describe(const mx_specs *specs, char **out, mx_error *err);

/* The table of formats, scale rules and roundings (mxlm formats). */
mx_status mx_formats_table(bool json, char **out, mx_error *err);

/* ---- models -------------------------------------------------------------- */

typedef struct mx_model mx_model;

/*
 * Opens a Hugging Face directory (config.json, safetensors, tokenizer.json) or
 * a GGUF file; a directory written by mx_quantize_run opens with its recorded
 * numeric contract. Weights stay mapped. `threads` 0 means all cores that the
 * process may use.
 */
mx_status mx_model_open(const char *path, int threads, mx_model **out, mx_error *err);
void mx_model_close(mx_model *model);

/*
 * Applies `specs` in memory: weights and head where the model's are unquantized,
 * activations in any case. Bit-identical to mx_quantize_run followed by mx_model_open.
 * Quantizing already quantized weights is MX_ERR_ARGUMENT.
 */
mx_status mx_model_apply(mx_model *model, const mx_specs *specs, mx_watch watch, mx_error *err);

/*
 * How evaluation and generation store keys and values from now on: "fp32" (as
 * opened) or "bf16", half the memory, each rounded to the nearest bf16. Another name
 * is MX_ERR_ARGUMENT.
 */
mx_status mx_model_set_kv(mx_model *model, const char *kv, mx_error *err);

/* Config, tensors, formats, sizes (mxlm inspect), as text or JSON. */
mx_status mx_model_inspect(const mx_model *model, bool json, char **out, mx_error *err);

typedef struct mx_errors_options {
    const char *calib_path; /* any UTF-8 text file; NULL: weights alone */
    uint32_t calib_samples; /* windows, 0 = 8 */
    uint32_t calib_length;  /* tokens of a window, 0 = 512 */
    uint64_t seed;          /* of the choice of windows */
} mx_errors_options;

/*
 * Where `quantized` departs from `base` (mxlm inspect --error), layer by layer: SQNR of
 * every projection's weights; with text also the relative error of its outputs on the
 * base's inputs, and of each layer's output behind quantized layers. Both models of one
 * shape, fresh from mx_model_open. As text or JSON.
 */
mx_status mx_model_errors(mx_model *base, mx_model *quantized, const mx_errors_options *options,
                          mx_watch watch, bool json, char **out, mx_error *err);

/* ---- quantize ------------------------------------------------------------ */

typedef struct mx_quantize_options {
    bool resume;    /* continue an interrupted run of the same settings */
    bool overwrite; /* replace a finished output directory */
    int threads;    /* 0: all */
    /*
     * How codes are chosen; all but "rtn" run calibration text through the model:
     *   rtn     round to nearest, each weight alone (NULL means this)
     *   search  each block takes, of the scale rule's exponent and its neighbours,
     *           the one with the least error of the output, as the inputs' second
     *           moments tell it
     *   gptq    errors of rounding are made up for by the other weights of the row,
     *           to the same measure
     *   blockwise  from gptq's codes on, rounding is learned layer by layer: gradient
     *           steps on the error of the layer's output, on part of the windows
     * What is written is the same layout for all of them.
     */
    const char *method;
    const char *calib_path; /* any UTF-8 text file; NULL: text sampled from the model */
    uint32_t calib_samples; /* windows, 0 = 256 */
    uint32_t calib_length;  /* tokens of a window, 0 = 512 */
    uint64_t seed;          /* of the choice of windows and of sampled text */
    float damp;             /* added to the second moments' diagonal, as a share of its
                               mean; 0 = the default */
    float correct;          /* gptq, blockwise: share of the error of the layers before it
                               that a weight makes up for, in [0, 1]: it is fitted to the
                               unquantized model's outputs as well as to its own */
    uint32_t search_range;  /* exponents tried beside the rule's, each way; 0 = 1 */
    uint32_t iterations;    /* blockwise: steps of training a layer; 0 = 100 */
} mx_quantize_options;

/*
 * Streams the checkpoint at `model_path` tensor by tensor into `out_dir` in
 * Quark's OCP-MX layout (safetensors U8 codes and E8M0 scales, config.json with
 * quantization_config, tokenizer files). Files appear atomically; an
 * interrupted run leaves no directory that opens as a model.
 * `*summary` (may be NULL) receives a short report.
 */
mx_status mx_quantize_run(const char *model_path, const char *out_dir, const mx_specs *specs,
                          const mx_quantize_options *options, mx_watch watch, char **summary,
                          mx_error *err);

/* ---- evaluate and compare ------------------------------------------------ */

typedef struct mx_eval_options {
    const char *tasks;        /* "lambada_openai,cloze,perplexity:FILE,kl:FILE" */
    const char *data_path;    /* directory or file with lambada_test.jsonl, or NULL: search */
    uint64_t limit;           /* documents per task, 0 = all */
    uint32_t batch_size;      /* documents per forward pass, 0 = 32 */
    uint32_t window;          /* perplexity window in tokens, 0 = min(2048, model's) */
    uint32_t stride;          /* perplexity stride in tokens, 0 = window */
    bool add_bos;             /* prepend BOS (lm_eval's hf backend default for Llama-3) */
    uint32_t bootstrap_iters; /* 0 = none; lm_eval's default is 100000 */
    const char *output_path;  /* results JSON, or NULL */
    const char *samples_path; /* per-document JSON lines, or NULL */
    bool resume;              /* reuse the documents finished in samples_path */
    mx_model *base;           /* that kl:FILE compares with, as it is: the same tokenizer;
                                 borrowed. Given when, and only when, kl is asked for */
} mx_eval_options;

void mx_eval_options_init(mx_eval_options *options); /* lm_eval's defaults */

/*
 * Evaluates and returns lm_eval's table (`*table`) and results JSON (`*json`);
 * either may be NULL. On MX_ERR_CANCELLED, samples_path holds every finished
 * document.
 */
mx_status mx_eval_run(mx_model *model, const mx_eval_options *options, mx_watch watch, char **table,
                      char **json, mx_error *err);

/*
 * Compares results files of mx_eval_run; paths[0] is the baseline. paths[rtn], where rtn
 * is not 0, is of plain rounding: the report then says which share of its loss the others
 * win back.
 */
mx_status mx_compare_run(const char *const *paths, size_t n_paths, size_t rtn, char **markdown,
                         char **json, mx_error *err);

/* ---- generate and tokenize ----------------------------------------------- */

typedef struct mx_generate_options {
    uint32_t max_tokens; /* new tokens at most */
    float temperature;   /* 0 = greedy */
    float top_p;         /* 1 = off */
    uint64_t seed;
    bool add_bos;
    bool ignore_eos;
    /* Exact speculation: tokens are proposed and checked several in one pass. The
     * text stays the same, to the byte; only the speed changes. */
    uint32_t speculate; /* tokens proposed at a time, at most MX_SPECULATE_MAX; 0: none */
    mx_model *draft;    /* proposes; borrowed; same tokenizer. NULL: they are looked up
                           in the text so far */
} mx_generate_options;

#define MX_SPECULATE_MAX 64

void mx_generate_options_init(mx_generate_options *options);

/* Receives pieces of valid UTF-8 text as they are generated; false stops. */
typedef bool (*mx_text_fn)(void *ctx, const char *text, size_t length);

typedef struct mx_generate_stats {
    uint32_t prompt_tokens, new_tokens;
    double prefill_seconds, decode_seconds;
    uint32_t passes;             /* forward passes after the prompt's */
    uint32_t proposed, accepted; /* tokens of speculation */
} mx_generate_stats;

mx_status mx_generate_run(mx_model *model, const char *prompt, const mx_generate_options *options,
                          mx_text_fn emit, void *emit_ctx, mx_generate_stats *stats, mx_error *err);

typedef struct mx_tokenizer mx_tokenizer;

/* Opens the tokenizer alone: a directory, a tokenizer.json or a GGUF file. */
mx_status mx_tokenizer_open(const char *path, mx_tokenizer **out, mx_error *err);
void mx_tokenizer_close(mx_tokenizer *tokenizer);

/*
 * Encodes `length` bytes of UTF-8. `add_special` applies the post-processor
 * (BOS). `*ids` [*n_ids] is freed with mx_ids_free.
 */
mx_status mx_tokenizer_encode(const mx_tokenizer *tokenizer, const char *text, size_t length,
                              bool add_special, int32_t **ids, size_t *n_ids, mx_error *err);
void mx_ids_free(int32_t *ids);

/* ---- cast ---------------------------------------------------------------- */

/*
 * Quantizes and dequantizes every float tensor of a safetensors file along its
 * last axis by the weight settings of `specs`; other tensors are copied.
 * `*report` receives per-tensor SQNR, largest error, share of saturated and of
 * flushed values.
 */
mx_status mx_cast_run(const char *in_path, const char *out_path, const mx_specs *specs,
                      mx_watch watch, char **report, mx_error *err);

/* ---- bench --------------------------------------------------------------- */

typedef struct mx_bench_options {
    const char *threads;    /* thread counts, "1,2,4"; NULL: 1 and all cores */
    const char *only;       /* sections with commas between: machine, load, kernel, prefill,
                               decode, peer; NULL: all */
    uint32_t rounds;        /* at most 64; 0: 7, or 3 when quick */
    bool quick;             /* fewer sizes, shorter runs */
    const char *kv;         /* as mx_model_set_kv; NULL: fp32 */
    const char *peer_path;  /* llama.cpp's llama-bench, run in the same rounds, or NULL */
    const char *peer_model; /* its model file */
    const char *csv_path;   /* written when not NULL */
    const char *json_path;  /* written when not NULL */
} mx_bench_options;

/*
 * Measures the machine (multiply-accumulates and bytes read a second) and, against
 * it, products by shape, prefill, decode, loading and memory of a model. `specs`
 * (may be NULL) is applied as by mx_model_apply, within the time of loading.
 * `*table` receives the report as text. MX_ERR_CANCELLED leaves nothing.
 */
mx_status mx_bench_model(const char *model_path, const mx_specs *specs,
                         const mx_bench_options *options, mx_watch watch, char **table,
                         mx_error *err);

/* The same for random weights in the shape of a config.json, no checkpoint needed;
 * `specs` NULL: bf16 weights. Loading is not measured. */
mx_status mx_bench_shape(const char *config_path, const mx_specs *specs,
                         const mx_bench_options *options, mx_watch watch, char **table,
                         mx_error *err);

#ifdef __cplusplus
}
#endif

#endif

#include "app.h"

#include "numeric.h"
#include "progress.h"

#include <stdlib.h>

typedef struct quantize_args {
    const char *out;
    int threads;
    bool resume, overwrite;
    const char *method, *calib;
    uint32_t calib_samples, calib_length, search_range, iterations;
    float damp, correct;
    app_numeric numeric;
} quantize_args;

static int quantize(const app_command *command, const char *model, quantize_args *args)
{
    /* MX weights are what the verb is for, so it has formats by default; a specs
     * file brings its own. */
    if (args->numeric.specs_path == NULL) {
        args->numeric.weights = args->numeric.weights ? args->numeric.weights : "mxfp4_e2m1";
        args->numeric.activations =
            args->numeric.activations ? args->numeric.activations : "mxfp6_e2m3";
    }
    mx_specs *specs = NULL;
    int code = app_numeric_specs(command, &args->numeric, &specs);
    if (code != APP_GO) {
        return code;
    }
    /* A whole number, as app_numeric_specs has found. */
    uint64_t seed = args->numeric.seed != NULL ? strtoull(args->numeric.seed, NULL, 10) : 0;
    const mx_quantize_options options = {
        .resume = args->resume,
        .overwrite = args->overwrite,
        .threads = args->threads,
        .method = args->method,
        .calib_path = args->calib,
        .calib_samples = args->calib_samples,
        .calib_length = args->calib_length,
        .seed = seed,
        .damp = args->damp,
        .correct = args->correct,
        .search_range = args->search_range,
        .iterations = args->iterations,
    };
    mx_error err = {0};
    char *summary = NULL;
    mx_status status =
        mx_quantize_run(model, args->out, specs, &options, app_progress_begin(), &summary, &err);
    app_progress_end();
    mx_specs_free(specs);
    if (status == MX_ERR_CANCELLED) {
        app_error("interrupted; the same command with --resume continues");
        return APP_FAILED;
    }
    app_print_take(summary);
    return app_status(status, &err);
}

int app_quantize(int argc, char **argv)
{
    quantize_args args = {0};
    const app_option options[] = {
        {"out", 'o', APP_TEXT, &args.out, "DIR", "the directory to write (required)"},
        APP_NUMERIC_ROWS(args.numeric, "mxfp4_e2m1", "mxfp6_e2m3"),
        {"method", 'm', APP_TEXT, &args.method, "NAME",
         "how codes are chosen: rtn (round to nearest), search\n"
         "(exponents), gptq (error feedback) or blockwise (gptq,\n"
         "then learned layer by layer) (rtn)"},
        {"calib", 0, APP_TEXT, &args.calib, "FILE.txt",
         "calibration text of all but rtn (sampled from MODEL)"},
        {"calib-samples", 0, APP_U32, &args.calib_samples, "N", "windows of it (256)"},
        {"calib-length", 0, APP_U32, &args.calib_length, "N", "tokens of a window (512)"},
        {"search-range", 0, APP_U32, &args.search_range, "N",
         "exponents tried each way beside the rule's (1)"},
        {"damp", 0, APP_REAL, &args.damp, "X",
         "share of the moments' mean added to their\n"
         "diagonal (0.01)"},
        {"correct", 0, APP_REAL, &args.correct, "X",
         "gptq, blockwise: share of earlier layers' errors that\n"
         "a weight makes up for, up to 1 (0)"},
        {"iterations", 0, APP_U32, &args.iterations, "N",
         "blockwise: steps of training a layer (100)"},
        {"seed", 0, APP_TEXT, &args.numeric.seed, "N",
         "seed of --round dither and of calibration (0)"},
        {"resume", 0, APP_FLAG, &args.resume, NULL, "continue an interrupted run"},
        {"overwrite", 0, APP_FLAG, &args.overwrite, NULL, "replace a finished DIR"},
        {"threads", 0, APP_THREADS, &args.threads, "N", "threads (all cores)"},
    };
    const app_command command = {
        .name = "quantize",
        .synopsis = "MODEL --out DIR [options]",
        .about =
            "Writes a copy of MODEL whose projections (q, k, v, o, gate, up, down of every\n"
            "layer) are stored in an MX format, as a Hugging Face directory in Quark's\n"
            "OCP-MX layout. The activation format is recorded and used when the copy is\n"
            "run. Embedding, norms and head stay as they are, but for --head. DIR appears when\n"
            "finished.\n",
        .options = options,
        .n_options = APP_COUNT(options),
        .min_operands = 1,
        .max_operands = 1,
    };
    size_t n = 0;
    int code = app_options_parse(&command, argc, argv, &n);
    if (code == APP_GO && args.out == NULL) {
        code = app_usage_error(&command, "--out DIR is required");
    }
    if (code == APP_GO) {
        code = quantize(&command, argv[1], &args);
    }
    app_numeric_clear(&args.numeric);
    return code;
}

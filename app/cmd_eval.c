#include "app.h"

#include "numeric.h"
#include "progress.h"

typedef struct eval_args {
    mx_eval_options eval;
    const char *base_path;
    int threads;
    const char *kv; /* or NULL */
    app_numeric numeric;
} eval_args;

/* Opens the base model, when there is one. */
static mx_status open_base(eval_args *args, mx_error *err)
{
    return args->base_path != NULL
               ? mx_model_open(args->base_path, args->threads, &args->eval.base, err)
               : MX_OK;
}

/* Opens the model and, when formats are asked for, quantizes it in memory. */
static mx_status open_model(const char *path, const eval_args *args, const mx_specs *specs,
                            mx_watch watch, mx_model **out, mx_error *err)
{
    mx_status status = mx_model_open(path, args->threads, out, err);
    if (status == MX_OK && specs != NULL) {
        status = mx_model_apply(*out, specs, watch, err);
    }
    if (status == MX_OK && args->kv != NULL) {
        status = mx_model_set_kv(*out, args->kv, err);
    }
    return status;
}

static int eval(const char *path, eval_args *args, const mx_specs *specs)
{
    mx_error err = {0};
    mx_model *model = NULL;
    char *table = NULL;
    mx_watch watch = app_progress_begin();
    mx_status status = open_base(args, &err);
    if (status == MX_OK) {
        status = open_model(path, args, specs, watch, &model, &err);
    }
    if (status == MX_OK) {
        status = mx_eval_run(model, &args->eval, watch, &table, NULL, &err);
    }
    app_progress_end();
    mx_model_close(model);
    mx_model_close(args->eval.base);
    if (status == MX_ERR_CANCELLED) {
        if (args->eval.samples_path != NULL) {
            app_error("interrupted; finished documents are in %s: the same command with --resume "
                      "continues",
                      args->eval.samples_path);
        } else {
            app_error("interrupted");
        }
        return APP_FAILED;
    }
    app_print_take(table);
    return app_status(status, &err);
}

static int check_and_run(const app_command *command, const char *path, eval_args *args)
{
    if (args->eval.resume && args->eval.samples_path == NULL) {
        return app_usage_error(command, "--resume needs --samples: it continues that file");
    }
    mx_specs *specs = NULL;
    int code = app_numeric_specs(command, &args->numeric, &specs);
    if (code == APP_GO) {
        code = eval(path, args, app_numeric_wanted(&args->numeric) ? specs : NULL);
    }
    mx_specs_free(specs);
    return code;
}

int app_eval(int argc, char **argv)
{
    eval_args args = {0};
    mx_eval_options_init(&args.eval);
    mx_eval_options *eval_options = &args.eval;
    const app_option options[] = {
        {"tasks", 0, APP_TEXT, &eval_options->tasks, "LIST",
         "lambada_openai, cloze, perplexity:FILE, kl:FILE, with commas between\n"
         "(lambada_openai)"},
        {"base", 0, APP_TEXT, &args.base_path, "MODEL",
         "kl: the unquantized model that predictions are compared with"},
        {"data", 0, APP_TEXT, &eval_options->data_path, "PATH",
         "where lambada_test.jsonl lies, a folder or the file\n(search: $MXLM_DATA_DIR, ./data, "
         "../shared/data, the cache)"},
        {"limit", 0, APP_U64, &eval_options->limit, "N", "documents of each task (all)"},
        {"batch-size", 0, APP_U32, &eval_options->batch_size, "N",
         "documents of one forward pass (32); results do not depend on it"},
        {"threads", 0, APP_THREADS, &args.threads, "N",
         "threads (all cores); results do not depend on it"},
        {"output", 0, APP_TEXT, &eval_options->output_path, "FILE", "write the results as JSON"},
        {"samples", 0, APP_TEXT, &eval_options->samples_path, "FILE.jsonl",
         "write one line for each document as it is finished"},
        {"resume", 0, APP_FLAG, &eval_options->resume, NULL,
         "reuse the documents that --samples' file already holds"},
        {"window", 0, APP_U32, &eval_options->window, "N",
         "perplexity, kl: tokens of one window (2048, or the model's)"},
        {"stride", 0, APP_U32, &eval_options->stride, "N",
         "perplexity, kl: tokens between windows (the window)"},
        {"add-bos", 0, APP_FLAG, &eval_options->add_bos, NULL, "put BOS before every document"},
        {"bootstrap-iters", 0, APP_U32, &eval_options->bootstrap_iters, "N",
         "draws for perplexity's standard error (100000; 0: none)"},
        APP_KV_ROW(&args.kv),
        APP_NUMERIC_ROWS(args.numeric, "unquantized", "unquantized, or as recorded"),
        APP_SEED_ROW(args.numeric),
    };
    const app_command command = {
        .name = "eval",
        .synopsis = "MODEL [options]",
        .about =
            "Evaluates MODEL as lm-evaluation-harness does and prints its table. With\n"
            "--weights, --activations, --head or --specs an unquantized MODEL is quantized in\n"
            "memory, bit-identical to evaluating what \"mxlm quantize\" writes. Ctrl-C keeps\n"
            "the finished documents in --samples' file.\n",
        .options = options,
        .n_options = APP_COUNT(options),
        .min_operands = 1,
        .max_operands = 1,
    };
    size_t n = 0;
    int code = app_options_parse(&command, argc, argv, &n);
    if (code == APP_GO) {
        if (eval_options->tasks == NULL) {
            eval_options->tasks = "lambada_openai";
        }
        code = check_and_run(&command, argv[1], &args);
    }
    app_numeric_clear(&args.numeric);
    return code;
}

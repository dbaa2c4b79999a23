#include "app.h"

#include "numeric.h"
#include "progress.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* With the token that they follow, a whole tile of the integer kernels. */
enum { DEFAULT_PROPOSED = 15 };

typedef struct generate_args {
    const char *prompt;
    mx_generate_options options;
    int threads;
    bool stats;
    const char *kv;        /* or NULL */
    const char *speculate; /* as given: KIND[:N], or NULL */
    const char *draft;     /* path, or NULL */
    app_numeric numeric;
} generate_args;

static bool emit_text(void *ctx, const char *text, size_t length)
{
    bool *any = ctx;
    *any = true;
    fwrite(text, 1, length, stdout);
    fflush(stdout);
    return !app_interrupted() && !ferror(stdout);
}

static void print_rate(const char *what, uint32_t tokens, double seconds)
{
    fprintf(stderr, "%s %u token%s in %.2f s", what, tokens, tokens == 1 ? "" : "s", seconds);
    if (seconds > 0.0 && tokens > 0) {
        fprintf(stderr, ", %.1f tokens/s", tokens / seconds);
    }
    fputc('\n', stderr);
}

static void print_speculation(const mx_generate_stats *stats)
{
    fprintf(stderr, "speculation: %u of %u proposed tokens accepted, %u forward pass%s\n",
            stats->accepted, stats->proposed, stats->passes, stats->passes == 1 ? "" : "es");
}

/* --speculate ngram[:N] or draft[:N], and --draft, into the options. */
static int read_speculation(const app_command *command, generate_args *args)
{
    const char *kind = args->speculate;
    if (kind == NULL && args->draft == NULL) {
        return APP_GO;
    }
    kind = kind != NULL ? kind : "draft";
    size_t length = strcspn(kind, ":");
    bool draft = length == 5 && strncmp(kind, "draft", 5) == 0;
    if (!draft && (length != 5 || strncmp(kind, "ngram", 5) != 0)) {
        return app_usage_error(command, "--speculate: '%s' is not ngram[:N] or draft[:N]", kind);
    }
    if (draft != (args->draft != NULL)) {
        return app_usage_error(command, draft ? "--speculate draft needs --draft MODEL"
                                              : "--draft and --speculate ngram exclude each other");
    }
    args->options.speculate = DEFAULT_PROPOSED;
    if (kind[length] == ':') {
        const char *digits = kind + length + 1;
        size_t n = strspn(digits, "0123456789");
        long value = n > 0 && n < 4 && digits[n] == '\0' ? strtol(digits, NULL, 10) : 0;
        if (value < 1 || value > MX_SPECULATE_MAX) {
            return app_usage_error(command, "--speculate: '%s' is not a whole number from 1 to %d",
                                   digits, MX_SPECULATE_MAX);
        }
        args->options.speculate = (uint32_t)value;
    }
    return APP_GO;
}

static mx_status open_models(const char *path, generate_args *args, const mx_specs *specs,
                             mx_model **model, mx_error *err)
{
    mx_watch watch = app_progress_begin();
    mx_status status = mx_model_open(path, args->threads, model, err);
    if (status == MX_OK && specs != NULL) {
        status = mx_model_apply(*model, specs, watch, err);
    }
    if (status == MX_OK && args->kv != NULL) {
        status = mx_model_set_kv(*model, args->kv, err);
    }
    if (status == MX_OK && args->draft != NULL) {
        status = mx_model_open(args->draft, args->threads, &args->options.draft, err);
    }
    app_progress_end();
    return status;
}

static mx_status open_and_run(const char *path, generate_args *args, const mx_specs *specs,
                              mx_generate_stats *stats, mx_error *err)
{
    mx_model *model = NULL;
    mx_status status = open_models(path, args, specs, &model, err);
    bool any = false;
    if (status == MX_OK) {
        status = mx_generate_run(model, args->prompt, &args->options, emit_text, &any, stats, err);
        if (any) {
            fputc('\n', stdout);
        }
    }
    mx_model_close(args->options.draft);
    mx_model_close(model);
    return status;
}

static int generate(const app_command *command, const char *path, generate_args *args)
{
    if (args->prompt == NULL) {
        return app_usage_error(command, "--prompt TEXT is required");
    }
    if (!(args->options.top_p > 0.0f && args->options.top_p <= 1.0f)) {
        return app_usage_error(command, "--top-p must be above 0 and at most 1");
    }
    mx_specs *specs = NULL;
    int code = read_speculation(command, args);
    if (code == APP_GO) {
        code = app_numeric_specs(command, &args->numeric, &specs);
    }
    if (code != APP_GO) {
        return code;
    }
    mx_error err = {0};
    mx_generate_stats stats = {0};
    mx_status status =
        open_and_run(path, args, app_numeric_wanted(&args->numeric) ? specs : NULL, &stats, &err);
    mx_specs_free(specs);
    if (app_interrupted()) {
        app_error("interrupted");
        return APP_FAILED;
    }
    code = app_status(status, &err);
    if (code == APP_OK && (args->stats || isatty(STDERR_FILENO) == 1)) {
        print_rate("prompt:", stats.prompt_tokens, stats.prefill_seconds);
        print_rate("generated:", stats.new_tokens, stats.decode_seconds);
        if (args->options.speculate > 0) {
            print_speculation(&stats);
        }
    }
    return code;
}

int app_generate(int argc, char **argv)
{
    generate_args args = {0};
    mx_generate_options_init(&args.options);
    const app_option options[] = {
        {"prompt", 'p', APP_TEXT, &args.prompt, "TEXT", "the text to continue (required)"},
        {"max-tokens", 'n', APP_U32, &args.options.max_tokens, "N", "new tokens at most"},
        {"temperature", 0, APP_REAL, &args.options.temperature, "T", "0 takes the likeliest token"},
        {"top-p", 0, APP_REAL, &args.options.top_p, "P",
         "sample from the likeliest tokens that hold this share (1: all)"},
        {"seed", 0, APP_U64, &args.options.seed, "N", "seed of sampling"},
        {"add-bos", 0, APP_FLAG, &args.options.add_bos, NULL, "put BOS before the prompt"},
        {"ignore-eos", 0, APP_FLAG, &args.options.ignore_eos, NULL, "go on after the end token"},
        {"speculate", 0, APP_TEXT, &args.speculate, "KIND[:N]",
         "propose up to N (15) tokens and check them in one pass; the text stays\n"
         "the same. ngram: what followed these words before; draft: see --draft"},
        {"draft", 0, APP_TEXT, &args.draft, "MODEL",
         "a cheaper model with the same tokenizer that proposes tokens"},
        {"threads", 0, APP_THREADS, &args.threads, "N", "threads (all cores)"},
        {"stats", 0, APP_FLAG, &args.stats, NULL, "print times on stderr even when not a terminal"},
        APP_KV_ROW(&args.kv),
        APP_NUMERIC_ROWS(args.numeric, "unquantized", "unquantized, or as recorded"),
    };
    const app_command command = {
        .name = "generate",
        .synopsis = "MODEL --prompt TEXT [-n N] [options]",
        .about = "Prints the continuation of a prompt as it is generated. The same seed gives\n"
                 "the same text on any machine and any number of threads.\n",
        .options = options,
        .n_options = APP_COUNT(options),
        .min_operands = 1,
        .max_operands = 1,
    };
    size_t n = 0;
    int code = app_options_parse(&command, argc, argv, &n);
    if (code == APP_GO) {
        code = generate(&command, argv[1], &args);
    }
    app_numeric_clear(&args.numeric);
    return code;
}

#include "app.h"

#include "numeric.h"
#include "progress.h"

typedef struct bench_args {
    mx_bench_options bench;
    const char *shape;
    app_numeric numeric;
} bench_args;

static int bench(const char *model, const bench_args *args, const mx_specs *specs)
{
    mx_error err = {0};
    char *table = NULL;
    mx_watch watch = app_progress_begin();
    mx_status status = model != NULL
                           ? mx_bench_model(model, specs, &args->bench, watch, &table, &err)
                           : mx_bench_shape(args->shape, specs, &args->bench, watch, &table, &err);
    app_progress_end();
    app_print_take(table);
    return app_status(status, &err);
}

static int check_and_run(const app_command *command, const char *model, bench_args *args)
{
    if ((model == NULL) == (args->shape == NULL)) {
        return app_usage_error(command, "give a MODEL or --shape CONFIG.json");
    }
    if ((args->bench.peer_path == NULL) != (args->bench.peer_model == NULL)) {
        return app_usage_error(command, "--peer and --peer-model belong together");
    }
    mx_specs *specs = NULL;
    int code = app_numeric_specs(command, &args->numeric, &specs);
    if (code == APP_GO) {
        code = bench(model, args, app_numeric_wanted(&args->numeric) ? specs : NULL);
    }
    mx_specs_free(specs);
    return code;
}

int app_bench(int argc, char **argv)
{
    bench_args args = {0};
    mx_bench_options *bench_options = &args.bench;
    const app_option options[] = {
        {"shape", 0, APP_TEXT, &args.shape, "CONFIG.json",
         "random weights in this shape instead of a MODEL"},
        {"threads", 0, APP_TEXT, &bench_options->threads, "N,...",
         "thread counts to measure (1 and all cores)"},
        {"only", 0, APP_TEXT, &bench_options->only, "LIST",
         "machine, load, kernel, prefill, decode, peer, with commas\nbetween (all)"},
        {"rounds", 0, APP_U32, &bench_options->rounds, "N",
         "rounds of which medians are told (7; 3 with --quick)"},
        {"quick", 0, APP_FLAG, &bench_options->quick, NULL, "fewer sizes, shorter runs"},
        {"csv", 0, APP_TEXT, &bench_options->csv_path, "FILE", "write the results as CSV"},
        {"json", 0, APP_TEXT, &bench_options->json_path, "FILE",
         "write the results as JSON, every round in it"},
        {"peer", 0, APP_TEXT, &bench_options->peer_path, "PROGRAM",
         "path of a llama-bench, run in the same rounds for comparison"},
        {"peer-model", 0, APP_TEXT, &bench_options->peer_model, "FILE", "the peer's model"},
        APP_KV_ROW(&bench_options->kv),
        APP_NUMERIC_ROWS(args.numeric, "unquantized", "unquantized, or as recorded"),
        APP_SEED_ROW(args.numeric),
    };
    const app_command command = {
        .name = "bench",
        .synopsis = "(MODEL | --shape CONFIG.json) [options]",
        .about =
            "Measures this machine (multiply-accumulates and bytes read a second) and, in the\n"
            "same rounds, products by shape, prefill, decode of one and of four sequences,\n"
            "loading and memory; tells each as a share of what the machine's limits allow.\n"
            "--weights and --activations quantize as in eval.\n",
        .options = options,
        .n_options = APP_COUNT(options),
        .min_operands = 0,
        .max_operands = 1,
    };
    size_t n = 0;
    int code = app_options_parse(&command, argc, argv, &n);
    if (code == APP_GO) {
        code = check_and_run(&command, n == 1 ? argv[1] : NULL, &args);
    }
    app_numeric_clear(&args.numeric);
    return code;
}

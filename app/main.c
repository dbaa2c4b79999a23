/* mxlm VERB ...: finds the verb, runs it, checks that its output was written. */
#include "app.h"

#include "progress.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

typedef struct verb {
    const char *name;
    const char *summary;
    app_verb_fn run;
} verb;

static const verb verbs[] = {
#define APP_VERB(name, summary) {#name, summary, app_##name},
#include "verbs.def"
#undef APP_VERB
};

void app_error(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    app_progress_end();
    fflush(stdout); /* where both go to one place, in the order of events */
    fputs("mxlm: ", stderr);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
}

int app_status(mx_status status, const mx_error *err)
{
    if (status == MX_OK) {
        return APP_OK;
    }
    app_error("%s", err->text[0] != '\0' ? err->text : mx_status_name(status));
    return status == MX_ERR_ARGUMENT ? APP_USAGE : APP_FAILED;
}

void app_print_take(char *text)
{
    if (text != NULL) {
        size_t length = strlen(text);
        fputs(text, stdout);
        if (length == 0 || text[length - 1] != '\n') {
            fputc('\n', stdout);
        }
        mx_string_free(text);
    }
}

static void print_help(FILE *out)
{
    fputs("usage: mxlm VERB ...\n\n"
          "Runs, quantizes and evaluates Llama-architecture language models in OCP\n"
          "Microscaling (MX) formats. MODEL is a Hugging Face directory (safetensors,\n"
          "config.json, tokenizer.json) or a GGUF file.\n\nverbs:\n",
          out);
    for (size_t i = 0; i < APP_COUNT(verbs); i++) {
        fprintf(out, "  %-10s %s\n", verbs[i].name, verbs[i].summary);
    }
    fputs("\nmxlm VERB --help explains a verb. Exit codes: 0 done, 1 failed, 2 wrong usage.\n"
          "Environment: MXLM_DATA_DIR (evaluation data), MXLM_CPU=ref|avx2|avx512|amx|neon\n"
          "(limit the instruction set), NO_COLOR.\n",
          out);
}

static const verb *find_verb(const char *name)
{
    for (size_t i = 0; i < APP_COUNT(verbs); i++) {
        if (strcmp(verbs[i].name, name) == 0) {
            return &verbs[i];
        }
    }
    return NULL;
}

static int run(int argc, char **argv)
{
    if (argc < 2) {
        print_help(stderr);
        return APP_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        (strcmp(argv[1], "help") == 0 && argc == 2)) {
        print_help(stdout);
        return APP_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("mxlm %s\n", mx_version());
        return APP_OK;
    }
    if (strcmp(argv[1], "help") == 0) { /* mxlm help VERB */
        static char help[] = "--help";  /* outlives this block, as argv must */
        argv[1] = argv[2];
        argv[2] = help;
    }
    const verb *found = find_verb(argv[1]);
    if (found == NULL) {
        app_error("unknown verb '%s' (mxlm --help lists them)", argv[1]);
        return APP_USAGE;
    }
    return found->run(argc - 1, argv + 1);
}

int main(int argc, char **argv)
{
    int code = run(argc, argv);
    /* A full disk shows only when buffers are written out: an exit code of 0 must
     * mean that the output is there. */
    if ((fflush(stdout) != 0 || ferror(stdout)) && code == APP_OK) {
        app_error("standard output: %s", strerror(errno));
        code = APP_FAILED;
    }
    return code;
}

#include "app.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* One line "[1, 2, 3]". */
static int print_ids(const mx_tokenizer *tokenizer, const char *text, size_t length, bool special)
{
    mx_error err = {0};
    int32_t *ids = NULL;
    size_t n = 0;
    mx_status status = mx_tokenizer_encode(tokenizer, text, length, special, &ids, &n, &err);
    if (status != MX_OK) {
        return app_status(status, &err);
    }
    putchar('[');
    for (size_t i = 0; i < n; i++) {
        printf(i == 0 ? "%d" : ", %d", ids[i]);
    }
    puts("]");
    mx_ids_free(ids);
    return APP_OK;
}

/* A line of a texts file: {"text": "..."} (other keys are ignored: data sets carry
 * them) or a JSON string. The returned string is borrowed from `value`. */
static const json_t *line_text(const json_t *value)
{
    const json_t *text = json_is_object(value) ? json_object_get(value, "text") : value;
    return json_is_string(text) ? text : NULL;
}

static int tokenize_line(const mx_tokenizer *tokenizer, const char *path, size_t number,
                         const char *line, size_t length, bool special)
{
    json_error_t json_error;
    json_t *value = json_loadb(
        line, length, JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &json_error);
    if (value == NULL) {
        app_error("%s: line %zu: %s", path, number, json_error.text);
        return APP_FAILED;
    }
    int code = APP_FAILED;
    const json_t *text = line_text(value);
    if (text == NULL) {
        app_error("%s: line %zu: neither a JSON string nor an object with a string \"text\"", path,
                  number);
    } else {
        code = print_ids(tokenizer, json_string_value(text), json_string_length(text), special);
    }
    json_decref(value);
    return code;
}

static int tokenize_file(const mx_tokenizer *tokenizer, const char *path, bool special)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        app_error("%s: %s", path, strerror(errno));
        return APP_FAILED;
    }
    char *line = NULL;
    size_t capacity = 0;
    ssize_t length;
    int code = APP_OK;
    for (size_t number = 1; code == APP_OK && (length = getline(&line, &capacity, file)) >= 0;
         number++) {
        code = tokenize_line(tokenizer, path, number, line, (size_t)length, special);
    }
    if (code == APP_OK && ferror(file)) {
        app_error("%s: %s", path, strerror(errno));
        code = APP_FAILED;
    }
    free(line);
    fclose(file);
    return code;
}

int app_tokenize(int argc, char **argv)
{
    const char *file = NULL;
    bool special = false;
    const app_option options[] = {
        {"file", 0, APP_TEXT, &file, "TEXTS.jsonl",
         "read texts from a file, one a line: {\"text\": \"...\"} or\na JSON string"},
        {"special", 0, APP_FLAG, &special, NULL,
         "add the special tokens (BOS) that the tokenizer asks for"},
    };
    const app_command command = {
        .name = "tokenize",
        .synopsis = "MODEL (TEXT | --file TEXTS.jsonl) [--special]",
        .about = "Prints the token ids of each text as one JSON list a line. Special tokens\n"
                 "inside a text are recognized; none are added unless asked. MODEL may also be a\n"
                 "tokenizer.json.\n",
        .options = options,
        .n_options = APP_COUNT(options),
        .min_operands = 1,
        .max_operands = 2,
    };
    size_t n = 0;
    int code = app_options_parse(&command, argc, argv, &n);
    if (code == APP_GO && (n == 2) == (file != NULL)) {
        code = app_usage_error(&command, "give either a TEXT or --file");
    }
    if (code != APP_GO) {
        return code;
    }
    mx_error err = {0};
    mx_tokenizer *tokenizer = NULL;
    mx_status status = mx_tokenizer_open(argv[1], &tokenizer, &err);
    if (status != MX_OK) {
        return app_status(status, &err);
    }
    code = file != NULL ? tokenize_file(tokenizer, file, special)
                        : print_ids(tokenizer, argv[2], strlen(argv[2]), special);
    mx_tokenizer_close(tokenizer);
    return code;
}

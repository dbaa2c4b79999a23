/*
 * The samples file: one JSON object a line, a line a scored document, with lm_eval's
 * keys; and beside it FILE.run.json, which says what run the lines belong to. A line
 * is flushed as soon as it is written, so an interrupted run loses at most the one
 * being written, which --resume cuts off.
 */
#include "eval/samples.h"

#include "base/file.h"
#include "base/str.h"
#include "eval/json_build.h"

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SAMPLES_MAX_BYTES ((size_t)4 << 30)
#define SAMPLES_MAX_RUN_BYTES ((size_t)1 << 20)

/* A line read back. */
typedef struct samples_entry {
    char *task; /* owned */
    uint64_t index, hash;
    mx_outcome outcome; /* divergences owned; NULL when the line has none */
    size_t n_divergences;
} samples_entry;

struct mx_samples {
    char *path;     /* owned */
    char *run_path; /* owned */
    FILE *file;
    samples_entry *entries; /* [n_entries] */
    size_t n_entries, capacity;
};

/* The same tokens with the same split, the same number. */
static uint64_t document_hash(const mx_document *document)
{
    uint64_t hash = mx_hash_bytes(MX_HASH_START, &document->n_targets, sizeof document->n_targets);
    return mx_hash_bytes(hash, document->tokens, document->n_tokens * sizeof *document->tokens);
}

/* ---- reading back ----------------------------------------------------------- */

/* The run file must hold exactly `run`. */
static mx_status samples_check_run(const mx_samples *samples, const json_t *run, mx_error *err)
{
    json_t *found = NULL;
    MX_TRY(mx_json_load(samples->run_path, SAMPLES_MAX_RUN_BYTES, &found, err));
    mx_status status = MX_OK;
    const char *key;
    json_t *wanted;
    json_object_foreach((json_t *)run, key, wanted)
    {
        if (status == MX_OK && !json_equal(json_object_get(found, key), wanted)) {
            status = mx_error_set(err, MX_ERR_ARGUMENT,
                                  "%s: %s differs: these samples belong to another run",
                                  samples->run_path, key);
        }
    }
    json_decref(found);
    return status;
}

/* Copies the name: the line that it points into is freed before it is used. */
static mx_status samples_push(mx_samples *samples, const char *task, samples_entry entry,
                              mx_error *err)
{
    if (samples->n_entries == samples->capacity) {
        size_t capacity = samples->capacity > 0 ? samples->capacity * 2 : 256;
        samples_entry *entries = realloc(samples->entries, capacity * sizeof *entries);
        if (entries == NULL) {
            return mx_error_nomem(err, samples->path, capacity * sizeof *entries);
        }
        samples->entries = entries;
        samples->capacity = capacity;
    }
    entry.task = mx_str_copy(task, strlen(task));
    if (entry.task == NULL) {
        return mx_error_nomem(err, samples->path, strlen(task));
    }
    samples->entries[samples->n_entries++] = entry;
    return MX_OK;
}

/* The outcome in "filtered_resps": [[ll, greedy]]. */
static mx_status samples_read_outcome(const json_t *root, const char *where, mx_outcome *out,
                                      mx_error *err)
{
    const json_t *pair = json_array_get(json_object_get(root, "filtered_resps"), 0);
    const json_t *ll = json_array_get(pair, 0), *greedy = json_array_get(pair, 1);
    if (!json_is_number(ll) || !json_is_boolean(greedy)) {
        return mx_error_set(err, MX_ERR_FORMAT,
                            "%s: filtered_resps: must be [[log-likelihood, greedy]]", where);
    }
    *out = (mx_outcome){
        .log_likelihood = json_number_value(ll), .greedy = json_is_true(greedy), .done = true};
    return MX_OK;
}

/* "kl": [number] and "top1_agreed", of a task beside a base model. */
static mx_status samples_read_divergences(const json_t *root, const char *where,
                                          samples_entry *entry, mx_error *err)
{
    const json_t *array = json_object_get(root, "kl");
    int64_t agreed = 0;
    if (array == NULL) {
        return MX_OK;
    }
    size_t n = json_array_size(array);
    MX_TRY(mx_json_get_int(root, "top1_agreed", where, true, 0, 0, (int64_t)n, &agreed, err));
    entry->outcome.agreed = (uint32_t)agreed;
    entry->n_divergences = n;
    entry->outcome.divergences = malloc((n > 0 ? n : 1) * sizeof *entry->outcome.divergences);
    if (entry->outcome.divergences == NULL) {
        return mx_error_nomem(err, where, n * sizeof *entry->outcome.divergences);
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *value = json_array_get(array, i);
        if (!json_is_number(value) || !(fabs(json_number_value(value)) <= (double)FLT_MAX)) {
            return mx_error_set(err, MX_ERR_FORMAT, "%s: kl[%zu]: must be a finite number", where,
                                i);
        }
        entry->outcome.divergences[i] = (float)json_number_value(value);
    }
    return MX_OK;
}

/* Lines are from outside as much as any file: each field is checked here, and each
 * entry against the task's documents when it is used. */
static mx_status samples_read_line(mx_samples *samples, const char *line, size_t length,
                                   size_t number, mx_error *err)
{
    json_t *root = NULL;
    const char *task = NULL, *hash = NULL;
    int64_t index = 0;
    samples_entry entry = {0};
    char where[512];
    char *end = NULL;
    mx_status status = MX_OK;
    snprintf(where, sizeof where, "%s: line %zu", samples->path, number);
    MX_TRY_GOTO(status, mx_json_parse(line, length, where, &root, err));
    MX_TRY_GOTO(status, mx_json_get_string(root, "task", where, true, NULL, &task, err));
    MX_TRY_GOTO(status, mx_json_get_string(root, "doc_hash", where, true, NULL, &hash, err));
    MX_TRY_GOTO(status,
                mx_json_get_int(root, "doc_id", where, true, 0, 0, UINT32_MAX, &index, err));
    MX_TRY_GOTO(status, samples_read_outcome(root, where, &entry.outcome, err));
    entry.index = (uint64_t)index;
    entry.hash = strtoull(hash, &end, 16);
    if (end != hash + 16 || *end != '\0') {
        status = mx_error_set(err, MX_ERR_FORMAT, "%s: doc_hash: must be 16 hex digits", where);
        goto done;
    }
    MX_TRY_GOTO(status, samples_read_divergences(root, where, &entry, err));
    MX_TRY_GOTO(status, samples_push(samples, task, entry, err));
    entry.outcome.divergences = NULL; /* the samples' now */
done:
    free(entry.outcome.divergences);
    json_decref(root);
    return status;
}

/* Reads the finished lines and cuts off what follows the last newline: a line
 * whose writing was interrupted. */
static mx_status samples_read(mx_samples *samples, mx_error *err)
{
    char *data = NULL;
    size_t size = 0, at = 0, number = 1;
    mx_status status = mx_file_read(samples->path, SAMPLES_MAX_BYTES, &data, &size, err);
    while (status == MX_OK && at < size) {
        const char *end = memchr(data + at, '\n', size - at);
        if (end == NULL) {
            break;
        }
        size_t length = (size_t)(end - (data + at));
        status = samples_read_line(samples, data + at, length, number++, err);
        at += length + 1;
    }
    if (status == MX_OK && at < size && truncate(samples->path, (off_t)at) != 0) {
        status = mx_error_set(err, MX_ERR_IO, "%s: %s", samples->path, strerror(errno));
    }
    free(data);
    return status;
}

/* A document counts by its tokens: another tokenizer or another text under the same
 * number is an error, not a result. */
mx_status mx_samples_restore(const mx_samples *samples, mx_task_result *result, mx_error *err)
{
    for (size_t i = 0; samples != NULL && i < samples->n_entries; i++) {
        const samples_entry *entry = &samples->entries[i];
        if (strcmp(entry->task, result->request->name) != 0) {
            continue;
        }
        /* A limit keeps the first documents: document number = list position. */
        if (entry->index >= result->documents.count ||
            document_hash(&result->documents.items[entry->index]) != entry->hash) {
            return mx_error_set(err, MX_ERR_FORMAT,
                                "%s: line %zu: is not of document %llu of task %s", samples->path,
                                i + 1, (unsigned long long)entry->index, entry->task);
        }
        mx_outcome *outcome = &result->outcomes[entry->index];
        if (outcome->done) {
            return mx_error_set(err, MX_ERR_FORMAT, "%s: line %zu: document %llu is given twice",
                                samples->path, i + 1, (unsigned long long)entry->index);
        }
        size_t wanted =
            outcome->divergences != NULL ? result->documents.items[entry->index].n_targets : 0;
        if (entry->n_divergences != wanted) {
            return mx_error_set(err, MX_ERR_FORMAT, "%s: line %zu: kl: must have %zu numbers",
                                samples->path, i + 1, wanted);
        }
        float *divergences = outcome->divergences;
        *outcome = entry->outcome;
        outcome->divergences = divergences;
        if (wanted > 0) {
            memcpy(divergences, entry->outcome.divergences, wanted * sizeof *divergences);
        }
        result->resumed++;
    }
    return MX_OK;
}

/* ---- writing ---------------------------------------------------------------- */

/* [ll, greedy] */
static json_t *json_outcome(const mx_outcome *outcome, bool *failed)
{
    json_t *pair = json_array();
    mx_json_push(pair, mx_json_real(outcome->log_likelihood), failed);
    mx_json_push(pair, json_boolean(outcome->greedy), failed);
    return pair;
}

/* [value] */
static json_t *json_wrap(json_t *value, bool *failed)
{
    json_t *array = json_array();
    mx_json_push(array, value, failed);
    return array;
}

/* A passage: what was asked, and lm_eval's arguments of the request. */
static void json_add_pair(const mx_document *document, json_t *root, bool *failed)
{
    json_t *doc = json_object(), *arguments = json_array();
    json_t *context = json_stringn(document->text, document->target_offset);
    const char *target = document->text + document->target_offset;
    mx_json_push(arguments, context, failed);
    mx_json_push(arguments, json_string(target), failed);
    mx_json_put(doc, "text", json_string(document->text), failed);
    mx_json_put(root, "doc", doc, failed);
    mx_json_put(root, "target", json_string(target), failed);
    mx_json_put(root, "arguments", json_wrap(arguments, failed), failed);
}

/* A window of a text: its place. The text itself is the task's file. */
static void json_add_window(const mx_document *document, json_t *root, bool *failed)
{
    json_t *doc = json_object();
    mx_json_put(doc, "first_token", json_integer((json_int_t)document->first), failed);
    mx_json_put(root, "doc", doc, failed);
    mx_json_put(root, "words", json_integer((json_int_t)document->words), failed);
    mx_json_put(root, "bytes", json_integer((json_int_t)document->bytes), failed);
}

/* Keys, nesting and order of lm_eval's --log_samples; doc_hash is mxlm's. */
static json_t *json_sample(const mx_task_request *request, const mx_document *document,
                           const mx_outcome *outcome, bool *failed)
{
    json_t *root = json_object(), *metrics = json_array();
    char hash[20];
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)document_hash(document));
    mx_json_put(root, "task", json_string(request->name), failed);
    mx_json_put(root, "doc_id", json_integer(document->index), failed);
    if (document->text != NULL) {
        json_add_pair(document, root, failed);
        mx_json_push(metrics, json_string("perplexity"), failed);
        mx_json_push(metrics, json_string("acc"), failed);
    } else {
        json_add_window(document, root, failed);
    }
    json_t *inner = json_wrap(json_outcome(outcome, failed), failed);
    mx_json_put(root, "resps", json_wrap(inner, failed), failed);
    mx_json_put(root, "filtered_resps", json_wrap(json_outcome(outcome, failed), failed), failed);
    mx_json_put(root, "filter", json_string("none"), failed);
    mx_json_put(root, "metrics", metrics, failed);
    mx_json_put(root, "doc_hash", json_string(hash), failed);
    mx_json_put(root, "n_tokens", json_integer(document->n_tokens), failed);
    mx_json_put(root, "n_targets", json_integer(document->n_targets), failed);
    if (document->text != NULL) {
        mx_json_put(root, "perplexity", mx_json_real(outcome->log_likelihood), failed);
        mx_json_put(root, "acc", json_integer(outcome->greedy), failed);
    }
    if (outcome->divergences != NULL) {
        json_t *divergences = json_array();
        for (uint32_t t = 0; t < document->n_targets; t++) {
            mx_json_push(divergences, mx_json_real((double)outcome->divergences[t]), failed);
        }
        mx_json_put(root, "kl", divergences, failed);
        mx_json_put(root, "top1_agreed", json_integer(outcome->agreed), failed);
    }
    return root;
}

/* Flushed to the system, not to the disk: a killed process loses nothing, and a
 * power cut only lines that are scored again. */
mx_status mx_samples_write(mx_samples *samples, const mx_task_request *request,
                           const mx_document *document, const mx_outcome *outcome, mx_error *err)
{
    if (samples == NULL) {
        return MX_OK;
    }
    bool failed = false;
    char *line = NULL;
    json_t *root = json_sample(request, document, outcome, &failed);
    mx_status status =
        failed ? mx_error_nomem(err, samples->path, 0) : mx_json_dump(root, 0, &line, err);
    json_decref(root);
    MX_TRY(status);
    if (fprintf(samples->file, "%s\n", line) < 0 || fflush(samples->file) != 0) {
        status = mx_error_set(err, MX_ERR_IO, "%s: %s", samples->path, strerror(errno));
    }
    free(line);
    return status;
}

/* ---- opening and closing ----------------------------------------------------- */

/* An empty file, then its run: a crash in between leaves no lines that the new
 * run could claim. */
static mx_status samples_start(mx_samples *samples, const json_t *run, mx_error *err)
{
    char *text = NULL;
    MX_TRY(mx_json_dump(run, 2, &text, err));
    mx_status status = MX_OK;
    samples->file = fopen(samples->path, "wb");
    if (samples->file == NULL) {
        status = mx_error_set(err, MX_ERR_IO, "%s: %s", samples->path, strerror(errno));
    } else {
        status = mx_file_write(samples->run_path, text, strlen(text), err);
    }
    free(text);
    return status;
}

/* Checked and read before the file is opened for appending: a refused file stays as
 * it was. */
static mx_status samples_continue(mx_samples *samples, const json_t *run, mx_error *err)
{
    MX_TRY(samples_check_run(samples, run, err));
    MX_TRY(samples_read(samples, err));
    samples->file = fopen(samples->path, "ab");
    if (samples->file == NULL) {
        return mx_error_set(err, MX_ERR_IO, "%s: %s", samples->path, strerror(errno));
    }
    return MX_OK;
}

mx_status mx_samples_open(const char *path, const json_t *run, bool resume, mx_samples **out,
                          mx_error *err)
{
    *out = NULL;
    if (path == NULL) {
        return MX_OK;
    }
    mx_str run_path = {0};
    mx_samples *samples = calloc(1, sizeof *samples);
    if (samples == NULL) {
        return mx_error_nomem(err, path, sizeof *samples);
    }
    mx_status status = MX_OK;
    samples->path = mx_str_copy(path, strlen(path));
    if (samples->path == NULL) {
        status = mx_error_nomem(err, path, strlen(path));
        goto done;
    }
    mx_str_addf(&run_path, "%s.run.json", path);
    MX_TRY_GOTO(status, mx_str_take(&run_path, &samples->run_path, err));
    status = resume && mx_path_is_file(path) ? samples_continue(samples, run, err)
                                             : samples_start(samples, run, err);
done:
    if (status != MX_OK) {
        mx_samples_close(samples, NULL);
        return status;
    }
    *out = samples;
    return MX_OK;
}

mx_status mx_samples_close(mx_samples *samples, mx_error *err)
{
    mx_status status = MX_OK;
    if (samples == NULL) {
        return MX_OK;
    }
    if (samples->file != NULL && fclose(samples->file) != 0) {
        status = mx_error_set(err, MX_ERR_IO, "%s: %s", samples->path, strerror(errno));
    }
    for (size_t i = 0; i < samples->n_entries; i++) {
        free(samples->entries[i].task);
        free(samples->entries[i].outcome.divergences);
    }
    free(samples->entries);
    free(samples->path);
    free(samples->run_path);
    free(samples);
    return status;
}

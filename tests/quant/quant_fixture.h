/* What the tests of quantization share: settings, temporary folders, runs, and
 * folders compared byte by byte. */
#ifndef MX_TEST_QUANT_FIXTURE_H
#define MX_TEST_QUANT_FIXTURE_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/file.h"
#include "io/checkpoint.h"
#include "quant/quantize.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { FIXTURE_PATH = 4096 };

/* Fails the test with the library's own line. */
#define fixture_ok(expr, err)                                                                      \
    do {                                                                                           \
        if ((expr) != MX_OK) {                                                                     \
            fail_msg("%s: %s", #expr, (err).text);                                                 \
        }                                                                                          \
    } while (0)

/* The call fails with `wanted`, and its one line holds `words`. */
#define fixture_fails(expr, wanted, words, err)                                                    \
    do {                                                                                           \
        assert_int_equal(expr, wanted);                                                            \
        if (strstr((err).text, words) == NULL || strchr((err).text, '\n') != NULL) {               \
            fail_msg("%s: \"%s\" is not in \"%s\"", #expr, words, (err).text);                     \
        }                                                                                          \
    } while (0)

/* tests/golden/NAME into path [FIXTURE_PATH]. */
static inline void fixture_golden(const char *name, char *path)
{
    const char *dir = getenv("MXLM_TEST_DIR");
    if (dir == NULL) {
        fail_msg("MXLM_TEST_DIR is not set: run this through ctest");
    }
    snprintf(path, FIXTURE_PATH, "%s/golden/%s", dir, name);
}

/* ---- temporary folders ------------------------------------------------------- */

/* Removes a folder, its files and its folders. */
static inline void fixture_remove(const char *path)
{
    DIR *folder = opendir(path);
    if (folder == NULL) {
        return;
    }
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            char *below = mx_path_join(path, entry->d_name);
            if (unlink(below) != 0) {
                fixture_remove(below);
            }
            free(below);
        }
    }
    closedir(folder);
    rmdir(path);
}

static char fixture_dir[64]; /* of this test program */

static inline int fixture_setup(void **state)
{
    (void)state;
    /* Every run syncs its files; in memory that costs nothing. Containers often
     * have only 64 MB there. */
    struct statvfs space;
    bool roomy = statvfs("/dev/shm", &space) == 0 && access("/dev/shm", W_OK | X_OK) == 0 &&
                 (uint64_t)space.f_bavail * space.f_frsize > ((uint64_t)1 << 30);
    const char *parent = roomy ? "/dev/shm" : "/tmp";
    snprintf(fixture_dir, sizeof fixture_dir, "%s/mxlm-quant-XXXXXX", parent);
    return mkdtemp(fixture_dir) != NULL ? 0 : -1;
}

static inline int fixture_teardown(void **state)
{
    (void)state;
    fixture_remove(fixture_dir);
    return 0;
}

/* A path in the temporary folder; one name has one path, for as long as the
 * program runs. */
static inline const char *fixture_path(const char *name)
{
    enum { MAX_PATHS = 32 };
    static char paths[MAX_PATHS][sizeof fixture_dir + 64];
    char path[sizeof paths[0]];
    snprintf(path, sizeof path, "%s/%s", fixture_dir, name);
    for (size_t i = 0; i < MAX_PATHS; i++) {
        if (paths[i][0] == '\0') {
            memcpy(paths[i], path, sizeof path);
        }
        if (strcmp(paths[i], path) == 0) {
            return paths[i];
        }
    }
    fail_msg("more than %d paths", MAX_PATHS);
    return NULL;
}

static inline size_t fixture_count(const char *dir)
{
    size_t count = 0;
    DIR *folder = opendir(dir);
    if (folder == NULL) {
        return 0;
    }
    while (readdir(folder) != NULL) {
        count++;
    }
    closedir(folder);
    return count - 2;
}

/* Both folders hold the same names with the same bytes. */
static inline void fixture_same_folders(const char *a, const char *b)
{
    DIR *folder = opendir(a);
    assert_non_null(folder);
    assert_int_equal(fixture_count(a), fixture_count(b));
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        mx_map map_a, map_b;
        mx_error err = {0};
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        char *path_a = mx_path_join(a, entry->d_name), *path_b = mx_path_join(b, entry->d_name);
        fixture_ok(mx_map_open(path_a, &map_a, &err), err);
        fixture_ok(mx_map_open(path_b, &map_b, &err), err);
        if (map_a.size != map_b.size || memcmp(map_a.data, map_b.data, map_a.size) != 0) {
            fail_msg("%s and %s differ", path_a, path_b);
        }
        mx_map_close(&map_a);
        mx_map_close(&map_b);
        free(path_a);
        free(path_b);
    }
    closedir(folder);
}

/* A copy of a golden directory that a test may change. */
static inline const char *fixture_copy_model(const char *golden, const char *name)
{
    mx_error err = {0};
    char from[FIXTURE_PATH];
    const char *dir = fixture_path(name);
    fixture_golden(golden, from);
    fixture_ok(mx_path_make_dirs(dir, &err), err);
    DIR *folder = opendir(from);
    assert_non_null(folder);
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        if (entry->d_name[0] != '.') {
            char *source = mx_path_join(from, entry->d_name), *target, *bytes;
            size_t size;
            target = mx_path_join(dir, entry->d_name);
            fixture_ok(mx_file_read(source, 1 << 20, &bytes, &size, &err), err);
            fixture_ok(mx_file_write(target, bytes, size, &err), err);
            free(source);
            free(target);
            free(bytes);
        }
    }
    closedir(folder);
    return dir;
}

/* ---- runs ---------------------------------------------------------------------- */

/* Settings written "key=value key=value". */
static inline mx_specs *fixture_specs(const char *settings)
{
    mx_error err = {0};
    mx_specs *specs;
    char text[512];
    fixture_ok(mx_specs_create(&specs, &err), err);
    snprintf(text, sizeof text, "%s", settings);
    for (char *rest = text, *word; (word = strtok_r(rest, " ", &rest)) != NULL;) {
        char *value = strchr(word, '=');
        assert_non_null(value);
        *value++ = '\0';
        fixture_ok(mx_specs_set(specs, word, value, &err), err);
    }
    return specs;
}

#define FIXTURE_W4A6 "weights=mxfp4_e2m1 activations=mxfp6_e2m3 block=32 round=even"

typedef struct fixture_run {
    const char *settings;
    mx_quantize_options options;
    uint64_t shard_bytes;
    mx_watch watch;
} fixture_run;

static inline mx_status fixture_quantize(const char *model, const char *out, fixture_run run,
                                         char **summary, mx_error *err)
{
    mx_specs *specs = fixture_specs(run.settings != NULL ? run.settings : FIXTURE_W4A6);
    mx_status status = mx_quantize_write(model, out, specs, &run.options, run.shard_bytes,
                                         run.watch, summary, err);
    mx_specs_free(specs);
    return status;
}

static inline mx_checkpoint *fixture_open(const char *path)
{
    mx_error err = {0};
    mx_checkpoint *checkpoint;
    fixture_ok(mx_checkpoint_open(path, &checkpoint, &err), err);
    return checkpoint;
}

/* Row `row` of a stored tensor in fp32, malloc'd [n_cols]. */
static inline float *fixture_row(const mx_rows *rows, uint64_t row)
{
    float *x = malloc((rows->n_cols + 1) * sizeof *x);
    assert_non_null(x);
    mx_dtype_get(rows->tensor->dtype)->decode(mx_rows_at(rows, row), rows->n_cols, x);
    return x;
}

static inline mx_rows fixture_rows(const mx_checkpoint *checkpoint, const char *name)
{
    mx_error err = {0};
    mx_rows rows;
    fixture_ok(mx_checkpoint_rows(checkpoint, name, &rows, &err), err);
    return rows;
}

/* Overwrites an element of a bf16 tensor of the unsharded model in folder `dir`;
 * bytes [2], little-endian. */
static inline void fixture_patch(const char *dir, const char *tensor, uint64_t row, uint64_t col,
                                 const char *bytes)
{
    mx_checkpoint *checkpoint = fixture_open(dir);
    mx_rows rows = fixture_rows(checkpoint, tensor);
    assert_int_equal(rows.tensor->dtype, MX_DTYPE_BF16);
    uint64_t at = rows.tensor->offset + row * rows.row_bytes + 2 * col;
    mx_checkpoint_close(checkpoint);
    char *path = mx_path_join(dir, "model.safetensors");
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, (long)at, SEEK_SET), 0);
    assert_int_equal(fwrite(bytes, 1, 2, file), 2);
    assert_int_equal(fclose(file), 0);
    free(path);
}

#endif

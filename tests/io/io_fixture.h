/* What the tests of src/io share: paths, temporary folders, files made of bytes. */
#ifndef MX_TEST_IO_FIXTURE_H
#define MX_TEST_IO_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include <cmocka.h>

#include "base/file.h"
#include "base/str.h"

#include "io/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define assert_ok(expr)                                                                            \
    do {                                                                                           \
        mx_error error_ = {0};                                                                     \
        mx_error *err = &error_;                                                                   \
        if ((expr) != MX_OK) {                                                                     \
            fail_msg("%s: %s", #expr, error_.text);                                                \
        }                                                                                          \
    } while (0)

/* Id of a token by its text, -1 when absent. */
static inline int32_t token_id(const mx_tokenizer *tokenizer, const char *text)
{
    mx_error err = {0};
    int32_t id = -2;
    assert_int_equal(mx_tokenizer_id(tokenizer, text, &id, &err), MX_OK);
    return id;
}

/* Fails unless the error's text holds `part` and is one line. */
static inline void expect_text(const mx_error *err, const char *part)
{
    assert_null(strchr(err->text, '\n'));
    if (strstr(err->text, part) == NULL) {
        fail_msg("error '%s' does not say '%s'", err->text, part);
    }
}

/* "MXLM_TEST_DIR/golden/name" in malloc'd memory. */
static inline char *golden_path(const char *name)
{
    const char *root = getenv("MXLM_TEST_DIR");
    mx_str path = {0};
    char *out = NULL;
    mx_str_addf(&path, "%s/golden/%s", root != NULL ? root : "tests", name);
    assert_int_equal(mx_str_take(&path, &out, NULL), MX_OK);
    return out;
}

/* The shared file, malloc'd; NULL, and a line that says so, when it is not here. */
static inline char *find_data(const char *name)
{
    const char *root = getenv("MXLM_DATA_DIR");
    char *path = root == NULL ? NULL : mx_path_join(root, name);
    if (path == NULL || !mx_path_is_file(path)) {
        print_message("skipped: no %s in MXLM_DATA_DIR\n", name);
        free(path);
        return NULL;
    }
    return path;
}

static inline char *data_path_or_skip(const char *name)
{
    char *path = find_data(name);
    if (path == NULL) {
        skip();
    }
    return path;
}

/* The real checkpoint, malloc'd, or NULL and a line. */
static inline char *find_smollm2(void)
{
    const char *given = getenv("MXLM_SMOLLM2_GGUF"), *cache = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    mx_str path = {0};
    if (given != NULL) {
        mx_str_add(&path, given);
    } else {
        mx_str_add(&path, cache != NULL ? cache : home != NULL ? home : ".");
        mx_str_add(&path, cache != NULL ? "/" : "/.cache/");
        mx_str_add(&path, "mxlm/SmolLM2-135M-Instruct.Q4_1.gguf");
    }
    char *out = NULL;
    assert_int_equal(mx_str_take(&path, &out, NULL), MX_OK);
    if (!mx_path_is_file(out)) {
        print_message("skipped: no %s\n", out);
        free(out);
        return NULL;
    }
    return out;
}

/* A new temporary folder, malloc'd. */
static inline char *make_folder(void)
{
    const char *tmp = getenv("TMPDIR");
    char *path = mx_path_join(tmp != NULL ? tmp : "/tmp", "mxlm-test-XXXXXX");
    assert_non_null(path);
    assert_non_null(mkdtemp(path));
    return path;
}

/* Removes the files `names` (NULL-terminated) of a folder, the folder, and frees. */
static inline void remove_folder(char *folder, const char *const *names)
{
    for (; *names != NULL; names++) {
        char *path = mx_path_join(folder, *names);
        unlink(path);
        free(path);
    }
    assert_int_equal(rmdir(folder), 0);
    free(folder);
}

static inline void write_text(const char *folder, const char *name, const char *text)
{
    char *path = mx_path_join(folder, name);
    assert_ok(mx_file_write(path, text, strlen(text), err));
    free(path);
}

static inline void read_bytes(const char *path, uint8_t **data, size_t *size)
{
    assert_ok(mx_file_read(path, 1u << 30, (char **)data, size, err));
}

/* A copy in its own allocation, so that reading past the end is seen. */
static inline uint8_t *exact_copy(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size == 0 ? 1 : size);
    assert_non_null(copy);
    memcpy(copy, data, size);
    return copy;
}

/* Parses bytes named "f" as some container and, when they are accepted, walks over all
 * that it offers, so that a sanitizer sees every byte. Checks that a refusal leaves no
 * reader behind. */
typedef mx_status (*try_fn)(const uint8_t *data, size_t size, mx_error *error);

/* Every prefix of fewer than `needed` bytes is refused, by a message. */
static inline void check_truncated(const uint8_t *data, size_t needed, try_fn attempt)
{
    for (size_t length = 0; length < needed; length++) {
        uint8_t *copy = exact_copy(data, length);
        mx_error error = {0};
        assert_int_not_equal(attempt(copy, length, &error), MX_OK);
        assert_int_equal(strncmp(error.text, "f: ", 3), 0);
        free(copy);
    }
}

/* Each of the first `span` bytes changed by each mask: an error, or a file that holds
 * together; some of either. */
static inline void check_flipped(const uint8_t *data, size_t size, size_t span,
                                 const uint8_t *masks, size_t n_masks, try_fn attempt)
{
    size_t accepted = 0, refused = 0;
    uint8_t *copy = exact_copy(data, size);
    for (size_t at = 0; at < span; at++) {
        for (size_t m = 0; m < n_masks; m++) {
            copy[at] = data[at] ^ masks[m];
            mx_error error = {0};
            const bool good = attempt(copy, size, &error) == MX_OK;
            accepted += good;
            refused += !good;
        }
        copy[at] = data[at];
    }
    assert_true(accepted > 0 && refused > 0);
    free(copy);
}

#endif

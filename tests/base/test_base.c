/* The base layer: text, JSON access, generators, atomic files, the team. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/cpu.h"
#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "base/str.h"
#include "base/team.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void error_text_is_one_printable_line(void **state)
{
    (void)state;
    mx_error err = {0};
    assert_int_equal(mx_error_set(&err, MX_ERR_FORMAT, "a\nb\x1b[31m%d", 7), MX_ERR_FORMAT);
    assert_string_equal(err.text, "a?b?[31m7");
    /* A message that quotes the error it extends. */
    mx_error_set(&err, MX_ERR_IO, "x: %s", err.text);
    assert_string_equal(err.text, "x: a?b?[31m7");
    assert_int_equal(mx_error_set(NULL, MX_ERR_IO, "nobody listens"), MX_ERR_IO);
}

static void str_grows(void **state)
{
    (void)state;
    mx_str str = {0};
    for (int i = 0; i < 1000; i++) {
        mx_str_addf(&str, "%d,", i);
    }
    char *text;
    assert_int_equal(mx_str_take(&str, &text, NULL), MX_OK);
    assert_int_equal(strlen(text), 10 * 2 + 90 * 3 + 900 * 4);
    assert_memory_equal(text, "0,1,2,", 6);
    free(text);
    assert_int_equal(mx_str_take(&str, &text, NULL), MX_OK);
    assert_string_equal(text, "");
    free(text);
}

/* Known answers of Philox4x32-10 from the Random123 distribution's kat_vectors. */
static void philox_known_answers(void **state)
{
    (void)state;
    uint32_t out[4];
    mx_philox(0, 0, 0, out);
    const uint32_t zeros[4] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
    assert_memory_equal(out, zeros, sizeof out);
    mx_philox(UINT64_MAX, UINT64_MAX, UINT64_MAX, out);
    const uint32_t ones[4] = {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd};
    assert_memory_equal(out, ones, sizeof out);
    mx_philox(0x299f31d0a4093822u, 0x0370734413198a2eu, 0x85a308d3243f6a88u, out);
    const uint32_t pi[4] = {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1};
    assert_memory_equal(out, pi, sizeof out);
    assert_int_equal(mx_philox_u32(0, 0, 2), zeros[2]);
}

static void json_getters_name_the_field(void **state)
{
    (void)state;
    static const char text[] = "{\"n\": 7, \"x\": 1.5, \"s\": \"hi\", \"z\": null}";
    mx_error err = {0};
    json_t *root;
    int64_t n;
    double x;
    const char *s;
    bool b;
    assert_int_equal(mx_json_parse(text, sizeof text - 1, "f.json", &root, &err), MX_OK);
    assert_int_equal(mx_json_get_int(root, "n", "f.json", true, 0, 0, 10, &n, &err), MX_OK);
    assert_int_equal(n, 7);
    assert_int_equal(mx_json_get_real(root, "n", "f.json", true, 0, &x, &err), MX_OK);
    assert_true(x == 7.0);
    assert_int_equal(mx_json_get_int(root, "n", "f.json", true, 0, 0, 6, &n, &err), MX_ERR_FORMAT);
    assert_string_equal(err.text, "f.json: n: 7 is outside 0 to 6");
    assert_int_equal(mx_json_get_int(root, "x", "f.json", true, 0, 0, 6, &n, &err), MX_ERR_FORMAT);
    assert_string_equal(err.text, "f.json: x: must be an integer");
    assert_int_equal(mx_json_get_string(root, "z", "f.json", false, "d", &s, &err), MX_OK);
    assert_string_equal(s, "d");
    assert_int_equal(mx_json_get_string(root, "z", "f.json", true, "d", &s, &err), MX_ERR_FORMAT);
    assert_string_equal(err.text, "f.json: z: missing");
    assert_int_equal(mx_json_get_bool(root, "s", "f.json", true, false, &b, &err), MX_ERR_FORMAT);
    json_decref(root);
    assert_int_equal(mx_json_parse("{\"a\":1,\"a\":2}", 13, "g", &root, &err), MX_ERR_FORMAT);
    assert_null(root);
    assert_non_null(strstr(err.text, "g: not valid JSON"));
    assert_int_equal(mx_json_parse("[\"a\\u0000\"]", 11, "g", &root, &err), MX_ERR_FORMAT);
}

static void atomic_file_appears_at_commit(void **state)
{
    (void)state;
    char dir[] = "/tmp/mxlm-test-XXXXXX";
    assert_non_null(mkdtemp(dir));
    char *path = mx_path_join(dir, "out.bin");
    mx_error err = {0};
    mx_atomic_file *file;
    assert_int_equal(mx_atomic_open(path, &file, &err), MX_OK);
    assert_int_equal(mx_atomic_write(file, "abcdef", 6, &err), MX_OK);
    assert_false(mx_path_is_file(path));
    assert_int_equal(mx_atomic_commit(file, &err), MX_OK);
    char *text;
    size_t size;
    assert_int_equal(mx_file_read(path, 100, &text, &size, &err), MX_OK);
    assert_string_equal(text, "abcdef");
    free(text);
    assert_int_equal(mx_file_read(path, 5, &text, &size, &err), MX_ERR_FORMAT);
    /* An aborted write leaves the old content and no temporary name. */
    assert_int_equal(mx_atomic_open(path, &file, &err), MX_OK);
    assert_int_equal(mx_atomic_write(file, "new", 3, &err), MX_OK);
    mx_atomic_abort(file);
    mx_map map;
    assert_int_equal(mx_map_open(path, &map, &err), MX_OK);
    assert_int_equal(map.size, 6);
    mx_map_drop(&map, 0, map.size);
    assert_memory_equal(map.data, "abcdef", 6);
    mx_map_close(&map);
    assert_int_equal(unlink(path), 0);
    free(path);
    assert_int_equal(rmdir(dir), 0); /* empty: no temporary file was left */
    assert_int_equal(mx_map_open(dir, &map, &err), MX_ERR_IO);
}

typedef struct cover {
    atomic_uint *seen; /* [n] */
    atomic_int bad;
    int size;
} cover;

static void cover_range(void *ctx, size_t begin, size_t end, int thread)
{
    cover *c = ctx;
    if (thread < 0 || thread >= c->size) {
        atomic_fetch_add(&c->bad, 1);
    }
    for (size_t i = begin; i < end; i++) {
        atomic_fetch_add(&c->seen[i], 1);
    }
}

static void team_covers_every_index_once(void **state)
{
    (void)state;
    enum { N = 1000 };
    static atomic_uint seen[N];
    for (int threads = 1; threads <= 8; threads++) {
        mx_team *team;
        assert_int_equal(mx_team_create(threads, &team, NULL), MX_OK);
        cover c = {.seen = seen, .size = mx_team_size(team)};
        for (size_t round = 0; round < 300; round++) {
            size_t n = round * 7 % N, grain = round % 13;
            memset(seen, 0, sizeof seen);
            mx_team_for(team, n, grain, cover_range, &c);
            for (size_t i = 0; i < N; i++) {
                assert_int_equal(seen[i], i < n);
            }
            if (round % 50 == 0) {
                usleep(20000); /* lets the workers fall asleep */
            }
        }
        assert_int_equal(c.bad, 0);
        mx_team_free(team);
    }
    mx_team *team;
    mx_error err;
    assert_int_equal(mx_team_create(-1, &team, &err), MX_ERR_ARGUMENT);
    assert_null(team);
}

static void cpu_mask_is_checked(void **state)
{
    (void)state;
    uint32_t flags;
    mx_error err;
    setenv("MXLM_CPU", "ref", 1);
    assert_int_equal(mx_cpu_flags(&flags, &err), MX_OK);
    assert_int_equal(flags, 0);
    setenv("MXLM_CPU", "mmx", 1);
    assert_int_equal(mx_cpu_flags(&flags, &err), MX_ERR_ARGUMENT);
    unsetenv("MXLM_CPU");
    assert_int_equal(mx_cpu_flags(&flags, &err), MX_OK);
    assert_int_equal(flags, mx_cpu_detect());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_text_is_one_printable_line),
        cmocka_unit_test(str_grows),
        cmocka_unit_test(philox_known_answers),
        cmocka_unit_test(json_getters_name_the_field),
        cmocka_unit_test(atomic_file_appears_at_commit),
        cmocka_unit_test(team_covers_every_index_once),
        cmocka_unit_test(cpu_mask_is_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

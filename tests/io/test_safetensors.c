/* safetensors: files of the format's own package and of the shared goldens, what the
 * writer writes, every rule of the format, damaged files. */
#include "io_fixture.h"

#include "io/safetensors.h"

/* ---- valid files --------------------------------------------------------- */

static const mx_tensor *find(const mx_safetensors *reader, const char *name)
{
    const mx_tensor *tensor = mx_safetensors_find(reader, name);
    if (tensor == NULL) {
        fail_msg("no tensor %s", name);
    }
    assert_string_equal(tensor->name, name);
    return tensor;
}

/* tests/golden/containers.safetensors, by the safetensors package. */
static void test_python_file(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        mx_dtype dtype;
        size_t size;
    } plain[] = {
        {"F64", MX_DTYPE_F64, 48}, {"F32", MX_DTYPE_F32, 24}, {"F16", MX_DTYPE_F16, 12},
        {"I64", MX_DTYPE_I64, 48}, {"I32", MX_DTYPE_I32, 24}, {"I16", MX_DTYPE_I16, 12},
        {"I8", MX_DTYPE_I8, 6},    {"U64", MX_DTYPE_U64, 48}, {"U32", MX_DTYPE_U32, 24},
        {"U16", MX_DTYPE_U16, 12}, {"U8", MX_DTYPE_U8, 6},    {"BOOL", MX_DTYPE_BOOL, 6},
    };
    char *path = golden_path("containers.safetensors");
    mx_safetensors *reader;
    assert_ok(mx_safetensors_open(path, &reader, err));
    assert_int_equal(mx_safetensors_count(reader), MX_COUNT(plain) + 4);
    for (size_t i = 0; i < MX_COUNT(plain); i++) {
        const mx_tensor *tensor = find(reader, plain[i].name);
        assert_int_equal(tensor->dtype, plain[i].dtype);
        assert_string_equal(tensor->type_name, plain[i].name);
        assert_int_equal(tensor->n_dims, 2);
        assert_int_equal(tensor->shape[0], 2);
        assert_int_equal(tensor->shape[1], 3);
        assert_int_equal(tensor->size, plain[i].size);
        assert_string_equal(tensor->file, path);
    }
    float values[6];
    mx_dtype_get(MX_DTYPE_F16)->decode(find(reader, "F16")->data, 6, values);
    for (int i = 0; i < 6; i++) {
        assert_true(values[i] == (float)i);
    }
    assert_int_equal(find(reader, "scalar")->n_dims, 0);
    assert_int_equal(mx_tensor_count(find(reader, "scalar")), 1);
    assert_int_equal(mx_tensor_count(find(reader, "empty")), 0);
    assert_int_equal(find(reader, "empty too")->shape[0], 3);
    find(reader, "gr\xc3\xb6\xc3\x9f"
                 "e \xe6\xbc\xa2 \"quoted\"\n");
    assert_null(mx_safetensors_find(reader, "absent"));
    assert_string_equal(mx_safetensors_metadata(reader, "k\xc3\xa9y"), "v");
    assert_null(mx_safetensors_metadata(reader, "absent"));
    assert_non_null(mx_safetensors_map(reader));
    mx_safetensors_close(reader);
    free(path);
}

static void test_shared_golden(void **state)
{
    (void)state;
    char *path = data_path_or_skip("golden/microxcaling.safetensors");
    mx_safetensors *reader;
    assert_ok(mx_safetensors_open(path, &reader, err));
    const mx_tensor *input = find(reader, "input.32");
    assert_int_equal(input->dtype, MX_DTYPE_F32);
    assert_int_equal(input->shape[0], 240);
    assert_int_equal(input->shape[1], 32);
    assert_true(mx_safetensors_count(reader) > 60);
    /* File order, each tensor where the last one ended. */
    for (size_t i = 1; i < mx_safetensors_count(reader); i++) {
        const mx_tensor *last = mx_safetensors_at(reader, i - 1);
        assert_true(mx_safetensors_at(reader, i)->offset == last->offset + last->size);
    }
    mx_safetensors_close(reader);
    free(path);
}

/* ---- writer -------------------------------------------------------------- */

static const mx_tensor_plan plans[] = {
    {"a", MX_DTYPE_F32, 2, {2, 3}},
    {"scalar", MX_DTYPE_BF16, 0, {0}},
    {"empty", MX_DTYPE_U8, 1, {0}},
    {"codes \xc3\xa9", MX_DTYPE_U8, 1, {5}},
};
static const char *const metadata[] = {"format", "pt", "note", "two\nlines"};

static uint8_t written_bytes[24 + 2 + 5] = {1, 2, 3, [30] = 9};

static void write_sample(const char *path)
{
    mx_safetensors_writer *writer;
    assert_ok(mx_safetensors_create(path, plans, MX_COUNT(plans), metadata, 2, &writer, err));
    /* In pieces that ignore where tensors end. */
    for (size_t at = 0; at < sizeof written_bytes; at += 7) {
        const size_t left = sizeof written_bytes - at;
        assert_ok(mx_safetensors_write(writer, written_bytes + at, left < 7 ? left : 7, err));
    }
    assert_ok(mx_safetensors_finish(writer, err));
}

static void test_writer_round_trip(void **state)
{
    (void)state;
    char *folder = make_folder(), *path = mx_path_join(folder, "x.safetensors");
    write_sample(path);
    mx_safetensors *reader;
    assert_ok(mx_safetensors_open(path, &reader, err));
    assert_int_equal(mx_safetensors_count(reader), MX_COUNT(plans));
    assert_int_equal(mx_safetensors_at(reader, 0)->offset % 8, 0);
    uint64_t begin = mx_safetensors_at(reader, 0)->offset;
    for (size_t i = 0; i < MX_COUNT(plans); i++) {
        const mx_tensor *tensor = find(reader, plans[i].name);
        assert_int_equal(tensor->dtype, plans[i].dtype);
        assert_int_equal(tensor->n_dims, plans[i].n_dims);
        assert_memory_equal(tensor->data, written_bytes + (tensor->offset - begin), tensor->size);
    }
    assert_string_equal(mx_safetensors_metadata(reader, "note"), "two\nlines");
    mx_safetensors_close(reader);
    free(path);
    remove_folder(folder, (const char *const[]){"x.safetensors", NULL});
}

/* A refused or unfinished file leaves nothing behind. */
static void test_writer_refusals(void **state)
{
    (void)state;
    char *folder = make_folder(), *path = mx_path_join(folder, "x.safetensors");
    mx_safetensors_writer *writer = NULL;
    mx_error error;
    const mx_tensor_plan twice[] = {{"a", MX_DTYPE_F32, 0, {0}}, {"a", MX_DTYPE_F32, 0, {0}}};
    const mx_tensor_plan blocks[] = {{"a", MX_DTYPE_Q4_1, 1, {32}}};
    const mx_tensor_plan huge[] = {{"a", MX_DTYPE_F32, 2, {1ull << 40, 1ull << 40}}};
    const mx_tensor_plan latin1[] = {{"\xe9", MX_DTYPE_F32, 0, {0}}};
    const mx_tensor_plan reserved[] = {{"__metadata__", MX_DTYPE_F32, 0, {0}}};
    const struct {
        const mx_tensor_plan *plans;
        size_t n;
        const char *reason;
    } refused[] = {{twice, 2, "name is taken"},
                   {blocks, 1, "no name for its type"},
                   {huge, 1, "too large"},
                   {latin1, 1, "UTF-8"},
                   {reserved, 1, "name is taken"}};
    for (size_t i = 0; i < MX_COUNT(refused); i++) {
        assert_int_equal(
            mx_safetensors_create(path, refused[i].plans, refused[i].n, NULL, 0, &writer, &error),
            MX_ERR_ARGUMENT);
        assert_null(writer);
        expect_text(&error, refused[i].reason);
    }
    assert_ok(mx_safetensors_create(path, plans, MX_COUNT(plans), NULL, 0, &writer, err));
    assert_ok(mx_safetensors_write(writer, written_bytes, 30, err));
    assert_int_equal(mx_safetensors_write(writer, written_bytes, 2, &error), MX_ERR_ARGUMENT);
    assert_int_equal(mx_safetensors_finish(writer, &error), MX_ERR_ARGUMENT);
    expect_text(&error, "30 bytes of 31");
    assert_ok(mx_safetensors_create(path, plans, MX_COUNT(plans), NULL, 0, &writer, err));
    mx_safetensors_abort(writer);
    mx_safetensors_abort(NULL);
    free(path);
    /* rmdir fails unless the folder is empty. */
    remove_folder(folder, (const char *const[]){NULL});
}

/* ---- rules --------------------------------------------------------------- */

/* A file of this header and `data` bytes of buffer; NULL-terminated header. */
static uint8_t *make_file(const char *header, size_t data, size_t *size)
{
    const size_t length = strlen(header);
    *size = 8 + length + data;
    uint8_t *file = calloc(1, *size);
    assert_non_null(file);
    file[0] = (uint8_t)length;
    file[1] = (uint8_t)(length >> 8);
    memcpy(file + 8, header, length);
    return file;
}

static mx_status parse_header(const char *header, size_t data, mx_error *err)
{
    size_t size;
    uint8_t *file = make_file(header, data, &size);
    mx_safetensors *reader;
    const mx_status status = mx_safetensors_parse(file, size, "f", &reader, err);
    assert_true((status == MX_OK) == (reader != NULL));
    mx_safetensors_close(reader);
    free(file);
    return status;
}

#define TENSOR(dtype, shape, begin, end)                                                           \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

static void test_rules_accepted(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t data;
    } good[] = {
        {"{}", 0},
        {"{}      ", 0},
        {"{\"__metadata__\":{}}", 0},
        {"{\"a\":" TENSOR("F32", "[]", "0", "4") "}", 4},
        {"{\"a\":" TENSOR("F32", "[2,0,7]", "0", "0") "}", 0},
        {"{\"b\":" TENSOR("U8", "[1]", "1", "2") ",\"a\":" TENSOR("U8", "[1]", "0", "1") "}", 2},
        {"{\"b\":" TENSOR("U8", "[0]", "1", "1") ",\"a\":" TENSOR("U8", "[1]", "0", "1") "}", 1},
        {"{\"a\":" TENSOR("F4", "[3,2]", "0", "3") "}", 3},
        {"{\"a\":" TENSOR("F6_E2M3", "[4]", "0", "3") "}", 3},
        {"{\"a\":" TENSOR("F8_E8M0", "[1,1,1,1,1,1,1,1]", "0", "1") "}", 1},
    };
    for (size_t i = 0; i < MX_COUNT(good); i++) {
        assert_ok(parse_header(good[i].header, good[i].data, err));
    }
}

static void test_rules_refused(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        const char *reason;
    } bad[] = {
        {"", 0, "does not start with '{'"},
        {" {}", 0, "does not start with '{'"},
        {"[]", 0, "does not start with '{'"},
        {"{", 0, "not valid JSON"},
        {"{}{}", 0, "not valid JSON"},
        {"{\"a\":1}", 0, "tensor a: must be an object"},
        {"{\"a\":{}}", 0, "tensor a: must be an object"},
        {"{\"a\\u0000b\":1}", 0, "not valid JSON"},
        {"{\"\xff\":1}", 0, "not valid JSON"},
        {"{\"a\":" TENSOR("U8", "[1]", "0", "1") ",\"a\":" TENSOR("U8", "[1]", "0", "1") "}", 1,
         "not valid JSON"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":1}}", 1,
         "tensor a: must be an object"},
        {"{\"__metadata__\":{\"a\":1}}", 0, "__metadata__.a: must be a string"},
        {"{\"__metadata__\":[]}", 0, "__metadata__: must be an object"},
        {"{\"a\":" TENSOR("Q4", "[1]", "0", "1") "}", 1, "dtype: unknown type Q4"},
        {"{\"a\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
         "dtype: must be a string"},
        {"{\"a\":" TENSOR("U8", "1", "0", "1") "}", 1, "shape: must be a list"},
        {"{\"a\":" TENSOR("U8", "[1.0]", "0", "1") "}", 1, "shape: must be a list"},
        {"{\"a\":" TENSOR("U8", "[-1]", "0", "1") "}", 1, "shape: must be a list"},
        {"{\"a\":" TENSOR("U8", "[1,1,1,1,1,1,1,1,1]", "0", "1") "}", 1, "more than 8 dimensions"},
        {"{\"a\":" TENSOR("F64", "[4294967296,4294967296]", "0", "0") "}", 0, "overflows"},
        {"{\"a\":" TENSOR("F64", "[4294967296,4294967296,0]", "0", "0") "}", 0, "overflows"},
        {"{\"a\":" TENSOR("F64", "[2305843009213693952]", "0", "0") "}", 0, "overflows"},
        {"{\"a\":" TENSOR("U8", "[9223372036854775808]", "0", "0") "}", 0, "not valid JSON"},
        {"{\"a\":" TENSOR("F4", "[3]", "0", "1") "}", 1, "whole bytes"},
        {"{\"a\":" TENSOR("U8", "[1]", "0", "2") "}", 2, "2 bytes where shape and dtype need 1"},
        {"{\"a\":" TENSOR("U8", "[1]", "1", "0") "}", 1, "outside the file"},
        {"{\"a\":" TENSOR("U8", "[2]", "0", "2") "}", 1, "outside the file"},
        {"{\"a\":" TENSOR("U8", "[1]", "9223372036854775806", "9223372036854775807") "}", 1,
         "outside the file"},
        {"{\"a\":" TENSOR("U8", "[1]", "0", "-1") "}", 1, "data_offsets: must be two"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1,
         "data_offsets: must be two"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,1]}}", 1,
         "data_offsets: must be two"},
        {"{\"a\":" TENSOR("U8", "[1]", "1", "2") "}", 2, "leaves a hole before it"},
        {"{\"a\":" TENSOR("U8", "[1]", "0", "1") ",\"b\":" TENSOR("U8", "[1]", "2", "3") "}", 3,
         "tensor b: data_offsets: leaves a hole"},
        {"{\"a\":" TENSOR("U8", "[2]", "0", "2") ",\"b\":" TENSOR("U8", "[2]", "1", "3") "}", 3,
         "tensor b: data_offsets: overlaps"},
        {"{\"a\":" TENSOR("U8", "[1]", "0", "1") ",\"b\":" TENSOR("U8", "[1]", "0", "1") "}", 1,
         "overlaps"},
        {"{\"a\":" TENSOR("U8", "[1]", "0", "1") "}", 2, "1 bytes behind the last tensor"},
        {"{}", 1, "1 bytes behind the last tensor"},
    };
    for (size_t i = 0; i < MX_COUNT(bad); i++) {
        mx_error error = {0};
        const mx_status status = parse_header(bad[i].header, bad[i].data, &error);
        if (status == MX_OK) {
            fail_msg("accepted: %s", bad[i].header);
        }
        expect_text(&error, bad[i].reason);
        assert_int_equal(strncmp(error.text, "f: ", 3), 0);
    }
}

static void test_header_length(void **state)
{
    (void)state;
    mx_safetensors *reader;
    mx_error error;
    uint8_t file[16] = {0};
    for (size_t size = 0; size < 8; size++) {
        assert_int_equal(mx_safetensors_parse(file, size, "f", &reader, &error), MX_ERR_FORMAT);
        expect_text(&error, "header length");
    }
    memset(file, 0xFF, 8); /* 2^64 - 1: must not wrap */
    assert_int_equal(mx_safetensors_parse(file, sizeof file, "f", &reader, &error), MX_ERR_FORMAT);
    expect_text(&error, "exceeds the format's 100000000");
    memset(file, 0, 8);
    file[0] = 9; /* one byte more than there is */
    assert_int_equal(mx_safetensors_parse(file, sizeof file, "f", &reader, &error), MX_ERR_FORMAT);
    expect_text(&error, "exceeds the file");
}

/* A header of `count` repeated pieces between `before` and `after`. */
static mx_status parse_repeated(const char *before, const char *piece, size_t count,
                                const char *after, mx_error *error)
{
    mx_str text = {0};
    char *header = NULL;
    mx_str_add(&text, before);
    for (size_t i = 0; i < count; i++) {
        mx_str_add(&text, piece);
    }
    mx_str_add(&text, after);
    assert_ok(mx_str_take(&text, &header, err));
    const mx_status status = parse_header(header, 0, error);
    free(header);
    return status;
}

/* Nesting far beyond what the stack would bear, and text that grows when parsed. */
static void test_bombs(void **state)
{
    (void)state;
    mx_error error;
    assert_int_equal(parse_repeated("{\"a\":", "[                ", 3000, "", &error),
                     MX_ERR_FORMAT);
    expect_text(&error, "not valid JSON");
    assert_int_equal(parse_repeated("{\"a\":[", "[],", 20000, "1]}", &error), MX_ERR_FORMAT);
    expect_text(&error, "too many lists");
    /* Brackets in names are names. */
    assert_ok(parse_repeated("{\"", "[[{\\\"", 100, "\":" TENSOR("U8", "[0]", "0", "0") "}", err));
}

/* ---- damage -------------------------------------------------------------- */

/* Walks over what a parsed file offers, so that a sanitizer sees every byte. */
static uint64_t touch(const mx_safetensors *reader)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < mx_safetensors_count(reader); i++) {
        const mx_tensor *tensor = mx_safetensors_at(reader, i);
        assert_ptr_equal(mx_safetensors_find(reader, tensor->name), tensor);
        for (uint64_t at = 0; at < tensor->size; at++) {
            sum += tensor->data[at];
        }
    }
    return sum;
}

static mx_status attempt(const uint8_t *data, size_t size, mx_error *error)
{
    mx_safetensors *reader;
    const mx_status status = mx_safetensors_parse(data, size, "f", &reader, error);
    if (status == MX_OK) {
        touch(reader);
    } else {
        assert_null(reader);
    }
    mx_safetensors_close(reader);
    return status;
}

static void test_truncated(void **state)
{
    (void)state;
    char *path = golden_path("containers.safetensors");
    uint8_t *data;
    size_t size;
    read_bytes(path, &data, &size);
    check_truncated(data, size, attempt);
    free(data);
    free(path);
}

static void test_flipped(void **state)
{
    (void)state;
    static const uint8_t masks[] = {0x01, 0x02, 0x10, 0x80, 0xFF};
    char *path = golden_path("containers.safetensors");
    uint8_t *data;
    size_t size;
    read_bytes(path, &data, &size);
    check_flipped(data, size, size, masks, MX_COUNT(masks), attempt);
    free(data);
    free(path);
}

static void test_files(void **state)
{
    (void)state;
    mx_safetensors *reader;
    mx_error error;
    assert_int_equal(mx_safetensors_open("/nonexistent/x", &reader, &error), MX_ERR_IO);
    expect_text(&error, "/nonexistent/x");
    char *folder = make_folder();
    assert_int_not_equal(mx_safetensors_open(folder, &reader, &error), MX_OK);
    write_text(folder, "empty", "");
    char *path = mx_path_join(folder, "empty");
    assert_int_equal(mx_safetensors_open(path, &reader, &error), MX_ERR_FORMAT);
    assert_null(reader);
    free(path);
    remove_folder(folder, (const char *const[]){"empty", NULL});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_python_file),
        cmocka_unit_test(test_shared_golden),
        cmocka_unit_test(test_writer_round_trip),
        cmocka_unit_test(test_writer_refusals),
        cmocka_unit_test(test_rules_accepted),
        cmocka_unit_test(test_rules_refused),
        cmocka_unit_test(test_header_length),
        cmocka_unit_test(test_bombs),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_flipped),
        cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

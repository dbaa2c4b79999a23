/* GGUF: a file of llama.cpp's Python package, the real checkpoint, hand-made hostile
 * files, damaged files. */
#include "io_fixture.h"

#include "io/gguf.h"

/* ---- real files ---------------------------------------------------------- */

static void expect_int(const mx_gguf *gguf, const char *key, int64_t expected)
{
    int64_t value = 0;
    assert_ok(mx_gguf_get_int(gguf, key, true, 0, INT64_MIN, INT64_MAX, &value, err));
    assert_true(value == expected);
}

static void test_typed_values(void **state)
{
    (void)state;
    char *path = golden_path("tiny_llama.gguf");
    mx_gguf *gguf;
    assert_ok(mx_gguf_open(path, &gguf, err));
    expect_int(gguf, "test.u8", 255);
    expect_int(gguf, "test.i8", -128);
    expect_int(gguf, "test.u16", 65535);
    expect_int(gguf, "test.i16", -32768);
    expect_int(gguf, "test.u32", 4294967295);
    expect_int(gguf, "test.i32", INT32_MIN);
    expect_int(gguf, "test.i64", INT64_MIN);
    mx_error error;
    int64_t integer;
    /* 2^64 - 1 is no int64. */
    assert_int_equal(
        mx_gguf_get_int(gguf, "test.u64", true, 0, INT64_MIN, INT64_MAX, &integer, &error),
        MX_ERR_FORMAT);
    expect_text(&error, "test.u64: must be an integer");
    double real;
    assert_ok(mx_gguf_get_real(gguf, "test.f32", true, 0, &real, err));
    assert_true(real == (double)0.1f);
    assert_ok(mx_gguf_get_real(gguf, "test.f64", true, 0, &real, err));
    assert_true(real == 0.1);
    assert_ok(mx_gguf_get_real(gguf, "test.i8", true, 0, &real, err));
    assert_true(real == -128);
    bool flag = false;
    assert_ok(mx_gguf_get_bool(gguf, "test.bool", true, false, &flag, err));
    assert_true(flag);
    mx_gguf_string string;
    assert_ok(mx_gguf_get_string(gguf, "test.string", true, &string, err));
    assert_int_equal(string.length, 6);
    assert_memory_equal(string.data, "na\xc3\xafve", 6);
    mx_gguf_close(gguf);
    free(path);
}

static void test_arrays(void **state)
{
    (void)state;
    char *path = golden_path("tiny_llama.gguf");
    mx_gguf *gguf;
    assert_ok(mx_gguf_open(path, &gguf, err));
    size_t count;
    const char *tokens = "tokenizer.ggml.tokens", *scores = "tokenizer.ggml.scores";
    assert_ok(mx_gguf_get_array(gguf, tokens, true, &count, err));
    assert_int_equal(count, 40);
    mx_gguf_string string;
    for (size_t i = 0; i < count; i++) {
        char expected[8];
        const int length = i == 39 ? 0 : snprintf(expected, sizeof expected, "t%zu", i);
        assert_ok(mx_gguf_array_string(gguf, tokens, i, &string, err));
        assert_int_equal(string.length, length);
        assert_memory_equal(string.data, expected, (size_t)length);
        double score;
        assert_ok(mx_gguf_array_real(gguf, scores, i, &score, err));
        assert_true(score == (double)i / 4);
    }
    int64_t integer;
    assert_ok(mx_gguf_array_int(gguf, "test.ints", 0, &integer, err));
    assert_int_equal(integer, -3);
    assert_ok(mx_gguf_array_int(gguf, "test.ints", 2, &integer, err));
    assert_int_equal(integer, 7);
    mx_error error;
    assert_int_equal(mx_gguf_array_int(gguf, "test.ints", 3, &integer, &error), MX_ERR_FORMAT);
    assert_int_equal(mx_gguf_array_int(gguf, tokens, 0, &integer, &error), MX_ERR_FORMAT);
    expect_text(&error, "tokenizer.ggml.tokens: must be an array of integers, is string");
    assert_int_equal(mx_gguf_array_string(gguf, scores, 0, &string, &error), MX_ERR_FORMAT);
    assert_int_equal(mx_gguf_get_array(gguf, "test.u8", true, &count, &error), MX_ERR_FORMAT);
    expect_text(&error, "test.u8: must be an array");
    assert_int_equal(mx_gguf_get_string(gguf, tokens, true, &string, &error), MX_ERR_FORMAT);
    expect_text(&error, "must not be an array");
    mx_gguf_close(gguf);
    free(path);
}

static void test_absent_values(void **state)
{
    (void)state;
    char *path = golden_path("tiny_llama.gguf");
    mx_gguf *gguf;
    assert_ok(mx_gguf_open(path, &gguf, err));
    int64_t integer;
    double real;
    bool flag;
    size_t count = 9;
    mx_gguf_string string;
    assert_ok(mx_gguf_get_int(gguf, "absent", false, -7, 0, 1, &integer, err));
    assert_int_equal(integer, -7);
    assert_ok(mx_gguf_get_real(gguf, "absent", false, 0.5, &real, err));
    assert_true(real == 0.5);
    assert_ok(mx_gguf_get_bool(gguf, "absent", false, true, &flag, err));
    assert_true(flag);
    assert_ok(mx_gguf_get_string(gguf, "absent", false, &string, err));
    assert_null(string.data);
    assert_ok(mx_gguf_get_array(gguf, "absent", false, &count, err));
    assert_int_equal(count, 0);
    mx_error error;
    assert_int_equal(mx_gguf_get_string(gguf, "absent", true, &string, &error), MX_ERR_FORMAT);
    expect_text(&error, "absent: missing");
    assert_int_equal(mx_gguf_get_int(gguf, "test.u8", true, 0, 0, 254, &integer, &error),
                     MX_ERR_FORMAT);
    expect_text(&error, "test.u8: 255 is outside 0 to 254");
    /* Prefixes of keys are other keys. */
    assert_int_equal(mx_gguf_get_bool(gguf, "test.boo", true, false, &flag, &error), MX_ERR_FORMAT);
    assert_int_equal(mx_gguf_get_bool(gguf, "test.u8", true, false, &flag, &error), MX_ERR_FORMAT);
    mx_gguf_close(gguf);
    free(path);
}

static void test_tensors(void **state)
{
    (void)state;
    char *path = golden_path("tiny_llama.gguf");
    mx_gguf *gguf;
    assert_ok(mx_gguf_open(path, &gguf, err));
    assert_int_equal(mx_gguf_count(gguf), 19);
    const mx_tensor *gate = mx_gguf_find(gguf, "blk.0.ffn_gate.weight");
    assert_non_null(gate);
    assert_int_equal(gate->dtype, MX_DTYPE_Q8_0);
    assert_int_equal(gate->n_dims, 2);
    assert_int_equal(gate->shape[0], 64);
    assert_int_equal(gate->shape[1], 32);
    assert_int_equal(gate->size, 64 * 34);
    assert_null(mx_gguf_find(gguf, "blk.0.ffn_gate.weigh"));
    assert_string_equal(mx_gguf_path(gguf), path);
    for (size_t i = 0; i < mx_gguf_count(gguf); i++) {
        const mx_tensor *tensor = mx_gguf_at(gguf, i);
        assert_int_equal(tensor->offset % 32, 0);
        assert_ptr_equal(mx_gguf_map(gguf)->data + tensor->offset, tensor->data);
    }
    mx_gguf_close(gguf);
    free(path);
}

static void test_smollm2(void **state)
{
    (void)state;
    char *path = find_smollm2();
    if (path == NULL) {
        skip();
    }
    mx_gguf *gguf;
    assert_ok(mx_gguf_open(path, &gguf, err));
    assert_int_equal(mx_gguf_count(gguf), 272);
    size_t q4_1 = 0, q8_0 = 0, f32 = 0, tokens;
    for (size_t i = 0; i < mx_gguf_count(gguf); i++) {
        const mx_dtype dtype = mx_gguf_at(gguf, i)->dtype;
        q4_1 += dtype == MX_DTYPE_Q4_1;
        q8_0 += dtype == MX_DTYPE_Q8_0;
        f32 += dtype == MX_DTYPE_F32;
    }
    assert_int_equal(q4_1, 210);
    assert_int_equal(q8_0, 1);
    assert_int_equal(f32, 61);
    assert_ok(mx_gguf_get_array(gguf, "tokenizer.ggml.tokens", true, &tokens, err));
    assert_int_equal(tokens, 49152);
    mx_gguf_string last;
    assert_ok(mx_gguf_array_string(gguf, "tokenizer.ggml.tokens", tokens - 1, &last, err));
    assert_true(last.length > 0 && last.length < 100);
    mx_gguf_close(gguf);
    free(path);
}

/* ---- hand-made files ----------------------------------------------------- */

typedef struct bytes {
    uint8_t data[4096];
    size_t size;
} bytes;

static void put(bytes *out, const void *data, size_t size)
{
    assert_true(size <= sizeof out->data - out->size);
    memcpy(out->data + out->size, data, size);
    out->size += size;
}

static void put_u32(bytes *out, uint32_t value)
{
    put(out, &value, sizeof value);
}

static void put_u64(bytes *out, uint64_t value)
{
    put(out, &value, sizeof value);
}

static void put_string(bytes *out, const char *text)
{
    put_u64(out, strlen(text));
    put(out, text, strlen(text));
}

static void put_header(bytes *out, uint64_t tensors, uint64_t values)
{
    out->size = 0;
    put(out, "GGUF", 4);
    put_u32(out, 3);
    put_u64(out, tensors);
    put_u64(out, values);
}

static void put_tensor(bytes *out, const char *name, uint32_t n_dims, const uint64_t *dims,
                       uint32_t type, uint64_t offset)
{
    put_string(out, name);
    put_u32(out, n_dims);
    for (uint32_t i = 0; i < n_dims && i < 8; i++) {
        put_u64(out, dims[i]);
    }
    put_u32(out, type);
    put_u64(out, offset);
}

static void put_padding(bytes *out, size_t alignment, size_t data)
{
    static const uint8_t zeros[1024];
    put(out, zeros, (alignment - out->size % alignment) % alignment);
    put(out, zeros, data);
}

/* Over a copy of the exact size first, so that a sanitizer sees any step beyond
 * the end; the reader handed out points into `file`. */
static mx_status parse(const bytes *file, mx_gguf **gguf, mx_error *err)
{
    uint8_t *copy = exact_copy(file->data, file->size);
    const mx_status status = mx_gguf_parse(copy, file->size, "f", gguf, err);
    assert_true((status == MX_OK) == (*gguf != NULL));
    mx_gguf_close(*gguf);
    free(copy);
    return mx_gguf_parse(file->data, file->size, "f", gguf, err);
}

static void expect_refused(const bytes *file, mx_status wanted, const char *reason)
{
    mx_gguf *gguf = NULL;
    mx_error error = {0};
    const mx_status status = parse(file, &gguf, &error);
    if (status != wanted) {
        mx_gguf_close(gguf);
        fail_msg("status %d for a file with: %s", status, reason);
    }
    expect_text(&error, reason);
    assert_int_equal(strncmp(error.text, "f: ", 3), 0);
}

static void test_headers(void **state)
{
    (void)state;
    bytes file = {{0}, 0};
    mx_gguf *gguf;
    expect_refused(&file, MX_ERR_FORMAT, "not a GGUF file");
    put_header(&file, 0, 0);
    assert_ok(parse(&file, &gguf, err));
    mx_gguf_close(gguf);
    file.data[4] = 2;
    expect_refused(&file, MX_ERR_UNSUPPORTED, "version: 2");
    memcpy(file.data + 4, "\0\0\0\3", 4); /* big-endian */
    expect_refused(&file, MX_ERR_UNSUPPORTED, "version: 50331648");
    put_header(&file, 0, UINT64_MAX);
    expect_refused(&file, MX_ERR_FORMAT, "metadata_kv_count: 18446744073709551615 pairs");
    put_header(&file, UINT64_MAX, 0);
    expect_refused(&file, MX_ERR_FORMAT, "tensor_count: 18446744073709551615 tensors");
}

static void test_hostile_values(void **state)
{
    (void)state;
    bytes file;
    put_header(&file, 0, 1);
    put_u64(&file, UINT64_MAX);
    put(&file, "0123456789abcdef", 16);
    expect_refused(&file, MX_ERR_FORMAT, "metadata key: needs 18446744073709551615 bytes");
    put_header(&file, 0, 1);
    put_string(&file, "a");
    put_u32(&file, 13);
    put_u64(&file, 0);
    expect_refused(&file, MX_ERR_FORMAT, "a: unknown value type");
    put_header(&file, 0, 1);
    put_u64(&file, 3);
    put(&file, "a\0b", 3);
    put_u32(&file, 0);
    put(&file, "", 1);
    expect_refused(&file, MX_ERR_FORMAT, "NUL in a key");
    put_header(&file, 0, 1);
    put_string(&file, "");
    put_u32(&file, 4);
    put_u32(&file, 0);
    expect_refused(&file, MX_ERR_FORMAT, "empty key");
    put_header(&file, 0, 1);
    put_string(&file, "flag");
    put_u32(&file, 7);
    put(&file, "\2", 1);
    expect_refused(&file, MX_ERR_FORMAT, "flag: bool is neither 0 nor 1");
    put_header(&file, 0, 2);
    for (int i = 0; i < 2; i++) {
        put_string(&file, "same");
        put_u32(&file, 4);
        put_u32(&file, 1);
    }
    expect_refused(&file, MX_ERR_FORMAT, "same: key occurs twice");
}

static void put_array(bytes *file, uint32_t type, uint64_t count)
{
    put_header(file, 0, 1);
    put_string(file, "list");
    put_u32(file, 9);
    put_u32(file, type);
    put_u64(file, count);
}

static void test_hostile_arrays(void **state)
{
    (void)state;
    bytes file;
    for (uint32_t type = 0; type < 13; type++) {
        put_array(&file, type, UINT64_MAX);
        put(&file, "0123456789abcdef", 16);
        expect_refused(&file, MX_ERR_FORMAT, type == 9 ? "unknown value type" : "longer than");
        put_array(&file, type, (1ull << 61) + 1); /* times 8 wraps to 8 */
        put(&file, "0123456789abcdef", 16);
        expect_refused(&file, MX_ERR_FORMAT, type == 9 ? "unknown value type" : "longer than");
    }
    /* Strings that claim to be longer than what is left. */
    put_array(&file, 8, 2);
    put_u64(&file, 1);
    put(&file, "x", 1);
    put_u64(&file, 1000);
    put(&file, "0123456789abcdef", 16);
    expect_refused(&file, MX_ERR_FORMAT, "metadata string: needs 1000 bytes");
    /* Nesting: legal, walked over, limited. */
    for (int depth = 1; depth < 12; depth++) {
        put_array(&file, 9, 1);
        for (int i = 1; i < depth; i++) {
            put_u32(&file, 9);
            put_u64(&file, 1);
        }
        put_u32(&file, 8);
        put_u64(&file, 1);
        put_string(&file, "deep");
        if (depth > 8) {
            expect_refused(&file, MX_ERR_FORMAT, "nested too deep");
            continue;
        }
        mx_gguf *gguf;
        mx_error error;
        mx_gguf_string string;
        int64_t integer;
        assert_ok(parse(&file, &gguf, err));
        assert_int_equal(mx_gguf_array_string(gguf, "list", 0, &string, &error), MX_ERR_FORMAT);
        assert_int_equal(mx_gguf_array_int(gguf, "list", 0, &integer, &error), MX_ERR_FORMAT);
        mx_gguf_close(gguf);
    }
    put_array(&file, 9, 1);
    put_u32(&file, 4);
    put_u64(&file, (1ull << 62) + 1); /* times 4 wraps to 4 */
    put_u32(&file, 0);
    expect_refused(&file, MX_ERR_FORMAT, "longer than the file");
}

static void test_hostile_tensors(void **state)
{
    (void)state;
    static const struct {
        uint32_t n_dims, type;
        uint64_t dims[8];
        uint64_t offset;
        const char *reason; /* NULL: accepted */
    } cases[] = {
        {1, 0, {8}, 0, NULL},
        {0, 0, {0}, 0, NULL},
        {2, 0, {0, 5}, 0, NULL},
        {1, 2, {32}, 0, NULL},
        {1, 10, {7777}, 32, NULL}, /* Q2_K: not read, hence not measured */
        {1, 99, {1}, 0, NULL},     /* a type of the future */
        {1, 0, {8}, 8, "offset: not aligned"},
        {1, 0, {9}, 0, "offset: data lies outside the file"},
        {1, 0, {8}, 32, "offset: data lies outside the file"},
        {1, 0, {8}, UINT64_MAX - 31, "offset: data lies outside the file"},
        {1, 0, {UINT64_MAX}, 0, "overflows"},
        {2, 0, {1ull << 32, 1ull << 32}, 0, "overflows"},
        {3, 0, {1ull << 32, 1ull << 32, 0}, 0, "overflows"},
        {1, 0, {1ull << 62}, 0, "overflows"},
        {1, 2, {31}, 0, "not whole blocks of Q4_0"},
        {2, 2, {16, 2}, 0, "not whole blocks of Q4_0"},
        {5, 0, {1, 1, 1, 1, 1}, 0, "n_dimensions: more than 4"},
    };
    for (size_t i = 0; i < MX_COUNT(cases); i++) {
        bytes file;
        put_header(&file, 1, 0);
        put_tensor(&file, "t", cases[i].n_dims, cases[i].dims, cases[i].type, cases[i].offset);
        put_padding(&file, 32, 32);
        if (cases[i].reason != NULL) {
            expect_refused(&file, MX_ERR_FORMAT, cases[i].reason);
            continue;
        }
        mx_gguf *gguf;
        assert_ok(parse(&file, &gguf, err));
        const mx_tensor *tensor = mx_gguf_find(gguf, "t");
        assert_non_null(tensor);
        assert_true(tensor->size <= 32);
        assert_true((tensor->dtype == MX_DTYPE_NONE) == (cases[i].type >= 10));
        mx_gguf_close(gguf);
    }
}

static void test_tensor_lists(void **state)
{
    (void)state;
    const uint64_t eight = 8;
    bytes file;
    mx_gguf *gguf;
    /* In any order of offsets, and with room between. */
    put_header(&file, 2, 0);
    put_tensor(&file, "b", 1, &eight, 0, 64);
    put_tensor(&file, "a", 1, &eight, 0, 0);
    put_padding(&file, 32, 96);
    assert_ok(parse(&file, &gguf, err));
    assert_string_equal(mx_gguf_at(gguf, 0)->name, "b");
    assert_int_equal(mx_gguf_find(gguf, "b")->offset - mx_gguf_find(gguf, "a")->offset, 64);
    mx_gguf_close(gguf);
    put_header(&file, 2, 0);
    put_tensor(&file, "a", 1, &eight, 0, 0);
    put_tensor(&file, "b", 1, &eight, 0, 0);
    put_padding(&file, 32, 64);
    expect_refused(&file, MX_ERR_FORMAT, "overlaps another tensor");
    put_header(&file, 2, 0);
    put_tensor(&file, "a", 1, &eight, 0, 0);
    put_tensor(&file, "a", 1, &eight, 0, 32);
    put_padding(&file, 32, 64);
    expect_refused(&file, MX_ERR_FORMAT, "tensor a: occurs twice");
    put_header(&file, 1, 0);
    put_u64(&file, 2);
    put(&file, "a", 2);
    put_u32(&file, 0);
    put_u32(&file, 0);
    put_u64(&file, 0);
    put_padding(&file, 32, 32);
    expect_refused(&file, MX_ERR_FORMAT, "tensor name: holds a NUL");
}

static void test_alignment(void **state)
{
    (void)state;
    static const struct {
        uint32_t alignment;
        const char *reason;
    } cases[] = {{8, NULL},
                 {256, NULL},
                 {0, "outside 1 to"},
                 {24, "not a power of two"},
                 {0x80000000u, "outside 1 to"}};
    const uint64_t two = 2;
    for (size_t i = 0; i < MX_COUNT(cases); i++) {
        bytes file;
        put_header(&file, 1, 1);
        put_string(&file, "general.alignment");
        put_u32(&file, 4);
        put_u32(&file, cases[i].alignment);
        put_tensor(&file, "t", 1, &two, 0, 0);
        put_padding(&file, cases[i].reason == NULL ? cases[i].alignment : 1, 8);
        if (cases[i].reason != NULL) {
            expect_refused(&file, MX_ERR_FORMAT, cases[i].reason);
            continue;
        }
        mx_gguf *gguf;
        assert_ok(parse(&file, &gguf, err));
        assert_int_equal(mx_gguf_at(gguf, 0)->offset, file.size - 8);
        mx_gguf_close(gguf);
    }
}

/* ---- damage -------------------------------------------------------------- */

static void touch(const mx_gguf *gguf)
{
    volatile uint64_t sum = 0;
    for (size_t i = 0; i < mx_gguf_count(gguf); i++) {
        const mx_tensor *tensor = mx_gguf_at(gguf, i);
        for (uint64_t at = 0; at < tensor->size; at += 61) {
            sum += tensor->data[at];
        }
        sum += tensor->size > 0 ? tensor->data[tensor->size - 1] : 0;
    }
    for (size_t i = 0; i < mx_gguf_key_count(gguf); i++) {
        const mx_gguf_string key = mx_gguf_key_at(gguf, i);
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)key.length, key.data);
        size_t count = 0;
        mx_gguf_string text = {0};
        (void)mx_gguf_get_string(gguf, name, true, &text, NULL);
        (void)mx_gguf_get_array(gguf, name, true, &count, NULL);
        if (count > 0) {
            (void)mx_gguf_array_string(gguf, name, count - 1, &text, NULL);
        }
        for (size_t at = 0; at < text.length; at++) {
            sum += (uint8_t)text.data[at];
        }
    }
}

static mx_status attempt(const uint8_t *data, size_t size, mx_error *error)
{
    mx_gguf *gguf;
    const mx_status status = mx_gguf_parse(data, size, "f", &gguf, error);
    if (status == MX_OK) {
        touch(gguf);
    } else {
        assert_null(gguf);
    }
    mx_gguf_close(gguf);
    return status;
}

static void test_truncated(void **state)
{
    (void)state;
    char *path = golden_path("tiny_llama.gguf");
    uint8_t *data;
    size_t size;
    read_bytes(path, &data, &size);
    /* The writer pads the end; nothing says that a reader must have the padding. */
    mx_gguf *gguf;
    assert_ok(mx_gguf_parse(data, size, "f", &gguf, err));
    size_t needed = 0;
    for (size_t i = 0; i < mx_gguf_count(gguf); i++) {
        const size_t end = (size_t)(mx_gguf_at(gguf, i)->offset + mx_gguf_at(gguf, i)->size);
        needed = end > needed ? end : needed;
    }
    mx_gguf_close(gguf);
    assert_true(needed <= size && size - needed < 32);
    check_truncated(data, needed, attempt);
    free(data);
    free(path);
}

static void test_flipped(void **state)
{
    (void)state;
    static const uint8_t masks[] = {0x01, 0x08, 0x80, 0xFF};
    char *path = golden_path("tiny_llama.gguf");
    uint8_t *data;
    size_t size;
    read_bytes(path, &data, &size);
    mx_gguf *gguf;
    assert_ok(mx_gguf_parse(data, size, "f", &gguf, err));
    const size_t header = (size_t)mx_gguf_at(gguf, 0)->offset;
    mx_gguf_close(gguf);
    check_flipped(data, size, header, masks, MX_COUNT(masks), attempt);
    free(data);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_typed_values),    cmocka_unit_test(test_arrays),
        cmocka_unit_test(test_absent_values),   cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_smollm2),         cmocka_unit_test(test_headers),
        cmocka_unit_test(test_hostile_values),  cmocka_unit_test(test_hostile_arrays),
        cmocka_unit_test(test_hostile_tensors), cmocka_unit_test(test_tensor_lists),
        cmocka_unit_test(test_alignment),       cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_flipped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

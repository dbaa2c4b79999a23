/* Where the tensors of an export lie, and the plans that cannot be laid out. */
#include "io_fixture.h"

#include "io/export_layout.h"

static const mx_tensor_plan plans[] = {
    {"bytes", MX_DTYPE_U8, 2, {3, 5}}, {"halves", MX_DTYPE_F16, 1, {7}},
    {"empty", MX_DTYPE_F32, 1, {0}},   {"doubles", MX_DTYPE_F64, 1, {2}},
    {"scalar", MX_DTYPE_F32, 0, {0}},
};

/* A shard made of its header and zeros, as the reader sees it. */
static void check_shard(const mx_export_layout *layout, uint32_t s)
{
    const mx_export_shard *shard = &layout->shards[s];
    const size_t size = shard->header_size + (size_t)shard->data_size;
    uint8_t *file = calloc(1, size);
    assert_non_null(file);
    memcpy(file, shard->header, shard->header_size);
    mx_safetensors *reader;
    assert_ok(mx_safetensors_parse(file, size, shard->name, &reader, err));
    size_t found = 0;
    for (size_t i = 0; i < layout->n_plans; i++) {
        const mx_tensor *tensor = mx_safetensors_find(reader, plans[i].name);
        assert_true((tensor != NULL) == (layout->slots[i].shard == s));
        if (tensor != NULL) {
            assert_int_equal(tensor->dtype, plans[i].dtype);
            assert_int_equal(tensor->offset, layout->slots[i].offset);
            assert_int_equal(tensor->size, layout->slots[i].size);
            /* Aligned to its elements: torch maps them in place. */
            assert_int_equal(tensor->offset % mx_dtype_get(tensor->dtype)->block_bytes, 0);
            found++;
        }
    }
    assert_int_equal(found, mx_safetensors_count(reader));
    assert_string_equal(mx_safetensors_metadata(reader, "format"), "pt");
    mx_safetensors_close(reader);
    free(file);
}

static void test_shards(void **state)
{
    (void)state;
    static const struct {
        uint64_t shard_bytes;
        uint32_t shards;
    } cases[] = {{1000, 1}, {30, 2}, {1, 4}};
    for (size_t i = 0; i < MX_COUNT(cases); i++) {
        mx_export_layout layout;
        assert_ok(
            mx_export_layout_init(&layout, plans, MX_COUNT(plans), cases[i].shard_bytes, err));
        assert_int_equal(layout.n_shards, cases[i].shards);
        for (uint32_t s = 0; s < layout.n_shards; s++) {
            check_shard(&layout, s);
        }
        json_t *index;
        assert_ok(mx_export_layout_index(&layout, &index, err));
        const json_t *map = json_object_get(index, "weight_map");
        assert_int_equal(json_object_size(map), MX_COUNT(plans));
        const json_t *total = json_object_get(json_object_get(index, "metadata"), "total_size");
        assert_int_equal(json_integer_value(total), 15 + 14 + 0 + 16 + 4);
        json_decref(index);
        mx_export_layout_clear(&layout);
    }
}

static void test_refused(void **state)
{
    (void)state;
    const mx_tensor_plan twice[] = {{"a", MX_DTYPE_U8, 1, {9}}, {"a", MX_DTYPE_U8, 1, {9}}};
    const mx_tensor_plan latin[] = {{"caf\xE9", MX_DTYPE_U8, 1, {9}}};
    const mx_tensor_plan blocks[] = {{"q", MX_DTYPE_Q8_0, 1, {32}}};
    const mx_tensor_plan huge[] = {{"h", MX_DTYPE_F32, 2, {1ull << 40, 1ull << 30}}};
    const mx_tensor_plan sum[] = {{"h", MX_DTYPE_U8, 1, {INT64_MAX}}, {"i", MX_DTYPE_U8, 1, {1}}};
    const mx_tensor_plan reserved[] = {{"__metadata__", MX_DTYPE_U8, 1, {9}}};
    const struct {
        const mx_tensor_plan *plans;
        size_t n;
        const char *reason;
    } cases[] = {
        {twice, 2, "tensor a: name is taken"},
        {latin, 1, "not UTF-8"},
        {blocks, 1, "no name for its type"},
        {huge, 1, "tensor h: shape: too large"},
        {sum, 2, "too large"},
        {reserved, 1, "name is taken"},
    };
    for (size_t i = 0; i < MX_COUNT(cases); i++) {
        /* In one file and, where there are two tensors, in two. */
        for (uint64_t shard_bytes = 1; shard_bytes < 1000; shard_bytes += 998) {
            mx_export_layout layout;
            mx_error error = {0};
            assert_int_equal(
                mx_export_layout_init(&layout, cases[i].plans, cases[i].n, shard_bytes, &error),
                MX_ERR_ARGUMENT);
            expect_text(&error, cases[i].reason);
            assert_null(layout.shards);
        }
    }
}

/* The same value however the bytes are cut; another for a byte more or changed. */
static void test_checksum(void **state)
{
    (void)state;
    uint8_t bytes[100];
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)(i * 37);
    }
    mx_checksum whole, pieces, shorter;
    mx_checksum_init(&whole);
    mx_checksum_init(&shorter);
    mx_checksum_update(&whole, bytes, sizeof bytes);
    mx_checksum_update(&shorter, bytes, sizeof bytes - 1);
    assert_true(mx_checksum_value(&whole) != mx_checksum_value(&shorter));
    for (size_t piece = 1; piece <= 17; piece++) {
        mx_checksum_init(&pieces);
        for (size_t at = 0; at < sizeof bytes; at += piece) {
            const size_t left = sizeof bytes - at;
            mx_checksum_update(&pieces, bytes + at, left < piece ? left : piece);
        }
        assert_true(mx_checksum_value(&pieces) == mx_checksum_value(&whole));
    }
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] ^= 0x10;
        mx_checksum_init(&pieces);
        mx_checksum_update(&pieces, bytes, sizeof bytes);
        assert_true(mx_checksum_value(&pieces) != mx_checksum_value(&whole));
        bytes[i] ^= 0x10;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_checksum),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

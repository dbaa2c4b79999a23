#define _GNU_SOURCE /* memmem */
/* Checkpoints: directories, shards, GGUF against the same model in safetensors, and
 * everything that must be refused. Quantized directories: test_quark.c. */
#include "io_fixture.h"

#include "io/checkpoint.h"
#include "io/safetensors.h"

static void open_golden(const char *name, mx_checkpoint **out)
{
    char *path = golden_path(name);
    assert_ok(mx_checkpoint_open(path, out, err));
    assert_string_equal(mx_checkpoint_path(*out), path);
    free(path);
}

/* ---- valid checkpoints --------------------------------------------------- */

static void test_directories(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        size_t count;
    } goldens[] = {{"llama_gqa", 11},
                   {"llama_bias", 34},
                   {"llama_headdim", 12},
                   {"llama_sharded", 21},
                   {"tiny_llama", 18}};
    for (size_t i = 0; i < MX_COUNT(goldens); i++) {
        mx_checkpoint *checkpoint;
        open_golden(goldens[i].name, &checkpoint);
        assert_int_equal(mx_checkpoint_count(checkpoint), goldens[i].count);
        assert_false(mx_checkpoint_is_gguf(checkpoint));
        assert_null(mx_checkpoint_gguf(checkpoint));
        assert_null(mx_checkpoint_specs(checkpoint));
        assert_null(mx_checkpoint_method(checkpoint));
        assert_non_null(mx_checkpoint_config_json(checkpoint));
        for (size_t t = 0; t < mx_checkpoint_count(checkpoint); t++) {
            const mx_tensor *tensor = mx_checkpoint_at(checkpoint, t);
            assert_ptr_equal(mx_checkpoint_find(checkpoint, tensor->name), tensor);
            mx_checkpoint_drop(checkpoint, tensor);
        }
        mx_checkpoint_close(checkpoint);
    }
    mx_checkpoint_close(NULL);
}

static void compare_configs(const mx_llama_config *a, const mx_llama_config *b)
{
    assert_int_equal(a->hidden, b->hidden);
    assert_int_equal(a->intermediate, b->intermediate);
    assert_int_equal(a->layers, b->layers);
    assert_int_equal(a->heads, b->heads);
    assert_int_equal(a->kv_heads, b->kv_heads);
    assert_int_equal(a->head_dim, b->head_dim);
    assert_int_equal(a->vocab, b->vocab);
    assert_int_equal(a->context, b->context);
    assert_true(a->norm_eps == b->norm_eps);
    assert_int_equal(a->tied, b->tied);
    assert_int_equal(a->attention_bias, b->attention_bias);
    assert_int_equal(a->mlp_bias, b->mlp_bias);
    assert_int_equal(a->bos_id, b->bos_id);
    assert_int_equal(a->n_eos, b->n_eos);
    assert_memory_equal(a->eos_ids, b->eos_ids, sizeof a->eos_ids);
    assert_int_equal(a->rope.kind, b->rope.kind);
    assert_true(a->rope.theta == b->rope.theta && a->rope.factor == b->rope.factor &&
                a->rope.low_freq_factor == b->rope.low_freq_factor &&
                a->rope.high_freq_factor == b->rope.high_freq_factor &&
                a->rope.original_context == b->rope.original_context);
}

/* Row r of a tensor by the model's counting, in fp32. */
static void decode_row(const mx_rows *rows, uint64_t row, float *out)
{
    mx_dtype_get(rows->tensor->dtype)->decode(mx_rows_at(rows, row), (size_t)rows->n_cols, out);
}

/* tiny_llama.gguf was made from what tiny_llama/ holds: permuted q and k, biases. */
static void test_gguf_equals_directory(void **state)
{
    (void)state;
    mx_checkpoint *dir, *gguf;
    open_golden("tiny_llama", &dir);
    open_golden("tiny_llama.gguf", &gguf);
    assert_true(mx_checkpoint_is_gguf(gguf));
    assert_null(mx_checkpoint_config_json(gguf));
    assert_non_null(mx_checkpoint_gguf(gguf));
    compare_configs(mx_checkpoint_config(gguf), mx_checkpoint_config(dir));
    assert_int_equal(mx_checkpoint_count(gguf), mx_checkpoint_count(dir));
    size_t permuted = 0;
    for (size_t i = 0; i < mx_checkpoint_count(dir); i++) {
        const char *name = mx_checkpoint_at(dir, i)->name;
        mx_rows a, b;
        float left[64], right[64];
        assert_ok(mx_checkpoint_rows(dir, name, &a, err));
        assert_ok(mx_checkpoint_rows(gguf, name, &b, err));
        assert_int_equal(a.n_rows, b.n_rows);
        assert_int_equal(a.n_cols, b.n_cols);
        permuted += b.permuted_head_dim != 0;
        for (uint64_t row = 0; row < a.n_rows; row++) {
            decode_row(&a, row, left);
            decode_row(&b, row, right);
            assert_memory_equal(left, right, (size_t)a.n_cols * sizeof(float));
        }
        mx_checkpoint_drop(gguf, b.tensor);
    }
    assert_int_equal(permuted, 2);
    mx_checkpoint_close(dir);
    mx_checkpoint_close(gguf);
}

/* The permutation by its definition: stored row (h, j, s) is model row (h, s, j). */
static void test_row_permutation(void **state)
{
    (void)state;
    enum { HEADS = 3, DIM = 10 };
    const mx_rows rows = {.permuted_head_dim = DIM};
    for (uint64_t h = 0; h < HEADS; h++) {
        for (uint64_t s = 0; s < 2; s++) {
            for (uint64_t j = 0; j < DIM / 2; j++) {
                assert_int_equal(mx_rows_source(&rows, h * DIM + s * (DIM / 2) + j),
                                 h * DIM + 2 * j + s);
            }
        }
    }
    const mx_rows plain = {0};
    assert_int_equal(mx_rows_source(&plain, 17), 17);
}

static void test_smollm2(void **state)
{
    (void)state;
    char *path = find_smollm2(), *config_path = find_data("smollm2/config.json");
    if (path == NULL || config_path == NULL) {
        free(path);
        free(config_path);
        skip();
    }
    mx_checkpoint *checkpoint;
    json_t *root;
    mx_llama_config expected;
    assert_ok(mx_checkpoint_open(path, &checkpoint, err));
    assert_ok(mx_json_load(config_path, 1 << 20, &root, err));
    assert_ok(mx_llama_config_parse(root, config_path, &expected, err));
    compare_configs(mx_checkpoint_config(checkpoint), &expected);
    assert_int_equal(mx_checkpoint_count(checkpoint), 272);
    mx_rows rows;
    assert_ok(
        mx_checkpoint_rows(checkpoint, "model.layers.29.self_attn.k_proj.weight", &rows, err));
    assert_int_equal(rows.n_rows, 192);
    assert_int_equal(rows.n_cols, 576);
    assert_int_equal(rows.row_bytes, 576 / 32 * 20);
    assert_int_equal(rows.permuted_head_dim, 64);
    assert_ok(mx_checkpoint_rows(checkpoint, "model.embed_tokens.weight", &rows, err));
    assert_int_equal(rows.permuted_head_dim, 0);
    mx_error error;
    assert_int_equal(mx_checkpoint_rows(checkpoint, "lm_head.weight", &rows, &error),
                     MX_ERR_FORMAT);
    expect_text(&error, "lm_head.weight: missing");
    mx_checkpoint_close(checkpoint);
    json_decref(root);
    free(path);
    free(config_path);
}

/* ---- changed GGUF files -------------------------------------------------- */

/* A temporary copy of tiny_llama.gguf, changed by the test before it is opened. */
typedef struct gguf_copy {
    char *folder, *path;
    uint8_t *data;
    size_t size;
} gguf_copy;

static void copy_gguf(gguf_copy *copy)
{
    char *golden = golden_path("tiny_llama.gguf");
    read_bytes(golden, &copy->data, &copy->size);
    copy->folder = make_folder();
    copy->path = mx_path_join(copy->folder, "m.gguf");
    free(golden);
}

static mx_status open_copy(const gguf_copy *copy, mx_checkpoint **out, mx_error *error)
{
    assert_ok(mx_file_write(copy->path, copy->data, copy->size, err));
    return mx_checkpoint_open(copy->path, out, error);
}

static void free_copy(gguf_copy *copy)
{
    remove_folder(copy->folder, (const char *const[]){"m.gguf", NULL});
    free(copy->path);
    free(copy->data);
}

/* The bytes of a tensor inside the copy. */
static uint8_t *tensor_bytes(const gguf_copy *copy, const char *name)
{
    mx_gguf *gguf;
    assert_ok(mx_gguf_parse(copy->data, copy->size, "f", &gguf, err));
    const mx_tensor *tensor = mx_gguf_find(gguf, name);
    assert_non_null(tensor);
    const uint64_t offset = tensor->offset;
    mx_gguf_close(gguf);
    return copy->data + offset;
}

static void test_rope_factors(void **state)
{
    (void)state;
    gguf_copy copy;
    copy_gguf(&copy);
    uint8_t *stored = tensor_bytes(&copy, "rope_freqs.weight");
    float factors[8];
    mx_checkpoint *checkpoint;
    mx_error error;
    /* Not what Llama 3's constants give: carried as they are. */
    for (int i = 0; i < 8; i++) {
        factors[i] = 1.0f + (float)i;
    }
    memcpy(stored, factors, sizeof factors);
    assert_ok(open_copy(&copy, &checkpoint, err));
    const mx_rope_config *rope = &mx_checkpoint_config(checkpoint)->rope;
    assert_int_equal(rope->kind, MX_ROPE_FACTORS);
    assert_memory_equal(rope->factors, factors, sizeof factors);
    json_t *root;
    assert_int_equal(mx_llama_config_to_json(mx_checkpoint_config(checkpoint), &root, &error),
                     MX_ERR_UNSUPPORTED);
    mx_checkpoint_close(checkpoint);
    /* All one: no scaling. */
    for (int i = 0; i < 8; i++) {
        factors[i] = 1.0f;
    }
    memcpy(stored, factors, sizeof factors);
    assert_ok(open_copy(&copy, &checkpoint, err));
    assert_int_equal(mx_checkpoint_config(checkpoint)->rope.kind, MX_ROPE_DEFAULT);
    mx_checkpoint_close(checkpoint);
    factors[3] = 0.0f;
    memcpy(stored, factors, sizeof factors);
    assert_int_equal(open_copy(&copy, &checkpoint, &error), MX_ERR_FORMAT);
    assert_null(checkpoint);
    expect_text(&error, "rope_freqs.weight: element 3 is not positive");
    free_copy(&copy);
}

/* Overwrites the first occurrence of `from` by `to` of the same length. */
static void replace(gguf_copy *copy, const char *from, const char *to)
{
    const size_t length = strlen(from);
    assert_int_equal(strlen(to), length);
    for (size_t at = 0; at + length <= copy->size; at++) {
        if (memcmp(copy->data + at, from, length) == 0) {
            memcpy(copy->data + at, to, length);
            return;
        }
    }
    fail_msg("no %s in the file", from);
}

static void test_gguf_refused(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to;
        mx_status status;
        const char *reason;
    } changes[] = {
        {"llama.vocab_size", "llama.pooling_to", MX_ERR_UNSUPPORTED, "llama.pooling_to"},
        {"llama.block_count", "llama.block_coont", MX_ERR_UNSUPPORTED, "llama.block_coont"},
        {"llama.block_count", "other.block_count", MX_ERR_FORMAT, "llama.block_count: missing"},
        {"general.architecture", "general.architectura", MX_ERR_FORMAT,
         "general.architecture: missing"},
        {"blk.0.ffn_up.weight", "blk.0.ffn_op.weight", MX_ERR_UNSUPPORTED,
         "tensor blk.0.ffn_op.weight"},
        {"blk.0.ffn_up.weight", "blk.1.ffn_up.weight", MX_ERR_UNSUPPORTED,
         "tensor model.layers.1.mlp.up_proj.weight: a Llama model of this config has no"},
        {"blk.0.attn_q.bias", "blk.7.attn_q.bias", MX_ERR_UNSUPPORTED, "q_proj.bias"},
        {"output_norm.weight", "output.weight\0\0\0\0\0", MX_ERR_FORMAT, "holds a NUL"},
        {"rope_freqs.weight", "rope_freqz.weight", MX_ERR_UNSUPPORTED, "rope_freqz.weight"},
    };
    for (size_t i = 0; i < MX_COUNT(changes); i++) {
        gguf_copy copy;
        mx_checkpoint *checkpoint;
        mx_error error = {0};
        copy_gguf(&copy);
        if (i == 7) { /* a C string cannot say it */
            uint8_t *at = memmem(copy.data, copy.size, "output_norm.weight", 18);
            assert_non_null(at);
            at[13] = '\0';
        } else {
            replace(&copy, changes[i].from, changes[i].to);
        }
        const mx_status status = open_copy(&copy, &checkpoint, &error);
        if (status != changes[i].status) {
            fail_msg("%s: status %d: %s", changes[i].to, status, error.text);
        }
        assert_null(checkpoint);
        expect_text(&error, changes[i].reason);
        free_copy(&copy);
    }
}

/* A metadata integer changed in place: the number follows key and type. */
static void set_u32(gguf_copy *copy, const char *key, uint32_t value)
{
    const size_t length = strlen(key);
    for (size_t at = 8; at + length + 8 <= copy->size; at++) {
        if (copy->data[at - 8] == length && memcmp(copy->data + at, key, length) == 0) {
            memcpy(copy->data + at + length + 4, &value, sizeof value);
            return;
        }
    }
    fail_msg("no %s", key);
}

static void test_gguf_shapes(void **state)
{
    (void)state;
    static const struct {
        const char *key;
        uint32_t value;
        const char *reason;
    } changes[] = {
        {"llama.embedding_length", 33, "shape: must be [40, 33]"},
        {"llama.embedding_length", 1, "llama.rope.dimension_count: 16 is not"},
        {"llama.feed_forward_length", 32, "by the config"},
        {"llama.attention.head_count", 4, "llama.rope.dimension_count"},
        {"llama.attention.head_count_kv", 2, "k_proj"},
        {"llama.rope.dimension_count", 8, "llama.rope.dimension_count: 8 is not"},
        {"llama.vocab_size", 41, "embed_tokens.weight: shape: must be [41, 32]"},
        {"llama.block_count", 2, "tensor model.layers.1.input_layernorm.weight: missing"},
        {"llama.block_count", 0xFFFFFFFF, "llama.block_count: 4294967295 is outside"},
        {"llama.attention.head_count", 0, "llama.attention.head_count: 0 is outside"},
    };
    for (size_t i = 0; i < MX_COUNT(changes); i++) {
        gguf_copy copy;
        mx_checkpoint *checkpoint;
        mx_error error = {0};
        copy_gguf(&copy);
        set_u32(&copy, changes[i].key, changes[i].value);
        if (open_copy(&copy, &checkpoint, &error) == MX_OK) {
            fail_msg("accepted %s", changes[i].key);
        }
        expect_text(&error, changes[i].reason);
        free_copy(&copy);
    }
}

/* A type that mxlm does not read is an error that names it. */
static void test_gguf_types(void **state)
{
    (void)state;
    gguf_copy copy;
    mx_checkpoint *checkpoint;
    mx_error error;
    copy_gguf(&copy);
    uint8_t *at = memmem(copy.data, copy.size, "blk.0.ffn_up.weight", 19);
    assert_non_null(at);
    const uint32_t q2_k = 10;
    memcpy(at + 19 + 4 + 16, &q2_k, sizeof q2_k);
    assert_int_equal(open_copy(&copy, &checkpoint, &error), MX_ERR_UNSUPPORTED);
    expect_text(&error, "tensor model.layers.0.mlp.up_proj.weight: type Q2_K");
    free_copy(&copy);
}

/* ---- hand-made directories ----------------------------------------------- */

/* Writes the tensors [begin, end) of the golden directory into a file, `renamed`
 * (may be NULL) under another name. */
static void write_part(const char *folder, const char *file, const mx_checkpoint *source,
                       size_t begin, size_t end, const char *renamed)
{
    mx_tensor_plan plans[32];
    char *path = mx_path_join(folder, file);
    mx_safetensors_writer *writer;
    for (size_t i = begin; i < end; i++) {
        const mx_tensor *tensor = mx_checkpoint_at(source, i);
        plans[i - begin] = (mx_tensor_plan){tensor->name, tensor->dtype, tensor->n_dims, {0}};
        memcpy(plans[i - begin].shape, tensor->shape, sizeof tensor->shape);
    }
    if (renamed != NULL) {
        plans[0].name = renamed;
    }
    assert_ok(mx_safetensors_create(path, plans, end - begin, NULL, 0, &writer, err));
    for (size_t i = begin; i < end; i++) {
        const mx_tensor *tensor = mx_checkpoint_at(source, i);
        assert_ok(mx_safetensors_write(writer, tensor->data, (size_t)tensor->size, err));
    }
    assert_ok(mx_safetensors_finish(writer, err));
    free(path);
}

static const char *const dir_files[] = {
    "config.json",   "model.safetensors", "model.safetensors.index.json",
    "a.safetensors", "b.safetensors",     NULL};

static void copy_config(const char *folder)
{
    char *path = golden_path("tiny_llama/config.json");
    uint8_t *text;
    size_t size;
    read_bytes(path, &text, &size);
    write_text(folder, "config.json", (const char *)text);
    free(text);
    free(path);
}

static void expect_dir(const char *folder, mx_status wanted, const char *reason)
{
    mx_checkpoint *checkpoint;
    mx_error error = {0};
    const mx_status status = mx_checkpoint_open(folder, &checkpoint, &error);
    if (status != wanted) {
        fail_msg("status %d (%s) instead of: %s", status, error.text, reason);
    }
    if (status == MX_OK) {
        mx_checkpoint_close(checkpoint);
        return;
    }
    assert_null(checkpoint);
    expect_text(&error, reason);
    assert_int_equal(strncmp(error.text, folder, strlen(folder)), 0);
}

static void test_missing_files(void **state)
{
    (void)state;
    char *folder = make_folder();
    expect_dir(folder, MX_ERR_IO, "config.json");
    write_text(folder, "config.json", "{");
    expect_dir(folder, MX_ERR_FORMAT, "config.json: not valid JSON");
    copy_config(folder);
    expect_dir(folder, MX_ERR_IO, "neither model.safetensors nor");
    write_text(folder, "model.safetensors", "junk");
    expect_dir(folder, MX_ERR_FORMAT, "model.safetensors: header length");
    mx_checkpoint *checkpoint;
    mx_error error;
    assert_int_equal(mx_checkpoint_open("/nonexistent", &checkpoint, &error), MX_ERR_IO);
    expect_text(&error, "/nonexistent");
    remove_folder(folder, dir_files);
}

static void test_wrong_tensors(void **state)
{
    (void)state;
    mx_checkpoint *source;
    open_golden("tiny_llama", &source);
    const size_t n = mx_checkpoint_count(source);
    char *folder = make_folder();
    copy_config(folder);
    write_part(folder, "model.safetensors", source, 0, n, NULL);
    expect_dir(folder, MX_OK, "");
    write_part(folder, "model.safetensors", source, 1, n, NULL);
    expect_dir(folder, MX_ERR_FORMAT, ": missing");
    write_part(folder, "model.safetensors", source, 0, n, "model.layers.0.self_attn.q_norm.weight");
    expect_dir(folder, MX_ERR_UNSUPPORTED,
               "tensor model.layers.0.self_attn.q_norm.weight: a Llama");
    write_part(folder, "model.safetensors", source, 0, n,
               "model.layers.0.mlp.up_proj.weight_scale");
    expect_dir(folder, MX_ERR_UNSUPPORTED, "up_proj.weight_scale: a Llama");
    mx_checkpoint_close(source);
    remove_folder(folder, dir_files);
}

/* A weight_map in which all tensors of the golden are in a or b, but for one that
 * the test says something else about. */
static void write_index(const char *folder, const mx_checkpoint *source, size_t split,
                        const char *other_name, const char *other_file)
{
    json_t *map = json_object();
    for (size_t i = 0; i < mx_checkpoint_count(source); i++) {
        json_object_set_new(map, mx_checkpoint_at(source, i)->name,
                            json_string(i < split ? "a.safetensors" : "b.safetensors"));
    }
    if (other_name != NULL && other_file == NULL) {
        json_object_del(map, other_name);
    } else if (other_name != NULL) {
        json_object_set_new(map, other_name, json_string(other_file));
    }
    json_t *root = json_pack("{s:{s:i}, s:o}", "metadata", "total_size", 1, "weight_map", map);
    char *text;
    assert_ok(mx_json_dump(root, 0, &text, err));
    write_text(folder, "model.safetensors.index.json", text);
    free(text);
    json_decref(root);
}

static void test_shards(void **state)
{
    (void)state;
    mx_checkpoint *source, *sharded;
    open_golden("tiny_llama", &source);
    const size_t n = mx_checkpoint_count(source);
    const char *first = mx_checkpoint_at(source, 0)->name;
    char *folder = make_folder();
    copy_config(folder);
    write_part(folder, "a.safetensors", source, 0, 5, NULL);
    write_part(folder, "b.safetensors", source, 5, n, NULL);
    write_index(folder, source, 5, NULL, NULL);
    assert_ok(mx_checkpoint_open(folder, &sharded, err));
    assert_int_equal(mx_checkpoint_count(sharded), n);
    for (size_t i = 0; i < n; i++) {
        const mx_tensor *left = mx_checkpoint_at(source, i);
        const mx_tensor *right = mx_checkpoint_find(sharded, left->name);
        assert_non_null(right);
        assert_int_equal(left->size, right->size);
        assert_memory_equal(left->data, right->data, left->size);
        mx_checkpoint_drop(sharded, right);
        assert_memory_equal(left->data, right->data, left->size);
    }
    mx_checkpoint_close(sharded);
    write_index(folder, source, 5, first, "b.safetensors");
    expect_dir(folder, MX_ERR_FORMAT, ": not in b.safetensors");
    write_index(folder, source, 5, first, NULL);
    expect_dir(folder, MX_ERR_FORMAT, "weight_map: 17 tensors, but the shards hold 18");
    write_index(folder, source, 5, "extra", "a.safetensors");
    expect_dir(folder, MX_ERR_FORMAT, "weight_map.extra: not in a.safetensors");
    write_index(folder, source, 5, first, "c.safetensors");
    expect_dir(folder, MX_ERR_IO, "c.safetensors");
    static const char *const escapes[] = {
        "../a.safetensors", "/etc/passwd", "x/../a.safetensors", "..", ".", "", ".hidden"};
    for (size_t i = 0; i < MX_COUNT(escapes); i++) {
        write_index(folder, source, 5, first, escapes[i]);
        expect_dir(folder, MX_ERR_FORMAT, "must be the name of a file in the directory");
    }
    write_text(folder, "model.safetensors.index.json", "{\"weight_map\":{}}");
    expect_dir(folder, MX_ERR_FORMAT, "weight_map: must be a non-empty object");
    write_text(folder, "model.safetensors.index.json", "{\"weight_map\":{\"a\":1}}");
    expect_dir(folder, MX_ERR_FORMAT, "weight_map.a: must be the name");
    write_text(folder, "model.safetensors.index.json", "[]");
    expect_dir(folder, MX_ERR_FORMAT, "weight_map: must be");
    /* A tensor in two shards. */
    write_part(folder, "b.safetensors", source, 4, n, NULL);
    write_index(folder, source, 5, NULL, NULL);
    expect_dir(folder, MX_ERR_FORMAT, "18 tensors, but the shards hold 19");
    mx_checkpoint_close(source);
    remove_folder(folder, dir_files);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_directories),     cmocka_unit_test(test_gguf_equals_directory),
        cmocka_unit_test(test_row_permutation), cmocka_unit_test(test_smollm2),
        cmocka_unit_test(test_rope_factors),    cmocka_unit_test(test_gguf_refused),
        cmocka_unit_test(test_gguf_shapes),     cmocka_unit_test(test_gguf_types),
        cmocka_unit_test(test_missing_files),   cmocka_unit_test(test_wrong_tensors),
        cmocka_unit_test(test_shards),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

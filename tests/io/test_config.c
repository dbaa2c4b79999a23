/* config.json: the real ones, every field's rules, writing and reading back. */
#include "io_fixture.h"

#include "io/hf_config.h"
#include "io/llama_layout.h"

/* A small valid config without one member and with those of `extra`. */
static json_t *make_config(const char *without, const char *extra)
{
    static const char base[] = "{\"model_type\":\"llama\",\"hidden_size\":64,"
                               "\"intermediate_size\":96,\"num_hidden_layers\":2,"
                               "\"num_attention_heads\":4,\"vocab_size\":50}";
    json_t *root = json_loads(base, 0, NULL);
    json_t *more = json_loads(extra, 0, NULL);
    assert_non_null(root);
    assert_non_null(more);
    if (without != NULL) {
        assert_int_equal(json_object_del(root, without), 0);
    }
    json_object_update(root, more);
    json_decref(more);
    return root;
}

static mx_status parse(const char *without, const char *extra, mx_llama_config *out, mx_error *err)
{
    json_t *root = make_config(without, extra);
    const mx_status status = mx_llama_config_parse(root, "c", out, err);
    json_decref(root);
    return status;
}

static void load(const char *path, mx_llama_config *out)
{
    json_t *root;
    assert_ok(mx_json_load(path, 1 << 20, &root, err));
    assert_ok(mx_llama_config_parse(root, path, out, err));
    json_decref(root);
}

/* ---- real files ---------------------------------------------------------- */

static void test_llama_3_2(void **state)
{
    (void)state;
    char *path = data_path_or_skip("llama-3.2-1b/config.json");
    mx_llama_config c;
    load(path, &c);
    assert_int_equal(c.hidden, 2048);
    assert_int_equal(c.intermediate, 8192);
    assert_int_equal(c.layers, 16);
    assert_int_equal(c.heads, 32);
    assert_int_equal(c.kv_heads, 8);
    assert_int_equal(c.head_dim, 64);
    assert_int_equal(c.vocab, 128256);
    assert_int_equal(c.context, 131072);
    assert_true(c.norm_eps == 1e-5f);
    assert_true(c.tied && !c.attention_bias && !c.mlp_bias);
    assert_int_equal(c.bos_id, 128000);
    assert_int_equal(c.n_eos, 1);
    assert_int_equal(c.eos_ids[0], 128001);
    assert_int_equal(c.rope.kind, MX_ROPE_LLAMA3);
    assert_true(c.rope.theta == 500000 && c.rope.factor == 32 && c.rope.low_freq_factor == 1 &&
                c.rope.high_freq_factor == 4 && c.rope.original_context == 8192);
    /* 112 projections: 16 layers of seven. */
    size_t projections = 0;
    for (size_t i = 0; i < mx_llama_tensor_count(&c); i++) {
        mx_llama_tensor tensor;
        mx_llama_tensor_at(&c, i, &tensor);
        projections += tensor.projection;
    }
    assert_int_equal(projections, 112);
    free(path);
}

static void test_smollm2(void **state)
{
    (void)state;
    char *path = data_path_or_skip("smollm2/config.json");
    mx_llama_config c;
    load(path, &c);
    assert_int_equal(c.hidden, 576);
    assert_int_equal(c.kv_heads, 3);
    assert_int_equal(c.rope.kind, MX_ROPE_DEFAULT);
    assert_true(c.rope.theta == 100000);
    free(path);
}

/* ---- fields -------------------------------------------------------------- */

static void test_defaults(void **state)
{
    (void)state;
    mx_llama_config c;
    assert_ok(parse(NULL, "{}", &c, err));
    assert_int_equal(c.kv_heads, 4);
    assert_int_equal(c.head_dim, 16);
    assert_int_equal(c.context, 2048);
    assert_true(c.norm_eps == 1e-6f);
    assert_true(!c.tied && !c.attention_bias && !c.mlp_bias);
    assert_int_equal(c.bos_id, -1);
    assert_int_equal(c.n_eos, 0);
    assert_int_equal(c.rope.kind, MX_ROPE_DEFAULT);
    assert_true(c.rope.theta == 10000 && c.rope.factor == 1);
    assert_ok(parse("model_type", "{\"architectures\":[\"LlamaForCausalLM\"]}", &c, err));
    assert_ok(parse(NULL, "{\"head_dim\":null,\"num_key_value_heads\":null}", &c, err));
    assert_int_equal(c.head_dim, 16);
    assert_ok(parse(NULL, "{\"head_dim\":20,\"num_key_value_heads\":2}", &c, err));
    assert_int_equal(c.head_dim, 20);
    assert_int_equal(c.kv_heads, 2);
    assert_ok(parse(NULL,
                    "{\"attention_bias\":true,\"mlp_bias\":true,"
                    "\"tie_word_embeddings\":true}",
                    &c, err));
    assert_true(c.tied && c.attention_bias && c.mlp_bias);
}

static void test_eos(void **state)
{
    (void)state;
    mx_llama_config c;
    assert_ok(parse(NULL, "{\"bos_token_id\":3,\"eos_token_id\":[7,8,9]}", &c, err));
    assert_int_equal(c.bos_id, 3);
    assert_int_equal(c.n_eos, 3);
    assert_int_equal(c.eos_ids[2], 9);
    assert_ok(parse(NULL, "{\"bos_token_id\":null,\"eos_token_id\":null}", &c, err));
    assert_int_equal(c.bos_id, -1);
    assert_int_equal(c.n_eos, 0);
}

static void test_rope(void **state)
{
    (void)state;
    mx_llama_config c;
    assert_ok(parse(NULL,
                    "{\"rope_theta\":5e5,\"rope_scaling\":{\"type\":\"linear\","
                    "\"factor\":4}}",
                    &c, err));
    assert_int_equal(c.rope.kind, MX_ROPE_LINEAR);
    assert_true(c.rope.theta == 5e5 && c.rope.factor == 4);
    assert_ok(parse(NULL, "{\"rope_theta\":null,\"rope_scaling\":null}", &c, err));
    assert_true(c.rope.theta == 10000);
    const char *parameters =
        "{\"rope_parameters\":{\"rope_theta\":7e4,\"rope_type\":\"llama3\",\"factor\":8,"
        "\"low_freq_factor\":1,\"high_freq_factor\":4,"
        "\"original_max_position_embeddings\":64}}";
    assert_ok(parse(NULL, parameters, &c, err));
    assert_int_equal(c.rope.kind, MX_ROPE_LLAMA3);
    assert_true(c.rope.theta == 7e4 && c.rope.original_context == 64);
    assert_ok(parse(NULL, "{\"rope_parameters\":{\"rope_theta\":7e4,\"rope_type\":\"default\"}}",
                    &c, err));
    assert_int_equal(c.rope.kind, MX_ROPE_DEFAULT);
    assert_true(c.rope.theta == 7e4);
    /* Both spellings, in agreement. */
    assert_ok(parse(NULL,
                    "{\"rope_theta\":7e4,\"rope_scaling\":{\"rope_type\":\"linear\","
                    "\"type\":\"linear\",\"factor\":2},\"rope_parameters\":{\"rope_theta\":"
                    "7e4,\"rope_type\":\"linear\",\"factor\":2.0}}",
                    &c, err));
    assert_int_equal(c.rope.kind, MX_ROPE_LINEAR);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *without, *extra;
        mx_status status;
        const char *reason;
    } bad[] = {
        {NULL, "{\"model_type\":\"mistral\"}", MX_ERR_UNSUPPORTED, "model_type: mistral"},
        {"model_type", "{}", MX_ERR_UNSUPPORTED, "model_type"},
        {"model_type", "{\"architectures\":[\"LlamaForCausalLM\",\"X\"]}", MX_ERR_UNSUPPORTED,
         "model_type"},
        {NULL, "{\"hidden_act\":\"gelu\"}", MX_ERR_UNSUPPORTED, "hidden_act: gelu"},
        {NULL, "{\"rope_interleaved\":true}", MX_ERR_UNSUPPORTED, "rope_interleaved"},
        {"hidden_size", "{}", MX_ERR_FORMAT, "hidden_size: missing"},
        {"intermediate_size", "{}", MX_ERR_FORMAT, "intermediate_size: missing"},
        {"num_hidden_layers", "{}", MX_ERR_FORMAT, "num_hidden_layers: missing"},
        {"num_attention_heads", "{}", MX_ERR_FORMAT, "num_attention_heads: missing"},
        {"vocab_size", "{}", MX_ERR_FORMAT, "vocab_size: missing"},
        {NULL, "{\"hidden_size\":0}", MX_ERR_FORMAT, "hidden_size: 0 is outside"},
        {NULL, "{\"hidden_size\":-1}", MX_ERR_FORMAT, "hidden_size: -1 is outside"},
        {NULL, "{\"hidden_size\":64.0}", MX_ERR_FORMAT, "hidden_size: must be an integer"},
        {NULL, "{\"hidden_size\":\"64\"}", MX_ERR_FORMAT, "hidden_size: must be an integer"},
        {NULL, "{\"vocab_size\":4611686018427387904}", MX_ERR_FORMAT, "vocab_size: 46116860"},
        {NULL, "{\"num_hidden_layers\":5000}", MX_ERR_FORMAT, "num_hidden_layers: 5000"},
        {NULL, "{\"num_attention_heads\":5}", MX_ERR_FORMAT, "head_dim: missing, and hidden_size"},
        {NULL, "{\"num_attention_heads\":65}", MX_ERR_FORMAT, "head_dim: missing"},
        {NULL, "{\"head_dim\":7}", MX_ERR_FORMAT, "head_dim: 7 is not a positive even"},
        {NULL, "{\"num_key_value_heads\":3}", MX_ERR_FORMAT, "num_key_value_heads: 3 does not"},
        {NULL, "{\"num_attention_heads\":1048576,\"head_dim\":1048576}", MX_ERR_UNSUPPORTED,
         "head_dim: 1048576 heads"},
        {NULL, "{\"rms_norm_eps\":0}", MX_ERR_FORMAT, "rms_norm_eps"},
        {NULL, "{\"rms_norm_eps\":-1e-5}", MX_ERR_FORMAT, "rms_norm_eps"},
        {NULL, "{\"rms_norm_eps\":1e300}", MX_ERR_FORMAT, "rms_norm_eps"},
        {NULL, "{\"tie_word_embeddings\":1}", MX_ERR_FORMAT, "tie_word_embeddings"},
        {NULL, "{\"bos_token_id\":-1}", MX_ERR_FORMAT, "bos_token_id"},
        {NULL, "{\"bos_token_id\":[1]}", MX_ERR_FORMAT, "bos_token_id"},
        {NULL, "{\"eos_token_id\":\"</s>\"}", MX_ERR_FORMAT, "eos_token_id"},
        {NULL, "{\"eos_token_id\":[1,null]}", MX_ERR_FORMAT, "eos_token_id"},
        {NULL, "{\"eos_token_id\":[1,2,3,4,5,6,7,8,9]}", MX_ERR_UNSUPPORTED, "eos_token_id"},
        {NULL, "{\"rope_theta\":0}", MX_ERR_FORMAT, "rope_theta: must be positive"},
        {NULL, "{\"partial_rotary_factor\":0.5}", MX_ERR_UNSUPPORTED, "partial_rotary_factor"},
        {NULL, "{\"rope_scaling\":[]}", MX_ERR_FORMAT, "rope_scaling: must be an object"},
        {NULL, "{\"rope_scaling\":{}}", MX_ERR_FORMAT, "rope_type: missing"},
        {NULL, "{\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":2}}", MX_ERR_UNSUPPORTED,
         "rope_type: yarn"},
        {NULL, "{\"rope_scaling\":{\"rope_type\":\"linear\",\"type\":\"llama3\",\"factor\":2}}",
         MX_ERR_FORMAT, "rope_type: contradicts type"},
        {NULL, "{\"rope_scaling\":{\"type\":\"linear\"}}", MX_ERR_FORMAT, "factor: missing"},
        {NULL, "{\"rope_scaling\":{\"type\":\"linear\",\"factor\":-2}}", MX_ERR_FORMAT,
         "factor: must be positive"},
        {NULL, "{\"rope_scaling\":{\"type\":\"linear\",\"factor\":2,\"beta_fast\":3}}",
         MX_ERR_UNSUPPORTED, "rope parameter beta_fast"},
        {NULL, "{\"rope_parameters\":{\"rope_type\":\"default\",\"partial_rotary_factor\":0.5}}",
         MX_ERR_UNSUPPORTED, "partial_rotary_factor"},
        {NULL,
         "{\"rope_scaling\":{\"type\":\"llama3\",\"factor\":2,\"low_freq_factor\":1,"
         "\"high_freq_factor\":4}}",
         MX_ERR_FORMAT, "original_max_position_embeddings: missing"},
        {NULL,
         "{\"rope_scaling\":{\"type\":\"llama3\",\"factor\":2,\"low_freq_factor\":4,"
         "\"high_freq_factor\":4,\"original_max_position_embeddings\":64}}",
         MX_ERR_FORMAT, "high_freq_factor: must be above"},
        {NULL,
         "{\"rope_theta\":1e4,\"rope_parameters\":{\"rope_theta\":2e4,\"rope_type\":"
         "\"default\"}}",
         MX_ERR_FORMAT, "rope_theta: contradicts"},
        {NULL,
         "{\"rope_scaling\":{\"type\":\"linear\",\"factor\":2},\"rope_parameters\":{"
         "\"rope_type\":\"linear\",\"factor\":4}}",
         MX_ERR_FORMAT, "rope_scaling: contradicts"},
    };
    for (size_t i = 0; i < MX_COUNT(bad); i++) {
        mx_llama_config c;
        mx_error error = {0};
        if (parse(bad[i].without, bad[i].extra, &c, &error) != bad[i].status) {
            fail_msg("%s: status %d: %s", bad[i].extra, error.status, error.text);
        }
        expect_text(&error, bad[i].reason);
        assert_int_equal(strncmp(error.text, "c: ", 3), 0);
        assert_int_equal(c.hidden, 0);
    }
    mx_llama_config c;
    mx_error error;
    json_t *list = json_array();
    assert_int_equal(mx_llama_config_parse(list, "c", &c, &error), MX_ERR_FORMAT);
    json_decref(list);
}

/* ---- writing ------------------------------------------------------------- */

static void test_round_trip(void **state)
{
    (void)state;
    static const char *const configs[] = {
        "{\"rms_norm_eps\":1e-05,\"bos_token_id\":1,\"eos_token_id\":[2,3],\"head_dim\":20}",
        "{\"tie_word_embeddings\":true,\"attention_bias\":true,\"rope_theta\":123456.5}",
        "{\"mlp_bias\":true,\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.5}}",
        "{\"eos_token_id\":4,\"rope_parameters\":{\"rope_theta\":7e4,\"rope_type\":\"llama3\","
        "\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,"
        "\"original_max_position_embeddings\":64}}",
    };
    for (size_t i = 0; i < MX_COUNT(configs); i++) {
        mx_llama_config first, second;
        json_t *root;
        memset(&first, 0, sizeof first);
        memset(&second, 0, sizeof second);
        assert_ok(parse(NULL, configs[i], &first, err));
        assert_ok(mx_llama_config_to_json(&first, &root, err));
        assert_ok(mx_llama_config_parse(root, "c", &second, err));
        assert_int_equal(first.head_dim, second.head_dim);
        assert_int_equal(first.context, second.context);
        assert_int_equal(first.kv_heads, second.kv_heads);
        assert_int_equal(first.bos_id, second.bos_id);
        assert_int_equal(first.n_eos, second.n_eos);
        assert_memory_equal(first.eos_ids, second.eos_ids, sizeof first.eos_ids);
        assert_true(first.norm_eps == second.norm_eps);
        assert_true(first.tied == second.tied && first.mlp_bias == second.mlp_bias &&
                    first.attention_bias == second.attention_bias);
        assert_int_equal(first.rope.kind, second.rope.kind);
        assert_true(first.rope.theta == second.rope.theta &&
                    first.rope.factor == second.rope.factor &&
                    first.rope.low_freq_factor == second.rope.low_freq_factor &&
                    first.rope.high_freq_factor == second.rope.high_freq_factor &&
                    first.rope.original_context == second.rope.original_context);
        /* 1e-05 as a float must not become 9.99999974e-06 in a file for people. */
        assert_true(json_real_value(json_object_get(root, "rms_norm_eps")) ==
                    (i == 0 ? 1e-5 : 1e-6));
        json_decref(root);
    }
    mx_llama_config c;
    json_t *root;
    mx_error error;
    assert_ok(parse(NULL, "{}", &c, err));
    c.rope.kind = MX_ROPE_FACTORS;
    assert_int_equal(mx_llama_config_to_json(&c, &root, &error), MX_ERR_UNSUPPORTED);
    assert_null(root);
}

/* ---- layout -------------------------------------------------------------- */

static void test_layout(void **state)
{
    (void)state;
    mx_llama_config c;
    mx_llama_tensor tensor, found;
    assert_ok(parse(NULL, "{\"num_key_value_heads\":2,\"attention_bias\":true}", &c, err));
    const size_t count = mx_llama_tensor_count(&c);
    /* 3 of the model; a layer: 2 norms, 7 weights, 4 biases, 1 optional buffer. */
    assert_int_equal(count, 3 + 2 * 14);
    for (size_t i = 0; i < count; i++) {
        mx_llama_tensor_at(&c, i, &tensor);
        assert_true(mx_llama_tensor_find(&c, tensor.name, &found));
        assert_int_equal(found.shape[0], tensor.shape[0]);
        assert_int_equal(found.projection, tensor.projection);
        assert_int_equal(mx_llama_is_projection(tensor.name, NULL), tensor.projection);
    }
    assert_true(mx_llama_tensor_find(&c, "model.layers.1.self_attn.k_proj.weight", &found));
    assert_int_equal(found.shape[0], 32);
    assert_int_equal(found.shape[1], 64);
    assert_int_equal(found.permuted_head_dim, 16);
    static const char *const strangers[] = {"model.layers.2.self_attn.k_proj.weight",
                                            "model.layers.01.self_attn.k_proj.weight",
                                            "model.layers.-1.self_attn.k_proj.weight",
                                            "model.layers..self_attn.k_proj.weight",
                                            "model.layers.0.self_attn.k_proj.weight.",
                                            "model.layers.0.mlp.up_proj.bias",
                                            "model.layers.99999999999999999.mlp.up_proj.weight",
                                            "model.norm",
                                            ""};
    for (size_t i = 0; i < MX_COUNT(strangers); i++) {
        assert_false(mx_llama_tensor_find(&c, strangers[i], &found));
    }
    char name[MX_LLAMA_NAME_SIZE];
    assert_true(mx_llama_name_from_gguf("blk.12.ffn_down.weight", name, sizeof name));
    assert_string_equal(name, "model.layers.12.mlp.down_proj.weight");
    assert_true(mx_llama_name_from_gguf("output.weight", name, sizeof name));
    assert_string_equal(name, "lm_head.weight");
    assert_false(mx_llama_name_from_gguf("blk.0.ffn_gate_exps.weight", name, sizeof name));
    static const char *const kinds[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                        "self_attn.o_proj", "mlp.gate_proj",    "mlp.up_proj",
                                        "mlp.down_proj"};
    for (uint32_t kind = 0; kind < MX_LLAMA_PROJECTIONS; kind++) {
        mx_llama_module(3, kind, name);
        assert_string_equal(name + strlen("model.layers.3."), kinds[kind]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama_3_2),  cmocka_unit_test(test_smollm2),
        cmocka_unit_test(test_defaults),   cmocka_unit_test(test_eos),
        cmocka_unit_test(test_rope),       cmocka_unit_test(test_refused),
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_layout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

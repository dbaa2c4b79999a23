/* Quantized directories: what mxlm writes and reads back, what Quark writes, and every
 * field that must be refused rather than ignored. */
#include "io_fixture.h"

#include "io/checkpoint.h"
#include "io/llama_layout.h"
#include "io/quark.h"
#include "io/safetensors.h"

static mx_quant make_quant(const char *format, uint32_t block, mx_scale_rule rule, mx_round round)
{
    mx_quant quant = mx_quant_default();
    quant.format = mx_format_find(format);
    assert_non_null(quant.format);
    quant.block = block;
    quant.rule = rule;
    quant.round = round;
    return quant;
}

static mx_llama_config small_config(void)
{
    return (mx_llama_config){.hidden = 64,
                             .intermediate = 96,
                             .layers = 2,
                             .heads = 4,
                             .kv_heads = 2,
                             .head_dim = 16,
                             .vocab = 50,
                             .context = 64,
                             .norm_eps = 1e-5f};
}

static void compare_quants(const mx_quant *a, const mx_quant *b)
{
    assert_ptr_equal(a->format, b->format);
    if (a->format != NULL) {
        assert_int_equal(a->block, b->block);
        assert_int_equal(a->rule, b->rule);
        assert_int_equal(a->round, b->round);
        assert_int_equal(a->flush_subnormals, b->flush_subnormals);
        assert_true(a->seed == b->seed);
    }
}

/* ---- the contract -------------------------------------------------------- */

static void test_round_trip(void **state)
{
    (void)state;
    static const char *const formats[] = {"fp4_e2m1", "fp6_e2m3", "fp6_e3m2", "fp8_e4m3",
                                          "fp8_e5m2", "int8",     "int4",     "int2"};
    static const uint32_t blocks[] = {32, 16, 0};
    const mx_llama_config config = small_config();
    for (size_t i = 0; i < MX_COUNT(formats) * MX_COUNT(blocks); i++) {
        mx_specs specs = {0}, back;
        const uint32_t block = blocks[i % MX_COUNT(blocks)];
        specs.weights =
            make_quant(formats[i / 3], block, (mx_scale_rule)(i % 4), (mx_round)(i % 3));
        specs.activations =
            make_quant(i % 2 == 0 ? "bf16" : "fp6_e2m3", 32, MX_SCALE_FLOOR, MX_ROUND_DITHER);
        specs.activations.seed = 77 + i;
        assert_ok(mx_specs_set(&specs, "exclude", "model.layers.1.*", err));
        json_t *object;
        const char *method;
        assert_ok(mx_quark_to_json(&specs, &config, "rtn", &object, err));
        assert_ok(mx_quark_parse(object, &config, "c", &back, &method, err));
        assert_string_equal(method, "rtn");
        compare_quants(&specs.weights, &back.weights);
        compare_quants(&specs.activations, &back.activations);
        assert_int_equal(back.n_excludes, 1);
        /* lm_head, and the seven of layer 1 by name. */
        assert_int_equal(json_array_size(json_object_get(object, "exclude")), 8);
        json_decref(object);
        mx_specs_clear(&back);
        mx_specs_clear(&specs);
    }
}

/* Only what Quark's loaders read as mxlm does goes by Quark's name. */
static void test_quant_method(void **state)
{
    (void)state;
    static const struct {
        const char *weights, *activations; /* NULL: unquantized */
        uint32_t block;
        const char *method;
    } cases[] = {
        {"fp4_e2m1", "fp6_e2m3", 32, "quark"},
        {"fp6_e3m2", "fp4_e2m1", 32, "quark"},
        {"fp6_e2m3", NULL, 32, "quark"},
        {"fp4_e2m1", "bf16", 32, "quark"},
        {"fp4_e2m1", "fp6_e2m3", 16, "mxlm"},
        {"fp6_e2m3", NULL, 0, "mxlm"},
        {"int8", "int8", 32, "mxlm"},
        {"int4", NULL, 32, "mxlm"},
        {"int2", NULL, 32, "mxlm"},
        {"fp8_e4m3", NULL, 32, "mxlm"},
        {"fp8_e5m2", "fp4_e2m1", 32, "mxlm"},
        {"fp4_e2m1", "int8", 32, "mxlm"},
    };
    const mx_llama_config config = small_config();
    for (size_t i = 0; i < MX_COUNT(cases); i++) {
        mx_specs specs = {0}, back;
        const mx_round even = MX_ROUND_EVEN;
        specs.weights = make_quant(cases[i].weights, cases[i].block, MX_SCALE_FLOOR, even);
        if (cases[i].activations != NULL) {
            specs.activations =
                make_quant(cases[i].activations, cases[i].block, MX_SCALE_FLOOR, even);
        }
        json_t *object;
        const char *method;
        mx_error error = {0};
        assert_ok(mx_quark_to_json(&specs, &config, "rtn", &object, err));
        json_t *name = json_object_get(object, "quant_method");
        assert_string_equal(json_string_value(name), cases[i].method);
        assert_ok(mx_quark_parse(object, &config, "c", &back, &method, err));
        compare_quants(&specs.weights, &back.weights);
        compare_quants(&specs.activations, &back.activations);
        mx_specs_clear(&back);
        /* The other name would mislead one of two readers. */
        const bool quark = strcmp(cases[i].method, "quark") == 0;
        json_string_set(name, quark ? "mxlm" : "quark");
        assert_int_equal(mx_quark_parse(object, &config, "c", &back, &method, &error),
                         MX_ERR_FORMAT);
        expect_text(&error, "quant_method: contradicts quantization_config.mxlm");
        json_decref(object);
    }
}

/* A quantized head is no exclude but a layer of its own contract, and nothing that
 * Quark's loaders know. */
static void test_head(void **state)
{
    (void)state;
    static const char *const formats[] = {"fp4_e2m1", "fp6_e2m3", "fp8_e4m3", "int8"};
    mx_llama_config config = small_config();
    for (size_t i = 0; i < 2 * MX_COUNT(formats); i++) {
        mx_specs specs = {0}, back;
        mx_error error = {0};
        json_t *object;
        const char *method;
        config.tied = i % 2 == 0;
        specs.weights = make_quant("fp4_e2m1", 32, MX_SCALE_FLOOR, MX_ROUND_EVEN);
        specs.activations = make_quant("fp6_e2m3", 32, MX_SCALE_FLOOR, MX_ROUND_EVEN);
        specs.head = make_quant(formats[i / 2], 32, MX_SCALE_RCEIL, MX_ROUND_EVEN);
        assert_ok(mx_quark_to_json(&specs, &config, "rtn", &object, err));
        assert_string_equal(json_string_value(json_object_get(object, "quant_method")), "mxlm");
        assert_int_equal(json_array_size(json_object_get(object, "exclude")), 0);
        json_t *layers = json_object_get(object, "layer_quant_config");
        const json_t *weight = json_object_get(json_object_get(layers, "lm_head"), "weight");
        assert_non_null(json_object_get(weight, "dtype"));
        assert_ok(mx_quark_parse(object, &config, "c", &back, &method, err));
        compare_quants(&specs.head, &back.head);
        compare_quants(&specs.weights, &back.weights);
        mx_specs_clear(&back);
        /* Two readers must not see two heads. */
        json_object_clear(layers);
        assert_int_equal(mx_quark_parse(object, &config, "c", &back, &method, &error),
                         MX_ERR_FORMAT);
        expect_text(&error, "layer_quant_config: contradicts quantization_config.mxlm");
        json_decref(object);
    }
}

static void test_unquantized_weights(void **state)
{
    (void)state;
    const mx_llama_config config = small_config();
    mx_specs specs = {0};
    json_t *object;
    mx_error error;
    assert_int_equal(mx_quark_to_json(&specs, &config, "rtn", &object, &error), MX_ERR_ARGUMENT);
    specs.weights = make_quant("bf16", 32, MX_SCALE_FLOOR, MX_ROUND_EVEN);
    assert_int_equal(mx_quark_to_json(&specs, &config, "rtn", &object, &error), MX_ERR_ARGUMENT);
    assert_null(object);
}

/* Sets the member at a dotted path to JSON text, or removes it (text NULL). */
static void edit(json_t *root, const char *path, const char *text)
{
    char key[128];
    const char *dot;
    while ((dot = strchr(path, '.')) != NULL) {
        snprintf(key, sizeof key, "%.*s", (int)(dot - path), path);
        root = json_object_get(root, key);
        assert_non_null(root);
        path = dot + 1;
    }
    if (text == NULL) {
        assert_int_equal(json_object_del(root, path), 0);
        return;
    }
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    assert_non_null(value);
    json_object_set_new(root, path, value);
}

typedef struct edit_case {
    const char *path, *text;
    mx_status status;
    const char *reason;
} edit_case;

static void check_edits(json_t *(*make)(void), const edit_case *cases, size_t n)
{
    const mx_llama_config config = small_config();
    for (size_t i = 0; i < n; i++) {
        json_t *object = make();
        mx_specs specs;
        const char *method;
        mx_error error = {0};
        edit(object, cases[i].path, cases[i].text);
        const mx_status status = mx_quark_parse(object, &config, "c", &specs, &method, &error);
        if (status != cases[i].status) {
            fail_msg("%s = %s: status %d: %s", cases[i].path,
                     cases[i].text == NULL ? "(removed)" : cases[i].text, status, error.text);
        }
        if (status != MX_OK) {
            expect_text(&error, cases[i].reason);
            assert_int_equal(strncmp(error.text, "c: ", 3), 0);
            assert_int_equal(specs.n_excludes, 0);
            assert_null(specs.weights.format);
        }
        mx_specs_clear(&specs);
        json_decref(object);
    }
}

/* W mxfp4 / A mxfp6_e2m3, floor, even: the reference experiment. */
static json_t *make_mxlm(void)
{
    const mx_llama_config config = small_config();
    mx_specs specs = {0};
    json_t *object;
    specs.weights = make_quant("fp4_e2m1", 32, MX_SCALE_FLOOR, MX_ROUND_EVEN);
    specs.activations = make_quant("fp6_e2m3", 32, MX_SCALE_FLOOR, MX_ROUND_EVEN);
    assert_ok(mx_quark_to_json(&specs, &config, "rtn", &object, err));
    return object;
}

static void test_mxlm_edits(void **state)
{
    (void)state;
    static const edit_case cases[] = {
        {"version", "\"0.11\"", MX_ERR_UNSUPPORTED, "version"},
        {"quant_method", "\"gptq\"", MX_ERR_UNSUPPORTED, "quant_method: gptq is not supported"},
        {"quant_method", "\"mxlm\"", MX_ERR_FORMAT, "quant_method: contradicts"},
        {"quant_method", "7", MX_ERR_FORMAT, "quant_method: must be a string"},
        {"quant_method", NULL, MX_ERR_FORMAT, "quant_method: missing"},
        {"mxlm", "[]", MX_ERR_FORMAT, "mxlm: must be an object"},
        {"mxlm.version", "2", MX_ERR_UNSUPPORTED, "mxlm: version"},
        {"mxlm.version", NULL, MX_ERR_FORMAT, "version: missing"},
        {"mxlm.method", NULL, MX_ERR_FORMAT, "method: missing"},
        {"mxlm.rotation", "\"r3\"", MX_ERR_UNSUPPORTED, "mxlm: rotation"},
        {"mxlm.specs.weights.format", "\"fp3_e1m1\"", MX_ERR_UNSUPPORTED, "fp3_e1m1"},
        {"mxlm.specs.weights.format", "\"fp6_e2m3\"", MX_ERR_FORMAT,
         "global_quant_config: contradicts"},
        {"mxlm.specs.activations.scale_rule", "\"even\"", MX_ERR_FORMAT,
         "global_quant_config: contradicts"},
        {"mxlm.specs.exclude", "[\"*.q_proj\"]", MX_ERR_FORMAT, "exclude: contradicts"},
        {"mxlm.specs.exclude", "[\"*?*?*?*?*?*\"]", MX_ERR_UNSUPPORTED, "has more than 4 stars"},
        {"global_quant_config.weight.group_size", "16", MX_ERR_FORMAT,
         "global_quant_config: contradicts"},
        {"global_quant_config.input_tensors", "null", MX_ERR_FORMAT,
         "global_quant_config: contradicts"},
        {"exclude", "[]", MX_ERR_FORMAT, "exclude: contradicts"},
        {"export.weight_format", "\"fake_quantized\"", MX_ERR_FORMAT, "export: contradicts"},
        {"layer_quant_config", "{\"*q_proj\":{}}", MX_ERR_FORMAT,
         "layer_quant_config: contradicts"},
        {"something_new", "{\"a\":1}", MX_ERR_UNSUPPORTED, "something_new"},
        {"something_new", "null", MX_OK, NULL},
    };
    check_edits(make_mxlm, cases, MX_COUNT(cases));
}

/* ---- Quark's own files --------------------------------------------------- */

/* As Quark 0.11 exports a W mxfp4 / A mxfp6_e2m3 model. */
static json_t *make_quark(void)
{
    static const char operand[] =
        "{\"ch_axis\":-1,\"dtype\":\"%s\",\"group_size\":32,\"is_dynamic\":%s,"
        "\"is_scale_quant\":false,\"mx_element_dtype\":null,\"observer_cls\":"
        "\"PerBlockMXObserver\",\"qscheme\":\"per_group\",\"round_method\":\"half_even\","
        "\"scale_calculation_mode\":\"even\",\"scale_format\":\"e8m0\",\"scale_type\":\"float\","
        "\"symmetric\":null,\"block_size\":null,\"enable_buffer_reuse\":false,"
        "\"max_input_numel\":4194304}";
    static const char rest[] =
        "{\"algo_config\":null,\"exclude\":[\"lm_head\"],\"export\":{\"kv_cache_group\":[],"
        "\"min_kv_scale\":0.0,\"pack_method\":\"reorder\",\"weight_format\":\"real_quantized\","
        "\"weight_merge_groups\":null},\"global_quant_config\":{\"bias\":null,\"output_tensors\":"
        "null,\"target_device\":null},\"kv_cache_post_rope\":false,\"kv_cache_quant_config\":{},"
        "\"layer_quant_config\":{},\"layer_type_quant_config\":{},\"quant_method\":\"quark\","
        "\"quant_mode\":\"eager_mode\",\"softmax_quant_spec\":null,\"version\":\"0.11\"}";
    char text[1024];
    json_t *root = json_loads(rest, 0, NULL);
    assert_non_null(root);
    snprintf(text, sizeof text, operand, "fp4", "false");
    edit(root, "global_quant_config.weight", text);
    snprintf(text, sizeof text, operand, "fp6_e2m3", "true");
    edit(root, "global_quant_config.input_tensors", text);
    return root;
}

static void test_quark_config(void **state)
{
    (void)state;
    const mx_llama_config config = small_config();
    json_t *object = make_quark();
    mx_specs specs;
    const char *method = "";
    assert_ok(mx_quark_parse(object, &config, "c", &specs, &method, err));
    assert_null(method);
    mx_quant expected = make_quant("fp4_e2m1", 32, MX_SCALE_EVEN, MX_ROUND_EVEN);
    compare_quants(&specs.weights, &expected);
    expected.format = mx_format_find("fp6_e2m3");
    compare_quants(&specs.activations, &expected);
    assert_int_equal(specs.n_excludes, 0);
    mx_specs_clear(&specs);
    edit(object, "global_quant_config.input_tensors", "null");
    assert_ok(mx_quark_parse(object, &config, "c", &specs, &method, err));
    assert_null(specs.activations.format);
    mx_specs_clear(&specs);
    json_decref(object);
}

static void test_quark_excludes(void **state)
{
    (void)state;
    const mx_llama_config config = small_config();
    json_t *object = make_quark();
    mx_specs specs;
    const char *method;
    edit(object, "exclude",
         "[\"lm_head\",\"*.down_proj\",\"model.layers.1.self_attn.q_proj\",\"q_proj\","
         "\"model.layers.*.self_attn.k_proj\"]");
    assert_ok(mx_quark_parse(object, &config, "c", &specs, &method, err));
    /* k_proj and down_proj in all layers, one q_proj; "q_proj" alone is no module. */
    assert_int_equal(specs.n_excludes, 3);
    for (uint32_t layer = 0; layer < 2; layer++) {
        for (uint32_t kind = 0; kind < MX_LLAMA_PROJECTIONS; kind++) {
            char module[MX_LLAMA_NAME_SIZE];
            mx_llama_module(layer, kind, module);
            assert_int_equal(mx_specs_excludes(&specs, module),
                             kind == 6 || kind == 1 || (kind == 0 && layer == 1));
        }
    }
    mx_specs_clear(&specs);
    json_decref(object);
}

static void test_quark_edits(void **state)
{
    (void)state;
#define WEIGHT "global_quant_config.weight"
#define INPUT "global_quant_config.input_tensors"
    static const edit_case cases[] = {
        {"quant_method", "\"mxlm\"", MX_ERR_FORMAT, "mxlm: must be an object"},
        {WEIGHT ".dtype", "\"fp8_e4m3\"", MX_OK, NULL},
        {WEIGHT ".dtype", "\"int4\"", MX_ERR_UNSUPPORTED, "weight: dtype: int4"},
        {WEIGHT ".dtype", NULL, MX_ERR_FORMAT, "weight: dtype: missing"},
        {WEIGHT ".group_size", "16", MX_ERR_UNSUPPORTED, "weight: group_size"},
        {WEIGHT ".qscheme", "\"per_tensor\"", MX_ERR_UNSUPPORTED, "qscheme: per_tensor"},
        {WEIGHT ".scale_format", "\"float32\"", MX_ERR_UNSUPPORTED, "scale_format: float32"},
        {WEIGHT ".is_dynamic", "true", MX_ERR_UNSUPPORTED, "weight: is_dynamic"},
        {WEIGHT ".ch_axis", "0", MX_ERR_FORMAT, "ch_axis: 0 is outside"},
        {WEIGHT ".is_scale_quant", "true", MX_ERR_UNSUPPORTED, "is_scale_quant"},
        {WEIGHT ".mx_element_dtype", "\"fp4\"", MX_ERR_UNSUPPORTED, "mx_element_dtype"},
        {WEIGHT ".zero_point_type", "\"int32\"", MX_ERR_UNSUPPORTED, "zero_point_type"},
        {WEIGHT, "[{},{}]", MX_ERR_FORMAT, "weight: must be an object"},
        {WEIGHT, "null", MX_ERR_FORMAT, "weight: must be an object"},
        {INPUT ".dtype", "\"fp4\"", MX_OK, NULL},
        {INPUT ".scale_calculation_mode", "\"floor\"", MX_OK, NULL},
        {INPUT ".scale_calculation_mode", "\"midmax\"", MX_ERR_UNSUPPORTED,
         "scale_calculation_mode: midmax"},
        {INPUT ".scale_calculation_mode", NULL, MX_ERR_FORMAT, "scale_calculation_mode: missing"},
        {INPUT ".round_method", "\"round\"", MX_ERR_UNSUPPORTED, "round_method: round"},
        {INPUT ".is_dynamic", "false", MX_ERR_UNSUPPORTED, "input_tensors: is_dynamic"},
        {INPUT ".observer_cls", "\"PerBlockMXDiffsObserver\"", MX_ERR_UNSUPPORTED,
         "observer_cls: PerBlockMXDiffsObserver"},
        {"global_quant_config.output_tensors", "{\"dtype\":\"fp8_e4m3\"}", MX_ERR_UNSUPPORTED,
         "global_quant_config: output_tensors"},
        {"global_quant_config.bias", "{\"dtype\":\"int32\"}", MX_ERR_UNSUPPORTED, "bias"},
        {"global_quant_config", NULL, MX_ERR_FORMAT, "global_quant_config: must be an object"},
        {"layer_quant_config", "{\"*k_proj\":{\"output_tensors\":{}}}", MX_ERR_UNSUPPORTED,
         "layer_quant_config"},
        {"layer_type_quant_config", "{\"Linear\":{}}", MX_ERR_UNSUPPORTED, "layer_type_quant_conf"},
        {"kv_cache_quant_config", "{\"*k_proj\":1}", MX_ERR_UNSUPPORTED, "kv_cache_quant_config"},
        {"kv_cache_post_rope", "true", MX_ERR_UNSUPPORTED, "kv_cache_post_rope"},
        {"softmax_quant_spec", "{\"dtype\":\"fp8\"}", MX_ERR_UNSUPPORTED, "softmax_quant_spec"},
        {"export.kv_cache_group", "[\"*k_proj\"]", MX_ERR_UNSUPPORTED, "export: kv_cache_group"},
        {"export.weight_format", "\"fake_quantized\"", MX_ERR_UNSUPPORTED,
         "weight_format: fake_quantized"},
        {"export.pack_method", "\"swizzled\"", MX_ERR_UNSUPPORTED, "pack_method: swizzled"},
        {"export", NULL, MX_ERR_FORMAT, "export: must be an object"},
        {"algo_config", "[{\"name\":\"gptq\",\"desc_act\":false},{\"name\":\"smooth\"}]", MX_OK,
         NULL},
        {"algo_config", "{\"name\":\"awq\"}", MX_OK, NULL},
        {"algo_config", "[{\"name\":\"gptq\",\"desc_act\":true}]", MX_ERR_UNSUPPORTED, "desc_act"},
        {"algo_config", "[{\"name\":\"rotation\"}]", MX_ERR_UNSUPPORTED, "name: rotation"},
        {"algo_config", "[7]", MX_ERR_FORMAT, "name: missing"},
        {"exclude", "[\"re:.*self_attn.*\"]", MX_ERR_UNSUPPORTED, "regular expressions"},
        {"exclude", "[\"*a*b*c*d*e\"]", MX_ERR_UNSUPPORTED, "has more than 4 stars"},
        {"exclude", "[7]", MX_ERR_FORMAT, "exclude: element 0 is not a string"},
        {"exclude", "\"lm_head\"", MX_ERR_FORMAT, "exclude: must be a list"},
        {"exclude", "null", MX_OK, NULL},
        {"something_new", "\"x\"", MX_ERR_UNSUPPORTED, "something_new"},
    };
    check_edits(make_quark, cases, MX_COUNT(cases));
}

/* ---- directories --------------------------------------------------------- */

/* tiny_llama quantized into a folder. */
typedef struct quantized {
    char *folder;
    mx_checkpoint *source;
    mx_specs specs;
    mx_tensor_plan plans[40];
    char names[40][MX_LLAMA_NAME_SIZE + 8];
    uint8_t *data[40];
    size_t sizes[40], count;
    json_t *config; /* config.json, quantization_config included */
} quantized;

static void add_tensor(quantized *q, const char *name, mx_dtype dtype, int n_dims,
                       const uint64_t *shape, const uint8_t *data, size_t size)
{
    const size_t i = q->count++;
    assert_true(i < 40);
    snprintf(q->names[i], sizeof q->names[i], "%s", name);
    q->plans[i] = (mx_tensor_plan){q->names[i], dtype, n_dims, {0}};
    memcpy(q->plans[i].shape, shape, (size_t)n_dims * sizeof *shape);
    q->data[i] = exact_copy(data, size);
    q->sizes[i] = size;
}

static void add_packed(quantized *q, const mx_tensor *tensor)
{
    const mx_quant *quant = &q->specs.weights;
    const size_t rows = (size_t)tensor->shape[0], cols = (size_t)tensor->shape[1];
    const uint64_t code_shape[2] = {rows, mx_row_code_bytes(quant, cols)};
    const uint64_t scale_shape[2] = {rows, mx_row_scale_count(quant, cols)};
    uint8_t *codes = malloc(rows * code_shape[1]), *scales = malloc(rows * scale_shape[1]);
    float row[64];
    for (size_t r = 0; r < rows; r++) {
        memcpy(row, tensor->data + r * cols * sizeof(float), cols * sizeof(float));
        mx_row_encode(quant, row, cols, r, codes + r * code_shape[1], scales + r * scale_shape[1]);
    }
    char name[MX_LLAMA_NAME_SIZE + 8];
    snprintf(name, sizeof name, "%s_scale", tensor->name);
    add_tensor(q, tensor->name, MX_DTYPE_U8, 2, code_shape, codes, rows * code_shape[1]);
    add_tensor(q, name, MX_DTYPE_U8, 2, scale_shape, scales, rows * scale_shape[1]);
    free(codes);
    free(scales);
}

static void quantize_tiny(quantized *q, const char *format, const char *exclude)
{
    memset(q, 0, sizeof *q);
    char *path = golden_path("tiny_llama");
    assert_ok(mx_checkpoint_open(path, &q->source, err));
    free(path);
    q->specs.weights = make_quant(format, 32, MX_SCALE_FLOOR, MX_ROUND_EVEN);
    q->specs.activations = make_quant("fp6_e2m3", 32, MX_SCALE_FLOOR, MX_ROUND_EVEN);
    if (exclude != NULL) {
        assert_ok(mx_specs_set(&q->specs, "exclude", exclude, err));
    }
    for (size_t i = 0; i < mx_checkpoint_count(q->source); i++) {
        const mx_tensor *tensor = mx_checkpoint_at(q->source, i);
        size_t length = 0;
        char module[MX_LLAMA_NAME_SIZE];
        const bool projection = mx_llama_is_projection(tensor->name, &length);
        snprintf(module, sizeof module, "%.*s", (int)length, tensor->name);
        if (projection && !mx_specs_excludes(&q->specs, module)) {
            add_packed(q, tensor);
        } else {
            add_tensor(q, tensor->name, tensor->dtype, tensor->n_dims, tensor->shape, tensor->data,
                       (size_t)tensor->size);
        }
    }
    json_t *contract;
    q->config = json_deep_copy(mx_checkpoint_config_json(q->source));
    assert_ok(mx_quark_to_json(&q->specs, mx_checkpoint_config(q->source), "rtn", &contract, err));
    json_object_set_new(q->config, "quantization_config", contract);
    q->folder = make_folder();
}

static mx_status open_quantized(quantized *q, mx_checkpoint **out, mx_error *error)
{
    char *text, *path = mx_path_join(q->folder, "model.safetensors");
    mx_safetensors_writer *writer;
    assert_ok(mx_json_dump(q->config, 2, &text, err));
    write_text(q->folder, "config.json", text);
    assert_ok(mx_safetensors_create(path, q->plans, q->count, NULL, 0, &writer, err));
    for (size_t i = 0; i < q->count; i++) {
        assert_ok(mx_safetensors_write(writer, q->data[i], q->sizes[i], err));
    }
    assert_ok(mx_safetensors_finish(writer, err));
    free(text);
    free(path);
    return mx_checkpoint_open(q->folder, out, error);
}

static void free_quantized(quantized *q)
{
    remove_folder(q->folder, (const char *const[]){"config.json", "model.safetensors", NULL});
    for (size_t i = 0; i < q->count; i++) {
        free(q->data[i]);
    }
    mx_specs_clear(&q->specs);
    mx_checkpoint_close(q->source);
    json_decref(q->config);
}

static size_t find_plan(const quantized *q, const char *name)
{
    for (size_t i = 0; i < q->count; i++) {
        if (strcmp(q->names[i], name) == 0) {
            return i;
        }
    }
    fail_msg("no %s", name);
    return 0;
}

static const char up_name[] = "model.layers.0.mlp.up_proj.weight";
static const char up_scale_name[] = "model.layers.0.mlp.up_proj.weight_scale";

static void test_directory(void **state)
{
    (void)state;
    static const char *const formats[] = {"fp4_e2m1", "fp6_e2m3", "fp8_e4m3", "int8"};
    for (size_t i = 0; i < MX_COUNT(formats); i++) {
        quantized q;
        mx_checkpoint *checkpoint;
        quantize_tiny(&q, formats[i], "o_proj");
        assert_ok(open_quantized(&q, &checkpoint, err));
        const mx_specs *specs = mx_checkpoint_specs(checkpoint);
        assert_non_null(specs);
        compare_quants(&specs->weights, &q.specs.weights);
        compare_quants(&specs->activations, &q.specs.activations);
        assert_string_equal(mx_checkpoint_method(checkpoint), "rtn");
        mx_rows rows;
        assert_ok(mx_checkpoint_rows(checkpoint, up_name, &rows, err));
        assert_int_equal(rows.tensor->dtype, MX_DTYPE_U8);
        assert_int_equal(rows.n_rows, 64);
        assert_int_equal(rows.n_cols, mx_row_code_bytes(&specs->weights, 32));
        assert_int_equal(rows.row_bytes, rows.n_cols);
        const mx_tensor *scales = mx_checkpoint_find(checkpoint, up_scale_name);
        const size_t plan = find_plan(&q, up_name);
        assert_memory_equal(rows.tensor->data, q.data[plan], q.sizes[plan]);
        assert_memory_equal(scales->data, q.data[plan + 1], q.sizes[plan + 1]);
        assert_ok(
            mx_checkpoint_rows(checkpoint, "model.layers.0.self_attn.o_proj.weight", &rows, err));
        assert_int_equal(rows.tensor->dtype, MX_DTYPE_F32);
        mx_checkpoint_close(checkpoint);
        free_quantized(&q);
    }
}

/* 8-bit codes and E8M0 scales under safetensors' own types are the same bytes. */
static void test_native_types(void **state)
{
    (void)state;
    quantized q;
    mx_checkpoint *checkpoint;
    quantize_tiny(&q, "fp8_e4m3", NULL);
    q.plans[find_plan(&q, up_name)].dtype = MX_DTYPE_F8_E4M3;
    q.plans[find_plan(&q, up_scale_name)].dtype = MX_DTYPE_F8_E8M0;
    assert_ok(open_quantized(&q, &checkpoint, err));
    assert_int_equal(mx_checkpoint_find(checkpoint, up_name)->dtype, MX_DTYPE_U8);
    assert_int_equal(mx_checkpoint_find(checkpoint, up_scale_name)->dtype, MX_DTYPE_U8);
    mx_checkpoint_close(checkpoint);
    mx_error error;
    q.plans[find_plan(&q, up_name)].dtype = MX_DTYPE_F8_E5M2;
    assert_int_equal(open_quantized(&q, &checkpoint, &error), MX_ERR_FORMAT);
    expect_text(&error, "up_proj.weight: type F8_E5M2");
    free_quantized(&q);
}

static void expect_broken(quantized *q, mx_status wanted, const char *reason)
{
    mx_checkpoint *checkpoint;
    mx_error error = {0};
    const mx_status status = open_quantized(q, &checkpoint, &error);
    if (status != wanted) {
        fail_msg("status %d (%s) instead of: %s", status, error.text, reason);
    }
    assert_null(checkpoint);
    expect_text(&error, reason);
}

static void test_broken_directories(void **state)
{
    (void)state;
    quantized q;
    quantize_tiny(&q, "fp4_e2m1", NULL);
    const size_t codes = find_plan(&q, up_name), scales = find_plan(&q, up_scale_name);
    /* Same bytes, other shapes. */
    q.plans[codes].shape[0] = 32;
    q.plans[codes].shape[1] = 32;
    expect_broken(&q, MX_ERR_FORMAT, "up_proj.weight: shape: must be [64, 16]");
    q.plans[codes].shape[0] = 64;
    q.plans[codes].shape[1] = 16;
    q.plans[scales].n_dims = 1;
    expect_broken(&q, MX_ERR_FORMAT, "up_proj.weight_scale: shape: must be [64, 1]");
    q.plans[scales].n_dims = 2;
    q.plans[scales].dtype = MX_DTYPE_I8;
    expect_broken(&q, MX_ERR_FORMAT, "up_proj.weight_scale: type I8");
    q.plans[scales].dtype = MX_DTYPE_U8;
    q.plans[codes].dtype = MX_DTYPE_I8;
    expect_broken(&q, MX_ERR_FORMAT, "up_proj.weight: type I8");
    q.plans[codes].dtype = MX_DTYPE_U8;
    snprintf(q.names[scales], sizeof q.names[scales], "model.layers.0.mlp.up_proj.weight_scalf");
    expect_broken(&q, MX_ERR_FORMAT, "up_proj.weight_scale: missing");
    snprintf(q.names[scales], sizeof q.names[scales], "%s", up_scale_name);
    /* Codes whose meaning is not told. */
    json_object_del(q.config, "quantization_config");
    expect_broken(&q, MX_ERR_UNSUPPORTED, "codes without quantization_config?");
    free_quantized(&q);
    /* The contract says that q_proj is packed, and it is not; and the other way. */
    quantize_tiny(&q, "fp4_e2m1", "q_proj");
    json_t *contract;
    mx_specs other = q.specs;
    other.n_excludes = 0;
    assert_ok(mx_quark_to_json(&other, mx_checkpoint_config(q.source), "rtn", &contract, err));
    json_object_set_new(q.config, "quantization_config", contract);
    expect_broken(&q, MX_ERR_FORMAT, "q_proj.weight: type F32");
    free_quantized(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quant_method),       cmocka_unit_test(test_head),
        cmocka_unit_test(test_round_trip),         cmocka_unit_test(test_unquantized_weights),
        cmocka_unit_test(test_mxlm_edits),         cmocka_unit_test(test_quark_config),
        cmocka_unit_test(test_quark_excludes),     cmocka_unit_test(test_quark_edits),
        cmocka_unit_test(test_directory),          cmocka_unit_test(test_native_types),
        cmocka_unit_test(test_broken_directories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

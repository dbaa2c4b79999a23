#!/usr/bin/env python3
"""Makes fuzz/seeds/{safetensors,gguf,config,tokenizer}/: small valid files from which
libFuzzer starts. Standard library only; deterministic. Tokenizers are cases of
tests/golden/tokenizer_cases.json over a vocabulary that a fuzzer can grasp.

    python3 tools/make_fuzz_seeds.py fuzz/seeds
"""

import json
import struct
import sys
from pathlib import Path


def safetensors(header, data):
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def gguf(values, tensors, data):
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values))
    for key, kind, payload in values:
        out += string(key) + struct.pack("<I", kind) + payload
    for name, dims, kind, offset in tensors:
        out += string(name) + struct.pack("<I", len(dims))
        out += b"".join(struct.pack("<Q", d) for d in dims) + struct.pack("<IQ", kind, offset)
    return out + bytes(-len(out) % 32) + data


def array(kind, items):
    return struct.pack("<IQ", kind, len(items)) + b"".join(items)


def operand(dtype, dynamic):
    return {
        "dtype": dtype,
        "is_dynamic": dynamic,
        "qscheme": "per_group",
        "ch_axis": -1,
        "group_size": 32,
        "symmetric": None,
        "round_method": "half_even",
        "scale_type": "float",
        "scale_format": "e8m0",
        "scale_calculation_mode": "even",
        "mx_element_dtype": None,
        "observer_cls": "PerBlockMXObserver",
        "is_scale_quant": False,
    }


QUARK = {
    "quant_method": "quark",
    "quant_mode": "eager_mode",
    "export": {
        "kv_cache_group": [],
        "min_kv_scale": 0.0,
        "pack_method": "reorder",
        "weight_format": "real_quantized",
        "weight_merge_groups": None,
    },
    "global_quant_config": {
        "weight": operand("fp4", False),
        "input_tensors": operand("fp6_e2m3", True),
        "output_tensors": None,
        "bias": None,
        "target_device": None,
    },
    "layer_quant_config": {},
    "layer_type_quant_config": {},
    "kv_cache_quant_config": {},
    "algo_config": None,
    "softmax_quant_spec": None,
    "exclude": ["lm_head"],
}


def contract(fmt):
    return {
        "format": fmt,
        "block": 32,
        "scale_rule": "even",
        "round": "even",
        "flush_subnormals": False,
        "seed": 0,
    }


def configs():
    base = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 50,
    }
    llama3 = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    mxlm = {
        "version": 1,
        "specs": {"weights": contract("fp4_e2m1"), "activations": contract("fp6_e2m3"), "exclude": []},
        "method": "rtn",
    }
    yield "plain", base
    yield "full", base | {
        "architectures": ["LlamaForCausalLM"],
        "num_key_value_heads": 2,
        "head_dim": 20,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-05,
        "tie_word_embeddings": True,
        "attention_bias": True,
        "mlp_bias": True,
        "bos_token_id": 1,
        "eos_token_id": [2, 3],
        "rope_theta": 500000.0,
        "rope_scaling": llama3,
    }
    yield "parameters", base | {"rope_parameters": llama3 | {"rope_theta": 1e5}}
    yield "linear", base | {"rope_scaling": {"type": "linear", "factor": 2}}
    yield "quark", base | {"quantization_config": QUARK}
    yield "quark_exclude", base | {
        "quantization_config": QUARK
        | {"exclude": ["lm_head", "*.q_proj", "model.layers.1.mlp.up_proj"], "algo_config": [{"name": "gptq"}]}
    }
    yield "mxlm", base | {"quantization_config": QUARK | {"mxlm": mxlm}}


CASES = Path(__file__).parent.parent / "tests/golden/tokenizer_cases.json"
SEEDS = """MergedWithNext space;NFKD NFC;added single_word lstrip rstrip;added under NFKD;bos eos;
gpt2 prefix;longest;merges as lines;pattern llama3;pattern word;two splits;unknown fused"""
MERGES = [["t", "h"], ["th", "e"], ["i", "n"], ["Ġ", "t"]]
WORDS = [*"Ġtheridwosbacknx", *"Ilm1234<>'/ÃĤ©", "th", "the", "in", "Ġt"]
SMALL = {word: i for i, word in enumerate(WORDS)}


def small_patch(patch, words):
    """A case's patch for SMALL: ids of added tokens follow its end. words: the case's own."""

    def small_id(i):
        return i - len(words) + len(SMALL) if i >= len(words) else SMALL.get(words[i], i)

    patch = json.loads(json.dumps(patch))
    for token in patch.get("added_tokens", []):
        token["id"] = small_id(token["id"])
    for special in (patch.get("post_processor") or {}).get("special_tokens", {}).values():
        special["ids"] = [small_id(i) for i in special["ids"]]
    return patch


def tokenizers():
    golden = json.loads(CASES.read_text(encoding="utf-8"))
    model = golden["base"]["model"]
    words = list(model["vocab"])
    base = golden["base"] | {"model": model | {"vocab": SMALL, "merges": MERGES}}
    patches = {case["name"].strip(): case["patch"] for case in golden["cases"]}
    patches["merges as lines"] = {"model": base["model"] | {"merges": [" ".join(m) for m in MERGES]}}
    for name in (name.strip() for name in SEEDS.split(";")):
        seed = base | small_patch(patches[name], words)
        text = json.dumps(seed, ensure_ascii=False, separators=(",", ":"))
        yield name.replace(" ", "_") + ".json", text.encode()


def gguf_tokenizer():
    def strings(items):
        return array(8, [string(item) for item in items])

    key = "tokenizer.ggml."
    types = [1, 1, 1, 1, 1, 1, 1, 3, 4, 5]  # normal, control, user defined, unused
    return gguf(
        [
            ("general.architecture", 8, string("llama")),
            (key + "model", 8, string("gpt2")),
            (key + "pre", 8, string("llama-bpe")),
            (key + "tokens", 9, strings(["a", "b", "Ġ", "ab", "Ġab", "1", "11", "<s>", "<x y>", "[PAD]"])),
            (key + "merges", 9, strings(["a b", "Ġ ab", "1 1"])),
            (key + "token_type", 9, array(5, [struct.pack("<i", t) for t in types])),
            (key + "add_bos_token", 7, b"\1"),
            (key + "bos_token_id", 4, struct.pack("<I", 7)),
        ],
        [],
        b"",
    )


def main():
    root = Path(sys.argv[1])
    files = {
        "safetensors/two": safetensors(
            {
                "__metadata__": {"format": "pt"},
                "a": entry("F32", [2, 1], 0, 8),
                "b": entry("U8", [3], 8, 11),
            },
            bytes(range(11)),
        ),
        "safetensors/scalar_empty": safetensors(
            {"s": entry("BF16", [], 0, 2), "e": entry("I64", [0, 5], 2, 2)}, b"\x01\x02"
        ),
        "safetensors/narrow": safetensors(
            {"x": entry("F4", [2, 2], 0, 2), "y": entry("F8_E8M0", [1], 2, 3)}, b"\0\0\x7f"
        ),
        "gguf/tensors": gguf(
            [("general.alignment", 4, struct.pack("<I", 32)), ("llama.eps", 6, struct.pack("<f", 1e-5))],
            [("a.weight", [8], 0, 0), ("b.weight", [32, 2], 8, 32)],
            bytes(32 + 68),
        ),
        "gguf/values": gguf(
            [
                ("u8", 0, b"\x07"),
                ("flag", 7, b"\x01"),
                ("i64", 11, struct.pack("<q", -5)),
                ("f64", 12, struct.pack("<d", 0.5)),
                ("text", 8, string("llama")),
                ("tokens", 9, array(8, [string("a"), string(""), string("bcd")])),
                ("ints", 9, array(5, [struct.pack("<i", i) for i in (-1, 2, 3)])),
                ("nested", 9, array(9, [array(8, [string("x")]), array(0, [b"\1", b"\2"])])),
            ],
            [],
            b"",
        ),
        **{f"config/{name}": json.dumps(value).encode() for name, value in configs()},
        **{f"tokenizer/{name}": data for name, data in tokenizers()},
        "tokenizer/tiny.gguf": gguf_tokenizer(),
    }
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Makes files that mxlm's readers are tested with, by the packages that define the formats.

    pip install gguf==0.19.0 safetensors==0.8.0 numpy
    python3 tools/oracle_containers.py --out tests/golden

  OUT/containers.safetensors   written by `safetensors`: every plain type, a scalar, empty
                               tensors, names beyond ASCII, metadata
  OUT/tiny_llama.gguf          written by `gguf` as llama.cpp's converter lays a Llama out:
                               q and k permuted, biases, llama3 rope as rope_freqs.weight,
                               F32, F16 and Q8_0 tensors
  OUT/tiny_llama/              the same model as a Hugging Face directory (F32)

Deterministic. The permutation is written from its definition (row h, s, j of a head becomes
row h, j, s), not taken from the converter.
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize, quantize
from safetensors.numpy import save_file

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 32, 64, 2, 1, 16, 40
ROPE = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
THETA = 500000.0
QUERY, KEY = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM

# Hugging Face name, GGUF name, shape, GGUF type, heads to permute.
LAYER = [
    ("input_layernorm.weight", "attn_norm.weight", (HIDDEN,), T.F32, 0),
    ("self_attn.q_proj.weight", "attn_q.weight", (QUERY, HIDDEN), T.Q8_0, HEADS),
    ("self_attn.k_proj.weight", "attn_k.weight", (KEY, HIDDEN), T.F16, KV_HEADS),
    ("self_attn.v_proj.weight", "attn_v.weight", (KEY, HIDDEN), T.F16, 0),
    ("self_attn.o_proj.weight", "attn_output.weight", (HIDDEN, QUERY), T.Q8_0, 0),
    ("self_attn.q_proj.bias", "attn_q.bias", (QUERY,), T.F32, HEADS),
    ("self_attn.k_proj.bias", "attn_k.bias", (KEY,), T.F32, KV_HEADS),
    ("self_attn.v_proj.bias", "attn_v.bias", (KEY,), T.F32, 0),
    ("self_attn.o_proj.bias", "attn_output.bias", (HIDDEN,), T.F32, 0),
    ("post_attention_layernorm.weight", "ffn_norm.weight", (HIDDEN,), T.F32, 0),
    ("mlp.gate_proj.weight", "ffn_gate.weight", (INTERMEDIATE, HIDDEN), T.Q8_0, 0),
    ("mlp.up_proj.weight", "ffn_up.weight", (INTERMEDIATE, HIDDEN), T.Q8_0, 0),
    ("mlp.down_proj.weight", "ffn_down.weight", (HIDDEN, INTERMEDIATE), T.Q8_0, 0),
    ("mlp.gate_proj.bias", "ffn_gate.bias", (INTERMEDIATE,), T.F32, 0),
    ("mlp.up_proj.bias", "ffn_up.bias", (INTERMEDIATE,), T.F32, 0),
    ("mlp.down_proj.bias", "ffn_down.bias", (HIDDEN,), T.F32, 0),
]
MODEL = [
    ("model.embed_tokens.weight", "token_embd.weight", (VOCAB, HIDDEN), T.Q8_0, 0),
    ("model.norm.weight", "output_norm.weight", (HIDDEN,), T.F32, 0),
]


def all_tensors():
    yield from MODEL
    for hf, gg, shape, kind, heads in LAYER:
        yield f"model.layers.0.{hf}", f"blk.0.{gg}", shape, kind, heads


def permute(rows, heads):
    """[heads * head_dim, ...]: the halves of each head become alternating rows."""
    split = rows.reshape(heads, 2, HEAD_DIM // 2, *rows.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(rows.shape)


def rope_factors():
    """transformers' llama3 rule as a divisor per frequency."""
    frequencies = THETA ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    wavelengths = 2 * np.pi / frequencies
    smooth = ROPE["original_max_position_embeddings"] / wavelengths
    smooth = (smooth - ROPE["low_freq_factor"]) / (ROPE["high_freq_factor"] - ROPE["low_freq_factor"])
    smooth = np.clip(smooth, 0, 1)
    return (1 / ((1 - smooth) / ROPE["factor"] + smooth)).astype(np.float32)


def add_metadata(writer):
    writer.add_context_length(131072)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(THETA)
    writer.add_vocab_size(VOCAB)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{i}" for i in range(VOCAB - 1)] + [""])
    writer.add_token_scores([i / 4 for i in range(VOCAB)])
    writer.add_token_types([1] * VOCAB)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    # One of each type, for the typed getters.
    writer.add_uint8("test.u8", 255)
    writer.add_int8("test.i8", -128)
    writer.add_uint16("test.u16", 65535)
    writer.add_int16("test.i16", -32768)
    writer.add_uint32("test.u32", 2**32 - 1)
    writer.add_int32("test.i32", -(2**31))
    writer.add_uint64("test.u64", 2**64 - 1)
    writer.add_int64("test.i64", -(2**63))
    writer.add_float32("test.f32", 0.1)
    writer.add_float64("test.f64", 0.1)
    writer.add_bool("test.bool", True)
    writer.add_string("test.string", "na\u00efve")
    writer.add_array("test.ints", [-3, 5, 7])


def write_model(out):
    rng = np.random.default_rng(7)
    writer = gguf.GGUFWriter(out / "tiny_llama.gguf", "llama")
    add_metadata(writer)
    hf_tensors = {}
    for hf, gg, shape, kind, heads in all_tensors():
        values = rng.standard_normal(shape).astype(np.float32) * np.float32(0.1)
        stored = permute(values, heads) if heads else values
        data = quantize(stored, kind) if kind != T.F32 else stored
        writer.add_tensor(gg, data, raw_dtype=kind if kind == T.Q8_0 else None)
        exact = dequantize(data, kind).reshape(shape)
        if heads:  # back to Hugging Face's order: swapaxes is its own inverse here
            exact = exact.reshape(heads, HEAD_DIM // 2, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)
        hf_tensors[hf] = np.ascontiguousarray(exact)
    writer.add_tensor("rope_freqs.weight", rope_factors())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    directory = out / "tiny_llama"
    directory.mkdir(exist_ok=True)
    save_file(hf_tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": VOCAB,
        "rms_norm_eps": 1e-5,
        "rope_theta": THETA,
        "rope_scaling": ROPE,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
        "attention_bias": True,
        "mlp_bias": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def write_safetensors(out):
    base = np.arange(6).reshape(2, 3)
    tensors = {
        kind.upper(): base.astype(name)
        for kind, name in [
            ("f64", "float64"),
            ("f32", "float32"),
            ("f16", "float16"),
            ("i64", "int64"),
            ("i32", "int32"),
            ("i16", "int16"),
            ("i8", "int8"),
            ("u64", "uint64"),
            ("u32", "uint32"),
            ("u16", "uint16"),
            ("u8", "uint8"),
        ]
    }
    tensors["BOOL"] = base % 2 == 1
    tensors["scalar"] = np.array(2.5, dtype=np.float32)
    tensors["empty"] = np.zeros((0, 4), dtype=np.float32)
    tensors["empty too"] = np.zeros((3, 0), dtype=np.uint8)
    tensors["gr\u00f6\u00dfe \u6f22 \"quoted\"\n"] = np.array([1.5], dtype=np.float32)
    save_file(tensors, out / "containers.safetensors", metadata={"k\u00e9y": "v"})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    write_model(out)
    write_safetensors(out)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Writes tests/app/fixtures/tiny: a complete Llama checkpoint small enough to commit
(58 KB), with pseudo-random BF16 weights and a byte-level BPE tokenizer that takes any
text. For tests of the program; it has learned nothing.
usage: make_tiny_model.py DIR      (Python's standard library only)"""

import collections
import json
import pathlib
import random
import struct
import sys

HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 32, 64, 2, 4, 2, 8
MERGES = 60
TEXT = (
    "the old man walked down to the river and sat on the stone by the water "
    "then he saw that the boat was gone and there was nothing there but the rain "
)


def byte_alphabet():
    """GPT-2's printable character of each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table, extra = {}, 0
    for byte in range(256):
        if byte in plain:
            table[byte] = chr(byte)
        else:
            table[byte] = chr(256 + extra)
            extra += 1
    return table


def learn_merges(text, count):
    """Plain BPE training on words with their leading space."""
    words = [["Ġ", *word] for word in text.split()]
    merges = []
    while len(merges) < count:
        pairs = collections.Counter(pair for word in words for pair in zip(word, word[1:]))
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        for word in words:
            i = 0
            while i + 1 < len(word):
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = ["".join(best)]
                i += 1
    return merges


def tokenizer():
    vocab = {"<|begin|>": 0, "<|end|>": 1}
    for character in byte_alphabet().values():
        vocab[character] = len(vocab)
    merges = learn_merges(TEXT, MERGES)
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    special = [
        {"id": i, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for i, name in enumerate(["<|begin|>", "<|end|>"])
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    begin = {"SpecialToken": {"id": "<|begin|>", "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [begin, {"Sequence": {"id": "A", "type_id": 0}},
                 begin, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": [0], "tokens": ["<|begin|>"]}},
    }
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special,
        "normalizer": None, "pre_tokenizer": {**byte_level, "use_regex": True},
        "post_processor": template, "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": False, "vocab": vocab,
            "merges": [" ".join(pair) for pair in merges],
        },
    }


def config(vocab_size):
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
        "vocab_size": vocab_size, "max_position_embeddings": 512, "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0, "tie_word_embeddings": True, "hidden_act": "silu",
        "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16",
    }


def shapes(vocab_size):
    q, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    yield "model.embed_tokens.weight", (vocab_size, HIDDEN)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (HIDDEN,)
        yield prefix + "self_attn.q_proj.weight", (q, HIDDEN)
        yield prefix + "self_attn.k_proj.weight", (kv, HIDDEN)
        yield prefix + "self_attn.v_proj.weight", (kv, HIDDEN)
        yield prefix + "self_attn.o_proj.weight", (HIDDEN, q)
        yield prefix + "post_attention_layernorm.weight", (HIDDEN,)
        yield prefix + "mlp.gate_proj.weight", (INTERMEDIATE, HIDDEN)
        yield prefix + "mlp.up_proj.weight", (INTERMEDIATE, HIDDEN)
        yield prefix + "mlp.down_proj.weight", (HIDDEN, INTERMEDIATE)
    yield "model.norm.weight", (HIDDEN,)


def bf16(value):
    return struct.pack("<f", value)[2:]


def safetensors(vocab_size):
    """Norms around 1; other weights normal with deviation 1 / sqrt(inputs) or so."""
    rng = random.Random(7)
    header, data = {}, bytearray()
    for name, shape in shapes(vocab_size):
        count = shape[0] * (shape[1] if len(shape) == 2 else 1)
        mean, deviation = (1.0, 0.1) if len(shape) == 1 else (0.0, shape[1] ** -0.5 * 1.5)
        begin = len(data)
        data += b"".join(bf16(rng.gauss(mean, deviation)) for _ in range(count))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, len(data)]}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    words = tokenizer()
    vocab_size = len(words["model"]["vocab"])
    (out / "tokenizer.json").write_text(json.dumps(words, indent=1, ensure_ascii=False) + "\n")
    (out / "config.json").write_text(json.dumps(config(vocab_size), indent=2) + "\n")
    (out / "model.safetensors").write_bytes(safetensors(vocab_size))


if __name__ == "__main__":
    main()

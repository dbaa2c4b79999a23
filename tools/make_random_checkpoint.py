#!/usr/bin/env python3
"""Writes random weights in the exact shape of a Llama config.json.

    make_random_checkpoint.py CONFIG OUT [--dtype bf16] [--seed N]

OUT becomes a Hugging Face directory: config.json, one model.safetensors, and the
tokenizer files that lie beside CONFIG. Tensors are streamed: memory stays at a few row
chunks however large the model. Weights are normal(0, 0.02) with a few input channels
eight times larger, as trained models have them, so that quantization meets realistic
blocks; norms are near 1. Needs numpy only.
"""

import argparse
import json
import shutil
import struct
from pathlib import Path

import numpy as np

CHUNK = 1 << 22  # elements made at a time
OUTLIER_SHARE = 0.002  # of the input channels of every matrix
DTYPES = {"bf16": ("BF16", 2), "fp16": ("F16", 2), "fp32": ("F32", 4)}
TORCH_NAMES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def tensor_shapes(config: dict) -> dict:
    """Names and shapes of all tensors of the checkpoint, in file order."""
    hidden, mid = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    wide = heads * head_dim
    narrow = (config.get("num_key_value_heads") or heads) * head_dim
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        linears = {
            "self_attn.q_proj": (wide, hidden),
            "self_attn.k_proj": (narrow, hidden),
            "self_attn.v_proj": (narrow, hidden),
            "self_attn.o_proj": (hidden, wide),
            "mlp.gate_proj": (mid, hidden),
            "mlp.up_proj": (mid, hidden),
            "mlp.down_proj": (hidden, mid),
        }
        for name, shape in linears.items():
            shapes[f"{prefix}.{name}.weight"] = shape
            if config.get("attention_bias" if "self_attn" in name else "mlp_bias"):
                shapes[f"{prefix}.{name}.bias"] = shape[:1]
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{prefix}.{name}.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes


def stored_bytes(x: np.ndarray, dtype: str) -> bytes:
    """float32 values as the little-endian bytes of `dtype`, rounded to nearest even."""
    if dtype == "fp32":
        return x.astype("<f4").tobytes()
    if dtype == "fp16":
        return x.astype("<f2").tobytes()
    bits = x.view(np.uint32)
    bits = bits + (0x7FFF + ((bits >> 16) & 1))  # finite values far from overflow only
    return (bits >> 16).astype("<u2").tobytes()


def tensor_chunks(rng: np.random.Generator, name: str, shape: tuple):
    """The values of one tensor, some rows at a time."""
    if len(shape) == 1:
        x = rng.standard_normal(shape, dtype=np.float32)
        yield 1 + np.float32(0.05) * x if name.endswith("norm.weight") else np.float32(0.02) * x
        return
    n_rows, n_cols = shape
    channel = np.full(n_cols, 0.02, dtype=np.float32)
    channel[rng.choice(n_cols, max(1, int(OUTLIER_SHARE * n_cols)), replace=False)] *= 8
    step = max(1, CHUNK // n_cols)
    for row in range(0, n_rows, step):
        x = rng.standard_normal((min(step, n_rows - row), n_cols), dtype=np.float32)
        yield x * channel


def write_safetensors(path: Path, shapes: dict, dtype: str, seed: int) -> int:
    """Streams the file; returns its size."""
    type_name, size = DTYPES[dtype]
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        end = offset + size * int(np.prod(shape))
        header[name] = {"dtype": type_name, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for index, (name, shape) in enumerate(shapes.items()):
            # One stream per tensor: a tensor's values do not depend on the others.
            rng = np.random.default_rng([seed, index])
            for chunk in tensor_chunks(rng, name, shape):
                file.write(stored_bytes(chunk, dtype))
        return file.tell()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="config.json, or a folder that holds one")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    source = args.config / "config.json" if args.config.is_dir() else args.config
    config = json.loads(source.read_text())
    config["torch_dtype"] = TORCH_NAMES[args.dtype]
    args.out.mkdir(parents=True, exist_ok=True)
    size = write_safetensors(
        args.out / "model.safetensors", tensor_shapes(config), args.dtype, args.seed
    )
    (args.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (source.parent / name).is_file():
            shutil.copyfile(source.parent / name, args.out / name)
    print(f"{args.out}: {size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()

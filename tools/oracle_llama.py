#!/usr/bin/env python3
"""Makes the tiny random Llama models of tests/golden and what transformers says of them.

For every model of MODELS this writes

  OUT/llama_NAME/                  a Hugging Face directory: config.json and safetensors
  OUT/llama_NAME.safetensors       the expected logits (see `write_expected`)

and once OUT/llama_rope.safetensors, the rotary frequencies and tables of
transformers for several configurations.

Expected logits come from two sources that share nothing with mxlm:
  float32    transformers' LlamaForCausalLM, float32, eager attention, CPU
  the rest   the same model in float64 whose seven projections per layer are replaced by
             microxcaling's quantization of weights and inputs and a float64 matmul

A quantized forward pass is discontinuous: where an activation lies within fp32 noise of a
rounding boundary, two correct programs may differ by a whole quantization step. The seed of
each model with quantized variants is therefore searched for: no activation of its prompts
may change its code when moved by MARGIN of its block's largest magnitude (`StepWatch`).
So the C result can be held to a tolerance of fp32 noise instead of one of rounding flips.
(Exact ties count as near: sums of a few quantized products do land on them.)

Needs the packages of requirements.txt and a checkout of microsoft/microxcaling
(tools/README.md).
"""

import argparse
import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save, save_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

from make_random_checkpoint import tensor_shapes  # beside this script

MARGIN = 5e-7  # of a block's amax; fp32 activations of these models err by about 1e-7 of it
MAX_SEEDS = 2000

LLAMA3_SHORT = {
    # original context 32: with head_dim 8 or more, wavelengths fall into all three bands.
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LLAMA3_REAL = {  # Llama-3.2-1B's
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """Weights and activations in MX formats, as mxlm's settings name them."""

    name: str
    weights: str
    activations: str
    block: int = 32
    round: str = "even"
    rows: int = 0  # logits of the last `rows` positions are kept; 0: of all
    tolerance: float = 1e-5  # of the largest logit
    watch: bool = True  # activations must keep MARGIN from rounding boundaries


W4A6 = Variant("w4a6", "fp4_e2m1", "fp6_e2m3")


@dataclasses.dataclass(frozen=True)
class Model:
    name: str
    config: dict  # what this model changes in BASE_CONFIG
    dtype: torch.dtype = torch.bfloat16
    shards: int = 1
    prompts: tuple = (17, 31)  # token counts
    rows: int = 0  # of float32, as in Variant
    variants: tuple = ()


BASE_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 61,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
}

MODELS = (
    Model(
        "mha",
        {"num_key_value_heads": 4, "intermediate_size": 64},
        variants=(W4A6,),
    ),
    Model(
        "gqa",
        {
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_attention_heads": 8,
            "tie_word_embeddings": True,
        },
        variants=(
            W4A6,
            Variant("w4a6_nearest", "fp4_e2m1", "fp6_e2m3", round="nearest", rows=8),
            Variant("w4a6_block16", "fp4_e2m1", "fp6_e2m3", block=16, rows=8),
            Variant("w4a4", "fp4_e2m1", "fp4_e2m1", rows=8),
            Variant("w8a8_int", "int8", "int8", rows=8),
            # fp8 keeps elements far below a block's amax at a relative step of 2^-3 or 2^-2:
            # fp32 noise of the amax's size may move those, by little. Hence no watch, and a
            # tolerance with room for a few such moves.
            Variant("w8a8_e4m3", "fp8_e4m3", "fp8_e4m3", rows=8, tolerance=3e-5, watch=False),
            Variant("w6a8_e5m2", "fp6_e3m2", "fp8_e5m2", rows=8, tolerance=3e-5, watch=False),
        ),
    ),
    Model(
        "llama3",
        {"num_hidden_layers": 2, "rope_scaling": LLAMA3_SHORT, "tie_word_embeddings": True},
        variants=(W4A6,),
    ),
    Model(
        # The spelling of 2023: "type" instead of "rope_type".
        "linear",
        {"rope_scaling": {"type": "linear", "factor": 4.0}},
        dtype=torch.float16,
    ),
    Model(
        # The spelling of transformers 5: theta inside rope_parameters.
        "params",
        {"rope_theta": None, "rope_parameters": {**LLAMA3_SHORT, "rope_theta": 500000.0}},
        dtype=torch.float16,
    ),
    Model(
        "bias",
        {
            "num_hidden_layers": 2,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
        },
        variants=(W4A6,),
    ),
    Model(
        # Attention is 2 * 20 = 40 wide, neither hidden_size nor a multiple of 32.
        "headdim",
        {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 20},
        variants=(W4A6,),
    ),
    Model(
        "ragged",
        {
            "hidden_size": 40,
            "intermediate_size": 72,
            "num_attention_heads": 5,
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
        },
        variants=(
            W4A6,
            Variant("w4a6_block16", "fp4_e2m1", "fp6_e2m3", block=16, rows=8),
            Variant("w8a8_e4m3", "fp8_e4m3", "fp8_e4m3", rows=8, tolerance=3e-5, watch=False),
        ),
    ),
    Model(
        "sharded",
        {"num_hidden_layers": 2, "intermediate_size": 32, "num_key_value_heads": 1},
        shards=3,
    ),
    Model(
        # Llama-3.2-1B's rope at positions past 8,192.
        "long",
        {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "max_position_embeddings": 131072,
            "rope_theta": 500000.0,
            "rope_scaling": LLAMA3_REAL,
            "tie_word_embeddings": True,
        },
        dtype=torch.float32,
        prompts=(8300,),
        rows=16,
    ),
)


# ---- models -----------------------------------------------------------------------------


def config_of(model: Model) -> dict:
    """config.json's members; a value of None removes one."""
    config = {**BASE_CONFIG, **model.config}
    config["torch_dtype"] = str(model.dtype).removeprefix("torch.")
    return {key: value for key, value in config.items() if value is not None}


def random_tensor(rng: np.random.Generator, name: str, shape: tuple) -> np.ndarray:
    """Weights that keep activations near 1, attention selective and outliers present."""
    x = rng.standard_normal(shape)
    if name.endswith("norm.weight"):
        x = 1 + 0.2 * x
        x[rng.integers(shape[0])] *= 6  # one outlier channel, as trained models have
    elif name.endswith(".bias"):
        x *= 0.3
    elif name != "model.embed_tokens.weight":
        x *= (2.0 if "q_proj" in name or "k_proj" in name else 1.0) / np.sqrt(shape[1])
    return x.astype(np.float32)


def make_tensors(model: Model, seed: int) -> dict:
    rng = np.random.default_rng(seed)
    shapes = tensor_shapes(config_of(model))
    return {
        name: torch.from_numpy(random_tensor(rng, name, shape)).to(model.dtype)
        for name, shape in shapes.items()
    }


def write_directory(model: Model, tensors: dict, path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    text = json.dumps(config_of(model), indent=2) + "\n"
    (path / "config.json").write_text(text)
    if model.shards == 1:
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    names = list(tensors)
    for shard in range(model.shards):
        file = f"model-{shard + 1:05d}-of-{model.shards:05d}.safetensors"
        # Dealt out in turn: a layer's tensors lie in different files.
        part = {name: tensors[name] for name in names[shard :: model.shards]}
        save_file(part, path / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    text = json.dumps(index, indent=2) + "\n"
    (path / "model.safetensors.index.json").write_text(text)


def make_prompts(model: Model, seed: int) -> list:
    rng = np.random.default_rng([seed, 1])
    vocab = config_of(model)["vocab_size"]
    return [torch.from_numpy(rng.integers(0, vocab, n)) for n in model.prompts]


# ---- the two oracles --------------------------------------------------------------------


def exact_rms_norm(self, hidden_states: torch.Tensor) -> torch.Tensor:
    """LlamaRMSNorm without its cast to float32."""
    variance = hidden_states.pow(2).mean(-1, keepdim=True)
    return self.weight * (hidden_states * torch.rsqrt(variance + self.variance_epsilon))


def load(path: Path, dtype: torch.dtype) -> LlamaForCausalLM:
    net = LlamaForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    return net.to(dtype).eval()


@torch.no_grad()
def logits_of(net: LlamaForCausalLM, ids: torch.Tensor, rows: int) -> torch.Tensor:
    # [n, vocab], or its last `rows` rows
    return net(ids[None], use_cache=False).logits[0][-rows:].clone()


class StepWatch:
    """Counts activations that moving by MARGIN of their block's amax would requantize."""

    def __init__(self):
        self.moved = 0

    def look(self, quantize, x: torch.Tensor, block: int) -> None:
        n = x.shape[-1]
        padded = torch.nn.functional.pad(x.abs(), (0, -n % block))
        amax = padded.unflatten(-1, (-1, block)).amax(-1)
        shift = amax.repeat_interleave(block, -1)[..., :n] * MARGIN * x.sign()
        here = quantize(x)
        for moved in (x + shift, x - shift):
            self.moved += int((quantize(moved) != here).sum())


class MxLinear(torch.nn.Module):
    """microxcaling's linear forward in float64: MX along the inputs of both operands."""

    def __init__(self, linear: torch.nn.Linear, variant: Variant, watch: StepWatch, quantize_mx):
        super().__init__()
        self.variant, self.watch, self.quantize_mx = variant, watch, quantize_mx
        self.weight = self.quantize(linear.weight.detach(), variant.weights)
        self.bias = linear.bias

    def quantize(self, x: torch.Tensor, element_format: str) -> torch.Tensor:
        variant = self.variant
        return self.quantize_mx(
            x.clone(), 8, element_format, axes=[-1], block_size=variant.block, round=variant.round
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def cast(y):
            return self.quantize(y, self.variant.activations)

        if self.variant.watch:
            self.watch.look(cast, x, self.variant.block)
        return torch.nn.functional.linear(cast(x), self.weight, self.bias)


def mx_network(path: Path, variant: Variant, watch: StepWatch, quantize_mx) -> LlamaForCausalLM:
    net = load(path, torch.float64)
    for name, module in list(net.named_modules()):
        if name.endswith("_proj"):
            parent, _, child = name.rpartition(".")
            mx = MxLinear(module, variant, watch, quantize_mx)
            setattr(net.get_submodule(parent), child, mx)
    return net


# ---- output -----------------------------------------------------------------------------


def save_sorted(tensors: dict, path: Path, metadata: dict) -> None:
    """save_file orders metadata anew on every run; goldens must not change with it."""
    data = save(tensors, metadata)
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


def settings_of(variant: Variant) -> str:
    """As mx_specs_set's keys and values."""
    return (
        f"weights={variant.weights} activations={variant.activations} block={variant.block} "
        f"scale_rule=floor round={variant.round}"
    )


def expect(model: Model, path: Path, prompts: list, quantize_mx):
    """All expected tensors and metadata; None when an activation lies too near a boundary.

    Tensors: `ids.P` U8 [n]; `VARIANT.P` F32 [rows, vocab], the last rows of prompt P.
    Metadata: `variants`, the names; `VARIANT`, its settings; `VARIANT.tolerance`, the
    largest difference allowed, as a share of the largest magnitude in the tensor."""
    tensors = {f"ids.{p}": ids.to(torch.uint8) for p, ids in enumerate(prompts)}
    names = " ".join(["float32", *(variant.name for variant in model.variants)])
    metadata = {"variants": names, "float32": ""}
    watch = StepWatch()
    with_exact_norm = modeling_llama.LlamaRMSNorm.forward
    modeling_llama.LlamaRMSNorm.forward = exact_rms_norm
    try:
        for variant in model.variants:
            net = mx_network(path, variant, watch, quantize_mx)
            for p, ids in enumerate(prompts):
                tensors[f"{variant.name}.{p}"] = logits_of(net, ids, variant.rows).float()
                if watch.moved:
                    return None
            metadata[variant.name] = settings_of(variant)
            metadata[f"{variant.name}.tolerance"] = repr(variant.tolerance)
        net = load(path, torch.float64)
        exact = [logits_of(net, ids, model.rows) for ids in prompts]
    finally:
        modeling_llama.LlamaRMSNorm.forward = with_exact_norm
    net = load(path, torch.float32)
    gap = 0.0
    for p, ids in enumerate(prompts):
        tensors[f"float32.{p}"] = logits_of(net, ids, model.rows)
        error = (tensors[f"float32.{p}"] - exact[p]).abs().max() / exact[p].abs().max()
        gap = max(gap, float(error))
    # Two correct float32 programs each err by about `gap`; four times it leaves room for
    # another order of summation and is far below what any mistake would cost. The floor is
    # for sums taken one term after the other where PyTorch sums in blocks.
    metadata["float32.gap"] = f"{gap:.1e}"
    metadata["float32.tolerance"] = f"{max(4 * gap, 3e-6):.1e}"
    return tensors, metadata


def make_model(model: Model, out: Path, quantize_mx) -> None:
    path = out / f"llama_{model.name}"
    for seed in range(MAX_SEEDS):
        write_directory(model, make_tensors(model, seed), path)
        prompts = make_prompts(model, seed)
        made = expect(model, path, prompts, quantize_mx)
        if made is not None:
            break
    else:
        sys.exit(f"{model.name}: no seed below {MAX_SEEDS} keeps the margin")
    tensors, metadata = made
    metadata["seed"] = str(seed)
    save_sorted(tensors, out / f"llama_{model.name}.safetensors", metadata)
    gap, largest = metadata["float32.gap"], tensors["float32.0"].abs().max()
    print(f"{model.name}: seed {seed}, float32 - float64 {gap}, largest logit {largest:.3g}")


# ---- rope -------------------------------------------------------------------------------

ROPE_POSITIONS = (0, 1, 100, 8191, 8192, 20000, 131071)
ROPE_CASES = {
    "default_10000": (128, {"rope_theta": 10000.0}),
    "default_100000": (64, {"rope_theta": 100000.0}),  # SmolLM2
    "linear": (64, {"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 4.0}}),
    "linear_odd": (20, {"rope_parameters": {"rope_type": "linear", "factor": 3.0,
                                            "rope_theta": 500000.0}}),
    "llama3_1b": (64, {"rope_theta": 500000.0, "rope_scaling": LLAMA3_REAL}),
    "llama3_8b": (128, {"rope_theta": 500000.0, "rope_scaling": {**LLAMA3_REAL, "factor": 8.0}}),
    "llama3_short": (16, {"rope_parameters": {**LLAMA3_SHORT, "rope_theta": 10000.0}}),
}  # fmt: skip


def make_rope(out: Path) -> None:
    """Per case C: `inv_freq.C` [head_dim / 2], `cos.C` and `sin.C` [positions, head_dim / 2],
    and config.json as metadata `C`."""
    tensors = {"positions": torch.tensor(ROPE_POSITIONS, dtype=torch.int32)}
    metadata = {"cases": " ".join(ROPE_CASES)}
    for name, (head_dim, change) in ROPE_CASES.items():
        config = {**BASE_CONFIG, "max_position_embeddings": 131072, "head_dim": head_dim, **change}
        if "rope_parameters" in change:
            del config["rope_theta"]
        rope = modeling_llama.LlamaRotaryEmbedding(LlamaConfig(**config))
        cos, sin = rope(torch.zeros(1), torch.tensor([ROPE_POSITIONS]))
        tensors[f"inv_freq.{name}"] = rope.inv_freq.detach().clone()
        tensors[f"cos.{name}"] = cos[0, :, : head_dim // 2].contiguous()
        tensors[f"sin.{name}"] = sin[0, :, : head_dim // 2].contiguous()
        metadata[name] = json.dumps(config)
    save_sorted(tensors, out / "llama_rope.safetensors", metadata)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder (tests/golden)")
    parser.add_argument("--microxcaling", required=True, help="checkout of the repository")
    parser.add_argument("--only", nargs="*", help="names of models, or rope")
    args = parser.parse_args()
    sys.path.insert(0, args.microxcaling)
    from mx.mx_ops import _quantize_mx

    torch.set_num_threads(1)  # sums in one order: the same bytes on every run
    if not args.only or "rope" in args.only:
        make_rope(args.out)
    for model in MODELS:
        if not args.only or model.name in args.only:
            make_model(model, args.out, _quantize_mx)


if __name__ == "__main__":
    main()

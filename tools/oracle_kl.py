#!/usr/bin/env python3
"""Makes tests/golden/kl.json: what transformers and numpy say of `mxlm eval --tasks kl:FILE`
and of `mxlm inspect --error`.

    venv/bin/python tools/oracle_kl.py --model tests/app/fixtures/tiny --out tests/golden

The base is the tiny model in float32; the other is the same with the weights of its
projections rounded to mxfp4_e2m1 (blocks of 32, floor scale, halves away from zero), activations
as they are. Over windows of a text (lm_eval's rolling windows, --window 40 --stride 24):
KL(base || other) of the next token's distributions at every scored token, in float64 from
float32 logits; its mean, 99th percentile (numpy's default) and standard error of the mean by
the delta method over windows; the share of equal argmaxes. Over the whole text as one window,
BOS in front: SQNR of every projection's weights in dB, the relative squared error of its outputs
on the base's inputs, and that of each layer's output. Deterministic.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

TEXT = (
    "the old man walked down to the river and sat on the stone by the water. then he saw that the "
    "boat was gone, and there was nothing there but the rain.\n\n"
    "He counted: 1, 2, 3 boats; \u201cnone of them is mine,\u201d he said to the man on the stone, "
    "and the old man saw nothing but the water.\n"
)
WINDOW, STRIDE = 40, 24


def mxfp4(weight):
    """OCP MX v1.0: shared exponent floor(log2(amax)) - 2, e2m1 elements up to 6."""
    w = weight.double().numpy()
    rows, cols = w.shape
    blocks = w.reshape(rows, cols // 32, 32)
    amax = np.abs(blocks).max(-1, keepdims=True)
    scale = np.exp2(np.floor(np.log2(amax)) - 2)
    x = np.abs(blocks) / scale
    step = np.exp2(np.clip(np.floor(np.log2(np.maximum(x, 1e-30))), 0, 2) - 1)
    q = np.minimum(np.floor(x / step + 0.5) * step, 6)
    return torch.from_numpy((np.sign(blocks) * q * scale).reshape(rows, cols)).float()


def windows(n):
    """(first, end, targets) over tokens 0..n, token 0 being the prefix."""
    scored = 1
    while scored < n:
        targets = min(n - scored, WINDOW if scored == 1 else STRIDE)
        end = scored + targets
        yield max(0, end - WINDOW - 1), end, targets
        scored = end


def relative(found, wanted):
    found, wanted = found.double(), wanted.double()
    return float(((found - wanted) ** 2).sum() / (wanted**2).sum())


def layer_errors(base, other, ids):
    inputs, hidden = {}, {}
    for model in (base, other):
        for i, layer in enumerate(model.model.layers):
            layer.register_forward_hook(
                lambda m, x, y, key=(model, i): hidden.update({key: y[0] if type(y) is tuple else y})
            )
    for name, module in base.named_modules():
        if name.endswith("_proj"):
            module.register_forward_hook(lambda m, x, y, key=name: inputs.update({key: x[0]}))
    with torch.no_grad():
        base(ids)
        other(ids)
    layers = []
    for i in range(len(base.model.layers)):
        errors = {"sqnr": [], "output": [], "hidden": relative(hidden[other, i], hidden[base, i])}
        for name in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o") + (
            "mlp.gate",
            "mlp.up",
            "mlp.down",
        ):
            name = f"model.layers.{i}.{name}_proj"
            w, v = (m.get_submodule(name).weight.detach().double() for m in (base, other))
            x = inputs[name].double()
            errors["sqnr"].append(-10 * math.log10(relative(v, w)))
            errors["output"].append(relative(x @ v.T, x @ w.T))
        layers.append(errors)
    return layers


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(args.model + "/tokenizer.json")
    ids = torch.tensor([tokenizer.encode(TEXT, add_special_tokens=False).ids])
    with_bos = torch.tensor([tokenizer.encode(TEXT).ids])
    base = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    other = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, weight in other.named_parameters():
            if name.endswith("_proj.weight"):
                weight.copy_(mxfp4(weight))
    lines, divergences, agreements = [], [], 0
    for first, end, targets in windows(ids.shape[1]):
        with torch.no_grad():
            feed = ids[:, first : end - 1]
            p, q = (m(feed).logits[0, -targets:].double().log_softmax(-1) for m in (base, other))
        kl = (p.exp() * (p - q)).sum(-1)
        agreed = int((p.argmax(-1) == q.argmax(-1)).sum())
        ll = float(q.gather(1, ids[0, end - targets : end, None]).sum())
        lines.append({"targets": targets, "kl": float(kl.sum()), "agreed": agreed, "ll": ll})
        divergences += kl.tolist()
        agreements += agreed
    n, total = len(lines), len(divergences)
    mean = sum(divergences) / total
    residuals = [line["kl"] - mean * line["targets"] for line in lines]
    golden = {
        "text": TEXT,
        "window": WINDOW,
        "stride": STRIDE,
        "kl": mean,
        "kl_stderr": math.sqrt(n / (n - 1) * sum(r * r for r in residuals)) / total,
        "kl_p99": float(np.percentile(divergences, 99)),
        "top1_agreement": agreements / total,
        "windows": lines,
        "layers": layer_errors(base, other, with_bos),
    }
    Path(args.out, "kl.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()

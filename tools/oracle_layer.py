"""Makes tests/golden/layer_pass.safetensors: one Llama decoder layer and its derivatives.

Independent of mxlm: torch's autograd in float64, attention by a plain masked softmax. The loss
is sum(y * d_y) for a random d_y, so every gradient is the product of the Jacobian with d_y.

usage: oracle_layer.py OUT_FOLDER
"""

import math
import pathlib
import sys

import torch
from safetensors.torch import save_file

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE = 24, 4, 2, 8, 40
WINDOWS, LENGTH, EPS, THETA = 2, 136, 1e-5, 10000.0
SHAPES = {
    "q": (HEADS * HEAD_DIM, HIDDEN),
    "k": (KV_HEADS * HEAD_DIM, HIDDEN),
    "v": (KV_HEADS * HEAD_DIM, HIDDEN),
    "o": (HIDDEN, HEADS * HEAD_DIM),
    "gate": (INTERMEDIATE, HIDDEN),
    "up": (INTERMEDIATE, HIDDEN),
    "down": (HIDDEN, INTERMEDIATE),
}


def rms_norm(x, weight):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + EPS) * weight


def rotate(x):
    """x [windows][heads][length][dim]; halves are paired."""
    half = HEAD_DIM // 2
    frequencies = THETA ** (-torch.arange(half, dtype=torch.float64) * 2 / HEAD_DIM)
    angles = torch.arange(LENGTH, dtype=torch.float64)[:, None] * frequencies
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


def heads(x, n):
    return x.view(WINDOWS, LENGTH, n, HEAD_DIM).transpose(1, 2)


def layer(t):
    def project(name, x):
        return x @ t["weight." + name].T + t["bias." + name]

    normed = rms_norm(t["x"], t["norm.attention"])
    q = rotate(heads(project("q", normed), HEADS))
    k = rotate(heads(project("k", normed), KV_HEADS)).repeat_interleave(HEADS // KV_HEADS, 1)
    v = heads(project("v", normed), KV_HEADS).repeat_interleave(HEADS // KV_HEADS, 1)
    mask = torch.full((LENGTH, LENGTH), -math.inf, dtype=torch.float64).triu(1)
    scores = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(HEAD_DIM) + mask, -1)
    mixed = (scores @ v).transpose(1, 2).reshape(WINDOWS, LENGTH, HEADS * HEAD_DIM)
    middle = t["x"] + project("o", mixed)
    normed = rms_norm(middle, t["norm.mlp"])
    gate = project("gate", normed)
    return middle + project("down", gate * torch.sigmoid(gate) * project("up", normed))


def main():
    generator = torch.Generator().manual_seed(5)

    def draw(*shape, scale=1.0):
        # Exact in float32, where mxlm starts from.
        return (torch.randn(*shape, generator=generator) * scale).double().requires_grad_()

    tensors = {"x": draw(WINDOWS, LENGTH, HIDDEN)}
    for name, shape in SHAPES.items():
        tensors["weight." + name] = draw(*shape, scale=1.5 / math.sqrt(shape[1]))
        tensors["bias." + name] = draw(shape[0], scale=0.1)
    tensors["norm.attention"] = draw(HIDDEN)
    tensors["norm.mlp"] = draw(HIDDEN)
    y = layer(tensors)
    d_y = draw(*y.shape).detach()
    (y * d_y).sum().backward()
    out = {name: t.detach() for name, t in tensors.items()} | {"y": y.detach(), "d_y": d_y}
    for name, t in tensors.items():
        if not name.startswith("bias."):
            out["d." + name] = t.grad
    save_file({name: t.float().contiguous() for name, t in out.items()},
              pathlib.Path(sys.argv[1]) / "layer_pass.safetensors")


main()

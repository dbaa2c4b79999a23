#!/usr/bin/env python3
"""Checks a directory that `mxlm quantize` wrote, with code that shares nothing with mxlm.

Reads the OCP-MX layout as config.json's quantization_config describes it (even element in the low
nibble, 6-bit elements LSB first, E8M0 scale bytes), dequantizes every projection, and compares with
quantizing the original weights by the OCP formulas (floor scale rule, as microxcaling has them) in
float64. Equality is demanded, not closeness.

    check_quark_layout.py QUANTIZED ORIGINAL

ORIGINAL is the Hugging Face directory that was quantized, or one made of a GGUF file by
`mxlm quantize FILE.gguf --out DIR --exclude '*'`. Scale rule floor, rounding nearest or even.
"""

import glob
import json
import os
import sys

import torch
from safetensors import safe_open

# dtype: bits, exponent bits, exponent bias, mantissa bits, largest exponent, largest value
FORMATS = {
    "fp4": (4, 2, 1, 1, 2, 6.0),
    "fp6_e2m3": (6, 2, 1, 3, 2, 7.5),
    "fp6_e3m2": (6, 3, 3, 2, 4, 28.0),
}


def load(directory):
    tensors = {}
    for path in sorted(glob.glob(os.path.join(directory, "*.safetensors"))):
        with safe_open(path, "pt") as file:
            tensors.update({name: file.get_tensor(name) for name in file.keys()})
    return tensors


def unpack(codes, bits, n):
    """U8 [rows, bytes] -> int64 [rows, n]: a little-endian bit stream for each row."""
    shifts = torch.arange(8)
    stream = (codes.long().unsqueeze(-1) >> shifts & 1).flatten(1)[:, : n * bits]
    return (stream.reshape(codes.shape[0], n, bits) << torch.arange(bits)).sum(-1)


def decode(codes, exponent_bits, bias, mantissa_bits):
    mantissa = codes & (1 << mantissa_bits) - 1
    exponent = codes >> mantissa_bits & (1 << exponent_bits) - 1
    sign = 1.0 - 2.0 * (codes >> mantissa_bits + exponent_bits & 1).double()
    step = torch.exp2((exponent.clamp(min=1) - bias - mantissa_bits).double())
    return sign * (mantissa + torch.where(exponent > 0, 1 << mantissa_bits, 0)).double() * step


def by_blocks(values, block):
    """[rows, n] -> [rows, blocks, block], the last block padded with zeros."""
    missing = -values.shape[1] % block
    return torch.nn.functional.pad(values, (0, missing)).unflatten(1, (-1, block))


def quantize(weight, dtype, block, round_method):
    """OCP MX v1.0, 6.3, in float64."""
    _, _, bias, mantissa_bits, emax, largest = FORMATS[dtype]
    x = by_blocks(weight.double(), block)
    amax = x.abs().amax(-1, keepdim=True)
    amax = torch.where(amax == 0, 2.0**-126, amax)
    scale = torch.exp2((torch.frexp(amax).exponent - 1 - emax).clamp(-127).double())
    y = (x / scale).abs()
    exponent = (torch.frexp(y).exponent - 1).clamp(min=1 - bias)
    step = torch.exp2((exponent - mantissa_bits).double())
    q = torch.round(y / step) if round_method == "half_even" else torch.floor(y / step + 0.5)
    q = (q * step).clamp(max=largest) * x.sign() * scale
    return q.flatten(1)[:, : weight.shape[1]]


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(os.path.join(sys.argv[1], "config.json"), encoding="utf-8") as file:
        quantization = json.load(file)["quantization_config"]
    settings = quantization["global_quant_config"]["weight"]
    if settings["scale_calculation_mode"] != "floor" or settings["scale_format"] != "e8m0":
        sys.exit("check_quark_layout.py: only the floor rule and E8M0 scales are checked")
    dtype, block = settings["dtype"], settings["group_size"]
    bits, exponent_bits, bias, mantissa_bits, _, _ = FORMATS[dtype]
    written, original = load(sys.argv[1]), load(sys.argv[2])
    names = [name.removesuffix("_scale") for name in written if name.endswith(".weight_scale")]
    values = wrong = 0
    for name in names:
        weight = original[name]
        codes = unpack(written[name], bits, weight.shape[1])
        scales = torch.exp2(written[name + "_scale"].double() - 127)
        got = by_blocks(decode(codes, exponent_bits, bias, mantissa_bits), block)
        got = (got * scales.unsqueeze(-1)).flatten(1)[:, : weight.shape[1]]
        expected = quantize(weight, dtype, block, settings["round_method"])
        values += got.numel()
        wrong += (got != expected).sum().item()
    kept = [name for name in original if name not in names]
    for name in kept:
        if name not in written or not torch.equal(written[name], original[name]):
            wrong += 1
            print(f"{name}: not the original's", file=sys.stderr)
    print(f"{len(names)} projections, {values} values, {len(kept)} tensors kept: {wrong} differ")
    sys.exit(1 if wrong or not names else 0)


if __name__ == "__main__":
    main()

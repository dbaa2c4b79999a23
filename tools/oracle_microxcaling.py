#!/usr/bin/env python3
"""Outputs of microxcaling's _quantize_mx for the options that the shared golden does
not cover: int2, the whole axis, blocks of 24 and 8, shared_exp_method "none", flushing
of fp32 subnormals, NaN and Inf in the input.

    oracle_microxcaling.py --out tests/golden --microxcaling ../microxcaling

writes tests/golden/microxcaling_options.safetensors: `input` [24, 45] float32 and one output of that shape per case, named
`FORMAT.ROUND.bBLOCK.METHOD.flush0|1`. Computed on float64 copies: in float32 the Python
path takes log2 in float32, which rounds up just below powers of two. Needs torch,
safetensors and numpy.
"""

import argparse
import sys

import numpy as np
import torch
from safetensors.torch import save_file

ROWS, COLUMNS = 24, 45
FORMATS = ["fp4_e2m1", "fp6_e2m3", "fp8_e5m2", "int8", "int2"]
ROUNDS = ["nearest", "even"]
# block_size, shared_exp_method, flush_fp32_subnorms
LAYOUTS = [(0, "max", 0), (24, "max", 0), (8, "max", 1), (32, "none", 0), (16, "none", 1)]


def make_input() -> torch.Tensor:
    """float32 rows over the whole range of exponents, with awkward ones."""
    rng = np.random.default_rng(20)
    x = rng.standard_normal((ROWS, COLUMNS))
    x *= np.exp2(rng.integers(-30, 30, (ROWS, 1)))
    x *= np.exp2(rng.integers(-8, 8, (ROWS, COLUMNS)))
    x[0:4] = rng.standard_normal((4, COLUMNS)) * 2.0**-130  # fp32 subnormals
    x[4, ::3] = 0
    x[5] = 0
    x[6, 5] = np.nan
    x[7, 40] = -np.inf
    x[8:14] = rng.integers(-64, 64, (6, COLUMNS)) / 16  # ties
    x[14:16] = rng.standard_normal((2, COLUMNS)) * 2.0**125
    return torch.from_numpy(x.astype(np.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--microxcaling", required=True, help="a checkout of microxcaling")
    parser.add_argument("--out", required=True, help="folder of the golden")
    args = parser.parse_args()
    sys.path.insert(0, args.microxcaling)
    from mx.mx_ops import _quantize_mx

    x = make_input()
    tensors = {"input": x}
    for name in FORMATS:
        for rounding in ROUNDS:
            for block, method, flush in LAYOUTS:
                y = _quantize_mx(
                    x.double(),
                    8,
                    name,
                    shared_exp_method=method,
                    axes=[-1],
                    block_size=block,
                    round=rounding,
                    flush_fp32_subnorms=bool(flush),
                )
                case = f"{name}.{rounding}.b{block}.{method}.flush{flush}"
                tensors[case] = y.float().contiguous()
    save_file(tensors, f"{args.out}/microxcaling_options.safetensors")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Makes tests/golden/gguf_types.safetensors: random GGUF blocks and what the `gguf`
package (llama.cpp's own Python reader) dequantizes them to.

    pip install gguf==0.19.0 safetensors numpy
    python3 tools/oracle_gguf_types.py --out tests/golden

For every type T: `T.blocks` U8 [n, block bytes], uniformly random bytes but for the fp16
scales, whose exponents are kept finite (one block in eight keeps any bits: Inf, NaN and
subnormals), and `T.values` F32 [n, block]. Deterministic.
"""

import argparse
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize
from safetensors.numpy import save_file

# Type, number of blocks, byte offsets of its fp16 scales.
TYPES = [
    (T.Q4_0, 24, [0]),
    (T.Q4_1, 24, [0, 2]),
    (T.Q5_0, 24, [0]),
    (T.Q5_1, 24, [0, 2]),
    (T.Q8_0, 24, [0]),
    (T.Q4_K, 6, [0, 2]),
    (T.Q6_K, 6, [208]),
    (T.MXFP4, 24, []),
]


def random_blocks(rng, n, size, scales):
    blocks = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for at in scales:
        for i in range(n):
            if i % 8 != 7:
                blocks[i, at + 1] = (blocks[i, at + 1] & 0x83) | rng.integers(6, 16) << 2
    return blocks


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    rng = np.random.default_rng(20260210)
    tensors = {}
    for kind, n, scales in TYPES:
        _, size = GGML_QUANT_SIZES[kind]
        blocks = random_blocks(rng, n, size, scales)
        if kind == T.MXFP4:
            # All scale bytes that matter: the subnormal end, 0xFF, and the middle.
            blocks[:12, 0] = [0, 1, 2, 3, 126, 127, 128, 129, 252, 253, 254, 255]
        with np.errstate(all="ignore"):
            values = dequantize(blocks, kind)
        tensors[f"{kind.name}.blocks"] = blocks
        tensors[f"{kind.name}.values"] = values.reshape(n, -1).astype(np.float32)
    save_file(tensors, out / "gguf_types.safetensors")


if __name__ == "__main__":
    main()

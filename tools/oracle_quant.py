"""Makes tests/golden/methods.json: what search and gptq must choose on small matrices.

Independent of mxlm: numpy alone, columns one by one without lazy blocks, the inverse by
numpy.linalg.inv, elements by looking up the nearest value of a table. The inputs are small
integers over a power of two, so that every second moment is exact.

usage: oracle_quant.py OUT_FOLDER
"""

import json
import pathlib
import sys

import numpy as np

# Magnitudes of the element formats, in the order of their codes (OCP MX v1.0, 5.3).
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
FP6 = np.array([m / 8 for m in range(8)] + [(1 + m / 8) * 2.0**e for e in range(3) for m in range(8)])
FORMATS = {"fp4_e2m1": (FP4, 2, 8), "fp6_e2m3": (FP6, 2, 32)}


def rounded(name, w, scale):
    """Code and value of w under the scale 2^scale; ties go to the even code."""
    table, _, sign = FORMATS[name]
    y = abs(w) / 2.0**scale
    gap = np.abs(table - y)
    nearest = np.flatnonzero(gap == gap.min())
    code = next((c for c in nearest if c % 2 == 0), nearest[0])
    value = table[code] * 2.0**scale
    return (int(code) | sign, -value) if w < 0 else (int(code), value)


def floor_scale(name, amax):
    return int(np.floor(np.log2(amax))) - FORMATS[name][1]


def search(case, weights, moments):
    codes, scales = [], []
    for row in weights:
        for begin in range(0, len(row), case["block"]):
            block = slice(begin, begin + case["block"])
            rule = floor_scale(case["format"], np.abs(row[block]).max())
            tried = []
            for order, offset in enumerate((0, -1, 1)):
                cells = [rounded(case["format"], w, rule + offset) for w in row[block]]
                error = sum(h * (v - w) ** 2 for h, (_, v), w in zip(moments[block], cells, row[block]))
                tried.append((error, order, rule + offset, [c for c, _ in cells]))
            _, _, scale, chosen = min(tried)
            scales.append(scale + 127)
            codes += chosen
    return codes, scales


def gptq(case, weights, hessian, cross, residual):
    n = weights.shape[1]
    h = hessian.copy()
    dead = np.diag(hessian) == 0
    h[np.diag_indices(n)] += case["damp"] * np.diag(hessian).mean()
    h[dead, dead] = 1
    inverse = np.linalg.inv(h)
    target = weights.copy()
    if cross is not None:
        target += (weights @ (cross - hessian) * case["correction"] + case["residual"] * residual) @ inverse
    upper = np.linalg.cholesky(inverse).T
    codes, scales = [], []
    for w in target:
        w = w.copy()
        for begin in range(0, n, case["block"]):
            end = min(begin + case["block"], n)
            rule = floor_scale(case["format"], np.abs(w[begin:end]).max())
            tried = []
            for order, offset in enumerate((0, -1, 1)):
                trial, loss, chosen = w.copy(), 0.0, []
                for j in range(begin, end):
                    code, value = rounded(case["format"], trial[j], rule + offset)
                    error = (trial[j] - value) / upper[j, j]
                    loss += error**2
                    chosen.append(code)
                    trial[j + 1 :] -= error * upper[j, j + 1 :]
                tried.append((loss, order, rule + offset, chosen, trial))
            _, _, scale, chosen, w = min(tried, key=lambda t: t[:2])
            scales.append(scale + 127)
            codes += chosen
    return codes, scales


def make(rng, **case):
    rows, cols, tokens = case["rows"], case["cols"], 64
    mix = rng.standard_normal((cols, cols)) * (rng.random((cols, cols)) < 0.2) + np.eye(cols)
    x = np.clip(np.round(rng.standard_normal((tokens, cols)) @ mix * 4), -60, 60).astype(int)
    taught = np.clip(x + rng.integers(-3, 4, x.shape), -60, 60)
    lack = rng.integers(-9, 10, (tokens, rows))
    for column in case.pop("dead"):
        x[:, column] = 0
    weights = (rng.standard_t(4, (rows, cols)) * 0.05).astype(np.float32)
    w = weights.astype(float)
    ours, theirs, r = x / 8, taught / 8, lack / 64
    hessian = ours.T @ ours / tokens
    case |= {"x": x.ravel().tolist(), "taught": taught.ravel().tolist(), "lack": lack.ravel().tolist()}
    case |= {"weights": [float(v) for v in weights.ravel()], "tokens": tokens}
    case["search"] = search(case, w, np.diag(hessian))
    case["gptq"] = gptq(case, w, hessian, None, None)
    case["gptq_taught"] = gptq(case, w, hessian, theirs.T @ ours / tokens, r.T @ ours / tokens)
    return case


def main():
    rng = np.random.default_rng(20261123)
    common = {"damp": 0.01, "correction": 0.75, "residual": 0.5}
    cases = [
        make(rng, format="fp4_e2m1", block=32, rows=5, cols=64, dead=[], **common),
        make(rng, format="fp4_e2m1", block=16, rows=3, cols=40, dead=[3, 17], **common),
        make(rng, format="fp6_e2m3", block=32, rows=3, cols=48, dead=[47], **common),
        make(rng, format="fp4_e2m1", block=32, rows=2, cols=160, dead=[], **common),
    ]
    path = pathlib.Path(sys.argv[1]) / "methods.json"
    path.write_text(json.dumps(cases, separators=(",", ":")) + "\n")


main()

"""Makes tests/golden/methods.json: what search and gptq must choose on small matrices.

Independent of mxlm: numpy alone, columns one by one without lazy blocks, the inverse by
numpy.linalg.inv, elements by looking up the nearest value of a table, descent with all products
written out. The inputs are small
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


def damped(case, hessian):
    h = hessian.copy()
    dead = np.diag(hessian) == 0
    h[np.diag_indices(len(h))] += case["damp"] * np.diag(hessian).mean()
    h[dead, dead] = 1
    return h


def blocks(case, n):
    return [slice(begin, min(begin + case["block"], n)) for begin in range(0, n, case["block"])]


def feedback(case, aim, upper, scale):
    """Codes and values of one block, each error spread over the weights after it."""
    w, cells, loss = aim.copy(), [], 0.0
    for j in range(len(w)):
        cells.append(rounded(case["format"], w[j], scale))
        error = (w[j] - cells[-1][1]) / upper[j, j]
        w[j + 1 :] -= error * upper[j, j + 1 :]
        loss += error**2
    return cells, loss


def descend(case, target, h, rows, candidates):
    """Changes the blocks of rows, [(scale, cells)] each, one by one while the error falls;
    candidates(target of the block, aim, its inverse's factor, scale) are [(scale, cells)]."""
    n = target.shape[1]
    for t, row in zip(target, rows):
        for _ in range(case["passes"]):
            for b, block in enumerate(blocks(case, n)):
                q = np.array([v for _, cells in row for _, v in cells])
                own = np.linalg.inv(h[block, block])
                aim = q[block] - (q - t) @ h[:, block] @ own
                upper = np.linalg.cholesky(own).T
                best, least = None, (q[block] - aim) @ h[block, block] @ (q[block] - aim) * (1 - 1e-9)
                for scale, cells in candidates(t[block], aim, upper, row[b][0]):
                    gap = np.array([v for _, v in cells]) - aim
                    error = gap @ h[block, block] @ gap
                    if error < least:
                        best, least = (scale, cells), error
                row[b] = best or row[b]


def unzipped(rows):
    codes = [code for row in rows for _, cells in row for code, _ in cells]
    return codes, [scale + 127 for row in rows for scale, _ in row]


def search(case, weights, h):
    def nearest(w, scale):
        return scale, [rounded(case["format"], v, scale) for v in w]

    def candidates(w, aim, upper, scale):
        rule = floor_scale(case["format"], np.abs(w).max())
        return [nearest(w, rule + offset) for offset in (0, -1, 1)]

    rows = [[candidates(w[b], None, None, None)[0] for b in blocks(case, len(w))] for w in weights]
    descend(case, weights, h, rows, candidates)
    return unzipped(rows)


def gptq(case, weights, hessian, cross, residual):
    n = weights.shape[1]
    h = damped(case, hessian)
    inverse = np.linalg.inv(h)
    target = weights.copy()
    if cross is not None:
        target += case["correct"] * (weights @ (cross - hessian) + residual) @ inverse
    upper = np.linalg.cholesky(inverse).T
    rows = []
    for w in target.copy():
        rows.append([])
        for block in blocks(case, n):
            rule, tried = floor_scale(case["format"], np.abs(w[block]).max()), []
            for order, offset in enumerate((0, -1, 1)):
                cells, loss = feedback(case, w[block], upper[block, block], rule + offset)
                tried.append((loss, order, rule + offset, cells))
            _, _, scale, cells = min(tried, key=lambda t: t[:2])
            for j, (_, value) in zip(range(block.start, block.stop), cells):
                w[j + 1 :] -= (w[j] - value) / upper[j, j] * upper[j, j + 1 :]
            rows[-1].append((scale, cells))

    def candidates(_, aim, factor, scale):
        return [(scale + d, feedback(case, aim, factor, scale + d)[0]) for d in (0, -1, 1)]

    descend(case, target, h, rows, candidates)
    return unzipped(rows)


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
    case["search"] = search(case, w, damped(case, hessian))
    case["gptq"] = gptq(case, w, hessian, None, None)
    case["gptq_taught"] = gptq(case, w, hessian, theirs.T @ ours / tokens, r.T @ ours / tokens)
    return case


def main():
    rng = np.random.default_rng(20261123)
    common = {"damp": 0.01, "correct": 0.75, "passes": 3}
    cases = [
        make(rng, format="fp4_e2m1", block=32, rows=5, cols=64, dead=[], **common),
        make(rng, format="fp4_e2m1", block=16, rows=3, cols=40, dead=[3, 17], **common),
        make(rng, format="fp6_e2m3", block=32, rows=3, cols=48, dead=[47], **common),
        make(rng, format="fp4_e2m1", block=32, rows=2, cols=160, dead=[], **common),
    ]
    path = pathlib.Path(sys.argv[1]) / "methods.json"
    path.write_text(json.dumps(cases, separators=(",", ":")) + "\n")


main()

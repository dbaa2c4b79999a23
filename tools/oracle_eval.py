#!/usr/bin/env python3
"""Makes tests/golden/eval.json: what Python says of the statistics and the text
handling behind `mxlm eval` and `mxlm compare`.

    pip install scipy tokenizers
    python3 tools/oracle_eval.py --tokenizer ../shared/data/smollm2/tokenizer.json --out tests/golden

  random      random.Random(seed): getrandbits(32), random(), choices
  bootstrap   lm_eval's bootstrap_stderr of perplexity, sums left to right
  mcnemar     scipy: binomtest below 25 flips, chi-square with continuity correction above
  isspace     code points for which str.isspace holds
  words       len(re.split(r"\\s+", text))
  pairs       LAMBADA's context and target, encoded as lm_eval's _encode_pair does

Deterministic. Sums are loops: Python 3.12's sum() of floats is compensated, while lm_eval's
golden results were made without that.
"""

import argparse
import json
import math
import random
import re
from pathlib import Path

from scipy.stats import binomtest, chi2
from tokenizers import Tokenizer


def mean(values):
    total = 0.0
    for value in values:
        total += value
    return total / len(values)


def sample_stddev(values):
    center = mean(values)
    total = 0.0
    for value in values:
        total += (value - center) ** 2
    return math.sqrt(total / (len(values) - 1))


def bootstrap_stderr(values, iters):
    chunk = min(1000, iters)
    draws = []
    for seed in range(iters // chunk):
        rnd = random.Random()
        rnd.seed(seed)
        for _ in range(chunk):
            draws.append(math.exp(-mean(rnd.choices(values, k=len(values)))))
    return sample_stddev(draws)


def random_case(seed):
    words = random.Random(seed)
    reals = random.Random(seed)
    choices = random.Random(seed)
    mixed = random.Random(seed)
    odd = [mixed.getrandbits(32)]  # one word taken: choices then straddle the blocks of 624
    return {
        "seed": seed,
        "u32": [words.getrandbits(32) for _ in range(1300)][::13],
        "random": [reals.random() for _ in range(700)][::35],
        "choices": choices.choices(range(5153), k=700),
        "odd": odd + mixed.choices(range(977), k=700)[::7],
    }


def bootstrap_case(n, iters, seed):
    rnd = random.Random(seed)
    values = [round(-rnd.expovariate(0.25), 4) for _ in range(n)]
    return {"iters": iters, "values": values, "stderr": bootstrap_stderr(values, iters)}


def mcnemar_case(lost, gained):
    flips = lost + gained
    if flips == 0:
        p = 1.0
    elif flips < 25:
        p = binomtest(lost, flips, 0.5).pvalue
    else:
        p = float(chi2.sf(max(abs(lost - gained) - 1, 0) ** 2 / flips, 1))
    return {"lost": lost, "gained": gained, "exact": flips < 25, "p": p}


WORDS = [
    "",
    "one",
    "two words",
    " leading and trailing ",
    "a\tb\n\nc \u00a0 d\u3000e\u2009f\x85g\x1ch",
    "no\u200bspace\ufeffhere",
    "\n = Heading = \n\n text \n",
]

PAIRS = [
    "He took the book from the shelf and opened the book",
    "word",
    " leading",
    "  two leading",
    "trailing space ",
    "a  double space  before the last",
    "a newline before\n the last",
    "a no-break space before\u00a0 the",
    "tabs\t\t and a line\n\n end",
    "\u201cI don\u2019t know,\u201d she said to Chlo\u00e9",
    "   ",
    "ends in a separator\x1f \x1e last",
    "\u3000 wide",
]


def pair_case(tokenizer, text):
    def encode(piece):
        return tokenizer.encode(piece, add_special_tokens=False).ids

    context = " ".join(text.split(" ")[:-1])
    target = " " + text.split(" ")[-1]
    n_spaces = len(context) - len(context.rstrip())
    moved, kept = target, context
    if n_spaces > 0:
        moved = context[-n_spaces:] + target
        kept = context[:-n_spaces]
    ids = encode(kept)
    return {
        "text": text,
        "context": context,
        "target": target,
        "context_ids": ids,
        "target_ids": encode(kept + moved)[len(ids) :],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(args.tokenizer)
    golden = {
        "random": [random_case(seed) for seed in (0, 1, 99, 2**32 - 1)],
        "bootstrap": [
            bootstrap_case(37, 2500, 1),
            bootstrap_case(5, 300, 2),
            bootstrap_case(700, 2000, 3),
            bootstrap_case(1, 1000, 4),
        ],
        "mcnemar": [
            mcnemar_case(*flips)
            for flips in [(0, 0), (1, 0), (3, 9), (12, 12), (24, 0), (10, 14), (0, 25), (13, 12)]
            + [(20, 20), (60, 41), (900, 66), (1517, 683)]
        ],
        "isspace": [c for c in range(0x110000) if chr(c).isspace()],
        "words": [{"text": text, "words": len(re.split(r"\s+", text))} for text in WORDS],
        "pairs": [pair_case(tokenizer, text) for text in PAIRS],
    }
    lines = []
    for key, values in golden.items():
        items = ",\n".join("  " + json.dumps(value) for value in values)
        lines.append(f"{json.dumps(key)}: [\n{items}\n]")
    Path(args.out, "eval.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()

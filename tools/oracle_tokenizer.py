#!/usr/bin/env python3
"""What Hugging Face tokenizers says of small byte-level BPE tokenizers.

    oracle_tokenizer.py write OUT.json          makes tests/golden/tokenizer_cases.json
    oracle_tokenizer.py compare A.json B.json TEXTS.jsonl
                                                same ids from two tokenizer.json files?

One base tokenizer and many patches of its top-level members: pre-tokenizers, split
behaviors, normalizers, added-token flags, templates, model options. Every case is run
over the same texts. Needs the packages tokenizers (0.23.3 made the golden).
"""

import argparse
import copy
import json
import sys
from pathlib import Path

import tokenizers
from tokenizers import Tokenizer

TRAINING = (
    "the old man walked down to the river and sat on the stone by the water then he saw that "
    "the boat was gone and there was nothing there but the rain, it's 1234 and 2024. I'll go, "
    "they've gone; naïve café déjà vu über straße \n\n  if x == 10:\n    return  x\n"
) * 3
MERGES = 120

TEXTS = [
    "",
    " ",
    "the river's water, 12345 times!",
    "  two  spaces\tand\r\n\r\nlines \n ",
    "I'LL they'Ve it'ſ DON'T 'tis",
    "caf\u00e9 cafe\u0301 \ufb01ne \u212b \uac00\u1100\u1161\u11a8 a\u0315\u0300\u05ae\u0316b",
    "x\u180ey\u200bz\u00a0w\u3000v\u2028u\u0085t",
    "<a><b><ab>  <s> the <s>the <s>",
    "word words word, sword word_ wordé ⒶwordⒷ word",
    "٣٤½x Ⅷ² ²b½ 3rd 4ab12",
    "日本語のテキスト 🙂👩‍👩‍👧 ñandú",
    "aXbXXcX XabXabab",
    "line one\nline two\n",
    "a-b [c] {d} \\e ^f $g --- ... (h)!?",
    "deadBEEF 0x1F \x0b\x0c\x01",
]

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
              "use_regex": False}
GPT2 = {**BYTE_LEVEL, "use_regex": True}
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
         r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"
         r"|\s+(?!\S)|\s+")
BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]

# Patterns that Oniguruma and PCRE2 read differently, or nearly so.
PATTERNS = {
    "llama3": LLAMA3, "cl100k": CL100K, "o200k": O200K,
    "space": r"\s", "not-space": r"\S+", "space-class": r"[\s-]+", "not-space-class": r"[\Sx]+",
    "word": r"\w+", "word-class": r"[\w]+", "not-word": r"\W+",
    "boundary": r"\b", "not-boundary": r"\B",
    "hex": r"\h+", "not-hex": r"\H+", "vertical-tab": r"\v", "digit": r"\d+", "not-digit": r"[\D]+",
    "unicode-escape": r"[\u0061-\u0063\x{65e5}\x20]", "dot": r".+", "line-begin": r"^.",
    "line-end": r".$", "text-ends": r"\A.|.\z", "caseless-start": r"(?i)the|LINE",
    "caseless-group": r"(?i:LINE) one|(?-i:word)", "negated-property": r"\p{^L}+|\P{L}",
    "lookbehind": r"(?<=o)\w|(?<!\s)\d", "atomic": r"(?>a+|ab)c?|x*", "interval": r"\w{,2}|\d{2}",
    "interval-lazy": r"\w{2,3}?", "brace-literal": r"[{]d}|x{", "capture": r"(a|(b))+",
    "class-escapes": r"[\]\[\^\\\-.(){}$]+", "possessive": r"\s?+\w++", "empty": r"x*",
}


def byte_alphabet() -> list:
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(extra)) for b in range(256)]


def train() -> tuple:
    """Plain byte-pair training, ties to the smallest pair; (vocab, merges)."""
    alphabet = byte_alphabet()
    words = [["Ġ", *(alphabet[b] for b in word.encode())] for word in TRAINING.split(" ")]
    vocab = {char: i for i, char in enumerate(alphabet)}
    merges = []
    while len(merges) < MERGES:
        counts = {}
        for word in words:
            for pair in zip(word, word[1:]):
                counts[pair] = counts.get(pair, 0) + 1
        pair = min(counts, key=lambda p: (-counts[p], p))
        merges.append(list(pair))
        vocab.setdefault("".join(pair), len(vocab))
        for word in words:
            i = 0
            while i + 1 < len(word):
                if word[i] == pair[0] and word[i + 1] == pair[1]:
                    word[i:i + 2] = ["".join(pair)]
                i += 1
    return vocab, merges


def base_tokenizer() -> dict:
    vocab, merges = train()
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": None, "pre_tokenizer": GPT2, "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                    "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocab, "merges": merges},
    }


def added(token_id: int, content: str, **flags) -> dict:
    token = {"id": token_id, "content": content, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False, "special": False}
    token.update(flags)
    return token


def pretok(*steps) -> dict:
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [*steps]}}


def split(pattern, behavior="Isolated", invert=False, kind="Regex") -> dict:
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def template(*pieces, specials: dict) -> dict:
    def piece(name, type_id):
        if name in ("$A", "$B"):
            return {"Sequence": {"id": name[1], "type_id": type_id}}
        return {"SpecialToken": {"id": name, "type_id": type_id}}

    single = [piece(name, 0) for name in pieces]
    return {"type": "TemplateProcessing", "single": single,
            "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {name: {"id": name, "ids": ids, "tokens": [name] * len(ids)}
                               for name, ids in specials.items()}}


def pre_tokenizer_cases(cases: dict) -> None:
    digits = {"type": "Digits", "individual_digits": True}
    cases["gpt2"] = {}
    cases["gpt2 prefix"] = {"pre_tokenizer": {**GPT2, "add_prefix_space": True}}
    cases["prefix without regex"] = {"pre_tokenizer": {**BYTE_LEVEL, "add_prefix_space": True}}
    cases["no regex"] = {"pre_tokenizer": BYTE_LEVEL}
    cases["smollm"] = pretok(digits, GPT2)
    cases["digits contiguous"] = pretok({**digits, "individual_digits": False}, GPT2)
    cases["digits prefix"] = pretok(digits, {**GPT2, "add_prefix_space": True})
    cases["two splits"] = pretok(split(r"\p{N}{3}"), split(" ", "MergedWithNext", kind="String"),
                                 BYTE_LEVEL)
    for name, pattern in PATTERNS.items():
        cases[f"pattern {name}"] = pretok(split(pattern), BYTE_LEVEL)
    for behavior in BEHAVIORS:
        for invert in (False, True):
            for name, pattern in {"X": "X", "space": r"\s", "empty": r"b*"}.items():
                cases[f"{behavior} {name} {'inverted' if invert else ''}"] = pretok(
                    split(pattern, behavior, invert), BYTE_LEVEL)
    cases["string"] = pretok(split("ab", "Isolated", kind="String"), BYTE_LEVEL)
    cases["string of dots"] = pretok(split("...", "Removed", kind="String"), BYTE_LEVEL)
    cases["empty string"] = pretok(split("", "Isolated", kind="String"), BYTE_LEVEL)


def normalizer_cases(cases: dict) -> None:
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        cases[form] = {"normalizer": {"type": form}}
    cases["NFKD NFC"] = {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "NFKD"}, {"type": "Sequence", "normalizers": [{"type": "NFC"}]}]}}


def added_cases(cases: dict, size: int) -> None:
    cases["longest"] = {"added_tokens": [added(size, "<a>"), added(size + 1, "<a><b>"),
                                         added(size + 2, "<ab>", special=True),
                                         added(60, "<")]}
    for flags in ("single_word", "lstrip", "rstrip", "lstrip rstrip", "single_word lstrip rstrip"):
        on = {flag: True for flag in flags.split()}
        cases[f"added {flags}"] = {"added_tokens": [
            added(size, "<s>", **on), added(size + 1, "word", **on), added(size + 2, "日", **on)]}
        cases[f"added normalized {flags}"] = {"added_tokens": [
            added(size, "<s>", normalized=True, **on), added(size + 1, "word", special=True, **on)]}
    cases["added spaces"] = {"added_tokens": [
        added(size, "  "), added(size + 1, " ", rstrip=True), added(size + 2, "\n")]}
    cases["rstrip over a token"] = {"added_tokens": [
        added(size, "spaces", rstrip=True), added(size + 1, "\t"),
        added(size + 2, "<s>", rstrip=True), added(size + 3, " the")]}
    cases["added, prefix space"] = {"pre_tokenizer": {**GPT2, "add_prefix_space": True},
                                    "added_tokens": [added(size, "<s>"), added(size + 1, "word")]}
    cases["two sets"] = {"added_tokens": [
        added(size, "river's"), added(size + 1, "the river", normalized=True)]}
    for form in ("NFC", "NFKD"):
        cases[f"added under {form}"] = {"normalizer": {"type": form}, "added_tokens": [
            added(size, "cafe\u0301", normalized=True), added(size + 1, "\u212b"),
            added(size + 2, "\ufb01", normalized=True)]}
    cases["added in vocabulary"] = {"added_tokens": [
        added(0, "\u0100"), added(101, "e"), added(233, "\u00e9")]}
    cases["added twice"] = {"added_tokens": [added(size, "<s>"), added(size, "<s>"),
                                             added(size + 1, "<a>")]}


def post_processor_cases(cases: dict, size: int) -> None:
    specials = {"<s>": [size], "</s>": [size + 1, 5]}
    tokens = {"added_tokens": [added(size, "<s>", special=True),
                               added(size + 1, "</s>", special=True)]}
    cases["bos"] = {**tokens, "post_processor": template("<s>", "$A", specials=specials)}
    cases["bos eos"] = {**tokens, "post_processor": template("<s>", "$A", "</s>", "<s>",
                                                             specials=specials)}
    cases["byte level, bos"] = {**tokens, "post_processor": {"type": "Sequence", "processors": [
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        template("<s>", "$A", specials=specials)]}}


def model_cases(cases: dict, base: dict) -> None:
    def model(**changes):
        return {"model": {**base["model"], **changes}}

    vocab, merges = base["model"]["vocab"], base["model"]["merges"]
    lines = [" ".join(pair) for pair in merges]
    cases["merges as lines"] = model(merges=lines)
    cases["version line"] = model(merges=["#version: 0.2", *lines])
    cases["a merge twice"] = model(merges=[*merges, merges[0], merges[5]])
    cases["merges reversed"] = model(merges=merges[::-1])
    words = {"Ġwords": len(vocab), "12345": len(vocab) + 1, "æĹ¥æľ¬": len(vocab) + 2}
    cases["ignore_merges"] = model(vocab={**vocab, **words}, ignore_merges=True)
    cases["unreachable words"] = model(vocab={**vocab, **words})
    few = {char: i for i, char in enumerate("Ġtheridwosbakcx")}
    few.update({"<unk>": len(few), "th": len(few) + 1, "the": len(few) + 2})
    some = {"vocab": few, "merges": [["t", "h"], ["th", "e"]]}
    cases["unknown bytes vanish"] = model(**some)
    cases["unknown"] = model(**some, unk_token="<unk>")
    cases["unknown fused"] = model(**some, unk_token="<unk>", fuse_unk=True)


def make_cases(base: dict) -> dict:
    cases: dict = {}
    size = len(base["model"]["vocab"])
    pre_tokenizer_cases(cases)
    normalizer_cases(cases)
    added_cases(cases, size)
    post_processor_cases(cases, size)
    model_cases(cases, base)
    return cases


def run(base: dict, patch: dict) -> dict:
    """Ids of every text as one flat list with their counts, with special tokens added."""
    tokenizer = Tokenizer.from_str(json.dumps({**base, **patch}))
    lists = [tokenizer.encode(text, add_special_tokens=True).ids for text in TEXTS]
    return {"counts": [len(ids) for ids in lists], "ids": [i for ids in lists for i in ids]}


def write(path: Path) -> None:
    base = base_tokenizer()
    result = {"made_by": f"tokenizers {tokenizers.__version__}", "base": base, "texts": TEXTS,
              "cases": []}
    for name, patch in make_cases(copy.deepcopy(base)).items():
        result["cases"].append({"name": name, "patch": patch, **run(base, patch)})
    # One case a line, so that a change of one shows as one line.
    lines = ",\n".join(json.dumps(case, ensure_ascii=False, separators=(",", ":"))
                       for case in result.pop("cases"))
    head = json.dumps(result, ensure_ascii=False, separators=(",", ":"))
    path.write_text(f"{head[:-1]},\"cases\":[\n{lines}\n]}}\n", encoding="utf-8")


def compare(first: str, second: str, texts: str) -> int:
    one, two = Tokenizer.from_file(first), Tokenizer.from_file(second)
    count = differences = 0
    for line in Path(texts).read_text(encoding="utf-8").splitlines():
        text = json.loads(line)["text"]
        for special in (False, True):
            count += 1
            differences += (one.encode(text, add_special_tokens=special).ids
                            != two.encode(text, add_special_tokens=special).ids)
    print(f"{count} encodings, {differences} differ")
    return 1 if differences else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    writer = verbs.add_parser("write")
    writer.add_argument("out", type=Path)
    comparer = verbs.add_parser("compare")
    comparer.add_argument("files", nargs=3)
    args = parser.parse_args()
    if args.verb == "write":
        write(args.out)
        return 0
    return compare(*args.files)


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Writes fnmatch_vectors.jsonl beside this file: [pattern, path, whether Python's fnmatchcase says they match]."""

import fnmatch
import json
import pathlib
import random

WRITTEN = [
    ("*.json", "config.json"),
    ("data/*.json", "data/x/y.json"),
    ("*.JSON", "config.json"),
    ("*", ".gitattributes"),
    ("*", ""),
    ("", ""),
    ("", "a"),
    ("?.txt", "é.txt"),
    ("[", "["),
    ("a[b", "a[b"),
    ("[]]", "]"),
    ("[!]]", "]"),
    ("[!]]", "a"),
    ("[]-a]", "^"),
    ("[a-]", "-"),
    ("[-a]", "-"),
    ("[a-c-e]", "d"),
    ("[a-c-e]", "-"),
    ("[c-a]", "b"),
    ("[!c-a]", "b"),
    ("[!]", "[!]"),
    ("[^a]", "^"),
    ("[^a]", "b"),
    ("[\\]", "\\"),
    ("\\*", "\\x"),
    ("[a&&b]", "&"),
    ("[a||b]", "|"),
    ("model-0000[1-3]-of-00005.safetensors", "model-00002-of-00005.safetensors"),
    ("model-0000[1-3]-of-00005.safetensors", "model-00004-of-00005.safetensors"),
    ("a\nb*", "a\nb\nc"),
    ("späß/*#+%", "späß/x/y#+%"),
]

rng = random.Random(20260101)
cases = dict.fromkeys(WRITTEN)
while sum(1 for _ in cases) < 6000:
    pattern = "".join(rng.choice("ab-c]*?[!^/.\\é") for _ in range(rng.randrange(1, 9)))
    # Half of the paths are made from the pattern, so that enough of them match.
    if rng.random() < 0.6:
        path = "".join(
            rng.choice("abc/.-é") if c in "?]!" else "".join(rng.choice("abc/") for _ in range(rng.randrange(3)))
            if c == "*" else "" if c == "[" and rng.random() < 0.7 else c
            for c in pattern
        )
    else:
        path = "".join(rng.choice("abc/.-]![^\\é") for _ in range(rng.randrange(0, 6)))
    # CPython reads a set that begins with an empty range and goes on with "!" as negated: its own slip, not a rule.
    if "!" in pattern[pattern.find("[") + 2:]:
        continue
    cases[(pattern, path)] = None

with open(pathlib.Path(__file__).with_suffix(".jsonl"), "w", encoding="utf-8") as out:
    for pattern, path in cases:
        out.write(json.dumps([pattern, path, fnmatch.fnmatchcase(path, pattern)], ensure_ascii=False) + "\n")

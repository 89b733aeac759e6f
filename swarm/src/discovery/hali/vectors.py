#!/usr/bin/env python3
"""Writes two files beside this one. packets.jsonl: one packet a line, signed as hali signs, which writes JSON by Go's
encoding/json. names.jsonl: [repository, file, what hali calls the model or null]."""

import base64
import hashlib
import hmac
import json
import pathlib
import random
import re

KEY = bytes([1] * 31 + [0])
# What Go writes in another way than Python (encoding/json, HTMLEscape).
ESCAPED = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def marshal(packet):
    text = json.dumps(packet, ensure_ascii=False, separators=(",", ":"))
    return "".join(ESCAPED.get(char, char) for char in text)


def signed(packet):
    mac = hmac.new(KEY, marshal(packet).encode(), hashlib.sha256)
    return marshal(packet | {"sig": base64.b64encode(mac.digest()).decode()})


PACKETS = [
    {
        "v": "1",
        "nid": "node-1",
        "ts": 1716019200,
        "p": 51234,
        "models": [
            {"id": "mistral:7b:instruct:q4_k_m", "ih": "1" * 40, "ih2": "2" * 64, "repo": "Org/Repo", "rev": "abc"},
            {"id": "tiny:1b:base:q8_0", "ih": "3" * 40},
        ],
    },
    # What no sender of ours writes, but others may: no port, texts that are escaped, a v2 info hash that is none.
    {
        "v": "1",
        "nid": "<a&b>\u2028ü",
        "ts": 0,
        "models": [
            {"id": "a:1b:<&>:q8_0", "ih": "AB" * 20, "ih2": "short", "repo": '"\\\t\x7f', "rev": "é\u2029"},
        ],
    },
    {"v": "1", "nid": "n", "ts": 1, "models": None},
]


SIZE = re.compile(r"\d+\.?\d*[bm]", re.ASCII)
QUANTIZATION = re.compile(r"q\d+_[a-z0-9_]+|f16|f32|fp16|fp32|bf16", re.ASCII)
VARIANTS = ["instruct", "chat", "code", "it", "sft"]


def name(repository, file):
    repository, file = repository.lower(), file.lower()
    short = repository.split("/", 1)[-1].replace("-gguf", "")
    size = SIZE.search(file) or SIZE.search(short)
    quantization = QUANTIZATION.search(file)
    if not size or not quantization:
        return None
    size = size.group()
    base = (short[: short.index(size)] if short.find(size) > 0 else short).strip("-_. ")
    parts = [part for part in re.split("[-_]", base) if part]
    if not parts:
        return None
    variant = next((one for one in VARIANTS if one in short or one in file), "base")
    return f"{parts[0]}:{size}:{variant}:{quantization.group()}"


def names():
    chance = random.Random(1)
    parts = ["Mistral", "7B", "1.5b", "360M", "7.b", "1.5.7b", "Instruct", "it", "chat", "v0.2", "Q4_K_M", "q8_0", "IQ2_XXS"]
    parts += ["fp16", "bf16", "F32", "q4", "qq5_1", "b", "4_", "gguf", "x", "GGUF-GGUF", "00.1m", ""]
    for _ in range(400):
        text = lambda most: "".join(
            chance.choice(parts) + chance.choice("-_.-") for _ in range(chance.randrange(most))
        )
        repository, file = chance.choice(["acme/", ""]) + text(6), text(6) + chance.choice(parts) + ".gguf"
        yield [repository, file, name(repository, file)]


here = pathlib.Path(__file__).parent
(here / "packets.jsonl").write_text("".join(signed(packet) + "\n" for packet in PACKETS))
(here / "names.jsonl").write_text("".join(json.dumps(line) + "\n" for line in names()))

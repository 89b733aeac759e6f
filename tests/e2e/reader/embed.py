#!/usr/bin/env python3
"""Computes the embedding of a sentence with a BERT sentence transformer, from a hub cache or from a plain directory.

    embed.py --repository NAMESPACE/NAME [--revision REV]   load through huggingface_hub (HF_HUB_CACHE, HF_HUB_OFFLINE)
    embed.py --directory DIR                                load plain files

Prints one line of JSON: where the files were found, the SHA-256 of every file, and the embedding. The forward pass
is written out in numpy, so that every weight of model.safetensors takes part in the result.
"""
import argparse
import hashlib
import json
import math
import os
import pathlib
import sys
import time

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer


def layer_norm(x, weight, bias, epsilon):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * weight + bias


ERF = np.vectorize(math.erf, otypes=[np.float32])


def gelu(x):
    return x * 0.5 * (1.0 + ERF(x / np.float32(math.sqrt(2.0))))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def embed(directory, sentence):
    """The normalised mean-pooled embedding of one sentence, as a list of floats."""
    config = json.loads((directory / "config.json").read_text())
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_padding()
    ids = np.array(tokenizer.encode(sentence).ids)
    w = load_file(directory / "model.safetensors")
    heads = config["num_attention_heads"]
    epsilon = config["layer_norm_eps"]

    def linear(x, name):
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    def norm(x, name):
        return layer_norm(x, w[name + ".weight"], w[name + ".bias"], epsilon)

    x = (
        w["embeddings.word_embeddings.weight"][ids]
        + w["embeddings.position_embeddings.weight"][: len(ids)]
        + w["embeddings.token_type_embeddings.weight"][0]
    )
    x = norm(x, "embeddings.LayerNorm")
    for layer in range(config["num_hidden_layers"]):
        p = f"encoder.layer.{layer}."

        def split(name):
            y = linear(x, p + "attention.self." + name)
            return y.reshape(len(ids), heads, -1).transpose(1, 0, 2)

        q, k, v = split("query"), split("key"), split("value")
        scores = softmax(q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1]))
        context = (scores @ v).transpose(1, 0, 2).reshape(len(ids), -1)
        x = norm(x + linear(context, p + "attention.output.dense"), p + "attention.output.LayerNorm")
        y = gelu(linear(x, p + "intermediate.dense"))
        x = norm(x + linear(y, p + "output.dense"), p + "output.LayerNorm")
    pooled = x.mean(0)
    return [round(float(v), 7) for v in pooled / np.linalg.norm(pooled)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", help="load through huggingface_hub")
    parser.add_argument("--revision", default="main")
    parser.add_argument("--directory", type=pathlib.Path, help="load plain files")
    parser.add_argument("--sentence", default="This is an example sentence")
    parser.add_argument("--sleep", action="store_true", help="stay afterwards, as a serving pod would")
    arguments = parser.parse_args()
    if arguments.repository:
        from huggingface_hub import snapshot_download

        directory = pathlib.Path(snapshot_download(arguments.repository, revision=arguments.revision))
    elif arguments.directory:
        directory = arguments.directory
    else:
        parser.error("name --repository or --directory")
    digests = {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
    result = {
        "node": os.environ.get("NODE_NAME", ""),
        "directory": str(directory),
        "files": digests,
        "embedding": embed(directory, arguments.sentence),
    }
    print(json.dumps(result), flush=True)
    while arguments.sleep:
        time.sleep(3600)


if __name__ == "__main__":
    sys.exit(main())

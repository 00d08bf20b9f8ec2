#!/usr/bin/env python3
"""Oracle 4: perplexity of the built-in model in each type of weights, beside llama.cpp's on the same file.

    pip install llama-cpp-python numpy
    python tests/oracles/perplexity_oracle.py [--positions 48000] [--types q4_k,iq4_xs] [MODEL.gguf]
    python tests/oracles/perplexity_oracle.py --kv [--sequence 2000] [MODEL.gguf]     (what each type of cache costs, beside f32)

llama.cpp writes the files: the built-in model with all matrices in one type (its norms stay f32). Both programs then predict the same
text, sequences of 250 tokens, keys and values in f16, on the CPU. The two perplexities may differ by 0.1 %. Types that llama.cpp
writes only with statistics of activations (IQ3_XXS, IQ2, IQ1) are left to `logits_oracle.py --generated`, and so is MXFP4, which it writes
for mixtures only. Exit status 0: all types agree.

Each program rounds activations in its own way (bf16 weights: llama.cpp to bf16, we not at all), so each token's likelihood differs a
little; over few tokens, or text that the model knows nothing of, that alone can pass 0.1 % (the deviation printed is that of the mean
difference): hence 48,000 tokens of Rust. `.ci/run` asks for three types, 78 seconds on two cores.
"""

import argparse
import ctypes
import sys
import tempfile
from pathlib import Path

import numpy as np

from logits_oracle import ROOT, SEQUENCE_TOKENS, LlamaCpp, example, log_softmax, quiet

RATIO_MAX = 1e-3
# What the built-in model has learnt most of.
TEXTS = sorted((ROOT / "src").rglob("*.rs"))
# Of our types, the name of llama.cpp's constant. Where one of its recipes mixes types, `pure` keeps it from that.
TYPES = {
    "f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0", "q6_k": "MOSTLY_Q6_K", "q5_k": "MOSTLY_Q5_K_S",
    "q4_k": "MOSTLY_Q4_K_S", "q3_k": "MOSTLY_Q3_K_S", "q2_k": "MOSTLY_Q2_K", "q5_1": "MOSTLY_Q5_1", "q5_0": "MOSTLY_Q5_0",
    "q4_1": "MOSTLY_Q4_1", "q4_0": "MOSTLY_Q4_0", "iq4_nl": "MOSTLY_IQ4_NL", "iq4_xs": "MOSTLY_IQ4_XS", "iq3_s": "MOSTLY_IQ3_S",
    "tq1_0": "MOSTLY_TQ1_0", "tq2_0": "MOSTLY_TQ2_0",
}


def write_in_type(model, out, name, threads):
    import llama_cpp

    quiet(llama_cpp)
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.nthread = threads
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_{TYPES[name]}")
    parameters.allow_requantize = parameters.pure = True
    if llama_cpp.llama_model_quantize(str(model).encode(), str(out).encode(), ctypes.byref(parameters)) != 0:
        sys.exit(f"llama.cpp cannot write {out.name}")


def sequences_of(theirs, positions, length=SEQUENCE_TOKENS):
    ids = [id for path in TEXTS for id in theirs.tokenize(path.read_text())]
    if len(ids) < positions:
        sys.exit(f"the texts have {len(ids)} tokens")
    # From all over the texts, at even distances.
    count = positions // length
    starts = np.linspace(0, len(ids) - length, count).astype(int)
    return [ids[start:start + length] for start in starts]


def likelihoods(logits, ids):
    """Of each next token its logarithm."""
    return log_softmax(logits[:-1])[np.arange(len(ids) - 1), ids[1:]]


def compare(path, name, threads, positions):
    """Prints one line; true when the perplexities agree."""
    theirs = LlamaCpp(path, threads)
    sequences = sequences_of(theirs, positions)
    with tempfile.TemporaryDirectory() as folder:
        tokens, out = Path(folder) / "tokens.txt", Path(folder) / "logits.bin"
        tokens.write_text("".join(" ".join(map(str, ids)) + "\n" for ids in sequences))
        example("logits", path, tokens, out, "--kv", "f16", "--threads", threads)
        ours = np.memmap(out, dtype="<f4", mode="r").reshape(len(sequences), SEQUENCE_TOKENS, theirs.vocab)
        here = np.concatenate([likelihoods(logits, ids) for logits, ids in zip(ours, sequences)])
    there = np.concatenate([likelihoods(theirs.logits(ids), ids) for ids in sequences])
    theirs.close()
    difference = there - here
    ratio = float(np.exp(difference.mean())) - 1
    deviation = float(difference.std() / np.sqrt(difference.size))
    verdict = "ok" if np.isfinite(ratio) and abs(ratio) <= RATIO_MAX else "TOO FAR"
    print(f"{name}: perplexity {np.exp(-here.mean()):.3f}, llama.cpp's {np.exp(-there.mean()):.3f}, {100 * ratio:+.3f} % "
          f"(deviation {100 * deviation:.3f} %), {difference.size} predictions: {verdict}", flush=True)
    return verdict == "ok"


def cost_of_caches(path, threads, positions, length):
    """Prints a line for each type of cache: our perplexity, and how far it is from that with a cache of f32."""
    theirs = LlamaCpp(path, threads)
    sequences, vocab = sequences_of(theirs, positions, length), theirs.vocab
    theirs.close()
    exact = None
    with tempfile.TemporaryDirectory() as folder:
        tokens, out = Path(folder) / "tokens.txt", Path(folder) / "logits.bin"
        tokens.write_text("".join(" ".join(map(str, ids)) + "\n" for ids in sequences))
        for kv in ("f32", "f16", "q8_0"):
            example("logits", path, tokens, out, "--kv", kv, "--threads", threads)
            logits = np.memmap(out, dtype="<f4", mode="r").reshape(len(sequences), length, vocab)
            here = np.concatenate([likelihoods(rows, ids) for rows, ids in zip(logits, sequences)])
            exact = here if exact is None else exact
            difference = exact - here
            print(f"{kv} cache: perplexity {np.exp(-here.mean()):.4f}, {100 * (np.exp(difference.mean()) - 1):+.4f} % "
                  f"(deviation {100 * difference.std() / np.sqrt(difference.size):.4f} %), {difference.size} predictions", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, default=ROOT / "models/default/understudy-mini.gguf")
    parser.add_argument("--types", type=lambda names: names.split(","), default=list(TYPES), help="some of: " + ",".join(TYPES))
    parser.add_argument("--positions", type=int, default=48000)
    parser.add_argument("--kv", action="store_true", help="compare types of cache instead of weights")
    parser.add_argument("--sequence", type=int, default=2000, help="tokens of a sequence with --kv")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--examples", type=Path, help="folder with the built examples (target/debug/examples); otherwise cargo runs them")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.types if name not in TYPES]
    if unknown:
        parser.error(f"no type {unknown[0]}; there are {', '.join(TYPES)}")
    if arguments.positions < SEQUENCE_TOKENS:
        parser.error(f"--positions is at least {SEQUENCE_TOKENS}")
    example.folder = arguments.examples and arguments.examples.resolve()
    if arguments.kv:
        return cost_of_caches(arguments.model.resolve(), arguments.threads, arguments.positions, arguments.sequence)
    agree = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.types:
            path = Path(folder) / f"{name}.gguf"
            write_in_type(arguments.model.resolve(), path, name, arguments.threads)
            agree.append(compare(path, name, arguments.threads, arguments.positions))
            path.unlink()
    sys.exit(0 if all(agree) else 1)


if __name__ == "__main__":
    main()

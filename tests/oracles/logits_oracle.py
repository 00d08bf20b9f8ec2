#!/usr/bin/env python3
"""Oracle 3: next-token distributions beside llama.cpp's, on the same file, over 1,000 positions.

    pip install llama-cpp-python numpy
    python tests/oracles/logits_oracle.py MODEL.gguf ...        (files at hand)
    python tests/oracles/logits_oracle.py --generated           (small random Q4_K_M, Q8_0, Q6_K files of each family, and one of each other type)

For each file the mean Kullback-Leibler divergence KL(llama.cpp || ours) in nats must be at most 1e-3. Both sides keep keys and
values in f16 and compute every position of the same sequences (text of this repository, tokenized by llama.cpp; for generated
files, whose weights know no text, random tokens); llama.cpp runs without flash attention, on the CPU. Ours come from
`models/examples/logits.rs`. Exit status 0: all files agree.

Both programs round activations to 8 bits, each a little differently. On the generated files each is about 4e-4 (Q8_0) to 1e-3
(Q4_K, Q6_K) away from exact arithmetic and as far from the other when the logits have a standard deviation of 3, which grows with
its square; hence the 2.5 of `RandomModel`. With f32 weights the two are within 1e-7 of each other. In a mixture of experts rounding
decides between two experts of nearly the same probability, now and then differently on each side: such a position is up to 0.2 apart.
"""

import argparse
import ctypes
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
DIVERGENCE_MEAN_MAX = 1e-3
POSITIONS = 1000
SEQUENCE_TOKENS = 250
TEXTS = [ROOT / "LICENSE-APACHE", Path(__file__).resolve().parent / "make_fixtures.py"]
FAMILIES = ["llama", "qwen2", "qwen3", "qwen3moe"]
MIXES = ["q4_k_m", "q8_0", "q6_k"]
# One family will do: what a type does to a product does not depend on it.
OTHER_MIXES = ["q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q5_k", "iq4_nl", "iq4_xs", "mxfp4", "iq3_s", "iq3_xxs", "iq2_s", "iq2_xs",
               "iq2_xxs", "iq1_m", "iq1_s", "tq1_0", "tq2_0"]


def example(name, *arguments):
    """Runs an example of the models crate: the one already built in `--examples`, or whatever cargo makes of it."""
    built = example.folder / name if example.folder else None
    command = [built] if built else ["cargo", "run", "--quiet", "--package", "models", "--example", name, "--"]
    subprocess.run([*map(str, command), *map(str, arguments)], cwd=ROOT, check=True)


example.folder = None


def quiet(llama_cpp):
    """llama.cpp says nothing more. It keeps the callback, so Python must, too."""
    if not quiet.callback:
        quiet.callback = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet.callback, ctypes.c_void_p(0))


quiet.callback = None


class LlamaCpp:
    """One model in llama.cpp, through its C interface: logits of all positions of a sequence."""

    def __init__(self, path, threads):
        import llama_cpp

        self.api = llama_cpp
        quiet(llama_cpp)
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self.model = llama_cpp.llama_load_model_from_file(str(path).encode(), parameters)
        if not self.model:
            sys.exit(f"{path}: llama.cpp cannot load it")
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = SEQUENCE_TOKENS + 64
        parameters.n_batch = parameters.n_ubatch = SEQUENCE_TOKENS
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.type_k = parameters.type_v = llama_cpp.GGML_TYPE_F16
        if hasattr(parameters, "flash_attn_type"):
            parameters.flash_attn_type = 0  # LLAMA_FLASH_ATTN_TYPE_DISABLED
        elif hasattr(parameters, "flash_attn"):
            parameters.flash_attn = False
        self.context = llama_cpp.llama_new_context_with_model(self.model, parameters)
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def tokenize(self, text):
        api, data = self.api, text.encode()
        ids = (ctypes.c_int32 * (len(data) + 8))()
        count = api.llama_tokenize(api.llama_model_get_vocab(self.model), data, len(data), ids, len(ids), False, False)
        if count < 0:
            sys.exit("llama.cpp cannot tokenize the text")
        return list(ids[:count])

    def logits(self, tokens):
        api = self.api
        memory = getattr(api, "llama_get_memory", None)
        if memory:
            api.llama_memory_clear(memory(self.context), True)
        else:
            api.llama_kv_cache_clear(self.context)
        batch = api.llama_batch_init(len(tokens), 0, 1)
        for index, token in enumerate(tokens):
            batch.token[index] = token
            batch.pos[index] = index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = 1
        batch.n_tokens = len(tokens)
        if api.llama_decode(self.context, batch) != 0:
            sys.exit("llama.cpp cannot run the batch")
        flat = np.ctypeslib.as_array(api.llama_get_logits(self.context), shape=(len(tokens), self.vocab)).copy()
        api.llama_batch_free(batch)
        return flat

    def close(self):
        self.api.llama_free(self.context)
        self.api.llama_free_model(self.model)


def log_softmax(logits):
    logits = logits.astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def text_sequences(theirs):
    """Prose and code in equal parts."""
    per_file = POSITIONS // SEQUENCE_TOKENS // len(TEXTS)
    for path in TEXTS:
        ids = theirs.tokenize(path.read_text())
        yield from (ids[n * SEQUENCE_TOKENS:(n + 1) * SEQUENCE_TOKENS] for n in range(per_file))


def random_sequences(theirs):
    random = np.random.default_rng(11)
    return ([int(id) for id in random.integers(0, theirs.vocab, SEQUENCE_TOKENS)] for _ in range(POSITIONS // SEQUENCE_TOKENS))


def compare(path, threads, sequences_of):
    """Prints one line; true when the file agrees."""
    theirs = LlamaCpp(path, threads)
    sequences = list(sequences_of(theirs))
    assert sum(map(len, sequences)) == POSITIONS, "the texts are too short"
    with tempfile.TemporaryDirectory() as folder:
        tokens, out = Path(folder) / "tokens.txt", Path(folder) / "logits.bin"
        tokens.write_text("".join(" ".join(map(str, ids)) + "\n" for ids in sequences))
        example("logits", path, tokens, out, "--kv", "f16", "--threads", threads)
        ours = np.fromfile(out, dtype="<f4").reshape(-1, theirs.vocab)
    divergences, agreements, entropies = [], [], []
    for index, ids in enumerate(sequences):
        here = log_softmax(ours[index * SEQUENCE_TOKENS:(index + 1) * SEQUENCE_TOKENS])
        there = log_softmax(theirs.logits(ids))
        divergences.append((np.exp(there) * (there - here)).sum(axis=-1))
        entropies.append(-(np.exp(there) * there).sum(axis=-1))
        agreements.append(there.argmax(axis=-1) == here.argmax(axis=-1))
    theirs.close()
    divergence, entropy = np.concatenate(divergences), np.concatenate(entropies)
    mean = float(divergence.mean())
    verdict = "ok" if np.isfinite(mean) and mean <= DIVERGENCE_MEAN_MAX else "TOO FAR"
    print(f"{path.name}: mean divergence {mean:.2e}, largest {divergence.max():.2e}, same first choice "
          f"{100 * np.concatenate(agreements).mean():.1f} %, entropy {entropy.mean():.2f} of {np.log(theirs.vocab):.2f} nats, "
          f"{divergence.size} positions: {verdict}", flush=True)
    return verdict == "ok"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--generated", action="store_true", help="also compare generated files of each family and mix")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--examples", type=Path, help="folder with the built examples (target/debug/examples); otherwise cargo runs them")
    arguments = parser.parse_args()
    example.folder = arguments.examples and arguments.examples.resolve()
    if not arguments.models and not arguments.generated:
        parser.error("no models given")
    agree = [compare(path.resolve(), arguments.threads, text_sequences) for path in arguments.models]
    if arguments.generated:
        with tempfile.TemporaryDirectory() as folder:
            files = [(family, mix) for family in FAMILIES for mix in MIXES] + [("qwen2", mix) for mix in OTHER_MIXES]
            for family, mix in files:
                path = Path(folder) / f"small-{family}-{mix}.gguf"
                example("generate_gguf", f"small-{family}", mix, path)
                agree.append(compare(path, arguments.threads, random_sequences))
                path.unlink()
    sys.exit(0 if all(agree) else 1)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""llama.cpp through llama-cpp-python, measured as `understudy bench` measures itself, without sampling. `cargo bench --bench figures` runs it.

    pip install llama-cpp-python
    benches/llama_cpp_alone.py MODEL.gguf THREADS        (prints JSON)
"""

import ctypes
import json
import random
import sys
import time

import llama_cpp

PREFILL_TOKENS, DECODE_PROMPT_TOKENS, DECODE_TOKENS = 512, 32, 128
STREAMS = [1, 4, 8, 16]
CONTEXT_OF_A_STREAM = 1024


def main():
    path, threads = sys.argv[1], int(sys.argv[2])
    start = time.perf_counter()
    engine = LlamaCpp(path, threads)
    start_ms = (time.perf_counter() - start) * 1e3
    engine.decode([(0, position, engine.token()) for position in range(DECODE_PROMPT_TOKENS)])
    engine.clear()
    prompt = [(0, position, engine.token()) for position in range(PREFILL_TOKENS)]
    start = time.perf_counter()
    engine.decode(prompt)
    first_token_s = time.perf_counter() - start
    streams = [{"streams": count, "tokens_per_s": engine.streams(count)} for count in STREAMS]
    print(json.dumps({
        "start_ms": start_ms,
        "first_token_ms": first_token_s * 1e3,
        "prefill_tokens_per_s": PREFILL_TOKENS / first_token_s,
        "streams": streams,
        "memory_peak_bytes": peak_bytes(),
    }))


class LlamaCpp:
    """One model and a context with room for the widest test."""

    def __init__(self, path, threads):
        self.quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self.model = llama_cpp.llama_load_model_from_file(path.encode(), parameters)
        if not self.model:
            sys.exit(f"{path}: llama.cpp cannot load it")
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = max(STREAMS) * CONTEXT_OF_A_STREAM
        parameters.n_batch = parameters.n_ubatch = PREFILL_TOKENS
        parameters.n_seq_max = max(STREAMS)
        parameters.n_threads = parameters.n_threads_batch = threads
        self.context = llama_cpp.llama_new_context_with_model(self.model, parameters)
        self.batch = llama_cpp.llama_batch_init(PREFILL_TOKENS, 0, 1)
        self.random = random.Random(1)

    def token(self):
        """A small id, which every vocabulary has."""
        return self.random.randrange(200)

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def decode(self, rows):
        """Rows of (sequence, position, token); logits of each sequence's last row."""
        last = {sequence: index for index, (sequence, _, _) in enumerate(rows)}
        for index, (sequence, position, token) in enumerate(rows):
            self.batch.token[index] = token
            self.batch.pos[index] = position
            self.batch.n_seq_id[index] = 1
            self.batch.seq_id[index][0] = sequence
            self.batch.logits[index] = last[sequence] == index
        self.batch.n_tokens = len(rows)
        if llama_cpp.llama_decode(self.context, self.batch) != 0:
            sys.exit("llama.cpp cannot run the batch")
        llama_cpp.llama_synchronize(self.context)

    def streams(self, count):
        """Tokens a second of `count` sequences together."""
        self.clear()
        for sequence in range(count):
            self.decode([(sequence, position, self.token()) for position in range(DECODE_PROMPT_TOKENS)])
        start = time.perf_counter()
        for position in range(DECODE_PROMPT_TOKENS, DECODE_PROMPT_TOKENS + DECODE_TOKENS):
            self.decode([(sequence, position, self.token()) for sequence in range(count)])
        return count * DECODE_TOKENS / (time.perf_counter() - start)


def peak_bytes():
    try:
        with open("/proc/self/status") as status:
            line = next(line for line in status if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except OSError:
        return None


if __name__ == "__main__":
    main()

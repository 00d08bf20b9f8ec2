#!/usr/bin/env python3
"""llama.cpp through llama-cpp-python, measured as `understudy bench` measures itself, without sampling. `cargo bench` runs it.

    pip install llama-cpp-python
    benches/llama_cpp_alone.py MODEL.gguf THREADS [--streams 1,4] [--depth 0,8192] [--only prefill,decode]
                               [--no-repack] [--flash-attention on|off|auto]        (prints JSON)

`--no-repack` leaves the weights as the file has them (`use_extra_bufts`), which some builds compute faster.
"""

import argparse
import ctypes
import json
import random
import sys
import time

import llama_cpp

PREFILL_TOKENS, DECODE_PROMPT_TOKENS, DECODE_TOKENS = 512, 32, 128
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}


def main():
    options = arguments()
    start = time.perf_counter()
    engine = LlamaCpp(options)
    start_ms = (time.perf_counter() - start) * 1e3
    engine.decode([(0, position, engine.token()) for position in range(DECODE_PROMPT_TOKENS)])
    figures = {"start_ms": start_ms, "streams": [], "depths": []}
    filled = 0
    engine.clear()
    for depth in sorted(options.depth):
        engine.fill(0, filled, depth)
        filled = depth
        at_depth = {}
        if "prefill" in options.only:
            first_token_s = engine.prefill(depth)
            at_depth |= {"first_token_ms": first_token_s * 1e3, "prefill_tokens_per_s": PREFILL_TOKENS / first_token_s}
        if "decode" in options.only:
            if depth:
                at_depth["decode_tokens_per_s"] = engine.one_stream(depth)
            else:
                figures["streams"] = [{"streams": count, "tokens_per_s": engine.streams(count)} for count in options.streams]
        if depth:
            figures["depths"].append({"depth": depth} | at_depth)
        else:
            figures |= at_depth
    figures["memory_peak_bytes"] = peak_bytes()
    print(json.dumps(figures))


def arguments():
    numbers = lambda text: [int(number) for number in text.split(",")]
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("threads", type=int)
    parser.add_argument("--streams", type=numbers, default=[1, 4, 8, 16])
    parser.add_argument("--depth", type=numbers, default=[0])
    parser.add_argument("--only", type=lambda text: text.split(","), default=["prefill", "decode"])
    parser.add_argument("--no-repack", action="store_true")
    parser.add_argument("--flash-attention", choices=FLASH_ATTENTION, default="auto")
    return parser.parse_args()


class LlamaCpp:
    """One model and a context with room for the widest and the deepest test."""

    def __init__(self, options):
        self.quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        if options.no_repack:
            parameters.use_extra_bufts = False
        self.model = llama_cpp.llama_load_model_from_file(options.model.encode(), parameters)
        if not self.model:
            sys.exit(f"{options.model}: llama.cpp cannot load it")
        parameters = llama_cpp.llama_context_default_params()
        # A context is divided evenly among the sequences; each has room for its own prompt and answer.
        sequences = max(options.streams) if 0 in options.depth and "decode" in options.only else 1
        parameters.n_ctx = sequences * (max(options.depth) + 1024)
        parameters.n_batch = parameters.n_ubatch = PREFILL_TOKENS
        parameters.n_seq_max = sequences
        parameters.n_threads = parameters.n_threads_batch = options.threads
        parameters.flash_attn_type = FLASH_ATTENTION[options.flash_attention]
        self.context = llama_cpp.llama_new_context_with_model(self.model, parameters)
        if not self.context:
            sys.exit(f"{options.model}: llama.cpp has no context of {parameters.n_ctx} tokens")
        self.batch = llama_cpp.llama_batch_init(PREFILL_TOKENS, 0, 1)
        self.random = random.Random(1)

    def token(self):
        """A small id, which every vocabulary has."""
        return self.random.randrange(200)

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def forget_from(self, sequence, position):
        llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(self.context), sequence, position, -1)

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

    def fill(self, sequence, start, end):
        for start in range(start, end, PREFILL_TOKENS):
            self.decode([(sequence, position, self.token()) for position in range(start, min(end, start + PREFILL_TOKENS))])

    def prefill(self, depth):
        """Seconds of 512 tokens behind `depth` tokens, which stay."""
        prompt = [(0, position, self.token()) for position in range(depth, depth + PREFILL_TOKENS)]
        start = time.perf_counter()
        self.decode(prompt)
        seconds = time.perf_counter() - start
        self.forget_from(0, depth)
        return seconds

    def one_stream(self, depth):
        """Tokens a second behind `depth` tokens."""
        start = time.perf_counter()
        for position in range(depth, depth + DECODE_TOKENS):
            self.decode([(0, position, self.token())])
        seconds = time.perf_counter() - start
        self.forget_from(0, depth)
        return DECODE_TOKENS / seconds

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

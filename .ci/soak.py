#!/usr/bin/env python3
"""An hour's worth of requests in minutes, under a memory limit: nobody is lost, nobody hears another's answer, nothing grows.

    .ci/soak.py target/release/understudy [--requests 10000] [--clients 24] [--seed 1]

Starts the server with a small budget (`--memory`) and an address space that ends little above what it has when it is ready, so that
growth is an abort. A pool of requests is answered one by one first; then clients draw from the pool at random, all at once: whole
replies, streams, streams left in the middle, several choices, background requests, prompts that are too long, a queue that is full.
Every answer must be the one it was alone, to the letter. In the end no block is used, the process has stayed within its budget,
and another process gives the same answers. Exit status 0: all of it held.
"""

import argparse
import collections
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PORT = 7979
BUDGET_MIB = 64
# Beside weights, cache and scratch: the program itself, its threads, connections, the tokenizer.
OVERHEAD_MIB = 48
# Above the address space of a server that is ready: threads and connections to come.
GROWTH_MIB = 192


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", type=Path)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    binary = options.binary.resolve()
    with tempfile.TemporaryDirectory() as home:
        server = Server(binary, home, None)
        size_kib = server.status("VmSize")
        server.stop()
        server = Server(binary, home, size_kib + GROWTH_MIB * 1024)
        try:
            pool = requests_of(options.seed)
            start = time.monotonic()
            expected = [answer(body) for body in pool]
            print(f"soak: {len(pool)} requests alone, {time.monotonic() - start:.0f} s")
            counts = hammer(options, pool, expected)
            idle(server)
            peak_mib = server.status("VmHWM") / 1024
            check(peak_mib <= BUDGET_MIB + OVERHEAD_MIB, f"memory stayed below {BUDGET_MIB} + {OVERHEAD_MIB} MiB: {peak_mib:.0f}", peak_mib)
            server.stop()
            # Another process, which has computed none of it.
            server = Server(binary, home, size_kib + GROWTH_MIB * 1024)
            order = random.Random(options.seed).sample(range(len(pool)), len(pool))
            check(all(answer(pool[index]) == expected[index] for index in order), "another process gives the same answers", "")
            server.stop()
        finally:
            server.process.kill()
    print("soak: all well:", ", ".join(f"{count} {what}" for what, count in sorted(counts.items())))


def requests_of(seed):
    """Requests that differ in length, beginning, way of drawing, and number of choices; many share their first words."""
    rand = random.Random(seed)
    texts = [(ROOT / name).read_text() for name in ("README.md", "docs/architecture.md", "docs/cli.md")]
    pool = []
    for index in range(160):
        text = rand.choice(texts)
        begin = rand.choice([0, 0, 0, rand.randrange(len(text))])
        shared = text[begin : begin + rand.choice([40, 200, 800, 4000, 9000])]
        question = f"{shared}\n\nQuestion {index}: what is {rand.randrange(10**6)}?"
        body = {
            "max_tokens": rand.choice([1, 8, 24, 60]),
            "temperature": rand.choice([0, 0.7, 1.0]),
            "seed": index,
            "n": rand.choice([1, 1, 1, 3]),
        }
        if rand.random() < 0.2:
            body["service_tier"] = "flex"
        if rand.random() < 0.2:
            body |= {"top_p": 0.9, "presence_penalty": 0.5}
        if rand.random() < 0.3:
            body |= {"prompt": question, "ignore_eos": True}
        else:
            body |= {"messages": [{"role": "user", "content": question}]}
        pool.append(body)
    return pool


def path_of(body):
    return "/v1/completions" if "prompt" in body else "/v1/chat/completions"


def post(body, connection=None):
    connection = connection or http.client.HTTPConnection("127.0.0.1", PORT, timeout=120)
    connection.request("POST", path_of(body), json.dumps(body), {"content-type": "application/json"})
    return connection.getresponse()


def answer(body):
    """Texts and ends of all choices, after as many polite retries as it takes."""
    while True:
        response = post(body)
        text = response.read()
        if response.status == 503:
            check(int(response.headers["retry-after"]) >= 1, "a full queue says when to come back", response.headers, quiet=True)
            time.sleep(random.random() / 4)
            continue
        check(response.status == 200, "a request is answered", text[:500], quiet=True)
        return [(choice.get("text", choice.get("message", {}).get("content")), choice["finish_reason"]) for choice in json.loads(text)["choices"]]


def stream(body, leave_after):
    """Texts of all choices; `None` where the queue is full. Leaves after so many pieces, if that is a number."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=120)
    response = post(body | {"stream": True}, connection)
    if response.status == 503:
        response.read()
        return None
    check(response.status == 200, "a stream begins", response.status, quiet=True)
    texts, ends, pieces = collections.defaultdict(str), {}, 0
    for line in response:
        if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
            continue
        data = json.loads(line[6:])
        check("error" not in data, "a stream has no error", data, quiet=True)
        for choice in data["choices"]:
            texts[choice["index"]] += choice.get("text") or choice.get("delta", {}).get("content") or ""
            ends[choice["index"]] = choice["finish_reason"] or ends.get(choice["index"])
        pieces += 1
        if leave_after is not None and pieces > leave_after:
            connection.sock.close() if connection.sock else response.close()
            return [(texts[index], None) for index in range(body["n"])]
    return [(texts[index], ends.get(index)) for index in range(body["n"])]


def hammer(options, pool, expected):
    counts, lock, failures = collections.Counter(), threading.Lock(), []
    left = iter(range(options.requests))

    def client(number):
        rand = random.Random(options.seed * 1000 + number)
        while not failures:
            with lock:
                if next(left, None) is None:
                    return
            what = "none"
            try:
                what = one_request(rand, pool, expected)
            except Exception as error:  # noqa: BLE001
                failures.append(error)
            with lock:
                counts[what] += 1
                if sum(counts.values()) % 1000 == 0:
                    print(f"soak: {sum(counts.values())} requests", flush=True)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(options.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check(not failures, "every request had its own answer", failures[:3])
    return counts


def one_request(rand, pool, expected):
    index = rand.randrange(len(pool))
    body, wanted = pool[index], expected[index]
    kind = rand.random()
    if kind < 0.05:
        response = post(body | ({"prompt": "no " * 40_000} if "prompt" in body else {"messages": [{"role": "user", "content": "no " * 40_000}]}))
        text = response.read()
        # Whichever is noticed first.
        check(response.status in (400, 503) and b"error" in text, "what is too long is refused", text[:300], quiet=True)
        return "too long"
    if kind < 0.15:
        response = http.client.HTTPConnection("127.0.0.1", PORT, timeout=120)
        response.request("POST", path_of(body), json.dumps(body), {"content-type": "application/json"})
        time.sleep(rand.random() / 20)
        response.close()
        return "left without a word"
    if kind < 0.30:
        got = stream(body, rand.randrange(30))
        check(got is None or all(w[0].startswith(g[0]) for g, w in zip(got, wanted)), "a stream that was left was right so far", (got, wanted), quiet=True)
        return "left in the middle" if got else "refused, queue full"
    if kind < 0.60:
        got = stream(body, None)
        check(got is None or got == wanted, "a stream says what it said alone", (got, wanted), quiet=True)
        return "streamed" if got else "refused, queue full"
    got = answer(body)
    check(got == wanted, "a request is told what it was told alone", (got, wanted), quiet=True)
    return "whole"


def idle(server):
    """Soon nothing runs, and no block has an owner."""
    for _ in range(100):
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=10)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        values = {line.split("{")[0].split(" ")[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line and line[0] != "#"}
        wanted = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
        if all(values[name] == 0 for name in wanted):
            print("soak: nothing runs, nothing waits, no block is used")
            return
        time.sleep(0.1)
    fail(f"something is still running: {[(name, values[name]) for name in wanted]}")


class Server:
    def __init__(self, binary, home, address_space_kib):
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("UNDERSTUDY_", "HF_"))}
        # Each thread's heap of its own reserves 64 MiB of addresses, which says nothing of memory.
        environment |= {"HOME": home, "MALLOC_ARENA_MAX": "2"}
        limit = f"ulimit -v {address_space_kib};" if address_space_kib else ""
        command = f"{limit} exec {binary} serve builtin --port {PORT} --memory {BUDGET_MIB}M --parallel 8 --queue 16 --log-level error"
        self.process = subprocess.Popen(["bash", "-c", command], cwd=home, env=environment, stdout=subprocess.PIPE, stderr=sys.stderr, text=True)
        for line in self.process.stdout:
            if line.startswith("try it"):
                break
        else:
            fail(f"the server ended with {self.process.wait()}")
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def status(self, name):
        """KiB, of /proc."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])

    def stop(self):
        check(self.process.poll() is None, "the server lives", self.process.poll())
        self.process.send_signal(signal.SIGTERM)
        check(self.process.wait(timeout=60) == 0, "the server ends well", self.process.returncode)


class Broken(Exception):
    pass


def check(holds, what, seen, quiet=False):
    if not holds:
        if threading.current_thread() is threading.main_thread():
            fail(f"{what}: {seen}")
        raise Broken(f"{what}: {seen}")
    if not quiet:
        print(f"ok: {what}")


def fail(message):
    print(f"soak: FAILED: {message}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()

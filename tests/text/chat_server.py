"""A server of the chat/completions API for tests: it answers well, or misbehaves in a chosen way."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PARAGRAPH = (
    "A quiet street at night with a white car at the left and trees in the background. In the infrared "
    "image the warm outline of a person near the car is bright and clear, and the engine glows. In the "
    "visible image the colors of the signs, the lamps and the texture of the walls are visible, while the "
    "person is hidden in the dark."
)


class ChatServer:
    """What the server was asked, and what it does next.

    requests: the JSON bodies in order; headers: those of each; script: what to do with the next requests,
    then `default`. A step is a text to answer, a status, or a function of the handler; see `Handler`.
    """

    def __init__(self):
        self.requests, self.headers, self.script = [], [], []
        self.default, self.models, self.two_images = PARAGRAPH, ["tiny-vision"], True
        self.lock = threading.Lock()
        self.url = ""

    def texts(self, index=-1):
        """The text parts of a request, joined."""
        (message,) = self.requests[index]["messages"]
        return "\n".join(p["text"] for p in message["content"] if p["type"] == "text")

    def images(self, index=-1):
        (message,) = self.requests[index]["messages"]
        return [p["image_url"]["url"] for p in message["content"] if p["type"] == "image_url"]


class Handler(BaseHTTPRequestHandler):
    server_version = "chat"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.send({"data": [{"id": name} for name in self.server.chat.models]})

    def do_POST(self):
        chat = self.server.chat
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with chat.lock:
            chat.requests.append(body)
            chat.headers.append(dict(self.headers))
            step = chat.script.pop(0) if chat.script else chat.default
        images = sum(p["type"] == "image_url" for p in body["messages"][0]["content"])
        if images > 1 and not chat.two_images:
            error = {"message": "At most 1 image(s) may be provided in one request.", "code": 400}
            self.send({"error": error}, 400)
        elif callable(step):
            step(self)
        elif isinstance(step, int):
            self.send({"error": {"message": f"status {step}"}}, step)
        else:
            self.answer(step)

    def answer(self, text, finish="stop", **message):
        message = {"role": "assistant", "content": text, **message}
        usage = {"prompt_tokens": 1000, "completion_tokens": 100}
        self.send({"choices": [{"message": message, "finish_reason": finish}], "usage": usage})

    def send(self, content, status=200, headers=(), cut=None):
        """A whole answer, or with `cut` only so many of its bytes before the connection ends."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[:cut])
        self.close_connection = True


def hang_up(handler):
    """Ends the connection without an answer."""
    handler.close_connection = True
    handler.connection.close()


def slow(seconds):
    def step(handler):
        time.sleep(seconds)
        handler.answer(PARAGRAPH)

    return step


def dribbling(seconds):
    """An answer that comes a byte at a time and never ends in time."""

    def step(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.02)

    return step


@contextmanager
def chat_server():
    """A running server on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # a client that hangs up is no fault
    server.chat = ChatServer()
    server.chat.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server.chat
    finally:
        server.shutdown()
        server.server_close()

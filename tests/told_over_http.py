"""An OpenAI-compatible server in the hands of a test: `Told`, for servers that run as processes of their own."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from server.upstream import Call
from tests.told import Told


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
    told: Told


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._answer({"object": "list", "data": [{"id": "told", "object": "model", "created": 1, "owned_by": "test"}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        pieces = self.server.told(Call(asked["model"], json.dumps(asked["messages"]).encode(), 60.0))
        if asked.get("stream"):
            self._stream(pieces)
        else:
            message = {"role": "assistant", "content": "".join(pieces)}
            self._answer({"model": "told", "choices": [{"message": message}], "usage": None})

    def _answer(self, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, pieces: Iterator[str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        for piece in pieces:
            self._frame({"choices": [{"delta": {"content": piece}}]})
        self._frame({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        self.wfile.write(b"data: [DONE]\n\n")

    def _frame(self, data: Any) -> None:
        self.wfile.write(b"data: " + json.dumps(data).encode() + b"\n\n")
        self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@contextmanager
def over_http(told: Told) -> Iterator[str]:
    """The base URL at which `told` answers."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.told = told
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        told.release()
        server.shutdown()
        server.server_close()

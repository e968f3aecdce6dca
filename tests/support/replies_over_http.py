"""An OpenAI-compatible server in the hands of a test: `Told`, for servers that run as processes of their own.

Where it is told a Reply, that is the last of an answer: so it can want functions called, and give a reason and usage.
"""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from server.domain import ToolCall, Usage
from server.upstream.protocol import Completion, CompletionRequest
from tests.support.replies import Told

STOPPED = Completion("told", None, "stop")
"""How an answer ends that is told no end of its own."""


class Handed:
    """Asks whom it was handed to last: for a server that serves several tests, each with a `Told` of its own."""

    def __init__(self) -> None:
        self.told = Told()

    def __call__(self, call: CompletionRequest) -> Iterator[str]:
        return self.told(call)

    def release(self) -> None:
        self.told.release()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
    told: Told | Handed

    def handle_error(self, *address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # Who hangs up, or is killed, hears no answer.
            super().handle_error(*address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._answer({"object": "list", "data": [{"id": "told", "object": "model", "created": 1, "owned_by": "test"}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        pieces = self.server.told(CompletionRequest(asked["model"], json.dumps(asked["messages"]).encode(), 60.0))
        if asked.get("stream"):
            self._stream(pieces)
        else:
            self._whole(pieces)

    def _whole(self, pieces: Iterator[str | Completion]) -> None:
        text, end = "", STOPPED
        for piece in pieces:
            if isinstance(piece, Completion):
                end = piece
                break
            text += piece
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if end.calls:
            message["tool_calls"] = [_call(call) for call in end.calls]
        choice = {"message": message, "finish_reason": end.finish_reason}
        self._answer({"model": "told", "choices": [choice], "usage": _usage(end.usage)})

    def _answer(self, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, pieces: Iterator[str | Completion]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        end = STOPPED
        for piece in pieces:
            if isinstance(piece, Completion):
                end = piece
                break
            self._frame({"choices": [{"delta": {"content": piece}}]})
        for index, call in enumerate(end.calls):
            self._wanted(index, call)
        self._frame({"choices": [{"delta": {}, "finish_reason": end.finish_reason}]})
        if end.usage is not None:
            self._frame({"choices": [], "usage": _usage(end.usage)})
        self.wfile.write(b"data: [DONE]\n\n")

    def _wanted(self, index: int, call: ToolCall) -> None:
        """A call in pieces, as OpenAI sends it: its name first, then the arguments bit by bit."""
        whole = _call(call)
        first = {"index": index, **whole, "function": {"name": call.name, "arguments": ""}}
        half = len(call.arguments) // 2
        parts = [
            {"index": index, "function": {"arguments": part}} for part in (call.arguments[:half], call.arguments[half:])
        ]
        for part in [first, *parts]:
            self._frame({"choices": [{"delta": {"tool_calls": [part]}}]})

    def _frame(self, data: Any) -> None:
        self.wfile.write(b"data: " + json.dumps(data).encode() + b"\n\n")
        self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        """Quiet."""


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _usage(usage: Usage | None) -> dict[str, Any] | None:
    return None if usage is None else asdict(usage)


@contextmanager
def over_http(told: Told | Handed) -> Iterator[str]:
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

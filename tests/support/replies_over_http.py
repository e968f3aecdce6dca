"""An OpenAI-compatible server that answers with ScriptedReplies, for servers under test that run as processes.

If the replies yield a Completion, the reply ends with it; that can have tool calls, a finish reason, usage and, if it
is streamed, logprobs.
"""

import json
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from server.domain import ToolCall, Usage
from server.upstream.protocol import Completion, CompletionRequest
from tests.support.leaks import LEAKS, collect_reply
from tests.support.replies import ScriptedReplies

STOPPED = Completion("told", None, "stop")
"""How a reply ends that yields no Completion."""

MODELS = ({"id": "told", "object": "model", "created": 1, "owned_by": "test"},)


class Replies(Protocol):
    """What the server answers with."""

    def __call__(self, call: CompletionRequest) -> Iterator[str | Completion]: ...

    def release(self) -> None: ...


class SwitchableReplies:
    """Delegates to the replies of the current test, for a server that serves several tests."""

    def __init__(self) -> None:
        self.current = ScriptedReplies()

    def __call__(self, call: CompletionRequest) -> Iterator[str | Completion]:
        return self.current(call)

    def release(self) -> None:
        self.current.release()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
    replies: Replies
    models: Sequence[Mapping[str, Any]]

    def handle_error(self, *address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # The client disconnected or was killed.
            super().handle_error(*address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._send_json({"object": "list", "data": list(self.server.models)})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        messages = json.dumps(request["messages"]).encode()
        LEAKS.add_request(self.path, dict(self.headers), messages)
        pieces = collect_reply(self.server.replies(CompletionRequest(request["model"], messages, 60.0)))
        if request.get("stream"):
            self._send_stream(pieces)
        else:
            self._send_plain(pieces)

    def _send_plain(self, pieces: Iterator[str | Completion]) -> None:
        text, end = "", STOPPED
        for piece in pieces:
            if isinstance(piece, Completion):
                end = piece
                break
            text += piece
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if end.calls:
            message["tool_calls"] = [_dump_call(call) for call in end.calls]
        choice = {"message": message, "finish_reason": end.finish_reason}
        self._send_json({"model": "told", "choices": [choice], "usage": _dump_usage(end.usage)})

    def _send_json(self, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _send_stream(self, pieces: Iterator[str | Completion]) -> None:
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
            self._send_event({"choices": [{"delta": {"content": piece}}]})
        for index, call in enumerate(end.calls):
            self._send_call(index, call)
        logprobs = None if end.logprobs is None else {"content": end.logprobs}
        self._send_event({"choices": [{"delta": {}, "finish_reason": end.finish_reason, "logprobs": logprobs}]})
        if end.usage is not None:
            self._send_event({"choices": [], "usage": _dump_usage(end.usage)})
        self.wfile.write(b"data: [DONE]\n\n")

    def _send_call(self, index: int, call: ToolCall) -> None:
        """Send a call in pieces, as OpenAI does: its name first, then the arguments in two parts."""
        first = {"index": index, **_dump_call(call), "function": {"name": call.name, "arguments": ""}}
        half = len(call.arguments) // 2
        parts = [
            {"index": index, "function": {"arguments": part}} for part in (call.arguments[:half], call.arguments[half:])
        ]
        for part in [first, *parts]:
            self._send_event({"choices": [{"delta": {"tool_calls": [part]}}]})

    def _send_event(self, data: Any) -> None:
        self.wfile.write(b"data: " + json.dumps(data).encode() + b"\n\n")
        self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def _dump_call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _dump_usage(usage: Usage | None) -> dict[str, Any] | None:
    return None if usage is None else asdict(usage)


@contextmanager
def serve_replies(replies: Replies, models: Sequence[Mapping[str, Any]] = MODELS) -> Iterator[str]:
    """The base URL of a server that answers with `replies`, whatever model is asked, and lists `models`."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.replies, server.models = replies, models
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        replies.release()
        server.shutdown()
        server.server_close()

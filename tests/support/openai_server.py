"""An OpenAI-compatible server on a free port, which follows a script for each request, and may misbehave."""

import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

from tests.support.leaks import LEAKS

PATIENCE_SECONDS = 10.0
"""How long a failing test may block."""
DISCONNECTED = (ConnectionError, ssl.SSLError)
"""The exceptions of reading from a client that disconnected, or of writing to it."""


MODEL = "gpt-test-2026-11-01"
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
THEIRS = "words of theirs"
"""A part of every error text of the upstream. It must reach no caller and no log."""


@dataclass(frozen=True)
class ReceivedRequest:
    """One received request."""

    path: str
    headers: dict[str, str]
    """By lower-case name."""
    content: bytes
    connection: int
    """The index of its connection, from 0."""
    at: float
    """Its time on the monotonic clock, in seconds."""

    @property
    def body(self) -> Any:
        return json.loads(self.content)


class Exchange:
    """One request and its response, which a script sends."""

    def __init__(self, request: ReceivedRequest, wire: socket.socket, reader: BinaryIO) -> None:
        self.request = request
        self.is_whole = False
        """Whether the response is complete, so that the connection may carry another request."""
        self.client_closed = False
        """Whether the client closed the connection."""
        self._wire = wire
        self._reader = reader

    def send(self, data: bytes) -> None:
        self._wire.sendall(data)

    def answer(self, status: int, content: bytes, **headers: str) -> None:
        """Send a complete response; `headers` with underscores for dashes."""
        self.begin(status, **({"Content_Length": str(len(content))} | headers))
        LEAKS.add_completion(content)
        self.send(content)
        self.is_whole = True

    def begin(self, status: int, **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} As Scripted", *(f"{name.replace('_', '-')}: {headers[name]}" for name in headers)]
        self.send("".join(f"{line}\r\n" for line in [*lines, ""]).encode())

    def begin_stream(self) -> None:
        self.begin(200, Content_Type="text/event-stream", Transfer_Encoding="chunked")

    def chunk(self, data: bytes) -> None:
        for line in data.splitlines():
            LEAKS.add_completion(line.removeprefix(b"data: "))
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def end_stream(self) -> None:
        self.send(b"0\r\n\r\n")
        self.is_whole = True

    def await_close(self) -> None:
        """Wait until the client closes the connection."""
        self._wire.settimeout(PATIENCE_SECONDS)
        with suppress(*DISCONNECTED):
            assert not self._reader.read(1)
        self.client_closed = True

    def close(self) -> None:
        """Close the connection. When this returns, the client has been sent the end."""
        self.is_whole = False
        self._wire.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """Reset the connection, as a crash does."""
        self._wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


Script = Callable[[Exchange], None]


class OpenAIServer:
    """The server. If a script returns before its response `is_whole`, the connection is closed."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[ReceivedRequest] = []
        self.may_shake_hands = threading.Event()
        """While it is cleared, TLS handshakes block."""
        self.may_shake_hands.set()
        self._tls = tls
        self._scripts: list[Script] = []
        self._wires: list[socket.socket] = []
        self._disconnected: set[int] = set()
        self._changed = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}/v1"
        threading.Thread(target=self._accept, daemon=True).start()

    def follow(self, *scripts: Script) -> None:
        """Use one script for each further request, and the last one for all requests after that."""
        self._scripts = list(scripts)

    @property
    def connections(self) -> int:
        """How many connections were accepted since the start."""
        with self._changed:
            return len(self._wires)

    def await_connections(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._wires) >= count, PATIENCE_SECONDS)

    def await_requests(self, count: int) -> None:
        """Wait until `count` requests have arrived."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests) >= count, PATIENCE_SECONDS)

    def await_disconnect(self, connection: int) -> None:
        """Wait until the client has closed the connection with that index."""
        with self._changed:
            assert self._changed.wait_for(lambda: connection in self._disconnected, PATIENCE_SECONDS)

    def close(self) -> None:
        """Refuse further connections and close the open ones."""
        self.may_shake_hands.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._changed:
            for wire in self._wires:
                with suppress(OSError):
                    socket.socket.shutdown(wire, socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                wire, _ = self._listener.accept()
                wire.settimeout(PATIENCE_SECONDS)
                wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._changed:
                    number = len(self._wires)
                    self._wires.append(wire)
                    self._changed.notify_all()
                threading.Thread(target=self._serve, args=(wire, number), daemon=True).start()

    def _serve(self, wire: socket.socket, number: int) -> None:
        """Serve one connection until it is closed."""
        with suppress(OSError):
            if self._tls is not None:
                assert self.may_shake_hands.wait(PATIENCE_SECONDS)
                wire = self._wires[number] = self._tls.wrap_socket(wire, server_side=True)
            with wire, wire.makefile("rb") as reader:
                if self._follow_scripts(wire, reader, number):
                    with self._changed:
                        self._disconnected.add(number)
                        self._changed.notify_all()

    def _follow_scripts(self, wire: socket.socket, reader: BinaryIO, number: int) -> bool:
        """Answer requests as the scripts say. Returns whether the client closed the connection."""
        while request := _read_request(reader, number):
            exchange = Exchange(request, wire, reader)
            script = self._next_script(request)
            try:
                script(exchange)
            except DISCONNECTED:
                return True
            if not exchange.is_whole:
                return exchange.client_closed
        return True

    def _next_script(self, request: ReceivedRequest) -> Script:
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
            return self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]


def _read_request(reader: BinaryIO, connection: int) -> ReceivedRequest | None:
    """The next request; None if the client closed the connection."""
    try:
        first = reader.readline()
    except DISCONNECTED:
        return None
    if not first:
        return None
    headers: dict[str, str] = {}
    while line := reader.readline().strip():
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    content = reader.read(int(headers.get("content-length", "0")))
    LEAKS.add_request("", headers, content)
    return ReceivedRequest(first.decode().split()[1], headers, content, connection, time.monotonic())


def completion(text: Any = "Hello", **changes: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    whole = {"object": "chat.completion", "model": MODEL, "choices": [choice], "usage": USAGE}
    return json.dumps(whole | changes, ensure_ascii=False).encode()


def event(data: Any) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


def piece(text: Any = None, finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}
    return event({"object": "chat.completion.chunk", "model": MODEL, "choices": [choice]})


FINISH = piece(finish_reason="stop")
COUNTS = event({"object": "chat.completion.chunk", "model": MODEL, "choices": [], "usage": USAGE})
DONE = b"data: [DONE]\n\n"
END = FINISH + COUNTS + DONE


def says(content: bytes, status: int = 200, **headers: str) -> Script:
    return lambda exchange: exchange.answer(status, content, **headers)


def streams(*chunks: bytes) -> Script:
    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        for chunk in chunks:
            exchange.chunk(chunk)
        exchange.end_stream()

    return script


def refuses(status: int, code: Any = None, param: Any = None, message: Any = THEIRS, **headers: str) -> Script:
    error = {"message": message, "type": THEIRS, "code": code, "param": param}
    return says(json.dumps({"error": error}).encode(), status, **headers)


def breaks_off(content: bytes) -> Script:
    """A plain response that is shorter than its Content-Length."""

    def script(exchange: Exchange) -> None:
        exchange.begin(200, Content_Length=str(len(content) + 1))
        exchange.send(content)

    return script


def streams_and_breaks(*chunks: bytes) -> Script:
    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        for chunk in chunks:
            exchange.chunk(chunk)

    return script


def streams_and_waits(*chunks: bytes) -> Script:
    def script(exchange: Exchange) -> None:
        streams_and_breaks(*chunks)(exchange)
        exchange.await_close()

    return script


def hangs_up(exchange: Exchange) -> None:
    """Close the connection without a response."""


silent = Exchange.await_close
resets = Exchange.reset
good = says(completion())
good_stream = streams(piece("Hel"), piece("lo"), END)


def answers(exchange: Exchange) -> None:
    """Plain or streamed, as the request asks."""
    (good_stream if exchange.request.body.get("stream") else good)(exchange)

"""An upstream as bad as a test wants it: a real server on a free port, which follows a script for each request."""

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

PATIENCE_SECONDS = 10.0
"""How long a test that went wrong may hang."""
GONE = (ConnectionError, ssl.SSLError)
"""What comes of reading from a client that has left, or of writing to it."""


MODEL = "gpt-test-2026-11-01"
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
THEIRS = "words of theirs"
"""Stands in whatever the upstream says about a failure, and must reach nobody."""


@dataclass(frozen=True)
class Heard:
    """One request, as it arrived."""

    path: str
    headers: dict[str, str]
    """By lower-case name."""
    content: bytes
    connection: int
    """Which connection it came on, counted from 0."""
    at: float
    """When, on the monotonic clock."""

    @property
    def body(self) -> Any:
        return json.loads(self.content)


class Exchange:
    """One request and its answer, in the hands of a script."""

    def __init__(self, heard: Heard, wire: socket.socket, reader: BinaryIO) -> None:
        self.heard = heard
        self.is_whole = False
        """Whether the answer has ended as it should, so that the connection may carry another request."""
        self.is_alone = False
        """Whether the client was seen to close the connection."""
        self._wire = wire
        self._reader = reader

    def send(self, data: bytes) -> None:
        self._wire.sendall(data)

    def answer(self, status: int, content: bytes, **headers: str) -> None:
        """A whole answer; `headers` with underscores for dashes."""
        self.begin(status, **({"Content_Length": str(len(content))} | headers))
        self.send(content)
        self.is_whole = True

    def begin(self, status: int, **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} As Scripted", *(f"{name.replace('_', '-')}: {headers[name]}" for name in headers)]
        self.send("".join(f"{line}\r\n" for line in [*lines, ""]).encode())

    def begin_stream(self) -> None:
        self.begin(200, Content_Type="text/event-stream", Transfer_Encoding="chunked")

    def chunk(self, data: bytes) -> None:
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def end_stream(self) -> None:
        self.send(b"0\r\n\r\n")
        self.is_whole = True

    def await_close(self) -> None:
        """Until the client closes the connection."""
        self._wire.settimeout(PATIENCE_SECONDS)
        with suppress(*GONE):
            assert not self._reader.read(1)
        self.is_alone = True

    def close(self) -> None:
        """End the connection, so that the client has heard of it when this returns."""
        self.is_whole = False
        self._wire.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """Break the connection as a crash would."""
        self._wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


Script = Callable[[Exchange], None]


class Misbehaving:
    """The server. A script that returns before the answer `is_whole` leaves a broken connection behind."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.heard: list[Heard] = []
        self.may_shake_hands = threading.Event()
        """Cleared, a TLS handshake is left waiting."""
        self.may_shake_hands.set()
        self._tls = tls
        self._scripts: list[Script] = []
        self._wires: list[socket.socket] = []
        self._left: set[int] = set()
        self._changed = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}/v1"
        threading.Thread(target=self._accept, daemon=True).start()

    def follow(self, *scripts: Script) -> None:
        """One script for each request from now on, the last one for all that come after."""
        self._scripts = list(scripts)

    @property
    def connections(self) -> int:
        """How many were ever made."""
        with self._changed:
            return len(self._wires)

    def await_connections(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._wires) >= count, PATIENCE_SECONDS)

    def await_heard(self, count: int) -> None:
        """Until `count` requests have arrived."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.heard) >= count, PATIENCE_SECONDS)

    def await_left(self, connection: int) -> None:
        """Until the client has closed that connection."""
        with self._changed:
            assert self._changed.wait_for(lambda: connection in self._left, PATIENCE_SECONDS)

    def close(self) -> None:
        """Refuse connections and break those that are open."""
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
        """One connection to its end."""
        with suppress(OSError):
            if self._tls is not None:
                assert self.may_shake_hands.wait(PATIENCE_SECONDS)
                wire = self._wires[number] = self._tls.wrap_socket(wire, server_side=True)
            with wire, wire.makefile("rb") as reader:
                if self._converse(wire, reader, number):
                    with self._changed:
                        self._left.add(number)
                        self._changed.notify_all()

    def _converse(self, wire: socket.socket, reader: BinaryIO, number: int) -> bool:
        """Answer requests as the scripts say. Returns whether it was the client that ended it."""
        while heard := _request(reader, number):
            exchange = Exchange(heard, wire, reader)
            script = self._next_script(heard)
            try:
                script(exchange)
            except GONE:
                return True
            if not exchange.is_whole:
                return exchange.is_alone
        return True

    def _next_script(self, heard: Heard) -> Script:
        with self._changed:
            self.heard.append(heard)
            self._changed.notify_all()
            return self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]


def _request(reader: BinaryIO, connection: int) -> Heard | None:
    """The next request; None where the client has closed the connection."""
    try:
        first = reader.readline()
    except GONE:
        return None
    if not first:
        return None
    headers: dict[str, str] = {}
    while line := reader.readline().strip():
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    content = reader.read(int(headers.get("content-length", "0")))
    return Heard(first.decode().split()[1], headers, content, connection, time.monotonic())


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
    """A plain answer that promises more than it sends."""

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
    """Without an answer."""


silent = Exchange.await_close
resets = Exchange.reset
good = says(completion())
good_stream = streams(piece("Hel"), piece("lo"), END)


def answers(exchange: Exchange) -> None:
    """As the request wants it: plain or streamed."""
    (good_stream if exchange.heard.body.get("stream") else good)(exchange)

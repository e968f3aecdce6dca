"""A connection's bytes, in and out: no caller is waited for without end, and each can read its answer.

This replaces parts of gunicorn 27, whose gevent worker waits for a body and for a reader for ever, and closes a
connection while the caller still sends, which resets it. `require_known_gunicorn` stops the start if they changed.

The timeout of a socket is how long nothing of an answer may be taken. gevent starts a timer only if a call would block,
so that it costs nothing where data, or room for it, is there.
"""

# mypy: disable-error-code="import-untyped"

import errno
import fcntl
import socket
import struct
import sys
import termios
import time
from contextlib import suppress
from typing import Any

import gevent
import gunicorn
from gunicorn import http, util
from gunicorn.http import message, wsgi
from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.errors import NoMoreData
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.base_async import AsyncWorker
from gunicorn.workers.ggevent import GeventWorker

HEAD_SECONDS = 10.0
"""How long the head of a request may take, from its first byte on."""

BODY_SECONDS = 10.0
BODY_BYTES = 10_000
"""So many bytes of a body, or what is left of it, must come within each BODY_SECONDS: 1 kB/s."""

MOST_DISCARDED = 4 * 1_048_576
"""How many bytes of a body that nobody wants are read, so that its sender reads the answer."""

STEP_BYTES = 65_536

MOST_UNSENT = 131_072
"""How many bytes the system takes of an answer before the caller's side has room for them."""

LARGE_BYTES = 131_072
"""After a piece of this size, others have their turn: to a quick reader, `send` never waits."""


class SlowSender(NoMoreData):  # type: ignore[misc]
    """A request did not come in time. To gunicorn it is a caller who left."""

    def __str__(self) -> str:
        return "The request did not come in time."


class SlowReader(BrokenPipeError):
    """Nothing of an answer was taken in time. To gunicorn it is a caller who left."""


class Unreader(SocketUnreader):  # type: ignore[misc]
    """What a caller sends: a request may be waited for, its head must come in time, its body at a pace."""

    def __init__(self, sock: Any, max_chunk: int = 8192) -> None:
        super().__init__(sock, max_chunk)
        self._is_idle = True
        self._is_body = False
        self._until: float | None = None
        """When what is awaited must be there, by the monotonic clock; None until the first read of it."""
        self._received = 0

    def await_request(self) -> None:
        self._is_idle = not self.buf.getbuffer().nbytes  # Else the next one has begun behind the last one.
        self._is_body = False
        self._until = None

    def await_body(self) -> None:
        self._is_idle = False
        self._is_body = True
        self._until = None
        self._received = 0

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Raises SlowSender. Data that is there is taken, however late."""
        sock = self.sock
        rest = sock.timeout
        sock.timeout = self._patience()
        try:
            data: bytes = super().chunk(size_hint)
        except TimeoutError:
            raise SlowSender from None
        finally:
            sock.timeout = rest
        if self._is_body:
            self._received += len(data)
            if self._received >= BODY_BYTES:
                self._received = 0
                self._until = None
        return data

    def _patience(self) -> float | None:
        """How many seconds the next bytes may take; None for a request, whose wait the worker ends."""
        if self._is_idle:
            self._is_idle = False
            return None
        now = time.monotonic()
        if self._until is None:
            self._until = now + (BODY_SECONDS if self._is_body else HEAD_SECONDS)
        return max(0.001, self._until - now)  # 0 would mean not to wait at all, which raises something else.


class Parser(RequestParser):  # type: ignore[misc]
    """The requests of a connection, one after another."""

    def __init__(self, cfg: Any, source: Any, source_addr: Any) -> None:
        super().__init__(cfg, source, source_addr)
        self.unreader = Unreader(source)

    def __next__(self) -> Any:
        request = super().__next__()
        self.unreader.await_body()
        return request

    def finish_body(self, deadline: float | None = None, max_bytes: int | None = None) -> bool:
        """Discard what the application left of a body, so that the next request can be read.

        False if there is too much of it, or its end cannot be found: the connection is to be closed. gunicorn discards
        without end, in steps of which each copies what is behind it.
        """
        if self.mesg is None:
            return True
        is_done = self._discard(self.mesg.body)
        self.unreader.await_request()
        return is_done

    def _discard(self, body: Body) -> bool:
        if body.failed:
            linger(self.unreader.sock)
            return False
        left = MOST_DISCARDED
        while data := body.read(STEP_BYTES):
            left -= len(data)
            if left < 0:
                return False
        return True


def has_unread(body: Body) -> bool:
    """Whether a caller may still be sending a body of which nobody reads any more."""
    reader = body.reader
    return bool(body.failed or (reader.length if isinstance(reader, LengthReader) else reader.parser))


def linger(sock: Any) -> None:
    """End the answers, and discard what the caller sends until it ends too, MOST_DISCARDED bytes of it.

    A connection that is closed before its data was read is reset, and its caller may lose the answer (RFC 9112, 9.6).
    """
    with suppress(OSError):  # The caller is gone, or slow.
        sock.shutdown(socket.SHUT_WR)
        unreader = Unreader(sock)
        unreader.await_body()
        left = MOST_DISCARDED
        while left > 0 and (data := unreader.chunk(STEP_BYTES)):
            left -= len(data)


def send(sock: Any, data: bytes) -> None:
    """Send all of `data`. Raises SlowReader if nothing is taken of it for the timeout of `sock`.

    gevent's `sendall` has one timeout for all of `data`, and asks the system for the size of its buffer each time.
    """
    rest = memoryview(data)
    # Of a short piece it is not known, and is not worth a call each time: it is waited for twice.
    queued = _queued_bytes(sock) if len(data) >= LARGE_BYTES else sys.maxsize
    while rest:
        try:
            rest = rest[sock.send(rest) :]
        except TimeoutError:
            # The system has room for more only when many bytes were taken, and a few are something.
            before, queued = queued, _queued_bytes(sock)
            if queued >= before:
                raise SlowReader(errno.EPIPE, "nothing of the answer was taken in time") from None
        else:
            queued = _queued_bytes(sock) if rest else 0
    if len(data) >= LARGE_BYTES:
        gevent.sleep(0)


def _queued_bytes(sock: Any) -> int:
    """How many bytes that were sent the caller's system has not taken; 0 if it cannot be told."""
    with suppress(OSError):
        queued: int = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
        return queued
    return 0


def prepare_listener(listener: Any) -> None:
    """Set what each connection of `listener` begins with, if the system and the kind of socket have it."""
    for option, value in (("TCP_DEFER_ACCEPT", 1), ("TCP_NOTSENT_LOWAT", MOST_UNSENT)):
        with suppress(OSError, AttributeError):
            # The first keeps connections in the system until there is something to read. The second keeps long answers
            # out of the system's memory: megabytes for each caller who reads nothing.
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


REPLACED: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (http, ("RequestParser", "get_parser")),
    (util, ("http_date", "write_nonblock")),
    (message, ("RFC9112_TARGET_INVALID",)),
    (wsgi, ("Response",)),
    (wsgi.Response, ("send_headers", "default_headers", "_emit_body", "can_sendfile", "close", "write")),
    (RequestParser, ("__next__", "finish_body")),
    (SocketUnreader, ("chunk", "read", "unread")),
    (AsyncWorker, ("handle", "handle_request", "handle_error", "timeout_ctx")),
    (GeventWorker, ("handle", "handle_request", "patch", "handle_exit", "handle_quit", "init_signals", "notify")),
)
"""What this project replaces, or builds on, in gunicorn."""


def require_known_gunicorn() -> None:
    """Raises ValueError if gunicorn lacks what is replaced in it: requests would go on, but without their bounds."""
    missing = [f"{place.__name__}.{name}" for place, names in REPLACED for name in names if not hasattr(place, name)]
    body = Body(LengthReader(None, 1))
    parts: list[tuple[Any, str]] = [(body, "failed"), (body, "reader"), (body.reader, "length")]
    parts += [(ChunkedReader(None, None), "parser"), (SocketUnreader(None), "sock"), (SocketUnreader(None), "buf")]
    missing += [f"{type(part).__name__}.{name}" for part, name in parts if not hasattr(part, name)]
    if missing:
        raise ValueError(
            f"gunicorn {gunicorn.__version__} has no {', '.join(missing)}; install the version of requirements.txt."
        )


def replace_parser() -> None:
    """From here on, gunicorn reads connections with what is here."""
    http.RequestParser = Parser

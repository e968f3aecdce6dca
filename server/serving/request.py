"""Reading requests with deadlines: gunicorn's gevent worker waits for a slow body for ever.

The timeout of a gevent socket costs nothing if data is there: gevent starts a timer only if a call would block.
"""

# mypy: disable-error-code="import-untyped"

import socket
import time
from contextlib import suppress
from typing import Any

from gunicorn.http.body import Body, LengthReader
from gunicorn.http.errors import NoMoreData
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader

HEAD_SECONDS = 10.0
"""Timeout of a request's head, from its first byte on."""

BODY_SECONDS = 10.0
BODY_BYTES = 10_000
"""At least this many bytes of a body, or the rest of it, must arrive within each BODY_SECONDS: 1 kB/s."""

FILE_AFTER_BYTES = 1_048_576
FILE_BYTES = 100_000
"""The same once more than FILE_AFTER_BYTES have arrived: 10 kB/s. Otherwise a file would take days and be in time."""

MAX_DISCARDED_BYTES = 4 * 1_048_576
"""How much of an unread body is read and thrown away, so that its sender can read the answer."""

READ_BYTES = 65_536
"""Size of one read while a body is discarded."""

MIN_WAIT_SECONDS = 0.001
"""A timeout of 0 would make a socket non-blocking, and raise BlockingIOError instead of TimeoutError."""


class SlowSender(NoMoreData):  # type: ignore[misc]
    """A request missed its deadline. gunicorn handles a NoMoreData as a caller who hung up."""

    def __str__(self) -> str:
        return "The request did not come in time."


class TimedUnreader(SocketUnreader):  # type: ignore[misc]
    """A connection's input: no timeout before a request, a deadline for its head, a minimum rate for its body."""

    def __init__(self, sock: Any, max_chunk: int = 8192) -> None:
        super().__init__(sock, max_chunk)
        self._is_idle = True
        self._is_body = False
        self._deadline: float | None = None
        """By the monotonic clock. None until the first read of a head, of a body, or of each further part of it."""
        self._received = 0
        """Bytes of the body since the deadline was set."""
        self._total = 0

    def expect_request(self) -> None:
        self._is_idle = not self.buf.getbuffer().nbytes  # Otherwise the next request was sent along with the last one.
        self._is_body = False
        self._deadline = None

    def expect_body(self) -> None:
        self._is_idle = False
        self._is_body = True
        self._deadline = None
        self._received = self._total = 0

    def chunk(self, size_hint: int | None = None) -> bytes:
        """The next bytes, at most `size_hint`. Raises SlowSender; data that has arrived is returned, however late."""
        sock = self.sock
        timeout = sock.timeout
        sock.timeout = self._seconds_left()
        try:
            data: bytes = super().chunk(size_hint)
        except TimeoutError:
            raise SlowSender from None
        finally:
            sock.timeout = timeout
        if self._is_body:
            self._received += len(data)
            self._total += len(data)
            if self._received >= (BODY_BYTES if self._total <= FILE_AFTER_BYTES else FILE_BYTES):
                self._received = 0
                self._deadline = None
        return data

    def _seconds_left(self) -> float | None:
        """Timeout of the next read; None before a request, whose wait the worker's keep-alive timeout ends."""
        if self._is_idle:
            self._is_idle = False
            return None
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + (BODY_SECONDS if self._is_body else HEAD_SECONDS)
        return max(MIN_WAIT_SECONDS, self._deadline - now)


class BoundedParser(RequestParser):  # type: ignore[misc]
    """The requests of one connection, with deadlines, and with a bound on how much of an unread body is discarded."""

    def __init__(self, cfg: Any, source: Any, source_addr: Any) -> None:
        super().__init__(cfg, source, source_addr)
        self.unreader = TimedUnreader(source)

    def __next__(self) -> Any:
        request = super().__next__()
        self.unreader.expect_body()
        return request

    def finish_body(self, deadline: float | None = None, max_bytes: int | None = None) -> bool:
        """Discard what the application left unread of a body. False if the connection has to be closed.

        It has to be if more than MAX_DISCARDED_BYTES are left, or if the end of the body cannot be found. gunicorn
        ignores its own `max_bytes` between two requests and discards without a bound.
        """
        if self.mesg is None:
            return True
        is_done = self._discard(self.mesg.body)
        self.unreader.expect_request()
        return is_done

    def _discard(self, body: Body) -> bool:
        if body.failed:
            linger(self.unreader.sock)
            return False
        left = MAX_DISCARDED_BYTES
        while data := body.read(READ_BYTES):
            left -= len(data)
            if left < 0:
                return False
        return True


def has_unread(body: Body) -> bool:
    """Whether a caller may still be sending a body that the application has stopped reading."""
    reader = body.reader
    return bool(body.failed or (reader.length if isinstance(reader, LengthReader) else reader.parser))


def linger(sock: Any) -> None:
    """Close the sending side, and discard up to MAX_DISCARDED_BYTES until the caller closes its side.

    If a connection is closed with unread data, the system resets it, and the caller may lose the answer (RFC 9112,
    9.6). Errors of the connection are ignored.
    """
    with suppress(OSError):  # The caller hung up, or is slow.
        sock.shutdown(socket.SHUT_WR)
        unreader = TimedUnreader(sock)
        unreader.expect_body()
        left = MAX_DISCARDED_BYTES
        while left > 0 and (data := unreader.chunk(READ_BYTES)):
            left -= len(data)

"""Sending answers: head and body in one packet, and a timeout only for readers who take nothing.

gevent's `sendall` has one timeout for all of its data, so that a slow but steady reader of a long answer would be cut
off; and it asks the system for the size of its buffer before each call.
"""

# mypy: disable-error-code="import-untyped"

import errno
import fcntl
import struct
import sys
import termios
from contextlib import suppress
from typing import Any

import gevent
from gunicorn.http import wsgi

LARGE_BYTES = 131_072
"""After a piece of this size, other greenlets run: `send` never waits if the reader is fast."""


class SlowReader(BrokenPipeError):
    """A caller took nothing of an answer in time. gunicorn handles a broken pipe as a caller who hung up."""


class Response(wsgi.Response):  # type: ignore[misc]
    """gunicorn's response, except that its head is sent together with the first bytes of its body."""

    headers_sent: bool
    unsent = b""
    """The head until it is sent."""

    def send_headers(self) -> None:
        if not self.headers_sent:
            fields = [f"{name}: {value}\r\n" for name, value in self.headers]
            self.unsent = "".join([*self.default_headers(), *fields, "\r\n"]).encode("latin-1")
            self.headers_sent = True

    def _emit_body(self, data: bytes) -> None:
        self._send(b"%X\r\n%b\r\n" % (len(data), data) if self.chunked else data)

    def _send(self, data: bytes) -> None:
        """Send the head if it is still unsent, and `data`. Raises SlowReader."""
        data, self.unsent = self.unsent + data, b""
        if data:
            send_all(self.sock, data)

    def can_sendfile(self) -> bool:
        return False  # `sendfile` writes to the socket itself, before the head that waits here.

    def close(self) -> None:
        self.send_headers()
        self._send(b"0\r\n\r\n" if self.chunked else b"")


def send_all(sock: Any, data: bytes) -> None:
    """Send all of `data`. Raises SlowReader if the caller takes nothing of it for the timeout of `sock`."""
    rest = memoryview(data)
    # The ioctl costs a system call, too much for short data: there a reader who takes nothing is waited for twice.
    queued = _queued_bytes(sock) if len(data) >= LARGE_BYTES else sys.maxsize
    while rest:
        try:
            rest = rest[sock.send(rest) :]
        except TimeoutError:
            # The system has room again only after many bytes were taken: that a few were taken shows in its queue.
            before, queued = queued, _queued_bytes(sock)
            if queued >= before:
                raise SlowReader(errno.EPIPE, "nothing of the answer was taken in time") from None
        else:
            queued = _queued_bytes(sock) if rest else 0
    if len(data) >= LARGE_BYTES:
        gevent.sleep(0)


def _queued_bytes(sock: Any) -> int:
    """How many sent bytes the caller's system has not acknowledged; 0 if the system does not say."""
    with suppress(OSError, ValueError):  # A closed socket has no file.
        queued: int = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
        return queued
    return 0

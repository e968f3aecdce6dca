"""Aborts a request to the upstream from another thread, at any time from connecting to the last byte."""

import socket
import threading
from contextlib import suppress
from typing import Any


class Abort:
    """Aborts one request. Passed to httpx2 as `extensions={"abort": abort, "trace": abort.trace}`; closed after it.

    `server.upstream.transport` calls `watch` with its socket. httpx2's own transports, which are used behind a proxy,
    call `trace` with theirs.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._lock = threading.Lock()
        """Held while the socket changes, so that a socket is not shut down after another request has taken it over."""
        self._socket: socket.socket | None = None
        self._duplicate: socket.socket | None = None

    def set(self) -> None:
        with self._lock:
            self.is_set = True
            self._shut()

    def watch(self, wire: socket.socket | None) -> None:
        """Shut `wire` down when the request is aborted, or now if it was. None: nothing is to be shut down any more."""
        with self._lock:
            self._socket = wire
            if self.is_set:
                self._shut()

    def trace(self, event: str, info: dict[str, Any]) -> None:
        if event.endswith(".connect_tcp.complete"):
            # A duplicate, since wrapping a socket in TLS detaches its file descriptor.
            self.close()
            self._duplicate = info["return_value"].get_extra_info("socket").dup()
            self.watch(self._duplicate)

    def close(self) -> None:
        self.watch(None)
        if self._duplicate is not None:
            self._duplicate.close()

    def _shut(self) -> None:
        if self._socket is not None:
            # Not SSLSocket.shutdown(), which drops the TLS state first: another thread's data could leave unencrypted.
            with suppress(OSError):  # The peer has closed already.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def connect(host: str, port: int, seconds: float | None, abort: Abort) -> socket.socket:
    """A TCP connection to the first address of `host` that accepts one. Raises OSError.

    It does what `socket.create_connection` does, which cannot be aborted. `seconds` is the timeout for each address.
    """
    last_error = OSError("no address")
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            try:
                return _connect(socket.socket(family, kind, protocol), address, seconds, abort)
            except OSError as error:
                last_error = error
        raise last_error
    finally:
        del last_error  # Its traceback holds this frame: a cycle that would keep the request in memory.


def _connect(wire: socket.socket, address: Any, seconds: float | None, abort: Abort) -> socket.socket:
    try:
        wire.settimeout(seconds)
        abort.watch(wire)
        if abort.is_set:
            raise ConnectionAbortedError
        wire.connect(address)
        return wire
    except BaseException:
        abort.watch(None)
        wire.close()
        raise

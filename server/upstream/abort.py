"""How a call to the upstream is ended by another thread, from the first packet to the last."""

import socket
import threading
from contextlib import suppress
from typing import Any


class Abort:
    """Ends one call at any instant. Handed to httpx2 as `extensions={"abort": abort, "trace": abort.trace}`.

    Our own transport calls `watch`; through `trace`, those of httpx2 tell which socket a call has connected. To be
    closed after the call.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._lock = threading.Lock()
        """Held while the socket changes, so that no socket is shut that was lent to another call meanwhile."""
        self._socket: socket.socket | None = None
        self._duplicate: socket.socket | None = None

    def set(self) -> None:
        with self._lock:
            self.is_set = True
            self._shut()

    def watch(self, wire: socket.socket | None) -> None:
        """Shut `wire` when the call is aborted, or at once if it was."""
        with self._lock:
            self._socket = wire
            if self.is_set:
                self._shut()

    def trace(self, event: str, info: dict[str, Any]) -> None:
        if event.endswith(".connect_tcp.complete"):
            # A duplicate, since TLS takes the file out of the socket that it is given.
            self.close()
            self._duplicate = info["return_value"].get_extra_info("socket").dup()
            self.watch(self._duplicate)

    def close(self) -> None:
        self.watch(None)
        if self._duplicate is not None:
            self._duplicate.close()

    def _shut(self) -> None:
        if self._socket is not None:
            # Not its own method: under TLS, that would let another thread's words out unencrypted for an instant.
            with suppress(OSError):  # The other side was quicker.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def connect(host: str, port: int, seconds: float | None, abort: Abort) -> socket.socket:
    """As `socket.create_connection`, which nobody could abort: the first address of the host that takes one."""
    error = OSError("no address")
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            try:
                return _connected(socket.socket(family, kind, protocol), address, seconds, abort)
            except OSError as problem:
                error = problem
        raise error
    finally:
        del error  # It holds this frame, and with it the whole call, for as long as this frame holds it.


def _connected(wire: socket.socket, address: Any, seconds: float | None, abort: Abort) -> socket.socket:
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

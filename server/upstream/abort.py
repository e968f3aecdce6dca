"""How a call to the upstream is ended by another thread."""

import socket
import threading
from contextlib import suppress
from typing import Any


class Abort:
    """Ends one call at any instant. Handed to httpx2 as `extensions={"abort": abort, "trace": abort.trace}`.

    Our own transport calls `watch`; through `trace`, those of httpx2 tell which socket a call has connected.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._lock = threading.Lock()
        """Held while the socket changes, so that no socket is shut that was lent to another call meanwhile."""
        self._socket: socket.socket | None = None

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
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self.watch(info["return_value"].get_extra_info("socket"))

    def _shut(self) -> None:
        if self._socket is not None:
            # Not its own method: under TLS, that would let another thread's words out unencrypted for an instant.
            with suppress(OSError):  # The other side was quicker.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

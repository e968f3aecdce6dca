"""Where hosts are, known for a while: a question to a name server takes a real thread, and holds its caller up."""

import socket
import time
from collections.abc import Sequence

KNOWN_SECONDS = 10.0
"""How long an answer is believed."""

Address = tuple[str | int, ...] | tuple[int, bytes]
Found = Sequence[tuple[int, int, int, str, Address]]
"""As `socket.getaddrinfo` gives it."""


class Addresses:
    """What is known of hosts, shared by all who connect to them."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], tuple[float, Found]] = {}

    def connect(self, place: tuple[str, int], seconds: float) -> socket.socket:
        """A connection to the first address of `place` that takes one in `seconds`. Raises OSError, UnicodeError."""
        problem = OSError()
        try:
            for family, kind, protocol, _, address in self._find(place):
                try:
                    return _connected(socket.socket(family, kind, protocol), address, seconds)
                except OSError as refused:
                    problem = refused
            # It may have moved.
            self._known.pop(place, None)
            raise problem
        finally:
            del problem  # It holds this frame, and with it the whole call, for as long as this frame holds it.

    def _find(self, place: tuple[str, int]) -> Found:
        since, found = self._known.get(place, (0.0, []))
        if not found or time.monotonic() - since > KNOWN_SECONDS:
            found = socket.getaddrinfo(*place, type=socket.SOCK_STREAM)
            self._known[place] = time.monotonic(), found
        return found


def _connected(wire: socket.socket, address: Address, seconds: float) -> socket.socket:
    try:
        wire.settimeout(seconds)
        wire.connect(address)
    except BaseException:
        wire.close()
        raise
    return wire

"""Where hosts are: a burst of connections would otherwise wait for a thousand answers of the same name server."""

import socket
import time
from collections.abc import Sequence

KNOWN_SECONDS = 10.0
"""How long an answer is believed."""

Found = Sequence[tuple[int, int, int, str, tuple[str | int, ...] | tuple[int, bytes]]]
"""As `socket.getaddrinfo` gives it."""


class Addresses:
    """What is known of hosts, shared by all who connect to them."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], tuple[float, Found]] = {}

    def connect(self, place: tuple[str, int], seconds: float, source: None = None) -> socket.socket:
        """A connection to the first address of `place` that takes one within `seconds`. Raises OSError, UnicodeError.

        It stands in for `socket.create_connection`, whose arguments it has.
        """
        problem = OSError()
        for family, kind, protocol, _, address in self._find(place):
            wire = socket.socket(family, kind, protocol)
            try:
                wire.settimeout(seconds)
                wire.connect(address)
                return wire
            except OSError as refused:
                wire.close()
                problem = refused
            except BaseException:
                wire.close()
                raise
        # It may have moved.
        self._known.pop(place, None)
        raise problem

    def _find(self, place: tuple[str, int]) -> Found:
        now = time.monotonic()
        since, found = self._known.get(place, (0.0, []))
        if not found or now - since > KNOWN_SECONDS:
            found = socket.getaddrinfo(*place, type=socket.SOCK_STREAM)
            self._known[place] = now, found
        return found

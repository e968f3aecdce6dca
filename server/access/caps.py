"""Caps: how much the client of a key may keep, and how much it may do at once."""

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from server.errors import ClientFull, Refused, TooManyOpenRuns, TooManyStreams
from server.store.limits import Holdings
from server.store.protocol import Store

MEASURED_SECONDS = 1.0
MEASURED_OWNERS = 10_000
"""For how long, and of how many clients, what they have is kept; so a cap is passed by what comes in that time."""


@dataclass(frozen=True, slots=True)
class Caps:
    """What one client may have; None for any number."""

    conversations: int | None = None
    messages: int | None = None
    bytes: int | None = None
    open_runs: int | None = None
    streams: int | None = None


class ClientCaps:
    """Holds the clients to their caps. An empty owner, the administrator or an open server, has none. Thread-safe."""

    def __init__(self, store: Store, caps: Caps, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._caps = caps
        self._clock = clock
        self._lock = threading.Lock()
        self._measured: OrderedDict[str, tuple[Holdings, float]] = OrderedDict()
        self._streams: Counter[str] = Counter()
        """How many each owner reads from this process."""

    def require_room(self, owner: str, name: str) -> None:
        """Raises ClientFull if the client may not create the conversation `name`, or add to it."""
        refusal = self._find_full(owner, name)
        if refusal is not None:
            raise refusal

    def find_refusal(self, owner: str, name: str) -> Refused | None:
        """Why no run may begin in the conversation `name`; None if one may."""
        refusal = self._find_full(owner, name)
        if refusal is None and self._is_reached(owner, "open_runs"):
            return TooManyOpenRuns()
        return refusal

    def take_stream(self, owner: str) -> Callable[[], None] | None:
        """Count a stream that the client reads, until the function that is returned is called; None without a cap.

        Raises TooManyStreams.
        """
        if not owner or self._caps.streams is None:
            return None
        with self._lock:
            if self._streams[owner] >= self._caps.streams:
                raise TooManyStreams
            self._streams[owner] += 1
        return lambda: self._return_stream(owner)

    def _return_stream(self, owner: str) -> None:
        with self._lock:
            self._streams[owner] -= 1
            if not self._streams[owner]:
                del self._streams[owner]

    def _find_full(self, owner: str, name: str) -> Refused | None:
        for kind, words in (("messages", "messages"), ("bytes", "text")):
            if self._is_reached(owner, kind):
                return ClientFull(f"This client keeps as much {words} as it may; delete some, or ask the operator.")
        if self._is_reached(owner, "conversations") and self._store.get_conversation(name) is None:
            return ClientFull("This client has as many conversations as it may; delete one, or ask the operator.")
        return None

    def _is_reached(self, owner: str, kind: str) -> bool:
        cap: int | None = getattr(self._caps, kind)
        return bool(owner) and cap is not None and getattr(self._measure(owner), kind) >= cap

    def _measure(self, owner: str) -> Holdings:
        now = self._clock()
        with self._lock:
            known = self._measured.get(owner)
        if known is not None and 0 <= now - known[1] < MEASURED_SECONDS:
            return known[0]
        holdings = self._store.measure_owner(owner)
        with self._lock:
            self._measured[owner] = holdings, now
            self._measured.move_to_end(owner)
            with suppress(KeyError):
                while len(self._measured) > MEASURED_OWNERS:
                    self._measured.popitem(last=False)
        return holdings

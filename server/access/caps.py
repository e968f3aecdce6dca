"""Caps: how much the client of a key may keep, and how much it may do at once."""

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace

from server.domain import Message, Run
from server.errors import ClientFull, Refused, TooManyOpenRuns, TooManyStreams
from server.store.limits import Holdings
from server.store.protocol import Store

MEASURED_SECONDS = 1.0
MEASURED_OWNERS = 10_000
"""For how long, and of how many clients, what they have is kept; so a cap is passed by what comes in that time."""


MORE_THAN_IT_MAY = "This would be more {} than this client may keep; delete some, or ask the operator."


@dataclass(frozen=True, slots=True)
class Caps:
    """What one client may have; None for any number."""

    conversations: int | None = None
    messages: int | None = None
    bytes: int | None = None
    open_runs: int | None = None
    streams: int | None = None


NO_CAPS = Caps()


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

    def require_room(self, owner: str, name: str, messages: Collection[Message] = ()) -> None:
        """Raises ClientFull if the client may not create the conversation `name`, or add `messages` to it."""
        refusal = self._find_full(owner, _size_of(messages), name)
        if refusal is not None:
            raise refusal

    def require_room_for(self, owner: str, added: Holdings) -> None:
        """Raises ClientFull if the client may not have what is `added`, all in new conversations."""
        refusal = self._find_full(owner, added)
        if refusal is not None:
            raise refusal

    def find_refusal(self, owner: str, draft: Run, messages: Collection[Message]) -> Refused | None:
        """Why the run may not begin, after `messages` were added; None if it may."""
        if not owner or self._caps == NO_CAPS:
            return None
        added = _size_of(messages)
        turn = 2 if draft.question else 1
        size = added.bytes + len(draft.question.encode())
        added = replace(added, messages=added.messages + turn, bytes=size)
        refusal = self._find_full(owner, added, draft.conversation)
        if refusal is None and self._is_passed(owner, "open_runs", 1):
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

    def _find_full(self, owner: str, added: Holdings, name: str | None = None) -> Refused | None:
        """`name` is that of the conversation that is added to, and which may exist; None for new ones."""
        for kind, words in (("messages", "messages"), ("bytes", "text")):
            if self._is_passed(owner, kind, getattr(added, kind)):
                return ClientFull(MORE_THAN_IT_MAY.format(words))
        is_passed = self._is_passed(owner, "conversations", added.conversations)
        if is_passed and (name is None or self._store.get_conversation(name) is None):
            return ClientFull(MORE_THAN_IT_MAY.format("conversations"))
        return None

    def _is_passed(self, owner: str, kind: str, added: int) -> bool:
        """Whether the client would have more than it may. A full client may add nothing, not even what has no size."""
        cap: int | None = getattr(self._caps, kind)
        return bool(owner) and cap is not None and getattr(self._measure(owner), kind) + max(1, added) > cap

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


def _size_of(messages: Collection[Message]) -> Holdings:
    """What a conversation adds, if it is new, with these messages."""
    return Holdings(1, len(messages), sum(len(each.fragment) for each in messages), 0)

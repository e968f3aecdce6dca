"""Which conversations in memory are forgotten when there is no room for another one."""

from collections import OrderedDict

from server.store.memory.conversation import ConversationState

IDLE_SECONDS = 3600.0
"""How long a client that only chose a model keeps its place after it was last seen."""


class EvictionOrder:
    """Conversations in the order in which they are forgotten, so that the next one is found without a search.

    To be used by one thread at a time.
    """

    def __init__(self) -> None:
        self._evictable: OrderedDict[str, None] = OrderedDict()
        """Those that were made so, without an open run; the one that was used longest ago first."""
        self._bare: OrderedDict[str, float] = OrderedDict()
        """Those of which no more than a model is known, and when each was last seen, earliest first."""

    def note(self, name: str, kept: ConversationState, now: float) -> None:
        """The conversation is used now."""
        self.forget(name)
        if kept.is_evictable:
            if not kept.open:
                self._evictable[name] = None
        elif kept.is_bare():
            self._bare[name] = now

    def forget(self, name: str) -> None:
        self._evictable.pop(name, None)
        self._bare.pop(name, None)

    def next(self, now: float) -> str | None:
        """The name of the conversation that is to be forgotten first; None if all others are to stay."""
        for name in self._evictable:
            return name
        for name, seen in self._bare.items():
            return name if now - seen > IDLE_SECONDS else None
        return None

"""Which conversation in memory is deleted first if there is no room for another one."""

from collections import OrderedDict

from server.store.memory.conversation import ConversationState

IDLE_SECONDS = 3600.0
"""How long after its last use the conversation of a client that only chose a model cannot be evicted."""


class EvictionOrder:
    """Evictable conversations, first to be deleted first, so that the next one is found without a search.

    To be used by one thread at a time.
    """

    def __init__(self) -> None:
        self._evictable: OrderedDict[str, None] = OrderedDict()
        """Those created as evictable that have no open run; least recently used first."""
        self._model_only: OrderedDict[str, float] = OrderedDict()
        """Those that have nothing but a model, and when each was last used; least recently used first."""

    def update(self, name: str, state: ConversationState, now: float) -> None:
        """Record that the conversation is used at `now`."""
        self.remove(name)
        if state.is_unlisted:
            if not state.open_runs:
                self._evictable[name] = None
        elif state.has_only_model():
            self._model_only[name] = now

    def remove(self, name: str) -> None:
        self._evictable.pop(name, None)
        self._model_only.pop(name, None)

    def first(self, now: float) -> str | None:
        """The name of the conversation to delete first; None if none can be deleted."""
        for name in self._evictable:
            return name
        for name, used in self._model_only.items():
            return name if now - used > IDLE_SECONDS else None
        return None

"""All conversations in memory, of which there are at most so many."""

from collections.abc import Callable, Sequence
from itertools import count

from server.domain import Conversation
from server.errors import NotFound, StoreFull
from server.store.memory.conversation import ConversationState, is_expired
from server.store.memory.eviction import EvictionOrder

SWEPT_AT_ONCE = 100


class ConversationTable:
    """To be used by one thread at a time."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._most = most
        self._clock = clock
        self._kept: dict[str, ConversationState] = {}
        self._names: dict[str, str] = {}
        """The conversation of each run, by the run's id."""
        self._room = EvictionOrder()
        self._unswept: list[str] = []
        self._histories = count(1)

    def find(self, name: str) -> ConversationState | None:
        kept = self._kept.get(name)
        if kept is not None and kept.has_expired(self._clock()):
            self.drop(name)
            return None
        return kept

    def found(self, name: str) -> ConversationState:
        """Raises NotFound."""
        kept = self.find(name)
        if kept is None:
            raise NotFound
        return kept

    def of_run(self, run_id: str) -> ConversationState:
        """Raises NotFound."""
        return self.found(self._names.get(run_id, ""))

    def new(self, name: str) -> ConversationState:
        """A conversation that is not kept yet. Raises StoreFull where it could not be."""
        now = self._clock()
        if len(self._kept) >= self._most and self._room.next(now) is None:
            raise StoreFull
        return ConversationState(Conversation(name, created=now, history_id=self.next_history_id()), now)

    def keep(self, name: str, kept: ConversationState) -> None:
        """Keep a conversation, which is used now, in place of another where there is no room."""
        now = self._clock()
        oldest = self._room.next(now) if name not in self._kept and len(self._kept) >= self._most else None
        if oldest is not None:
            self.drop(oldest)
        self._kept[name] = kept
        self._room.note(name, kept, now)

    def keep_run(self, run_id: str, name: str) -> None:
        self._names[run_id] = name

    def is_open(self, name: str, run_id: str) -> bool:
        return name in self._kept and run_id in self._kept[name].open

    def use(self, name: str, kept: ConversationState) -> None:
        """Begin the conversation's time anew."""
        kept.touched = self._clock()
        self._room.note(name, kept, kept.touched)

    def expire(self, name: str, kept: ConversationState) -> None:
        """Write down the end of the runs that waited too long."""
        if kept.expire(self._clock()):
            self._room.note(name, kept, self._clock())

    def drop(self, name: str) -> Sequence[str]:
        """Forget a conversation. Gives the ids of its open runs."""
        kept = self._kept.pop(name, None)
        self._room.forget(name)
        if kept is None:
            return ()
        for run_id in kept.runs:
            del self._names[run_id]
        return tuple(run_id for run_id, run in kept.open.items() if not is_expired(run, self._clock()))

    def sweep(self) -> bool:
        """One step of a sweep, which goes on where the last one ended. Whether there are more."""
        self._unswept = self._unswept or list(self._kept)
        for name in self._unswept[-SWEPT_AT_ONCE:]:
            kept = self.find(name)
            if kept is not None:
                self.expire(name, kept)
                kept.forget_request_ids(self._clock())
        del self._unswept[-SWEPT_AT_ONCE:]
        return bool(self._unswept)

    def next_history_id(self) -> str:
        return str(next(self._histories))

"""All conversations in memory, up to a maximum."""

from collections.abc import Callable, Sequence
from itertools import count

from server.domain import Conversation
from server.errors import NotFound, StoreFull
from server.store.memory.conversation import ConversationState, has_run_expired
from server.store.memory.eviction import EvictionOrder

SWEEP_BATCH = 100
"""How many conversations one step of a sweep looks at."""


class ConversationTable:
    """Conversation states by name. To be used by one thread at a time."""

    def __init__(self, max_conversations: int, clock: Callable[[], float]) -> None:
        self._max_conversations = max_conversations
        self._clock = clock
        self.states: dict[str, ConversationState] = {}
        self.run_names: dict[str, str] = {}
        """The name of each run's conversation, by the run's id."""
        self._eviction_order = EvictionOrder()
        self._sweep_queue: list[str] = []
        """Names that the current sweep has not looked at yet."""
        self._history_ids = count(1)

    def find(self, name: str) -> ConversationState | None:
        state = self.states.get(name)
        if state is not None and state.has_expired(self._clock()):
            self.delete(name)
            return None
        return state

    def require(self, name: str) -> ConversationState:
        """Raises NotFound."""
        state = self.find(name)
        if state is None:
            raise NotFound
        return state

    def require_by_run(self, run_id: str) -> ConversationState:
        """Raises NotFound."""
        return self.require(self.run_names.get(run_id, ""))

    def new_state(self, name: str) -> ConversationState:
        """A state that is not in the table yet. Raises StoreFull if `put` would find no room for it."""
        now = self._clock()
        if len(self.states) >= self._max_conversations and self._eviction_order.first(now) is None:
            raise StoreFull
        return ConversationState(Conversation(name, created=now, history_id=self.next_history_id()), now)

    def put(self, name: str, state: ConversationState) -> None:
        """Add or replace a conversation, which counts as a use. If the table is full, another one is deleted."""
        now = self._clock()
        is_full = name not in self.states and len(self.states) >= self._max_conversations
        evicted = self._eviction_order.first(now) if is_full else None
        if evicted is not None:
            self.delete(evicted)
        self.states[name] = state
        self._eviction_order.update(name, state, now)

    def has_open_run(self, name: str, run_id: str) -> bool:
        return name in self.states and run_id in self.states[name].open_runs

    def touch(self, name: str, state: ConversationState) -> None:
        """Restart the conversation's time limit."""
        state.touched = self._clock()
        self._eviction_order.update(name, state, state.touched)

    def expire_runs(self, name: str, state: ConversationState) -> None:
        """Write the ends of expired runs."""
        if state.expire_runs(self._clock()):
            self._eviction_order.update(name, state, self._clock())

    def delete(self, name: str) -> Sequence[str]:
        """Delete a conversation if it exists. Returns the ids of its open runs."""
        state = self.states.pop(name, None)
        self._eviction_order.remove(name)
        if state is None:
            return ()
        for run_id in state.runs:
            del self.run_names[run_id]
        return tuple(run_id for run_id, run in state.open_runs.items() if not has_run_expired(run, self._clock()))

    def sweep(self) -> bool:
        """One step of a sweep, which goes on from the last step. Whether there are more steps."""
        self._sweep_queue = self._sweep_queue or list(self.states)
        for name in self._sweep_queue[-SWEEP_BATCH:]:
            state = self.find(name)
            if state is not None:
                self.expire_runs(name, state)
                state.delete_old_request_ids(self._clock())
        del self._sweep_queue[-SWEEP_BATCH:]
        return bool(self._sweep_queue)

    def next_history_id(self) -> str:
        return str(next(self._history_ids))

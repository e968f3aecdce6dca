"""All conversations in memory, up to a maximum."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count

from server.domain import Conversation, ConversationEntry, Message, Run
from server.errors import NotFound, RunExists, StoreFull
from server.store.limits import Holdings
from server.store.memory.conversation import ConversationState, has_run_expired
from server.store.memory.eviction import EvictionOrder
from server.store.memory.limits import LimitTable
from server.store.memory.usage import UsageTable
from server.store.memory.use_order import UseOrder

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
        self.usage = UsageTable()
        self.limits = LimitTable(clock)
        self._eviction_order = EvictionOrder()
        self._use_order = UseOrder()
        """The listed conversations."""
        self._sweep_queue: list[str] = []
        """Names that the current sweep has not looked at yet."""
        self._history_ids = count(1)
        self._owned: dict[str, set[str]] = {}
        """The names of the conversations of each owner."""

    def find(self, name: str) -> ConversationState | None:
        state = self.states.get(name)
        if state is not None and state.has_expired(self._clock()):
            self.forget(name)
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

    def new_state(self, name: str, owner: str) -> ConversationState:
        """A state that is not in the table yet. Raises StoreFull if `put` would find no room for it."""
        now = self._clock()
        if len(self.states) >= self._max_conversations and self._eviction_order.first(now) is None:
            raise StoreFull
        conversation = Conversation(name, created=now, history_id=self.next_history_id(), owner=owner)
        return ConversationState(conversation, now)

    def put(self, name: str, state: ConversationState) -> None:
        """Add or replace a conversation, which counts as a use. If the table is full, another one is deleted."""
        now = self._clock()
        is_full = name not in self.states and len(self.states) >= self._max_conversations
        evicted = self._eviction_order.first(now) if is_full else None
        if evicted is not None:
            self.delete(evicted)
        self.states[name] = state
        if state.conversation.owner:
            self._owned.setdefault(state.conversation.owner, set()).add(name)
        self._update_orders(name, state, now)

    def has_open_run(self, name: str, run_id: str) -> bool:
        return name in self.states and run_id in self.states[name].open_runs

    def touch(self, name: str, state: ConversationState) -> None:
        """Restart the conversation's time limit."""
        state.touched = self._clock()
        self._update_orders(name, state, state.touched)

    def expire_runs(self, name: str, state: ConversationState) -> None:
        """Write the ends of expired runs."""
        expired = state.expire_runs(self._clock())
        for run in expired:
            self._count("" if state.is_unlisted else name, run)
        if expired:
            self._update_orders(name, state, self._clock())

    def list_entries(self, before: tuple[float, str] | None, most: int) -> list[ConversationEntry]:
        """As `Store.list_conversations`."""
        entries: list[ConversationEntry] = []
        names = self._use_order.list_newest(before, most)
        while names and len(entries) < most:
            before = self.states[names[-1]].touched, names[-1]
            states = [state for state in map(self.find, names) if state is not None]
            entries += map(self._to_entry, states)
            names = self._use_order.list_newest(before, most - len(entries))
        return entries

    def measure_owned(self, owner: str) -> Holdings:
        """As `Store.measure_owner`."""
        own = self.find(owner) if owner else None
        names = {*self.list_owned(owner), *(() if own is None else (owner,))}
        states = [self.states[name] for name in names]
        size = sum(len(message.fragment) for state in states for message in state.messages)
        messages = sum(len(state.messages) for state in states)
        return Holdings(len(states), messages, size, sum(state.count_open_runs(self._clock()) for state in states))

    def is_used(self, name: str, since: float) -> bool:
        """Whether it was touched at that time or later, or has an open run."""
        state = self.find(name)
        return state is not None and (state.touched >= since or state.count_open_runs(self._clock()) > 0)

    def list_owned(self, owner: str) -> list[str]:
        """As `Store.list_owned`."""
        return [name for name in tuple(self._owned.get(owner, ())) if self.find(name) is not None]

    def read_entries(self, names: Sequence[str]) -> list[ConversationEntry]:
        """As `Store.read_entries`."""
        states = [state for state in map(self.find, names) if state is not None]
        return [self._to_entry(state) for state in states if not state.is_unlisted]

    def import_history(self, name: str, messages: Sequence[Message], runs: Sequence[Run]) -> None:
        """As `Store.import_history`."""
        state = self.require(name)
        if state.has_added(messages) or any(each.id in state.runs for each in runs[:1]):
            return
        if any(run.id in self.run_names for run in runs):
            raise RunExists
        for run in runs:
            state.append_run(replace(run, conversation=name))
            self.run_names[run.id] = name
        state.add_messages(messages)
        self.touch(name, state)

    def end_run(self, name: str, state: ConversationState, ended: Run) -> None:
        """Write a run's end, with all that `Store.finish_run` changes but `context_starts`."""
        state.end_run(ended)
        if ended.history_messages():
            state.replace_turn(ended, self.next_history_id())
        self._count("" if state.is_unlisted else name, ended)
        self.touch(name, state)

    def _count(self, name: str, ended: Run) -> None:
        """Count what a run has used that has just ended."""
        self.usage.add(name, ended)
        self.limits.settle(ended)

    def _to_entry(self, state: ConversationState) -> ConversationEntry:
        newest = next(state.list_newest_runs(None, self._clock()), None)
        return ConversationEntry(state.snapshot(), None if newest is None else newest.status)

    def _update_orders(self, name: str, state: ConversationState, now: float) -> None:
        self._eviction_order.update(name, state, now)
        if not state.is_unlisted:
            self._use_order.update(name, state.touched)

    def delete(self, name: str) -> Sequence[str]:
        """Delete a conversation if it exists. Returns the ids of its open runs."""
        state = self.states.pop(name, None)
        self._eviction_order.remove(name)
        self._use_order.remove(name)
        if state is None:
            return ()
        self._disown(name, state.conversation.owner)
        for run in state.end_open_runs(self._clock()):
            self.limits.settle(run)
        for run_id in state.runs:
            del self.run_names[run_id]
        return tuple(run_id for run_id, run in state.open_runs.items() if not has_run_expired(run, self._clock()))

    def _disown(self, name: str, owner: str) -> None:
        owned = self._owned.get(owner, set())
        owned.discard(name)
        if not owned:
            self._owned.pop(owner, None)

    def forget(self, name: str) -> Sequence[str]:
        """As `delete`; its usage is counted without a name from now on."""
        self.usage.forget(name)
        return self.delete(name)

    def sweep(self) -> bool:
        """One step of a sweep, which goes on from the last step. Whether there are more steps."""
        self._sweep_queue = self._sweep_queue or list(self.states)
        for name in self._sweep_queue[-SWEEP_BATCH:]:
            state = self.find(name)
            if state is not None:
                self.expire_runs(name, state)
                state.delete_old_request_ids(self._clock())
        del self._sweep_queue[-SWEEP_BATCH:]
        self.limits.sweep()
        return bool(self._sweep_queue)

    def next_history_id(self) -> str:
        return str(next(self._history_ids))

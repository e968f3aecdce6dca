"""The memory store: fast, for one process, and lost when the process ends."""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from server.domain import Conversation, ConversationEntry, DailyUsage, Message, Run, Status
from server.errors import ConversationBusy, NotFound
from server.store.limits import NO_LIMITS, Holdings, RunLimits
from server.store.memory.conversation import has_run_expired
from server.store.memory.conversations import ConversationTable
from server.store.memory.records import Records
from server.store.protocol import DEFAULT_OPTIONS, NO_CONTEXT_STARTS, SWEEP_SECONDS, CreatedRun, CreateOptions


class MemoryStore:
    """A Store for one process.

    It holds up to `max_conversations`. If a new one does not fit, it deletes an evictable one, or else one that has
    nothing but a model and was not used for an hour, or else raises StoreFull.
    """

    is_durable = False

    def __init__(
        self, max_conversations: int, clock: Callable[[], float] = time.time, *, max_records: int = 10_000
    ) -> None:
        self._clock = clock
        # One lock for all: a call is a few dictionary operations, which cost far less than a thread switch.
        self._lock = threading.Lock()
        self._table = ConversationTable(max_conversations, lambda: self._clock())
        self._records = Records(max_records)
        # Under gevent, this lets other greenlets run.
        self._rest: Callable[[], None] = lambda: time.sleep(0)

    def get_conversation(self, name: str) -> Conversation | None:
        with self._lock:
            state = self._table.find(name)
            return None if state is None else state.snapshot()

    def create_conversation(
        self,
        name: str,
        seconds: float | None,
        metadata: Mapping[str, Any],
        messages: Sequence[Message] = (),
        *,
        owner: str = "",
        is_unlisted: bool = False,
        is_importing: bool = False,
    ) -> Conversation:
        with self._lock:
            state = self._table.find(name)
            if state is None:
                state = self._table.new_state(name, owner)
                state.seconds, state.is_explicit = seconds, True
                state.is_unlisted, state.is_importing = is_unlisted, is_importing
                state.conversation = replace(state.conversation, metadata=metadata)
                state.add_messages(messages)
                self._table.put(name, state)
            return state.snapshot()

    def touch(self, name: str) -> bool:
        with self._lock:
            state = self._table.find(name)
            if state is not None:
                (self._table.put if state.seconds is None else self._table.touch)(name, state)
            return state is not None

    def update_conversation(
        self, name: str, changes: Mapping[str, Any], *, create: bool = True, owner: str = ""
    ) -> Conversation:
        with self._lock:
            state = self._table.find(name) if create else self._table.require(name)
            state = state or self._table.new_state(name, owner)
            state.update(changes)
            self._table.put(name, state)
            return state.snapshot()

    def list_conversations(self, before: tuple[float, str] | None, most: int) -> Sequence[ConversationEntry]:
        with self._lock:
            return self._table.list_entries(before, most)

    def list_owned(self, owner: str) -> Sequence[str]:
        with self._lock:
            return self._table.list_owned(owner)

    def measure_owner(self, owner: str) -> Holdings:
        with self._lock:
            return self._table.measure_owned(owner)

    def read_entries(self, names: Sequence[str]) -> Sequence[ConversationEntry]:
        with self._lock:
            return self._table.read_entries(names)

    def create_run(
        self, name: str, run: Run, options: CreateOptions = DEFAULT_OPTIONS, *, waiting: int, start: bool
    ) -> CreatedRun:
        with self._lock:
            now = self._clock()
            state = (
                (self._table.find(name) or self._table.new_state(name, options.owner))
                if options.create_conversation
                else self._table.require(name)
            )
            state.require_published()
            self._table.expire_runs(name, state)
            if run.id in state.runs:
                return CreatedRun(state.runs[run.id], state.snapshot(), is_new=True)
            existing = state.find_run_to_join(run, now)
            if existing is not None:
                return CreatedRun(existing, state.snapshot(), is_new=False)
            state.require_last_turn(run.replaces)
            status: Status = "running" if start and not state.open_runs else "queued"
            queued = sum(each.status == "queued" for each in state.open_runs.values())
            if (options.reject_if_busy and state.open_runs) or (status == "queued" and queued >= waiting):
                raise ConversationBusy
            run = replace(run, status=status, conversation=name)
            rate = self._table.limits.take(run, options.limits)
            state.add_messages(options.messages)
            state.add_run(run, now)
            self._table.put(name, state)
            self._table.run_names[run.id] = name
            return CreatedRun(run, state.snapshot(), is_new=True, rate=rate)

    def start_run(self, name: str, run_id: str) -> Conversation | None:
        with self._lock:
            state = self._table.find(name)
            if state is not None:
                self._table.expire_runs(name, state)
            if state is None or not state.is_next(run_id):
                return None
            state.replace_run(replace(state.open_runs[run_id], status="running"))
            return state.snapshot()

    def append_text(self, name: str, run_id: str, at: int, text: str) -> bool:
        with self._lock:
            state = self._table.find(name)
            run = None if state is None else state.open_runs.get(run_id)
            if state is None or run is None or run.status != "running":
                return False
            state.replace_run(replace(run, text=run.text.encode()[:at].decode() + text))
            return True

    def finish_run(self, name: str, ended: Run, context_starts: Mapping[str, int] = NO_CONTEXT_STARTS) -> Run | None:
        with self._lock:
            state = self._table.find(name)
            if state is None or ended.id not in state.runs:
                return None
            if ended.id not in state.open_runs or has_run_expired(state.open_runs[ended.id], self._clock()):
                return state.read_run(ended.id, self._clock())
            self._table.end_run(name, state, ended)
            if context_starts:
                starts = {**state.conversation.context_starts, **context_starts}
                state.conversation = replace(state.conversation, context_starts=starts)
            return ended

    def pause_run(self, name: str, run: Run) -> bool:
        return self._replace_run(name, run, "running")

    def resume_run(self, name: str, run: Run, limits: RunLimits = NO_LIMITS) -> bool:
        return self._replace_run(name, run, "requires_action", limits)

    def _replace_run(self, name: str, run: Run, earlier: Status, limits: RunLimits = NO_LIMITS) -> bool:
        with self._lock:
            state = self._table.find(name)
            if state is None or run.id not in state.open_runs:
                return False
            current = state.read_run(run.id, self._clock())
            if current.status == earlier:
                self._table.limits.reserve(run, limits.daily_tokens)
                state.replace_run(state.keep_details(run))
            # Otherwise, this may be the same call, repeated.
            return current.status == earlier or current == run

    def set_run_details(self, name: str, run_id: str, details: Mapping[str, Any]) -> Run:
        with self._lock:
            state = self._table.require(name)
            if run_id not in state.runs:
                raise NotFound
            return state.set_details(run_id, details)

    def mark_delivered(self, name: str, run_id: str) -> None:
        with self._lock:
            state = self._table.find(name)
            if state is not None and run_id in state.runs and run_id not in state.open_runs:
                state.runs[run_id] = replace(state.runs[run_id], delivered=True)

    def get_run(self, run_id: str) -> Run:
        with self._lock:
            return self._table.require_by_run(run_id).read_run(run_id, self._clock())

    def list_runs(self, name: str, status: Status | None, most: int, before: str | None = None) -> Sequence[Run]:
        with self._lock:
            state = self._table.find(name) if before is None else self._table.require(name)
            if state is None:
                return ()
            newest_first = state.list_newest_runs(before, self._clock())
            return tuple(islice((run for run in newest_first if status in (None, run.status)), most))

    def list_messages(self, name: str, start: int, stop: int) -> Sequence[Message]:
        with self._lock:
            state = self._table.find(name)
            return () if state is None else state.messages[start:stop]

    def message_index(self, name: str, message_id: str) -> int:
        with self._lock:
            return self._table.require(name).index_of(message_id)

    def add_messages(self, name: str, messages: Sequence[Message]) -> None:
        with self._lock:
            state = self._table.require(name)
            state.require_published()
            if state.has_added(messages):
                return
            self._table.expire_runs(name, state)
            if state.open_runs:
                raise ConversationBusy
            state.add_messages(messages)
            self._table.touch(name, state)

    def import_history(self, name: str, messages: Sequence[Message], runs: Sequence[Run]) -> None:
        with self._lock:
            self._table.import_history(name, messages, runs)

    def publish_conversation(self, name: str, created: float, touched: float) -> Conversation:
        with self._lock:
            state = self._table.require(name)
            state.publish(created, touched)
            self._table.put(name, state)
            return state.snapshot()

    def list_usage(self, name: str | None, since: str, until: str) -> Sequence[DailyUsage]:
        with self._lock:
            return self._table.usage.list(name, since, until)

    def set_message_metadata(self, name: str, message_id: str, metadata: Mapping[str, Any]) -> Message:
        with self._lock:
            return self._table.require(name).set_message_metadata(message_id, metadata)

    def delete_message(self, name: str, message_id: str) -> None:
        with self._lock:
            self._table.require(name).delete_message(message_id, self._table.next_history_id())

    def clear_conversation(self, name: str) -> Sequence[str]:
        with self._lock:
            state = self._table.find(name)
            if state is None:
                return ()
            open_runs = self._table.delete(name)
            self._table.put(name, state.copy_settings(self._table.next_history_id(), self._clock()))
            return open_runs

    def delete_conversation(self, name: str, *, unused_since: float | None = None) -> Sequence[str]:
        with self._lock:
            is_used = unused_since is not None and self._table.is_used(name, unused_since)
            return () if is_used else self._table.forget(name)

    def renew_leases(self, leases: Mapping[str, str]) -> Collection[str]:
        with self._lock:
            return [run_id for run_id, name in leases.items() if not self._table.has_open_run(name, run_id)]

    def listen(self, followed: Collection[str], seconds: float) -> Collection[str]:
        time.sleep(seconds)  # There is no other worker.
        return ()

    def sweep(self, seconds: float = SWEEP_SECONDS) -> bool:
        until = time.monotonic() + seconds
        while True:
            with self._lock:
                has_more = self._table.sweep()
            if not has_more or time.monotonic() > until:
                return has_more
            self._rest()

    def put_record(self, kind: str, record_id: str, record: bytes) -> None:
        with self._lock:
            self._records.put(kind, record_id, record)

    def get_record(self, kind: str, record_id: str) -> bytes:
        with self._lock:
            return self._records.get(kind, record_id)

    def list_records(self, kind: str) -> Sequence[bytes]:
        with self._lock:
            return self._records.list_all(kind)

    def delete_record(self, kind: str, record_id: str) -> None:
        with self._lock:
            self._records.delete(kind, record_id)

    def ping(self) -> None:
        """Does nothing: memory is always available."""

    def close(self) -> None:
        """Does nothing: there is nothing to release."""

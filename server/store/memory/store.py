"""Conversations in this process's memory: fast, and gone with the process."""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from server.domain import Conversation, Message, Run, Status
from server.errors import ConversationBusy, NotFound
from server.store.memory.conversation import is_expired
from server.store.memory.conversations import ConversationTable
from server.store.memory.records import Records
from server.store.protocol import DEFAULT_OPTIONS, NOTHING, SWEEP_SECONDS, CreatedRun, CreateOptions


class MemoryStore:
    """A Store for one process. One lock: every call is a few dictionary steps, far below the cost of a switch.

    It holds `max_conversations`. When there is no room for another one, it forgets an evictable one, or else one of
    which no more than a model is known and that was not seen for an hour, or else raises StoreFull.
    """

    is_durable = False

    def __init__(
        self, max_conversations: int, clock: Callable[[], float] = time.time, *, max_records: int = 10_000
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._places = ConversationTable(max_conversations, lambda: self._clock())
        self._kept, self._names = self._places._kept, self._places._names
        self._records = Records(max_records)
        # Under gevent, this lets others go on.
        self._rest: Callable[[], None] = lambda: time.sleep(0)

    def get_conversation(self, name: str) -> Conversation | None:
        with self._lock:
            kept = self._places.find(name)
            return None if kept is None else kept.snapshot()

    def create_conversation(
        self,
        name: str,
        seconds: float | None,
        metadata: Mapping[str, Any],
        messages: Sequence[Message] = (),
        *,
        is_evictable: bool = False,
    ) -> Conversation:
        with self._lock:
            kept = self._places.find(name)
            if kept is None:
                kept = self._places.new(name)
                kept.seconds, kept.is_made, kept.is_evictable = seconds, True, is_evictable
                kept.conversation = replace(kept.conversation, metadata=metadata)
                kept.messages.extend(messages)
                self._places.keep(name, kept)
            return kept.snapshot()

    def touch(self, name: str) -> bool:
        with self._lock:
            kept = self._places.find(name)
            if kept is not None:
                self._places.use(name, kept)
            return kept is not None

    def set_model(self, name: str, model: str) -> None:
        with self._lock:
            kept = self._places.find(name) or self._places.new(name)
            kept.conversation = replace(kept.conversation, model=model)
            self._places.keep(name, kept)

    def set_metadata(self, name: str, metadata: Mapping[str, Any]) -> Conversation:
        with self._lock:
            kept = self._places.found(name)
            kept.conversation = replace(kept.conversation, metadata=metadata)
            return kept.snapshot()

    def create_run(
        self, name: str, run: Run, options: CreateOptions = DEFAULT_OPTIONS, *, waiting: int, start: bool
    ) -> CreatedRun:
        with self._lock:
            now = self._clock()
            kept = (
                (self._places.find(name) or self._places.new(name))
                if options.create_conversation
                else self._places.found(name)
            )
            self._places.expire(name, kept)
            if run.id in kept.runs:
                return CreatedRun(kept.runs[run.id], kept.snapshot(), is_new=True)
            known = kept.answering(run, now)
            if known is not None:
                return CreatedRun(known, kept.snapshot(), is_new=False)
            status: Status = "running" if start and not kept.open else "queued"
            queued = sum(each.status == "queued" for each in kept.open.values())
            if (options.reject_if_busy and kept.open) or (status == "queued" and queued >= waiting):
                raise ConversationBusy
            run = replace(run, status=status, conversation=name)
            kept.add(run, now)
            kept.messages.extend(options.messages)
            self._places.keep(name, kept)
            self._places.keep_run(run.id, name)
            return CreatedRun(run, kept.snapshot(), is_new=True)

    def start_run(self, name: str, run_id: str) -> Conversation | None:
        with self._lock:
            kept = self._places.find(name)
            if kept is not None:
                self._places.expire(name, kept)
            if kept is None or next(iter(kept.open), None) != run_id or kept.open[run_id].status != "queued":
                return None
            kept.change(replace(kept.open[run_id], status="running"))
            return kept.snapshot()

    def append_text(self, name: str, run_id: str, at: int, text: str) -> bool:
        with self._lock:
            kept = self._places.find(name)
            run = None if kept is None else kept.open.get(run_id)
            if kept is None or run is None or run.status != "running":
                return False
            kept.change(replace(run, text=run.text.encode()[:at].decode() + text))
            return True

    def finish_run(self, name: str, ended: Run, context_starts: Mapping[str, int] = NOTHING) -> Run | None:
        with self._lock:
            kept = self._places.find(name)
            if kept is None or ended.id not in kept.runs:
                return None
            if ended.id not in kept.open or is_expired(kept.open[ended.id], self._clock()):
                return kept.told(ended.id, self._clock())
            kept.end(ended)
            kept.messages.extend(ended.history_messages())
            self._places.use(name, kept)
            if context_starts:
                starts = {**kept.conversation.context_starts, **context_starts}
                kept.conversation = replace(kept.conversation, context_starts=starts)
            return ended

    def pause_run(self, name: str, run: Run) -> bool:
        return self._change(name, run, "running")

    def resume_run(self, name: str, run: Run) -> bool:
        return self._change(name, run, "requires_action")

    def _change(self, name: str, run: Run, earlier: Status) -> bool:
        with self._lock:
            kept = self._places.find(name)
            if kept is None or run.id not in kept.open:
                return False
            told = kept.told(run.id, self._clock())
            if told.status == earlier:
                kept.change(kept.noted(run))
            # Else it may be the same call made again.
            return told.status == earlier or told == run

    def set_run_details(self, name: str, run_id: str, details: Mapping[str, Any]) -> Run:
        with self._lock:
            kept = self._places.found(name)
            if run_id not in kept.runs:
                raise NotFound
            run = kept.runs[run_id]
            run = replace(run, options=replace(run.options, details=details))
            kept.runs[run_id] = run
            if run_id in kept.open:
                kept.open[run_id] = run
            return run

    def mark_delivered(self, name: str, run_id: str) -> None:
        with self._lock:
            kept = self._places.find(name)
            if kept is not None and run_id in kept.runs and run_id not in kept.open:
                kept.runs[run_id] = replace(kept.runs[run_id], delivered=True)

    def get_run(self, run_id: str) -> Run:
        with self._lock:
            return self._places.of_run(run_id).told(run_id, self._clock())

    def list_runs(self, name: str, status: Status | None, most: int) -> Sequence[Run]:
        with self._lock:
            kept = self._places.find(name)
            if kept is None:
                return ()
            newest_first = (kept.told(run_id, self._clock()) for run_id in reversed(kept.runs))
            return tuple(islice((run for run in newest_first if status in (None, run.status)), most))

    def list_messages(self, name: str, start: int, stop: int) -> Sequence[Message]:
        with self._lock:
            kept = self._places.find(name)
            return () if kept is None else kept.messages[start:stop]

    def message_index(self, name: str, message_id: str) -> int:
        with self._lock:
            return self._places.found(name).place(message_id)

    def add_messages(self, name: str, messages: Sequence[Message]) -> None:
        with self._lock:
            kept = self._places.found(name)
            if kept.has_added(messages):
                return
            self._places.expire(name, kept)
            if kept.open:
                raise ConversationBusy
            kept.messages.extend(messages)
            self._places.use(name, kept)

    def set_message_metadata(self, name: str, message_id: str, metadata: Mapping[str, Any]) -> Message:
        with self._lock:
            kept = self._places.found(name)
            place = kept.place(message_id)
            kept.messages[place] = replace(kept.messages[place], metadata=metadata)
            return kept.messages[place]

    def delete_message(self, name: str, message_id: str) -> None:
        with self._lock:
            kept = self._places.found(name)
            place = kept.place(message_id)
            del kept.messages[place]
            starts = kept.conversation.context_starts
            moved = {model: start - (place < start) for model, start in starts.items()}
            kept.conversation = replace(
                kept.conversation, context_starts=moved, history_id=self._places.next_history_id()
            )

    def clear_conversation(self, name: str) -> Sequence[str]:
        with self._lock:
            kept = self._places.find(name)
            if kept is None:
                return ()
            open_runs = self._places.drop(name)
            self._places.keep(name, kept.emptied(self._places.next_history_id(), self._clock()))
            return open_runs

    def delete_conversation(self, name: str) -> Sequence[str]:
        with self._lock:
            return self._places.drop(name)

    def renew_leases(self, held: Mapping[str, str]) -> Collection[str]:
        with self._lock:
            return [run_id for run_id, name in held.items() if not self._places.is_open(name, run_id)]

    def listen(self, followed: Collection[str], seconds: float) -> Collection[str]:
        time.sleep(seconds)  # There is no other writer.
        return ()

    def sweep(self, seconds: float = SWEEP_SECONDS) -> bool:
        until = time.monotonic() + seconds
        while True:
            with self._lock:
                is_more = self._places.sweep()
            if not is_more or time.monotonic() > until:
                return is_more
            self._rest()

    def put_record(self, kind: str, record_id: str, record: bytes) -> None:
        with self._lock:
            self._records.put(kind, record_id, record)

    def get_record(self, kind: str, record_id: str) -> bytes:
        with self._lock:
            return self._records.get(kind, record_id)

    def list_records(self, kind: str) -> Sequence[bytes]:
        with self._lock:
            return self._records.all(kind)

    def delete_record(self, kind: str, record_id: str) -> None:
        with self._lock:
            self._records.delete(kind, record_id)

    def ping(self) -> None:
        """Memory is there as long as the process is."""

    def close(self) -> None:
        """Nothing to give back."""

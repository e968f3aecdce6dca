"""Conversations in this process's memory: fast, and gone with the process."""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import count, islice
from typing import Any

from server.errors import ConversationBusy, NotFound, StoreFull
from server.model import Conversation, Message, Run, Status
from server.store import NOTHING, PLAIN, Begun, Terms
from server.store.memory.kept import Kept, is_expired


class MemoryStore:
    """A Store for one process. One lock: every call is a few dictionary steps, far below the cost of a switch."""

    is_durable = False

    def __init__(self, max_conversations: int, clock: Callable[[], float] = time.time) -> None:
        self._most = max_conversations
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[str, Kept] = {}
        self._names: dict[str, str] = {}
        """The conversation of each run, by the run's id."""
        self._records: dict[tuple[str, str], bytes] = {}
        self._histories = count(1)

    def conversation(self, name: str) -> Conversation | None:
        with self._lock:
            kept = self._find(name)
            return None if kept is None else kept.snapshot()

    def create(
        self, name: str, seconds: float | None, metadata: Mapping[str, Any], messages: Sequence[Message] = ()
    ) -> Conversation:
        with self._lock:
            kept = self._find(name)
            if kept is None:
                kept = self._kept[name] = self._room_for(name)
                kept.seconds = seconds
                kept.conversation = replace(kept.conversation, metadata=metadata)
                kept.messages.extend(messages)
            return kept.snapshot()

    def touch(self, name: str) -> bool:
        with self._lock:
            kept = self._find(name)
            if kept is not None:
                kept.touched = self._clock()
            return kept is not None

    def set_model(self, name: str, model: str) -> None:
        with self._lock:
            kept = self._kept[name] = self._find(name) or self._room_for(name)
            kept.conversation = replace(kept.conversation, model=model)

    def set_metadata(self, name: str, metadata: Mapping[str, Any]) -> Conversation:
        with self._lock:
            kept = self._found(name)
            kept.conversation = replace(kept.conversation, metadata=metadata)
            return kept.snapshot()

    def begin(self, name: str, run: Run, terms: Terms = PLAIN, *, waiting: int, start: bool) -> Begun:
        with self._lock:
            now = self._clock()
            kept = (self._find(name) or self._room_for(name)) if terms.create else self._found(name)
            kept.expire(now)
            if run.id in kept.runs:
                return Begun(kept.runs[run.id], kept.snapshot(), fresh=True)
            known = kept.answering(run, now)
            if known is not None:
                return Begun(known, kept.snapshot(), fresh=False)
            status: Status = "running" if start and not kept.open else "queued"
            queued = sum(each.status == "queued" for each in kept.open.values())
            if (terms.alone and kept.open) or (status == "queued" and queued >= waiting):
                raise ConversationBusy
            run = replace(run, status=status, conversation=name)
            kept.add(run, now)
            kept.messages.extend(terms.messages)
            self._kept[name] = kept
            self._names[run.id] = name
            return Begun(run, kept.snapshot(), fresh=True)

    def start(self, name: str, run_id: str) -> Conversation | None:
        with self._lock:
            kept = self._kept.get(name)
            if kept is not None:
                kept.expire(self._clock())
            if kept is None or next(iter(kept.open), None) != run_id or kept.open[run_id].status != "queued":
                return None
            kept.change(replace(kept.open[run_id], status="running"))
            return kept.snapshot()

    def append(self, name: str, run_id: str, at: int, text: str) -> bool:
        with self._lock:
            kept = self._kept.get(name)
            run = None if kept is None else kept.open.get(run_id)
            if kept is None or run is None or run.status != "running":
                return False
            kept.change(replace(run, text=run.text.encode()[:at].decode() + text))
            return True

    def finish(self, name: str, ended: Run, context_starts: Mapping[str, int] = NOTHING) -> Run | None:
        with self._lock:
            kept = self._find(name)
            if kept is None or ended.id not in kept.runs:
                return None
            if ended.id not in kept.open or is_expired(kept.open[ended.id], self._clock()):
                return kept.told(ended.id, self._clock())
            kept.end(ended)
            kept.messages.extend(ended.exchange())
            kept.touched = self._clock()
            if context_starts:
                starts = {**kept.conversation.context_starts, **context_starts}
                kept.conversation = replace(kept.conversation, context_starts=starts)
            return ended

    def pause(self, name: str, run: Run) -> bool:
        return self._change(name, run, "running")

    def resume(self, name: str, run: Run) -> bool:
        return self._change(name, run, "requires_action")

    def _change(self, name: str, run: Run, earlier: Status) -> bool:
        with self._lock:
            kept = self._kept.get(name)
            if kept is None or run.id not in kept.open or kept.told(run.id, self._clock()).status != earlier:
                return False
            kept.change(kept.noted(run))
            return True

    def note(self, name: str, run_id: str, details: Mapping[str, Any]) -> Run:
        with self._lock:
            kept = self._found(name)
            if run_id not in kept.runs:
                raise NotFound
            run = kept.runs[run_id]
            run = replace(run, options=replace(run.options, details=details))
            kept.runs[run_id] = run
            if run_id in kept.open:
                kept.open[run_id] = run
            return run

    def collect(self, name: str, run_id: str) -> None:
        with self._lock:
            kept = self._kept.get(name)
            if kept is not None and run_id in kept.runs and run_id not in kept.open:
                kept.runs[run_id] = replace(kept.runs[run_id], collected=True)

    def run(self, run_id: str) -> Run:
        with self._lock:
            kept = self._find(self._names.get(run_id, ""))
            if kept is None:
                raise NotFound
            return kept.told(run_id, self._clock())

    def runs(self, name: str, status: Status | None, most: int) -> Sequence[Run]:
        with self._lock:
            kept = self._find(name)
            if kept is None:
                return ()
            newest_first = (kept.told(run_id, self._clock()) for run_id in reversed(kept.runs))
            return tuple(islice((run for run in newest_first if status in (None, run.status)), most))

    def messages(self, name: str, start: int, stop: int) -> Sequence[Message]:
        with self._lock:
            kept = self._find(name)
            return () if kept is None else kept.messages[start:stop]

    def place(self, name: str, message_id: str) -> int:
        with self._lock:
            return self._found(name).place(message_id)

    def add(self, name: str, messages: Sequence[Message]) -> None:
        with self._lock:
            kept = self._found(name)
            kept.expire(self._clock())
            if kept.open:
                raise ConversationBusy
            kept.messages.extend(messages)
            kept.touched = self._clock()

    def change_message(self, name: str, message_id: str, metadata: Mapping[str, Any]) -> Message:
        with self._lock:
            kept = self._found(name)
            place = kept.place(message_id)
            kept.messages[place] = replace(kept.messages[place], metadata=metadata)
            return kept.messages[place]

    def delete_message(self, name: str, message_id: str) -> None:
        with self._lock:
            kept = self._found(name)
            place = kept.place(message_id)
            del kept.messages[place]
            starts = kept.conversation.context_starts
            moved = {model: start - (place < start) for model, start in starts.items()}
            kept.conversation = replace(kept.conversation, context_starts=moved, history_id=self._next_history_id())

    def clear(self, name: str) -> Sequence[str]:
        with self._lock:
            kept = self._find(name)
            if kept is None:
                return ()
            emptied = replace(kept.conversation, context_starts={}, history_id=self._next_history_id())
            self._kept[name] = Kept(emptied, kept.seconds, self._clock())
            return self._forgotten(kept)

    def delete(self, name: str) -> Sequence[str]:
        with self._lock:
            kept = self._kept.pop(name, None)
            return () if kept is None else self._forgotten(kept)

    def renew(self, held: Mapping[str, str]) -> Collection[str]:
        with self._lock:
            return [
                run_id for run_id, name in held.items() if name not in self._kept or run_id not in self._kept[name].open
            ]

    def listen(self, followed: Collection[str], seconds: float) -> Collection[str]:
        time.sleep(seconds)  # There is no other writer.
        return ()

    def sweep(self) -> None:
        with self._lock:
            now = self._clock()
            for name, kept in list(self._kept.items()):
                if kept.has_expired(now):
                    self._forgotten(self._kept.pop(name))
                else:
                    kept.forget_request_ids(now)

    def put_record(self, kind: str, record_id: str, record: bytes) -> None:
        with self._lock:
            self._records[kind, record_id] = record

    def record(self, kind: str, record_id: str) -> bytes:
        with self._lock:
            if (kind, record_id) not in self._records:
                raise NotFound
            return self._records[kind, record_id]

    def records(self, kind: str) -> Sequence[bytes]:
        with self._lock:
            return [record for (each, _), record in self._records.items() if each == kind]

    def delete_record(self, kind: str, record_id: str) -> None:
        with self._lock:
            if self._records.pop((kind, record_id), None) is None:
                raise NotFound

    def ping(self) -> None:
        """Memory is there as long as the process is."""

    def close(self) -> None:
        """Nothing to give back."""

    def _find(self, name: str) -> Kept | None:
        kept = self._kept.get(name)
        if kept is not None and kept.has_expired(self._clock()):
            self._forgotten(self._kept.pop(name))
            return None
        return kept

    def _found(self, name: str) -> Kept:
        kept = self._find(name)
        if kept is None:
            raise NotFound
        return kept

    def _forgotten(self, kept: Kept) -> Sequence[str]:
        """The open runs of what is no more in `_kept`."""
        for run_id in kept.runs:
            del self._names[run_id]
        return tuple(kept.open)

    def _room_for(self, name: str) -> Kept:
        if len(self._kept) >= self._most:
            raise StoreFull
        new = Conversation(name, created=self._clock(), history_id=self._next_history_id())
        return Kept(new, None, self._clock())

    def _next_history_id(self) -> str:
        return str(next(self._histories))

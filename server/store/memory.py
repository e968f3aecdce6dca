"""Conversations in this process's memory: fast, and gone with the process."""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from server.errors import ConversationBusy, NotFound, RequestIdConflict, StoreFull
from server.model import Conversation, Message, Run, Status
from server.store import REQUEST_ID_SECONDS, Begun, is_uncollected


class MemoryStore:
    """A Store for one process. One lock: every call is a few dictionary steps, far below the cost of a switch."""

    def __init__(self, max_conversations: int, clock: Callable[[], float] = time.time) -> None:
        self._most = max_conversations
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}
        self._names: dict[str, str] = {}
        """The conversation of each run, by the run's id."""

    def conversation(self, name: str) -> Conversation | None:
        with self._lock:
            kept = self._find(name)
            return None if kept is None else kept.snapshot()

    def create(self, name: str, seconds: float) -> None:
        with self._lock:
            kept = self._kept[name] = self._find(name) or self._room_for(name)
            kept.seconds = seconds

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

    def begin(self, name: str, run: Run, *, waiting: int, start: bool) -> Begun:
        with self._lock:
            now = self._clock()
            kept = self._find(name) or self._room_for(name)
            if run.id in kept.runs:
                return Begun(kept.runs[run.id], kept.snapshot(), fresh=True)
            known = kept.answering(run, now)
            if known is not None:
                return Begun(known, kept.snapshot(), fresh=False)
            status: Status = "running" if start and not kept.open else "queued"
            if status == "queued" and sum(each.status == "queued" for each in kept.open.values()) >= waiting:
                raise ConversationBusy
            run = replace(run, status=status, conversation=name)
            kept.add(run, now)
            self._kept[name] = kept
            self._names[run.id] = name
            return Begun(run, kept.snapshot(), fresh=True)

    def start(self, name: str, run_id: str) -> Conversation | None:
        with self._lock:
            kept = self._kept.get(name)
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

    def finish(self, name: str, ended: Run, replay_from: int | None) -> Run | None:
        with self._lock:
            kept = self._kept.get(name)
            if kept is None or ended.id not in kept.open:
                return None if kept is None else kept.runs.get(ended.id)
            del kept.open[ended.id]
            kept.runs[ended.id] = ended
            kept.messages.extend(ended.exchange())
            kept.touched = self._clock()
            if replay_from is not None:
                kept.conversation = replace(kept.conversation, replay_from=replay_from)
            return ended

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
            return kept.runs[run_id]

    def runs(self, name: str, status: Status | None, most: int) -> Sequence[Run]:
        with self._lock:
            kept = self._find(name)
            newest_first = () if kept is None else reversed(kept.runs.values())
            return tuple(islice((run for run in newest_first if status in (None, run.status)), most))

    def messages(self, name: str, start: int, stop: int) -> Sequence[Message]:
        with self._lock:
            kept = self._find(name)
            return () if kept is None else kept.messages[start:stop]

    def clear(self, name: str) -> Sequence[str]:
        with self._lock:
            kept = self._find(name)
            if kept is None:
                return ()
            self._kept[name] = _Kept(replace(kept.conversation, replay_from=0), kept.seconds, self._clock())
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

    def ping(self) -> None:
        """Memory is there as long as the process is."""

    def close(self) -> None:
        """Nothing to give back."""

    def _find(self, name: str) -> "_Kept | None":
        kept = self._kept.get(name)
        if kept is not None and kept.has_expired(self._clock()):
            self._forgotten(self._kept.pop(name))
            return None
        return kept

    def _forgotten(self, kept: "_Kept") -> Sequence[str]:
        """The open runs of what is no more in `_kept`."""
        for run_id in kept.runs:
            del self._names[run_id]
        return tuple(kept.open)

    def _room_for(self, name: str) -> "_Kept":
        if len(self._kept) >= self._most:
            raise StoreFull
        return _Kept(Conversation(name), None, self._clock())


class _Kept:
    """All that one client has."""

    def __init__(self, conversation: Conversation, seconds: float | None, touched: float) -> None:
        self.conversation = conversation
        self.seconds = seconds
        """How long after it was `touched` it expires; None: never."""
        self.touched = touched
        self.messages: list[Message] = []
        self.runs: dict[str, Run] = {}
        """Oldest first."""
        self.open: dict[str, Run] = {}
        """Those of `runs` that have not ended, oldest first."""
        self.request_ids: dict[str, tuple[str, float]] = {}
        """The run of each request id and when it was begun, oldest first."""

    def snapshot(self) -> Conversation:
        known = self.conversation
        return Conversation(known.name, known.model, len(self.messages), known.replay_from)

    def has_expired(self, now: float) -> bool:
        return self.seconds is not None and not self.open and now - self.touched > self.seconds

    def add(self, run: Run, now: float) -> None:
        self.touched = now
        self.change(run)
        if run.request_id is not None:
            self.request_ids.pop(run.request_id, None)
            self.request_ids[run.request_id] = (run.id, now)

    def change(self, run: Run) -> None:
        self.runs[run.id] = self.open[run.id] = run

    def answering(self, run: Run, now: float) -> Run | None:
        """The run that answers `run`'s question already, by the rules of `Store.begin`."""
        self.forget_request_ids(now)
        if run.request_id is not None:
            return self._with_request_id(run.request_id, run.question)
        for each in self.open.values():
            if each.question == run.question:
                return each
        newest = next(reversed(self.runs.values()), None)
        return newest if newest is not None and is_uncollected(newest, run.question, now) else None

    def _with_request_id(self, request_id: str, question: str) -> Run | None:
        known = self.request_ids.get(request_id)
        if known is None:
            return None
        run = self.runs[known[0]]
        if run.question != question:
            raise RequestIdConflict
        return None if run.status in ("failed", "interrupted") else run

    def forget_request_ids(self, now: float) -> None:
        while self.request_ids:
            request_id, (_, begun) = next(iter(self.request_ids.items()))
            if now - begun <= REQUEST_ID_SECONDS:
                return
            del self.request_ids[request_id]

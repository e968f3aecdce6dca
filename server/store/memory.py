"""Conversations in this process's memory: fast, and gone with the process."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from server.errors import ConversationBusy, NotFound, RequestIdConflict, StoreFull
from server.model import Conversation, Message, Run
from server.store import COLLECT_SECONDS, REQUEST_ID_SECONDS, Begun


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
            kept = self._kept.get(name)
            return None if kept is None else kept.snapshot()

    def set_model(self, name: str, model: str) -> None:
        with self._lock:
            kept = self._kept[name] = self._kept.get(name) or self._room_for(name)
            kept.conversation = replace(kept.conversation, model=model)

    def begin(self, name: str, run: Run, *, waiting: int, start: bool) -> Begun:
        with self._lock:
            now = self._clock()
            kept = self._kept.get(name) or self._room_for(name)
            known = kept.answering(run, now)
            if known is not None:
                return Begun(known, kept.snapshot(), fresh=False)
            if start and not kept.open:
                run = replace(run, status="running")
            elif sum(each.status == "queued" for each in kept.open.values()) >= waiting:
                raise ConversationBusy
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

    def append(self, name: str, run_id: str, text: str) -> bool:
        with self._lock:
            kept = self._kept.get(name)
            run = None if kept is None else kept.open.get(run_id)
            if kept is None or run is None or run.status != "running":
                return False
            kept.change(replace(run, text=run.text + text))
            return True

    def finish(self, name: str, ended: Run, replay_from: int | None) -> Run | None:
        with self._lock:
            kept = self._kept.get(name)
            if kept is None or ended.id not in kept.open:
                return None if kept is None else kept.runs.get(ended.id)
            del kept.open[ended.id]
            kept.runs[ended.id] = ended
            kept.messages.extend(ended.exchange())
            if replay_from is not None:
                kept.conversation = replace(kept.conversation, replay_from=replay_from)
            return ended

    def run(self, run_id: str) -> Run:
        with self._lock:
            name = self._names.get(run_id)
            if name is None:
                raise NotFound
            return self._kept[name].runs[run_id]

    def messages(self, name: str, start: int, stop: int) -> Sequence[Message]:
        with self._lock:
            kept = self._kept.get(name)
            return () if kept is None else kept.messages[start:stop]

    def clear(self, name: str) -> Sequence[str]:
        with self._lock:
            kept = self._kept.get(name)
            if kept is None:
                return ()
            for run_id in kept.runs:
                del self._names[run_id]
            self._kept[name] = _Kept(replace(kept.conversation, replay_from=0))
            return tuple(kept.open)

    def ping(self) -> None:
        """Memory is there as long as the process is."""

    def close(self) -> None:
        """Nothing to give back."""

    def _room_for(self, name: str) -> "_Kept":
        if len(self._kept) >= self._most:
            raise StoreFull
        return _Kept(Conversation(name))


class _Kept:
    """All that one client has."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
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

    def add(self, run: Run, now: float) -> None:
        self.change(run)
        if run.request_id is not None:
            self.request_ids.pop(run.request_id, None)
            self.request_ids[run.request_id] = (run.id, now)

    def change(self, run: Run) -> None:
        self.runs[run.id] = self.open[run.id] = run

    def answering(self, run: Run, now: float) -> Run | None:
        """The run that answers `run`'s question already, by the rules of `Store.begin`."""
        self._forget_request_ids(now)
        if run.request_id is not None:
            return self._with_request_id(run.request_id, run.question)
        for each in self.open.values():
            if each.question == run.question:
                return each
        newest = next(reversed(self.runs.values()), None)
        if (
            newest is not None
            and newest.ended is not None
            and newest.status == "completed"
            and newest.question == run.question
            and not newest.collected
            and now - newest.ended <= COLLECT_SECONDS
        ):
            return newest
        return None

    def _with_request_id(self, request_id: str, question: str) -> Run | None:
        known = self.request_ids.get(request_id)
        if known is None:
            return None
        run = self.runs[known[0]]
        if run.question != question:
            raise RequestIdConflict
        return None if run.status in ("failed", "interrupted") else run

    def _forget_request_ids(self, now: float) -> None:
        while self.request_ids:
            request_id, (_, begun) = next(iter(self.request_ids.items()))
            if now - begun <= REQUEST_ID_SECONDS:
                return
            del self.request_ids[request_id]

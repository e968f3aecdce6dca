"""Runs: replies written in order, one at a time in each conversation, detached from the requests that asked for them.

A request begins a run, or joins one, and then only waits for it or reads it; when the request leaves, the run goes on.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from server import errors, replay
from server.live import LiveRun, Reading
from server.model import Conversation, Failure, Run, Status
from server.store import Store
from server.upstream import Call, Upstream

log = logging.getLogger("server.runs")

FLUSH_SECONDS = 0.25
"""How long written text stays unknown to the store, at most."""


@dataclass(frozen=True)
class Limits:
    """How far runs may go; each is the setting of its name."""

    max_waiting_runs: int = 32
    max_concurrent_runs: int = 2000
    run_timeout_seconds: float = 600.0
    max_context_messages: int | None = None
    system_prompt: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Sent with every call, such as `temperature`."""


class Runner:
    """Writes the replies of one process. No thread is started before the first run."""

    def __init__(
        self, store: Store, upstream: Upstream, limits: Limits, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._upstream = upstream
        self._limits = limits
        self._clock = clock
        self._writers = ThreadPoolExecutor(limits.max_concurrent_runs, "writer")
        self._free = limits.max_concurrent_runs
        self._lock = threading.Lock()
        self._open: dict[str, LiveRun] = {}
        """The open runs that this process writes, or will, by id."""
        self._queued: dict[str, LiveRun] = {}
        """Those of them whose turn has not come, oldest first."""
        self._turns: dict[str, str] = {}
        """The run that has its conversation's turn in this process, by the conversation's name."""
        self._looks = 0
        """How often `_advance` was called since the thread that looks for queued runs began to; 0 where none does."""
        self._idle = threading.Condition(self._lock)
        self._ticker: threading.Thread | None = None
        self._stopped = threading.Event()
        self.is_closing = False
        """Whether `begin` refuses, because the process is to end."""

    def begin(self, name: str, question: str, request_id: str | None, *, streamed: bool) -> Run:
        """Begin to write a reply to `question`, or find the run that answers it already.

        Raises RequestIdConflict, ConversationBusy, ShuttingDown, StoreUnavailable.
        """
        draft = Run(question, request_id, created=self._clock())
        live = LiveRun(name, draft, streamed)
        with self._lock:
            if self.is_closing:
                raise errors.ShuttingDown
            self._start_ticker()
            has_place = self._free > 0
            self._free -= has_place
            # Known before it is written down: whoever joins it a moment later must find it.
            self._open[draft.id] = live
        try:
            begun = self._store.begin(name, draft, waiting=self._limits.max_waiting_runs, start=has_place)
            with live.changed:
                if begun.fresh and not live.run.is_open:  # It ended before it was written down.
                    self._store.finish(name, live.run, None)
        except BaseException:
            self._forget(live, place=has_place)
            raise
        if not begun.fresh:
            self._forget(live, place=has_place)
        elif begun.run.status == "running":
            with self._lock:
                if draft.id in self._open:  # else it was cleared away in this instant
                    self._turns[name] = draft.id
            self._dispatch(live, begun.conversation)
        else:
            with self._lock:
                if draft.id in self._open:
                    self._queued[draft.id] = live
                self._free += has_place
            self._advance()
        return begun.run

    def wait(self, run_id: str, seconds: float, is_there: Callable[[], bool]) -> Run:
        """The run, ended, or still open after `seconds`.

        `is_there` tells whether the caller is still on the line; one who is not does not count as having collected
        the reply. Raises NotFound.
        """
        live = self._open.get(run_id)
        return self._store.run(run_id) if live is None else live.wait(seconds, is_there)

    def read(self, run_id: str, position: int, silence: float, is_there: Callable[[], bool]) -> Reading:
        """The run's text from character `position` on as it is written, then the run, ended.

        None is yielded after each `silence` seconds without text; `is_there` is as for `wait`. Raises NotFound and
        InvalidPosition at once; InvalidPosition out of the iteration where an open run ends well short of `position`.
        """
        live = self._open.get(run_id) or LiveRun("", self._store.run(run_id), streamed=False)
        if not live.run.is_open:
            live.check(position)
        return live.read(position, silence, is_there)

    def cancel(self, run_id: str) -> Run:
        """End a run, keeping what was written; one that has ended stays as it is. Raises NotFound."""
        live = self._open.get(run_id)
        if live is None:
            return self._store.run(run_id)
        self._end(live, "cancelled")
        live.cut()
        return live.run

    def clear(self, name: str) -> None:
        """Forget the conversation's history, after cancelling each of its open runs, of which nothing is kept."""
        for run_id in self._store.clear(name):
            live = self._open.get(run_id)
            if live is not None:
                self._end(live, "cancelled")
                live.cut()

    def shut_down(self, seconds: float) -> None:
        """Begin no more, give open runs `seconds` to end, and mark the rest as interrupted, with their text."""
        with self._idle:
            self.is_closing = True
            self._idle.wait_for(lambda: not self._open, seconds)
            left = list(self._open.values())
        self._stopped.set()
        for live in left:
            self._end(live, "interrupted", failure=_failure(errors.RunInterrupted()))
            live.cut()

    def tick(self) -> None:
        """Tell the store what was written since the last tick, and end the runs whose time is over."""
        for live in list(self._open.values()):
            try:
                if self._clock() - live.run.created > self._limits.run_timeout_seconds:
                    self._end(live, "failed", failure=_failure(errors.RunTimedOut()))
                    live.cut()
                else:
                    live.flush(self._store)
            except errors.StoreUnavailable:
                log.warning("the store was not told of written text; it will be at the next tick")
        self._advance()

    def _start_ticker(self) -> None:
        if self._ticker is None:
            self._ticker = threading.Thread(target=self._keep_ticking, name="ticker", daemon=True)
            self._ticker.start()

    def _keep_ticking(self) -> None:
        while not self._stopped.wait(FLUSH_SECONDS):
            try:
                self.tick()
            except Exception:
                log.exception("a tick failed for a reason that has no name")

    def _advance(self) -> None:
        """Start each queued run whose turn has come, as far as there are free places.

        One thread at a time looks, and looks again for each that would have: an attempt that fails held a turn and a
        place meanwhile, and who found them taken must not have looked in vain.
        """
        with self._lock:
            if not self._queued:
                return
            self._looks += 1
            if self._looks > 1:
                return
        seen = 0
        while True:
            with self._lock:
                if self._looks == seen:
                    self._looks = 0
                    return
                seen = self._looks
            try:
                self._start_queued()
            except BaseException:
                with self._lock:
                    self._looks = 0
                raise

    def _start_queued(self) -> None:
        for live in list(self._queued.values()):
            with self._lock:
                if not self._free or self._stopped.is_set():
                    return
                if live.name in self._turns or live.run.id not in self._queued:
                    continue
                self._free -= 1
                self._turns[live.name] = live.run.id
            try:
                conversation = self._store.start(live.name, live.run.id)
            except errors.StoreUnavailable:
                conversation = None
            with self._lock:
                if conversation is None:
                    self._free += 1
                    if self._turns.get(live.name) == live.run.id:
                        del self._turns[live.name]
                    continue
                self._queued.pop(live.run.id, None)
            self._dispatch(live, conversation)

    def _dispatch(self, live: LiveRun, conversation: Conversation) -> None:
        self._writers.submit(self._write, live, conversation)

    def _write(self, live: LiveRun, conversation: Conversation) -> None:
        """In a thread of its own: from a run's turn to its end. Nothing escapes."""
        try:
            self._ask_upstream(live, conversation)
        except errors.ServerError as problem:
            self._end(live, "failed", failure=_failure(problem))
        except Exception:
            log.exception("a run failed for a reason that has no name")
            self._end(live, "failed", failure=_failure(errors.InternalError()))
        finally:
            with self._lock:
                self._free += 1
            self._advance()

    def _ask_upstream(self, live: LiveRun, conversation: Conversation) -> None:
        model = conversation.model or self._upstream.default_model()
        count = conversation.message_count
        place = replay.first_place(count, self._limits.max_context_messages, conversation.replay_from)
        shortened: int | None = None
        while True:
            left = live.run.created + self._limits.run_timeout_seconds - self._clock()
            if left <= 0:
                raise errors.RunTimedOut
            history = self._store.messages(conversation.name, place, count)
            call = Call(
                model,
                replay.messages(self._limits.system_prompt, history, live.run.question),
                left,
                live.streamed,
                self._limits.parameters,
                replay.fingerprint(conversation.name),
            )
            try:
                reply = live.listen(self._upstream.open(call))
            except errors.ContextTooLong:
                if place >= count:
                    raise
                place = shortened = replay.halved(place, count)
            else:
                known = {"model": reply.model or model, "usage": reply.usage, "replayed": count - place}
                self._end(live, "completed", replay_from=shortened, omitted=place, **known)
                return

    def _end(self, live: LiveRun, status: Status, replay_from: int | None = None, **known: Any) -> None:
        """Write the run's end, tell all who wait, and let the next one have its turn. The first end stands."""
        with live.changed:
            if not live.run.is_open:
                return
            ended = live.run.ending(status, self._clock(), text=live.text(), collected=live.has_company(), **known)
            try:
                # A run that is gone was cleared away, and clearing cancels.
                kept = self._store.finish(live.name, ended, replay_from) or replace(ended, status="cancelled")
            except errors.StoreUnavailable as problem:
                kept = replace(ended, status="failed", failure=_failure(problem))
            live.end(kept)
        self._forget(live, place=False)

    def _forget(self, live: LiveRun, place: bool) -> None:
        with self._lock:
            self._open.pop(live.run.id, None)
            self._queued.pop(live.run.id, None)
            if self._turns.get(live.name) == live.run.id:
                del self._turns[live.name]
            self._free += place
            if not self._open:
                self._idle.notify_all()
        self._advance()


def _failure(problem: errors.ServerError) -> Failure:
    return Failure(problem.code, str(problem))

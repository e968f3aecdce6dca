"""The open runs of this process: told to the store while they are written, and ended there once."""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

from server import errors
from server.domain import Conversation, Run, RunError, Status
from server.runs.live import LiveRun
from server.runs.remote import refreshed
from server.store.protocol import NOTHING, Store

FLUSHES_AT_ONCE = 16
"""A store that commits what comes at the same time together takes many texts for the price of a few."""


class LocalRuns:
    """The open runs that this process writes, or will: in the store, its lease is on them."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._open: dict[str, LiveRun] = {}
        self._flushers = ThreadPoolExecutor(FLUSHES_AT_ONCE, "flusher")
        self.store_available = True
        """False from a failure of the store until `try_store` finds it well."""

    def add(self, live: LiveRun) -> None:
        with self._lock:
            self._open[live.run.id] = live

    def get(self, run_id: str) -> LiveRun | None:
        return self._open.get(run_id)

    def all(self) -> list[LiveRun]:
        with self._lock:
            return list(self._open.values())

    def forget(self, live: LiveRun) -> None:
        with self._lock:
            if self._open.get(live.run.id) is live:  # else it goes on, with outputs of tools, as another
                del self._open[live.run.id]
            if not self._open:
                self._idle.notify_all()

    def wait_until_none(self, seconds: float) -> float:
        """Wait at most `seconds`; gives how many of them are left."""
        until = time.monotonic() + seconds
        with self._idle:
            self._idle.wait_for(lambda: not self._open, seconds)
        return until - time.monotonic()

    def end(self, live: LiveRun, status: Status, context_starts: Mapping[str, int] = NOTHING, **known: Any) -> None:
        """Write the run's end, and tell all who wait. The first end stands."""
        with live.changed:
            if live.run.is_open and live.pending_end is None:
                ended = live.run.ended_as(
                    status, self._clock(), text=live.text(), delivered=live.has_waiters(), **known
                )
                self._write_end(live, ended, context_starts)

    def start(self, live: LiveRun) -> Conversation | None:
        """As `Store.start`; None also where the store cannot be reached, so that it is tried again later."""
        if not self.store_available:
            return None
        try:
            conversation = self._store.start_run(live.name, live.run.id)
            if conversation is None and live.start_unconfirmed and self._store.get_run(live.run.id).status == "running":
                conversation = self._store.get_conversation(live.name)
        except errors.StoreUnavailable:
            live.start_unconfirmed = True
            self.store_available = False
            return None
        return conversation

    def resume(self, live: LiveRun) -> None:
        """Hold a run that required action from now on. Raises NoActionRequired, and StoreUnavailable."""
        try:
            if not self._store.resume_run(live.name, live.run):
                raise errors.NoActionRequired
        except errors.StoreUnavailable:
            self.fail_unconfirmed(live)
            raise
        live.is_created = True
        self.add(live)

    def pause(self, live: LiveRun, run: Run) -> None:
        """Write down that the run requires action. From then on nobody holds it."""
        try:
            with live.changed:
                if not live.run.is_open:
                    return
                if self._store.pause_run(live.name, run):
                    live.pause(run)
                    return
            self.refresh(live)
        except errors.StoreUnavailable as problem:
            self.store_available = False
            self.end(live, "failed", error=run_error(problem))

    def retry_pending_end(self, live: LiveRun) -> None:
        """Write the end that the store could not be told when it came, if there is one.

        A run that requires action there, or did so since, is not ended: what was lost was the answer to its pause, or
        the question whether it goes on.
        """
        with live.changed:
            if live.pending_end is None or not self.store_available:
                return
            try:
                kept = refreshed(self._store, live.run)
            except errors.StoreUnavailable:
                self.store_available = False
                return
            if kept.status == "requires_action" or (kept.is_open and len(kept.steps) > len(live.run.steps)):
                live.pause(replace(kept, status="requires_action"))
            else:
                self._write_end(live, *live.pending_end)

    def fail_unconfirmed(self, live: LiveRun) -> None:
        """The store failed, and may have taken the run or not: should it have, it is told that nobody writes it."""
        with live.changed:
            ended = live.run
            if ended.is_open:
                ended = ended.ended_as("failed", self._clock(), error=run_error(errors.StoreUnavailable()))
            live.defer_end(ended, NOTHING)
        self.store_available = False
        self.add(live)

    def refresh(self, live: LiveRun) -> None:
        """End a run as another process has, if one has."""
        run = refreshed(self._store, live.run)
        if not run.is_open:
            with live.changed:
                if live.run.is_open:
                    live.end(run)
            live.abort()

    def flush(self) -> None:
        """Tell a store that will remember what was written since the last time."""
        if self._store.is_durable:
            list(self._flushers.map(self._flush, [live for live in self.all() if live.is_unflushed()]))

    def renew(self) -> None:
        """Renew the lease on all of the runs."""
        begun = {live.run.id: live for live in self.all() if live.is_created}
        for run_id in self._store.renew_leases({run_id: live.name for run_id, live in begun.items()}):
            self.refresh(begun[run_id])

    def listen(self, followed: Collection[str], seconds: float) -> Collection[str]:
        """As `Store.listen`."""
        try:
            return self._store.listen(followed, seconds)
        except errors.StoreUnavailable:
            self.store_available = False
            raise

    def probe_store(self) -> None:
        """Ask a store that has failed whether it is well again."""
        if not self.store_available:
            with suppress(errors.StoreUnavailable):
                self._store.ping()
                self.store_available = True

    def _write_end(self, live: LiveRun, ended: Run, context_starts: Mapping[str, int]) -> None:
        """To be called with `live.changed` held. What the store cannot be told now is kept until it can."""
        try:
            if not self.store_available:
                raise errors.StoreUnavailable
            # A run that is gone was cleared away, and clearing cancels.
            live.end(self._store.finish_run(live.name, ended, context_starts) or replace(ended, status="cancelled"))
        except errors.StoreUnavailable:
            self.store_available = False
            live.defer_end(ended, context_starts)

    def _flush(self, live: LiveRun) -> None:
        try:
            if self.store_available and live.pending_end is None and not live.flush(self._store):
                self.refresh(live)
        except errors.StoreUnavailable:
            self.store_available = False


def run_error(problem: errors.AppError) -> RunError:
    return RunError(problem.code, str(problem))

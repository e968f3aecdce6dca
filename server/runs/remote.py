"""Runs that other processes write, for those who wait for them or read them in this one."""

import threading
import time
import weakref
from collections.abc import Collection

from server.domain import Run
from server.errors import NotFound, StoreUnavailable
from server.runs.live import LiveRun
from server.store.protocol import Store

LAST_LOOK_SECONDS = 0.05
"""How often a process that is to end looks whether anybody still follows the run of another."""


def refreshed(store: Store, run: Run) -> Run:
    """How the store has `run` now."""
    try:
        return store.get_run(run.id)
    except NotFound:  # It was cleared away, and clearing cancels.
        return run.ended_as("cancelled", run.created)


class RemoteRuns:
    """Runs that other processes write, each taken in from the store once for all who wait for it or read it here."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._runs: weakref.WeakValueDictionary[str, LiveRun] = weakref.WeakValueDictionary()
        """The open ones. They are forgotten with the last who holds them."""

    def get(self, run_id: str) -> LiveRun:
        """The run, kept up with while it is held. Raises NotFound."""
        with self._lock:
            live = self._runs.get(run_id)
        if live is not None and live.run.is_active:
            return live
        run = self._store.get_run(run_id)
        live = LiveRun(run.conversation, run, streamed=False)
        if not run.is_active:
            return live
        with self._lock:
            known = self._runs.setdefault(run_id, live)
            if not known.run.is_active:  # It required action, and goes on now.
                known = self._runs[run_id] = live
            return known

    def ids(self) -> Collection[str]:
        with self._lock:
            return [run_id for run_id, live in self._runs.items() if live.run.is_active]

    def wait_until_none(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self.ids() and time.monotonic() < until:
            time.sleep(LAST_LOOK_SECONDS)

    def release_waiters(self) -> None:
        """Let nobody wait any longer: this process will not hear of the runs any more."""
        for run_id in self.ids():
            with self._lock:
                live = self._runs.get(run_id)
            if live is not None:
                live.update(None)

    def check_keepalive(self, now: float) -> None:
        """As `LiveRun.note_silence`, for each of them."""
        for run_id in self.ids():
            live = self._runs.get(run_id)
            if live is not None:
                live.check_keepalive(now)

    def update(self, run_ids: Collection[str]) -> None:
        """Take in what the store knows of those of the runs that are followed."""
        for run_id in run_ids:
            with self._lock:
                live = self._runs.get(run_id)
            if live is not None:
                try:
                    live.update(refreshed(self._store, live.run))
                except StoreUnavailable:
                    live.update(None)

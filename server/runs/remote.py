"""Runs executed by other processes. Each is loaded from the store once and shared by all local readers."""

import threading
import time
import weakref
from collections.abc import Collection

from server.domain import Run
from server.errors import NotFound, StoreUnavailable
from server.runs.live import LiveRun
from server.store.protocol import Store

SHUTDOWN_POLL_SECONDS = 0.05
"""How often a process that shuts down checks whether a remote run is still followed."""


def reload_run(store: Store, run: Run) -> Run:
    """`run` as the store has it now."""
    try:
        return store.get_run(run.id)
    except NotFound:  # It was cleared, and clearing cancels.
        return run.ended_as("cancelled", run.created)


class RemoteRuns:
    """The open runs of other processes that a caller of this process waits for or reads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._runs: weakref.WeakValueDictionary[str, LiveRun] = weakref.WeakValueDictionary()
        """The open ones by id. The last waiter or reader takes its entry with it."""

    def get(self, run_id: str) -> LiveRun:
        """The run, kept up to date while it is referenced. Raises NotFound."""
        with self._lock:
            live = self._runs.get(run_id)
        if live is not None and live.run.is_active:
            return live
        run = self._store.get_run(run_id)
        live = LiveRun(run.conversation, run, streamed=False)
        if not run.is_active:
            return live
        with self._lock:
            shared = self._runs.setdefault(run_id, live)
            if not shared.run.is_active:  # It required action, and now continues.
                shared = self._runs[run_id] = live
            return shared

    def ids(self) -> Collection[str]:
        with self._lock:
            return [run_id for run_id, live in self._runs.items() if live.run.is_active]

    def wait_until_none(self, seconds: float) -> None:
        """Block until no remote run is followed, for at most `seconds`."""
        until = time.monotonic() + seconds
        while self.ids() and time.monotonic() < until:
            time.sleep(SHUTDOWN_POLL_SECONDS)

    def release_waiters(self) -> None:
        """Fail all waiters with StoreUnavailable, since this process receives no more notifications."""
        for run_id in self.ids():
            with self._lock:
                live = self._runs.get(run_id)
            if live is not None:
                live.update(None)

    def check_keepalive(self, now: float) -> None:
        """As `LiveRun.check_keepalive`, for each of them."""
        for run_id in self.ids():
            live = self._runs.get(run_id)
            if live is not None:
                live.check_keepalive(now)

    def update(self, run_ids: Collection[str]) -> None:
        """Load those of the runs that are followed from the store."""
        for run_id in run_ids:
            with self._lock:
                live = self._runs.get(run_id)
            if live is not None:
                try:
                    live.update(reload_run(self._store, live.run))
                except StoreUnavailable:
                    live.update(None)

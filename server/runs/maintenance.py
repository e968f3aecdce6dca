"""Periodic maintenance: flush text, renew leases, enforce timeouts, sweep expired data, take in others' changes."""

import logging
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor

from server import errors
from server.runs.config import RunConfig
from server.runs.executor import Executor
from server.runs.live import LiveRun
from server.runs.local import LocalRuns
from server.runs.remote import RemoteRuns
from server.store.protocol import Store

log = logging.getLogger("server.runs")

FLUSH_SECONDS = 0.25
"""The longest time for which generated text is unknown to the store."""

REFRESH_SECONDS = 1.0
"""The longest time for which a change by another process goes unnoticed here, if its notification was lost."""

SWEEP_SECONDS = 60.0

DAY_SECONDS = 86_400

RETENTION_BATCH = 20
"""How many unused conversations one tick deletes."""

CONCURRENT_FLUSHES = 16
"""A store with group commit takes many concurrent texts for the price of a few."""


class Ticker:
    """A thread that calls `tick` every FLUSH_SECONDS, and listens for other processes' changes in between."""

    def __init__(
        self,
        local: LocalRuns,
        remote: RemoteRuns,
        executor: Executor,
        store: Store,
        config: RunConfig,
        clock: Callable[[], float],
    ) -> None:
        self._local = local
        self._remote = remote
        self._executor = executor
        self._store = store
        self._config = config
        self._clock = clock
        self._flushers = ThreadPoolExecutor(CONCURRENT_FLUSHES, "flusher")
        self._due: dict[str, float] = {}
        """When each periodic task is due, in Unix seconds."""
        self._is_sweeping = False
        """Whether the last sweep left something to do."""
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def start(self) -> None:
        """Start the thread. Repeated calls do nothing."""
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="ticker", daemon=True)
                thread.start()
                self._thread = thread  # Not before: if the system has no thread left, a later run starts it.

    def stop(self) -> None:
        self._stopped.set()

    def tick(self) -> None:
        """Do what is due. Raises StoreUnavailable; what was not done then is done by a later tick."""
        self._local.probe_store()
        now = self._clock()
        self._remote.check_keepalive(now)
        for live in self._local.open.all():
            live.check_keepalive(now)
            if live.pending_end is not None:
                self._local.retry_pending_end(live)
                self._local.release_if_ended(live)
            elif now - live.run.resumed > self._config.run_timeout_seconds:
                self._local.abort(live, "failed", errors.RunTimedOut())
        self._flush()
        if self._is_due("refresh", REFRESH_SECONDS):
            self._remote.update(self._remote.ids())
        if self._local.store_available:
            if self._is_due("renew", self._config.lease_seconds / 3):
                self._renew_leases()
            if self._is_sweeping or self._is_due("sweep", SWEEP_SECONDS):
                self._is_sweeping = self._store.sweep(FLUSH_SECONDS / 2)
            if self._config.retention_days is not None and self._is_due("retention", FLUSH_SECONDS):
                self._delete_unused(now - self._config.retention_days * DAY_SECONDS)
        self._executor.close_idle()
        self._local.release_ended()

    def _delete_unused(self, since: float) -> None:
        """Delete the conversations that were not used since then, some at a time; after the last, look again later."""
        unused = self._store.list_conversations((since, ""), RETENTION_BATCH)
        for entry in unused:
            self._store.delete_conversation(entry.conversation.name, unused_since=since)
        if len(unused) < RETENTION_BATCH:
            self._due["retention"] = self._clock() + SWEEP_SECONDS

    def take_in(self, run_ids: Collection[str]) -> None:
        """Apply what other processes did to local runs, and to the remote runs that are followed."""
        for live in filter(None, map(self._local.open.get, run_ids)):
            if live.is_created:
                self._local.refresh(live)
        self._remote.update(run_ids)
        self._local.release_ended()

    def _run(self) -> None:
        due = time.monotonic() + FLUSH_SECONDS
        while not self._stopped.is_set():
            try:
                seconds = due - time.monotonic()
                if seconds > 0:
                    self._listen(seconds)
                else:
                    due = time.monotonic() + FLUSH_SECONDS
                    self.tick()
            except errors.StoreUnavailable:
                self._stopped.wait(FLUSH_SECONDS)
            except Exception:
                log.exception("maintenance failed")
                self._stopped.wait(FLUSH_SECONDS)

    def _listen(self, seconds: float) -> None:
        followed = self._remote.ids()
        if not self._local.store_available or not (self._local.open.all() or followed):
            self._stopped.wait(seconds)
            return
        try:
            run_ids = self._store.listen(followed, seconds)
        except errors.StoreUnavailable:
            self._local.store_available = False
            raise
        self.take_in(run_ids)

    def _flush(self) -> None:
        """Write the text that was generated since the last flush, if the store is durable."""
        if self._store.is_durable:
            list(self._flushers.map(self._flush_run, [live for live in self._local.open.all() if live.is_unflushed()]))

    def _flush_run(self, live: LiveRun) -> None:
        try:
            if self._local.store_available and live.pending_end is None and not live.flush(self._store):
                self._local.refresh(live)
        except errors.StoreUnavailable:
            self._local.store_available = False

    def _renew_leases(self) -> None:
        created = {live.run.id: live for live in self._local.open.all() if live.is_created}
        for run_id in self._store.renew_leases({run_id: live.name for run_id, live in created.items()}):
            self._local.refresh(created[run_id])

    def _is_due(self, task: str, seconds: float) -> bool:
        """Whether `task`, which is due every `seconds`, is due now; if so, it counts as done."""
        now = self._clock()
        if now < self._due.get(task, 0.0):
            return False
        self._due[task] = now + seconds
        return True

"""The runs that this process owns: every change of their state, also while the store is unreachable."""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from server import errors
from server.concurrency import ThreadPool
from server.domain import Conversation, Run, Status, Step
from server.runs.config import RunConfig
from server.runs.dispatcher import Dispatcher
from server.runs.events import run_error
from server.runs.executor import Executor
from server.runs.live import LiveRun
from server.runs.observer import Observer
from server.runs.registry import OpenRuns
from server.runs.remote import reload_run
from server.store.limits import RunLimits
from server.store.protocol import NO_CONTEXT_STARTS, CreatedRun, CreateOptions, Store

log = logging.getLogger("server.runs")

ACTION_SECONDS = 600.0
"""How long a run waits for the outputs of tools."""


class LocalRuns:
    """The open runs that this process executes, or will execute. In the store, it holds their lease.

    Every state change of a run is here: it is created, starts, ends, pauses, resumes. If the store is unreachable, the
    end is kept and written later; until then waiters get StoreUnavailable. Safe from any thread.
    """

    def __init__(
        self, store: Store, executor: Executor, config: RunConfig, clock: Callable[[], float], observer: Observer
    ) -> None:
        self._store = store
        self._executor = executor
        self._observer = observer
        self._config = config
        self._clock = clock
        self.open = OpenRuns()
        self._threads = ThreadPool("run", self._execute)
        self._dispatcher = Dispatcher(config.max_concurrent_runs, self._start, self._submit)
        self.store_available = True
        """False from a failure of the store until `probe_store` succeeds."""
        self.is_closing = False
        """Whether new runs are refused because the process is shutting down."""

    def count_waiting(self) -> int:
        return self._dispatcher.count_waiting()

    def admit(self, live: LiveRun) -> None:
        """Register a run that `create` is called for next. Raises ShuttingDown, StoreUnavailable."""
        # Before the store knows the run: a request that joins it a moment later must find it, and so must a shutdown.
        self.open.add(live)
        try:
            self._require_open()
        except errors.Unavailable:
            self.open.discard(live)
            raise

    def create(self, live: LiveRun, options: CreateOptions) -> Run:
        """Create an admitted run in the store, or find the run that answers it. A new one starts or is queued.

        Raises what `Store.create_run` raises.
        """
        has_slot = self._dispatcher.acquire_slot()
        try:
            created = self._write_new(live, options, has_slot)
        except BaseException:
            if has_slot:
                self._dispatcher.release_slot()
            raise
        if created.is_new and created.run.status == "running":
            self._dispatcher.mark_running(live)
            self._submit(live, created.conversation)
            return created.run
        if has_slot:
            self._dispatcher.release_slot()
        if created.is_new:
            self._dispatcher.enqueue(live)
        return created.run

    def resume(self, live: LiveRun, limits: RunLimits) -> None:
        """Queue a run that required action.

        Raises NoActionRequired, BudgetExhausted, ShuttingDown, StoreUnavailable.
        """
        self._require_open()
        try:
            if not self._store.resume_run(live.name, live.run, limits):
                raise errors.NoActionRequired
        except errors.StoreUnavailable:
            self._fail_unconfirmed(live)
            raise
        live.is_created = True
        self.open.add(live)
        self._dispatcher.enqueue(live)

    def end(
        self, live: LiveRun, status: Status, context_starts: Mapping[str, int] = NO_CONTEXT_STARTS, **fields: Any
    ) -> None:
        """Write the run's end, wake its waiters, and let the next run start. The first end stands."""
        with live.changed:
            if live.run.is_open and live.pending_end is None:
                delivered = live.has_waiters()
                fields |= {"text": live.text(), "delivered": delivered, "is_sent": live.is_sent()}
                ended = live.run.ended_as(status, self._clock(), **fields)
                self._write_end(live, ended, context_starts)
        self.release_if_ended(live)

    def abort(self, live: LiveRun, status: Status, error: errors.AppError | None = None) -> None:
        """End a run, and close its upstream connection."""
        self.end(live, status, error=None if error is None else run_error(error))
        live.abort()

    def retry_pending_end(self, live: LiveRun) -> None:
        """Write the end that the store could not take when it came, if there is one.

        A run that requires action in the store, or did so since, is not ended: the lost answer was that to `pause_run`
        or `resume_run`.
        """
        with live.changed:
            if live.pending_end is None or not self.store_available:
                return
            try:
                stored = reload_run(self._store, live.run)
            except errors.StoreUnavailable:
                self.store_available = False
                return
            if stored.status == "requires_action" or (stored.is_open and len(stored.steps) > len(live.run.steps)):
                live.pause(replace(stored, status="requires_action"))
            else:
                self._write_end(live, *live.pending_end)

    def refresh(self, live: LiveRun) -> None:
        """End a run here if another process has ended it."""
        run = reload_run(self._store, live.run)
        if not run.is_open:
            with live.changed:
                if live.run.is_open:
                    live.end(run)
                    self._observer.count_end(run)
            live.abort()

    def release_if_ended(self, live: LiveRun) -> None:
        """Drop a run that is not active any more, and let the next run of its conversation start."""
        if not live.run.is_active:
            self._release(live)

    def release_ended(self) -> None:
        """Drop all runs that other processes have ended, and start those whose turn has come."""
        for live in self.open.all():
            self.release_if_ended(live)
        self._dispatcher.dispatch()

    def probe_store(self) -> None:
        """Check whether a store that has failed is available again."""
        if not self.store_available:
            with suppress(errors.StoreUnavailable):
                self._store.ping()
                self.store_available = True

    def shut_down(self) -> None:
        """Start no more runs, and end the open ones as interrupted, with their text."""
        self._dispatcher.stop()
        self.probe_store()
        for live in self.open.all():
            self.retry_pending_end(live)
            if live.run.is_active:
                self.abort(live, "interrupted", errors.RunInterrupted())

    def _require_open(self) -> None:
        """Raises ShuttingDown and StoreUnavailable."""
        if self.is_closing:
            raise errors.ShuttingDown
        if not self.store_available:
            raise errors.StoreUnavailable

    def _write_new(self, live: LiveRun, options: CreateOptions, has_slot: bool) -> CreatedRun:
        """What the store decided. The run stays here if it is new, or if nobody knows."""
        try:
            max_waiting = self._config.max_waiting_runs
            created = self._store.create_run(live.name, live.run, options, waiting=max_waiting, start=has_slot)
            if not created.is_new:
                self._release(live)
                return created
            if created.rate is not None:
                options.limits.report(created.rate)
            with live.changed:
                live.is_created = True
                if not live.run.is_open:  # It ended before the store had it.
                    self._store.finish_run(live.name, live.run)
        except (errors.Refused, errors.StoreFull):
            self._release(live)
            raise
        except BaseException:
            self._fail_unconfirmed(live)
            raise
        return created

    def _start(self, live: LiveRun) -> Conversation | None:
        """As `Store.start_run`. None also if the store is unreachable: the dispatcher tries again."""
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

    def _submit(self, live: LiveRun, conversation: Conversation) -> None:
        try:
            self._threads.submit(live, conversation)
        except RuntimeError as error:  # The system has no thread left.
            self._fail_unexpectedly(live, error)
            self._dispatcher.release_slot()

    def _execute(self, live: LiveRun, conversation: Conversation) -> None:
        """Execute a run on this thread and write what came out. Raises nothing."""
        try:
            outcome = self._executor.execute(live, conversation)
            if outcome.step is None:
                self.end(live, "completed", outcome.context_starts, **outcome.fields)
            else:
                self._pause(live, outcome.step, outcome.fields)
        except errors.AppError as error:
            self.end(live, "failed", error=run_error(error))
        except Exception as error:  # noqa: BLE001 - It is logged, and the run ends with it.
            self._fail_unexpectedly(live, error)
        finally:
            self._dispatcher.release_slot()

    def _fail_unexpectedly(self, live: LiveRun, error: Exception) -> None:
        log.error("unhandled exception in run %s", live.run.id, exc_info=error, extra={"run_id": live.run.id})
        self.end(live, "failed", error=run_error(errors.InternalError()))

    def _pause(self, live: LiveRun, step: Step, fields: Mapping[str, Any]) -> None:
        """Have the run wait for the outputs of tools. Until they come, no process owns it."""
        expires = self._clock() + ACTION_SECONDS
        steps = (*live.run.steps, step)
        paused = replace(live.run, status="requires_action", text=live.text(), steps=steps, expires=expires, **fields)
        try:
            with live.changed:
                is_refused = live.run.is_open and not self._store.pause_run(live.name, paused)
                if live.run.is_open and not is_refused:
                    live.pause(paused)
            if is_refused:
                self.refresh(live)
        except errors.StoreUnavailable as error:
            self.store_available = False
            self.end(live, "failed", error=run_error(error))
        self.release_if_ended(live)

    def _fail_unconfirmed(self, live: LiveRun) -> None:
        """Fail a run that the store did not confirm. If it has it, the failure is written once it is reachable."""
        with live.changed:
            ended = live.run
            if ended.is_open:
                ended = ended.ended_as("failed", self._clock(), error=run_error(errors.StoreUnavailable()))
            live.defer_end(ended, NO_CONTEXT_STARTS)
        self.store_available = False
        self.open.add(live)

    def _write_end(self, live: LiveRun, ended: Run, context_starts: Mapping[str, int]) -> None:
        """Write an end to the store, or keep it until that is possible. The caller holds `live.changed`."""
        try:
            if not self.store_available:
                raise errors.StoreUnavailable
            # A run that is gone was cleared, and clearing cancels.
            stored = self._store.finish_run(live.name, ended, context_starts)
            live.end(stored or replace(ended, status="cancelled"))
            self._observer.count_end(live.run)
        except errors.StoreUnavailable:
            self.store_available = False
            live.defer_end(ended, context_starts)

    def _release(self, live: LiveRun) -> None:
        self.open.discard(live)
        self._dispatcher.remove(live)

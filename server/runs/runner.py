"""Runs: replies written in order, one at a time in each conversation, detached from the requests that asked for them.

A request begins a run, or joins one, and then only waits for it or reads it; when the request leaves, the run goes on.
"""

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from typing import Any

from server import errors
from server.domain import Run, Status, Step
from server.runs.dispatcher import Dispatcher
from server.runs.executor import Executor, RunConfig
from server.runs.live import LiveRun, RunEvents, with_end
from server.runs.local import LocalRuns, run_error
from server.runs.maintenance import Ticker
from server.runs.remote import RemoteRuns
from server.store.protocol import DEFAULT_OPTIONS, CreatedRun, CreateOptions, Store
from server.upstream.protocol import Upstream

FLUSH_SECONDS = 0.25  # How long written text stays unknown to the store, at most.
LOOK_SECONDS = 1.0  # How long a run of another process may have changed without this one hearing of it, at most.

SWEEP_SECONDS = 60.0
ACTION_SECONDS = 600.0  # How long a run waits for the outputs of tools.


class Runner:
    """Writes the replies of one process. No thread is started before the first run."""

    def __init__(
        self, store: Store, upstream: Upstream, limits: RunConfig, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._limits = limits
        self._clock = clock
        self._held = LocalRuns(store, clock)
        self._followed = RemoteRuns(store)
        self._author = Executor(
            store, upstream, limits, clock, self._end, self._pause, lambda: self._turns.release_slot()
        )
        self._turns = Dispatcher(limits.max_concurrent_runs, self._held.start, self._author.start)
        self._ticker = Ticker(FLUSH_SECONDS, self.tick, self._listen, clock)
        self._is_sweeping = False
        self.is_closing = False
        """Whether `begin` refuses, because the process is to end."""

    @property
    def longest_seconds(self) -> float:
        """How long a run may take, until everybody has heard of its end."""
        return self._limits.run_timeout_seconds + 2 * LOOK_SECONDS

    def create(self, draft: Run, options: CreateOptions = DEFAULT_OPTIONS) -> Run:
        """Begin to write a reply as `draft` says, streamed, or find the run that answers it already.

        Raises what `Store.begin` raises, and ShuttingDown.
        """
        return self._begin(self._drafted(draft, streamed=True), options)

    def ask(
        self,
        draft: Run,
        seconds: float,
        is_connected: Callable[[], bool],
        options: CreateOptions = DEFAULT_OPTIONS,
        *,
        streamed: bool = False,
    ) -> Run:
        """`begin`, and then `wait`, whose NotFound is RunCancelled here; the caller waits from the start.

        One who waits no `seconds` gets a new run as it was begun, and has not collected its reply.
        """
        live = self._drafted(draft, streamed)
        if seconds > 0:
            live.add_waiter(is_connected)
        run = self._begin(live, options)
        if run.id == live.run.id:
            return live.wait_registered(seconds, is_connected) if seconds > 0 else run
        if not run.is_active:
            self._collect(run, is_connected)
            return run
        try:
            return self.wait(run.id, seconds, is_connected)
        except errors.NotFound:  # It was there a moment ago, so that it was cleared away in between.
            raise errors.RunCancelled from None

    def _drafted(self, draft: Run, streamed: bool) -> LiveRun:
        return LiveRun(draft.conversation, replace(draft, created=self._clock()), streamed)

    def _begin(self, live: LiveRun, options: CreateOptions) -> Run:
        # Known before it is written down: whoever joins it a moment later must find it, and so must a stop.
        self._held.add(live)
        try:
            self._check_open()
        except errors.Unavailable:
            self._held.forget(live)
            raise
        self._ticker.start()
        has_place = self._turns.acquire_slot()
        try:
            begun = self._written_down(live, options, has_place)
        except BaseException:
            if has_place:
                self._turns.release_slot()
            raise
        if begun.is_new and begun.run.status == "running":
            self._turns.mark_running(live)
            self._author.start(live, begun.conversation)
            return begun.run
        if has_place:
            self._turns.release_slot()
        if begun.is_new:
            self._turns.enqueue(live)
        return begun.run

    def _written_down(self, live: LiveRun, options: CreateOptions, has_place: bool) -> CreatedRun:
        """What the store decided. The run is held afterwards if it is the answer, or if nobody knows."""
        try:
            most = self._limits.max_waiting_runs
            begun = self._store.create_run(live.name, live.run, options, waiting=most, start=has_place)
            if not begun.is_new:
                self._forget(live)
                return begun
            with live.changed:
                live.is_created = True
                if not live.run.is_open:  # It ended before it was written down.
                    self._store.finish_run(live.name, live.run)
        except (errors.Refused, errors.StoreFull):
            self._forget(live)
            raise
        except BaseException:
            self._held.fail_unconfirmed(live)
            raise
        return begun

    def wait(self, run_id: str, seconds: float, is_connected: Callable[[], bool]) -> Run:
        """The run, ended, or still open after `seconds`.

        `is_there` tells whether the caller is still on the line; one who is not does not count as having collected
        the reply. Raises NotFound, and StoreUnavailable where only the store could tell how the run ended.
        """
        live = self._held.get(run_id)
        if live is not None:
            return live.wait(seconds, is_connected)
        self._ticker.start()
        run = self._followed.get(run_id).wait(seconds, is_connected)
        self._collect(run, is_connected)
        return run

    def read(self, run_id: str, position: int, is_connected: Callable[[], bool]) -> RunEvents:
        """The run's text from character `position` on as it is written, then the run, ended; None for each silence.

        `is_there` is as for `wait`. Raises NotFound and InvalidPosition at once; InvalidPosition out of the iteration
        where an open run ends well short of `position`, and StoreUnavailable as `wait`.
        """
        self._ticker.start()
        live = self._held.get(run_id) or self._followed.get(run_id)
        if not live.run.is_open:
            live.check(position)
        return with_end(live.read(position, is_connected), lambda run: self._collect(run, is_connected))

    def cancel(self, run_id: str) -> Run:
        """End a run, keeping what was written; one that has ended stays as it is. Raises NotFound, StoreUnavailable.

        Of a run that another process writes, that is what it had told the store.
        """
        live = self._held.get(run_id)
        if live is not None:
            self._cancel(live)
            return live.run
        run = self._store.get_run(run_id)
        if not run.is_open:
            return run
        kept = self._store.finish_run(run.conversation, run.ended_as("cancelled", self._clock()))
        if kept is None:
            raise errors.NotFound
        return kept

    def resume(self, run: Run) -> Run:
        """Go on with a run that required action, `run` having the outputs, streamed; it keeps its place.

        Raises NoActionRequired where it does not require action any more, ShuttingDown, StoreUnavailable.
        """
        live = LiveRun(run.conversation, replace(run, status="queued", expires=None), streamed=True)
        self._check_open()
        self._ticker.start()
        self._held.resume(live)
        self._turns.enqueue(live)
        return live.run

    def clear(self, name: str) -> None:
        """Forget the conversation's history, after cancelling each of its open runs; nothing of them is kept."""
        self._let_go(self._store.clear_conversation(name))
        self._author.forget(name)

    def delete(self, name: str) -> None:
        """Forget all that there is of the conversation, after cancelling each of its open runs."""
        self._let_go(self._store.delete_conversation(name))
        self._author.forget(name)

    def shut_down(self, seconds: float) -> None:
        """Begin no more, give open runs `seconds` to end, and mark the rest as interrupted, with their text.

        Who waits for a run of another process, or reads it, may go on as long; then StoreUnavailable is raised there.
        """
        self.is_closing = True
        self._followed.wait_until_none(self._held.wait_until_none(seconds))
        self._ticker.stop()
        self._followed.release_waiters()
        self._turns.stop()
        self._held.probe_store()
        for live in self._held.all():
            self._held.retry_pending_end(live)
            if live.run.is_active:
                self._end(live, "interrupted", error=run_error(errors.RunInterrupted()))
                live.abort()

    def tick(self) -> None:
        """What is to be done now and then: silences and leases told, text too, and runs ended whose time is over."""
        self._held.probe_store()
        now = self._clock()
        self._followed.check_keepalive(now)
        for live in self._held.all():
            live.check_keepalive(now)
            if live.pending_end is not None:
                self._held.retry_pending_end(live)
                self._leave(live)
            elif now - live.run.resumed > self._limits.run_timeout_seconds:
                self._end(live, "failed", error=run_error(errors.RunTimedOut()))
                live.abort()
        self._held.flush()
        if self._ticker.is_due("look", LOOK_SECONDS):
            self._followed.update(self._followed.ids())
        if self._held.store_available:
            if self._ticker.is_due("renew", self._limits.lease_seconds / 3):
                self._held.renew()
            if self._is_sweeping or self._ticker.is_due("sweep", SWEEP_SECONDS):
                self._is_sweeping = self._store.sweep(FLUSH_SECONDS / 2)
        self._author.tick()
        self._leave_ended()

    def hear(self, run_ids: Collection[str]) -> None:
        """Take in what other processes did to runs of this one, and to those that it follows."""
        for live in filter(None, map(self._held.get, run_ids)):
            if live.is_created:
                self._held.refresh(live)
        self._followed.update(run_ids)
        self._leave_ended()

    def _listen(self, seconds: float) -> None:
        followed = self._followed.ids()
        if self._held.store_available and (self._held.all() or followed):
            self.hear(self._held.listen(followed, seconds))
        else:
            self._ticker.sleep(seconds)

    def _check_open(self) -> None:
        """Raises ShuttingDown and StoreUnavailable."""
        if self.is_closing:
            raise errors.ShuttingDown
        if not self._held.store_available:
            raise errors.StoreUnavailable

    def _collect(self, run: Run, is_connected: Callable[[], bool]) -> None:
        """Note that the caller has the reply, where nobody waited for it when it was finished."""
        if run.status == "completed" and not run.delivered and is_connected():
            with suppress(errors.StoreUnavailable):  # The worst of it: asked again, the same reply is given.
                self._store.mark_delivered(run.conversation, run.id)

    def _let_go(self, run_ids: Collection[str]) -> None:
        for live in filter(None, map(self._held.get, run_ids)):
            self._cancel(live)

    def _cancel(self, live: LiveRun) -> None:
        self._end(live, "cancelled")
        live.abort()

    def _end(self, live: LiveRun, status: Status, **known: Any) -> None:
        """Write the run's end, tell all who wait, and let the next one have its turn. The first end stands."""
        self._held.end(live, status, **known)
        self._leave(live)

    def _pause(self, live: LiveRun, step: Step, **known: Any) -> None:
        """Have the run wait for outputs of tools. Until they come, nobody holds it."""
        expires = self._clock() + ACTION_SECONDS
        steps = (*live.run.steps, step)
        paused = replace(live.run, status="requires_action", text=live.text(), steps=steps, expires=expires, **known)
        self._held.pause(live, paused)
        self._leave(live)

    def _leave(self, live: LiveRun) -> None:
        """Let go of a run that is to be written no more, or not for now."""
        if not live.run.is_active:
            self._forget(live)

    def _leave_ended(self) -> None:
        """Let go of the runs that other processes have ended, and start those whose turn has come."""
        for live in self._held.all():
            self._leave(live)
        self._turns.dispatch()

    def _forget(self, live: LiveRun) -> None:
        self._held.forget(live)
        self._turns.remove(live)

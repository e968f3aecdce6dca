"""Runs: replies generated in order, one at a time in each conversation, independent of the requests that asked.

A request creates a run, or joins one, and then only waits for it or reads it. If the request ends, the run continues.
"""

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace

from server import errors
from server.domain import Run
from server.metrics import Metrics
from server.runs.config import RunConfig
from server.runs.events import RunEvents, notify_end
from server.runs.executor import Executor
from server.runs.live import LiveRun
from server.runs.local import LocalRuns
from server.runs.maintenance import REFRESH_SECONDS, Ticker
from server.runs.observer import Observer
from server.runs.remote import RemoteRuns
from server.store.limits import NO_LIMITS, RunLimits
from server.store.protocol import DEFAULT_OPTIONS, CreateOptions, Store
from server.upstream.protocol import Upstream
from server.upstream.tracing import Tracing


class Runner:
    """The runs of one process. It starts no thread before the first run. Safe from any thread."""

    def __init__(
        self,
        store: Store,
        upstream: Upstream,
        config: RunConfig,
        clock: Callable[[], float] = time.time,
        metrics: Metrics | None = None,
        tracing: Tracing | None = None,
        log_run: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Without `metrics`, what is counted is not shown; without `tracing`, nothing is traced.

        `log_run` is called, on the thread of the request, with the id of each run that it creates, joins or reads.
        """
        metrics = metrics or Metrics()
        self._store = store
        self._config = config
        self._clock = clock
        self._log_run = log_run
        self._observer = Observer(metrics, upstream, tracing)
        self._executor = Executor(store, upstream, config, clock, self._observer)
        self._local = LocalRuns(store, self._executor, config, clock, self._observer)
        metrics.runs_open.watch(self._local.open.count)
        metrics.runs_waiting.watch(self._local.count_waiting)
        self._remote = RemoteRuns(store)
        self.ticker = Ticker(self._local, self._remote, self._executor, store, config, clock)

    @property
    def is_closing(self) -> bool:
        """Whether `create` raises ShuttingDown."""
        return self._local.is_closing

    @property
    def max_wait_seconds(self) -> float:
        """How long a run may take until every process knows of its end."""
        return self._config.run_timeout_seconds + 2 * REFRESH_SECONDS

    def create(self, draft: Run, options: CreateOptions = DEFAULT_OPTIONS) -> Run:
        """Create a run as `draft` says, streamed, or find the run that answers it already.

        Raises what `Store.create_run` raises, and ShuttingDown.
        """
        return self._create(self._new(draft, options, streamed=True), options)

    def ask(
        self,
        draft: Run,
        seconds: float,
        is_connected: Callable[[], bool],
        options: CreateOptions = DEFAULT_OPTIONS,
        *,
        streamed: bool = False,
    ) -> Run:
        """`create`, then `wait`; the caller counts as waiting from the start.

        With `seconds` 0, a new run is returned as it was created, and its reply is not delivered. Raises what `create`
        raises, and RunCancelled if the run was cleared meanwhile.
        """
        live = self._new(draft, options, streamed)
        if seconds > 0:
            live.add_waiter(is_connected)
        run = self._create(live, options)
        if run.id == live.run.id:
            return live.wait_registered(seconds, is_connected) if seconds > 0 else run
        if not run.is_active:
            self._mark_delivered(run, is_connected)
            return run
        try:
            return self.wait(run.id, seconds, is_connected)
        except errors.NotFound:  # The store had it a moment ago, so it was cleared in between.
            raise errors.RunCancelled from None

    def wait(self, run_id: str, seconds: float, is_connected: Callable[[], bool]) -> Run:
        """The run, ended or requiring action, or still active after `seconds`.

        `is_connected` tells whether the caller is still connected; if not, the reply does not count as delivered.
        Raises NotFound, and StoreUnavailable if only the store could tell how the run ended.
        """
        live = self._local.open.get(run_id)
        if live is not None:
            return live.wait(seconds, is_connected)
        self.ticker.start()
        run = self._remote.get(run_id).wait(seconds, is_connected)
        self._mark_delivered(run, is_connected)
        return run

    def read(self, run_id: str, position: int, is_connected: Callable[[], bool]) -> RunEvents:
        """The run's text from offset `position` (in characters) on as it is generated, then the run.

        None is yielded as a keep-alive. `is_connected` is as for `wait`. Raises NotFound and InvalidPosition at once;
        the iteration raises InvalidPosition if an open run completes or is cancelled short of `position`, and
        StoreUnavailable as `wait`.
        """
        self.ticker.start()
        live = self._local.open.get(run_id) or self._remote.get(run_id)
        self._log_run(run_id)
        if not live.run.is_open:
            live.check_position(position)
        return notify_end(live.read(position, is_connected), lambda run: self._mark_delivered(run, is_connected))

    def find_conversation(self, run_id: str) -> str:
        """The name of a run's conversation. Raises NotFound, and StoreUnavailable for a run of another process."""
        live = self._local.open.get(run_id)
        return self._store.get_run(run_id).conversation if live is None else live.name

    def cancel(self, run_id: str) -> Run:
        """End a run and keep its text. A run that has ended stays as it is. Raises NotFound, StoreUnavailable.

        Of a run that another process executes, the text is what that process had written to the store.
        """
        live = self._local.open.get(run_id)
        if live is not None:
            self._log_run(run_id)
            self._local.abort(live, "cancelled")
            return live.run
        run = self._store.get_run(run_id)
        self._log_run(run_id)
        if not run.is_open:
            return run
        stored = self._store.finish_run(run.conversation, run.ended_as("cancelled", self._clock()))
        if stored is None:
            raise errors.NotFound
        return stored

    def resume(self, run: Run, limits: RunLimits = NO_LIMITS) -> Run:
        """Continue a run that required action, streamed; `run` has the outputs. It keeps its place in the queue.

        Raises NoActionRequired if it does not require action any more, BudgetExhausted, ShuttingDown, StoreUnavailable.
        """
        live = LiveRun(
            run.conversation, replace(run, status="queued", expires=None, charge=limits.charge), streamed=True
        )
        self.ticker.start()
        self._local.resume(live, limits)
        self._log_run(run.id)
        return live.run

    def clear(self, name: str) -> None:
        """Delete the conversation's history after its open runs are cancelled; nothing of them is kept."""
        self._cancel_local(self._store.clear_conversation(name))
        self._executor.forget_history(name)

    def delete(self, name: str) -> None:
        """Delete the whole conversation. Open runs are cancelled."""
        self._cancel_local(self._store.delete_conversation(name))
        self._executor.forget_history(name)

    def shut_down(self, seconds: float) -> None:
        """Create no more runs, give open ones `seconds` to end, and end the rest as interrupted, with their text.

        Waiters and readers of other processes' runs have the same time; then they get StoreUnavailable.
        """
        self._local.is_closing = True
        self._remote.wait_until_none(self._local.open.wait_until_none(seconds))
        self.ticker.stop()
        self._remote.release_waiters()
        self._local.shut_down()

    def _new(self, draft: Run, options: CreateOptions, streamed: bool) -> LiveRun:
        run = replace(draft, created=self._clock(), charge=options.limits.charge)
        return LiveRun(draft.conversation, run, streamed)

    def _create(self, live: LiveRun, options: CreateOptions) -> Run:
        self._local.admit(live)
        self.ticker.start()
        run = self._local.create(live, options)
        self._log_run(run.id)
        return run

    def _mark_delivered(self, run: Run, is_connected: Callable[[], bool]) -> None:
        """Record that the caller has the reply, if no request waited for it when it was finished."""
        if run.status == "completed" and not run.delivered and is_connected():
            with suppress(errors.StoreUnavailable):  # At worst, the same question is given the same reply again.
                self._store.mark_delivered(run.conversation, run.id)
                self._observer.count_delivery(run.id)

    def _cancel_local(self, run_ids: Collection[str]) -> None:
        for live in filter(None, map(self._local.open.get, run_ids)):
            self._local.abort(live, "cancelled")

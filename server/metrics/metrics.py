"""Everything that the server counts: the only list of its metrics."""

import logging
import os

from server.metrics.families import Counter, Family, Gauge, Histogram, add_series
from server.metrics.folder import Folder, Snapshot

log = logging.getLogger("server.metrics")

REPLY_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
STORE_BUCKETS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
ENDS = ("completed", "failed", "cancelled", "interrupted")
OTHER = "other"
"""The label of every model that the upstream does not list."""


class Metrics:
    """The metrics of one process, and of all workers of its server once `share` was called. Safe from any thread."""

    def __init__(self) -> None:
        self.requests = Counter(
            "conversation_requests", "HTTP requests, by API, route and status.", ("door", "route", "status")
        )
        self.runs = Counter(
            "conversation_runs", "Runs that have ended, by their status.", ("end",), known=[(end,) for end in ENDS]
        )
        self.first_text = Histogram(
            "conversation_first_text_seconds", "From the creation of a run to its first text.", REPLY_BUCKETS
        )
        self.upstream = Histogram(
            "conversation_upstream_seconds", "Duration of a call to the model's server.", REPLY_BUCKETS
        )
        self.upstream_errors = Counter(
            "conversation_upstream_errors", "Failed calls to the model's server, by error code.", ("code",)
        )
        self.tokens = Counter("conversation_tokens", "Tokens, as the model's server counted them.", ("kind", "model"))
        self.runs_waiting = Gauge("conversation_runs_waiting", "Runs that wait for their turn.", outlives_worker=False)
        self.runs_open = Gauge(
            "conversation_runs_open", "Runs that wait or are being generated.", outlives_worker=False
        )
        self.store = Histogram(
            "conversation_store_seconds", "Duration of a call to the store.", STORE_BUCKETS, ("call",)
        )
        self.store_errors = Counter("conversation_store_errors", "Calls that the store failed.", known=[()])
        self.uncollected = Gauge(
            "conversation_replies_uncollected",
            "Replies that completed while nobody waited for them and that nobody has fetched since.",
            outlives_worker=True,
        )
        self.families = tuple(each for each in vars(self).values() if isinstance(each, Family))
        self._folder: Folder | None = None
        self._written: Snapshot = {}
        self._has_failed = False
        """Whether the folder failed at the last attempt, so that the log has it once."""

    def share(self, folder: Folder | None) -> None:
        """Share the numbers through `folder` from now on. To be called after a fork."""
        self._folder = folder

    def flush(self) -> None:
        """Hand the numbers to the other workers, if they have changed. Raises nothing."""
        if self._folder is None:
            return
        snapshot = self._take_snapshot()
        if snapshot == self._written:
            return
        try:
            self._folder.write(os.getpid(), snapshot)
            self._written = snapshot
            self._has_failed = False
        except OSError as error:
            if not self._has_failed:
                log.warning("metrics cannot be shared with other workers: %s", type(error).__name__)
            self._has_failed = True

    def read(self) -> Snapshot:
        """The sums over all workers, those that have ended included.

        Raises OSError if the folder is lost: the numbers of one worker alone would pass for those of all.
        """
        self.flush()  # What was seen once stays, even if this worker is killed.
        total = self._take_snapshot()
        if self._folder is not None:
            for snapshot in self._folder.read(without=os.getpid()):
                for name, series in snapshot.items():
                    add_series(total.setdefault(name, {}), series)
        return total

    def render(self) -> bytes:
        """The sums in Prometheus' text format 0.0.4. Raises as `read`."""
        from server.metrics.exposition import render  # Imports prometheus-client, which only a scrape needs.

        return render(self.families, self.read())

    def retire(self, snapshot: Snapshot) -> Snapshot:
        """What stays of the numbers of a worker that has ended.

        Runs that it left open, because it was killed, count as interrupted: that is how others read them.
        """
        kept = dict(snapshot)
        for each in self.families:
            if isinstance(each, Gauge) and not each.outlives_worker:
                kept.pop(each.name, None)
        left_open = snapshot.get(self.runs_open.name, {}).get((), [0.0])
        ends = {**kept.get(self.runs.name, {})}
        add_series(ends, {("interrupted",): left_open})
        return {**kept, self.runs.name: ends}

    def _take_snapshot(self) -> Snapshot:
        return {each.name: each.read() for each in self.families}

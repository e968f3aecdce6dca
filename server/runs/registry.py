"""The open runs of this process by id."""

import threading
import time

from server.runs.live import LiveRun


class OpenRuns:
    """A dictionary of runs that tells when it is empty. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._empty = threading.Condition(self._lock)
        self._runs: dict[str, LiveRun] = {}

    def get(self, run_id: str) -> LiveRun | None:
        return self._runs.get(run_id)

    def count(self) -> int:
        return len(self._runs)

    def all(self) -> list[LiveRun]:
        with self._lock:
            return list(self._runs.values())

    def add(self, live: LiveRun) -> None:
        with self._lock:
            self._runs[live.run.id] = live

    def discard(self, live: LiveRun) -> None:
        """Remove a run. Another LiveRun with the same id stays: a run that continues with the outputs of tools."""
        with self._lock:
            if self._runs.get(live.run.id) is live:
                del self._runs[live.run.id]
            if not self._runs:
                self._empty.notify_all()

    def wait_until_none(self, seconds: float) -> float:
        """Block until no run is open, for at most `seconds`. Returns the seconds that are left."""
        until = time.monotonic() + seconds
        with self._empty:
            self._empty.wait_for(lambda: not self._runs, seconds)
        return until - time.monotonic()

"""What a process does now and then, whether or not anybody asks."""

import logging
import threading
import time
from collections.abc import Callable

from server.errors import StoreUnavailable

log = logging.getLogger("server.runs")


class Ticker:
    """A thread that calls `tick` every `seconds`, and spends the time between them in `listen`.

    `listen` takes the seconds that are left, and may come back early.
    """

    def __init__(
        self, seconds: float, tick: Callable[[], None], listen: Callable[[float], None], clock: Callable[[], float]
    ) -> None:
        self._seconds = seconds
        self._tick = tick
        self._listen = listen
        self._clock = clock
        self._due: dict[str, float] = {}
        """When each chore of the ticks is to be done again."""
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin, unless it has begun."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ticker", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def sleep(self, seconds: float) -> None:
        """Wait, but not beyond `stop`."""
        self._stopped.wait(seconds)

    def is_due(self, chore: str, seconds: float) -> bool:
        """Whether `chore`, which is done every `seconds`, is to be done now; it counts as done then."""
        now = self._clock()
        if now < self._due.get(chore, 0.0):
            return False
        self._due[chore] = now + seconds
        return True

    def _run(self) -> None:
        due = time.monotonic() + self._seconds
        while not self._stopped.is_set():
            try:
                left = due - time.monotonic()
                if left > 0:
                    self._listen(left)
                else:
                    due = time.monotonic() + self._seconds
                    self._tick()
            except StoreUnavailable:
                self.sleep(self._seconds)
            except Exception:
                log.exception("a tick failed for a reason that has no name")
                self.sleep(self._seconds)

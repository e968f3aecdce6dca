"""Whose turn it is: one run at a time in each conversation, and as many at once as the process has places."""

import threading
from collections.abc import Callable

from server.domain import Conversation
from server.runs.live import LiveRun


class Dispatcher:
    """The turns of the runs of one process. The store has the last word, since other processes have runs too."""

    def __init__(
        self,
        places: int,
        start: Callable[[LiveRun], Conversation | None],
        write: Callable[[LiveRun, Conversation], None],
    ) -> None:
        """`start` asks the store: the conversation as it is when the run has its turn, None while it has not.

        It is then written with `write`.
        """
        self._start = start
        self._write = write
        self._lock = threading.Lock()
        self._free = places
        self._queued: dict[str, LiveRun] = {}
        """The runs whose turn has not come, oldest first, by id."""
        self._held: dict[str, LiveRun] = {}
        """The run that has its conversation's turn in this process, by the conversation's name."""
        self._looks = 0
        """How often `advance` was called since the thread that looks for queued runs began to; 0 where none does."""
        self._stopped = False

    def acquire_slot(self) -> bool:
        """Whether there was a place left; it is the caller's then."""
        with self._lock:
            has_place = self._free > 0
            self._free -= has_place
            return has_place

    def release_slot(self) -> None:
        with self._lock:
            self._free += 1
        self.dispatch()

    def mark_running(self, live: LiveRun) -> None:
        """It was begun as running."""
        with self._lock:
            if live.run.is_open:  # else it was cleared away in this instant
                self._held[live.name] = live

    def enqueue(self, live: LiveRun) -> None:
        with self._lock:
            if live.run.is_open:
                self._queued[live.run.id] = live
        self.dispatch()

    def remove(self, live: LiveRun) -> None:
        """It has ended, whether it had its turn or not; the run may go on as another LiveRun, with outputs of tools."""
        with self._lock:
            self._forget(live)
        self.dispatch()

    def stop(self) -> None:
        """No queued run is started from now on."""
        self._stopped = True

    def dispatch(self) -> None:
        """Start each queued run whose turn has come, as far as there are free places.

        One thread at a time looks, and looks again for each that would have: an attempt that fails held a turn and a
        place meanwhile, and who found them taken must not have looked in vain.
        """
        with self._lock:
            if not self._queued:
                return
            self._looks += 1
            if self._looks > 1:
                return
        seen = 0
        while True:
            with self._lock:
                if self._looks == seen:
                    self._looks = 0
                    return
                seen = self._looks
            try:
                self._start_queued()
            except BaseException:
                with self._lock:
                    self._looks = 0
                raise

    def _start_queued(self) -> None:
        for live in list(self._queued.values()):
            with self._lock:
                if not self._free or self._stopped:
                    return
                if live.name in self._held or self._queued.get(live.run.id) is not live:
                    continue
                self._free -= 1
                self._held[live.name] = live
            conversation = None
            try:
                conversation = self._start(live)
            finally:
                with self._lock:
                    if conversation is None:
                        self._free += 1
                        self._let_go(live)
                    elif self._queued.get(live.run.id) is live:
                        del self._queued[live.run.id]
            if conversation is not None:
                self._write(live, conversation)

    def _forget(self, live: LiveRun) -> None:
        if self._queued.get(live.run.id) is live:
            del self._queued[live.run.id]
        self._let_go(live)

    def _let_go(self, live: LiveRun) -> None:
        if self._held.get(live.name) is live:
            del self._held[live.name]

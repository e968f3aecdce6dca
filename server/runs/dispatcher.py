"""Decides which queued run starts next: one run at a time in each conversation, and at most `slots` in the process."""

import threading
from collections.abc import Callable

from server.domain import Conversation
from server.runs.live import LiveRun


class Dispatcher:
    """The queue of one process. The store has the last word, since other processes have runs of the same conversations.

    Safe from any thread.
    """

    def __init__(
        self,
        slots: int,
        start: Callable[[LiveRun], Conversation | None],
        execute: Callable[[LiveRun, Conversation], None],
    ) -> None:
        """`start` asks the store: it returns the conversation if the run starts, None if its turn has not come.

        A run that starts is given to `execute`, which must not block.
        """
        self._start = start
        self._execute = execute
        self._lock = threading.Lock()
        self._free_slots = slots
        self._queued: dict[str, LiveRun] = {}
        """The runs whose turn has not come, by id, oldest first."""
        self._running: dict[str, LiveRun] = {}
        """The run that this process executes in each conversation, by the conversation's name."""
        self._requests = 0
        """How often `dispatch` was called since the thread that dispatches began; 0 if none does."""
        self._stopped = False

    def count_waiting(self) -> int:
        """How many runs of this process wait for their turn or for a slot."""
        return len(self._queued)

    def acquire_slot(self) -> bool:
        """Take a slot if one is free. The caller must give it back, or hand it to a run that is executed."""
        with self._lock:
            has_slot = self._free_slots > 0
            self._free_slots -= has_slot
            return has_slot

    def release_slot(self) -> None:
        with self._lock:
            self._free_slots += 1
        self.dispatch()

    def mark_running(self, live: LiveRun) -> None:
        """Record a run that was created as running."""
        with self._lock:
            if live.run.is_open:  # Else it was cleared in this instant.
                self._running[live.name] = live

    def enqueue(self, live: LiveRun) -> None:
        with self._lock:
            if live.run.is_open:
                self._queued[live.run.id] = live
        self.dispatch()

    def remove(self, live: LiveRun) -> None:
        """Remove a run that has ended, queued or running. Another LiveRun of the same run is left in place."""
        with self._lock:
            if self._queued.get(live.run.id) is live:
                del self._queued[live.run.id]
            self._remove_running(live)
        self.dispatch()

    def stop(self) -> None:
        """Start no queued run from now on."""
        self._stopped = True

    def dispatch(self) -> None:
        """Start each queued run whose turn has come, as long as slots are free.

        One thread at a time dispatches. It goes through the queue again for each call that came meanwhile, since an
        attempt that failed held a turn and a slot for a moment, and that call may have missed them.
        """
        with self._lock:
            if not self._queued:
                return
            self._requests += 1
            if self._requests > 1:
                return
        served = 0
        while True:
            with self._lock:
                if self._requests == served:
                    self._requests = 0
                    return
                served = self._requests
            try:
                self._start_queued()
            except BaseException:
                with self._lock:
                    self._requests = 0
                raise

    def _start_queued(self) -> None:
        for live in list(self._queued.values()):
            with self._lock:
                if not self._free_slots or self._stopped:
                    return
                if live.name in self._running or self._queued.get(live.run.id) is not live:
                    continue
                self._free_slots -= 1
                self._running[live.name] = live
            conversation = None
            try:
                conversation = self._start(live)
            finally:
                with self._lock:
                    if conversation is None:
                        self._free_slots += 1
                        self._remove_running(live)
                    elif self._queued.get(live.run.id) is live:
                        del self._queued[live.run.id]
            if conversation is not None:
                self._execute(live, conversation)

    def _remove_running(self, live: LiveRun) -> None:
        if self._running.get(live.name) is live:
            del self._running[live.name]

"""Threads that stay for the next call.

A thread for each would cost a seventh of a request under gevent. The standard library's pool holds everybody who asks
for a thread up while one is started, one after another, and of a burst each needs one.
"""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, ParamSpec

P = ParamSpec("P")


class ThreadPool(Generic[P]):
    """As many as calls were ever made at once. They end with the process."""

    def __init__(self, name: str, call: Callable[P, None]) -> None:
        """`call` lets nothing escape."""
        self._name = name
        self._call = call
        self._lock = threading.Lock()
        self._idle = 0
        """Those that wait, less what is due."""
        self._due: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def submit(self, *arguments: P.args, **more: P.kwargs) -> None:
        """Make the call, and do not wait for it. Raises RuntimeError where the system has no thread left for it."""

        def call() -> None:
            self._call(*arguments, **more)

        with self._lock:
            has_idle = self._idle > 0
            self._idle -= has_idle
        if has_idle:
            self._due.put(call)
        else:
            threading.Thread(target=self._work, args=([call],), name=self._name, daemon=True).start()

    def _work(self, first: list[Callable[[], None]]) -> None:
        call = first.pop()  # The thread itself holds what it was started with to its end.
        while True:
            call()
            del call  # What it was made with may be large.
            with self._lock:
                self._idle += 1
            call = self._due.get()

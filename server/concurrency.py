"""Threads: a pool that grows without limit, and computations and calls that block even under gevent."""

import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from importlib import import_module
from queue import SimpleQueue
from typing import Any, Generic, ParamSpec

P = ParamSpec("P")

SLICE_SECONDS = 0.002
"""How long a computation goes on before others run. With longer slices, each of those waits longer for its turn."""


class ThreadPool(Generic[P]):
    """An unbounded pool of threads for one function. Its threads end with the process.

    Reusing threads saves about 14 % of a request's CPU under gevent. `ThreadPoolExecutor` is not used because it starts
    threads one at a time under a lock, which delays bursts.
    """

    def __init__(self, name: str, call: Callable[P, None]) -> None:
        """`call` must not raise."""
        self._name = name
        self._call = call
        self._lock = threading.Lock()
        self._idle = 0
        """How many threads wait for a task, less the tasks in `_tasks`."""
        self._tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def submit(self, *arguments: P.args, **more: P.kwargs) -> None:
        """Make the call in a thread and return at once. Raises RuntimeError if the system cannot start a thread."""

        def task() -> None:
            self._call(*arguments, **more)

        with self._lock:
            has_idle = self._idle > 0
            self._idle -= has_idle
        if has_idle:
            self._tasks.put(task)
        else:
            threading.Thread(target=self._run_tasks, args=([task],), name=self._name, daemon=True).start()

    def _run_tasks(self, first: list[Callable[[], None]]) -> None:
        task = first.pop()  # From a list, because the thread keeps a reference to its arguments until it ends.
        while True:
            task()
            del task  # Its arguments may be large.
            with self._lock:
                self._idle += 1
            task = self._tasks.get()


class Pauses:
    """Lets other threads run during a long computation in one of them, which under gevent has to stop for that."""

    def __init__(self) -> None:
        self._resumed = time.monotonic()

    def take(self) -> None:
        """Pause if the last pause was more than SLICE_SECONDS ago."""
        if time.monotonic() - self._resumed > SLICE_SECONDS:
            time.sleep(0)
            self._resumed = time.monotonic()


def run_in_os_thread(call: Callable[[], object]) -> None:
    """Make a blocking call and wait for its end; raises what it raises. Under gevent, the call runs in an OS thread.

    A call that blocks an OS thread, such as a wait for the disk, would otherwise stop every greenlet of the process.
    The call must not wait for what greenlets hold: locks, events, sockets. If the waiting greenlet is killed, the kill
    takes effect after the call. This is the only function that knows about gevent.
    """
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("threading"):
        call()
        return

    def catch() -> Exception | None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - The pool would print it.
            return error
        return None

    outcome = _os_thread_pool().spawn(catch)
    interruption: BaseException | None = None
    while not outcome.ready():
        try:
            outcome.wait()
        except BaseException as error:  # noqa: BLE001 - It is raised again, below.
            interruption = error
    failure = interruption or outcome.value
    if failure is not None:
        raise failure


@cache
def _os_thread_pool() -> Any:
    # Not the hub's own pool: all its threads may be busy resolving host names.
    return import_module("gevent.threadpool").ThreadPool(1)

"""The one place that knows that gevent may be there: what truly blocks must not hold up its whole process."""

import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any


def in_os_thread(call: Callable[[], object]) -> None:
    """Make a call and wait for its end; raises what it raises. Where threads are gevent's, it is made in a real one.

    It must not wait for what gevent's threads hold: locks, events, sockets. A thread that is to end while it waits here
    does so after the call.
    """
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("threading"):
        call()
        return

    def caught() -> Exception | None:
        try:
            call()
        except Exception as problem:  # noqa: BLE001 - The pool would print it.
            return problem
        return None

    outcome = _pool().spawn(caught)
    interruption: BaseException | None = None
    while not outcome.ready():
        try:
            outcome.wait()
        except BaseException as interrupted:  # noqa: BLE001 - It is raised again, below.
            interruption = interrupted
    problem = interruption or outcome.value
    if problem is not None:
        raise problem


@cache
def _pool() -> Any:
    # Not the hub's own, whose threads may all be waiting for names to be resolved.
    return import_module("gevent.threadpool").ThreadPool(1)

"""Signals that arrive while a process starts, before gunicorn has handlers of its own."""

import os
import signal
from typing import Any

END_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def exit_now(*_: Any) -> None:
    """A signal handler that ends the process with exit code 0 and runs no clean-up.

    No request was served yet, and a regular exit through half-imported modules prints a traceback.
    """
    os._exit(0)


def end_while_starting() -> None:
    """Let SIGTERM and SIGINT end this process cleanly until gunicorn replaces the handlers.

    Handlers that are not Python's defaults stay: at a reload they are gunicorn's. SIGTERM, which run.py blocks across
    its exec, is unblocked.
    """
    for number, default in ((signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        if signal.getsignal(number) is default:
            signal.signal(number, exit_now)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def end_while_booting(arbiter: Any) -> None:
    """Let a signal end a freshly forked worker until the worker replaces the handlers.

    The handlers that a worker inherits put the signal into the arbiter's queue, which no thread of the worker reads:
    the arbiter would wait for the worker and then kill it. A signal that the arbiter received before the fork is in
    the worker's copy of the queue and ends the worker too.
    """
    for number in END_SIGNALS:
        signal.signal(number, exit_now)
    while not arbiter.SIG_QUEUE.empty():
        if arbiter.SIG_QUEUE.get_nowait() in END_SIGNALS:
            exit_now()

"""The thread pool: unbounded, and its threads are reused."""

import gc
import threading
import time
import weakref

from server.concurrency import ThreadPool


class Work:
    """A call that ends when `finish` is set."""

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self.started = threading.Event()
        self.finish = threading.Event()

    def run(self) -> None:
        self.thread = threading.current_thread()
        self.started.set()
        assert self.finish.wait(10)


def test_calls_are_made_beside_each_other_however_many() -> None:
    threads = ThreadPool("test", Work.run)
    works = [Work() for _ in range(100)]
    for work in works:
        threads.submit(work)
    assert all(work.started.wait(10) for work in works)
    assert len({work.thread for work in works}) == 100
    for work in works:
        work.finish.set()


def test_a_thread_whose_call_has_ended_makes_the_next_and_holds_nothing_of_the_last() -> None:
    called = threading.Semaphore(0)
    seen: list[threading.Thread] = []

    def call(work: Work) -> None:
        seen.append(threading.current_thread())
        called.release()

    threads = ThreadPool("test", call)
    for _ in range(3):
        work = Work()
        held = weakref.ref(work)
        threads.submit(work)
        assert called.acquire(timeout=10)
        del work
        await_idle(threads)
        gc.collect()
        assert held() is None
    assert len(set(seen)) == 1


def await_idle(threads: ThreadPool) -> None:
    """Wait until the pool counts the thread of a call that ended as idle."""
    until = time.monotonic() + 10
    while not threads._idle:
        assert time.monotonic() < until

"""Access to one SQLite file: a connection for reads, and one for writes that share commits."""

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from server.concurrency import run_in_os_thread
from server.errors import AppError, StoreUnavailable
from server.store.sqlite import schema

log = logging.getLogger("server.store")

BUSY_SECONDS = 1.5
"""A write fails if another process keeps the file locked for longer."""
FAILURES = (sqlite3.Error, OSError, schema.UnusableFile)
WRITE_SETTINGS = ("PRAGMA synchronous = FULL", "PRAGMA secure_delete = ON", "PRAGMA busy_timeout = 0")

T = TypeVar("T")
Call = Callable[[sqlite3.Connection], T]


class Connection:
    """A connection that opens at first use, and again after a failure, after a fork, or if the file was replaced."""

    def __init__(self, path: Path, settings: Sequence[str] = ()) -> None:
        self._path = path
        self._settings = settings
        self._db: sqlite3.Connection | None = None
        self._identity: tuple[int, ...] = ()

    def open(self) -> sqlite3.Connection:
        """Raises one of FAILURES."""
        file = os.stat(self._path)  # noqa: PTH116 - Runs before every call, and is twice as fast as Path's.
        identity = (file.st_dev, file.st_ino, os.getpid())
        if self._db is None or self._identity != identity:
            self.close()
            self._db = self._connect()
            self._identity = identity
        return self._db

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
        self._db = None

    def release(self) -> None:
        """Let the connection close as soon as no thread uses it any more."""
        self._db = None

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(
            f"{self._path.as_uri()}?mode=rw",
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            uri=True,
        )
        schema.check_version(db, at_least=len(schema.MIGRATIONS))
        for setting in self._settings:
            db.execute(setting)
        return db


class Reader:
    """Makes reads, one at a time. They never wait for a write."""

    def __init__(self, path: Path) -> None:
        self._connection = Connection(path)
        self._lock = threading.Lock()

    def read(self, call: Call[T]) -> T:
        """Raises StoreUnavailable."""
        with self._lock:
            try:
                return call(self._connection.open())
            except FAILURES as error:
                self._connection.close()
                log_failure(error)
                raise StoreUnavailable from None

    def close(self) -> None:
        with self._lock:
            self._connection.close()


class PendingWrite:
    """A call in the queue of the GroupCommitWriter, and its outcome."""

    __slots__ = ("call", "error", "is_leading", "is_long", "result", "turn")

    def __init__(self, call: Call[Any], is_long: bool) -> None:
        self.call = call
        self.is_long = is_long
        self.is_leading = False
        """Whether its own thread makes this call and all others in the queue."""
        self.turn = threading.Lock()
        """Held until the call was made or its own thread becomes the leader; not held if that thread leads at once."""
        self.result: Any = None
        self.error: Exception | None = None


class GroupCommitWriter:
    """Makes writes. All writes that wait at one moment share a transaction, and so one wait for the disk.

    One of the waiting threads, the leader, makes the calls of all.
    """

    def __init__(self, path: Path) -> None:
        self._connection = Connection(path, WRITE_SETTINGS)
        self._lock = threading.Lock()
        self._queue: list[PendingWrite] = []
        self._has_leader = False

    def write(self, call: Call[T], *, is_long: bool = False, timeout: float = -1) -> T:
        """Make `call` and return its result once its writes are on the disk.

        Calls are made one after another. None may wait for anything. A call that may take more than a millisecond must
        be given as long. If a call raises an AppError, what it wrote before is kept; if it raises any other exception,
        what it wrote is undone. `timeout` is how many seconds the call may wait in the queue; -1: without limit.
        Raises what the call raises, and StoreUnavailable.
        """
        write = PendingWrite(call, is_long)
        with self._lock:
            self._queue.append(write)
            write.is_leading = not self._has_leader
            self._has_leader = True
            if not write.is_leading:
                write.turn.acquire()
        if not write.is_leading:
            self._wait(write, timeout)
        if write.is_leading:
            self._lead()
        if write.error is not None:
            raise write.error
        result: T = write.result
        return result

    def close(self) -> None:
        with self._lock:
            if self._has_leader:
                self._connection.release()
            else:
                self._connection.close()

    def _wait(self, write: PendingWrite, timeout: float) -> None:
        try:
            if not write.turn.acquire(timeout=timeout):
                log_failure(schema.UnusableFile(schema.STUCK))
                raise StoreUnavailable
        except BaseException:  # Also if gevent kills this thread: then it must not stay in the queue, or lead it.
            with self._lock:
                if write in self._queue:
                    self._queue.remove(write)
                    if write.is_leading:
                        self._appoint_leader()
            raise

    def _appoint_leader(self) -> None:
        """Let the thread of the first write in the queue lead. To be called with the lock held."""
        self._has_leader = bool(self._queue)
        for first in self._queue[:1]:
            first.is_leading = True
            first.turn.release()

    def _lead(self) -> None:
        """Make all calls in the queue."""
        with self._lock:
            batch, self._queue = self._queue, []
        has_failed = True
        try:
            self._commit(batch)
            has_failed = False
        except FAILURES as error:
            log_failure(error)
        finally:
            with self._lock:
                if has_failed:
                    self._connection.close()
                    # Writes that joined the queue meanwhile fail too: one by one, each would wait for the same failure.
                    batch += self._queue
                    self._queue = []
                    for each in batch:
                        each.error = StoreUnavailable()
                self._appoint_leader()
            for each in batch:
                if each.turn.locked():
                    each.turn.release()

    def _commit(self, batch: Sequence[PendingWrite]) -> None:
        db = self._connection.open()
        begin_transaction(db)
        if any(write.is_long for write in batch):
            run_in_os_thread(lambda: make_calls(db, batch))
        else:
            make_calls(db, batch)
        run_in_os_thread(lambda: db.execute("COMMIT"))


def begin_transaction(db: sqlite3.Connection) -> None:
    try:
        db.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if not is_busy(error):
            raise
        run_in_os_thread(lambda: begin_with_retries(db))


def begin_with_retries(db: sqlite3.Connection) -> None:
    """Retry every millisecond for BUSY_SECONDS.

    SQLite's own busy handler backs off to a tenth of a second, while other processes keep getting the lock first.
    """
    until = time.monotonic() + BUSY_SECONDS
    db.execute("PRAGMA busy_timeout = 1")
    while True:
        try:
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > until:
                raise
        else:
            break
    db.execute("PRAGMA busy_timeout = 0")


def make_calls(db: sqlite3.Connection, batch: Sequence[PendingWrite]) -> None:
    for write in batch:
        db.execute("SAVEPOINT write")
        try:
            write.result = write.call(db)
        except AppError as error:
            write.error = error
        except FAILURES:
            raise
        except Exception as error:  # noqa: BLE001 - It is raised again, in the thread that made this call.
            write.error = error
            db.execute("ROLLBACK TO write")
        db.execute("RELEASE write")


def is_busy(error: sqlite3.Error) -> bool:
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def log_failure(error: Exception) -> None:
    cause = getattr(error, "sqlite_errorname", type(error).__name__)
    log.error("the SQLite store failed: %s (%s)", schema.find_remedy(error), cause)

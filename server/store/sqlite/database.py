"""One SQLite file: connections that open at first use, reads beside writes, and writes that share commits."""

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from server.errors import AppError, StoreUnavailable
from server.store.sqlite import schema
from server.store.sqlite.blocking import in_os_thread

log = logging.getLogger("server.store")

BUSY_SECONDS = 1.5
"""How long another process may keep the file locked until a call fails."""
FAILURES = (sqlite3.Error, OSError, schema.Unusable)
WRITING = ("PRAGMA synchronous = FULL", "PRAGMA secure_delete = ON", "PRAGMA busy_timeout = 0")

T = TypeVar("T")
Call = Callable[[sqlite3.Connection], T]


class Connection:
    """A connection: opened at first use, and anew after a failure, in a new process, or where another file is there."""

    def __init__(self, path: Path, settings: Sequence[str] = ()) -> None:
        self._path = path
        self._settings = settings
        self._db: sqlite3.Connection | None = None
        self._identity: tuple[int, ...] = ()

    def open(self) -> sqlite3.Connection:
        """Raises one of FAILURES."""
        file = os.stat(self._path)  # noqa: PTH116 - Before every call, and twice as fast as Path's.
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

    def leave(self) -> None:
        """As `close`, as soon as nobody uses the connection any more."""
        self._db = None

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(
            f"{self._path.as_uri()}?mode=rw",
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            uri=True,
        )
        schema.check(db, at_least=len(schema.MIGRATIONS))
        for setting in self._settings:
            db.execute(setting)
        return db


class Reader:
    """Reads, one at a time; they wait for no writer."""

    def __init__(self, path: Path) -> None:
        self._link = Connection(path)
        self._lock = threading.Lock()

    def read(self, call: Call[T]) -> T:
        with self._lock:
            try:
                return call(self._link.open())
            except FAILURES as problem:
                self._link.close()
                complain(problem)
                raise StoreUnavailable from None

    def close(self) -> None:
        with self._lock:
            self._link.close()


class PendingWrite:
    """A call that waits to be made in a transaction, and what came of it."""

    __slots__ = ("call", "is_leading", "is_long", "problem", "result", "turn")

    def __init__(self, call: Call[Any], is_long: bool) -> None:
        self.call = call
        self.is_long = is_long
        self.is_leading = False
        """Whether its own thread is to make it, and all others that wait."""
        self.turn = threading.Lock()
        """Held from the start where another thread leads, until the call was made or its own thread is to lead."""
        self.result: Any = None
        self.problem: Exception | None = None


class GroupCommitWriter:
    """Writes: those that wait at one moment share one transaction, and its one wait for the disk."""

    def __init__(self, path: Path) -> None:
        self._link = Connection(path, WRITING)
        self._lock = threading.Lock()
        self._waiting: list[PendingWrite] = []
        self._is_led = False
        """Whether a thread makes calls, or is to."""

    def write(self, call: Call[T], *, is_long: bool = False, patience: float = -1) -> T:
        """What `call` returns, once what it wrote is on the disk.

        Calls are made one after another. None may wait for anything, and one that may take more than a millisecond is
        long. What was written before a ServerError is raised stands. `patience` is how many seconds it may wait behind
        others; -1 has no end.
        """
        mine = PendingWrite(call, is_long)
        with self._lock:
            self._waiting.append(mine)
            mine.is_leading = not self._is_led
            self._is_led = True
            if not mine.is_leading:
                mine.turn.acquire()
        if not mine.is_leading:
            self._wait(mine, patience)
        if mine.is_leading:
            self._lead()
        if mine.problem is not None:
            raise mine.problem
        result: T = mine.result
        return result

    def close(self) -> None:
        with self._lock:
            if self._is_led:
                self._link.leave()
            else:
                self._link.close()

    def _wait(self, mine: PendingWrite, patience: float) -> None:
        try:
            if not mine.turn.acquire(timeout=patience):
                complain(schema.Unusable(schema.STUCK))
                raise StoreUnavailable
        except BaseException:  # It may also be that the thread is to end; nobody must wait for it then.
            with self._lock:
                if mine in self._waiting:
                    self._waiting.remove(mine)
                    if mine.is_leading:
                        self._pass_on()
            raise

    def _pass_on(self) -> None:
        """Let the first who waits lead. To be called with the lock held."""
        self._is_led = bool(self._waiting)
        for first in self._waiting[:1]:
            first.is_leading = True
            first.turn.release()

    def _lead(self) -> None:
        """Make all calls that wait."""
        with self._lock:
            batch, self._waiting = self._waiting, []
        has_failed = True
        try:
            self._commit(batch)
            has_failed = False
        except FAILURES as problem:
            complain(problem)
        finally:
            with self._lock:
                if has_failed:
                    self._link.close()
                    # Who came meanwhile would only meet the same, each in its turn.
                    batch += self._waiting
                    self._waiting = []
                    for each in batch:
                        each.problem = StoreUnavailable()
                self._pass_on()
            for each in batch:
                if each.turn.locked():
                    each.turn.release()

    def _commit(self, batch: Sequence[PendingWrite]) -> None:
        db = self._link.open()
        begin(db)
        if any(write.is_long for write in batch):
            in_os_thread(lambda: make(db, batch))
        else:
            make(db, batch)
        in_os_thread(lambda: db.execute("COMMIT"))


def begin(db: sqlite3.Connection) -> None:
    try:
        db.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as problem:
        if not is_busy(problem):
            raise
        in_os_thread(lambda: begin_patiently(db))


def begin_patiently(db: sqlite3.Connection) -> None:
    """Look every millisecond: SQLite's own waits grow to a tenth of a second, and others come first all the while."""
    until = time.monotonic() + BUSY_SECONDS
    db.execute("PRAGMA busy_timeout = 1")
    while True:
        try:
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as problem:
            if not is_busy(problem) or time.monotonic() > until:
                raise
        else:
            break
    db.execute("PRAGMA busy_timeout = 0")


def make(db: sqlite3.Connection, batch: Sequence[PendingWrite]) -> None:
    for write in batch:
        db.execute("SAVEPOINT write")
        try:
            write.result = write.call(db)
        except AppError as refused:
            write.problem = refused
        except FAILURES:
            raise
        except Exception as fault:  # noqa: BLE001 - It is raised again, in the thread whose call this is.
            write.problem = fault
            db.execute("ROLLBACK TO write")
        db.execute("RELEASE write")


def is_busy(problem: sqlite3.Error) -> bool:
    return problem.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def complain(problem: Exception) -> None:
    cause = getattr(problem, "sqlite_errorname", type(problem).__name__)
    log.error("the SQLite store failed: %s (%s)", schema.remedy(problem), cause)

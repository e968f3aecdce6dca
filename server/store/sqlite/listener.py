"""How one writer of an SQLite file hears what the others do: it looks, and where nobody wrote, that costs nothing."""

import sqlite3
import time
from collections.abc import Callable, Collection
from pathlib import Path

import orjson

from server.store.sqlite.database import GroupCommitWriter, Reader
from server.store.sqlite.transaction import Transaction
from server.store.sqlite.workers import WorkerLocks

LOOK_SECONDS = 0.025
"""How often who listens looks."""

NEWS = "SELECT place, run_id FROM news WHERE writer = ? ORDER BY place"
HEARD = "DELETE FROM news WHERE writer = ? AND place <= ?"
FOLLOWED = """
SELECT r.id, o.status, length(o.text), o.writer, o.lease FROM json_each(?) followed
JOIN runs r ON r.id = followed.value LEFT JOIN open_runs o ON o.place = r.place
"""

Mark = tuple[str | None, int | None, bool]
"""A run's status and its text's length while it is open, and whether it is abandoned."""


class SqliteListener:
    """To be used by one thread at a time."""

    def __init__(self, path: Path, writer: GroupCommitWriter, writers: WorkerLocks, clock: Callable[[], float]) -> None:
        self._reader = Reader(path)
        self._writer = writer
        self._writers = writers
        self._clock = clock
        self._seen: tuple[object, ...] = ()
        """How all stood at the last look; where that is as it was, nothing else needs to be looked at."""
        self._marks: dict[str, Mark | None] = {}
        """How each followed run stood; None where it was gone."""
        self._others: set[str] = set()
        """The writers of those of them that were open."""

    def listen(self, followed: Collection[str], seconds: float) -> Collection[str]:
        until = time.monotonic() + seconds
        while True:
            news, changed = self._reader.read(lambda db: self._look(db, followed))
            if news:
                self._forget(news[-1][0])
            left = until - time.monotonic()
            if news or changed or left <= 0:
                return changed | {run_id for _, run_id in news}
            time.sleep(min(LOOK_SECONDS, left))

    def _forget(self, last: int) -> None:
        self._writer.write(lambda db: db.execute(HEARD, (self._writers.name, last)))

    def close(self) -> None:
        self._reader.close()
        self._seen = ()

    def _look(self, db: sqlite3.Connection, followed: Collection[str]) -> tuple[list[tuple[int, str]], set[str]]:
        """The news, each with its place, and which of the followed runs stand otherwise than they did."""
        (version,) = db.execute("PRAGMA data_version").fetchone()
        seen = (db, version, [each for each in self._others if self._writers.is_gone(each)])
        if seen == self._seen and self._marks.keys() == set(followed):
            return [], set()
        tx = Transaction(db, self._writers, self._clock())
        marks: dict[str, Mark | None] = dict.fromkeys(followed)
        others = set()
        rows = db.execute(FOLLOWED, (orjson.dumps(list(followed)).decode(),)).fetchall()
        for run_id, status, length, writer, lease in rows:
            marks[run_id] = (status, length, writer is None or tx.is_held(writer, lease))
            if writer is not None and not self._writers.is_me(writer):
                others.add(writer)
        changed = {each for each, mark in marks.items() if each not in self._marks or self._marks[each] != mark}
        news = db.execute(NEWS, (self._writers.name,)).fetchall()
        self._seen, self._marks, self._others = seen, marks, others
        return news, changed

"""Change notifications between processes that share the file.

A worker polls `PRAGMA data_version`: an unchanged version costs one read and no look at any table.
"""

import sqlite3
import time
from collections.abc import Callable, Collection
from pathlib import Path

import orjson

from server.store.sqlite.database import GroupCommitWriter, Reader
from server.store.sqlite.transaction import Transaction
from server.store.sqlite.workers import WorkerLocks

POLL_SECONDS = 0.025

NOTIFICATIONS = "SELECT row_key, run_id FROM notifications WHERE worker = ? ORDER BY row_key"
DELETE_NOTIFICATIONS = "DELETE FROM notifications WHERE worker = ? AND row_key <= ?"
FOLLOWED_RUNS = """
SELECT r.id, o.status, length(o.text), o.worker, o.lease FROM json_each(?) followed
JOIN runs r ON r.id = followed.value LEFT JOIN open_runs o ON o.row_key = r.row_key
"""

RunState = tuple[str | None, int | None, bool]
"""Status and text length in bytes of an open run, None for an ended one; and whether it is not abandoned."""


class SqliteListener:
    """Implements `Store.listen`. To be used by one thread at a time."""

    def __init__(self, path: Path, commits: GroupCommitWriter, locks: WorkerLocks, clock: Callable[[], float]) -> None:
        self._reader = Reader(path)
        self._commits = commits
        self._locks = locks
        self._clock = clock
        self._last_poll: tuple[object, ...] = ()
        """What the last poll found; if a poll finds the same, no table is read."""
        self._run_states: dict[str, RunState | None] = {}
        """The state of each followed run at the last poll; None if it was missing."""
        self._run_workers: set[str] = set()
        """The other workers of the followed runs that were open."""

    def listen(self, followed: Collection[str], seconds: float) -> Collection[str]:
        until = time.monotonic() + seconds
        while True:
            notifications, changed = self._reader.read(lambda db: self._poll(db, followed))
            if notifications:
                self._delete_notifications(notifications[-1][0])
            left = until - time.monotonic()
            if notifications or changed or left <= 0:
                return changed | {run_id for _, run_id in notifications}
            time.sleep(min(POLL_SECONDS, left))

    def close(self) -> None:
        self._reader.close()
        self._last_poll = ()

    def _delete_notifications(self, last: int) -> None:
        self._commits.write(lambda db: db.execute(DELETE_NOTIFICATIONS, (self._locks.name, last)))

    def _poll(self, db: sqlite3.Connection, followed: Collection[str]) -> tuple[list[tuple[int, str]], set[str]]:
        """The notifications, each with its row key, and the ids of followed runs whose state has changed."""
        (version,) = db.execute("PRAGMA data_version").fetchone()
        poll = (db, version, [each for each in self._run_workers if self._locks.has_ended(each)])
        if poll == self._last_poll and self._run_states.keys() == set(followed):
            return [], set()
        tx = Transaction(db, self._locks, self._clock())
        states: dict[str, RunState | None] = dict.fromkeys(followed)
        workers = set()
        rows = db.execute(FOLLOWED_RUNS, (orjson.dumps(list(followed)).decode(),)).fetchall()
        for run_id, status, length, worker, lease in rows:
            states[run_id] = (status, length, worker is None or tx.is_leased(worker, lease))
            if worker is not None and not self._locks.is_me(worker):
                workers.add(worker)
        changed = {
            run_id
            for run_id, state in states.items()
            if run_id not in self._run_states or self._run_states[run_id] != state
        }
        notifications = db.execute(NOTIFICATIONS, (self._locks.name,)).fetchall()
        self._last_poll, self._run_states, self._run_workers = poll, states, workers
        return notifications, changed

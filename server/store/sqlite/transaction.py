"""Reads and writes of an SQLite store's rows, inside one transaction of one worker."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import orjson

from server.domain import Conversation, Run, Status
from server.errors import RequestIdConflict
from server.store.protocol import REQUEST_ID_SECONDS, RETRYABLE_STATUSES
from server.store.rules import as_abandoned, can_redeliver, is_same_question
from server.store.sqlite.history import row_key_range
from server.store.sqlite.workers import WorkerLocks

CONVERSATION_COLUMNS = """
c.id, c.expires, c.name, c.model, c.context_starts, c.history_id, c.created, c.touched, c.metadata, c.settings,
    c.excerpt, c.owner,
    (SELECT max(row_key) FROM messages WHERE row_key BETWEEN c.id << 32 AND (c.id << 32) + 4294967295)
"""
FIND_CONVERSATION = f"""
SELECT {CONVERSATION_COLUMNS},
    EXISTS (SELECT 1 FROM open_runs WHERE row_key BETWEEN c.id << 32 AND (c.id << 32) + 4294967295)
FROM conversations c WHERE c.name = ?
"""
FIND_CONVERSATION_ID = "SELECT id, expires FROM conversations WHERE name = ?"
COLUMNS = "r.row_key, r.run_json, r.details, r.reply_row_key, m.fragment, o.worker, o.lease, o.status, o.text"
JOINS = "LEFT JOIN messages m ON m.row_key = r.reply_row_key LEFT JOIN open_runs o ON o.row_key = r.row_key"
RUN = f"""
SELECT {COLUMNS}, c.name, c.expires FROM runs r JOIN conversations c ON c.id = r.row_key >> 32 {JOINS} WHERE r.id = ?
"""
RUNS = f"""
SELECT {COLUMNS} FROM runs r {JOINS}
WHERE r.row_key BETWEEN ? AND ? AND (? IS NULL OR r.status = ? OR o.row_key IS NOT NULL) ORDER BY r.row_key DESC
"""
OPEN_RUN = """
SELECT o.row_key, o.worker, o.lease, o.status, c.id,
    (SELECT ifnull(max(row_key) + 1 - (c.id << 32), 0) FROM messages
        WHERE row_key BETWEEN c.id << 32 AND (c.id << 32) + 4294967295),
    EXISTS (SELECT 1 FROM open_runs WHERE row_key > o.row_key AND row_key <= (c.id << 32) + 4294967295)
FROM runs r JOIN conversations c ON c.id = r.row_key >> 32 JOIN open_runs o ON o.row_key = r.row_key
WHERE r.id = ? AND c.name = ?
"""
OPEN_RUNS = f"""
SELECT {COLUMNS}
FROM open_runs o JOIN runs r ON r.row_key = o.row_key LEFT JOIN messages m ON m.row_key = r.reply_row_key
WHERE o.row_key BETWEEN ? AND ? ORDER BY o.row_key LIMIT ?
"""
RUN_WITH_REQUEST_ID = f"""
SELECT {COLUMNS} FROM request_ids q JOIN runs r ON r.row_key = q.run_row_key {JOINS}
WHERE q.conversation_id = ? AND q.request_id = ? AND q.created >= ?
"""
NEWEST_UNDELIVERED = f"""
SELECT {COLUMNS} FROM runs r {JOINS} WHERE r.row_key = (SELECT max(row_key) FROM runs WHERE row_key BETWEEN ? AND ?)
AND r.status = 'completed' AND NOT r.delivered
"""
ADD_RUN = """
INSERT INTO runs (row_key, id, status, delivered, run_json, reply_row_key)
SELECT ifnull(max(row_key) + 1, ?), ?, ?, ?, ?, ? FROM runs WHERE row_key BETWEEN ? AND ?
"""
UPDATE_RUN = "UPDATE runs SET status = ?, delivered = ?, run_json = ?, reply_row_key = ? WHERE row_key = ?"
UPDATE_OPEN_RUN = "UPDATE open_runs SET worker = ?, lease = ?, status = ?, text = ?, reserved = ? WHERE row_key = ?"
ADD_OPEN_RUN = """
INSERT INTO open_runs (row_key, worker, lease, status, text, budget_key, budget_day, reserved)
VALUES (?, ?, ?, ?, x'', ?, ?, ?)
"""
ADD_REQUEST_ID = "REPLACE INTO request_ids (conversation_id, request_id, run_row_key, created) VALUES (?, ?, ?, ?)"

Row = tuple[int, bytes, bytes | None, int | None, bytes | None, str | None, float, Status, bytes]
"""The values of COLUMNS. The last four are None if the run's end is written."""


@dataclass(frozen=True, slots=True)
class ConversationRow:
    """A conversation that exists and has not expired."""

    id: int
    conversation: Conversation
    has_time_limit: bool
    has_open_runs: bool
    """Whether it has runs whose end is not written, abandoned ones included."""


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as this worker reads it."""

    row_key: int
    run: Run
    """As ended if the run is abandoned."""
    worker: str | None
    """None if its end is written; empty if it requires action."""
    reply_row_key: int | None
    """The row key of the message that has its text; None if the text is in the run's JSON."""


class OpenRun(NamedTuple):
    """An open run that is not abandoned, and the values that its end needs."""

    row_key: int
    worker: str
    lease: float
    status: Status
    conversation_id: int
    message_count: int
    has_successor: int
    """Whether there are open runs behind it."""


class Transaction:
    """The rows as one worker reads and writes them.

    Its own runs are never abandoned; those of other workers are, by their leases and their locks.
    """

    def __init__(self, db: sqlite3.Connection, locks: WorkerLocks, now: float) -> None:
        self.db = db
        self.now = now
        self._locks = locks

    def find_conversation(self, name: str) -> ConversationRow | None:
        row = self.db.execute(FIND_CONVERSATION, (name,)).fetchone()
        if row is None or self.has_expired(*row[:2]):
            return None
        *columns, has_open_runs = row
        return ConversationRow(row[0], load_conversation(columns), row[1] is not None, has_open_runs == 1)

    def find_conversation_id(self, name: str) -> int | None:
        """Cheaper than `find_conversation`."""
        row = self.db.execute(FIND_CONVERSATION_ID, (name,)).fetchone()
        return None if row is None or self.has_expired(*row) else row[0]

    def find_open_run(self, run_id: str, name: str) -> OpenRun | None:
        """None if the run has ended, is abandoned, or does not belong to the conversation `name`."""
        row = self.db.execute(OPEN_RUN, (run_id, name)).fetchone()
        open_run = None if row is None else OpenRun(*row)
        return open_run if open_run is not None and self.is_leased(open_run.worker, open_run.lease) else None

    def find_run(self, run_id: str, name: str | None = None) -> RunRow | None:
        """None also if `name` is given and the run does not belong to that conversation."""
        row = self.db.execute(RUN, (run_id,)).fetchone()
        if row is None or name not in (None, row[-2]) or self.has_expired(row[0] >> 32, row[-1]):
            return None
        return self._load_row(row[:-2])

    def list_runs(self, row_keys: tuple[int, int], status: Status | None, most: int) -> list[Run]:
        """Those in a range of row keys, newest first."""
        with closing(self.db.execute(RUNS, (*row_keys, status, status))) as rows:
            runs = (self._load_row(row).run for row in rows)
            return list(islice((run for run in runs if status in (None, run.status)), most))

    def list_open_runs(self, conversation_id: int, most: int = -1) -> list[RunRow]:
        """The runs whose end is not written, abandoned ones included; oldest first."""
        rows = self.db.execute(OPEN_RUNS, (*row_key_range(conversation_id), most)).fetchall()
        return [self._load_row(row) for row in rows]

    def find_run_to_join(self, conversation_id: int, run: Run, open_runs: list[RunRow]) -> Run | None:
        """The existing run that `run` joins by the rules of `Store.create_run`. Raises RequestIdConflict."""
        if run.request_id is not None:
            since = self.now - REQUEST_ID_SECONDS
            row = self.db.execute(RUN_WITH_REQUEST_ID, (conversation_id, run.request_id, since)).fetchone()
            earlier = None if row is None else self._load_row(row).run
            if earlier is not None and earlier.question != run.question:
                raise RequestIdConflict
            return None if earlier is None or earlier.status in RETRYABLE_STATUSES else earlier
        for each in open_runs:
            if is_same_question(each.run, run):
                return each.run
        row = self.db.execute(NEWEST_UNDELIVERED, row_key_range(conversation_id)).fetchone()
        newest = None if row is None else self._load_row(row).run
        return newest if newest is not None and can_redeliver(newest, run, self.now) else None

    def add_open_run(self, conversation_id: int, run: Run, lease: float) -> None:
        """Add a run as the newest; this worker holds its lease."""
        row_key = self.add_run(conversation_id, run)
        charge = run.charge
        budget = (None, None, None) if charge is None else (charge.key, charge.day, charge.reserved)
        self.db.execute(ADD_OPEN_RUN, (row_key, self._locks.acquire(), lease, run.status, *budget))
        if run.request_id is not None:
            self.db.execute(ADD_REQUEST_ID, (conversation_id, run.request_id, row_key, self.now))

    def add_run(self, conversation_id: int, run: Run, reply_row_key: int | None = None) -> int:
        """Add the row of a run as the newest. Returns its row key."""
        first, last = row_key_range(conversation_id)
        values = run.id, run.status, run.delivered, _dump_run(run, reply_row_key), reply_row_key
        return self.db.execute(ADD_RUN, (first, *values, first, last)).lastrowid or 0

    def update_open_run(self, row_key: int, run: Run, worker: str, lease: float) -> None:
        """`worker` is empty if the run requires action."""
        reserved = None if run.charge is None else run.charge.reserved
        self.db.execute(UPDATE_OPEN_RUN, (worker, lease, run.status, run.text.encode(), reserved, row_key))
        self.update_run(row_key, run)

    def update_run(self, row_key: int, run: Run, reply_row_key: int | None = None) -> None:
        """If `reply_row_key` names the message that has the run's text, the text is stored in that message only."""
        values = run.status, run.delivered, _dump_run(run, reply_row_key), reply_row_key
        self.db.execute(UPDATE_RUN, (*values, row_key))

    def release_worker(self, worker: str) -> bool:
        """Delete the notifications for a worker that ends or has ended. Whether no open run names it either."""
        self.db.execute("DELETE FROM notifications WHERE worker = ?", (worker,))
        return self.db.execute("SELECT 1 FROM open_runs WHERE worker = ? LIMIT 1", (worker,)).fetchone() is None

    def notify(self, worker: str | None, run_id: str) -> None:
        """Notify a worker, if it lives, that one of its runs has changed."""
        if worker and not self._locks.has_ended(worker):
            self.db.execute("INSERT INTO notifications (worker, run_id) VALUES (?, ?)", (worker, run_id))

    def is_mine(self, worker: str | None) -> bool:
        return self._locks.is_me(worker)

    def is_leased(self, worker: str, lease: float) -> bool:
        """Whether an open run is not abandoned."""
        return self._locks.is_me(worker) or (lease >= self.now and not self._locks.has_ended(worker))

    def has_expired(self, conversation_id: int, expires: float | None) -> bool:
        """Whether a conversation that expires at `expires` is to be treated as missing."""
        if expires is None or expires >= self.now:
            return False
        return not any(row.run.is_open for row in self.list_open_runs(conversation_id))

    def _load_row(self, row: Row) -> RunRow:
        row_key, run_json, details, reply_row_key, fragment, worker, lease, status, text = row
        run = Run.load(run_json)
        if fragment is not None:
            run = replace(run, text=orjson.loads(fragment)["content"])
        if details is not None:
            run = replace(run, options=replace(run.options, details=orjson.loads(details)))
        if worker is None:
            return RunRow(row_key, run, None, reply_row_key)
        run = replace(run, status=status, text=text.decode())
        return RunRow(row_key, run if self.is_leased(worker, lease) else as_abandoned(run, self.now), worker, None)


def load_conversation(columns: Sequence[Any]) -> Conversation:
    """From the values of CONVERSATION_COLUMNS."""
    key, _, name, model, starts, history_id, created, touched, metadata, settings, *texts, last = columns
    count = 0 if last is None else last - (key << 32) + 1
    times, history = (created, touched), (orjson.loads(starts), str(history_id))
    return Conversation(name, model, count, *history, *times, orjson.loads(metadata), orjson.loads(settings), *texts)


def _dump_run(run: Run, reply_row_key: int | None) -> bytes:
    return (run if reply_row_key is None else replace(run, text="")).dump()

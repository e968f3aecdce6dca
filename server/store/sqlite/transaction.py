"""An SQLite store's rows, as one writer sees them at one moment, in a read or in a transaction."""

import secrets
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import orjson

from server.domain import Conversation, Run, Status
from server.errors import RequestIdConflict
from server.store.protocol import REQUEST_ID_SECONDS, RETRIED, abandoned, is_same, is_undelivered
from server.store.sqlite.history import row_key_range
from server.store.sqlite.workers import WorkerLocks

FIND = """
SELECT c.id, c.model, c.context_starts, c.history, c.expires, c.created, c.touched, c.metadata, newest.place,
    newest.timestamp, EXISTS (SELECT 1 FROM open_runs WHERE place BETWEEN c.id << 32 AND (c.id << 32) + 4294967295)
FROM conversations c LEFT JOIN messages newest ON newest.place =
    (SELECT max(place) FROM messages WHERE place BETWEEN c.id << 32 AND (c.id << 32) + 4294967295)
WHERE c.name = ?
"""
MAKE = """
INSERT INTO conversations (name, seconds, expires, created, touched, metadata, history) VALUES (?, ?, ?, ?, ?, ?, ?)
"""
FIND_ID = "SELECT id, expires FROM conversations WHERE name = ?"
TOUCH = "UPDATE conversations SET touched = ?, expires = ? + seconds WHERE id = ?"
COLUMNS = "r.place, r.packed, r.details, r.reply, m.fragment, o.writer, o.lease, o.status, o.text"
BESIDES = "LEFT JOIN messages m ON m.place = r.reply LEFT JOIN open_runs o ON o.place = r.place"
RUN = f"""
SELECT {COLUMNS}, c.name, c.expires FROM runs r JOIN conversations c ON c.id = r.place >> 32 {BESIDES} WHERE r.id = ?
"""
RUNS = f"""
SELECT {COLUMNS} FROM runs r {BESIDES}
WHERE r.place BETWEEN ? AND ? AND (? IS NULL OR r.status = ? OR o.place IS NOT NULL) ORDER BY r.place DESC
"""
OPEN_RUN = """
SELECT o.place, o.writer, o.lease, o.status, c.id, c.expires IS NOT NULL,
    (SELECT ifnull(max(place) + 1 - (c.id << 32), 0) FROM messages
        WHERE place BETWEEN c.id << 32 AND (c.id << 32) + 4294967295),
    EXISTS (SELECT 1 FROM open_runs WHERE place > o.place AND place <= (c.id << 32) + 4294967295)
FROM runs r JOIN conversations c ON c.id = r.place >> 32 JOIN open_runs o ON o.place = r.place
WHERE r.id = ? AND c.name = ?
"""
OPEN_RUNS = f"""
SELECT {COLUMNS} FROM open_runs o JOIN runs r ON r.place = o.place LEFT JOIN messages m ON m.place = r.reply
WHERE o.place BETWEEN ? AND ? ORDER BY o.place LIMIT ?
"""
WITH_REQUEST_ID = f"""
SELECT {COLUMNS} FROM request_ids q JOIN runs r ON r.place = q.run {BESIDES}
WHERE q.conversation = ? AND q.request_id = ? AND q.begun >= ?
"""
NEWEST_UNCOLLECTED = f"""
SELECT {COLUMNS} FROM runs r {BESIDES} WHERE r.place = (SELECT max(place) FROM runs WHERE place BETWEEN ? AND ?)
AND r.status = 'completed' AND NOT r.collected
"""
ADD_RUN = """
INSERT INTO runs (place, id, status, collected, packed)
SELECT ifnull(max(place) + 1, ?), ?, ?, 0, ? FROM runs WHERE place BETWEEN ? AND ?
"""
REPLACE_RUN = "UPDATE runs SET status = ?, collected = ?, packed = ?, reply = ? WHERE place = ?"
CHANGE_OPEN = "UPDATE open_runs SET writer = ?, lease = ?, status = ?, text = ? WHERE place = ?"
ADD_OPEN_RUN = "INSERT INTO open_runs (place, writer, lease, status, text) VALUES (?, ?, ?, ?, x'')"
ADD_REQUEST_ID = "REPLACE INTO request_ids (conversation, request_id, run, begun) VALUES (?, ?, ?, ?)"

Row = tuple[int, bytes, bytes | None, int | None, bytes | None, str | None, float, Status, bytes]
"""COLUMNS; the last four are None where the run's end is written."""


@dataclass(frozen=True, slots=True)
class ConversationRow:
    """A conversation that is there."""

    id: int
    conversation: Conversation
    is_made: bool
    """Whether it expires."""
    has_open: bool
    """Whether there are runs of it whose end is not written."""


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run where it lies."""

    place: int
    run: Run
    """As ended, where it is abandoned."""
    writer: str | None
    """None where its end is written."""
    reply: int | None
    """Where the message lies that has its text; None where the text is kept with the run."""


class OpenRun(NamedTuple):
    """A run that can be written, and what its end touches."""

    place: int
    writer: str
    lease: float
    status: Status
    conversation: int
    is_made: int
    """Whether the conversation expires."""
    message_count: int
    is_followed: int
    """Whether there are open runs behind it."""


class Transaction:
    """The rows as a writer sees them: its own runs never abandoned, those of others by their leases and their locks."""

    def __init__(self, db: sqlite3.Connection, writers: WorkerLocks, now: float) -> None:
        self.db = db
        self.now = now
        self._writers = writers

    def find(self, name: str) -> ConversationRow | None:
        row = self.db.execute(FIND, (name,)).fetchone()
        if row is None or self._has_expired(row[0], row[4]):
            return None
        key, model, starts, history, expires, created, touched, metadata, last, newest, has_open = row
        count = 0 if last is None else last - (key << 32) + 1
        # What does not expire is not written to with each turn.
        touched = max(touched, newest or 0.0) if expires is None else touched
        details = orjson.loads(starts), str(history), created, touched, orjson.loads(metadata)
        known = Conversation(name, model, count, *details)
        return ConversationRow(key, known, expires is not None, has_open == 1)

    def find_id(self, name: str) -> int | None:
        """The id of a conversation, for who needs no more."""
        row = self.db.execute(FIND_ID, (name,)).fetchone()
        return None if row is None or self._has_expired(*row) else row[0]

    def open_run(self, run_id: str, name: str) -> OpenRun | None:
        """None where the run has ended, is abandoned, or is none of the conversation `name`."""
        row = self.db.execute(OPEN_RUN, (run_id, name)).fetchone()
        found = None if row is None else OpenRun(*row)
        return found if found is not None and self.is_held(found.writer, found.lease) else None

    def get_run(self, run_id: str, name: str | None = None) -> RunRow | None:
        """None also where the run is none of the conversation `name`."""
        row = self.db.execute(RUN, (run_id,)).fetchone()
        if row is None or name not in (None, row[-2]) or self._has_expired(row[0] >> 32, row[-1]):
            return None
        return self._run_row(row[:-2])

    def list_runs(self, conversation: int, status: Status | None, most: int) -> list[Run]:
        """Newest first."""
        with closing(self.db.execute(RUNS, (*row_key_range(conversation), status, status))) as rows:
            runs = (self._run_row(row).run for row in rows)
            return list(islice((run for run in runs if status in (None, run.status)), most))

    def open_runs(self, conversation: int, most: int = -1) -> list[RunRow]:
        """Those whose end is not written, oldest first."""
        return [
            self._run_row(row) for row in self.db.execute(OPEN_RUNS, (*row_key_range(conversation), most)).fetchall()
        ]

    def settle(self, conversation: int) -> list[RunRow]:
        """The open runs, oldest first, once the ends of abandoned ones are written."""
        before = self.open_runs(conversation)
        still = [each for each in before if each.run.is_open]
        if len(still) < len(before):
            for each in before:
                if not each.run.is_open:
                    self.end(each.place, each.run)
                    self.tell(each.writer, each.run.id)
            for first in still[:1]:
                if first.run.status == "queued":
                    self.tell(first.writer, first.run.id)
        return still

    def answering(self, conversation: int, run: Run, still: list[RunRow]) -> Run | None:
        """The run that answers `run`'s question already, by the rules of `Store.begin`."""
        if run.request_id is not None:
            since = self.now - REQUEST_ID_SECONDS
            row = self.db.execute(WITH_REQUEST_ID, (conversation, run.request_id, since)).fetchone()
            known = None if row is None else self._run_row(row).run
            if known is not None and known.question != run.question:
                raise RequestIdConflict
            return None if known is None or known.status in RETRIED else known
        for each in still:
            if is_same(each.run, run):
                return each.run
        row = self.db.execute(NEWEST_UNCOLLECTED, row_key_range(conversation)).fetchone()
        newest = None if row is None else self._run_row(row).run
        return newest if newest is not None and is_undelivered(newest, run, self.now) else None

    def make(self, name: str, seconds: float | None, metadata: Mapping[str, Any]) -> ConversationRow:
        """A new conversation, instead of an expired one."""
        self.delete(name)
        expires = None if seconds is None else self.now + seconds
        history = secrets.randbits(62)
        given = (name, seconds, expires, self.now, self.now, orjson.dumps(metadata), history)
        known = Conversation(name, history_id=str(history), created=self.now, touched=self.now, metadata=metadata)
        return ConversationRow(self.db.execute(MAKE, given).lastrowid or 0, known, seconds is not None, has_open=False)

    def touch(self, conversation: int) -> None:
        self.db.execute(TOUCH, (self.now, self.now, conversation))

    def add(self, conversation: int, run: Run, lease: float) -> None:
        """Write down a run as the newest."""
        first, last = row_key_range(conversation)
        place = self.db.execute(ADD_RUN, (first, run.id, run.status, run.dump(), first, last)).lastrowid
        self.db.execute(ADD_OPEN_RUN, (place, self._writers.me(), lease, run.status))
        if run.request_id is not None:
            self.db.execute(ADD_REQUEST_ID, (conversation, run.request_id, place, self.now))

    def end(self, place: int, ended: Run, reply: int | None = None) -> None:
        """Write down a run's end."""
        self.db.execute("DELETE FROM open_runs WHERE place = ?", (place,))
        self.replace(place, ended, reply)

    def change(self, place: int, run: Run, writer: str, lease: float) -> None:
        """Write down how an open run goes on; `writer` is empty where nobody writes it."""
        self.db.execute(CHANGE_OPEN, (writer, lease, run.status, run.text.encode(), place))
        self.replace(place, run)

    def replace(self, place: int, run: Run, reply: int | None = None) -> None:
        """`reply` is where the message lies that has the run's text, which is then kept there alone."""
        kept = run if reply is None else replace(run, text="")
        self.db.execute(REPLACE_RUN, (run.status, run.delivered, kept.dump(), reply, place))

    def add_context_starts(self, conversation: int, starts: Mapping[str, int]) -> None:
        (known,) = self.db.execute("SELECT context_starts FROM conversations WHERE id = ?", (conversation,)).fetchone()
        merged = orjson.dumps({**orjson.loads(known), **starts})
        self.db.execute("UPDATE conversations SET context_starts = ? WHERE id = ?", (merged, conversation))

    def change_history(self, conversation: int, context_starts: Mapping[str, int]) -> None:
        """The history has changed other than by growing; `context_starts` are what is left of them."""
        changed = orjson.dumps(context_starts), secrets.randbits(62), conversation
        self.db.execute("UPDATE conversations SET context_starts = ?, history = ? WHERE id = ?", changed)

    def empty(self, conversation: int) -> list[str]:
        """Forget messages, runs and request ids. Gives the ids of the runs that were open."""
        before = self.open_runs(conversation)
        for each in before:
            if not self._writers.is_me(each.writer):
                self.tell(each.writer, each.run.id)
        for table in ("messages", "runs", "open_runs"):
            self.db.execute(f"DELETE FROM {table} WHERE place BETWEEN ? AND ?", row_key_range(conversation))
        self.db.execute("DELETE FROM request_ids WHERE conversation = ?", (conversation,))
        return [each.run.id for each in before if each.run.is_open]

    def delete(self, name: str) -> list[str]:
        """Forget all that there is of a conversation, expired or not. Gives the ids of the runs that were open."""
        row = self.db.execute("SELECT id FROM conversations WHERE name = ?", (name,)).fetchone()
        if row is None:
            return []
        self.db.execute("DELETE FROM conversations WHERE id = ?", row)
        return self.empty(*row)

    def is_done_with(self, writer: str) -> bool:
        """Forget the news for a writer that is gone, and tell whether nothing else names it."""
        self.db.execute("DELETE FROM news WHERE writer = ?", (writer,))
        return self.db.execute("SELECT 1 FROM open_runs WHERE writer = ? LIMIT 1", (writer,)).fetchone() is None

    def tell(self, writer: str | None, run_id: str) -> None:
        """Let a writer hear of its run."""
        if writer and not self._writers.is_gone(writer):
            self.db.execute("INSERT INTO news (writer, run_id) VALUES (?, ?)", (writer, run_id))

    def _run_row(self, row: Row) -> RunRow:
        place, packed, details, reply, fragment, writer, lease, status, text = row
        run = Run.load(packed)
        if fragment is not None:
            run = replace(run, text=orjson.loads(fragment)["content"])
        if details is not None:
            run = replace(run, options=replace(run.options, details=orjson.loads(details)))
        if writer is None:
            return RunRow(place, run, None, reply)
        run = replace(run, status=status, text=text.decode())
        return RunRow(place, run if self.is_held(writer, lease) else abandoned(run, self.now), writer, None)

    def is_mine(self, writer: str | None) -> bool:
        return self._writers.is_me(writer)

    def is_held(self, writer: str, lease: float) -> bool:
        """Whether a run is not abandoned."""
        return self._writers.is_me(writer) or (lease >= self.now and not self._writers.is_gone(writer))

    def _has_expired(self, conversation: int, expires: float | None) -> bool:
        if expires is None or expires >= self.now:
            return False
        return not any(each.run.is_open for each in self.open_runs(conversation))

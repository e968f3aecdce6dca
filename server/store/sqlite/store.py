"""Conversations in an SQLite file, for the processes of one machine: on the disk before any call returns."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import orjson

from server.domain import Conversation, Message, Run, Status
from server.errors import ConversationBusy, NotFound, StoreUnavailable, TooManyRecords
from server.store.protocol import DEFAULT_OPTIONS, NOTHING, SWEEP_SECONDS, CreatedRun, CreateOptions
from server.store.sqlite import compaction, runs, schema
from server.store.sqlite.blocking import in_os_thread
from server.store.sqlite.database import FAILURES, GroupCommitWriter, Reader
from server.store.sqlite.history import History
from server.store.sqlite.listener import SqliteListener
from server.store.sqlite.sweep import REST_SECONDS, Sweep
from server.store.sqlite.transaction import ConversationRow, Transaction
from server.store.sqlite.workers import WorkerLocks

PING_SECONDS = 1.8
"""How long a ping waits for writes before it."""

METADATA = "UPDATE conversations SET metadata = ? WHERE id = ?"
RECORD = "SELECT record FROM records WHERE kind = ? AND id = ?"
HELD = """
SELECT r.id, o.place FROM json_each(?) held JOIN runs r ON r.id = held.value JOIN open_runs o ON o.place = r.place
"""

T = TypeVar("T")


class SqliteStore:
    """A Store for all processes of one machine that have the same `path`.

    It holds nothing until the first call. Raises ValueError where the file cannot be used, and says what to do.
    """

    is_durable = True

    def __init__(
        self, path: str, lease_seconds: float, clock: Callable[[], float] = time.time, *, max_records: int = 10_000
    ) -> None:
        file = Path(path).absolute()
        try:
            if not path or path.startswith(("sqlite:", ":")):
                raise schema.Unusable(schema.NO_FILE)
            schema.prepare(file)
        except FAILURES as problem:
            raise ValueError(f"STORE_URL: {schema.remedy(problem)}.") from None
        self._lease_seconds = lease_seconds
        self._max_records = max_records
        self._clock = clock
        self._file = file
        self._writers = WorkerLocks(file)
        self._reader = Reader(file)
        self._writer = GroupCommitWriter(file)
        self._ear = SqliteListener(file, self._writer, self._writers, clock)
        self._rest: Callable[[], None] = lambda: time.sleep(REST_SECONDS)

    def get_conversation(self, name: str) -> Conversation | None:
        found = self._read(lambda tx: tx.find(name))
        return None if found is None else found.conversation

    def create_conversation(
        self,
        name: str,
        seconds: float | None,
        metadata: Mapping[str, Any],
        messages: Sequence[Message] = (),
        *,
        is_evictable: bool = False,
    ) -> Conversation:
        def create(tx: Transaction) -> Conversation:
            there = tx.find(name)
            made = there or tx.make(name, seconds, metadata)
            return made.conversation if there else runs.add_messages(tx, made, messages)

        return self._write(create)

    def touch(self, name: str) -> bool:
        def touch(tx: Transaction) -> bool:
            found = tx.find(name)
            if found is not None:
                tx.touch(found.id)
            return found is not None

        found = self._read(lambda tx: tx.find(name))
        # What does not expire has no time, and reading it shall cost no write.
        return self._write(touch) if found is not None and found.is_made else found is not None

    def set_model(self, name: str, model: str) -> None:
        def set_model(tx: Transaction) -> None:
            found = tx.find(name) or tx.make(name, None, {})
            tx.db.execute("UPDATE conversations SET model = ? WHERE id = ?", (model, found.id))

        self._write(set_model)

    def set_metadata(self, name: str, metadata: Mapping[str, Any]) -> Conversation:
        def set_metadata(tx: Transaction) -> Conversation:
            found = _there(tx.find(name))
            tx.db.execute(METADATA, (orjson.dumps(metadata), found.id))
            return replace(found.conversation, metadata=metadata)

        return self._write(set_metadata)

    def create_run(
        self, name: str, run: Run, options: CreateOptions = DEFAULT_OPTIONS, *, waiting: int, start: bool
    ) -> CreatedRun:
        def begin(tx: Transaction) -> CreatedRun:
            lease = tx.now + self._lease_seconds
            return runs.create_run(tx, name, run, options, waiting=waiting, start=start, lease=lease)

        return self._write(begin)

    def start_run(self, name: str, run_id: str) -> Conversation | None:
        if not self._read(lambda tx: runs.is_due(tx, name, run_id)):
            return None
        return self._write(lambda tx: runs.start_run(tx, name, run_id, tx.now + self._lease_seconds))

    def append_text(self, name: str, run_id: str, at: int, text: str) -> bool:
        return self._write(lambda tx: runs.append_text(tx, name, run_id, at, text, tx.now + self._lease_seconds))

    def finish_run(self, name: str, ended: Run, context_starts: Mapping[str, int] = NOTHING) -> Run | None:
        return self._write(lambda tx: runs.finish_run(tx, name, ended, context_starts))

    def pause_run(self, name: str, run: Run) -> bool:
        until = run.expires or 0.0
        return self._write(lambda tx: runs.replace_run(tx, name, run, "running", writer="", lease=until))

    def resume_run(self, name: str, run: Run) -> bool:
        def resume(tx: Transaction) -> bool:
            lease = tx.now + self._lease_seconds
            return runs.replace_run(tx, name, run, "requires_action", writer=self._writers.me(), lease=lease)

        return self._write(resume)

    def set_run_details(self, name: str, run_id: str, details: Mapping[str, Any]) -> Run:
        return self._write(lambda tx: runs.set_run_details(tx, name, run_id, details))

    def mark_delivered(self, name: str, run_id: str) -> None:
        def collect(tx: Transaction) -> None:
            placed = tx.get_run(run_id, name)
            if placed is not None and placed.writer is None:
                tx.replace(placed.place, replace(placed.run, delivered=True), placed.reply)

        self._write(collect)

    def get_run(self, run_id: str) -> Run:
        placed = self._read(lambda tx: tx.get_run(run_id))
        if placed is None:
            raise NotFound
        return placed.run

    def list_runs(self, name: str, status: Status | None, most: int) -> Sequence[Run]:
        def newest(tx: Transaction) -> Sequence[Run]:
            found = tx.find_id(name)
            return () if found is None else tx.list_runs(found, status, most)

        return self._read(newest)

    def list_messages(self, name: str, start: int, stop: int) -> Sequence[Message]:
        def messages(tx: Transaction) -> Sequence[Message]:
            found = tx.find_id(name)
            return () if found is None else History(tx.db, found).read(start, stop)

        return self._read(messages)

    def message_index(self, name: str, message_id: str) -> int:
        return self._read(lambda tx: _history(tx, name).index_of(message_id))

    def add_messages(self, name: str, messages: Sequence[Message]) -> None:
        def add(tx: Transaction) -> None:
            found = _there(tx.find(name))
            if History(tx.db, found.id).has_added(found.conversation.message_count, messages):
                return
            if tx.settle(found.id):
                raise ConversationBusy
            runs.add_messages(tx, found, messages)
            tx.touch(found.id)

        self._write(add)

    def set_message_metadata(self, name: str, message_id: str, metadata: Mapping[str, Any]) -> Message:
        return self._write(lambda tx: _history(tx, name).change(message_id, metadata))

    def delete_message(self, name: str, message_id: str) -> None:
        self._write(lambda tx: runs.delete_message(tx, name, message_id), is_long=True)

    def put_record(self, kind: str, record_id: str, record: bytes) -> None:
        def put_record(tx: Transaction) -> None:
            is_new = not tx.db.execute(RECORD, (kind, record_id)).fetchall()
            (count,) = tx.db.execute("SELECT count(*) FROM records WHERE kind = ?", (kind,)).fetchone()
            if is_new and count >= self._max_records:
                raise TooManyRecords
            tx.db.execute("REPLACE INTO records VALUES (?, ?, ?)", (kind, record_id, record))

        self._write(put_record)

    def get_record(self, kind: str, record_id: str) -> bytes:
        rows = self._read(lambda tx: tx.db.execute(RECORD, (kind, record_id)).fetchall())
        if not rows:
            raise NotFound
        record: bytes = rows[0][0]
        return record

    def list_records(self, kind: str) -> Sequence[bytes]:
        rows = self._read(lambda tx: tx.db.execute("SELECT record FROM records WHERE kind = ?", (kind,)).fetchall())
        return [record for (record,) in rows]

    def delete_record(self, kind: str, record_id: str) -> None:
        def delete_record(tx: Transaction) -> None:
            if not tx.db.execute("DELETE FROM records WHERE kind = ? AND id = ?", (kind, record_id)).rowcount:
                raise NotFound

        self._write(delete_record)

    def clear_conversation(self, name: str) -> Sequence[str]:
        def clear(tx: Transaction) -> Sequence[str]:
            found = tx.find(name)
            if found is None:
                return ()
            open_runs = tx.empty(found.id)
            tx.change_history(found.id, {})
            tx.touch(found.id)
            return open_runs

        return self._write(clear, is_long=True)

    def delete_conversation(self, name: str) -> Sequence[str]:
        return self._write(lambda tx: tx.delete(name), is_long=True)

    def renew_leases(self, held: Mapping[str, str]) -> Collection[str]:
        def renew(tx: Transaction) -> Collection[str]:
            still = dict(tx.db.execute(HELD, (orjson.dumps(list(held)).decode(),)).fetchall())
            lease = tx.now + self._lease_seconds
            tx.db.executemany(
                "UPDATE open_runs SET lease = ? WHERE place = ?", [(lease, place) for place in still.values()]
            )
            return held.keys() - still.keys()

        return self._write(renew, is_long=True) if held else ()

    def listen(self, followed: Collection[str], seconds: float) -> Collection[str]:
        return self._ear.listen(followed, seconds)

    def sweep(self, seconds: float = SWEEP_SECONDS) -> bool:
        def gone(tx: Transaction) -> list[str]:
            return [writer for writer in self._writers.gone() if tx.is_done_with(writer)]

        until = time.monotonic() + seconds
        sweep = Sweep()
        while self._write(sweep.step, is_long=True):
            if time.monotonic() > until:
                return True
            self._rest()
        in_os_thread(lambda: compaction.shorten(self._file))
        for writer in self._write(gone, is_long=True):
            self._writers.forget(writer)
        return False

    def ping(self) -> None:
        self._writer.write(schema.touch, patience=PING_SECONDS)

    def close(self) -> None:
        me = self._writers.name
        try:
            is_done = me is not None and self._write(lambda tx: tx.is_done_with(me))
        except StoreUnavailable:
            is_done = False
        self._writers.leave()
        if me is not None and is_done:
            self._writers.forget(me)
        self._ear.close()
        self._reader.close()
        self._writer.close()

    def _read(self, call: Callable[[Transaction], T]) -> T:
        return self._reader.read(lambda db: call(Transaction(db, self._writers, self._clock())))

    def _write(self, call: Callable[[Transaction], T], is_long: bool = False) -> T:
        return self._writer.write(lambda db: call(Transaction(db, self._writers, self._clock())), is_long=is_long)


def _there(found: ConversationRow | None) -> ConversationRow:
    """Raises NotFound."""
    if found is None:
        raise NotFound
    return found


def _history(tx: Transaction, name: str) -> History:
    """Raises NotFound."""
    return History(tx.db, _there(tx.find(name)).id)

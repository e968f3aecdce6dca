"""The SQLite store: every write is on the disk before its call returns."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import orjson

from server.concurrency import run_in_os_thread
from server.domain import Conversation, ConversationEntry, DailyUsage, Message, Run, Status
from server.errors import NotFound, StoreUnavailable, TooManyRecords
from server.store.limits import NO_LIMITS, Holdings, RunLimits
from server.store.protocol import DEFAULT_OPTIONS, NO_CONTEXT_STARTS, SWEEP_SECONDS, CreatedRun, CreateOptions
from server.store.sqlite import compaction, conversations, runs, schema
from server.store.sqlite.database import FAILURES, GroupCommitWriter, Reader
from server.store.sqlite.history import History
from server.store.sqlite.listener import SqliteListener
from server.store.sqlite.runs import import_history
from server.store.sqlite.sweep import REST_SECONDS, Sweep
from server.store.sqlite.transaction import Transaction
from server.store.sqlite.usage import list_usage
from server.store.sqlite.workers import WorkerLocks

PING_SECONDS = 1.8
"""How long a ping waits in the queue of writes."""

RECORD = "SELECT record FROM records WHERE kind = ? AND id = ?"
LEASED_RUNS = """
SELECT r.id, o.row_key FROM json_each(?) leased
JOIN runs r ON r.id = leased.value JOIN open_runs o ON o.row_key = r.row_key
"""
RENEW_LEASE = "UPDATE open_runs SET lease = ? WHERE row_key = ?"

T = TypeVar("T")


class SqliteStore:
    """A Store for all processes of one machine that have the same `path`.

    It opens nothing before the first call. Raises ValueError, which says what to do, if the file cannot be used.
    """

    is_durable = True

    def __init__(
        self, path: str, lease_seconds: float, clock: Callable[[], float] = time.time, *, max_records: int = 10_000
    ) -> None:
        file = Path(path).absolute()
        try:
            if not path or path.startswith(("sqlite:", ":")):
                raise schema.UnusableFile(schema.NO_FILE)
            schema.prepare(file)
        except FAILURES as error:
            raise ValueError(f"STORE_URL: {schema.find_remedy(error)}.") from None
        self._lease_seconds = lease_seconds
        self._max_records = max_records
        self._clock = clock
        self._file = file
        self._locks = WorkerLocks(file)
        self._reader = Reader(file)
        self._writer = GroupCommitWriter(file)
        self._listener = SqliteListener(file, self._writer, self._locks, clock)
        self._rest: Callable[[], None] = lambda: time.sleep(REST_SECONDS)

    def get_conversation(self, name: str) -> Conversation | None:
        row = self._read(lambda tx: tx.find_conversation(name))
        return None if row is None else row.conversation

    def create_conversation(
        self,
        name: str,
        seconds: float | None,
        metadata: Mapping[str, Any],
        messages: Sequence[Message] = (),
        *,
        owner: str = "",
        is_unlisted: bool = False,
        is_importing: bool = False,
    ) -> Conversation:
        def create(tx: Transaction) -> Conversation:
            row = tx.find_conversation(name)
            if row is not None:
                return row.conversation
            kind = {"is_unlisted": is_unlisted, "is_importing": is_importing}
            row = conversations.add_conversation(tx, name, seconds, metadata, owner=owner, **kind)
            return conversations.add_to_history(tx, row, messages)

        return self._write(create)

    def touch(self, name: str) -> bool:
        # Each read of a history touches it: without a time limit, that must not cost a write.
        row = self._read(lambda tx: tx.find_conversation(name))
        if row is None or not row.has_time_limit:
            return row is not None
        return self._write(lambda tx: conversations.touch_conversation(tx, name))

    def update_conversation(
        self, name: str, changes: Mapping[str, Any], *, create: bool = True, owner: str = ""
    ) -> Conversation:
        return self._write(lambda tx: conversations.update_conversation(tx, name, changes, create=create, owner=owner))

    def list_conversations(self, before: tuple[float, str] | None, most: int) -> Sequence[ConversationEntry]:
        return self._read(lambda tx: conversations.list_conversations(tx, before, most))

    def list_owned(self, owner: str) -> Sequence[str]:
        return self._read(lambda tx: conversations.list_owned(tx, owner))

    def measure_owner(self, owner: str) -> Holdings:
        return self._read(lambda tx: conversations.measure_owned(tx, owner))

    def read_entries(self, names: Sequence[str]) -> Sequence[ConversationEntry]:
        return self._read(lambda tx: conversations.read_entries(tx, names))

    def create_run(
        self, name: str, run: Run, options: CreateOptions = DEFAULT_OPTIONS, *, waiting: int, start: bool
    ) -> CreatedRun:
        def create_run(tx: Transaction) -> CreatedRun:
            lease = tx.now + self._lease_seconds
            return runs.create_run(tx, name, run, options, waiting=waiting, start=start, lease=lease)

        return self._write(create_run)

    def start_run(self, name: str, run_id: str) -> Conversation | None:
        if not self._read(lambda tx: runs.may_start_run(tx, name, run_id)):
            return None
        return self._write(lambda tx: runs.start_run(tx, name, run_id, tx.now + self._lease_seconds))

    def append_text(self, name: str, run_id: str, at: int, text: str) -> bool:
        return self._write(lambda tx: runs.append_text(tx, name, run_id, at, text, tx.now + self._lease_seconds))

    def finish_run(self, name: str, ended: Run, context_starts: Mapping[str, int] = NO_CONTEXT_STARTS) -> Run | None:
        return self._write(lambda tx: runs.finish_run(tx, name, ended, context_starts))

    def pause_run(self, name: str, run: Run) -> bool:
        lease = run.expires or 0.0
        return self._write(lambda tx: runs.replace_run(tx, name, run, "running", worker="", lease=lease))

    def resume_run(self, name: str, run: Run, limits: RunLimits = NO_LIMITS) -> bool:
        def resume_run(tx: Transaction) -> bool:
            lease = tx.now + self._lease_seconds
            return runs.resume_run(tx, name, run, limits, worker=self._locks.acquire(), lease=lease)

        return self._write(resume_run)

    def set_run_details(self, name: str, run_id: str, details: Mapping[str, Any]) -> Run:
        return self._write(lambda tx: runs.set_run_details(tx, name, run_id, details))

    def mark_delivered(self, name: str, run_id: str) -> None:
        self._write(lambda tx: runs.mark_delivered(tx, name, run_id))

    def get_run(self, run_id: str) -> Run:
        row = self._read(lambda tx: tx.find_run(run_id))
        if row is None:
            raise NotFound
        return row.run

    def list_runs(self, name: str, status: Status | None, most: int, before: str | None = None) -> Sequence[Run]:
        return self._read(lambda tx: runs.list_runs(tx, name, status, most, before))

    def list_messages(self, name: str, start: int, stop: int) -> Sequence[Message]:
        def list_messages(tx: Transaction) -> Sequence[Message]:
            conversation_id = tx.find_conversation_id(name)
            return () if conversation_id is None else History(tx.db, conversation_id).read(start, stop)

        return self._read(list_messages)

    def message_index(self, name: str, message_id: str) -> int:
        return self._read(lambda tx: _require_history(tx, name).index_of(message_id))

    def add_messages(self, name: str, messages: Sequence[Message]) -> None:
        self._write(lambda tx: runs.add_messages(tx, name, messages))

    def import_history(self, name: str, messages: Sequence[Message], runs: Sequence[Run]) -> None:
        self._write(lambda tx: import_history(tx, name, messages, runs), is_long=True)

    def publish_conversation(self, name: str, created: float, touched: float) -> Conversation:
        return self._write(lambda tx: conversations.publish_conversation(tx, name, created, touched))

    def list_usage(self, name: str | None, since: str, until: str) -> Sequence[DailyUsage]:
        return self._read(lambda tx: list_usage(tx, name, since, until))

    def set_message_metadata(self, name: str, message_id: str, metadata: Mapping[str, Any]) -> Message:
        return self._write(lambda tx: _require_history(tx, name).set_metadata(message_id, metadata))

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
        return self._write(lambda tx: conversations.clear_conversation(tx, name), is_long=True)

    def delete_conversation(self, name: str, *, unused_since: float | None = None) -> Sequence[str]:
        def delete_conversation(tx: Transaction) -> Sequence[str]:
            if unused_since is not None and conversations.is_used(tx, name, unused_since):
                return ()
            return conversations.delete_conversation(tx, name)

        return self._write(delete_conversation, is_long=True)

    def renew_leases(self, leases: Mapping[str, str]) -> Collection[str]:
        def renew_leases(tx: Transaction) -> Collection[str]:
            row_keys = dict(tx.db.execute(LEASED_RUNS, (orjson.dumps(list(leases)).decode(),)).fetchall())
            lease = tx.now + self._lease_seconds
            tx.db.executemany(RENEW_LEASE, [(lease, row_key) for row_key in row_keys.values()])
            return leases.keys() - row_keys.keys()

        return self._write(renew_leases, is_long=True) if leases else ()

    def listen(self, followed: Collection[str], seconds: float) -> Collection[str]:
        return self._listener.listen(followed, seconds)

    def sweep(self, seconds: float = SWEEP_SECONDS) -> bool:
        def release_workers(tx: Transaction) -> list[str]:
            return [worker for worker in self._locks.list_ended() if tx.release_worker(worker)]

        until = time.monotonic() + seconds
        sweep = Sweep()
        while self._write(sweep.run_step, is_long=True):
            if time.monotonic() > until:
                return True
            self._rest()
        run_in_os_thread(lambda: compaction.truncate_file(self._file))
        for worker in self._write(release_workers, is_long=True):
            self._locks.delete_lock(worker)
        return False

    def ping(self) -> None:
        self._writer.write(schema.write_nothing, timeout=PING_SECONDS)

    def close(self) -> None:
        worker = self._locks.name
        try:
            is_unused = worker is not None and self._write(lambda tx: tx.release_worker(worker))
        except StoreUnavailable:
            is_unused = False
        self._locks.release()
        if worker is not None and is_unused:
            self._locks.delete_lock(worker)
        self._listener.close()
        self._reader.close()
        self._writer.close()

    def _read(self, call: Callable[[Transaction], T]) -> T:
        return self._reader.read(lambda db: call(Transaction(db, self._locks, self._clock())))

    def _write(self, call: Callable[[Transaction], T], is_long: bool = False) -> T:
        return self._writer.write(lambda db: call(Transaction(db, self._locks, self._clock())), is_long=is_long)


def _require_history(tx: Transaction, name: str) -> History:
    """Raises NotFound."""
    return History(tx.db, conversations.require_conversation(tx, name).id)

"""Conversations in an SQLite file, for the processes of one machine: on the disk before any call returns."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import orjson

from server.domain import Conversation, Message, Run, Status
from server.errors import ConversationBusy, NotFound, StoreUnavailable, TooManyRecords
from server.store.protocol import NOTHING, PLAIN, SWEEP_SECONDS, Begun, Terms
from server.store.sqlite import compaction, runs, schema
from server.store.sqlite.blocking import in_os_thread
from server.store.sqlite.database import FAILURES, Reader, Writer
from server.store.sqlite.history import History
from server.store.sqlite.listener import Ear
from server.store.sqlite.sweep import REST_SECONDS, Sweep
from server.store.sqlite.transaction import Found, View
from server.store.sqlite.workers import Writers

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
        self._writers = Writers(file)
        self._reader = Reader(file)
        self._writer = Writer(file)
        self._ear = Ear(file, self._writer, self._writers, clock)
        self._rest: Callable[[], None] = lambda: time.sleep(REST_SECONDS)

    def conversation(self, name: str) -> Conversation | None:
        found = self._read(lambda view: view.find(name))
        return None if found is None else found.conversation

    def create(
        self,
        name: str,
        seconds: float | None,
        metadata: Mapping[str, Any],
        messages: Sequence[Message] = (),
        *,
        is_evictable: bool = False,
    ) -> Conversation:
        def create(view: View) -> Conversation:
            there = view.find(name)
            made = there or view.make(name, seconds, metadata)
            return made.conversation if there else runs.add_messages(view, made, messages)

        return self._write(create)

    def touch(self, name: str) -> bool:
        def touch(view: View) -> bool:
            found = view.find(name)
            if found is not None:
                view.touch(found.id)
            return found is not None

        found = self._read(lambda view: view.find(name))
        # What does not expire has no time, and reading it shall cost no write.
        return self._write(touch) if found is not None and found.is_made else found is not None

    def set_model(self, name: str, model: str) -> None:
        def set_model(view: View) -> None:
            found = view.find(name) or view.make(name, None, {})
            view.db.execute("UPDATE conversations SET model = ? WHERE id = ?", (model, found.id))

        self._write(set_model)

    def set_metadata(self, name: str, metadata: Mapping[str, Any]) -> Conversation:
        def set_metadata(view: View) -> Conversation:
            found = _there(view.find(name))
            view.db.execute(METADATA, (orjson.dumps(metadata), found.id))
            return replace(found.conversation, metadata=metadata)

        return self._write(set_metadata)

    def begin(self, name: str, run: Run, terms: Terms = PLAIN, *, waiting: int, start: bool) -> Begun:
        def begin(view: View) -> Begun:
            lease = view.now + self._lease_seconds
            return runs.begin(view, name, run, terms, waiting=waiting, start=start, lease=lease)

        return self._write(begin)

    def start(self, name: str, run_id: str) -> Conversation | None:
        if not self._read(lambda view: runs.is_due(view, name, run_id)):
            return None
        return self._write(lambda view: runs.start(view, name, run_id, view.now + self._lease_seconds))

    def append(self, name: str, run_id: str, at: int, text: str) -> bool:
        return self._write(lambda view: runs.append(view, name, run_id, at, text, view.now + self._lease_seconds))

    def finish(self, name: str, ended: Run, context_starts: Mapping[str, int] = NOTHING) -> Run | None:
        return self._write(lambda view: runs.finish(view, name, ended, context_starts))

    def pause(self, name: str, run: Run) -> bool:
        until = run.expires or 0.0
        return self._write(lambda view: runs.change(view, name, run, "running", writer="", lease=until))

    def resume(self, name: str, run: Run) -> bool:
        def resume(view: View) -> bool:
            lease = view.now + self._lease_seconds
            return runs.change(view, name, run, "requires_action", writer=self._writers.me(), lease=lease)

        return self._write(resume)

    def note(self, name: str, run_id: str, details: Mapping[str, Any]) -> Run:
        return self._write(lambda view: runs.note(view, name, run_id, details))

    def collect(self, name: str, run_id: str) -> None:
        def collect(view: View) -> None:
            placed = view.run(run_id, name)
            if placed is not None and placed.writer is None:
                view.replace(placed.place, replace(placed.run, collected=True), placed.reply)

        self._write(collect)

    def run(self, run_id: str) -> Run:
        placed = self._read(lambda view: view.run(run_id))
        if placed is None:
            raise NotFound
        return placed.run

    def runs(self, name: str, status: Status | None, most: int) -> Sequence[Run]:
        def newest(view: View) -> Sequence[Run]:
            found = view.find_id(name)
            return () if found is None else view.runs(found, status, most)

        return self._read(newest)

    def messages(self, name: str, start: int, stop: int) -> Sequence[Message]:
        def messages(view: View) -> Sequence[Message]:
            found = view.find_id(name)
            return () if found is None else History(view.db, found).read(start, stop)

        return self._read(messages)

    def place(self, name: str, message_id: str) -> int:
        return self._read(lambda view: _history(view, name).place(message_id))

    def add(self, name: str, messages: Sequence[Message]) -> None:
        def add(view: View) -> None:
            found = _there(view.find(name))
            if History(view.db, found.id).has_added(found.conversation.message_count, messages):
                return
            if view.settle(found.id):
                raise ConversationBusy
            runs.add_messages(view, found, messages)
            view.touch(found.id)

        self._write(add)

    def change_message(self, name: str, message_id: str, metadata: Mapping[str, Any]) -> Message:
        return self._write(lambda view: _history(view, name).change(message_id, metadata))

    def delete_message(self, name: str, message_id: str) -> None:
        self._write(lambda view: runs.delete_message(view, name, message_id), is_long=True)

    def put_record(self, kind: str, record_id: str, record: bytes) -> None:
        def put_record(view: View) -> None:
            is_new = not view.db.execute(RECORD, (kind, record_id)).fetchall()
            (count,) = view.db.execute("SELECT count(*) FROM records WHERE kind = ?", (kind,)).fetchone()
            if is_new and count >= self._max_records:
                raise TooManyRecords
            view.db.execute("REPLACE INTO records VALUES (?, ?, ?)", (kind, record_id, record))

        self._write(put_record)

    def record(self, kind: str, record_id: str) -> bytes:
        rows = self._read(lambda view: view.db.execute(RECORD, (kind, record_id)).fetchall())
        if not rows:
            raise NotFound
        record: bytes = rows[0][0]
        return record

    def records(self, kind: str) -> Sequence[bytes]:
        rows = self._read(lambda view: view.db.execute("SELECT record FROM records WHERE kind = ?", (kind,)).fetchall())
        return [record for (record,) in rows]

    def delete_record(self, kind: str, record_id: str) -> None:
        def delete_record(view: View) -> None:
            if not view.db.execute("DELETE FROM records WHERE kind = ? AND id = ?", (kind, record_id)).rowcount:
                raise NotFound

        self._write(delete_record)

    def clear(self, name: str) -> Sequence[str]:
        def clear(view: View) -> Sequence[str]:
            found = view.find(name)
            if found is None:
                return ()
            open_runs = view.empty(found.id)
            view.change_history(found.id, {})
            view.touch(found.id)
            return open_runs

        return self._write(clear, is_long=True)

    def delete(self, name: str) -> Sequence[str]:
        return self._write(lambda view: view.delete(name), is_long=True)

    def renew(self, held: Mapping[str, str]) -> Collection[str]:
        def renew(view: View) -> Collection[str]:
            still = dict(view.db.execute(HELD, (orjson.dumps(list(held)).decode(),)).fetchall())
            lease = view.now + self._lease_seconds
            view.db.executemany(
                "UPDATE open_runs SET lease = ? WHERE place = ?", [(lease, place) for place in still.values()]
            )
            return held.keys() - still.keys()

        return self._write(renew, is_long=True) if held else ()

    def listen(self, followed: Collection[str], seconds: float) -> Collection[str]:
        return self._ear.listen(followed, seconds)

    def sweep(self, seconds: float = SWEEP_SECONDS) -> bool:
        def gone(view: View) -> list[str]:
            return [writer for writer in self._writers.gone() if view.is_done_with(writer)]

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
            is_done = me is not None and self._write(lambda view: view.is_done_with(me))
        except StoreUnavailable:
            is_done = False
        self._writers.leave()
        if me is not None and is_done:
            self._writers.forget(me)
        self._ear.close()
        self._reader.close()
        self._writer.close()

    def _read(self, call: Callable[[View], T]) -> T:
        return self._reader.read(lambda db: call(View(db, self._writers, self._clock())))

    def _write(self, call: Callable[[View], T], is_long: bool = False) -> T:
        return self._writer.write(lambda db: call(View(db, self._writers, self._clock())), is_long=is_long)


def _there(found: Found | None) -> Found:
    """Raises NotFound."""
    if found is None:
        raise NotFound
    return found


def _history(view: View, name: str) -> History:
    """Raises NotFound."""
    return History(view.db, _there(view.find(name)).id)

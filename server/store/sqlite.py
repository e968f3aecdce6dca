"""Conversations in an SQLite file, for the processes of one machine: on the disk before any call returns."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import starmap
from pathlib import Path
from typing import TypeVar

import orjson

from server.errors import ConversationBusy, NotFound, StoreUnavailable
from server.model import Conversation, Message, Run, Status
from server.store import REQUEST_ID_SECONDS, Begun, schema
from server.store.database import FAILURES, Reader, Writer
from server.store.listening import Ear
from server.store.view import View, places
from server.store.writers import Writers

PING_SECONDS = 1.8
"""How long a ping waits for writes before it."""
SWEPT_AT_ONCE = 100

START = "UPDATE open_runs SET status = 'running', lease = ? WHERE place = ?"
APPEND = """
UPDATE open_runs SET text = CAST(ifnull(CAST(substr(text, 1, ?) AS TEXT), '') || ? AS BLOB), lease = ? WHERE place = ?
"""
MESSAGES = "SELECT fragment, run_id, timestamp, id FROM messages WHERE place BETWEEN ? AND ? ORDER BY place"
HELD = """
SELECT r.id, o.place FROM json_each(?) held JOIN runs r ON r.id = held.value JOIN open_runs o ON o.place = r.place
"""
EXPIRED = "SELECT name FROM conversations WHERE expires < ? ORDER BY expires LIMIT ?"
FORGET_REQUEST_IDS = """
DELETE FROM request_ids WHERE (conversation, request_id) IN
(SELECT conversation, request_id FROM request_ids WHERE begun < ? ORDER BY begun LIMIT ?)
"""

T = TypeVar("T")


class SqliteStore:
    """A Store for all processes of one machine that have the same `path`.

    It holds nothing until the first call. Raises ValueError where the file cannot be used, and says what to do.
    """

    def __init__(self, path: str, lease_seconds: float, clock: Callable[[], float] = time.time) -> None:
        file = Path(path).absolute()
        try:
            if not path or path.startswith(("sqlite:", ":")):
                raise schema.Unusable(schema.NO_FILE)
            schema.prepare(file)
        except FAILURES as problem:
            raise ValueError(f"STORE_URL: {schema.remedy(problem)}.") from None
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._writers = Writers(file)
        self._reader = Reader(file)
        self._writer = Writer(file)
        self._ear = Ear(file, self._writer, self._writers, clock)

    def conversation(self, name: str) -> Conversation | None:
        found = self._read(lambda view: view.find(name))
        return None if found is None else found.conversation

    def create(self, name: str, seconds: float) -> None:
        def create(view: View) -> None:
            if view.find(name) is None:
                view.make(name, seconds)

        self._write(create)

    def touch(self, name: str) -> bool:
        def touch(view: View) -> bool:
            found = view.find(name)
            if found is not None:
                view.touch(found.id)
            return found is not None

        return self._write(touch)

    def set_model(self, name: str, model: str) -> None:
        def set_model(view: View) -> None:
            found = view.find(name) or view.make(name, None)
            view.db.execute("UPDATE conversations SET model = ? WHERE id = ?", (model, found.id))

        self._write(set_model)

    def begin(self, name: str, run: Run, *, waiting: int, start: bool) -> Begun:
        def begin(view: View) -> Begun:
            found = view.find(name)
            still = view.settle(found.id) if found is not None and found.has_open else []
            if found is not None:
                same = view.run(run.id, name)
                if same is not None:
                    return Begun(same.run, found.conversation, fresh=True)
                known = view.answering(found.id, run, still)
                if known is not None:
                    return Begun(known, found.conversation, fresh=False)
            status: Status = "running" if start and not still else "queued"
            if status == "queued" and sum(each.run.status == "queued" for each in still) >= waiting:
                raise ConversationBusy
            begun = replace(run, status=status, conversation=name)
            found = found or view.make(name, None)
            view.add(found.id, begun, view.now + self._lease_seconds)
            if found.is_made:
                view.touch(found.id)
            return Begun(begun, found.conversation, fresh=True)

        return self._write(begin)

    def start(self, name: str, run_id: str) -> Conversation | None:
        def is_due(view: View) -> bool:
            found = view.find(name)
            runs = [] if found is None else view.open_runs(found.id)
            return any(not each.run.is_open for each in runs) or any(each.run.id == run_id for each in runs[:1])

        def start(view: View) -> Conversation | None:
            found = view.find(name)
            oldest = [] if found is None else view.settle(found.id)[:1]
            if found is None or not any(each.run.id == run_id and each.run.status == "queued" for each in oldest):
                return None
            view.db.execute(START, (view.now + self._lease_seconds, oldest[0].place))
            return found.conversation

        return self._write(start) if self._read(is_due) else None

    def append(self, name: str, run_id: str, at: int, text: str) -> bool:
        def append(view: View) -> bool:
            still = view.open_run(run_id, name)
            if still is None or still.status != "running":
                return False
            view.db.execute(APPEND, (at, text, view.now + self._lease_seconds, still.place))
            return True

        return self._write(append)

    def finish(self, name: str, ended: Run, replay_from: int | None) -> Run | None:
        def finish(view: View) -> Run | None:
            still = view.open_run(ended.id, name)
            if still is None:
                known = view.run(ended.id, name)
                return None if known is None else known.run
            view.end(still.place, ended)
            view.add_messages(still.next_message, ended.exchange())
            if replay_from is not None:
                view.replay_from(still.conversation, replay_from)
            if still.is_made:
                view.touch(still.conversation)
            is_mine = self._writers.is_me(still.writer)
            if not is_mine:
                view.tell(still.writer, ended.id)
            for following in view.open_runs(still.conversation, 1) if still.is_followed else ():
                if following.run.status == "queued" and not (is_mine and self._writers.is_me(following.writer)):
                    view.tell(following.writer, following.run.id)
            return ended

        return self._write(finish)

    def collect(self, name: str, run_id: str) -> None:
        def collect(view: View) -> None:
            placed = view.run(run_id, name)
            if placed is not None and placed.writer is None:
                view.replace(placed.place, replace(placed.run, collected=True))

        self._write(collect)

    def run(self, run_id: str) -> Run:
        placed = self._read(lambda view: view.run(run_id))
        if placed is None:
            raise NotFound
        return placed.run

    def runs(self, name: str, status: Status | None, most: int) -> Sequence[Run]:
        def runs(view: View) -> Sequence[Run]:
            found = view.find_id(name)
            return () if found is None else view.runs(found, status, most)

        return self._read(runs)

    def messages(self, name: str, start: int, stop: int) -> Sequence[Message]:
        def messages(view: View) -> Sequence[Message]:
            found = view.find_id(name)
            if found is None:
                return ()
            first, last = places(found)
            rows = view.db.execute(MESSAGES, (first + start, min(first + stop - 1, last)))
            return list(starmap(Message, rows))

        return self._read(messages)

    def clear(self, name: str) -> Sequence[str]:
        def clear(view: View) -> Sequence[str]:
            found = view.find(name)
            if found is None:
                return ()
            open_runs = view.empty(found.id)
            view.replay_from(found.id, 0)
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

    def sweep(self) -> None:
        def sweep(view: View) -> list[str]:
            for (name,) in view.db.execute(EXPIRED, (view.now, SWEPT_AT_ONCE)).fetchall():
                if view.find(name) is None:
                    view.delete(name)
            view.db.execute(FORGET_REQUEST_IDS, (view.now - REQUEST_ID_SECONDS, 10 * SWEPT_AT_ONCE))
            return [writer for writer in self._writers.gone() if view.is_done_with(writer)]

        for writer in self._write(sweep, is_long=True):
            self._writers.forget(writer)

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

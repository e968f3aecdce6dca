"""The messages of one conversation, each at its place."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from server.domain import Message
from server.errors import NotFound
from server.store.protocol import NEWEST

MESSAGES = "SELECT fragment, run_id, timestamp, id, metadata FROM messages WHERE place BETWEEN ? AND ? ORDER BY place"
ADD_MESSAGE = "INSERT INTO messages (place, id, run_id, timestamp, fragment, metadata) VALUES (?, ?, ?, ?, ?, ?)"
PLACE = "SELECT place FROM messages WHERE place BETWEEN ? AND ? AND id = ? ORDER BY place DESC LIMIT 1"
METADATA = "UPDATE messages SET metadata = ? WHERE place = ?"
TAKE_OUT = "DELETE FROM messages WHERE place = ?"
MOVE_UP = "UPDATE messages SET place = place - 1 WHERE place > ? AND place <= ?"

MOVE_REPLIES = "UPDATE runs SET reply = reply - 1 WHERE place BETWEEN ? AND ? AND reply > ?"


def row_key_range(conversation: int) -> tuple[int, int]:
    """The first and the last place of what belongs to a conversation."""
    first = conversation << 32
    return first, first + 0xFFFFFFFF


class History:
    """Places count from 0 here, and the conversation is named by its id."""

    def __init__(self, db: sqlite3.Connection, conversation: int) -> None:
        self._db = db
        self._first, self._last = row_key_range(conversation)

    def read(self, start: int, stop: int) -> list[Message]:
        return self._read(self._first + start, min(self._first + stop - 1, self._last))

    def add(self, place: int, messages: Iterable[Message]) -> None:
        """Add messages from `place` on, which must be behind the newest."""
        rows = [
            (self._first + n, each.id, each.run_id, each.timestamp, each.fragment, _packed(each.metadata))
            for n, each in enumerate(messages, place)
        ]
        self._db.executemany(ADD_MESSAGE, rows)

    def has_added(self, count: int, messages: Sequence[Message]) -> bool:
        """Whether the same messages were added before, as `Store.add` looks for them; the history has `count`."""
        newest = self._first + max(0, count - len(messages) - NEWEST), self._first + count
        return any(self._db.execute(PLACE, (*newest, first.id)).fetchone() is not None for first in messages[:1])

    def index_of(self, message_id: str) -> int:
        """Raises NotFound."""
        row = self._db.execute(PLACE, (self._first, self._last, message_id)).fetchone()
        if row is None:
            raise NotFound
        return int(row[0]) - self._first

    def change(self, message_id: str, metadata: Mapping[str, Any]) -> Message:
        """Raises NotFound."""
        place = self.index_of(message_id)
        self._db.execute(METADATA, (_packed(metadata), self._first + place))
        return self.read(place, place + 1)[0]

    def take_out(self, place: int) -> None:
        """Delete a message, and let those after it move up."""
        self._db.execute(TAKE_OUT, (self._first + place,))
        self._db.execute(MOVE_UP, (self._first + place, self._last))
        self._db.execute(MOVE_REPLIES, (self._first, self._last, self._first + place))

    def _read(self, first: int, last: int) -> list[Message]:
        rows = self._db.execute(MESSAGES, (first, last))
        return [
            Message(fragment, run_id, timestamp, message_id, orjson.loads(metadata) if metadata else {})
            for fragment, run_id, timestamp, message_id, metadata in rows
        ]


def _packed(metadata: Mapping[str, Any]) -> bytes | None:
    return orjson.dumps(metadata) if metadata else None

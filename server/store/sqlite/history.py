"""The messages of one conversation, each at its index."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from itertools import takewhile
from typing import Any

import orjson

from server.domain import Message
from server.errors import NotFound
from server.store.protocol import RECENT_MESSAGES

MESSAGES = """
SELECT fragment, run_id, timestamp, id, metadata FROM messages WHERE row_key BETWEEN ? AND ? ORDER BY row_key
"""
ADD_MESSAGE = "INSERT INTO messages (row_key, id, run_id, timestamp, fragment, metadata) VALUES (?, ?, ?, ?, ?, ?)"
ROW_KEY = "SELECT row_key FROM messages WHERE row_key BETWEEN ? AND ? AND id = ? ORDER BY row_key DESC LIMIT 1"
SET_METADATA = "UPDATE messages SET metadata = ? WHERE row_key = ?"
NEWEST_RUN_IDS = "SELECT run_id FROM messages WHERE row_key BETWEEN ? AND ? ORDER BY row_key DESC"
DELETE_NEWEST = "DELETE FROM messages WHERE row_key BETWEEN ? AND ?"
DELETE_MESSAGE = "DELETE FROM messages WHERE row_key = ?"
SHIFT_MESSAGES = "UPDATE messages SET row_key = row_key - 1 WHERE row_key > ? AND row_key <= ?"
SHIFT_REPLIES = """
UPDATE runs SET reply_row_key = reply_row_key - 1 WHERE row_key BETWEEN ? AND ? AND reply_row_key > ?
"""


def row_key_range(conversation_id: int) -> tuple[int, int]:
    """The first and the last possible row key of a conversation's messages and runs."""
    first = conversation_id << 32
    return first, first + 0xFFFFFFFF


class History:
    """The messages of the conversation with an id. Indexes count from 0."""

    def __init__(self, db: sqlite3.Connection, conversation_id: int) -> None:
        self._db = db
        self._first, self._last = row_key_range(conversation_id)

    def read(self, start: int, stop: int) -> list[Message]:
        """The messages with indexes from `start` up to, not including, `stop`."""
        rows = self._db.execute(MESSAGES, (self._first + start, min(self._first + stop - 1, self._last)))
        return [
            Message(fragment, run_id, timestamp, message_id, orjson.loads(metadata) if metadata else {})
            for fragment, run_id, timestamp, message_id, metadata in rows
        ]

    def add(self, index: int, messages: Iterable[Message]) -> None:
        """Add messages from `index` on, which must be the number of messages so far."""
        rows = [
            (row_key, each.id, each.run_id, each.timestamp, each.fragment, _dump_metadata(each.metadata))
            for row_key, each in enumerate(messages, self._first + index)
        ]
        self._db.executemany(ADD_MESSAGE, rows)

    def has_added(self, count: int, messages: Sequence[Message]) -> bool:
        """Whether `Store.add_messages` is repeated with these messages. The history has `count`."""
        recent = self._first + max(0, count - len(messages) - RECENT_MESSAGES), self._first + count
        return any(self._db.execute(ROW_KEY, (*recent, first.id)).fetchone() is not None for first in messages[:1])

    def index_of(self, message_id: str) -> int:
        """Raises NotFound."""
        row = self._db.execute(ROW_KEY, (self._first, self._last, message_id)).fetchone()
        if row is None:
            raise NotFound
        return int(row[0]) - self._first

    def count_newest(self, run_id: str) -> int:
        """How many of the newest messages belong to a run, without one in between that does not."""
        with closing(self._db.execute(NEWEST_RUN_IDS, (self._first, self._last))) as rows:
            return sum(1 for _ in takewhile(lambda row: row[0] == run_id, rows))

    def delete_newest(self, start: int) -> None:
        """Delete all messages from index `start` on."""
        self._db.execute(DELETE_NEWEST, (self._first + start, self._last))

    def set_metadata(self, message_id: str, metadata: Mapping[str, Any]) -> Message:
        """Raises NotFound."""
        index = self.index_of(message_id)
        self._db.execute(SET_METADATA, (_dump_metadata(metadata), self._first + index))
        return self.read(index, index + 1)[0]

    def delete(self, index: int) -> None:
        """Delete a message; the index of each later one decreases by one."""
        self._db.execute(DELETE_MESSAGE, (self._first + index,))
        self._db.execute(SHIFT_MESSAGES, (self._first + index, self._last))
        self._db.execute(SHIFT_REPLIES, (self._first, self._last, self._first + index))


def _dump_metadata(metadata: Mapping[str, Any]) -> bytes | None:
    return orjson.dumps(metadata) if metadata else None

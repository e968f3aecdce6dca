"""The rows of conversations, and the store's calls that change them, each within one transaction."""

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import Any

import orjson

from server.domain import SETTINGS, Conversation, ConversationEntry, Message, Run, Status, excerpt_of
from server.errors import ConversationImporting, NotFound
from server.store.limits import Holdings
from server.store.rules import as_abandoned
from server.store.sqlite.history import History, row_key_range
from server.store.sqlite.limits import settle
from server.store.sqlite.transaction import CONVERSATION_COLUMNS, ConversationRow, Transaction, load_conversation
from server.store.sqlite.usage import fold_usage

ADD_CONVERSATION = """
INSERT INTO conversations (name, seconds, expires, created, touched, metadata, unlisted, history_id, owner)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
ENTRY_SOURCE = """
conversations c
LEFT JOIN runs r ON r.row_key =
    (SELECT max(row_key) FROM runs WHERE row_key BETWEEN c.id << 32 AND (c.id << 32) + 4294967295)
LEFT JOIN open_runs o ON o.row_key = r.row_key
"""
ENTRY_COLUMNS = f"{CONVERSATION_COLUMNS}, r.status, o.status, o.worker, o.lease"
CONVERSATIONS = f"""
SELECT {ENTRY_COLUMNS} FROM {ENTRY_SOURCE}
WHERE NOT c.unlisted AND (c.touched, c.name) < (?, ?) ORDER BY c.touched DESC, c.name DESC
"""
ENTRY = f"SELECT {ENTRY_COLUMNS} FROM {ENTRY_SOURCE} WHERE NOT c.unlisted AND c.name = ?"
OWNED = "SELECT name, id, expires FROM conversations WHERE owner = ? AND owner <> ''"
HELD = """
c.id IN (SELECT id FROM conversations WHERE owner = ? AND owner <> '' UNION SELECT id FROM conversations WHERE name = ?)
AND (c.expires IS NULL OR c.expires >= ?)
"""
MEASURE = f"""
SELECT count(*),
    ifnull(sum((SELECT count(*) FROM messages WHERE row_key BETWEEN c.id << 32 AND (c.id << 32) + 4294967295)), 0),
    ifnull(sum((
        SELECT sum(length(fragment)) FROM messages WHERE row_key BETWEEN c.id << 32 AND (c.id << 32) + 4294967295
    )), 0)
FROM conversations c WHERE {HELD}
"""
LEASES = f"""
SELECT o.worker, o.lease FROM conversations c
CROSS JOIN open_runs o ON o.row_key BETWEEN c.id << 32 AND (c.id << 32) + 4294967295 WHERE {HELD}
"""
UPDATE_CONVERSATION = "UPDATE conversations SET model = ?, metadata = ?, settings = ? WHERE id = ?"
PUBLISH_CONVERSATION = """
UPDATE conversations SET seconds = NULL, expires = NULL, unlisted = 0, created = ?, touched = ? WHERE id = ?
"""
UNLISTED = "SELECT unlisted FROM conversations WHERE id = ?"
TOUCH = "UPDATE conversations SET touched = ?, expires = ? + seconds WHERE id = ?"
SET_EXCERPT = "UPDATE conversations SET excerpt = ? WHERE id = ?"

IMPORTING = 2
"""The value of `unlisted` until an import is published; it is 1 for other unlisted conversations."""

LAST = (float("inf"), "")
"""No conversation comes before this in the order of a list."""


def require_conversation(tx: Transaction, name: str) -> ConversationRow:
    """Raises NotFound."""
    row = tx.find_conversation(name)
    if row is None:
        raise NotFound
    return row


def add_conversation(
    tx: Transaction,
    name: str,
    seconds: float | None = None,
    metadata: Mapping[str, Any] | None = None,
    *,
    owner: str = "",
    is_unlisted: bool = False,
    is_importing: bool = False,
) -> ConversationRow:
    """Add a conversation, in place of an expired one of that name."""
    delete_conversation(tx, name)
    metadata, history_id = metadata or {}, secrets.randbits(62)
    listing = IMPORTING if is_importing else int(is_unlisted)
    expires = None if seconds is None else tx.now + seconds
    values = name, seconds, expires, tx.now, tx.now, orjson.dumps(metadata), listing, history_id, owner
    key = tx.db.execute(ADD_CONVERSATION, values).lastrowid or 0
    conversation = Conversation(
        name, history_id=str(history_id), created=tx.now, touched=tx.now, metadata=metadata, owner=owner
    )
    return ConversationRow(key, conversation, seconds is not None, has_open_runs=False)


def require_published(tx: Transaction, row: ConversationRow) -> None:
    """Raises ConversationImporting."""
    if row.has_time_limit and tx.db.execute(UNLISTED, (row.id,)).fetchone() == (IMPORTING,):
        raise ConversationImporting


def touch(tx: Transaction, conversation_id: int) -> None:
    tx.db.execute(TOUCH, (tx.now, tx.now, conversation_id))


def touch_conversation(tx: Transaction, name: str) -> bool:
    row = tx.find_conversation(name)
    if row is not None:
        touch(tx, row.id)
    return row is not None


def add_to_history(
    tx: Transaction, row: ConversationRow, messages: Sequence[Message], question: str = ""
) -> Conversation:
    """Touch a conversation and add messages at the end of its history. Returns it as it is then.

    If it has no excerpt yet, it gets that of the first question among `messages`, otherwise of `question`.
    """
    current = row.conversation
    if messages:
        History(tx.db, row.id).add(current.message_count, messages)
    touch(tx, row.id)
    excerpt = current.excerpt
    if not excerpt:
        excerpt = excerpt_of(next((each.content for each in messages if each.role == "user"), question))
        if excerpt:
            set_excerpt(tx, row.id, excerpt)
    return replace(current, message_count=current.message_count + len(messages), touched=tx.now, excerpt=excerpt)


def set_excerpt(tx: Transaction, conversation_id: int, excerpt: str) -> None:
    tx.db.execute(SET_EXCERPT, (excerpt, conversation_id))


def update_conversation(
    tx: Transaction, name: str, changes: Mapping[str, Any], *, create: bool, owner: str
) -> Conversation:
    row = tx.find_conversation(name)
    if row is None and not create:
        raise NotFound
    row = row or add_conversation(tx, name, owner=owner)
    current = row.conversation
    settings = {**current.settings, **{field: value for field, value in changes.items() if field in SETTINGS}}
    updated = replace(
        current,
        model=changes.get("model", current.model),
        metadata=changes.get("metadata", current.metadata) or {},
        settings={field: value for field, value in settings.items() if value is not None},
    )
    values = updated.model, orjson.dumps(updated.metadata), orjson.dumps(updated.settings), row.id
    tx.db.execute(UPDATE_CONVERSATION, values)
    return updated


def list_conversations(tx: Transaction, before: tuple[float, str] | None, most: int) -> list[ConversationEntry]:
    with closing(tx.db.execute(CONVERSATIONS, before or LAST)) as rows:
        return list(islice(_load_entries(tx, rows), most))


def read_entries(tx: Transaction, names: Sequence[str]) -> list[ConversationEntry]:
    return [each for name in names for each in _load_entries(tx, tx.db.execute(ENTRY, (name,)))]


def list_owned(tx: Transaction, owner: str) -> list[str]:
    return [name for name, *row in tx.db.execute(OWNED, (owner,)).fetchall() if not tx.has_expired(*row)]


def measure_owned(tx: Transaction, owner: str) -> Holdings:
    """As `Store.measure_owner`. What has expired but for its open runs is not counted."""
    if not owner:
        return Holdings(0, 0, 0, 0)
    held = owner, owner, tx.now
    leases = tx.db.execute(LEASES, held).fetchall()
    count, messages, size = tx.db.execute(MEASURE, held).fetchone()
    return Holdings(count, messages, size, sum(tx.is_leased(*each) for each in leases))


def _load_entries(tx: Transaction, rows: Iterable[Sequence[Any]]) -> Iterator[ConversationEntry]:
    for *columns, status, open_status, worker, lease in rows:
        if not tx.has_expired(columns[0], columns[1]):
            newest = _read_status(tx, status, open_status, worker, lease)
            yield ConversationEntry(load_conversation(columns), newest)


def publish_conversation(tx: Transaction, name: str, created: float, touched: float) -> Conversation:
    row = require_conversation(tx, name)
    tx.db.execute(PUBLISH_CONVERSATION, (created, touched, row.id))
    return replace(row.conversation, created=created, touched=touched)


def add_context_starts(tx: Transaction, conversation_id: int, starts: Mapping[str, int]) -> None:
    row = tx.db.execute("SELECT context_starts FROM conversations WHERE id = ?", (conversation_id,)).fetchone()
    merged = orjson.dumps({**orjson.loads(row[0]), **starts})
    tx.db.execute("UPDATE conversations SET context_starts = ? WHERE id = ?", (merged, conversation_id))


def renew_history_id(tx: Transaction, conversation_id: int, context_starts: Mapping[str, int]) -> None:
    """Record that the history changed other than by messages added at its end, and replace `context_starts`."""
    values = orjson.dumps(context_starts), secrets.randbits(62), conversation_id
    tx.db.execute("UPDATE conversations SET context_starts = ?, history_id = ? WHERE id = ?", values)


def clear_conversation(tx: Transaction, name: str) -> Sequence[str]:
    row = tx.find_conversation(name)
    if row is None:
        return ()
    open_runs = _delete_contents(tx, row.id)
    renew_history_id(tx, row.id, {})
    set_excerpt(tx, row.id, "")
    touch(tx, row.id)
    return open_runs


def delete_conversation(tx: Transaction, name: str) -> Sequence[str]:
    """As `Store.delete_conversation`, also for an expired one."""
    row = tx.db.execute("SELECT id FROM conversations WHERE name = ?", (name,)).fetchone()
    if row is None:
        return ()
    (conversation_id,) = row
    fold_usage(tx, conversation_id)
    tx.db.execute("DELETE FROM conversations WHERE id = ?", (conversation_id,))
    return _delete_contents(tx, conversation_id)


def is_used(tx: Transaction, name: str, since: float) -> bool:
    """Whether a conversation was touched at that time or later, or has an open run."""
    row = tx.find_conversation(name)
    if row is None:
        return False
    return row.conversation.touched >= since or any(each.run.is_open for each in tx.list_open_runs(row.id))


def _delete_contents(tx: Transaction, conversation_id: int) -> list[str]:
    """Delete messages, runs and request ids. Returns the ids of the runs that were open."""
    rows = tx.list_open_runs(conversation_id)
    for row in rows:
        settle(tx, row.run.ended_as("cancelled", tx.now) if row.run.is_open else row.run)
        if not tx.is_mine(row.worker):
            tx.notify(row.worker, row.run.id)
    for table in ("messages", "runs", "open_runs"):
        tx.db.execute(f"DELETE FROM {table} WHERE row_key BETWEEN ? AND ?", row_key_range(conversation_id))
    tx.db.execute("DELETE FROM request_ids WHERE conversation_id = ?", (conversation_id,))
    return [row.run.id for row in rows if row.run.is_open]


def _read_status(
    tx: Transaction, ended: Status | None, is_open: Status, worker: str | None, lease: float
) -> Status | None:
    """The status of a run. The last three values are those of its row in `open_runs`, None if its end is written."""
    if worker is None:
        return ended
    return is_open if tx.is_leased(worker, lease) else as_abandoned(Run("", status=is_open), tx.now).status

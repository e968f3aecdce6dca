"""The tables of an SQLite store's file, their migrations, and what to do if a file cannot be used."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from server.store.sqlite import compaction

APPLICATION_ID = 0x436F6E76
"""Distinguishes the file from the databases of other programs."""

MIGRATIONS: Sequence[Sequence[str]] = (
    (
        # AUTOINCREMENT: an id is never reused, since a reader may hold one while its conversation is deleted.
        """
        CREATE TABLE conversations (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            name TEXT NOT NULL UNIQUE,
            model TEXT,
            replay_from INTEGER NOT NULL DEFAULT 0,
            seconds REAL,
            expires REAL
        )
        """,
        "CREATE INDEX conversations_by_expiry ON conversations (expires) WHERE expires IS NOT NULL",
        # A row key is the conversation's id in the upper 32 bits and a count from 0 in the lower, so that the rows of a
        # conversation are stored together, in order, without another index.
        """
        CREATE TABLE messages (
            place INTEGER PRIMARY KEY,
            id TEXT NOT NULL,
            run_id TEXT,
            timestamp REAL NOT NULL,
            fragment BLOB NOT NULL
        )
        """,
        """
        CREATE TABLE runs (
            place INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            status TEXT NOT NULL,
            collected INTEGER NOT NULL,
            packed BLOB NOT NULL
        )
        """,
        # The values that change while a run is open, by the run's row key; `lease` is when the lease expires.
        """
        CREATE TABLE open_runs (
            place INTEGER PRIMARY KEY,
            writer TEXT NOT NULL,
            lease REAL NOT NULL,
            status TEXT NOT NULL,
            text BLOB NOT NULL DEFAULT x''
        )
        """,
        """
        CREATE TABLE request_ids (
            conversation INTEGER NOT NULL,
            request_id TEXT NOT NULL,
            run INTEGER NOT NULL,
            begun REAL NOT NULL,
            PRIMARY KEY (conversation, request_id)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX request_ids_by_age ON request_ids (begun)",
        # Notifications for a worker about its runs, until it has read them.
        "CREATE TABLE news (place INTEGER PRIMARY KEY, writer TEXT NOT NULL, run_id TEXT NOT NULL)",
    ),
    (
        "ALTER TABLE conversations ADD COLUMN created REAL NOT NULL DEFAULT 0",
        "ALTER TABLE conversations ADD COLUMN touched REAL NOT NULL DEFAULT 0",
        "ALTER TABLE conversations ADD COLUMN metadata BLOB NOT NULL DEFAULT '{}'",
        "ALTER TABLE messages ADD COLUMN metadata BLOB",
        # Details set after the run was created; they replace those in the run's JSON.
        "ALTER TABLE runs ADD COLUMN details BLOB",
        """
        CREATE TABLE records (
            kind TEXT NOT NULL,
            id TEXT NOT NULL,
            record BLOB NOT NULL,
            PRIMARY KEY (kind, id)
        ) WITHOUT ROWID
        """,
    ),
    (
        # JSON: the start of the context window by model, since each model has a context length of its own.
        "ALTER TABLE conversations DROP COLUMN replay_from",
        "ALTER TABLE conversations ADD COLUMN context_starts BLOB NOT NULL DEFAULT '{}'",
        # Changes whenever the history changes other than by messages added at its end.
        "ALTER TABLE conversations ADD COLUMN history INTEGER NOT NULL DEFAULT 0",
    ),
    # The row key of the message that has a run's text, if the text is not in the run's JSON.
    ("ALTER TABLE runs ADD COLUMN reply INTEGER",),
    # The words of the glossary, also in the JSON of each run.
    (
        "ALTER TABLE conversations RENAME COLUMN history TO history_id",
        "ALTER TABLE messages RENAME COLUMN place TO row_key",
        "ALTER TABLE runs RENAME COLUMN place TO row_key",
        "ALTER TABLE runs RENAME COLUMN collected TO delivered",
        "ALTER TABLE runs RENAME COLUMN packed TO run_json",
        "ALTER TABLE runs RENAME COLUMN reply TO reply_row_key",
        "ALTER TABLE open_runs RENAME COLUMN place TO row_key",
        "ALTER TABLE open_runs RENAME COLUMN writer TO worker",
        "ALTER TABLE request_ids RENAME COLUMN conversation TO conversation_id",
        "ALTER TABLE request_ids RENAME COLUMN run TO run_row_key",
        "ALTER TABLE request_ids RENAME COLUMN begun TO created",
        "ALTER TABLE news RENAME TO notifications",
        "ALTER TABLE notifications RENAME COLUMN place TO row_key",
        "ALTER TABLE notifications RENAME COLUMN writer TO worker",
        """
        UPDATE runs SET run_json = CAST(
            json_set(
                json_remove(CAST(run_json AS TEXT), '$.failure', '$.collected'),
                '$.error', json(json_extract(CAST(run_json AS TEXT), '$.failure')),
                '$.delivered', json(iif(json_extract(CAST(run_json AS TEXT), '$.collected'), 'true', 'false'))
            ) AS BLOB
        )
        """,
    ),
    (
        "ALTER TABLE conversations ADD COLUMN owner TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE conversations ADD COLUMN unlisted INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE conversations ADD COLUMN settings BLOB NOT NULL DEFAULT '{}'",
        "ALTER TABLE conversations ADD COLUMN excerpt TEXT NOT NULL DEFAULT ''",
        # Until now, only chats had a name of this form together with a time limit.
        "UPDATE conversations SET unlisted = 1 WHERE seconds IS NOT NULL AND name GLOB 'chat_*'",
        # Until now, a turn did not write the row of a conversation without a time limit.
        """
        UPDATE conversations SET touched = max(
            touched,
            ifnull((
                SELECT timestamp FROM messages
                WHERE row_key BETWEEN conversations.id << 32 AND (conversations.id << 32) + 4294967295
                ORDER BY row_key DESC LIMIT 1
            ), 0),
            ifnull((
                SELECT max(
                    json_extract(CAST(run_json AS TEXT), '$.created'),
                    ifnull(json_extract(CAST(run_json AS TEXT), '$.ended'), 0)
                ) FROM runs
                WHERE row_key BETWEEN conversations.id << 32 AND (conversations.id << 32) + 4294967295
                ORDER BY row_key DESC LIMIT 1
            ), 0)
        )
        """,
        # Each run of spaces becomes pairs of characters 1 and 2; without all 2 1 in between, one pair is left of it.
        """
        UPDATE conversations SET excerpt = (
            SELECT substr(trim(replace(replace(replace(replace(replace(replace(
                substr(question, 1, 480), char(9), ' '), char(10), ' '), char(13), ' '),
                ' ', char(1, 2)), char(2, 1), ''), char(1, 2), ' ')), 1, 120)
            FROM (SELECT coalesce((
                SELECT json_extract(CAST(fragment AS TEXT), '$.content') FROM messages
                WHERE row_key BETWEEN conversations.id << 32 AND (conversations.id << 32) + 4294967295
                AND json_extract(CAST(fragment AS TEXT), '$.role') = 'user' ORDER BY row_key LIMIT 1
            ), (
                SELECT json_extract(CAST(run_json AS TEXT), '$.question') FROM runs
                WHERE row_key BETWEEN conversations.id << 32 AND (conversations.id << 32) + 4294967295
                AND json_extract(CAST(run_json AS TEXT), '$.question') <> '' ORDER BY row_key LIMIT 1
            ), '') AS question)
        )
        """,
        "CREATE INDEX conversations_by_use ON conversations (owner, touched, name) WHERE NOT unlisted",
        # By day (UTC). The id 0 stands for all conversations that are unlisted or gone.
        """
        CREATE TABLE usage (
            owner TEXT NOT NULL,
            conversation_id INTEGER NOT NULL,
            day TEXT NOT NULL,
            model TEXT NOT NULL,
            runs INTEGER NOT NULL,
            prompt_tokens INTEGER NOT NULL,
            completion_tokens INTEGER NOT NULL,
            total_tokens INTEGER NOT NULL,
            PRIMARY KEY (owner, conversation_id, day, model)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX usage_by_day ON usage (owner, day)",
    ),
    # A list has the conversations of all owners.
    (
        "DROP INDEX conversations_by_use",
        "CREATE INDEX conversations_by_use ON conversations (touched, name) WHERE NOT unlisted",
        "CREATE INDEX conversations_by_owner ON conversations (owner) WHERE owner <> ''",
    ),
    (
        # What an open run has reserved of a budget; NULL if none holds for it.
        "ALTER TABLE open_runs ADD COLUMN budget_key TEXT",
        "ALTER TABLE open_runs ADD COLUMN budget_day TEXT",
        "ALTER TABLE open_runs ADD COLUMN reserved INTEGER",
        "CREATE INDEX open_runs_by_budget ON open_runs (budget_key, budget_day) WHERE budget_key IS NOT NULL",
        """
        CREATE TABLE budgets (
            key TEXT NOT NULL,
            day TEXT NOT NULL,
            spent INTEGER NOT NULL,
            created REAL NOT NULL,
            PRIMARY KEY (key, day)
        ) WITHOUT ROWID
        """,
        # When each run began that a rate limit counts.
        """
        CREATE TABLE rate_hits (
            key TEXT NOT NULL,
            time REAL NOT NULL,
            run_id TEXT NOT NULL,
            PRIMARY KEY (key, time, run_id)
        ) WITHOUT ROWID
        """,
    ),
)
"""The statements of each version, in order. A file's `user_version` is the number of versions applied to it."""

VERSION = """
SELECT user_version, application_id, (SELECT count(*) FROM sqlite_master)
FROM pragma_user_version, pragma_application_id
"""

REMEDIES = {
    "SQLITE_READONLY": "the file cannot be written; give this server's user the right to write to it and its folder",
    "SQLITE_CANTOPEN": "the file cannot be opened; its folder must be there, and this server's user may write to it",
    "SQLITE_FULL": "the disk is full; make room on it",
    "SQLITE_IOERR": "the disk failed or is full; make room on it, or look into the system's log",
    "SQLITE_CORRUPT": "the file is damaged; put a backup in its place",
    "SQLITE_NOTADB": "the file is no SQLite database; choose another file, or put a backup in its place",
    "SQLITE_BUSY": "another process keeps the file locked; find the program that has it open, and end its transaction",
}
NO_FILE = "say sqlite:///FILE, sqlite:////FOLDER/FILE, or memory:// for what need not last"
NEWER = "the file was written by a newer version of this server; upgrade the server or choose another file"
FOREIGN = "the file is the database of another program; choose another file"
GONE = "the file is gone; put it back, or restart the server to begin a new one"
OLDER = "another file was put in the file's place; restart the server to bring it to the version of this server"
UNSHARED = "the file's disk does not let processes share a file; choose a disk of this machine"
STUCK = "a write to the file does not come to its end; look whether its disk answers"


class UnusableFile(Exception):
    """The file is not a usable store of this version. The message says what to do."""


def find_remedy(error: Exception) -> str:
    """What is wrong, and what an operator can do about it."""
    if isinstance(error, FileNotFoundError):
        return GONE
    name = getattr(error, "sqlite_errorname", "")
    return next((sentence for prefix, sentence in REMEDIES.items() if name.startswith(prefix)), str(error))


def prepare(path: Path) -> None:
    """Create the file if it is missing, migrate it to the newest version, and test that it can be written.

    Leaves nothing open. Raises sqlite3.Error and UnusableFile.
    """
    compaction.wait_for_rewrite(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        check_version(db, at_least=0)
        compaction.enable(db)
        if db.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
            raise UnusableFile(UNSHARED)
        db.execute("BEGIN IMMEDIATE")
        for statements in MIGRATIONS[check_version(db, at_least=0) :]:
            for statement in statements:
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        write_nothing(db)
        db.execute("COMMIT")
    compaction.rewrite_file(path)


def write_nothing(db: sqlite3.Connection) -> None:
    """Make a write that changes nothing."""
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def check_version(db: sqlite3.Connection, at_least: int) -> int:
    """The version of the file. Raises UnusableFile if it is older than `at_least`, too new, or another program's."""
    # In one statement, because another process may be creating the file at this moment.
    version, application, tables = db.execute(VERSION).fetchone()
    if application != APPLICATION_ID and (version, application, tables) != (0, 0, 0):
        raise UnusableFile(FOREIGN)
    if version > len(MIGRATIONS):
        raise UnusableFile(NEWER)
    if version < at_least:
        raise UnusableFile(OLDER)
    return int(version)

"""What is in an SQLite store's file, how it came to be so, and what to do where it cannot be used."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from server.store.sqlite import compaction

APPLICATION_ID = 0x436F6E76
"""Tells the file from the databases of other programs."""

MIGRATIONS: Sequence[Sequence[str]] = (
    (
        # Ids are never used again: a reader may hold one while its conversation is deleted.
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
        # A place is the conversation's id in the upper half and a count from 0 in the lower, so that what belongs
        # together lies together, without another index.
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
        # What changes while a run is open, by the run's place; `lease` is when it passes.
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
        # What a writer is to hear of its runs, until it did.
        "CREATE TABLE news (place INTEGER PRIMARY KEY, writer TEXT NOT NULL, run_id TEXT NOT NULL)",
    ),
    (
        "ALTER TABLE conversations ADD COLUMN created REAL NOT NULL DEFAULT 0",
        "ALTER TABLE conversations ADD COLUMN touched REAL NOT NULL DEFAULT 0",
        "ALTER TABLE conversations ADD COLUMN metadata BLOB NOT NULL DEFAULT '{}'",
        "ALTER TABLE messages ADD COLUMN metadata BLOB",
        # What was noted of a run since it was begun, in place of the details that are packed with it.
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
        # What a model could not read is remembered for that model alone, as JSON by its name.
        "ALTER TABLE conversations DROP COLUMN replay_from",
        "ALTER TABLE conversations ADD COLUMN context_starts BLOB NOT NULL DEFAULT '{}'",
        # Another one as soon as the history has changed other than by growing.
        "ALTER TABLE conversations ADD COLUMN history INTEGER NOT NULL DEFAULT 0",
    ),
    # The place of the message that has a run's text, where the text is not packed with the run.
    ("ALTER TABLE runs ADD COLUMN reply INTEGER",),
)
"""The statements of each version, in order; a file's `user_version` is how many of these it has seen."""

STATE = """
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


class Unusable(Exception):
    """A file that is no store of ours, or not any more; the message says what to do."""


def remedy(problem: Exception) -> str:
    """What is wrong, and what a person can do about it."""
    if isinstance(problem, FileNotFoundError):
        return GONE
    name = getattr(problem, "sqlite_errorname", "")
    return next((sentence for prefix, sentence in REMEDIES.items() if name.startswith(prefix)), str(problem))


def prepare(path: Path) -> None:
    """Make the file where it is missing, bring it to the newest version, and try it with a write.

    Nothing is held afterwards. Raises sqlite3.Error and Unusable.
    """
    compaction.wait_for_rewriting(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        check(db, at_least=0)
        compaction.prepare(db)
        if db.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
            raise Unusable(UNSHARED)
        db.execute("BEGIN IMMEDIATE")
        for statements in MIGRATIONS[check(db, at_least=0) :]:
            for statement in statements:
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        touch(db)
        db.execute("COMMIT")
    compaction.rewrite(path)


def touch(db: sqlite3.Connection) -> None:
    """Write something, and change nothing."""
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def check(db: sqlite3.Connection, at_least: int) -> int:
    """The version of the file. Raises Unusable where it is older than that, newer than ours, or not ours at all."""
    # In one statement: another process may be making the file at this moment.
    version, application, tables = db.execute(STATE).fetchone()
    if application != APPLICATION_ID and (version, application, tables) != (0, 0, 0):
        raise Unusable(FOREIGN)
    if version > len(MIGRATIONS):
        raise Unusable(NEWER)
    if version < at_least:
        raise Unusable(OLDER)
    return int(version)

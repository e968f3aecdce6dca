"""Returns the space of deleted data to the disk."""

import fcntl
import logging
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

log = logging.getLogger("server.store")

INCREMENTAL = (2,)
"""The answer of `PRAGMA auto_vacuum` for a file that can free pages in steps."""

PAGES = 20
"""How many pages are freed by one statement."""

MAX_REWRITE_BYTES = 512 << 20
"""A larger file is not rewritten at start: that may take so long that whatever started the server gives up on it."""

MANUAL_REWRITE = "the SQLite file keeps the room of what is deleted, since %s; stop the server once and run: %s"


def is_compactable(db: sqlite3.Connection) -> bool:
    return bool(db.execute("PRAGMA auto_vacuum").fetchone() == INCREMENTAL)


def enable(db: sqlite3.Connection) -> None:
    """Let an empty file free pages. For a file with tables, this takes effect only when it is rewritten."""
    if not is_compactable(db):
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")


def rewrite_file(path: Path) -> None:
    """Rewrite, once, a file of an older version so that it can free pages. If that is impossible, log the reason."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        if is_compactable(db):
            return
    size = path.stat().st_size
    command = f"sqlite3 '{path}' 'PRAGMA auto_vacuum = INCREMENTAL; VACUUM'"
    if size > MAX_REWRITE_BYTES:
        log.warning(MANUAL_REWRITE, "it is too large to be rewritten at a start", command)
    elif shutil.disk_usage(path.parent).free < 3 * size:
        log.warning(MANUAL_REWRITE, "the disk has no room for two copies of it", command)
    else:
        try:
            with _lock(path), closing(sqlite3.connect(path, isolation_level=None)) as db:
                if not is_compactable(db):  # Another process may have rewritten it meanwhile.
                    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
                    db.execute("VACUUM")
        except (sqlite3.Error, OSError) as error:
            log.warning(MANUAL_REWRITE, f"it could not be rewritten ({error})", command)


def wait_for_rewrite(path: Path) -> None:
    """Wait while another process rewrites the file, which it keeps locked."""
    if _lock_path(path).exists():
        with suppress(OSError), _lock(path):
            pass


def free_pages(db: sqlite3.Connection, until: float) -> bool:
    """Free pages in a transaction, until `time.monotonic()` is `until`. False if none is left or none can be freed."""
    (left,) = db.execute("PRAGMA freelist_count").fetchone()
    while left and time.monotonic() <= until:
        db.execute(f"PRAGMA incremental_vacuum({PAGES})").fetchall()
        (after,) = db.execute("PRAGMA freelist_count").fetchone()
        if after >= left:
            return False
        left = after
    return bool(left)


def truncate_file(path: Path) -> None:
    """Cut freed pages off the file's end, and empty its log, in which deleted text may stand.

    A commit leaves that to the next checkpoint, so this makes one. The log stays if somebody reads in it: writers would
    have to wait for them.
    """
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", timeout=0, uri=True)) as db:
        db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with _lock_path(path).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            _lock_path(path).unlink(missing_ok=True)


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}-rewriting")

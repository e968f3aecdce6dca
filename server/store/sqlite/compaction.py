"""Gives the room of what was deleted back to the disk."""

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
"""What `PRAGMA auto_vacuum` says of a file that gives room back in steps."""

PAGES = 20
"""How many pages are given back in one go."""

MOST_BYTES = 512 << 20
"""A larger file is not rewritten at a start, which may take so long that whoever started the server ends it."""

BY_HAND = "the SQLite file keeps the room of what is deleted, since %s; stop the server once and run: %s"


def is_compactable(db: sqlite3.Connection) -> bool:
    return bool(db.execute("PRAGMA auto_vacuum").fetchone() == INCREMENTAL)


def prepare(db: sqlite3.Connection) -> None:
    """Let a file that has nothing yet give room back. In another one, this has no effect before it is rewritten."""
    if not is_compactable(db):
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")


def rewrite(path: Path) -> None:
    """Let a file from before give room back: it is written anew, once. Where that cannot be, the log says so."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        if is_compactable(db):
            return
    size = path.stat().st_size
    command = f"sqlite3 '{path}' 'PRAGMA auto_vacuum = INCREMENTAL; VACUUM'"
    if size > MOST_BYTES:
        log.warning(BY_HAND, "it is too large to be rewritten at a start", command)
    elif shutil.disk_usage(path.parent).free < 3 * size:
        log.warning(BY_HAND, "the disk has no room for two copies of it", command)
    else:
        try:
            with _alone(path), closing(sqlite3.connect(path, isolation_level=None)) as db:
                if not is_compactable(db):  # Another process may have done it meanwhile.
                    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
                    db.execute("VACUUM")
        except (sqlite3.Error, OSError) as problem:
            log.warning(BY_HAND, f"it could not be rewritten ({problem})", command)


def wait_for_rewriting(path: Path) -> None:
    """Wait while another process rewrites the file, which is locked as long."""
    if _lock_path(path).exists():
        with suppress(OSError), _alone(path):
            pass


def give_back(db: sqlite3.Connection, until: float) -> bool:
    """Give free pages back, in a transaction. False if none is left, or none can be given back."""
    (left,) = db.execute("PRAGMA freelist_count").fetchone()
    while left and time.monotonic() <= until:
        db.execute(f"PRAGMA incremental_vacuum({PAGES})").fetchall()
        (after,) = db.execute("PRAGMA freelist_count").fetchone()
        if after >= left:
            return False
        left = after
    return bool(left)


def shorten(path: Path) -> None:
    """Let the file end where its last page does: a commit leaves that to the next checkpoint."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True)) as db:
        db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with _lock_path(path).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            _lock_path(path).unlink(missing_ok=True)


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}-rewriting")

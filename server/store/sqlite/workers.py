"""Which of an SQLite file's writers are alive."""

import fcntl
import os
import secrets
import threading
from contextlib import suppress
from pathlib import Path


class WorkerLocks:
    """The writers of one file: each holds a lock on a file of its own beside it, which ends with its process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.name: str | None = None
        """None while this writer has begun nothing."""
        self._file = -1
        self._pid = 0
        self._gone: set[str] = set()

    def me(self) -> str:
        """The name of this writer, which lives from now on. Raises OSError."""
        name = self.name
        if name is None or self._pid != os.getpid():
            with self._lock:
                if self.name is None or self._pid != os.getpid():
                    self.leave()
                    self._file, self.name = self._enter()
                    self._pid = os.getpid()
                name = self.name
        return name

    def is_me(self, writer: str | None) -> bool:
        return writer == self.name

    def is_gone(self, writer: str) -> bool:
        """Whether another writer's process has ended. Where its lock is missing, nobody knows."""
        if writer not in self._gone and self._ended(writer):
            self._gone.add(writer)
        return writer in self._gone

    def leave(self) -> None:
        """Be gone, from now on."""
        if self._file >= 0:
            os.close(self._file)
        self._file, self.name = -1, None

    def gone(self) -> list[str]:
        """The writers that have left their files behind."""
        prefix = self._lock_path("").name
        names = [each.name.removeprefix(prefix) for each in self._path.parent.iterdir() if each.name.startswith(prefix)]
        return [name for name in names if self.is_gone(name)]

    def forget(self, writer: str) -> None:
        """Remove what a gone writer left behind. To be called when nothing names it any more."""
        self._lock_path(writer).unlink(missing_ok=True)

    def _lock_path(self, writer: str) -> Path:
        return self._path.with_name(f"{self._path.name}-writer-{writer}")

    def _enter(self) -> tuple[int, str]:
        while True:
            name = secrets.token_hex(8)
            # Locked before it has its name: nobody may ever find a writer's file without its lock.
            unnamed = self._lock_path(f"{name}.new")
            file = os.open(unnamed, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
            with suppress(BlockingIOError, FileNotFoundError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                unnamed.rename(self._lock_path(name))
                return file, name
            os.close(file)  # Somebody took it for one that was left behind.

    def _ended(self, writer: str) -> bool:
        try:
            file = os.open(self._lock_path(writer), os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            # Shared, so that of two who look neither takes the other for the writer.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(file)
        return True

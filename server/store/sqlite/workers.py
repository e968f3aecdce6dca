"""Which workers of an SQLite file are alive."""

import fcntl
import os
import secrets
import threading
from contextlib import suppress
from pathlib import Path


class WorkerLocks:
    """Each worker holds a lock on a file of its own, beside the store's file. The lock ends with its process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.name: str | None = None
        """The name of this worker; None if it holds no lock, because it has created no run yet."""
        self._file = -1
        self._pid = 0
        self._ended: set[str] = set()

    def acquire(self) -> str:
        """Hold a lock from now on, if not yet, and return this worker's name. Raises OSError."""
        name = self.name
        if name is None or self._pid != os.getpid():
            with self._lock:
                if self.name is None or self._pid != os.getpid():
                    self.release()
                    self._file, self.name = self._create_lock()
                    self._pid = os.getpid()
                name = self.name
        return name

    def release(self) -> None:
        """Count as ended from now on."""
        if self._file >= 0:
            os.close(self._file)
        self._file, self.name = -1, None

    def is_me(self, worker: str | None) -> bool:
        return worker == self.name

    def has_ended(self, worker: str) -> bool:
        """Whether another worker's process has ended. False if its lock file is missing: then only its lease counts."""
        if worker not in self._ended and self._is_unlocked(worker):
            self._ended.add(worker)
        return worker in self._ended

    def list_ended(self) -> list[str]:
        """The ended workers whose lock files still exist."""
        prefix = self._lock_path("").name
        names = [each.name.removeprefix(prefix) for each in self._path.parent.iterdir() if each.name.startswith(prefix)]
        return [name for name in names if self.has_ended(name)]

    def delete_lock(self, worker: str) -> None:
        """Delete the lock file of an ended worker. No row may name that worker any more."""
        self._lock_path(worker).unlink(missing_ok=True)

    def _lock_path(self, worker: str) -> Path:
        return self._path.with_name(f"{self._path.name}-worker-{worker}")

    def _create_lock(self) -> tuple[int, str]:
        while True:
            name = secrets.token_hex(8)
            # Locked under another name first: no process may ever see a living worker's file without its lock.
            temporary = self._lock_path(f"{name}.new")
            file = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
            with suppress(BlockingIOError, FileNotFoundError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                temporary.rename(self._lock_path(name))
                return file, name
            os.close(file)  # Another process took the file for an ended worker's.

    def _is_unlocked(self, worker: str) -> bool:
        try:
            file = os.open(self._lock_path(worker), os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            # A shared lock: two processes that look at the same time do not take each other for the worker.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(file)
        return True

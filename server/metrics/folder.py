"""The folder in which the workers of a server leave their numbers for each other: a file each, and one for the dead.

prometheus-client's multi-process mode is not used: it must be configured by an environment variable before its import,
it keeps a file of every dead worker for ever, and its histograms take one observation at a time.
"""

import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import orjson

from server.metrics.families import Series, add_series

log = logging.getLogger("server.metrics")

PREFIX = "conversation-metrics-"
DEAD = "dead"
"""The name of the file with the sums of all workers that have ended."""

SPARED_SECONDS = 60.0
"""How old a folder must be to count as abandoned; a younger one may not have its lock yet."""

Snapshot = dict[str, Series]
"""The series of each metric, by its name."""


class Folder:
    """Created by gunicorn's master, and inherited by its workers.

    A lock on the folder ends with the last of them. It tells later masters which folders are abandoned, and systemd not
    to clean this one up.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._alive = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._alive, fcntl.LOCK_SH)

    @classmethod
    def create(cls) -> "Folder":
        """A new, empty folder. Those that killed servers left are deleted. Raises OSError."""
        for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
            with suppress(OSError):  # It belongs to another user.
                if path.stat().st_mtime < time.time() - SPARED_SECONDS:
                    _delete_abandoned(path)
        return cls(Path(tempfile.mkdtemp(prefix=PREFIX)))

    def write(self, pid: int, snapshot: Snapshot) -> None:
        """Replace the numbers of a worker. Raises OSError."""
        self._write(str(pid), snapshot)

    def read(self, without: int) -> list[Snapshot]:
        """The numbers of every worker but `without`, and of those that have ended."""
        with self._lock(fcntl.LOCK_SH):
            return [_load(path) for path in self._files() if path.stem != str(without)]

    def retire(self, alive: Collection[int], keep: Callable[[Snapshot], Snapshot]) -> None:
        """Add what `keep` leaves of the numbers of every worker that is not `alive` to those of the dead.

        Raises nothing, since gunicorn's master would end.
        """
        try:
            with self._lock(fcntl.LOCK_EX):
                ended = [each for each in self._files() if each.stem != DEAD and int(each.stem) not in alive]
                dead = self.path / f"{DEAD}.json"
                total = _load(dead) if dead.exists() else {}
                for path in ended:
                    for name, series in keep(_load(path)).items():
                        add_series(total.setdefault(name, {}), series)
                self._write(DEAD, total)
                for path in ended:
                    path.unlink()
        except OSError as error:
            log.warning("the metrics of an ended worker are lost: %s", type(error).__name__)

    def delete(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def _files(self) -> list[Path]:
        return list(self.path.glob("*.json"))

    def _write(self, name: str, snapshot: Snapshot) -> None:
        data = {
            metric: [[labels, numbers] for labels, numbers in series.items()] for metric, series in snapshot.items()
        }
        new = self.path / f"{name}.new"
        new.write_bytes(orjson.dumps(data))
        new.replace(self.path / f"{name}.json")  # A reader sees all of it or nothing.

    @contextmanager
    def _lock(self, kind: int) -> Iterator[None]:
        """Keep a reader from seeing a worker twice, or not at all, while its numbers move to those of the dead."""
        with (self.path / "lock").open("wb") as file:
            fcntl.flock(file, kind)
            yield


def _load(path: Path) -> Snapshot:
    data = orjson.loads(path.read_bytes())
    return {metric: {tuple(labels): numbers for labels, numbers in series} for metric, series in data.items()}


def _delete_abandoned(path: Path) -> None:
    """Delete a folder whose lock nobody holds. Raises OSError if somebody does."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(folder)

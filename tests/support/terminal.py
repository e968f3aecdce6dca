"""A program in a pseudo-terminal, and what a person would see there."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyte

from tests.support.process import ROOT, SETTINGS

PATIENCE_SECONDS = 40.0
"""How long a failing test may block."""


ENVIRONMENT = {"TERM": "xterm-256color", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "PYTHONPATH": str(ROOT)}


class Terminal:
    """A terminal of 80 × 24 that does not wrap again when its size changes, and says nothing about its cursor."""

    def __init__(self, process: subprocess.Popen[bytes], handle: int, columns: int, rows: int) -> None:
        self.process = process
        self.received = b""
        """Everything that the program wrote."""
        self._handle = handle
        self._screen = pyte.HistoryScreen(columns, rows, history=10_000, ratio=0.5)
        self._stream = pyte.ByteStream(self._screen)

    def type(self, keys: str) -> None:
        os.write(self._handle, keys.encode())

    def paste(self, text: str) -> None:
        """Paste as terminals do: in brackets, with carriage returns for newlines."""
        self.type(f"\x1b[200~{text}\x1b[201~".replace("\n", "\r"))

    def resize(self, columns: int, rows: int) -> None:
        self._screen.resize(rows, columns)
        _set_size(self._handle, columns, rows)

    @property
    def shown(self) -> list[str]:
        """The rows on the screen."""
        return [row.rstrip() for row in self._screen.display]

    @property
    def rows(self) -> list[str]:
        """The rows that have scrolled away, and those on the screen."""
        columns = self._screen.columns
        above = ["".join(row[n].data for n in range(columns)).rstrip() for row in self._screen.history.top]
        return above + self.shown

    @property
    def text(self) -> str:
        return "\n".join(self.rows)

    def wait_for(self, condition: str | Callable[[], bool]) -> None:
        """Wait until a text is seen, or a condition holds. Raises AssertionError with what is seen."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not (condition in self.text if isinstance(condition, str) else condition()):
            assert time.monotonic() < until, f"waited for {condition}:\n" + "\n".join(self.shown)
            self._read(0.1)

    def wait_for_prompt(self) -> None:
        """Wait until the last question is answered and another can be typed."""
        self.wait_for(lambda: [row for row in self.shown if row][-3:-2] == ["›"])

    def wait_for_exit(self) -> int:
        until = time.monotonic() + PATIENCE_SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < until, "\n".join(self.shown)
            self._read(0.1)
        self._read(0)
        return self.process.returncode

    def _read(self, seconds: float) -> None:
        while select.select([self._handle], [], [], seconds)[0]:
            try:
                received = os.read(self._handle, 1 << 16)
            except OSError:  # The program has ended.
                return
            self.received += received
            self._stream.feed(received)
            seconds = 0


def clean_environment() -> dict[str, str]:
    """Without settings of a server, and without what would change how a terminal is written to."""
    unwanted = SETTINGS | {"NO_COLOR", "CONVERSATION_SERVER", "CONVERSATION_KEY"}
    return {name: value for name, value in os.environ.items() if name not in unwanted}


@contextmanager
def open_terminal(
    *arguments: str, columns: int = 80, rows: int = 24, folder: Path = ROOT, **env: str
) -> Iterator[Terminal]:
    """`python -m terminal` with these arguments in a terminal, until the block ends."""
    ours, theirs = pty.openpty()
    _set_size(theirs, columns, rows)
    process = subprocess.Popen(
        [sys.executable, "-m", "terminal", *arguments],
        cwd=folder,
        env=clean_environment() | ENVIRONMENT | env,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=_take_terminal,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours, columns, rows)
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        process.wait()
        os.close(ours)


def _take_terminal() -> None:
    """Make the terminal that of the new session, so that Ctrl-C and a new size are signals to it."""
    fcntl.ioctl(1, termios.TIOCSCTTY, 0)


def _set_size(handle: int, columns: int, rows: int) -> None:
    fcntl.ioctl(handle, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

"""A run while it is written: its text so far, and the requests that wait for it or read it."""

import threading
from bisect import bisect_right
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass

from server.errors import InvalidPosition, UpstreamBadReply, UpstreamCut
from server.model import Run
from server.store import Store
from server.upstream import Reply, Writing


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a reply's text."""

    text: str
    position: int
    """Characters of the reply up to the end of this piece, in Unicode code points."""


Reading = Generator[Piece | Run | None, None, None]
"""A run's text in pieces as it is written, then the run, ended; None after each silence. To be closed when left."""


class LiveRun:
    """One run's text is its own event log: to read it from character N is to wait for more than N characters."""

    def __init__(self, name: str, run: Run, streamed: bool) -> None:
        self.name = name
        self.run = run
        self.streamed = streamed
        self.changed = threading.Condition()
        """Held while the run ends, so that who waits either counts as waiting or sees the end."""
        self._pieces: list[str] = []
        self._ends: list[int] = []
        """Where each of the pieces ends, in characters of the reply."""
        self._length = 0
        self._flushed = 0
        self._writing: Writing | None = None
        self._company: list[Callable[[], bool]] = []
        """For each request that waits or reads: whether its caller is still there."""
        self._add(run.text)

    def text(self, start: int = 0) -> str:
        """What was written, from character `start` on."""
        first = bisect_right(self._ends, start)
        skipped = start - (self._ends[first - 1] if first else 0)
        return "".join(self._pieces[first:])[skipped:]

    def listen(self, writing: Writing) -> Reply:
        """Take in a reply to its end. Raises what the upstream raises, UpstreamCut where the run ended meanwhile."""
        with self.changed:
            if not self.run.is_open:
                raise UpstreamCut
            self._writing = writing
        with closing(iter(writing)) as pieces:
            for piece in pieces:
                if isinstance(piece, Reply):
                    return piece
                with self.changed:
                    if not self.run.is_open:
                        raise UpstreamCut
                    self._add(piece)
                    self.changed.notify_all()
        raise UpstreamBadReply

    def flush(self, store: Store) -> None:
        """Tell the store what was written since the last time."""
        with self.changed:
            new = self.text(self._flushed)
            if new and self.run.is_open and store.append(self.name, self.run.id, new):
                self._flushed += len(new)

    def cut(self) -> None:
        """Close the upstream's connection, where there is one."""
        with self.changed:
            writing = self._writing
        if writing is not None:
            writing.cut()

    def end(self, ended: Run) -> None:
        """To be called with `changed` held."""
        self.run = ended
        self.changed.notify_all()

    def has_company(self) -> bool:
        return any(is_there() for is_there in self._company)

    def wait(self, seconds: float, is_there: Callable[[], bool]) -> Run:
        """The run, ended, or still open after `seconds`."""
        with self.changed:
            self._company.append(is_there)
            try:
                self.changed.wait_for(lambda: not self.run.is_open, seconds)
                return self.run
            finally:
                self._company.remove(is_there)

    def check(self, position: int) -> None:
        """Raises InvalidPosition where the reply, having ended well, is shorter than `position`."""
        if position > len(self.run.text) and self.run.status in ("completed", "cancelled"):
            raise InvalidPosition

    def read(self, position: int, silence: float, is_there: Callable[[], bool]) -> Reading:
        """As `Runner.read`."""
        with self.changed:
            self._company.append(is_there)
        try:
            while True:
                with self.changed:
                    text = self._next_text(position, silence)
                    run = self.run
                if text:
                    position += len(text)
                    yield Piece(text, position)
                elif run.is_open:
                    yield None
                else:
                    self.check(position)
                    yield run
                    return
        finally:
            with self.changed:
                self._company.remove(is_there)

    def _next_text(self, position: int, silence: float) -> str:
        self.changed.wait_for(lambda: not self.run.is_open or self._length > position, silence)
        return self.text(position) if self._length > position else ""

    def _add(self, piece: str) -> None:
        if piece:
            self._pieces.append(piece)
            self._length += len(piece)
            self._ends.append(self._length)

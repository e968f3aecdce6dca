"""A run while it is written, here or elsewhere: its text so far, and the requests that wait for it or read it."""

import threading
from bisect import bisect_right
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace

from server.domain import Run
from server.errors import (
    ActionRequired,
    AppError,
    InvalidPosition,
    RunCancelled,
    StoreUnavailable,
    UpstreamBadReply,
    UpstreamCut,
    error_from_code,
)
from server.store.protocol import Store
from server.upstream.protocol import Completion, CompletionStream

SILENCE_SECONDS = 15.0
"""How long a reader hears nothing before it is told that the reply is still being written."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A part of a reply's text."""

    text: str
    position: int
    """Characters of the reply up to the end of this piece, in Unicode code points."""


RunEvents = Generator[TextDelta | Run | None, None, None]
"""A run's text in pieces as it is written, then the run, ended or requiring action; None for each silence.

To be closed when left.
"""


class LiveRun:
    """One run's text is its own event log: to read it from character N is to wait for more than N characters."""

    def __init__(self, name: str, run: Run, streamed: bool) -> None:
        self.name = name
        self.run = run
        self.streamed = streamed
        self.changed = threading.Condition(threading.Lock())
        """Held while the run ends, so that who waits either counts as waiting or sees the end."""
        self.is_created = False
        """Whether the store has it."""
        self.start_unconfirmed = False
        """Whether the store failed when the run was to be started, so that it may have been."""
        self.pending_end: tuple[Run, Mapping[str, int]] | None = None
        """The run's end, and what was learnt of contexts, which the store could not be told yet."""
        self.store_unreachable = False
        """Whether the store, which alone can tell how the run stands, cannot be reached."""
        self._pieces: list[str] = []
        self._ends: list[int] = []
        """Where each of the pieces ends, in characters of the reply."""
        self._length = 0
        self._flushed = 0
        """How many characters the store was told, and below, how many bytes of UTF-8 they are."""
        self._flushed_bytes = 0
        self._silences = 0
        """How often nobody had written anything for a while."""
        self._quiet = (-1, 0.0)
        """The length at which it was found last, and since when it is so long."""
        self._writing: CompletionStream | None = None
        self._waiters: list[Callable[[], bool]] = []
        """For each request that waits or reads: whether its caller is still there."""
        self._add(run.text)

    def text(self, start: int = 0) -> str:
        """What was written, from character `start` on."""
        first = bisect_right(self._ends, start)
        skipped = start - (self._ends[first - 1] if first else 0)
        return "".join(self._pieces[first:])[skipped:]

    def consume(self, writing: CompletionStream) -> Completion:
        """Take in a reply to its end. Raises what the upstream raises, UpstreamCut where the run ended meanwhile."""
        with self.changed:
            if not self.run.is_open:
                raise UpstreamCut
            self._writing = writing
        with closing(iter(writing)) as pieces:
            for piece in pieces:
                if isinstance(piece, Completion):
                    return piece
                with self.changed:
                    if not self.run.is_open:
                        raise UpstreamCut
                    self._add(piece)
                    self.changed.notify_all()
        raise UpstreamBadReply

    def is_unflushed(self) -> bool:
        return self._flushed < self._length

    def check_keepalive(self, now: float) -> None:
        """Tell all who read where nothing was written for SILENCE_SECONDS. To be called now and then.

        A clock of each reader's own would have to be set anew for each piece.
        """
        length, since = self._quiet
        if length != self._length:
            self._quiet = self._length, now
        elif now - since >= SILENCE_SECONDS:
            self._quiet = length, now
            with self.changed:
                self._silences += 1
                self.changed.notify_all()

    def flush(self, store: Store) -> bool:
        """Tell the store what was written since the last time. False where the run has ended there, or is gone."""
        with self.changed:
            new = self.text(self._flushed)
            if not new or not self.run.is_open:
                return True
            if not store.append_text(self.name, self.run.id, self._flushed_bytes, new):
                return False
            self._flushed += len(new)
            self._flushed_bytes += len(new.encode())
            return True

    def abort(self) -> None:
        """Close the upstream's connection, where there is one."""
        with self.changed:
            writing = self._writing
        if writing is not None:
            writing.abort()

    def end(self, ended: Run) -> None:
        """To be called with `changed` held."""
        self.run = ended
        self.pending_end = None
        self.changed.notify_all()

    def defer_end(self, ended: Run, context_starts: Mapping[str, int]) -> None:
        """The store is to be told the run's end later; who waits is told so now. To be called with `changed` held."""
        # Nobody who waits is given the reply, so nobody has collected it.
        self.pending_end = (replace(ended, delivered=False), context_starts)
        self.store_unreachable = True
        self.changed.notify_all()

    def pause(self, run: Run) -> None:
        """To be called with `changed` held."""
        self.run = run
        self.pending_end = None
        self.changed.notify_all()

    def update(self, run: Run | None) -> None:
        """Take in what another process wrote; None where the store, which knows it, cannot be reached."""
        with self.changed:
            self.store_unreachable = run is None
            if run is not None and self.run.is_open:
                self._add(run.text[self._length :])
                self.run = run
            self.changed.notify_all()

    def add_waiter(self, is_connected: Callable[[], bool]) -> None:
        """Count a caller as waiting, until its `wait_on` ends."""
        with self.changed:
            self._waiters.append(is_connected)

    def has_waiters(self) -> bool:
        return any(is_connected() for is_connected in self._waiters)

    def wait(self, seconds: float, is_connected: Callable[[], bool]) -> Run:
        """The run, ended or requiring action, or as it is after `seconds`.

        Raises StoreUnavailable where only the store could tell.
        """
        self.add_waiter(is_connected)
        return self.wait_registered(seconds, is_connected)

    def wait_registered(self, seconds: float, is_connected: Callable[[], bool]) -> Run:
        """As `wait`, for a caller who attends already."""
        with self.changed:
            try:
                self.changed.wait_for(lambda: not self.run.is_active or self.store_unreachable, seconds)
                self._check_reach()
                return self.run
            finally:
                # Still held: a run that ends now must not count one who has just been told that it is open.
                self._waiters.remove(is_connected)

    def check(self, position: int) -> None:
        """Raises InvalidPosition where the reply, having ended well, is shorter than `position`."""
        if position > self._length and self.run.status in ("completed", "cancelled"):
            raise InvalidPosition

    def read(self, position: int, is_connected: Callable[[], bool]) -> RunEvents:
        """As `Runner.read`."""
        silences = self._silences
        self.add_waiter(is_connected)
        try:
            while True:
                with self.changed:
                    text = self._next_text(position, silences)
                    run = self.run
                    if not text:
                        self._check_reach()
                        silences = self._silences
                if text:
                    position += len(text)
                    yield TextDelta(text, position)
                elif run.is_active:
                    yield None
                else:
                    self.check(position)
                    yield run
                    return
        finally:
            with self.changed:
                self._waiters.remove(is_connected)

    def _next_text(self, position: int, silences: int) -> str:
        """Waits until there is some, or a further silence, or an end."""
        self.changed.wait_for(
            lambda: (
                self._length > position or not self.run.is_active or self._silences > silences or self.store_unreachable
            )
        )
        return self.text(position)

    def _check_reach(self) -> None:
        if self.run.is_open and self.store_unreachable:
            raise StoreUnavailable

    def _add(self, piece: str) -> None:
        if piece:
            self._pieces.append(piece)
            self._length += len(piece)
            self._ends.append(self._length)


def with_end(reading: RunEvents, tell: Callable[[Run], None]) -> RunEvents:
    """`reading`, and `tell` is called with the run when it has been read to its end."""
    with closing(reading):
        for happening in reading:
            if isinstance(happening, Run):
                tell(happening)
            yield happening


def error_of(run: Run) -> AppError | None:
    """Why a run that nobody writes any more has no whole reply; None where it has one."""
    if run.error is not None:
        return error_from_code(run.error.code, run.error.sentence)
    if run.status == "cancelled":
        return RunCancelled()
    return ActionRequired() if run.status == "requires_action" else None

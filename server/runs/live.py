"""The in-memory state of one run, executed here or elsewhere: its text, its waiters and its readers."""

import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace

from server.domain import Run
from server.errors import InvalidPosition, StoreUnavailable, UpstreamBadReply, UpstreamCut
from server.runs.events import RunEvents, TextDelta
from server.store.protocol import Store
from server.upstream.protocol import Completion, CompletionStream

KEEPALIVE_SECONDS = 15.0
"""How long a reader receives no text before it receives a keep-alive."""


class LiveRun:
    """The in-memory state of one run. Its text is the event log: a reader at offset N blocks until it is longer than N.

    Offsets are characters of the reply (Unicode code points). Safe from any thread.
    """

    def __init__(self, name: str, run: Run, streamed: bool) -> None:
        """`name` is the conversation's. `streamed` is whether the upstream is asked for a stream."""
        self.name = name
        self.run = run
        self.streamed = streamed
        self.created = time.monotonic()
        """When this run was created or continued in this process, by the monotonic clock."""
        self.first_text: float | None = None
        """When its first text came since then, by the same clock."""
        self.changed = threading.Condition(threading.Lock())
        """Held while the run ends, so that a waiter either counts as waiting or sees the end."""
        self.is_created = False
        """Whether the store has the run."""
        self.start_unconfirmed = False
        """Whether the store failed when the run was to start, so that it may have started."""
        self.pending_end: tuple[Run, Mapping[str, int]] | None = None
        """The run's end and the context starts, if the store could not take them yet."""
        self.store_unreachable = False
        """Whether the store, which alone knows how the run ended, is unreachable."""
        self._deltas: list[str] = []
        self._offsets: list[int] = []
        """The offset of the end of each delta."""
        self._length = 0
        self._flushed = 0
        """How many characters the store has, and below, how many bytes of UTF-8 they are."""
        self._flushed_bytes = 0
        self._keepalives = 0
        """How many keep-alives were due so far."""
        self._last_growth = (-1, 0.0)
        """The length that `check_keepalive` last saw, and since when, in Unix seconds."""
        self._stream: CompletionStream | None = None
        self._waiters: list[Callable[[], bool]] = []
        """For each waiter and reader: whether its caller is still connected."""
        self._append(run.text)

    def text(self, start: int = 0) -> str:
        """The text from offset `start` on."""
        first = bisect_right(self._offsets, start)
        skipped = start - (self._offsets[first - 1] if first else 0)
        return "".join(self._deltas[first:])[skipped:]

    def consume(self, stream: CompletionStream) -> Completion:
        """Read a reply to its end. Raises what the upstream raises, and UpstreamCut if the run ended meanwhile."""
        with self.changed:
            if not self.run.is_open:
                raise UpstreamCut
            self._stream = stream
        with closing(iter(stream)) as deltas:
            for delta in deltas:
                if isinstance(delta, Completion):
                    return delta
                with self.changed:
                    if not self.run.is_open:
                        raise UpstreamCut
                    if self.first_text is None:
                        self.first_text = time.monotonic()
                    self._append(delta)
                    self.changed.notify_all()
        raise UpstreamBadReply

    def is_sent(self) -> bool:
        """Whether the upstream was asked for the reply."""
        return self._stream is not None

    def is_unflushed(self) -> bool:
        return self._flushed < self._length

    def check_keepalive(self, now: float) -> None:
        """Send all readers a keep-alive if there was no text for KEEPALIVE_SECONDS. To be called periodically.

        A timer for each reader would have to be reset with each delta.
        """
        length, since = self._last_growth
        if length != self._length:
            self._last_growth = self._length, now
        elif now - since >= KEEPALIVE_SECONDS:
            self._last_growth = length, now
            with self.changed:
                self._keepalives += 1
                self.changed.notify_all()

    def flush(self, store: Store) -> bool:
        """Write the text since the last flush to the store. False if the run has ended there, or is gone."""
        with self.changed:
            text = self.text(self._flushed)
            if not text or not self.run.is_open:
                return True
            if not store.append_text(self.name, self.run.id, self._flushed_bytes, text):
                return False
            self._flushed += len(text)
            self._flushed_bytes += len(text.encode())
            return True

    def abort(self) -> None:
        """Close the upstream connection, if there is one."""
        with self.changed:
            stream = self._stream
        if stream is not None:
            stream.abort()

    def end(self, ended: Run) -> None:
        """Wake all waiters with the run's end. The caller holds `changed`."""
        self.run = ended
        self.pending_end = None
        self.changed.notify_all()

    def defer_end(self, ended: Run, context_starts: Mapping[str, int]) -> None:
        """Keep an end that the store cannot take now, and fail all waiters. The caller holds `changed`."""
        # The waiters get StoreUnavailable, so nobody receives the reply.
        self.pending_end = (replace(ended, delivered=False), context_starts)
        self.store_unreachable = True
        self.changed.notify_all()

    def pause(self, run: Run) -> None:
        """Wake all waiters with a run that requires action. The caller holds `changed`."""
        self.run = run
        self.pending_end = None
        self.changed.notify_all()

    def update(self, run: Run | None) -> None:
        """Apply the state that another process wrote; None if the store, which has it, is unreachable."""
        with self.changed:
            self.store_unreachable = run is None
            if run is not None and self.run.is_open:
                self._append(run.text[self._length :])
                self.run = run
            self.changed.notify_all()

    def add_waiter(self, is_connected: Callable[[], bool]) -> None:
        """Count a caller as waiting, until its `wait_registered` returns."""
        with self.changed:
            self._waiters.append(is_connected)

    def has_waiters(self) -> bool:
        """Whether the caller of any waiter or reader is still connected."""
        return any(is_connected() for is_connected in self._waiters)

    def wait(self, seconds: float, is_connected: Callable[[], bool]) -> Run:
        """The run, ended or requiring action, or as it is after `seconds`.

        Raises StoreUnavailable if only the store could tell.
        """
        self.add_waiter(is_connected)
        return self.wait_registered(seconds, is_connected)

    def wait_registered(self, seconds: float, is_connected: Callable[[], bool]) -> Run:
        """As `wait`, for a caller that `add_waiter` has counted."""
        with self.changed:
            try:
                self.changed.wait_for(lambda: not self.run.is_active or self.store_unreachable, seconds)
                self._require_known()
                return self.run
            finally:
                # Still under the lock: a run that ends now must not count a caller who is told that it is open.
                self._waiters.remove(is_connected)

    def check_position(self, position: int) -> None:
        """Raises InvalidPosition if the reply is completed or cancelled and shorter than `position`."""
        if position > self._length and self.run.status in ("completed", "cancelled"):
            raise InvalidPosition

    def read(self, position: int, is_connected: Callable[[], bool]) -> RunEvents:
        """As `Runner.read`."""
        keepalives = self._keepalives
        self.add_waiter(is_connected)
        try:
            while True:
                with self.changed:
                    text = self._wait_for_text(position, keepalives)
                    run = self.run
                    if not text:
                        self._require_known()
                        keepalives = self._keepalives
                if text:
                    position += len(text)
                    yield TextDelta(text, position)
                elif run.is_active:
                    yield None
                else:
                    self.check_position(position)
                    yield run
                    return
        finally:
            with self.changed:
                self._waiters.remove(is_connected)

    def _wait_for_text(self, position: int, keepalives: int) -> str:
        """Block until there is text from offset `position` on, a further keep-alive, or an end."""

        def has_event() -> bool:
            is_longer = self._length > position
            return is_longer or not self.run.is_active or self._keepalives > keepalives or self.store_unreachable

        self.changed.wait_for(has_event)
        return self.text(position)

    def _require_known(self) -> None:
        """Raises StoreUnavailable if only the unreachable store knows how the run ended."""
        if self.run.is_open and self.store_unreachable:
            raise StoreUnavailable

    def _append(self, delta: str) -> None:
        if delta:
            self._deltas.append(delta)
            self._length += len(delta)
            self._offsets.append(self._length)

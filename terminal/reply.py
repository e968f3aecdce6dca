"""Shows a reply while it is written: on a screen, with its state below it, or as plain text."""

import math
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.cells import cell_len
from rich.text import Text

from terminal import words
from terminal.client import Client, Refused, ServerDown
from terminal.growing import GrowingText
from terminal.inert import InertPieces, make_inert_line
from terminal.render import indent, wrap
from terminal.screen import Screen, hidden_cursor, spread
from terminal.stream import Delta, End, Event, LineLost, follow

PAINT_SECONDS = 0.05
SERVER_DOWN = "server_down"
"""The code of a question that reached no server."""
STOPPED = "Stopped · kept up to here"
NARROW = 40
"""Below so many columns, numbers are left out."""


class Follower:
    """Reads a reply on a thread of its own. `start` asks and returns the stream's id."""

    def __init__(self, client: Client, start: Callable[[], str]) -> None:
        self._client = client
        self._start = start
        self._events: queue.Queue[Event] = queue.Queue()
        self._stream_id: str | None = None
        self._started = time.monotonic()
        self._is_stopping = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    @property
    def has_begun(self) -> bool:
        """Whether the server has taken the question."""
        return self._stream_id is not None

    @property
    def is_stopping(self) -> bool:
        return self._is_stopping.is_set()

    def stop(self) -> None:
        """Have the server stop the reply, and keep what is written. Asked a second time, wait no longer for its end."""
        if self._is_stopping.is_set():
            self._events.put(End("cancelled"))
            return
        self._is_stopping.set()
        if self._stream_id is not None:
            threading.Thread(target=self._stop, args=(self._stream_id,), daemon=True).start()

    def wait(self, seconds: float) -> list[Event]:
        """The events that have come; none if none comes within `seconds`."""
        try:
            found = [self._events.get(timeout=seconds)]
        except queue.Empty:
            return []
        while not self._events.empty():
            found.append(self._events.get())
        return found

    def _run(self) -> None:
        end = End("failed", "What the server sent cannot be read.", "unreadable_stream")
        try:
            self._stream_id = self._start()
            if self._is_stopping.is_set():
                self._stop(self._stream_id)
            for event in follow(self._client, self._stream_id):
                if isinstance(event, End):
                    end = event
                else:
                    self._events.put(event)
        except Refused as error:
            end = End("failed", error.sentence, error.code)
        except ServerDown as error:
            end = End("failed", str(error), SERVER_DOWN)
        finally:
            self._events.put(end)

    def _stop(self, stream_id: str) -> None:
        try:
            self._client.stop_reply(stream_id)
        except (Refused, ServerDown) as error:
            self._events.put(End("failed", f"The reply could not be stopped: {error}", "not_stopped"))


@contextmanager
def on_ctrl_c(action: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C within the block calls `action` and interrupts nothing else."""

    def handle(_signal: int, _frame: FrameType | None) -> None:
        action()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def show_reply(
    screen: Screen,
    reply: Follower,
    footer: Callable[[int], list[Text]],
    hint: Callable[[End], str] = lambda _: "",
    stopped: str = STOPPED,
    is_left: Callable[[], bool] = lambda: False,
) -> End:
    """Write the reply below what is on the screen, until it ends.

    `footer` gives the rows below its state for a width; `hint` says what can be done after a failure, and `stopped`
    what is kept if it is stopped. Returns an end with the status `running` as soon as `is_left` and the server goes on
    without a reader.
    """
    text, inert = GrowingText(), InertPieces()
    state = _State()
    with on_ctrl_c(reply.stop), hidden_cursor():
        screen.write([Text()])
        while True:
            for event in reply.wait(PAINT_SECONDS):
                state.take(event)
                if isinstance(event, Delta):
                    text.feed(inert.feed(event.text))
            width, gap = screen.width, [Text()] if state.tokens else []
            final = indented(text.take_final(width - 2))
            if state.end is None and is_left() and reply.has_begun and not reply.is_stopping:
                state.end = End("running")
            if state.end is not None:
                break
            below = [*gap, state.describe(reply, width), *(footer(width) if screen.height > 10 else [])]
            screen.write(final, [*indented(text.movable(width - 2)), *below])
            time.sleep(PAINT_SECONDS)  # Pieces gather, so that a fast reply is painted ten times a second.
        rest = indented(text.take_rest(width - 2))
        screen.write(
            [*final, *rest, *gap, *describe_end(state.end, reply.seconds, width, hint(state.end), stopped), Text()]
        )
    return state.end


def indented(rows: list[Text]) -> list[Text]:
    return [Text("  ").append_text(row) if row else row for row in rows]


def print_reply(reply: Follower) -> End:
    """Write the reply to the output as plain text, as it comes."""
    inert = InertPieces()
    last = "\n"
    with on_ctrl_c(reply.stop):
        while True:
            for event in reply.wait(1):
                if isinstance(event, Delta):
                    piece = inert.feed(event.text)
                    sys.stdout.write(piece)
                    sys.stdout.flush()
                    last = piece[-1:] or last
                elif isinstance(event, End):
                    sys.stdout.write("" if last == "\n" else "\n")
                    sys.stdout.flush()
                    return event


def describe_end(end: End, duration: float | None, width: int, hint: str = "", stopped: str = STOPPED) -> list[Text]:
    """How a reply ended: its sign, and its numbers or what went wrong."""
    sign = Text(f"{words.SIGNS[end.status]} ", words.STYLES[end.status])
    if end.status == "completed":
        return [Text().append_text(sign).append(words.numbers(end.usage, duration) if width >= NARROW else "", "dim")]
    time_ = words.seconds(duration) if duration is not None and width >= NARROW else ""
    if end.status == "running":
        return [Text().append_text(sign).append(words.say("The reply is finished without you."), "dim")]
    if end.status == "cancelled":
        parts = [words.say(stopped), time_]
        return [Text().append_text(sign).append(" · ".join(part for part in parts if part), "dim")]
    sentence = wrap(Text(make_inert_line(end.error), "bold"), width - 3)
    phrase = "Failed after {}" if end.status != "interrupted" else "Cut off after {}"
    parts = [make_inert_line(end.code), words.say(phrase, time_) if time_ else "", hint]
    rows = list(indent(sentence, f"{words.SIGNS[end.status]} ", words.STYLES[end.status]))
    return [*rows, Text("  " + " · ".join(part for part in parts if part), "dim")]


def join_fitting(parts: list[str], width: int, between: str = " · ") -> str:
    """The parts in a row, without the last ones that do not fit."""
    given = [part for part in parts if part]
    while len(given) > 1 and cell_len(between.join(given)) > width:
        given.pop()
    return between.join(given)


class _State:
    """What is known of a reply while it is written."""

    def __init__(self) -> None:
        self.end: End | None = None
        self.tokens = 0
        self._pieces = 0
        self._characters = 0.0
        self._lost = 0.0

    def take(self, event: Event) -> None:
        self._lost = event.seconds if isinstance(event, LineLost) else 0.0
        if isinstance(event, End):
            self.end = event
        elif isinstance(event, Delta):
            self._pieces += 1
            # Nobody tells the tokens before the end: about four letters each, fewer in scripts beyond ASCII.
            self._characters += sum(0.25 if character < "\x80" else 0.7 for character in event.text)
            self.tokens = max(self._pieces, math.ceil(self._characters))

    def describe(self, reply: Follower, width: int) -> Text:
        if self._lost:
            sentence = words.say("The connection is lost. Trying again in {}.", words.seconds(self._lost))
            return Text().append("○ ", "yellow").append(sentence)
        parts = [words.say("Writing" if self.tokens else "Waiting for the first word")]
        if reply.is_stopping:
            parts = [words.say("Stopping")]
        if width >= NARROW:
            duration = reply.seconds
            parts += [f"≈ {words.tokens(self.tokens)}"] if self.tokens else []
            parts += [words.seconds(duration), words.rate(self.tokens, duration)]
        row = Text().append("◌ ", "green").append(join_fitting(parts, width - 4), "dim")
        return spread(row, words.say("Ctrl-C stops"), width)

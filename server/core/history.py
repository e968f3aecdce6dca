"""A history as callers read it: JSON, made of the very bytes that are kept, and in parts as it is read."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from server.domain import Message, rfc3339

FIRST_MESSAGES = 64
"""How many messages are read at first: most histories have no more, and are one answer."""

MOST_MESSAGES = 500
"""How many messages are read at once at most."""

READ_BYTES = 1_048_576
"""How many bytes a read should bring, judged by the one before it."""

PIECE_BYTES = 262_144
"""How long a piece of JSON becomes, but for a single message that is longer."""

Read = Callable[[int, int], Sequence[Message]]
"""Gives the messages from one place to before another, oldest first, or those of them that there are."""

FindNext = Callable[[Message, int], int | None]
"""Gives the place behind a message, which was the given one; None if the message is gone."""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a history."""

    listed: Iterable[bytes]
    """The pieces of a JSON list of `{"role", "content", "timestamp"}`, oldest first; a tuple if it was short."""
    start: int
    """The place of its first message; so many older ones are left out."""


def page(read: Read, find_next: FindNext, start: int, stop: int) -> Page:
    """The messages from place `start` to before place `stop`. The first of them are read here, the others on the way.

    What changes meanwhile leaves a list: what was cleared away ends it, and of what remains nothing is missed or told
    twice. A read that fails raises what it raises, in the middle of the list.
    """
    messages = read(start, min(start + FIRST_MESSAGES, stop))
    if start + len(messages) >= stop or not messages:
        return Page((b"[" + b",".join(map(_listed, messages)) + b"]",), start)
    return Page(_pieces(_read_on(read, find_next, messages, start, stop)), start)


def newest(read: Read, start: int, stop: int, most_characters: int) -> Page:
    """The newest messages from place `start` to before place `stop`, in at most `most_characters` of JSON."""
    parts: list[bytes] = []
    room = most_characters - 2
    for message in _read_back(read, start, stop):
        part = _listed(message)
        room -= len(part.decode()) + 1
        if room < 0:
            break
        parts.append(part)
    return Page((b"[" + b",".join(reversed(parts)) + b"]",), stop - len(parts))


def _listed(message: Message) -> bytes:
    return b'%b,"timestamp":"%b"}' % (message.fragment[:-1], rfc3339(message.timestamp).encode())


def _pieces(messages: Iterable[Message]) -> Iterator[bytes]:
    piece = bytearray()
    mark = b"["
    for message in messages:
        piece += mark + _listed(message)
        mark = b","
        if len(piece) >= PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece + b"]")


def _read_on(read: Read, find_next: FindNext, messages: Sequence[Message], start: int, stop: int) -> Iterator[Message]:
    """`messages`, which begin at place `start`, and those behind them."""
    while messages:
        yield from messages
        last, count = messages[-1], len(messages)
        start += count
        size = sum(len(each.fragment) for each in messages)
        count = max(1, min(MOST_MESSAGES, 2 * count, count * READ_BYTES // size))
        messages = ()  # Not to be held while the next ones are read.
        place: int | None = None
        while place != start:  # Looked up after the read, so that no change falls in between.
            if start >= stop:
                return
            messages = read(start, min(start + count, stop))
            place = find_next(last, start)
            if place is None:
                return
            start, place = place, start


def _read_back(read: Read, start: int, stop: int) -> Iterator[Message]:
    """The messages from place `stop` back to `start`, newest first."""
    while start < stop:
        first = max(start, stop - FIRST_MESSAGES)
        yield from reversed(read(first, stop))
        stop = first

"""A page of history as JSON. It consists of the stored bytes of the messages; a long page is read while it is sent."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from server.domain import Message, rfc3339

FIRST_READ = 64
"""How many messages the first read asks for. Most histories have no more, and are sent as one chunk."""

MAX_READ = 500
"""How many messages one read asks for at most."""

READ_BYTES = 1_048_576
"""How many bytes a read should return. The size of the read before it decides how many messages that is."""

CHUNK_BYTES = 262_144
"""A chunk of JSON is sent when it is this long. It exceeds this by at most one message."""

ReadMessages = Callable[[int, int], Sequence[Message]]
"""Returns the messages from one index to before another, oldest first, as many as exist."""

FindNextIndex = Callable[[Message, int], int | None]
"""Returns the index after a message; the caller passes the one it knows. None if the message is gone."""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a history."""

    chunks: Iterable[bytes]
    """The chunks of a JSON list of `{"role", "content", "timestamp"}`, oldest first; a tuple if the page is short."""
    start: int
    """The index of the first message of the page, which is also how many older ones are left out."""


def read_page(read: ReadMessages, find_next: FindNextIndex, start: int, stop: int) -> Page:
    """The messages from index `start` to before `stop`. The first ones are read here, the others while it is consumed.

    If messages are cleared meanwhile, the list ends there; if some are deleted, none of the rest is missed or sent
    twice. An exception of a read is raised in the middle of the list.
    """
    messages = read(start, min(start + FIRST_READ, stop))
    if start + len(messages) >= stop or not messages:
        return Page((b"[" + b",".join(map(_dump_message, messages)) + b"]",), start)
    return Page(_join_chunks(_read_on(read, find_next, messages, start, stop)), start)


def read_newest(read: ReadMessages, start: int, stop: int, max_characters: int) -> Page:
    """The newest messages from index `start` to before `stop`, in at most `max_characters` of JSON."""
    parts: list[bytes] = []
    room = max_characters - 2
    for message in _read_backward(read, start, stop):
        part = _dump_message(message)
        room -= len(part.decode()) + 1
        if room < 0:
            break
        parts.append(part)
    return Page((b"[" + b",".join(reversed(parts)) + b"]",), stop - len(parts))


def _dump_message(message: Message) -> bytes:
    # The stored fragment is JSON already; it is extended, not parsed.
    return b'%b,"timestamp":"%b"}' % (message.fragment[:-1], rfc3339(message.timestamp).encode())


def _join_chunks(messages: Iterable[Message]) -> Iterator[bytes]:
    chunk = bytearray()
    separator = b"["
    for message in messages:
        chunk += separator + _dump_message(message)
        separator = b","
        if len(chunk) >= CHUNK_BYTES:
            yield bytes(chunk)
            chunk.clear()
    yield bytes(chunk + b"]")


def read_forward(read: ReadMessages, find_next: FindNextIndex, stop: int) -> Iterator[Message]:
    """The messages before index `stop`, oldest first, as `read_page` reads them."""
    return _read_on(read, find_next, read(0, min(FIRST_READ, stop)), 0, stop)


def _read_on(
    read: ReadMessages, find_next: FindNextIndex, messages: Sequence[Message], start: int, stop: int
) -> Iterator[Message]:
    """`messages`, the first of which has index `start`, and those after them."""
    while messages:
        yield from messages
        last, count = messages[-1], len(messages)
        start += count
        size = sum(len(each.fragment) for each in messages)
        count = max(1, min(MAX_READ, 2 * count, count * READ_BYTES // size))
        messages = ()  # Frees the memory before the next read.
        next_index: int | None = None
        # The index is looked up after the read, so that a deletion before the read cannot go unnoticed.
        while next_index != start:
            if start >= stop:
                return
            messages = read(start, min(start + count, stop))
            next_index = find_next(last, start)
            if next_index is None:
                return
            start, next_index = next_index, start


def _read_backward(read: ReadMessages, start: int, stop: int) -> Iterator[Message]:
    """The messages before index `stop`, back to `start`, newest first."""
    while start < stop:
        first = max(start, stop - FIRST_READ)
        yield from reversed(read(first, stop))
        stop = first

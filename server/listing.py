"""A history as callers read it: JSON, made of the very bytes that are kept."""

from collections.abc import Sequence
from dataclasses import dataclass

from server.model import Message, rfc3339


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a history."""

    listed: bytes
    """A JSON list of `{"role", "content", "timestamp"}`, oldest first."""
    start: int
    """The place of its first message; so many older ones are left out."""


def page(messages: Sequence[Message], stop: int, most_characters: int | None) -> Page:
    """The newest of `messages`, which end before place `stop`, in at most `most_characters` of JSON."""
    parts = [_listed(each) for each in messages]
    if most_characters is not None:
        fitting = _fitting(parts, most_characters)
        parts = parts[len(parts) - fitting :]
    return Page(b"[" + b",".join(parts) + b"]", stop - len(parts))


def _listed(message: Message) -> bytes:
    return b'%b,"timestamp":"%b"}' % (message.fragment[:-1], rfc3339(message.timestamp).encode())


def _fitting(parts: list[bytes], most_characters: int) -> int:
    """How many of the last `parts` fit into a JSON list of `most_characters`."""
    room = most_characters - 2
    for fitting, part in enumerate(reversed(parts)):
        room -= len(part.decode()) + 1
        if room < 0:
            return fitting
    return len(parts)

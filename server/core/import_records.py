"""What a file to import has: a header for each conversation, and after it its runs and messages, oldest first."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from server.core.json_file import JsonFile, Span
from server.domain import Message, Role, Run

MAX_PARTS = 10_000
"""The most parts of one message."""


@dataclass(frozen=True, slots=True)
class Header:
    """The beginning of a conversation."""

    name: str | None
    """None: a new one."""
    changes: Mapping[str, object]
    """Its settings, as `Store.update_conversation` takes them."""
    created: float
    """Unix seconds."""
    touched: float
    """Unix seconds."""
    has_ids: bool = False
    """Whether the file has the ids of runs and messages. If not, they are new ones each time the file is read."""
    counts: tuple[int, int] | None = None
    """How many runs and messages it has, if the file says that."""


@dataclass(frozen=True, slots=True)
class PlainMessage:
    """A message of a format without runs."""

    span: Span
    role: Role
    content: str
    timestamp: float
    """Unix seconds."""
    model: str | None = None


Item = tuple[Span, Header | Run | Message]
"""A record, and where it stands in the file."""


def require_few_parts(data: JsonFile, span: Span, parts: list[Any]) -> None:
    """Raises InvalidImport if a message has more than MAX_PARTS."""
    if len(parts) > MAX_PARTS:
        raise data.error(span.start, f"this message has more than {MAX_PARTS} parts; split it")


def pair_turns(messages: Iterable[PlainMessage]) -> Iterator[Item]:
    """A question that a reply follows directly becomes a completed run, so that both can be replaced.

    All other messages have no run.
    """
    question: PlainMessage | None = None
    for message in messages:
        if question is not None and message.role == "assistant":
            run = Run(
                question.content,
                created=question.timestamp,
                status="completed",
                text=message.content,
                model=message.model,
                ended=message.timestamp,
                delivered=True,
            )
            asked, replied = run.history_messages()
            yield from ((question.span, run), (question.span, asked), (message.span, replied))
            question = None
            continue
        if question is not None:
            yield _to_message(question)
        question = message if message.role == "user" else None
        if question is None:
            yield _to_message(message)
    if question is not None:
        yield _to_message(question)


def _to_message(message: PlainMessage) -> Item:
    return message.span, Message.of(message.role, message.content, None, message.timestamp)

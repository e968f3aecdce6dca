"""Exports a conversation to a file, as it is at one moment, even while replies are written."""

import time
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import BinaryIO, Literal

import orjson

from server.concurrency import Pauses
from server.core.export_format import FORMAT, VERSION, dump_conversation, dump_message, dump_run
from server.core.history import read_forward
from server.core.scope import Scope
from server.domain import Conversation, Message
from server.errors import ConversationBusy, NotFound
from server.store.protocol import Store

ATTEMPTS = 5
"""How often an export is begun anew if the history changes other than by growing."""

READ_RUNS = 100
READ_BYTES = 1_048_576
"""A read of runs asks for READ_RUNS at most, and for about as many as have READ_BYTES."""

CHANGING = "The conversation changes all the time; export it again in a moment."

ExportFormat = Literal["json", "jsonl", "markdown"]


@dataclass(frozen=True, slots=True)
class ExportedFile:
    file: BinaryIO
    """Temporary, at its beginning. It is deleted when it is closed."""
    size: int
    """In bytes."""
    title: str
    """The conversation's title, or its name."""


class Exports:
    """Safe from any thread."""

    def __init__(self, store: Store, scope: Scope) -> None:
        self._store = store
        self._scope = scope

    def write(self, name: str, file_format: ExportFormat) -> ExportedFile:
        """Write a conversation to a file; its time until expiry goes on.

        It has the messages of one moment, and the runs that had ended then. Raises NotFound, and ConversationBusy if
        the history changes all the time.
        """
        self._scope.require(name)
        for _ in range(ATTEMPTS):
            with ExitStack() as opened:
                file = opened.enter_context(TemporaryFile())
                before = self._get(name)
                with suppress(NotFound):  # A run that was read last was cleared; so the history has changed.
                    if file_format == "markdown":
                        self._write_markdown(file, before)
                    else:
                        self._write_records(file, before, has_lines=file_format == "jsonl")
                if self._is_current(before):
                    opened.pop_all()
                    size = file.tell()
                    file.seek(0)
                    return ExportedFile(file, size, _title_of(before))
        raise ConversationBusy(CHANGING)

    def _get(self, name: str) -> Conversation:
        """Raises NotFound."""
        conversation = self._store.get_conversation(name)
        if conversation is None:
            raise NotFound
        return conversation

    def _is_current(self, before: Conversation) -> bool:
        """Whether the history has at most grown since."""
        return self._get(before.name).history_id == before.history_id

    def _write_records(self, file: BinaryIO, before: Conversation, *, has_lines: bool) -> None:
        with TemporaryFile() as newest_first:
            starts = self._write_runs(newest_first, before.name)
            late = self._find_late_runs(before)
            if late:
                starts = _without(newest_first, starts, late)
            counts = {"run_count": len(starts), "message_count": before.message_count}
            head = {"format": FORMAT, "version": VERSION}
            conversation = dump_conversation(before)
            if has_lines:
                file.write(_dump({"type": "conversation", **head, **counts, **conversation}) + b"\n")
            else:
                file.write(_dump(head)[:-1] + b',\n"conversation":' + _dump(conversation) + b',\n"runs":[')
            parts = _Parts(file, has_lines=has_lines)
            for start in reversed(starts):
                newest_first.seek(start)
                parts.add(b"run", newest_first.readline().rstrip())
            parts.end(b'],\n"messages":[')
            for message in self._read_messages(before):
                parts.add(b"message", _dump(dump_message(message)))
            parts.end(b"]}\n")

    def _write_runs(self, file: BinaryIO, name: str) -> "array[int]":
        """Write the ended runs of a conversation, newest first, a line each. Returns where each line starts."""
        starts = array("Q")
        pauses = Pauses()
        count, oldest = READ_RUNS, None
        while runs := self._store.list_runs(name, None, count, oldest):
            begin = file.tell()
            for run in runs:
                pauses.take()
                if not run.is_open:
                    starts.append(file.tell())
                    file.write(_dump(dump_run(run)) + b"\n")
            oldest = runs[-1].id
            size = max(1, file.tell() - begin)
            count = max(1, min(READ_RUNS, 2 * count, len(runs) * READ_BYTES // size))
            del runs  # Frees the memory before the next read.
        return starts

    def _find_late_runs(self, before: Conversation) -> set[str]:
        """The ids of runs that may be among those that were read although their messages are not exported.

        These messages were added between the two reads: an end and its messages are written in one step.
        """
        count = max(before.message_count, self._get(before.name).message_count)
        added = self._store.list_messages(before.name, before.message_count, count)
        return {each.run_id for each in added if each.run_id is not None}

    def _read_messages(self, before: Conversation) -> Iterator[Message]:
        """The messages that there were at that moment; fewer if the history changes."""
        pauses = Pauses()
        for message in read_forward(
            lambda start, stop: self._store.list_messages(before.name, start, stop),
            lambda _, index: index if self._is_current(before) else None,
            before.message_count,
        ):
            pauses.take()
            yield message

    def _write_markdown(self, file: BinaryIO, before: Conversation) -> None:
        file.write(f"# {_title_of(before)}\n".encode())
        for message in self._read_messages(before):
            speaker = "Question" if message.role == "user" else self._describe_reply(message)
            when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(message.timestamp))
            file.write(f"\n## {speaker} · {when}\n\n{message.content.strip()}\n".encode())

    def _describe_reply(self, message: Message) -> str:
        try:
            model = None if message.run_id is None else self._store.get_run(message.run_id).model
        except NotFound:  # It was cleared since.
            model = None
        return "Reply" if model is None else f"Reply of {model}"


class _Parts:
    """Writes records: one on each line, with a comma between them or with their type."""

    def __init__(self, file: BinaryIO, *, has_lines: bool) -> None:
        self._file = file
        self._has_lines = has_lines
        self._separator = b"\n"
        self._pauses = Pauses()

    def add(self, kind: bytes, record: bytes) -> None:
        self._pauses.take()
        if self._has_lines:
            self._file.write(b'{"type":"%b",%b\n' % (kind, record[1:]))
        else:
            self._file.write(self._separator + record)
            self._separator = b",\n"

    def end(self, text: bytes) -> None:
        """End the list of records with `text`, which JSON Lines have not."""
        if not self._has_lines:
            self._file.write(b"\n" + text)
            self._separator = b"\n"


def _without(file: BinaryIO, starts: "array[int]", late: set[str]) -> "array[int]":
    kept = array("Q")
    for start in starts:
        file.seek(start)
        if orjson.loads(file.readline())["id"] not in late:
            kept.append(start)
    return kept


def _dump(record: object) -> bytes:
    return orjson.dumps(record)


def _title_of(conversation: Conversation) -> str:
    title: str = conversation.settings.get("title") or conversation.excerpt or conversation.name
    return title

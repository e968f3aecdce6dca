"""Imports conversations from a file: all of them, or nothing."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import BinaryIO

from server.access.caps import ClientCaps
from server.core.import_check import Names, Plan, check_file
from server.core.import_formats import read_file
from server.core.import_records import Header
from server.core.json_file import JsonFile
from server.core.scope import Scope
from server.domain import Conversation, Message, Run, new_id
from server.errors import ConversationBusy, ConversationExists, ImportLost, NotFound, StoreUnavailable
from server.store.protocol import Store

MAX_FILES = 16
"""How many files of the largest size one process has on the disk at the same time, or more smaller ones."""

BATCH_BYTES, BATCH_COUNT = 131_072, 100
"""How much one write to the store has at most, but for its last record. Other writes wait for it."""

HIDDEN_SECONDS = 600.0
"""How long after the last write to it a conversation is kept that is not completely imported, if the process dies."""

TOO_MANY = "Too many files are being imported; try again in a minute."


@dataclass(frozen=True, slots=True)
class Imported:
    """A conversation that was imported."""

    conversation: Conversation
    message_count: int
    run_count: int


@dataclass(frozen=True, slots=True)
class ImportResult:
    conversations: Sequence[Imported]
    skipped: Counter[str]
    """How many parts of each kind were no text."""


class ImportQueue:
    """The files of all callers that are being received or imported. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._received = 0
        """The bytes of all these files."""
        # One at a time: each takes what the processor has left, so that many would make other callers wait longer.
        self.turn = threading.Lock()

    @contextmanager
    def admit(self, max_bytes: int) -> Iterator[Callable[[int], None]]:
        """Give a function to call with the size of each piece of a file before it is kept, until the file is gone.

        It raises ConversationBusy if MAX_FILES of `max_bytes` have no room for the piece. Bytes are counted rather
        than files, so that slow senders do not hold what they have not sent.
        """
        held = 0

        def take(size: int) -> None:
            nonlocal held
            with self._lock:
                if self._received + size > MAX_FILES * max_bytes:
                    raise ConversationBusy(TOO_MANY)
                self._received += size
                held += size

        try:
            yield take
        finally:
            with self._lock:
                self._received -= held


class Imports:
    """Safe from any thread."""

    def __init__(self, store: Store, scope: Scope, queue: ImportQueue, caps: ClientCaps) -> None:
        self._store = store
        self._scope = scope
        self._caps = caps
        self._queue = queue
        self.admit = queue.admit

    def load(
        self, file: BinaryIO, name: str | None, max_input_chars: int, *, has_lines: bool, copies: bool
    ) -> ImportResult:
        """Import the conversations of `file`, under `name` if there is one and the file has one conversation.

        If a name exists, ConversationExists is raised, or, if `copies`, a free one is taken; a name in the file that is
        not the caller's is replaced by a new one. Runs get new ids if theirs exist in the store, and always if the
        caller may not open all. Raises NotAllowed and NotFound if `name` is not the caller's, ClientFull if the client
        may not keep so much, and InvalidImport, which names the line, for a file that is broken or has a question or
        system prompt of more than `max_input_chars` characters.

        Everything is checked before anything is written. It is written to conversations that nobody sees listed, and
        these are listed at the end. If the process dies, those that are not listed yet expire; if it dies while it
        lists several, some are there.
        """
        names = Names(self._store, self._scope, name, copies=copies)
        self._caps.require_room(self._scope.caller.owner, name or "")
        with self._queue.turn, closing(JsonFile(file)) as data:
            plan = check_file(data, self._store, names, max_input_chars, has_lines=has_lines)
            self._caps.require_room_for(self._scope.caller.owner, plan.measure())
            self._scope.require_key()
            writing = _Writing(self._store, plan, self._scope.caller.owner)
            try:
                return ImportResult(writing.write(data, has_lines=has_lines), plan.skipped)
            except BaseException as error:
                writing.undo()
                if isinstance(error, NotFound):
                    raise ImportLost from None
                raise


class _Writing:
    """The writing of a file that was checked."""

    def __init__(self, store: Store, plan: Plan, owner: str) -> None:
        self._store = store
        self._plan = plan
        self._owner = owner
        self._token = new_id("import")
        self._headers: list[Header] = []
        self._written: list[str] = []
        """The names of the conversations that are ours, one for each of the headers."""
        self._history_ids: list[str] = []
        """Those of these conversations: one of the same name that somebody creates later has another."""
        self._runs: list[Run] = []
        self._messages: list[Message] = []
        self._size = 0
        """The bytes of these in the file."""

    def write(self, data: JsonFile, *, has_lines: bool) -> list[Imported]:
        """Write and list all. Raises NotFound if one of the conversations is gone."""
        for span, record in read_file(data, Counter(), has_lines=has_lines):
            if isinstance(record, Header):
                self._flush()
                self._create(record)
            else:
                self._add(record)
                self._size += span.end - span.start
                if self._size >= BATCH_BYTES or len(self._runs) + len(self._messages) >= BATCH_COUNT:
                    self._flush()
        self._flush()
        now = time.time()  # A later time, as of a clock that is fast, would keep a conversation on top of the list.
        return [
            Imported(
                self._store.publish_conversation(each.name, min(header.created, now), min(header.touched, now)),
                each.messages,
                each.runs,
            )
            for each, header in zip(self._plan.conversations, self._headers, strict=True)
        ]

    def undo(self) -> None:
        """Delete what was written, as far as the store can be reached; it expires otherwise.

        What is somebody else's stays: a conversation that was deleted and created again, and one that was listed
        already and asked in since.
        """
        for name, history_id, planned in zip(self._written, self._history_ids, self._plan.conversations, strict=False):
            with suppress(StoreUnavailable):
                current = self._store.get_conversation(name)
                if current and current.history_id == history_id and current.message_count <= planned.messages:
                    self._store.delete_conversation(name)

    def _create(self, header: Header) -> None:
        """Create the next conversation. Raises ConversationExists if somebody else has created it meanwhile."""
        name = self._plan.conversations[len(self._headers)].name
        mark = {"import": self._token}
        created = self._store.create_conversation(
            name, HIDDEN_SECONDS, mark, owner=self._owner, is_unlisted=True, is_importing=True
        )
        if created.metadata != mark:
            raise ConversationExists
        self._written.append(name)
        self._history_ids.append(created.history_id)
        self._headers.append(header)
        self._store.update_conversation(name, {"metadata": None, **header.changes}, create=False)

    def _add(self, record: Run | Message) -> None:
        new_ids = self._plan.new_ids
        if isinstance(record, Run):
            replaces = new_ids.get(record.replaces or "", record.replaces)
            self._runs.append(replace(record, id=new_ids.get(record.id, record.id), replaces=replaces))
            return
        run_id = new_ids.get(record.run_id or "")
        if run_id is not None and record.run_id is not None:
            is_reply = record.id == _reply_id(record.run_id)
            record = replace(record, run_id=run_id, id=_reply_id(run_id) if is_reply else record.id)
        self._messages.append(record)

    def _flush(self) -> None:
        if self._runs or self._messages:
            self._store.import_history(self._written[-1], self._messages, self._runs)
            self._runs, self._messages, self._size = [], [], 0


def _reply_id(run_id: str) -> str:
    return Run("", id=run_id).reply_id

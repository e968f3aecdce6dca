"""The first pass over a file to import: it finds every fault, chooses the names, and writes nothing."""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from server.core.import_formats import read_file
from server.core.import_records import Header
from server.core.json_file import JsonFile, Span
from server.core.scope import Scope
from server.domain import METADATA_CHARACTERS, Message, Run, is_too_long, new_id
from server.errors import ConversationExists, InvalidRequest, NotAllowed, NotFound
from server.store.limits import Holdings
from server.store.protocol import Store

MAX_CONVERSATIONS = 10_000
"""The most conversations of one file."""

MAX_RECORDS = 1_000_000
"""The most runs and messages of one file."""

NAME_CHARACTERS = 256

ONE_ONLY = "client_name is for a file with one conversation; leave it out for this one."


@dataclass
class PlannedConversation:
    """One conversation of a file."""

    name: str
    """The name that it gets."""
    runs: int = 0
    messages: int = 0


@dataclass
class Plan:
    """What an import writes."""

    conversations: list[PlannedConversation] = field(default_factory=list)
    new_ids: dict[str, str] = field(default_factory=dict)
    """For each run that does not keep its id, the id that it gets."""
    skipped: Counter[str] = field(default_factory=Counter)
    """How many parts of each kind are no text."""
    bytes: int = 0
    """Of the messages."""

    def measure(self) -> Holdings:
        """What it adds to what the client has."""
        return Holdings(
            len(self.conversations), sum(each.messages for each in self.conversations), self.bytes, open_runs=0
        )


def check_file(data: JsonFile, store: Store, names: "Names", max_input_chars: int, *, has_lines: bool) -> Plan:
    """Read a whole file. Raises InvalidImport, and what `names` raises when it chooses."""
    plan = Plan()
    check = _Check(data, store, plan, names, max_input_chars)
    for count, (span, record) in enumerate(read_file(data, plan.skipped, has_lines=has_lines)):
        check.take(span, record)
        if count >= MAX_RECORDS:
            raise data.error(span.start, f"the file has more than {MAX_RECORDS} messages and runs; split it")
    check.end()
    return plan


class Names:
    """Chooses the names of the conversations of one file."""

    def __init__(self, store: Store, scope: Scope, name: str | None, *, copies: bool) -> None:
        """With `name`, the only conversation gets it. With `copies`, a name that is taken is numbered.

        Raises NotAllowed and NotFound if `name` is not the caller's.
        """
        if name is not None:
            scope.require(name)
        self.is_limited = scope.is_limited
        """Whether there is anything that the caller may not open."""
        self._store = store
        self._scope = scope
        self._name = name
        self._copies = copies
        self._has_conflict = False
        self._chosen: set[str] = set()
        self._numbers: Counter[str] = Counter()

    def choose(self, wanted: str | None) -> str:
        """A free name; without `copies` also one that is taken. Raises InvalidRequest if one was given for several."""
        if self._name is not None and self._chosen:
            raise InvalidRequest(ONE_ONLY)
        name = self._name or self._own(wanted)
        if not self._is_free(name):
            if not self._copies:
                self._has_conflict = True
                return name
            name = self._own(next(each for each in self._number(name) if self._is_free(each)))
        self._chosen.add(name)
        return name

    def require_free(self) -> None:
        """Raises ConversationExists if a name was chosen that is taken."""
        if self._has_conflict:
            raise ConversationExists

    def _own(self, wanted: str | None) -> str:
        """The wanted name; a new one if there is none, or if it is not one that the caller may use."""
        if wanted:
            with suppress(NotAllowed, NotFound):
                self._scope.require(wanted)
                return wanted
        return self._scope.new_name("chat")

    def _is_free(self, name: str) -> bool:
        return name not in self._chosen and self._store.get_conversation(name) is None

    def _number(self, name: str) -> Iterator[str]:
        """`NAME (2)`, `NAME (3)` and so on, after those that were tried before."""
        while True:
            self._numbers[name] += 1
            suffix = f" ({self._numbers[name] + 1})"
            yield name[: NAME_CHARACTERS - len(suffix)] + suffix


class _Check:
    """Checks one record after another."""

    def __init__(self, data: JsonFile, store: Store, plan: Plan, names: Names, max_input_chars: int) -> None:
        self._data = data
        self._store = store
        self._plan = plan
        self._names = names
        self._max_input_chars = max_input_chars
        self._header: Header | None = None
        self._latest = Span(0, 0)
        self._runs: dict[str, int] = {}
        """The number of the conversation of each run, by the run's id."""
        self._messages: set[str] = set()
        """The ids of the current conversation's messages."""

    def take(self, span: Span, record: Header | Run | Message) -> None:
        """Check the next record. Raises InvalidImport, and what the choice of a name raises."""
        if isinstance(record, Header):
            self._require_complete()
            self._check_header(span, record)
        elif isinstance(record, Run):
            self._plan.conversations[-1].runs += 1
            self._check_run(span, record)
        else:
            self._plan.conversations[-1].messages += 1
            self._plan.bytes += len(record.fragment)
            self._check_message(span, record)
        self._latest = span

    def end(self) -> None:
        """The end of the file has come. Raises InvalidImport, and ConversationExists for a file without a fault."""
        if self._header is None:
            raise self._data.cut_off()
        self._require_complete()
        self._names.require_free()

    def _require_complete(self) -> None:
        """Raises InvalidImport if the conversation so far has not as many records as its header says."""
        if self._header is None or self._header.counts is None:
            return
        current = self._plan.conversations[-1]
        if self._header.counts != (current.runs, current.messages):
            raise self._data.error(
                self._latest.start,
                "after this line, runs or messages are missing, or there are too many; send all of the file",
            )

    def _check_header(self, span: Span, header: Header) -> None:
        if len(self._plan.conversations) == MAX_CONVERSATIONS:
            raise self._data.error(span.start, f"the file has more than {MAX_CONVERSATIONS} conversations; split it")
        self._header = header
        self._messages.clear()
        self._check_text(span, "system prompt", header.changes.get("system_prompt"))
        self._check_metadata(span, header.changes.get("metadata"))
        self._plan.conversations.append(PlannedConversation(self._names.choose(header.name)))

    def _check_run(self, span: Span, run: Run) -> None:
        self._check_text(span, "question", run.question)
        if self._header is None or not self._header.has_ids:
            return
        if run.id in self._runs:
            raise self._data.error(span.start, "this run has the id of an earlier one")
        self._runs[run.id] = len(self._plan.conversations)
        # A limited caller must not learn whether somebody else has a run of that id.
        if self._names.is_limited or self._has_run(run.id):
            self._plan.new_ids[run.id] = new_id("run")

    def _has_run(self, run_id: str) -> bool:
        with suppress(NotFound):
            self._store.get_run(run_id)
            return True
        return False

    def _check_message(self, span: Span, message: Message) -> None:
        self._check_metadata(span, message.metadata)
        if self._header is None or not self._header.has_ids:
            return
        if message.id in self._messages:
            raise self._data.error(span.start, "this message has the id of an earlier one")
        self._messages.add(message.id)
        if message.run_id is not None and self._runs.get(message.run_id) != len(self._plan.conversations):
            raise self._data.error(span.start, "this message belongs to a run that does not come before it")

    def _check_metadata(self, span: Span, metadata: Any) -> None:
        if is_too_long(metadata):
            raise self._data.error(span.start, f"the metadata has more than {METADATA_CHARACTERS} characters as JSON")

    def _check_text(self, span: Span, what: str, text: object) -> None:
        if not isinstance(text, str):
            return
        if len(text) > self._max_input_chars:
            bound = f"{self._max_input_chars} characters; the operator can raise MAX_INPUT_CHARS"
            raise self._data.error(span.start, f"the {what} has more than {bound}")
        if "\0" in text:
            raise self._data.error(span.start, f"the {what} has a NUL character; leave it out")

"""The state of one conversation in memory."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from server.domain import SETTINGS, Conversation, Message, Run, excerpt_of
from server.errors import ConversationImporting, NotFound, NotLastTurn, RequestIdConflict
from server.store.protocol import RECENT_MESSAGES, REQUEST_ID_SECONDS, RETRYABLE_STATUSES
from server.store.rules import as_abandoned, can_redeliver, is_same_question


class ConversationState:
    """A conversation with its messages, runs and request ids. To be used by one thread at a time."""

    def __init__(self, conversation: Conversation, touched: float) -> None:
        self.conversation = conversation
        self.seconds: float | None = None
        """How long after `touched` it expires; None: never."""
        self.is_explicit = False
        """Whether `Store.create_conversation` created it."""
        self.is_unlisted = False
        self.is_importing = False
        self.touched = touched
        self.messages: list[Message] = []
        self.runs: dict[str, Run] = {}
        """By id."""
        self.run_ids: list[str] = []
        """The ids of these, oldest first."""
        self._run_indexes: dict[str, int] = {}
        """Where in `run_ids` each of them is, so that a page of runs costs what the page costs."""
        self.open_runs: dict[str, Run] = {}
        """Those of `runs` that have not ended, oldest first."""
        self.request_ids: dict[str, tuple[str, float]] = {}
        """The run of each request id and when it was created, oldest first."""

    def snapshot(self) -> Conversation:
        return replace(self.conversation, message_count=len(self.messages), touched=self.touched)

    def has_expired(self, now: float) -> bool:
        if self.seconds is None or now - self.touched <= self.seconds:
            return False
        return not self.count_open_runs(now)

    def has_only_model(self) -> bool:
        """Whether it exists only because its client chose a model."""
        current = self.conversation
        return not (self.is_explicit or self.messages or self.runs or current.settings or current.metadata)

    def copy_settings(self, history_id: str, touched: float) -> "ConversationState":
        """A new state with the same settings, and without messages, runs and request ids."""
        conversation = replace(self.conversation, context_starts={}, history_id=history_id, excerpt="")
        copy = ConversationState(conversation, touched)
        copy.seconds, copy.is_explicit, copy.is_unlisted = self.seconds, self.is_explicit, self.is_unlisted
        return copy

    def is_next(self, run_id: str) -> bool:
        """Whether it is the oldest open run, and queued."""
        return next(iter(self.open_runs), None) == run_id and self.open_runs[run_id].status == "queued"

    def count_open_runs(self, now: float) -> int:
        """Without those that have expired."""
        return sum(not has_run_expired(run, now) for run in self.open_runs.values())

    def read_run(self, run_id: str, now: float) -> Run:
        """A run as of `now`: as ended if it expired, whether or not that is written yet."""
        run = self.runs[run_id]
        return as_abandoned(run, now) if run_id in self.open_runs and has_run_expired(run, now) else run

    def update(self, changes: Mapping[str, Any]) -> None:
        """As `Store.update_conversation`."""
        current = self.conversation
        settings = {**current.settings, **{name: value for name, value in changes.items() if name in SETTINGS}}
        self.conversation = replace(
            current,
            model=changes.get("model", current.model),
            metadata=changes.get("metadata", current.metadata) or {},
            settings={name: value for name, value in settings.items() if value is not None},
        )

    def add_messages(self, messages: Sequence[Message]) -> None:
        """Add messages at the end."""
        self.messages.extend(messages)
        for first in () if self.conversation.excerpt else [each for each in messages if each.role == "user"][:1]:
            self.set_excerpt(first.content)

    def set_message_metadata(self, message_id: str, metadata: Mapping[str, Any]) -> Message:
        """Raises NotFound."""
        index = self.index_of(message_id)
        self.messages[index] = replace(self.messages[index], metadata=metadata)
        return self.messages[index]

    def delete_message(self, message_id: str, history_id: str) -> None:
        """Raises NotFound."""
        index = self.index_of(message_id)
        del self.messages[index]
        starts = self.conversation.context_starts
        moved = {model: start - (index < start) for model, start in starts.items()}
        self.conversation = replace(self.conversation, context_starts=moved, history_id=history_id)

    def publish(self, created: float, touched: float) -> None:
        """As `Store.publish_conversation`."""
        self.seconds, self.is_unlisted, self.is_importing, self.touched = None, False, False, touched
        self.conversation = replace(self.conversation, created=created)

    def set_details(self, run_id: str, details: Mapping[str, Any]) -> Run:
        run = self.runs[run_id]
        run = replace(run, options=replace(run.options, details=details))
        self.runs[run_id] = run
        if run_id in self.open_runs:
            self.open_runs[run_id] = run
        return run

    def set_excerpt(self, question: str) -> None:
        self.conversation = replace(self.conversation, excerpt=excerpt_of(question))

    def require_published(self) -> None:
        """Raises ConversationImporting."""
        if self.is_importing:
            raise ConversationImporting

    def require_last_turn(self, run_id: str | None) -> None:
        """Raises NotLastTurn if there is a `run_id` and the newest message does not belong to it."""
        if run_id is not None and [each.run_id for each in self.messages[-1:]] != [run_id]:
            raise NotLastTurn

    def replace_turn(self, ended: Run, history_id: str) -> None:
        """Put the messages of `ended` in the place of the newest ones that belong to the run that it replaces."""
        count = len(self.messages)
        while ended.replaces and self.messages and self.messages[-1].run_id == ended.replaces:
            self.messages.pop()
        stop = len(self.messages)
        if stop < count:
            starts = {model: min(start, stop) for model, start in self.conversation.context_starts.items()}
            self.conversation = replace(self.conversation, context_starts=starts, history_id=history_id)
        if ended.replaces and not stop and ended.question:
            self.set_excerpt(ended.question)
        self.messages.extend(ended.history_messages())

    def expire_runs(self, now: float) -> list[Run]:
        """Write the ends of expired runs. Returns these runs."""
        expired = [as_abandoned(each, now) for each in self.open_runs.values() if has_run_expired(each, now)]
        for run in expired:
            self.end_run(run)
        return expired

    def end_open_runs(self, now: float) -> list[Run]:
        """The open runs with the ends that they have if the conversation is deleted now."""
        return [
            as_abandoned(run, now) if has_run_expired(run, now) else run.ended_as("cancelled", now)
            for run in self.open_runs.values()
        ]

    def end_run(self, ended: Run) -> None:
        del self.open_runs[ended.id]
        self.runs[ended.id] = self.keep_details(ended)

    def keep_details(self, run: Run) -> Run:
        """`run` with the details that its stored version has."""
        details = self.runs[run.id].options.details
        return run if run.options.details == details else replace(run, options=replace(run.options, details=details))

    def list_newest_runs(self, before: str | None, now: float) -> Iterator[Run]:
        """Newest first, and only those created before the run `before`. Raises NotFound."""
        if before is not None and before not in self.runs:
            raise NotFound
        stop = len(self.run_ids) if before is None else self._run_indexes[before]
        return (self.read_run(self.run_ids[index], now) for index in range(stop - 1, -1, -1))

    def has_added(self, messages: Sequence[Message]) -> bool:
        """Whether `Store.add_messages` is repeated with these messages."""
        recent = self.messages[-len(messages) - RECENT_MESSAGES :]
        return any(each.id == first.id for first in messages[:1] for each in recent)

    def index_of(self, message_id: str) -> int:
        """Raises NotFound."""
        for index in range(len(self.messages) - 1, -1, -1):
            if self.messages[index].id == message_id:
                return index
        raise NotFound

    def add_run(self, run: Run, now: float) -> None:
        self.touched = now
        if run.question and not self.conversation.excerpt:
            self.set_excerpt(run.question)
        self.append_run(run)
        self.open_runs[run.id] = run
        if run.request_id is not None:
            self.request_ids.pop(run.request_id, None)
            self.request_ids[run.request_id] = (run.id, now)

    def append_run(self, run: Run) -> None:
        """Add a run as the newest."""
        self._run_indexes[run.id] = len(self.run_ids)
        self.run_ids.append(run.id)
        self.runs[run.id] = run

    def replace_run(self, run: Run) -> None:
        """`run` is open."""
        self.runs[run.id] = self.open_runs[run.id] = run

    def find_run_to_join(self, run: Run, now: float) -> Run | None:
        """The existing run that `run` joins by the rules of `Store.create_run`. Raises RequestIdConflict."""
        self.delete_old_request_ids(now)
        if run.request_id is not None:
            return self._find_run_by_request_id(run.request_id, run.question)
        for each in self.open_runs.values():
            if is_same_question(each, run):
                return each
        newest = self.runs[self.run_ids[-1]] if self.run_ids else None
        return newest if newest is not None and can_redeliver(newest, run, now) else None

    def _find_run_by_request_id(self, request_id: str, question: str) -> Run | None:
        if request_id not in self.request_ids:
            return None
        run_id, _ = self.request_ids[request_id]
        run = self.runs[run_id]
        if run.question != question:
            raise RequestIdConflict
        return None if run.status in RETRYABLE_STATUSES else run

    def delete_old_request_ids(self, now: float) -> None:
        # All at once: after deletions at a dict's front, each search for its first key passes over all deleted ones.
        created = ((request_id, at) for request_id, (_, at) in self.request_ids.items())
        for request_id, _ in list(takewhile(lambda each: now - each[1] > REQUEST_ID_SECONDS, created)):
            del self.request_ids[request_id]


def has_run_expired(run: Run, now: float) -> bool:
    """Whether an open run has waited too long for the outputs of tools."""
    return run.expires is not None and now > run.expires

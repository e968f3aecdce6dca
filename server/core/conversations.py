"""Conversations: every verb that a caller has. The dialects' only way in."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import orjson

from server import errors
from server.core.health import Health, check_health
from server.core.history import Page, newest, page
from server.domain import Conversation, Message, Run, Status
from server.runs.events import RunEvents, error_of
from server.runs.runner import Runner
from server.store.protocol import CreateOptions, Store
from server.upstream.protocol import Upstream

RENEWAL_SECONDS = 1.0
"""How old the use of a conversation is that a read renews: many reads at once cost one write."""

NewMessages = Sequence[Mapping[str, Any]]
"""Messages that no run wrote: `role`, `content`, and `metadata` where there is some."""

EMPTY: Mapping[str, Any] = MappingProxyType({})


class Conversations:
    """Conversations by the name of the client that has them. Safe from any thread."""

    def __init__(self, store: Store, upstream: Upstream, runner: Runner) -> None:
        self._store = store
        self._upstream = upstream
        self._runner = runner

    def models(self) -> list[dict[str, Any]]:
        """What the upstream offers. Raises UpstreamFailed, NotConfigured."""
        return self._upstream.list_models()

    def model(self, name: str) -> str:
        """The client's model, or the default one where it has chosen none."""
        conversation = self._renewed(name)
        chosen = None if conversation is None else conversation.model
        return chosen or self._upstream.default_model()

    def set_model(self, name: str, model: str) -> None:
        """Raises UnknownModel, unless the upstream's list is empty or cannot be had: then any name is taken."""
        with suppress(errors.Unavailable):
            offered = {each["id"] for each in self._upstream.list_models()}
            if offered and model not in offered:
                raise errors.UnknownModel
        self._store.set_model(name, model)

    def require_offered(self, model: str) -> None:
        """As `set_model` does, for a question: it does not wait for a list that is slow."""
        with suppress(errors.Unavailable):
            offered = self._upstream.offered_models()
            if offered and model not in offered:
                raise errors.UnknownModel

    def create(
        self,
        name: str,
        *,
        seconds: float | None = None,
        metadata: Mapping[str, Any] = EMPTY,
        messages: NewMessages = (),
        is_evictable: bool = False,
    ) -> Conversation:
        """A new conversation, or the one of that name; it expires `seconds` after it was last touched, or never.

        One that `is_evictable` makes room for others where there is none.
        """
        said = [_kept(each) for each in messages]
        return self._store.create_conversation(name, seconds, dict(metadata), said, is_evictable=is_evictable)

    def find(self, name: str) -> Conversation:
        """Raises NotFound. An expiring conversation's time begins anew."""
        conversation = self._renewed(name)
        if conversation is None:
            raise errors.NotFound
        return conversation

    def describe(self, name: str, metadata: Mapping[str, Any]) -> Conversation:
        """Replace the conversation's metadata. Raises NotFound."""
        return self._store.set_metadata(name, metadata)

    def begin(self, draft: Run, *, messages: NewMessages = (), alone: bool = False, create: bool = True) -> Run:
        """Begin to write a reply as `draft` says, or find the run that answers it already.

        It is written whether or not anybody waits. `messages` are added to the history with it. With `alone`, an open
        run of the conversation is refused with ConversationBusy; without `create`, an unknown conversation with
        NotFound. Raises RequestIdConflict, ConversationBusy, ShuttingDown, StoreUnavailable.
        """
        kept = [_kept(each) for each in messages]
        return self._runner.create(draft, CreateOptions(kept, alone, create))

    def ask(
        self,
        draft: Run,
        seconds: float,
        is_connected: Callable[[], bool],
        *,
        create: bool = True,
        streamed: bool = False,
    ) -> Run:
        """The run that answers `draft`: completed, or still open after `seconds`. A new one is `streamed` upstream.

        It goes on when the caller leaves, and is in the history when it is done. Raises what `begin` raises and what
        the run failed with.
        """
        run = self._runner.ask(
            draft, seconds, is_connected, CreateOptions(create_conversation=create), streamed=streamed
        )
        problem = error_of(run)
        if problem is not None:
            raise problem
        return run

    def answer(self, draft: Run, is_connected: Callable[[], bool], *, create: bool = True) -> Run:
        """The completed run that answers `draft`, waited for as long as a run may take.

        Raises what `ask` raises, and RunTimedOut.
        """
        run = self.ask(draft, self._runner.max_wait_seconds, is_connected, create=create)
        if run.is_open:
            raise errors.RunTimedOut
        return run

    def stream(self, draft: Run, is_connected: Callable[[], bool], *, create: bool = True) -> tuple[str, RunEvents]:
        """The id of the run that answers `draft`, and its text as it is written, as `read` gives it."""
        run = self.begin(draft, create=create)
        try:
            return run.id, self._runner.read(run.id, 0, is_connected)
        except errors.NotFound:  # It was begun a moment ago, so that it was cleared away in between.
            raise errors.RunCancelled from None

    def run(self, run_id: str) -> Run:
        """Raises NotFound."""
        return self._store.get_run(run_id)

    def submit(self, run_id: str, outputs: Mapping[str, str]) -> Run:
        """Go on with a run that requires action: `outputs` has what each of its calls gave, by the call's id.

        Raises NotFound, NoActionRequired, InvalidRequest where the ids are not those of the calls, and what `begin`
        raises.
        """
        run = self._store.get_run(run_id)
        if run.status != "requires_action":
            raise errors.NoActionRequired
        *done, step = run.steps
        if outputs.keys() != {call.id for call in step.calls}:
            raise errors.InvalidRequest("Send the output of each call that the run requires, and of no other.")
        calls = tuple(replace(call, output=outputs[call.id]) for call in step.calls)
        steps = (*done, replace(step, calls=calls, ended=time.time()))
        # A call that was demanded has been made; demanded again, it would be made for ever.
        parameters = {name: value for name, value in run.options.parameters.items() if name != "tool_choice"}
        options = replace(run.options, parameters=parameters)
        return self._runner.resume(replace(run, steps=steps, options=options))

    def note(self, run_id: str, details: Mapping[str, Any]) -> Run:
        """Replace what the dialect keeps with a run. Raises NotFound."""
        return self._store.set_run_details(self._store.get_run(run_id).conversation, run_id, details)

    def read(self, run_id: str, position: int, is_connected: Callable[[], bool]) -> RunEvents:
        """A run's text from character `position` on, then the run, ended; None for each silence.

        Leaving off cancels nothing. Raises NotFound and InvalidPosition, as `Runner.read` does.
        """
        with suppress(errors.StoreUnavailable, errors.NotFound):  # What is written here can be read without the store.
            self._renewed(self._store.get_run(run_id).conversation)
        return self._runner.read(run_id, position, is_connected)

    def cancel(self, run_id: str) -> Run:
        """End a run. What was written is kept, in the history too. Raises NotFound."""
        return self._runner.cancel(run_id)

    def retry(self, run_id: str) -> Run:
        """Ask the question of a failed or interrupted run again: a new run, the same one however often it is retried.

        Raises NotFound, NotRetryable, and what `ask` raises before the reply is written.
        """
        run = self._store.get_run(run_id)
        if run.status not in ("failed", "interrupted"):
            raise errors.NotRetryable
        request_id = run.request_id or f"retry of {run_id}"
        draft = Run(run.question, request_id, conversation=run.conversation, options=run.options)
        return self.begin(draft, create=False)

    def runs(self, name: str, status: Status | None, most: int) -> Sequence[Run]:
        """The conversation's newest `most` runs, or of those with `status`; newest first."""
        return self._store.list_runs(name, status, most)

    def history(self, name: str, limit: int | None, before: int | None, most_characters: int | None) -> Page:
        """The newest messages older than place `before`: at most `limit`, in at most `most_characters` of JSON.

        A long one is read in parts, while it is taken; StoreUnavailable may come in the middle.
        """
        conversation = self._renewed(name)
        count = 0 if conversation is None else conversation.message_count
        stop = count if before is None else min(before, count)
        start = 0 if limit is None else max(0, stop - limit)
        read = partial(self._store.list_messages, name)
        if most_characters is not None:
            return newest(read, start, stop, most_characters)
        history_id = "" if conversation is None else conversation.history_id

        def find_next(last: Message, place: int) -> int | None:
            now = self._store.get_conversation(name)
            if now is None or now.history_id == history_id:
                return None if now is None else place
            try:
                return self._store.message_index(name, last.id) + 1
            except errors.NotFound:
                return None

        return page(read, find_next, start, stop)

    def messages(self, name: str, start: int, stop: int) -> Sequence[Message]:
        """The history's messages from place `start` to before place `stop`, oldest first; places begin at 0."""
        return self._store.list_messages(name, start, stop)

    def place(self, name: str, message_id: str) -> int:
        """The place of a message. Raises NotFound."""
        return self._store.message_index(name, message_id)

    def add(self, name: str, messages: NewMessages) -> Sequence[Message]:
        """Add messages that no run wrote. Raises NotFound, and ConversationBusy while a run is open."""
        kept = [_kept(each) for each in messages]
        self._store.add_messages(name, kept)
        return kept

    def describe_message(self, name: str, message_id: str, metadata: Mapping[str, Any]) -> Message:
        """Replace a message's metadata. Raises NotFound."""
        return self._store.set_message_metadata(name, message_id, metadata)

    def delete_message(self, name: str, message_id: str) -> None:
        """Raises NotFound."""
        self._store.delete_message(name, message_id)

    def keep(self, kind: str, record_id: str, record: Mapping[str, Any]) -> None:
        """Keep a small named thing, such as an assistant, in place of the one that had the name."""
        self._store.put_record(kind, record_id, orjson.dumps(record))

    def kept(self, kind: str, record_id: str) -> dict[str, Any]:
        """Raises NotFound."""
        record: dict[str, Any] = orjson.loads(self._store.get_record(kind, record_id))
        return record

    def all_kept(self, kind: str) -> list[dict[str, Any]]:
        """In no order."""
        return [orjson.loads(record) for record in self._store.list_records(kind)]

    def drop(self, kind: str, record_id: str) -> None:
        """Raises NotFound."""
        self._store.delete_record(kind, record_id)

    def clear(self, name: str) -> None:
        """Forget the history, the runs and the request ids; the model stays. Open runs are cancelled first."""
        self._runner.clear(name)

    def delete(self, name: str) -> None:
        """Forget all that there is of the conversation. Open runs are cancelled first."""
        self._runner.delete(name)

    def health(self) -> Health:
        """How upstream and store are, in less than two seconds and without spending tokens."""
        return check_health(self._upstream.check_health, self.check_ready)

    def check_ready(self) -> None:
        """Raises StoreUnavailable or ShuttingDown where questions would be refused."""
        if self._runner.is_closing:
            raise errors.ShuttingDown
        self._store.ping()

    def _renewed(self, name: str) -> Conversation | None:
        """The conversation; where it expires, its time begins anew."""
        conversation = self._store.get_conversation(name)
        if conversation is None or time.time() - conversation.touched <= RENEWAL_SECONDS:
            return conversation
        with suppress(errors.StoreUnavailable):  # What can be read is no less true for it.
            self._store.touch(name)
            return self._store.get_conversation(name)
        return conversation


def _kept(said: Mapping[str, Any]) -> Message:
    return Message.of(said["role"], said["content"], None, time.time(), metadata=said.get("metadata") or {})

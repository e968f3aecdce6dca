"""Replies: ask, wait, read, cancel, retry, and submit the outputs of tools."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from server import errors
from server.access.admission import Admission
from server.core.conversations import Conversations, NewMessages, to_messages
from server.core.scope import Scope
from server.domain import Run, RunOptions, Status
from server.runs.events import HeldEvents, RunEvents, error_of
from server.runs.runner import Runner
from server.store.protocol import RETRYABLE_STATUSES, CreateOptions, Store

OPEN_RUNS_WITHIN = 64
"""An open run is looked for among so many runs: more than can wait, and those cancelled while they waited."""


class Replies:
    """The runs of a caller's conversations. Safe from any thread.

    Each call raises NotAllowed for a `client_name` that is not the caller's, and NotFound for what is others'.
    """

    def __init__(
        self, store: Store, runner: Runner, conversations: Conversations, scope: Scope, admission: Admission
    ) -> None:
        self._store = store
        self._runner = runner
        self._conversations = conversations
        self._scope = scope
        self._admission = admission

    def create(
        self,
        draft: Run,
        *,
        messages: NewMessages = (),
        reject_if_busy: bool = False,
        create_conversation: bool = True,
    ) -> Run:
        """Create a run as `draft` says, or find the run that answers it already. It runs whether or not anybody waits.

        `messages` are appended to the history with it. With `reject_if_busy`, an open run of the conversation raises
        ConversationBusy; without `create_conversation`, an unknown conversation raises NotFound. Raises
        RequestIdConflict, ConversationBusy, RateLimited, BudgetExhausted, ShuttingDown, StoreUnavailable.
        """
        self._scope.require(draft.conversation)
        added, owner = to_messages(messages), self._scope.caller.owner
        limits = self._admission.limit(draft, added)
        self._scope.require_key()
        return self._runner.create(draft, CreateOptions(added, reject_if_busy, create_conversation, owner, limits))

    def ask(
        self,
        draft: Run,
        seconds: float,
        is_connected: Callable[[], bool],
        *,
        create_conversation: bool = True,
        streamed: bool = False,
    ) -> Run:
        """The run that answers `draft`: completed, or still active after `seconds`.

        A new run is `streamed` upstream, continues if the caller disconnects, and is in the history once it is
        completed. Raises what `create` raises, and the error that the run failed with.
        """
        self._scope.require(draft.conversation)
        options = CreateOptions(
            create_conversation=create_conversation,
            owner=self._scope.caller.owner,
            limits=self._admission.limit(draft),
        )
        self._scope.require_key()
        run = self._runner.ask(draft, seconds, is_connected, options, streamed=streamed)
        error = error_of(run)
        if error is not None:
            raise error
        return run

    def answer(self, draft: Run, is_connected: Callable[[], bool], *, create_conversation: bool = True) -> Run:
        """The completed run that answers `draft`. Waits for as long as a run may take.

        Raises what `ask` raises, and RunTimedOut.
        """
        seconds = self._runner.max_wait_seconds
        run = self.ask(draft, seconds, is_connected, create_conversation=create_conversation)
        if run.is_open:
            raise errors.RunTimedOut
        return run

    def stream(
        self, draft: Run, is_connected: Callable[[], bool], *, create_conversation: bool = True
    ) -> tuple[str, RunEvents]:
        """The id of the run that answers `draft`, and its events as `read` gives them."""
        with self._hold_stream() as hold:
            run = self.create(draft, create_conversation=create_conversation)
            try:
                return run.id, hold(self._runner.read(run.id, 0, is_connected))
            except errors.NotFound:  # It was created a moment ago, so it was cleared in between.
                raise errors.RunCancelled from None

    def get(self, run_id: str) -> Run:
        """Raises NotFound."""
        run = self._store.get_run(run_id)
        self._scope.require_id(run.conversation)
        return run

    def find(self, name: str, run_id: str) -> Run:
        """A run of the conversation `name`. Raises NotFound, also if it belongs to another one."""
        self._scope.require(name)
        run = self._store.get_run(run_id)
        if run.conversation != name:
            raise errors.NotFound
        return run

    def list(self, name: str, status: Status | None, limit: int, before: str | None = None) -> Sequence[Run]:
        """The conversation's newest `limit` runs, or those with `status`; newest first.

        With the id of a run as `before`, only earlier ones. Raises NotFound if it is no run of the conversation.
        """
        self._scope.require(name)
        return self._store.list_runs(name, status, limit, before)

    def list_open(self, name: str) -> Sequence[Run]:
        """The open runs among the newest OPEN_RUNS_WITHIN of the conversation, oldest first."""
        self._scope.require(name)
        found: list[Run] = []
        before, most = None, 4
        for _ in range(OPEN_RUNS_WITHIN // most):
            runs = self._store.list_runs(name, None, most, before)
            found += [run for run in runs if run.is_open]
            # Runs complete in the order of their creation, so an older one cannot be open.
            if len(runs) < most or any(run.status == "completed" for run in runs):
                break
            before = runs[-1].id
        return found[::-1]

    def read(self, run_id: str, position: int, is_connected: Callable[[], bool]) -> RunEvents:
        """A run's text from offset `position` (in characters) on, then the run, ended; None is a keep-alive.

        A reader that stops early cancels nothing. Raises NotFound and InvalidPosition, as `Runner.read`.
        """
        self._require_run(run_id)
        # A run of this process can be read without the store.
        with suppress(errors.StoreUnavailable, errors.NotFound):
            self._conversations.find(self._store.get_run(run_id).conversation)
        with self._hold_stream() as hold:
            return hold(self._runner.read(run_id, position, is_connected))

    def submit_outputs(self, run_id: str, outputs: Mapping[str, str]) -> Run:
        """Continue a run that requires action: `outputs` has the output of each of its calls, by the call's id.

        Raises NotFound, NoActionRequired, InvalidRequest if the ids are not those of the calls, and what `create`
        raises.
        """
        run = self.get(run_id)
        if run.status != "requires_action":
            raise errors.NoActionRequired
        *earlier, step = run.steps
        if outputs.keys() != {call.id for call in step.calls}:
            raise errors.InvalidRequest("Send the output of each call that the run requires, and of no other.")
        calls = tuple(replace(call, output=outputs[call.id]) for call in step.calls)
        steps = (*earlier, replace(step, calls=calls, ended=time.time()))
        # A demanded call has been made; if the next request demanded it too, it would be made forever.
        parameters = {name: value for name, value in run.options.parameters.items() if name != "tool_choice"}
        options = replace(run.options, parameters=parameters)
        resumed = replace(run, steps=steps, options=options)
        return self._runner.resume(resumed, self._admission.limit_again(resumed))

    def set_details(self, run_id: str, details: Mapping[str, Any]) -> Run:
        """Replace what the dialect keeps with a run. Raises NotFound."""
        return self._store.set_run_details(self.get(run_id).conversation, run_id, details)

    def cancel(self, run_id: str) -> Run:
        """End a run. Its text is kept, in the history too. Raises NotFound."""
        self._require_run(run_id)
        return self._runner.cancel(run_id)

    def retry(self, run_id: str) -> Run:
        """Ask the question of a failed or interrupted run again. Repeated, it is the same new run.

        Raises NotFound, NotRetryable, and what `create` raises.
        """
        run = self.get(run_id)
        if run.status not in RETRYABLE_STATUSES:
            raise errors.NotRetryable
        request_id = run.request_id or f"retry of {run_id}"
        draft = Run(run.question, request_id, conversation=run.conversation, options=run.options, replaces=run.replaces)
        return self.create(draft, create_conversation=False)

    def replace_turn(self, name: str, run_id: str | None, question: str | None, *, logprobs: bool | None) -> Run:
        """Create a run that takes the place of the last turn once it completes: with `question`, or the same one.

        It has the options of the run that it replaces, but for `logprobs`, if given. Repeated while it is open, it is
        the same run. Raises NotLastTurn if `run_id` is not the last turn's, or there is no turn; NotEditable if there
        is a `question` and the turn has none of its own; NotFound, and what `create` raises.
        """
        earlier = self.find(name, run_id or self._find_last_run_id(name))
        if question is not None and not earlier.question:
            raise errors.NotEditable
        options = _change_logprobs(earlier.options, logprobs)
        draft = Run(question or earlier.question, conversation=name, options=options, replaces=earlier.id)
        return self.create(draft, create_conversation=False)

    def _require_run(self, run_id: str) -> None:
        """Raises NotFound, also if it is a run of others. A run of this process is found without the store."""
        if self._scope.is_limited:
            self._scope.require_id(self._runner.find_conversation(run_id))

    @contextmanager
    def _hold_stream(self) -> Iterator[Callable[[RunEvents], RunEvents]]:
        """Give a function that keeps the caller's stream counted until its events are closed. Raises TooManyStreams."""
        release = self._admission.caps.take_stream(self._scope.caller.owner)
        if release is None:
            yield lambda events: events
            return
        try:
            yield lambda events: HeldEvents(events, release)
        except BaseException:
            release()
            raise

    def _find_last_run_id(self, name: str) -> str:
        count = self._conversations.get(name).message_count
        for message in self._store.list_messages(name, max(0, count - 1), count):
            if message.run_id is not None:
                return message.run_id
        raise errors.NotLastTurn("There is no question with a reply at the end of this conversation; ask one first.")


def _change_logprobs(options: RunOptions, logprobs: bool | None) -> RunOptions:
    """The options of a repeated question: without the dialect's data, and with or without token probabilities."""
    parameters = dict(options.parameters)
    if logprobs is False:
        parameters = {name: value for name, value in parameters.items() if "logprobs" not in name}
    elif logprobs:
        parameters["logprobs"] = True
    return replace(options, parameters=parameters, details={})

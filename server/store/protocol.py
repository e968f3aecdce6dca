"""Where conversations live. One protocol, one shared test class, a backend for each reach."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from server.domain import Conversation, Message, Run, RunError, Status
from server.errors import RunExpired, RunInterrupted


@dataclass(frozen=True, slots=True)
class CreatedRun:
    """What `Store.begin` decided."""

    run: Run
    """The run that answers the question: the new one, or the one that it joins."""
    conversation: Conversation
    is_new: bool
    """False where the question joined a run that was there before."""


@dataclass(frozen=True, slots=True)
class CreateOptions:
    """On which terms a run is begun."""

    messages: Sequence[Message] = ()
    """They are added at the end of the history with it."""
    reject_if_busy: bool = False
    """Whether an open run of the conversation is refused rather than waited for."""
    create_conversation: bool = True
    """Whether a conversation that is not there is made."""


DEFAULT_OPTIONS = CreateOptions()

NOTHING: Mapping[str, int] = MappingProxyType({})

NEWEST = 16
"""Among how many messages besides its own a repeated `add` looks for what it added."""

SWEEP_SECONDS = 3.0
"""How long a sweep may take if nobody says how long."""


class Store(Protocol):
    """Conversations by name, each with its messages and its runs.

    Every call is atomic, and safe from any thread. Any call may raise StoreUnavailable; what it was to write may then
    be written or not, and the same call may be made again. Each docstring says what a repeated call does; without such
    a sentence, it writes the same again and gives the same answer, as reads do. A conversation comes to be with the
    first `begin`, `set_model` or `create` that names it.

    A Store object is one writer among those, in this process and others, that share the data. It holds a lease on each
    open run that was begun through it, for `lease_seconds` from `begin`, `start`, `append` or `renew` on. A run whose
    writer is gone, or let its lease pass, is *abandoned*: to every other writer it reads as `interrupted`, with the
    text that was appended, and the next `begin` or `start` in its conversation writes that down as its end. Until then
    its own writer may still renew, append and finish. A writer's own runs are never abandoned to itself.

    A conversation that `create` made expires when it was not touched for its time and none of its runs is open; from
    then on it is as if it had never been.
    """

    is_durable: bool
    """Whether it outlives this process, and so does what was appended to it."""

    def get_conversation(self, name: str) -> Conversation | None: ...

    def create_conversation(
        self,
        name: str,
        seconds: float | None,
        metadata: Mapping[str, Any],
        messages: Sequence[Message] = (),
        *,
        is_evictable: bool = False,
    ) -> Conversation:
        """Make a conversation with `messages`; it expires `seconds` after it was last touched, or never.

        A store that is full may forget an evictable one without an open run, the one that was used longest ago first.
        Raises StoreFull. Repeated: a conversation that is there is left as it is, and is the answer.
        """

    def touch(self, name: str) -> bool:
        """Begin the conversation's time anew, as its own begins and finishes do. False where it is not there."""

    def set_model(self, name: str, model: str) -> None:
        """Choose the conversation's model. Raises StoreFull."""

    def set_metadata(self, name: str, metadata: Mapping[str, Any]) -> Conversation:
        """Replace the conversation's metadata. Raises NotFound."""

    def create_run(
        self, name: str, run: Run, options: CreateOptions = DEFAULT_OPTIONS, *, waiting: int, start: bool
    ) -> CreatedRun:
        """Write `run` down as the newest of its conversation, or find the run that it joins.

        `run` comes as queued. It becomes `running` at once where `start` is true and no other run of the conversation
        is open. In this order:

        - Where the conversation is not there and `terms.create` is false, NotFound.
        - A run with the id of `run` itself, from the same call made before, is the answer, and counts as fresh.
        - A `request_id` seen within 24 hours decides alone. With another question: RequestIdConflict. Otherwise its
          run answers, open or ended; only after a failed, an interrupted or an expired one is `run` begun in its place.
        - A run with a question and without `request_id` joins an open run with the same question and equal options, or
          the newest run with both if that was completed within the last 10 minutes and not collected.
        - Where a run is open and `terms.alone` is true, or `waiting` runs are queued behind it, ConversationBusy.

        A refused call changes nothing but the ends of abandoned runs. Raises StoreFull where there is no room for
        another conversation.
        """

    def start_run(self, name: str, run_id: str) -> Conversation | None:
        """Make a queued run `running` if it is the oldest open run of its conversation; None if it is not.

        Repeated: None, since the run is not queued; but after StoreUnavailable, a store may give the lost answer.
        """

    def append_text(self, name: str, run_id: str, at: int, text: str) -> bool:
        """Add to the text of a running run, `at` bytes of UTF-8 being there; what is there beyond them is replaced.

        False, and nothing added, where the run has ended or is gone. Repeated: the text is there once.
        """

    def finish_run(self, name: str, ended: Run, context_starts: Mapping[str, int] = NOTHING) -> Run | None:
        """Write a run's end, and `ended.exchange()` at the end of the history, together.

        The first end stands: where the run had one, so also if repeated, that is what comes back, and nothing is
        written. None where the run is gone. `context_starts` are remembered in the conversation, beside those of other
        models. Any writer may do it; the run's own hears of it from `listen`.
        """

    def pause_run(self, name: str, run: Run) -> bool:
        """Replace a running run by `run`, which requires action and so has no lease.

        It keeps its place. From `run.expires` on it reads as `expired` to everybody, and the next `begin` or `start`
        in its conversation writes that down as its end. False where it has ended or is gone. Repeated with the same
        `run` while that requires action: True.
        """

    def resume_run(self, name: str, run: Run) -> bool:
        """Replace a run that requires action by `run`, which is queued, of this writer, and in the same place.

        False where it does not require action any more. Repeated with the same `run` while that is queued: True.
        """

    def set_run_details(self, name: str, run_id: str, details: Mapping[str, Any]) -> Run:
        """Replace the details of a run's options, also after its end; what is written of it later keeps them.

        Raises NotFound.
        """

    def mark_delivered(self, name: str, run_id: str) -> None:
        """Note that a request in another process than the run's writer waited for the reply, and has it."""

    def get_run(self, run_id: str) -> Run:
        """Raises NotFound."""

    def list_runs(self, name: str, status: Status | None, most: int) -> Sequence[Run]:
        """The newest `most` runs of a conversation, or of those with `status`; newest first."""

    def list_messages(self, name: str, start: int, stop: int) -> Sequence[Message]:
        """The history's messages from place `start` to before place `stop`, oldest first; places begin at 0."""

    def message_index(self, name: str, message_id: str) -> int:
        """The place of a message. Raises NotFound."""

    def add_messages(self, name: str, messages: Sequence[Message]) -> None:
        """Add messages that no run wrote at the end. Raises NotFound, and ConversationBusy where a run is open.

        Repeated: nothing is added where the first of them is among the newest, its own number and NEWEST more.
        """

    def set_message_metadata(self, name: str, message_id: str, metadata: Mapping[str, Any]) -> Message:
        """Replace a message's metadata. Raises NotFound."""

    def delete_message(self, name: str, message_id: str) -> None:
        """Take a message out; those after it move up by a place, and so do `context_starts`.

        A run whose reply it was still has its text. Raises NotFound, so also if repeated.
        """

    def clear_conversation(self, name: str) -> Sequence[str]:
        """Forget messages, runs and request ids, and keep the model. Gives the ids of the runs that were open.

        Repeated: also what was begun since is forgotten, and its ids are given; after StoreUnavailable, those too that
        nobody was told of.
        """

    def delete_conversation(self, name: str) -> Sequence[str]:
        """Forget all that there is of a conversation. Gives the ids of the runs that were open, as `clear` does."""

    def put_record(self, kind: str, record_id: str, record: bytes) -> None:
        """Keep a small named thing, such as an assistant, in place of the one that had the name.

        Raises TooManyRecords for a new one when there are `max_records` of its kind.
        """

    def get_record(self, kind: str, record_id: str) -> bytes:
        """Raises NotFound."""

    def list_records(self, kind: str) -> Sequence[bytes]:
        """In no order."""

    def delete_record(self, kind: str, record_id: str) -> None:
        """Raises NotFound, so also if repeated."""

    def renew_leases(self, held: Mapping[str, str]) -> Collection[str]:
        """Begin the lease on runs of this writer anew: the name of its conversation by each run's id.

        Gives the ids of those that have ended or are gone.
        """

    def listen(self, followed: Collection[str], seconds: float) -> Collection[str]:
        """Wait, at most `seconds`, until another writer did something that matters here.

        Gives the ids of runs of this writer that another one has ended or taken away, or whose turn may have come, and
        of `followed` runs of other writers that may have changed since the last call, or were not followed then.
        Repeated: what was told is not told again, and nor is what is lost while the store cannot be reached: who must
        know looks now and then, with `renew` and `run`. One thread at a time may call.
        """

    def sweep(self, seconds: float = SWEEP_SECONDS) -> bool:
        """Forget expired conversations, and request ids that are older than a day, and give the room back.

        In small steps, between which other calls are answered; begins no further step after `seconds`. True if there
        may be more to forget.
        """

    def ping(self) -> None:
        """Raises StoreUnavailable where the store could not take a write, within two seconds."""

    def close(self) -> None:
        """Give back what is held. Open runs of this writer are abandoned when their lease has passed, or at once."""


REQUEST_ID_SECONDS = 24 * 3600.0
"""How long a request id is exact."""

REDELIVERY_SECONDS = 600.0
"""How long a completed reply that nobody collected waits for the same question."""


def is_same(earlier: Run, run: Run) -> bool:
    """Whether `run` asks what `earlier` does."""
    return bool(run.question) and earlier.question == run.question and earlier.options == run.options


def is_undelivered(newest: Run, run: Run, now: float) -> bool:
    """Whether a conversation's newest run has the reply to what `run` asks, and nobody was there to take it."""
    return (
        newest.status == "completed"
        and newest.ended is not None
        and is_same(newest, run)
        and not newest.delivered
        and now - newest.ended <= REDELIVERY_SECONDS
    )


RETRIED: tuple[Status, ...] = ("failed", "interrupted", "expired")
"""Ends after which the same `request_id` begins a run again."""


def abandoned(run: Run, now: float) -> Run:
    """How an open run reads whose writer is gone, or whose outputs did not come in time."""
    if run.status == "requires_action":
        return run.ended_as("expired", run.expires or now, error=RunError(RunExpired.code, RunExpired.sentence))
    return run.ended_as("interrupted", now, error=RunError(RunInterrupted.code, RunInterrupted.sentence))

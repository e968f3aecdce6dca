"""The protocol that every storage backend implements."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from server.domain import Conversation, ConversationEntry, DailyUsage, Message, Run, Status
from server.rates import RateState
from server.store.limits import NO_LIMITS, Holdings, RunLimits
from server.store.record_protocol import RecordStore


@dataclass(frozen=True, slots=True)
class CreatedRun:
    """The result of `Store.create_run`."""

    run: Run
    """The run that answers the question: the new one, or the existing one that the question joins."""
    conversation: Conversation
    is_new: bool
    """False if the question joins an existing run."""
    rate: RateState | None = None


@dataclass(frozen=True, slots=True)
class CreateOptions:
    """Conditions of `Store.create_run`."""

    messages: Sequence[Message] = ()
    """Added at the end of the history together with the run."""
    reject_if_busy: bool = False
    """Whether the run is refused, instead of queued, if the conversation has an open run."""
    create_conversation: bool = True
    """Whether a missing conversation is created, for `owner`."""
    owner: str = ""
    limits: RunLimits = NO_LIMITS


DEFAULT_OPTIONS = CreateOptions()

NO_CONTEXT_STARTS: Mapping[str, int] = MappingProxyType({})

RECENT_MESSAGES = 16
"""A repeated `add_messages` is recognised if its first message is among this many newest ones, besides its own."""

SWEEP_SECONDS = 3.0
"""The default time limit of a sweep."""

REQUEST_ID_SECONDS = 24 * 3600.0
"""How long a request id decides which run answers."""

REDELIVERY_SECONDS = 600.0
"""How long a completed reply that was not delivered answers the same question."""

RETRYABLE_STATUSES: tuple[Status, ...] = ("failed", "interrupted", "expired")
"""Ends after which the same `request_id` creates a new run."""


class Store(RecordStore, Protocol):
    """Conversations by name, each with its messages and its runs.

    Every call is atomic and thread-safe. Any call may raise StoreUnavailable; its write may then have happened or not,
    and the same call may be repeated. Each docstring says what a repeated call does. If it does not, the repeated call
    writes the same again and returns the same answer, as reads do. A conversation is created by the first `create_run`,
    `update_conversation` or `create_conversation` that names it. Its `excerpt` is that of the first question that a run
    or a message with the role `user` brings while it has none; clearing it removes that too.

    A Store object is one worker among all that share the data, in this process and in others. It holds a lease on each
    open run that was created through it. `create_run`, `start_run`, `append_text`, `resume_run` and `renew_leases` set
    the lease to `lease_seconds` from then on. A run is *abandoned* if its worker has ended or has let the lease expire:
    every other worker reads it as `interrupted`, with the text that was appended, and the next `create_run` or
    `start_run` in its conversation writes that end. Until then its own worker may still renew, append and finish. A
    worker never reads its own runs as abandoned.

    A conversation that `create_conversation` made with a time limit expires if it was not touched for that long and
    none of its runs is open. From then on, every call treats it as missing.
    """

    is_durable: bool
    """Whether the data, appended text included, outlives this process."""

    def get_conversation(self, name: str) -> Conversation | None: ...

    def create_conversation(
        self,
        name: str,
        seconds: float | None,
        metadata: Mapping[str, Any],
        messages: Sequence[Message] = (),
        *,
        owner: str = "",
        is_unlisted: bool = False,
        is_importing: bool = False,
    ) -> Conversation:
        """Create a conversation of `owner` with `messages`. It expires `seconds` after its last use; None: never.

        An unlisted conversation is in no list, and a full store may delete it if it has no open run, the least recently
        used one first. Until a conversation that is importing is published, `create_run` and `add_messages` raise
        ConversationImporting. Raises StoreFull. Repeated: an existing conversation is left as it is and returned.
        """

    def touch(self, name: str) -> bool:
        """Restart the conversation's time limit, as `create_run` and `finish_run` do; without one, nothing changes.

        False if it is missing.
        """

    def update_conversation(
        self, name: str, changes: Mapping[str, Any], *, create: bool = True, owner: str = ""
    ) -> Conversation:
        """Set the fields that `changes` names: `model`, `metadata` and those of SETTINGS; None removes one.

        A missing conversation is created for `owner`, or, without `create`, NotFound is raised. Does not touch the
        conversation. Raises StoreFull.
        """

    def list_conversations(self, before: tuple[float, str] | None, most: int) -> Sequence[ConversationEntry]:
        """The `most` conversations that were touched last, newest first, and by name if at the same time.

        `before` is `touched` and `name` of a conversation: only those that come after it in this order are returned.
        Unlisted and expired ones are left out, so a conversation that is touched meanwhile may be missed or come twice.
        Costs what the page costs, not what the store holds.
        """

    def list_owned(self, owner: str) -> Sequence[str]:
        """The names of all conversations of `owner`, unlisted ones too, in no order. Costs what the owner has."""

    def measure_owner(self, owner: str) -> Holdings:
        """What all conversations of `owner` have, and the one whose name is `owner`, whoever created that.

        Nothing for an empty owner. Costs what it counts.
        """

    def read_entries(self, names: Sequence[str]) -> Sequence[ConversationEntry]:
        """Those of the named conversations that `list_conversations` lists, in the order of `names`."""

    def create_run(
        self, name: str, run: Run, options: CreateOptions = DEFAULT_OPTIONS, *, waiting: int, start: bool
    ) -> CreatedRun:
        """Add `run` as the newest of its conversation, or find the existing run that it joins.

        `run` is given as queued. It becomes `running` at once if `start` is true and the conversation has no other open
        run. These rules apply in this order:

        - If the conversation is missing and `options.create_conversation` is false: NotFound.
        - If it is importing: ConversationImporting.
        - A run with the id of `run`, from the same call made before, is returned, and counts as new.
        - A `request_id` seen within 24 hours decides alone. With another question: RequestIdConflict. Otherwise its
          run is returned, open or ended; only after a failed, interrupted or expired one is `run` created instead.
        - A run with a question, or one that replaces another, and without `request_id` joins an open run with the same
          question, equal options and the same `replaces`, or the newest run with all three if that was completed within
          the last 10 minutes and was not delivered.
        - If `run.replaces` is not the run of the newest message: NotLastTurn.
        - If a run is open and `options.reject_if_busy` is true, or `waiting` runs are queued already and this one would
          be queued too: ConversationBusy.
        - If `options.limits.rate` allows no run now: RateLimited.
        - If `run.charge` reserves more than its day has left of `options.limits.daily_tokens`: BudgetExhausted.

        A refused call writes nothing but the ends of abandoned runs. Raises StoreFull if there is no room for another
        conversation.
        """

    def start_run(self, name: str, run_id: str) -> Conversation | None:
        """Make a queued run `running` if it is the oldest open run of its conversation; None if it is not.

        Repeated: None, since the run is not queued any more; but after StoreUnavailable, a store may return the lost
        answer.
        """

    def append_text(self, name: str, run_id: str, at: int, text: str) -> bool:
        """Write `text` to a running run's text at offset `at`, in bytes of UTF-8; what was beyond `at` is replaced.

        Returns False and writes nothing if the run has ended or is missing. Repeated: the text is there once.
        """

    def finish_run(self, name: str, ended: Run, context_starts: Mapping[str, int] = NO_CONTEXT_STARTS) -> Run | None:
        """Write a run's end and, in the same step, `ended.history_messages()` at the end of the history.

        If these are not empty and `ended.replaces` is set, the newest messages, as far as they belong to that run, are
        deleted in the same step; that run keeps its text, and `history_id` changes. The run's usage, if known, is added
        to that of the day of its end. Its charge takes `spent` of its budget instead of `reserved`, as with every end,
        also of a run that is abandoned or cleared. The first end stands: if the run has ended, so also if repeated,
        nothing is written and that end is returned. None if the run is missing. `context_starts` are merged into those
        of the conversation, which has one for each model. Any worker may call it; `listen` tells the run's own worker.
        """

    def pause_run(self, name: str, run: Run) -> bool:
        """Replace a running run by `run`, which requires action and so has no lease.

        It keeps its position. After `run.expires`, every worker reads it as `expired`, and the next `create_run` or
        `start_run` in its conversation writes that end. False if it has ended or is missing. Repeated with the same
        `run` while that requires action: True.
        """

    def resume_run(self, name: str, run: Run, limits: RunLimits = NO_LIMITS) -> bool:
        """Replace a run that requires action by `run`, which is queued, leased by this worker, in the same position.

        Its charge replaces the earlier one; raises BudgetExhausted as `create_run`. False if it does not require action
        any more. Repeated with the same `run` while that is queued: True.
        """

    def set_run_details(self, name: str, run_id: str, details: Mapping[str, Any]) -> Run:
        """Replace the details of a run's options; later writes of the run keep them. Raises NotFound."""

    def mark_delivered(self, name: str, run_id: str) -> None:
        """Record that a request in another process than the run's worker waited for the reply and received it."""

    def get_run(self, run_id: str) -> Run:
        """Raises NotFound."""

    def list_runs(self, name: str, status: Status | None, most: int, before: str | None = None) -> Sequence[Run]:
        """The newest `most` runs of a conversation, or of those with `status`; newest first.

        With the id of a run as `before`: of earlier ones. Raises NotFound if it has no such run.
        """

    def list_messages(self, name: str, start: int, stop: int) -> Sequence[Message]:
        """The messages with indexes from `start` up to, not including, `stop`; oldest first. Indexes count from 0."""

    def message_index(self, name: str, message_id: str) -> int:
        """Raises NotFound."""

    def add_messages(self, name: str, messages: Sequence[Message]) -> None:
        """Add messages that belong to no run at the end. Raises NotFound, and ConversationBusy if a run is open.

        Repeated: nothing is added if the first of them is among the newest messages, as many as `messages` has and
        RECENT_MESSAGES more.
        """

    def import_history(self, name: str, messages: Sequence[Message], runs: Sequence[Run]) -> None:
        """Add messages at the end, and ended runs as the newest, as they are. Raises NotFound.

        Only for an unlisted conversation that nobody else uses yet; neither wakes nor counts anything, request ids are
        not recognised later. Raises RunExists, and adds nothing, if another conversation has one of the runs. Repeated
        as `add_messages`, or by the first of the runs.
        """

    def publish_conversation(self, name: str, created: float, touched: float) -> Conversation:
        """List an unlisted conversation, with these times in Unix seconds. It expires no more. Raises NotFound."""

    def list_usage(self, name: str | None, since: str, until: str) -> Sequence[DailyUsage]:
        """The usage of the days from `since` to `until`, both included, such as `2026-11-20`; newest day first.

        Of one conversation if `name` is given, otherwise of all; then by name and model. The usage
        of unlisted conversations, and of those that were deleted or have expired, is listed under an empty name.
        """

    def set_message_metadata(self, name: str, message_id: str, metadata: Mapping[str, Any]) -> Message:
        """Replace a message's metadata. Raises NotFound."""

    def delete_message(self, name: str, message_id: str) -> None:
        """Delete a message. The index of each later message decreases by one, and so do `context_starts` beyond it.

        A run whose reply it was keeps its text. Raises NotFound, so also if repeated.
        """

    def clear_conversation(self, name: str) -> Sequence[str]:
        """Delete messages, runs and request ids; keep model, settings, metadata and usage.

        Returns the ids of the runs that were open. Repeated: runs created since then are deleted too, and their ids
        returned; after StoreUnavailable, so are the ids that no earlier answer has returned.
        """

    def delete_conversation(self, name: str, *, unused_since: float | None = None) -> Sequence[str]:
        """Delete a conversation and all its data. Returns ids as `clear_conversation` does, also if repeated.

        With `unused_since`, it stays if it was touched at that time or later, or has an open run.
        """

    def renew_leases(self, leases: Mapping[str, str]) -> Collection[str]:
        """Renew the leases on runs of this worker. `leases` maps each run's id to the name of its conversation.

        Returns the ids of those that have ended or are missing.
        """

    def listen(self, followed: Collection[str], seconds: float) -> Collection[str]:
        """Wait, at most `seconds`, for a change by another worker that matters here.

        Returns the ids of this worker's runs that another one has ended or deleted, or whose turn may have come, and
        the ids of `followed` runs of other workers that may have changed since the last call, or that were not followed
        then. Repeated: no change is returned twice, and a change is lost if it happens while the store cannot be
        reached; a caller that must not miss one also polls with `renew_leases` and `get_run`. Only one thread at a time
        may call.
        """

    def sweep(self, seconds: float = SWEEP_SECONDS) -> bool:
        """Delete expired conversations and request ids older than a day, and free their space.

        Works in small steps, between which other calls are served; begins no further step after `seconds`. True if
        there may be more to delete.
        """

    def ping(self) -> None:
        """Raises StoreUnavailable if the store cannot take a write within two seconds."""

    def close(self) -> None:
        """Release all resources. Open runs of this worker are abandoned, at once or when their lease expires."""

"""One conversation in memory."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from server.domain import Conversation, Message, Run
from server.errors import NotFound, RequestIdConflict
from server.store.protocol import NEWEST, REQUEST_ID_SECONDS, RETRIED, abandoned, is_same, is_undelivered


class ConversationState:
    """All that one client has."""

    def __init__(self, conversation: Conversation, touched: float) -> None:
        self.conversation = conversation
        self.seconds: float | None = None
        """How long after it was `touched` it expires; None: never."""
        self.is_made = False
        """Whether `Store.create` made it."""
        self.is_evictable = False
        self.touched = touched
        self.messages: list[Message] = []
        self.runs: dict[str, Run] = {}
        """Oldest first."""
        self.open: dict[str, Run] = {}
        """Those of `runs` that have not ended, oldest first."""
        self.request_ids: dict[str, tuple[str, float]] = {}
        """The run of each request id and when it was begun, oldest first."""

    def snapshot(self) -> Conversation:
        known = self.conversation
        return replace(known, message_count=len(self.messages), touched=self.touched)

    def has_expired(self, now: float) -> bool:
        if self.seconds is None or now - self.touched <= self.seconds:
            return False
        return all(is_expired(run, now) for run in self.open.values())

    def is_bare(self) -> bool:
        """Whether it is only there because its client chose a model."""
        return not (self.is_made or self.messages or self.runs)

    def emptied(self, history_id: str, touched: float) -> "ConversationState":
        """What is left of it when it is cleared."""
        left = ConversationState(replace(self.conversation, context_starts={}, history_id=history_id), touched)
        left.seconds, left.is_made, left.is_evictable = self.seconds, self.is_made, self.is_evictable
        return left

    def told(self, run_id: str, now: float) -> Run:
        """A run as it reads now."""
        run = self.runs[run_id]
        return abandoned(run, now) if run_id in self.open and is_expired(run, now) else run

    def expire(self, now: float) -> bool:
        """Write down the end of the runs that waited too long. Whether there were any."""
        expired = [each for each in self.open.values() if is_expired(each, now)]
        for run in expired:
            self.end(abandoned(run, now))
        return bool(expired)

    def end(self, ended: Run) -> None:
        del self.open[ended.id]
        self.runs[ended.id] = self.noted(ended)

    def noted(self, run: Run) -> Run:
        """`run` with the details that are kept of it."""
        kept = self.runs[run.id].options.details
        return run if run.options.details == kept else replace(run, options=replace(run.options, details=kept))

    def has_added(self, messages: Sequence[Message]) -> bool:
        """Whether the same messages were added before, as `Store.add` looks for them."""
        newest = self.messages[-len(messages) - NEWEST :]
        return any(each.id == first.id for first in messages[:1] for each in newest)

    def place(self, message_id: str) -> int:
        for place in range(len(self.messages) - 1, -1, -1):
            if self.messages[place].id == message_id:
                return place
        raise NotFound

    def add(self, run: Run, now: float) -> None:
        self.touched = now
        self.change(run)
        if run.request_id is not None:
            self.request_ids.pop(run.request_id, None)
            self.request_ids[run.request_id] = (run.id, now)

    def change(self, run: Run) -> None:
        self.runs[run.id] = self.open[run.id] = run

    def answering(self, run: Run, now: float) -> Run | None:
        """The run that answers `run`'s question already, by the rules of `Store.begin`."""
        self.forget_request_ids(now)
        if run.request_id is not None:
            return self._with_request_id(run.request_id, run.question)
        for each in self.open.values():
            if is_same(each, run):
                return each
        newest = next(reversed(self.runs.values()), None)
        return newest if newest is not None and is_undelivered(newest, run, now) else None

    def _with_request_id(self, request_id: str, question: str) -> Run | None:
        known = self.request_ids.get(request_id)
        if known is None:
            return None
        run = self.runs[known[0]]
        if run.question != question:
            raise RequestIdConflict
        return None if run.status in RETRIED else run

    def forget_request_ids(self, now: float) -> None:
        # One by one, the way to the first of the rest would be longer each time.
        begun = ((request_id, at) for request_id, (_, at) in self.request_ids.items())
        for request_id, _ in list(takewhile(lambda each: now - each[1] > REQUEST_ID_SECONDS, begun)):
            del self.request_ids[request_id]


def is_expired(run: Run, now: float) -> bool:
    """Whether an open run waited too long for outputs of tools."""
    return run.expires is not None and now > run.expires

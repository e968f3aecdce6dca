"""One conversation in memory."""

from dataclasses import replace

from server.errors import NotFound, RequestIdConflict
from server.model import Conversation, Message, Run
from server.store import REQUEST_ID_SECONDS, abandoned, is_same, is_uncollected


class Kept:
    """All that one client has."""

    def __init__(self, conversation: Conversation, seconds: float | None, touched: float) -> None:
        self.conversation = conversation
        self.seconds = seconds
        """How long after it was `touched` it expires; None: never."""
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
        return self.seconds is not None and not self.open and now - self.touched > self.seconds

    def told(self, run_id: str, now: float) -> Run:
        """A run as it reads now."""
        run = self.runs[run_id]
        return abandoned(run, now) if run_id in self.open and is_expired(run, now) else run

    def expire(self, now: float) -> None:
        """Write down the end of the runs that waited too long."""
        for run in [each for each in self.open.values() if is_expired(each, now)]:
            self.end(abandoned(run, now))

    def end(self, ended: Run) -> None:
        del self.open[ended.id]
        self.runs[ended.id] = self.noted(ended)

    def noted(self, run: Run) -> Run:
        """`run` with the details that are kept of it."""
        kept = self.runs[run.id].options.details
        return run if run.options.details == kept else replace(run, options=replace(run.options, details=kept))

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
        return newest if newest is not None and is_uncollected(newest, run, now) else None

    def _with_request_id(self, request_id: str, question: str) -> Run | None:
        known = self.request_ids.get(request_id)
        if known is None:
            return None
        run = self.runs[known[0]]
        if run.question != question:
            raise RequestIdConflict
        return None if run.status in ("failed", "interrupted") else run

    def forget_request_ids(self, now: float) -> None:
        while self.request_ids:
            request_id, (_, begun) = next(iter(self.request_ids.items()))
            if now - begun <= REQUEST_ID_SECONDS:
                return
            del self.request_ids[request_id]


def is_expired(run: Run, now: float) -> bool:
    """Whether an open run waited too long for outputs of tools."""
    return run.expires is not None and now > run.expires

"""Conversations: every verb that a caller has. The dialects' only way in."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from server import errors
from server.live import Reading
from server.model import Message, Run, Status, rfc3339
from server.runs import Runner
from server.store import Store
from server.upstream import Health, Upstream

SILENCE_SECONDS = 15.0
"""How long a reader hears nothing before it is told that the reply is still being written."""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a history."""

    listed: bytes
    """A JSON list of `{"role", "content", "timestamp"}`, oldest first."""
    start: int
    """The place of its first message; so many older ones are left out."""


class Conversations:
    """Conversations by the name of the client that has them. Safe from any thread."""

    def __init__(self, store: Store, upstream: Upstream, runner: Runner) -> None:
        self._store = store
        self._upstream = upstream
        self._runner = runner

    def models(self) -> list[dict[str, Any]]:
        """What the upstream offers. Raises UpstreamFailed, NotConfigured."""
        return self._upstream.models()

    def model(self, name: str) -> str:
        """The client's model, or the default one where it has chosen none."""
        conversation = self._store.conversation(name)
        chosen = None if conversation is None else conversation.model
        return chosen or self._upstream.default_model()

    def set_model(self, name: str, model: str) -> None:
        """Raises UnknownModel, unless the upstream's list cannot be had: then any name is taken."""
        try:
            offered = {each["id"] for each in self._upstream.models()}
        except errors.Unavailable:
            offered = {model}
        if model not in offered:
            raise errors.UnknownModel
        self._store.set_model(name, model)

    def ask(
        self, name: str, question: str, request_id: str | None, seconds: float, is_there: Callable[[], bool]
    ) -> Run:
        """The run that answers `question`: completed, or still open after `seconds`.

        It goes on when the caller leaves, and is in the history when it is done. Raises what the run failed with, and
        RequestIdConflict, ConversationBusy, ShuttingDown, StoreUnavailable.
        """
        run = self._runner.begin(name, question, request_id, streamed=False)
        if run.is_open:
            with _cleared_is_cancelled():
                run = self._runner.wait(run.id, seconds, is_there)
        if run.status == "cancelled":
            raise errors.RunCancelled
        if run.failure is not None:
            raise errors.revived(run.failure.code, run.failure.sentence)
        return run

    def stream(
        self, name: str, question: str, request_id: str | None, is_there: Callable[[], bool]
    ) -> tuple[str, Reading]:
        """The id of the run that answers `question`, and its text as it is written, as `read` gives it."""
        run = self._runner.begin(name, question, request_id, streamed=True)
        with _cleared_is_cancelled():
            return run.id, self.read(run.id, 0, is_there)

    def read(self, run_id: str, position: int, is_there: Callable[[], bool]) -> Reading:
        """A run's text from character `position` on, then the run, ended; None after each silence.

        Leaving off cancels nothing. Raises NotFound and InvalidPosition, as `Runner.read` does.
        """
        return self._runner.read(run_id, position, SILENCE_SECONDS, is_there)

    def cancel(self, run_id: str) -> Run:
        """End a run. What was written is kept, in the history too. Raises NotFound."""
        return self._runner.cancel(run_id)

    def retry(self, run_id: str) -> Run:
        """Ask the question of a failed or interrupted run again: a new run, the same one however often it is retried.

        Raises NotFound, NotRetryable, and what `ask` raises before the reply is written.
        """
        run = self._store.run(run_id)
        if run.status not in ("failed", "interrupted"):
            raise errors.NotRetryable
        request_id = run.request_id or f"retry of {run_id}"
        return self._runner.begin(run.conversation, run.question, request_id, streamed=True)

    def runs(self, name: str, status: Status | None, most: int) -> Sequence[Run]:
        """The conversation's newest `most` runs, or of those with `status`; newest first."""
        return self._store.runs(name, status, most)

    def history(self, name: str, limit: int | None, before: int | None, most_characters: int | None) -> Page:
        """The newest messages older than place `before`: at most `limit`, in at most `most_characters` of JSON."""
        conversation = self._store.conversation(name)
        count = 0 if conversation is None else conversation.message_count
        stop = count if before is None else min(before, count)
        start = 0 if limit is None else max(0, stop - limit)
        parts = [_listed(each) for each in self._store.messages(name, start, stop)]
        if most_characters is not None:
            fitting = _fitting(parts, most_characters)
            parts = parts[len(parts) - fitting :]
        return Page(b"[" + b",".join(parts) + b"]", stop - len(parts))

    def clear(self, name: str) -> None:
        """Forget the history, the runs and the request ids; the model stays. Open runs are cancelled first."""
        self._runner.clear(name)

    def delete(self, name: str) -> None:
        """Forget all that there is of the conversation. Open runs are cancelled first."""
        self._runner.delete(name)

    def upstream_health(self) -> Health:
        return self._upstream.health()

    def check_ready(self) -> None:
        """Raises StoreUnavailable or ShuttingDown where questions would be refused."""
        if self._runner.is_closing:
            raise errors.ShuttingDown
        self._store.ping()


@contextmanager
def _cleared_is_cancelled() -> Iterator[None]:
    """A run that was begun a moment ago and is not found was cleared away in between."""
    try:
        yield
    except errors.NotFound:
        raise errors.RunCancelled from None


def _listed(message: Message) -> bytes:
    return b'%b,"timestamp":"%b"}' % (message.fragment[:-1], rfc3339(message.timestamp).encode())


def _fitting(parts: list[bytes], most_characters: int) -> int:
    """How many of the last `parts` fit into a JSON list of `most_characters`."""
    room = most_characters - 2
    for fitting, part in enumerate(reversed(parts)):
        room -= len(part.decode()) + 1
        if room < 0:
            return fitting
    return len(parts)

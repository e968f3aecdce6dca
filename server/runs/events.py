"""What the readers of a run receive, and how a run's error is told and stored."""

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from server.domain import Run, RunError
from server.errors import ActionRequired, AppError, InternalError, RunCancelled


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A part of a reply's text."""

    text: str
    position: int
    """The offset in the reply at the end of this part, in Unicode code points."""


RunEvents = Generator[TextDelta | Run | None, None, None]
"""A run's text as it is generated, then the run, ended or requiring action. None is a keep-alive.

The reader must close it.
"""


def notify_end(events: RunEvents, callback: Callable[[Run], None]) -> RunEvents:
    """`events`. `callback` is called with the run before the reader receives it."""
    with closing(events):
        for event in events:
            if isinstance(event, Run):
                callback(event)
            yield event


class HeldEvents(Generator[TextDelta | Run | None, None, None]):
    """Events that hold something until they are closed, also if nobody has begun to read them."""

    def __init__(self, events: RunEvents, release: Callable[[], None]) -> None:
        self._events = events
        self._release: Callable[[], None] | None = release

    def send(self, value: None) -> TextDelta | Run | None:
        return self._events.send(value)

    def throw(self, *error: Any) -> TextDelta | Run | None:
        return self._events.throw(*error)

    def close(self) -> None:
        self._events.close()
        release, self._release = self._release, None
        if release is not None:
            release()


def run_error(error: AppError) -> RunError:
    """`error` as a run stores it. `error_of` gives it back."""
    return RunError(error.code, str(error))


def error_of(run: Run) -> AppError | None:
    """The reason why a run that is not active has no whole reply; None if it has one."""
    if run.error is not None:
        return error_from_code(run.error.code, run.error.sentence)
    if run.status == "cancelled":
        return RunCancelled()
    return ActionRequired() if run.status == "requires_action" else None


def error_from_code(code: str, sentence: str) -> AppError:
    """The error that a run stored as `code` and `sentence`, to be raised again; InternalError for an unknown code."""
    return next((kind for kind in reversed(_list_subclasses(AppError)) if kind.code == code), InternalError)(sentence)


def _list_subclasses(kind: type[AppError]) -> list[type[AppError]]:
    """`kind` and all classes below it, each before its own subclasses."""
    return [kind, *(each for child in kind.__subclasses__() for each in _list_subclasses(child))]

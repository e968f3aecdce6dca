"""What the readers of a run receive, and how a run's error is told and stored."""

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass

from server.domain import Run, RunError
from server.errors import ActionRequired, AppError, RunCancelled, error_from_code


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

"""The rules that all storage backends share: which runs answer one question, and how an abandoned run ends."""

from server.domain import Run, RunError
from server.errors import RunExpired, RunInterrupted
from server.store.protocol import REDELIVERY_SECONDS


def is_same_question(earlier: Run, run: Run) -> bool:
    """Whether both runs have the same question, equal options, and replace the same run; never if they have neither."""
    key = run.question, run.replaces, run.options
    return any(key[:2]) and key == (earlier.question, earlier.replaces, earlier.options)


def can_redeliver(newest: Run, run: Run, now: float) -> bool:
    """Whether `newest`, the newest run of the conversation, has an undelivered reply to the question of `run`."""
    return (
        newest.status == "completed"
        and newest.ended is not None
        and is_same_question(newest, run)
        and not newest.delivered
        and now - newest.ended <= REDELIVERY_SECONDS
    )


def as_abandoned(run: Run, now: float) -> Run:
    """An open run as ended: `expired` if it requires action and its time is over, otherwise `interrupted`."""
    if run.status == "requires_action":
        return run.ended_as("expired", run.expires or now, error=RunError(RunExpired.code, RunExpired.sentence))
    return run.ended_as("interrupted", now, error=RunError(RunInterrupted.code, RunInterrupted.sentence))

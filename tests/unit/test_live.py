"""A run in memory: who counts as having received its reply."""

import threading
from collections.abc import Callable

import pytest

from server.domain import Run
from server.runs.live import LiveRun


class InterruptedCondition(threading.Condition):
    """Calls `callback` right after the condition is released for the `nth` time."""

    def __init__(self, nth: int, callback: Callable[[], None]) -> None:
        super().__init__()
        self.left = nth
        self.callback = callback

    def __exit__(self, *raised: object) -> None:
        super().__exit__(*raised)  # type: ignore[arg-type]
        self.left -= 1
        if self.left == 0:
            self.callback()


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_reply_counts_as_delivered_to_those_alone_who_are_given_it(nth: int) -> None:
    live = LiveRun("ada", Run("why?"), streamed=False)

    def end() -> None:
        with live.changed:
            live.end(live.run.ended_as("completed", 9.0, text="because", delivered=live.has_waiters()))

    live.changed = InterruptedCondition(nth, end)
    result = live.wait(0, lambda: True)
    if live.run.is_open:  # It ends after the caller left.
        end()
    assert live.run.delivered == (result.status == "completed")

"""A run while it is written: who counts as having its reply."""

import threading
from collections.abc import Callable

import pytest

from server.domain import Run
from server.runs.live import LiveRun


class Gap(threading.Condition):
    """Has something happen in between: right after it was let go for the `nth` time."""

    def __init__(self, nth: int, happen: Callable[[], None]) -> None:
        super().__init__()
        self.left = nth
        self.happen = happen

    def __exit__(self, *raised: object) -> None:
        super().__exit__(*raised)  # type: ignore[arg-type]
        self.left -= 1
        if self.left == 0:
            self.happen()


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_reply_counts_as_collected_by_those_alone_who_are_given_it(nth: int) -> None:
    live = LiveRun("ada", Run("why?"), streamed=False)

    def end() -> None:
        with live.changed:
            live.end(live.run.ended_as("completed", 9.0, text="because", delivered=live.has_waiters()))

    live.changed = Gap(nth, end)
    given = live.wait(0, lambda: True)
    if live.run.is_open:  # It ends when the caller has long left.
        end()
    assert live.run.delivered == (given.status == "completed")

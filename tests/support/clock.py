"""Clocks that stand still until a test moves them."""

from collections.abc import Callable


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class WatchedClock(Clock):
    """Calls `on_look` whenever it is read. Its time is not a whole second."""

    def __init__(self) -> None:
        self.now = 1_000_000_000.8
        self.on_look: Callable[[], None] = lambda: None

    def __call__(self) -> float:
        self.on_look()
        return self.now

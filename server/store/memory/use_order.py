"""The conversations in the order of their last use, so that a page of them is found without sorting them all."""

from bisect import bisect_left, insort


class UseOrder:
    """To be used by one thread at a time."""

    def __init__(self) -> None:
        self._ordered: list[tuple[float, str]] = []
        """When each was touched and its name, least recently used first."""
        self._touched: dict[str, float] = {}

    def update(self, name: str, touched: float) -> None:
        """Add a conversation, or move it to its new position."""
        self.remove(name)
        self._touched[name] = touched
        insort(self._ordered, (touched, name))

    def remove(self, name: str) -> None:
        touched = self._touched.pop(name, None)
        if touched is not None:
            del self._ordered[bisect_left(self._ordered, (touched, name))]

    def list_newest(self, before: tuple[float, str] | None, most: int) -> list[str]:
        """The names of the `most` that were used last before `before`, newest first."""
        stop = len(self._ordered) if before is None else bisect_left(self._ordered, before)
        return [name for _, name in reversed(self._ordered[max(0, stop - most) : stop])]

"""Counters, gauges and histograms in memory. Each holds one series of numbers for every combination of its labels.

A question counts about ten times. prometheus-client's own objects take six to ten times as long for that if several
processes share them: `python -m bench.counting`. There is no lock, since gevent's takes longer than all the rest.
CPython switches threads at calls and jumps only, so `numbers[0] += amount` is not interrupted.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

Labels = tuple[str, ...]
Series = dict[Labels, list[float]]
"""By the values of the labels: one number; of a histogram the count of each bucket, of what is above them, the sum."""

Kind = Literal["counter", "gauge", "histogram"]


class Family:
    """A metric. Its labels have few values each, and none comes from a caller."""

    kind: Kind

    def __init__(self, name: str, text: str, labels: Labels = (), known: Sequence[Labels] = ()) -> None:
        """`text` describes it. The series of the `known` label values are there from the start, at 0."""
        self.name = name
        self.text = text
        self.labels = labels
        self.buckets: Sequence[float] = ()
        self._series: Series = {values: [0.0] for values in known}

    def read(self) -> Series:
        """A copy of the numbers."""
        return {labels: numbers.copy() for labels, numbers in self._series.copy().items()}

    def _add(self, labels: Labels, amount: float) -> None:
        numbers = self._series.get(labels)
        if numbers is None:
            numbers = self._series.setdefault(labels, [0.0])
        numbers[0] += amount


class Counter(Family):
    kind = "counter"

    def add(self, *labels: str, amount: float = 1.0) -> None:
        self._add(labels, amount)


class Gauge(Family):
    """A number without labels that goes up and down."""

    kind = "gauge"

    def __init__(self, name: str, text: str, *, outlives_worker: bool) -> None:
        """`outlives_worker` tells whether the number stays in the sum of all workers after its worker has ended."""
        super().__init__(name, text, known=[()])
        self.outlives_worker = outlives_worker
        self._measure: Callable[[], float] | None = None

    def change(self, amount: float) -> None:
        self._add((), amount)

    def watch(self, measure: Callable[[], float]) -> None:
        """Call `measure` for the number whenever it is read, so that nothing is counted in between."""
        self._measure = measure

    def read(self) -> Series:
        return super().read() if self._measure is None else {(): [self._measure()]}


class Histogram(Family):
    kind = "histogram"

    def __init__(self, name: str, text: str, buckets: Sequence[float], labels: Labels = ()) -> None:
        """`buckets` are the upper bounds, in seconds, ascending."""
        super().__init__(name, text, labels)
        self.buckets = buckets

    def observe(self, seconds: float, *labels: str) -> None:
        bucket = bisect_left(self.buckets, seconds)
        numbers = self._series.get(labels)
        if numbers is None:
            numbers = self._series.setdefault(labels, [0.0] * (len(self.buckets) + 2))
        numbers[bucket] += 1
        numbers[-1] += seconds


def add_series(total: Series, further: Mapping[Labels, Sequence[float]]) -> None:
    """Add each number of `further` to that of `total`."""
    for labels, numbers in further.items():
        sums = total.get(labels)
        total[labels] = list(numbers) if sums is None else [a + b for a, b in zip(sums, numbers, strict=True)]

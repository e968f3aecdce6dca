"""The numbers in Prometheus' text format, by prometheus-client."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from server.metrics.families import Family, Series
from server.metrics.folder import Snapshot


def render(families: Iterable[Family], numbers: Snapshot) -> bytes:
    """`numbers` as text, with a head for each of `families`, also if it has no series yet."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector([_to_metric(each, numbers.get(each.name, {})) for each in families]))
    return generate_latest(registry)


class _Collector(Collector):
    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics


def _to_metric(family: Family, series: Series) -> Metric:
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, family.text, labels=family.labels)
        bounds = [*map(floatToGoString, family.buckets), "+Inf"]
        for labels, (*counts, total) in sorted(series.items()):
            histogram.add_metric(labels, list(zip(bounds, accumulate(counts), strict=True)), total)
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.text, labels=family.labels)
    for labels, (number,) in sorted(series.items()):
        # Two requests that fetch a reply at the same time count both, so that this gauge alone could fall below 0.
        metric.add_metric(labels, max(0.0, number))
    return metric

"""The metrics of a server, as Prometheus reads them."""

from collections import defaultdict

from prometheus_client.parser import text_string_to_metric_families

Samples = dict[str, dict[tuple[str, ...], float]]
"""By the name of the sample, then by the values of its labels in the order of their names."""


def parse_metrics(text: str) -> Samples:
    found: Samples = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            values = tuple(value for _, value in sorted(sample.labels.items()))
            assert values not in found[sample.name], "a series is there once"
            found[sample.name][values] = sample.value
    return found


def names_of(text: str) -> set[str]:
    """The names of all samples that the metrics may have, also if they have none yet."""
    names = set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            names |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"} if kind == "histogram" else {name}
    return names

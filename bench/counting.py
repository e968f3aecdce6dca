"""What it costs to count: `python -m bench.counting` compares the server's own metrics with prometheus-client's.

Under gevent, as in a worker. prometheus-client writes into the files that its processes share.
"""

# mypy: disable-error-code="import-untyped"

import os
import tempfile
import time
from collections.abc import Callable

from gevent import monkey

monkey.patch_all()

CALLS = 200_000


def microseconds(call: Callable[[], None]) -> float:
    """Of one call, the best of five rounds."""
    rounds = []
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(CALLS):
            call()
        rounds.append(time.perf_counter() - started)
    return min(rounds) / CALLS * 1e6


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # It is read at the import.
        from prometheus_client import Counter, Histogram

        from server.metrics import Folder, Metrics

        metrics = Metrics()
        counter, histogram = Counter("runs", "Runs.", ["end"]), Histogram("store", "Store.", ["call"])
        metrics.share(Folder.create())
        for name, call in {
            "prometheus-client, counter": lambda: counter.labels("completed").inc(),
            "prometheus-client, histogram": lambda: histogram.labels("create_run").observe(0.002),
            "ours, counter": lambda: metrics.runs.add("completed"),
            "ours, histogram": lambda: metrics.store.observe(0.002, "create_run"),
        }.items():
            print(f"{name:30} {microseconds(call):6.2f} µs")
        started = time.perf_counter()
        metrics.flush()
        print(f"{'ours, once a second':30} {(time.perf_counter() - started) * 1e6:6.0f} µs")


if __name__ == "__main__":
    main()

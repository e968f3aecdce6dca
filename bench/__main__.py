"""Measurements: `python -m bench` takes all of them, `python -m bench flow turns …` the named ones."""

import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from bench.guards import measure_guards
from bench.processes import (
    Server,
    run_checked_load,
    run_json,
    run_load,
    set_behaviour,
    start_redis,
    start_server,
    start_stub,
)
from bench.tables import print_table

ROUNDS = 5


def measure_flow(stub_port: int) -> None:
    """Throughput and latency over an instant upstream. The servers are measured in turns."""
    compare_servers("An instant upstream", stub_port, ("ours", "flask", "fastapi"))


def measure_litellm(stub_port: int) -> None:
    """The same in comparison with LiteLLM's proxy."""
    compare_servers("An instant upstream, and LiteLLM's proxy", stub_port, ("ours", "litellm"))


def compare_servers(title: str, stub_port: int, kinds: tuple[str, ...]) -> None:
    """Print a table of `kinds` and of direct calls by the SDK, each in comparison with `ours`."""
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    medians: dict[str, list[float]] = {kind: [] for kind in (*kinds, "sdk")}
    set_behaviour(stub_port, delay=0.0)
    direct = [sys.executable, "-m", "bench.direct_sdk", f"http://127.0.0.1:{stub_port}/v1", "800"]
    with ExitStack() as stack:
        servers = {kind: stack.enter_context(start_server(kind, stub_port)) for kind in kinds}
        plans = {kind: {"completions": kind == "litellm"} for kind in kinds}
        for kind, server in servers.items():
            run_load(server.port, concurrency=32, requests=600, tag="warm", **plans[kind])
        for number in range(ROUNDS):
            for kind, server in servers.items():
                result = run_checked_load(
                    server, stub_port, concurrency=32, requests=4000, tag=f"r{number}", **plans[kind]
                )
                rates[kind].append(result["per_second"])
            for kind, server in servers.items():
                result = run_checked_load(
                    server, stub_port, concurrency=1, requests=800, tag=f"l{number}", **plans[kind]
                )
                medians[kind].append(result["p50_ms"])
            medians["sdk"].append(run_json(direct)["p50_ms"])
        sizes = {kind: server.megabytes() for kind, server in servers.items()}
        starts = {kind: server.seconds_to_first_answer for kind, server in servers.items()}
    rows = []
    for kind in (*kinds, "sdk"):
        ratios = [ours / theirs for ours, theirs in zip(rates["ours"], rates.get(kind, []), strict=False)]
        added = [ours - theirs for ours, theirs in zip(medians["ours"], medians[kind], strict=True)]
        rows.append(
            [
                kind,
                f"{statistics.median(rates[kind]):,.0f}" if ratios else "",
                f"{statistics.median(ratios):.2f} ×" if ratios else "",
                f"{statistics.median(medians[kind]):.2f}",
                f"{statistics.median(added):+.2f}",
                f"{sizes[kind]:.0f}" if kind in sizes else "",
                f"{starts[kind]:.2f}" if kind in starts else "",
            ]
        )
    heads = ["", "req/s, c = 32", "ours is", "p50 ms, c = 1", "ours adds", "peak MB", "first answer, s"]
    print_table(title, heads, rows)


def measure_turns(stub_port: int) -> None:
    """The cost of the thousandth turn of a conversation on each store, in comparison with the first."""
    set_behaviour(stub_port, delay=0.0)
    rows = []
    with start_each_store(stub_port) as servers:
        for name, server in servers.items():
            first, last = [], []
            run_load(server.port, concurrency=1, requests=300, tag="warm")
            for number in range(ROUNDS):
                client = f"long {number}"
                run_checked_load(server, stub_port, concurrency=1, requests=950, client=client, tag="fill")
                last.append(
                    run_checked_load(server, stub_port, concurrency=1, requests=100, client=client, tag="last")[
                        "p50_ms"
                    ]
                )
                first.append(
                    run_checked_load(server, stub_port, concurrency=1, requests=100, tag=f"first{number}")["p50_ms"]
                )
            ratios = [late / early for late, early in zip(last, first, strict=True)]
            medians = [f"{statistics.median(each):.2f}" for each in (first, last)]
            rows.append([name, *medians, f"{statistics.median(ratios):.2f} ×"])
    print_table("Turn 1,000 against turn 1", ["", "turn 1, p50 ms", "turn 1,000, p50 ms", "ratio"], rows)


def measure_crowd(stub_port: int) -> None:
    """The cost of each of 2,000 concurrent calls of one second, and how many are not answered."""
    few, many, sizes, p50 = [], [], [], []
    for number in range(3):
        with start_server("ours", stub_port) as server:
            set_behaviour(stub_port, delay=0.0)
            run_load(server.port, concurrency=32, requests=600, tag="warm")
            before = server.cpu_seconds()
            run_checked_load(server, stub_port, concurrency=32, requests=4000, tag="few")
            few.append((server.cpu_seconds() - before) / 4000 * 1e6)
            set_behaviour(stub_port, delay=1.0)
            before = server.cpu_seconds()
            result = run_checked_load(server, stub_port, concurrency=2000, requests=12_000, tag=f"many{number}")
            many.append((server.cpu_seconds() - before) / 12_000 * 1e6)
            p50.append(result["p50_ms"] / 1000)
            sizes.append(server.megabytes())
    ratio = statistics.median(crowded / calm for crowded, calm in zip(many, few, strict=True))
    heads = ["", "CPU µs a request", "ratio", "unanswered", "p50 s", "peak MB"]
    calm = ["c = 32, instant", f"{statistics.median(few):.0f}", "", "0", "", ""]
    crowded = ["c = 2,000, 1 s", f"{statistics.median(many):.0f}", f"{ratio:.2f} ×", "0"]
    crowded += [f"{statistics.median(p50):.2f}", f"{max(sizes):.0f}"]
    print_table("2,000 calls of 1 s in flight", heads, [calm, crowded])


def measure_streams(stub_port: int) -> None:
    """1,000 concurrent streams of 20 chunks; 2.0 s would be ideal."""
    set_behaviour(stub_port, delay=0.0, stream_seconds=2.0, chunks=20)
    rows = []
    for kind in ("ours", "fastapi"):
        results = []
        for number in range(3):
            with start_server(kind, stub_port) as server:
                run_load(server.port, concurrency=50, requests=50, stream=True, tag="warm")
                plan = {"concurrency": 1000, "requests": 1000, "stream": True, "tag": f"s{number}"}
                # Connections of the other server may time out; the table shows how many.
                results.append(
                    run_checked_load(server, stub_port, **plan) if kind == "ours" else run_load(server.port, **plan)
                )
        p50 = statistics.median(each["p50_ms"] for each in results) / 1000
        faults = sum(each["faults"] for each in results)
        rows.append([kind, f"{p50:.2f}", f"{p50 / 2.0:.2f} ×", str(faults)])
    print_table("1,000 streams of 20 pieces in 2.0 s", ["", "p50 s", "to the ideal", "faults"], rows)


@contextmanager
def start_each_store(stub_port: int, **settings: str) -> Iterator[dict[str, Server]]:
    """This server over each store, all at once; over Redis also with `appendfsync always`."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        urls = {
            "memory": "memory://",
            "sqlite": f"sqlite:///{folder}/bench.db",
            "redis": stack.enter_context(start_redis("everysec")),
            "redis, fsync": stack.enter_context(start_redis("always")),
        }
        yield {
            name: stack.enter_context(start_server("ours", stub_port, STORE_URL=url, **settings))
            for name, url in urls.items()
        }


def measure_stores(stub_port: int) -> None:
    """The cost of a turn on each store, over an instant upstream. The stores are measured in turns."""
    set_behaviour(stub_port, delay=0.0)
    rates: dict[str, list[float]] = {}
    medians: dict[str, list[float]] = {}
    with start_each_store(stub_port) as servers:
        for server in servers.values():
            run_load(server.port, concurrency=32, requests=600, tag="warm")
        for number in range(ROUNDS):
            for name, server in servers.items():
                result = run_checked_load(server, stub_port, concurrency=32, requests=4000, tag=f"r{number}")
                rates.setdefault(name, []).append(result["per_second"])
            for name, server in servers.items():
                result = run_checked_load(server, stub_port, concurrency=1, requests=800, tag=f"l{number}")
                medians.setdefault(name, []).append(result["p50_ms"])
    rows = []
    for name in rates:
        faster = [own / memory for own, memory in zip(rates[name], rates["memory"], strict=True)]
        slower = [own / memory for own, memory in zip(medians[name], medians["memory"], strict=True)]
        rows.append(
            [
                name,
                f"{statistics.median(rates[name]):,.0f}",
                f"{statistics.median(faster):.2f} ×",
                f"{statistics.median(medians[name]):.2f}",
                f"{statistics.median(slower):.2f} ×",
            ]
        )
    print_table("Stores", ["", "req/s, c = 32", "to memory", "p50 ms, c = 1", "to memory"], rows)


def measure_lengths(stub_port: int) -> None:
    """The cost of a turn in a conversation of 10,000 messages in comparison with 1,000, with the same window."""
    set_behaviour(stub_port, delay=0.0)
    times: dict[str, dict[int, list[float]]] = {}
    with start_each_store(stub_port, MAX_CONTEXT_MESSAGES="100") as servers:
        for name, server in servers.items():
            times[name] = {1000: [], 10_000: []}
            for messages in times[name]:
                fill = {"concurrency": 1, "requests": messages // 2, "client": f"{messages} long", "tag": "fill"}
                run_checked_load(server, stub_port, **fill)
            for number in range(ROUNDS):
                for messages, medians in times[name].items():
                    plan = {"concurrency": 1, "requests": 200, "client": f"{messages} long", "tag": f"r{number}"}
                    medians.append(run_checked_load(server, stub_port, **plan)["p50_ms"])
    rows = []
    for name, by_length in times.items():
        ratios = [long / short for long, short in zip(by_length[10_000], by_length[1000], strict=True)]
        cells = [f"{statistics.median(each):.2f}" for each in by_length.values()]
        rows.append([name, *cells, f"{statistics.median(ratios):.2f} ×"])
    print_table("A window of 100 messages", ["", "of 1,000: p50 ms", "of 10,000: p50 ms", "ratio"], rows)


MEASUREMENTS = {
    "flow": measure_flow,
    "turns": measure_turns,
    "crowd": measure_crowd,
    "streams": measure_streams,
    "stores": measure_stores,
    "lengths": measure_lengths,
    "guards": measure_guards,
}
"""The measurements that run if none is named."""

OPTIONAL_MEASUREMENTS = {"litellm": measure_litellm}
"""A measurement that needs more than the project installs: `make bench-litellm`."""

if __name__ == "__main__":
    with start_stub() as port:
        for name in sys.argv[1:] or MEASUREMENTS:
            (MEASUREMENTS | OPTIONAL_MEASUREMENTS)[name](port)

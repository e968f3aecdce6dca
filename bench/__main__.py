"""`python -m bench` measures everything; `python -m bench flow turns …` only the named parts."""

import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from bench.processes import Server, behave, calls, load, printed, serving, stub

ROUNDS = 5
KINDS = ("ours", "flask", "fastapi")


def flow(stub_port: int) -> None:
    """Throughput and latency over an instant upstream, the servers taking turns."""
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    medians: dict[str, list[float]] = {kind: [] for kind in (*KINDS, "sdk")}
    behave(stub_port, delay=0.0)
    with ExitStack() as stack:
        servers = {kind: stack.enter_context(serving(kind, stub_port)) for kind in KINDS}
        for server in servers.values():
            load(server.port, concurrency=32, requests=600, tag="warm")
        for number in range(ROUNDS):
            for kind, server in servers.items():
                rates[kind].append(
                    checked(server, stub_port, concurrency=32, requests=4000, tag=f"r{number}")["per_second"]
                )
            for kind, server in servers.items():
                medians[kind].append(
                    checked(server, stub_port, concurrency=1, requests=800, tag=f"l{number}")["p50_ms"]
                )
            command = [sys.executable, "-m", "bench.direct_sdk", f"http://127.0.0.1:{stub_port}/v1", "800"]
            medians["sdk"].append(printed(command)["p50_ms"])
        sizes = {kind: server.megabytes() for kind, server in servers.items()}
        starts = {kind: server.seconds_to_first_answer for kind, server in servers.items()}
    print("\n## c = 32 and c = 1, instant upstream\n")
    print(
        "| | req/s, c = 32 | ours is | p50 ms, c = 1 | ours adds | peak MB | first answer s |\n|---|---|---|---|---|---|---|"
    )
    for kind in (*KINDS, "sdk"):
        ratio = [ours / theirs for ours, theirs in zip(rates["ours"], rates.get(kind, []), strict=False)]
        added = [ours - theirs for ours, theirs in zip(medians["ours"], medians[kind], strict=True)]
        row = [
            f"{statistics.median(rates[kind]):,.0f}" if ratio else "",
            f"{statistics.median(ratio):.2f} ×" if ratio else "",
            f"{statistics.median(medians[kind]):.2f}",
            f"{statistics.median(added):+.2f}",
            f"{sizes[kind]:.0f}" if kind in sizes else "",
            f"{starts[kind]:.2f}" if kind in starts else "",
        ]
        print(f"| {kind} | {' | '.join(row)} |")


def turns(stub_port: int) -> None:
    """What the thousandth turn of a conversation costs, against the first."""
    behave(stub_port, delay=0.0)
    first, last = [], []
    with serving("ours", stub_port) as server:
        load(server.port, concurrency=1, requests=300, tag="warm")
        for number in range(ROUNDS):
            client = f"long {number}"
            checked(server, stub_port, concurrency=1, requests=950, client=client, tag="fill")
            last.append(checked(server, stub_port, concurrency=1, requests=100, client=client, tag="last")["p50_ms"])
            first.append(checked(server, stub_port, concurrency=1, requests=100, tag=f"first{number}")["p50_ms"])
    ratios = [late / early for late, early in zip(last, first, strict=True)]
    print("\n## Turn 1,000 against turn 1\n\n| turn 1, p50 ms | turn 1,000, p50 ms | ratio |\n|---|---|---|")
    print(f"| {statistics.median(first):.2f} | {statistics.median(last):.2f} | {statistics.median(ratios):.2f} × |")


def crowd(stub_port: int) -> None:
    """2,000 calls of one second in flight at once: what each costs, and whether any goes unanswered."""
    base, crowded, sizes, faults, p50 = [], [], [], 0, []
    for number in range(3):
        with serving("ours", stub_port) as server:
            behave(stub_port, delay=0.0)
            load(server.port, concurrency=32, requests=600, tag="warm")
            base.append(cpu_of(server, lambda: checked(server, stub_port, concurrency=32, requests=4000, tag="b")))
            behave(stub_port, delay=1.0)
            plan = {"concurrency": 2000, "requests": 12_000, "tag": f"c{number}"}
            results: list[dict[str, Any]] = []
            crowded.append(cpu_of(server, lambda: results.append(checked(server, stub_port, **plan)) or results[-1]))
            faults += results[-1]["faults"]
            p50.append(results[-1]["p50_ms"])
            sizes.append(server.megabytes())
    ratios = [many / few for many, few in zip(crowded, base, strict=True)]
    print(
        "\n## 2,000 calls of 1 s in flight\n\n| | CPU µs a request | ratio | unanswered | p50 s | peak MB |\n|---|---|---|---|---|---|"
    )
    print(f"| c = 32, instant | {statistics.median(base) * 1e6:.0f} | | | | |")
    print(
        f"| c = 2,000, 1 s | {statistics.median(crowded) * 1e6:.0f} | {statistics.median(ratios):.2f} × | {faults} "
        f"| {statistics.median(p50) / 1000:.2f} | {max(sizes):.0f} |"
    )


def streams(stub_port: int) -> None:
    """1,000 streams of 20 pieces at once; 2.0 s would be ideal."""
    behave(stub_port, delay=0.0, stream_seconds=2.0, chunks=20)
    print("\n## 1,000 streams of 20 pieces in 2.0 s\n\n| | p50 s | to the ideal | faults |\n|---|---|---|---|")
    for kind in ("ours", "fastapi"):
        results = []
        for number in range(3):
            with serving(kind, stub_port) as server:
                load(server.port, concurrency=50, requests=50, stream=True, tag="warm")
                plan = {"concurrency": 1000, "requests": 1000, "stream": True, "tag": f"s{number}"}
                results.append(load(server.port, **plan))
        p50 = statistics.median(each["p50_ms"] for each in results) / 1000
        print(f"| {kind} | {p50:.2f} | {p50 / 2.0:.2f} × | {sum(each['faults'] for each in results)} |")


def checked(server: Server, stub_port: int, **plan: Any) -> dict[str, Any]:
    """A load whose every answer cost exactly one call upstream."""
    before = calls(stub_port)
    result = load(server.port, **plan)
    made = calls(stub_port) - before
    if made != plan["requests"] or result["faults"]:
        raise SystemExit(f"{plan}: {made} calls upstream, {result['faults']} faults")
    return result


def cpu_of(server: Server, work: Callable[[], dict[str, Any]]) -> float:
    """CPU seconds of the server for each request of `work`."""
    before = server.cpu_seconds()
    answered: int = work()["answered"]
    return (server.cpu_seconds() - before) / answered


PARTS = {"flow": flow, "turns": turns, "crowd": crowd, "streams": streams}

if __name__ == "__main__":
    with stub() as port:
        for name in sys.argv[1:] or PARTS:
            PARTS[name](port)

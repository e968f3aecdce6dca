"""`python -m bench` measures everything; `python -m bench flow turns …` only the named parts."""

import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from bench.processes import Server, behave, calls, load, printed, redis, serving, stub

ROUNDS = 5


def flow(stub_port: int) -> None:
    """Throughput and latency over an instant upstream, the servers taking turns."""
    side_by_side("An instant upstream", stub_port, ("ours", "flask", "fastapi"))


def litellm(stub_port: int) -> None:
    """The same beside LiteLLM's proxy."""
    side_by_side("An instant upstream, and LiteLLM's proxy", stub_port, ("ours", "litellm"))


def side_by_side(title: str, stub_port: int, kinds: tuple[str, ...]) -> None:
    """A table of `kinds`, and of the SDK called directly, each held against `ours`."""
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    medians: dict[str, list[float]] = {kind: [] for kind in (*kinds, "sdk")}
    behave(stub_port, delay=0.0)
    direct = [sys.executable, "-m", "bench.direct_sdk", f"http://127.0.0.1:{stub_port}/v1", "800"]
    with ExitStack() as stack:
        servers = {kind: stack.enter_context(serving(kind, stub_port)) for kind in kinds}
        asked = {kind: {"completions": kind == "litellm"} for kind in kinds}
        for kind, server in servers.items():
            load(server.port, concurrency=32, requests=600, tag="warm", **asked[kind])
        for number in range(ROUNDS):
            for kind, server in servers.items():
                answered = checked(server, stub_port, concurrency=32, requests=4000, tag=f"r{number}", **asked[kind])
                rates[kind].append(answered["per_second"])
            for kind, server in servers.items():
                answered = checked(server, stub_port, concurrency=1, requests=800, tag=f"l{number}", **asked[kind])
                medians[kind].append(answered["p50_ms"])
            medians["sdk"].append(printed(direct)["p50_ms"])
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
    table(title, heads, rows)


def turns(stub_port: int) -> None:
    """What the thousandth turn of a conversation costs on each store, against the first."""
    behave(stub_port, delay=0.0)
    rows = []
    with each_store(stub_port) as servers:
        for name, server in servers.items():
            first, last = [], []
            load(server.port, concurrency=1, requests=300, tag="warm")
            for number in range(ROUNDS):
                client = f"long {number}"
                checked(server, stub_port, concurrency=1, requests=950, client=client, tag="fill")
                last.append(
                    checked(server, stub_port, concurrency=1, requests=100, client=client, tag="last")["p50_ms"]
                )
                first.append(checked(server, stub_port, concurrency=1, requests=100, tag=f"first{number}")["p50_ms"])
            ratios = [late / early for late, early in zip(last, first, strict=True)]
            medians = [f"{statistics.median(each):.2f}" for each in (first, last)]
            rows.append([name, *medians, f"{statistics.median(ratios):.2f} ×"])
    table("Turn 1,000 against turn 1", ["", "turn 1, p50 ms", "turn 1,000, p50 ms", "ratio"], rows)


def crowd(stub_port: int) -> None:
    """2,000 calls of one second in flight at once: what each costs, and whether any goes unanswered."""
    few, many, sizes, p50 = [], [], [], []
    for number in range(3):
        with serving("ours", stub_port) as server:
            behave(stub_port, delay=0.0)
            load(server.port, concurrency=32, requests=600, tag="warm")
            before = server.cpu_seconds()
            checked(server, stub_port, concurrency=32, requests=4000, tag="few")
            few.append((server.cpu_seconds() - before) / 4000 * 1e6)
            behave(stub_port, delay=1.0)
            before = server.cpu_seconds()
            answered = checked(server, stub_port, concurrency=2000, requests=12_000, tag=f"many{number}")
            many.append((server.cpu_seconds() - before) / 12_000 * 1e6)
            p50.append(answered["p50_ms"] / 1000)
            sizes.append(server.megabytes())
    ratio = statistics.median(crowded / calm for crowded, calm in zip(many, few, strict=True))
    heads = ["", "CPU µs a request", "ratio", "unanswered", "p50 s", "peak MB"]
    calm = ["c = 32, instant", f"{statistics.median(few):.0f}", "", "0", "", ""]
    crowded = ["c = 2,000, 1 s", f"{statistics.median(many):.0f}", f"{ratio:.2f} ×", "0"]
    crowded += [f"{statistics.median(p50):.2f}", f"{max(sizes):.0f}"]
    table("2,000 calls of 1 s in flight", heads, [calm, crowded])


def streams(stub_port: int) -> None:
    """1,000 streams of 20 pieces at once; 2.0 s would be ideal."""
    behave(stub_port, delay=0.0, stream_seconds=2.0, chunks=20)
    rows = []
    for kind in ("ours", "fastapi"):
        results = []
        for number in range(3):
            with serving(kind, stub_port) as server:
                load(server.port, concurrency=50, requests=50, stream=True, tag="warm")
                plan = {"concurrency": 1000, "requests": 1000, "stream": True, "tag": f"s{number}"}
                # The yardstick's own connections may time out, which the table tells.
                results.append(checked(server, stub_port, **plan) if kind == "ours" else load(server.port, **plan))
        p50 = statistics.median(each["p50_ms"] for each in results) / 1000
        faults = sum(each["faults"] for each in results)
        rows.append([kind, f"{p50:.2f}", f"{p50 / 2.0:.2f} ×", str(faults)])
    table("1,000 streams of 20 pieces in 2.0 s", ["", "p50 s", "to the ideal", "faults"], rows)


@contextmanager
def each_store(stub_port: int, **settings: str) -> Iterator[dict[str, Server]]:
    """This server over each store at once; Redis also with each write on its disk before it answers."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        urls = {
            "memory": "memory://",
            "sqlite": f"sqlite:///{folder}/bench.db",
            "redis": stack.enter_context(redis("everysec")),
            "redis, fsync": stack.enter_context(redis("always")),
        }
        yield {
            name: stack.enter_context(serving("ours", stub_port, STORE_URL=url, **settings))
            for name, url in urls.items()
        }


def stores(stub_port: int) -> None:
    """What a stored turn costs on each store, over an instant upstream, the stores taking turns."""
    behave(stub_port, delay=0.0)
    rates: dict[str, list[float]] = {}
    medians: dict[str, list[float]] = {}
    with each_store(stub_port) as servers:
        for server in servers.values():
            load(server.port, concurrency=32, requests=600, tag="warm")
        for number in range(ROUNDS):
            for name, server in servers.items():
                answered = checked(server, stub_port, concurrency=32, requests=4000, tag=f"r{number}")
                rates.setdefault(name, []).append(answered["per_second"])
            for name, server in servers.items():
                answered = checked(server, stub_port, concurrency=1, requests=800, tag=f"l{number}")
                medians.setdefault(name, []).append(answered["p50_ms"])
    rows = []
    for name in rates:
        faster = [mine / memory for mine, memory in zip(rates[name], rates["memory"], strict=True)]
        slower = [mine / memory for mine, memory in zip(medians[name], medians["memory"], strict=True)]
        rows.append(
            [
                name,
                f"{statistics.median(rates[name]):,.0f}",
                f"{statistics.median(faster):.2f} ×",
                f"{statistics.median(medians[name]):.2f}",
                f"{statistics.median(slower):.2f} ×",
            ]
        )
    table("Stores", ["", "req/s, c = 32", "to memory", "p50 ms, c = 1", "to memory"], rows)


def lengths(stub_port: int) -> None:
    """What a turn costs in a conversation of 10,000 messages against one of 1,000, with the same window."""
    behave(stub_port, delay=0.0)
    times: dict[str, dict[int, list[float]]] = {}
    with each_store(stub_port, MAX_CONTEXT_MESSAGES="100") as servers:
        for name, server in servers.items():
            times[name] = {1000: [], 10_000: []}
            for messages in times[name]:
                fill = {"concurrency": 1, "requests": messages // 2, "client": f"{messages} long", "tag": "fill"}
                checked(server, stub_port, **fill)
            for number in range(ROUNDS):
                for messages, found in times[name].items():
                    plan = {"concurrency": 1, "requests": 200, "client": f"{messages} long", "tag": f"r{number}"}
                    found.append(checked(server, stub_port, **plan)["p50_ms"])
    rows = []
    for name, found in times.items():
        ratios = [long / short for long, short in zip(found[10_000], found[1000], strict=True)]
        medians = [f"{statistics.median(each):.2f}" for each in found.values()]
        rows.append([name, *medians, f"{statistics.median(ratios):.2f} ×"])
    table("A window of 100 messages", ["", "of 1,000: p50 ms", "of 10,000: p50 ms", "ratio"], rows)


def table(title: str, heads: list[str], rows: list[list[str]]) -> None:
    print(f"\n## {title}\n")
    for row in (heads, ["---"] * len(heads), *rows):
        print(f"| {' | '.join(row)} |")


def checked(server: Server, stub_port: int, **plan: Any) -> dict[str, Any]:
    """A load whose every answer cost exactly one call upstream."""
    before = calls(stub_port)
    result = load(server.port, **plan)
    made = calls(stub_port) - before
    if made != plan["requests"] or result["faults"]:
        raise SystemExit(f"{plan}: {made} calls upstream, {result['faults']} faults")
    return result


PARTS = {
    "flow": flow,
    "turns": turns,
    "crowd": crowd,
    "streams": streams,
    "stores": stores,
    "lengths": lengths,
}
"""What is measured where no part is named."""

INSTALLED = {"litellm": litellm}
"""What needs more than the project installs: `make bench-litellm`."""

if __name__ == "__main__":
    with stub() as port:
        for name in sys.argv[1:] or PARTS:
            (PARTS | INSTALLED)[name](port)

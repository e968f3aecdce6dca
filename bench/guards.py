"""What metrics, keys and limits cost a request, pairwise with the same server without them."""

import statistics
import tempfile
from contextlib import ExitStack

from bench.processes import (
    Server,
    create_key,
    run_checked_load,
    run_load,
    set_behaviour,
    start_redis,
    start_server,
)
from bench.tables import print_table

ROUNDS = 40
REQUESTS = 150
"""Of each server in a round. Few, since the speed of a virtual machine changes from second to second."""

GUARDS: dict[str, dict[str, str]] = {
    "metrics": {},
    "keys": {"ADMIN_KEY": "the bench's administrator"},
    "keys, rate limit": {"ADMIN_KEY": "the bench's administrator", "RATE_LIMIT": "100000/minute"},
    "keys, rate limit, budget": {
        "ADMIN_KEY": "the bench's administrator",
        "RATE_LIMIT": "100000/minute",
        "DAILY_TOKEN_BUDGET": "1000000000000",
    },
}
"""What is switched on in each server that is compared with the bare one, which counts no metrics either."""


def measure_guards(stub_port: int) -> None:
    """The CPU of a request on each store with metrics, keys and limits, to that of a server that has none of them."""
    set_behaviour(stub_port, delay=0.0)
    with start_redis("everysec") as redis_url:
        for store in ("memory", "sqlite", "redis"):
            with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
                urls = {"memory": "memory://", "sqlite": f"sqlite:///{folder}/NAME.db", "redis": f"{redis_url}/NUMBER"}
                servers: dict[str, tuple[Server, dict[str, str]]] = {}
                for number, (name, settings) in enumerate([("none", {}), *GUARDS.items()]):
                    url = urls[store].replace("NAME", f"{number}").replace("NUMBER", f"{number}")
                    kind = "bare" if name == "none" else "ours"
                    server = stack.enter_context(start_server(kind, stub_port, STORE_URL=url, **settings))
                    key = settings.get("ADMIN_KEY")
                    servers[name] = server, {"key": create_key(server.port, key)} if key else {}
                print_guards(store, measure_cpu_in_turns(servers, stub_port))


def measure_cpu_in_turns(servers: dict[str, tuple[Server, dict[str, str]]], stub_port: int) -> dict[str, list[float]]:
    """The CPU in µs of a request at each server, a figure for every round. The order of the servers alternates."""
    for server, plan in servers.values():
        run_load(server.port, concurrency=32, requests=600, tag="warm", **plan)
    figures: dict[str, list[float]] = {name: [] for name in servers}
    for number in range(ROUNDS):
        for name in list(servers)[:: -1 if number % 2 else 1]:
            server, plan = servers[name]
            before = server.cpu_seconds()
            run_checked_load(server, stub_port, concurrency=32, requests=REQUESTS, tag=f"g{number}", **plan)
            figures[name].append((server.cpu_seconds() - before) / REQUESTS * 1e6)
    return figures


def print_guards(store: str, figures: dict[str, list[float]]) -> None:
    rows = []
    for name, own in figures.items():
        ratios = sorted(each / bare for each, bare in zip(own, figures["none"], strict=True))
        low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        total = sum(own) / sum(figures["none"])
        cells = [f"{statistics.median(own):.0f}", f"{statistics.median(ratios):.3f} ×", f"{low:.3f} to {high:.3f}"]
        rows.append([name, *cells, f"{total:.3f} ×"])
    heads = ["", "CPU µs a request", "to none", "half of the rounds", "of all requests"]
    print_table(f"Metrics, keys and limits on {store}", heads, rows)

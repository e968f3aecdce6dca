"""One soak: the server, its clients, the kills and the flood, and what came of it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from server.domain import Usage
from server.upstream.protocol import Completion, CompletionRequest
from tests.soak.clients import Client, Turn, send
from tests.support.process import ROOT, ServerProcess, serve
from tests.support.replies_over_http import serve_replies

ADMIN_KEY = "the soak's administrator"
LEASE_SECONDS = 5
WORKERS = 2
EXPLAINED = {"broken", "500 run_interrupted", "200 run_interrupted", "409 run_interrupted"}
"""How an attempt ends whose worker was killed."""


@dataclass(frozen=True)
class Plan:
    clients: int
    turns: int
    """How many each client asks while it is disturbed."""
    calm_turns: int
    """How many each client asks before that."""
    interval: float
    """Seconds between the questions of a client."""
    reply_seconds: float
    kill_every: float
    """Seconds between kills."""


@dataclass
class Outcome:
    turns: Sequence[Turn]
    kills: int
    megabytes: Sequence[float]
    """Resident size of the worker that lives, about once a second while it is disturbed."""
    statuses: Counter[str]
    """What the flood was answered."""
    violations: list[str]


class SlowReplies:
    """The upstream. Each of its replies is another."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._count = 0
        self.calls: Counter[str] = Counter()
        """By question."""

    def __call__(self, call: CompletionRequest) -> Iterator[str | Completion]:
        messages: list[Any] = orjson.loads(call.messages)
        question = messages[-1]["content"]
        with self._lock:
            self._count += 1
            number = self._count
            self.calls[question] += 1
        for piece in (f"Answer {number}", " to ", question, "."):
            time.sleep(self._seconds / 4)
            yield piece
        yield Completion("told", Usage(10, 10, 20), "stop")

    def release(self) -> None:
        """Nothing waits."""


def run_soak(plan: Plan, folder: Path) -> Outcome:
    """Raises AssertionError if the server cannot be started or a key cannot be made."""
    replies = SlowReplies(plan.reply_seconds)
    settings = {
        "ADMIN_KEY": ADMIN_KEY,
        "DEFAULT_MODEL": "told",
        "LEASE_SECONDS": str(LEASE_SECONDS),
        "RATE_LIMIT": "60/minute",
        "STORE_URL": f"sqlite:///{folder / 'soak.db'}",
        "WEB_CONCURRENCY": str(WORKERS),
    }
    with serve_replies(replies) as upstream, serve(tls=None, OPENAI_BASE_URL=upstream, **settings) as served:
        clients = _start_clients(served, plan)
        flood = _start_flood(served)
        kills, megabytes = _kill_while_clients_ask(served, plan, clients)
        said, _ = flood.communicate(timeout=60)
        told = json.loads(said)
        violations = [violation for client in clients for violation in check_client(client, replies.calls)]
        violations += [f"somebody hostile was told {leak!r}" for leak in told["leaks"]]
        violations += [f"somebody hostile was answered {each}" for each in told["statuses"] if each.startswith("5")]
        if "Traceback" in served.log():
            violations.append(f"a traceback in the log: {served.log()[-3000:]}")
    turns = [turn for client in clients for turn in client.turns]
    return Outcome(turns, kills, megabytes, Counter(told["statuses"]), violations)


def check_client(client: Client, calls: Counter[str]) -> Iterator[str]:
    """A sentence for each thing that is not as it must be. `calls` are those to the upstream, by question."""
    asked = [(turn.question, turn.answer) for turn in client.turns]
    if (history := client.read_history()) != asked:
        yield f"{client.client_name} was answered {asked}, and the history is {history}"
    for turn in client.turns:
        # An attempt that was not broken, nor interrupted, would have been answered.
        if calls[turn.question] > 1 + len(turn.failures):
            yield f"{turn.question!r} cost {calls[turn.question]} calls, after {turn.failures}"
        if unexplained := set(turn.failures) - EXPLAINED:
            yield f"{turn.question!r} failed with {unexplained}"


def _start_clients(served: ServerProcess, plan: Plan) -> list[Client]:
    """Start them, and wait until they have been asking undisturbed for as long as they are to."""
    keys = [_create_key(served, f"client {number}") for number in range(plan.clients)]
    begin = time.monotonic()
    counts = plan.calm_turns, plan.turns
    clients = [Client(number, served.port, key, begin, plan.interval, counts) for number, key in enumerate(keys)]
    for client in clients:
        client.start()
    time.sleep(plan.calm_turns * plan.interval)
    return clients


def _create_key(served: ServerProcess, client_name: str) -> str:
    status, created = send(served.port, ADMIN_KEY, "POST", "/api-keys", {"client_name": client_name})
    assert status == 200, created
    key: str = created["key"]
    return key


def _start_flood(served: ServerProcess) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.soak.flood", str(served.port), _create_key(served, "hostile*")]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _kill_while_clients_ask(served: ServerProcess, plan: Plan, clients: Sequence[Client]) -> tuple[int, list[float]]:
    """How often a worker was killed, and the sizes of the other one, in megabytes."""
    survivor = _workers(served)[0]
    kills, megabytes = 0, []
    next_kill = time.monotonic() + plan.kill_every
    while any(client.is_alive() for client in clients):
        megabytes.append(_resident_megabytes(survivor))
        time.sleep(0.5)  # Another process gives no event to wait for.
        others = [pid for pid in _workers(served) if pid != survivor]
        if time.monotonic() >= next_kill and others and _has_served(others[0]):
            os.kill(others[0], signal.SIGKILL)
            kills += 1
            next_kill = time.monotonic() + plan.kill_every
    assert survivor in _workers(served)
    return kills, megabytes


def _workers(served: ServerProcess) -> list[int]:
    """The ids of the worker processes, oldest first."""
    found = subprocess.run(["pgrep", "-P", str(served.process.pid)], capture_output=True, check=True)
    return sorted(map(int, found.stdout.split()))


def _has_served(pid: int) -> bool:
    """Whether a worker has the store open, which it opens with its first request."""
    with suppress(FileNotFoundError):
        return any(str(each.readlink()).endswith("soak.db") for each in Path(f"/proc/{pid}/fd").iterdir())
    return False


def _resident_megabytes(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024

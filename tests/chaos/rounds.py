"""One round: servers over one store are killed while clients ask, and then all evidence is checked."""

import random
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from server.domain import Message, Run
from server.store import open_store
from tests.chaos.checks import Violation, find_violations
from tests.chaos.clients import Ask, Client, ClientThread
from tests.chaos.counts import count_asks, count_replacements
from tests.chaos.evidence import Evidence, Kill
from tests.chaos.replacements import checks as replacement_checks
from tests.chaos.replacements import evidence as replacement_evidence
from tests.chaos.replacements.clients import Recorder, ReplacingThread
from tests.chaos.servers import Server
from tests.chaos.stages import find_stages
from tests.chaos.upstream import Call, Upstream
from tests.support.redis_server import RedisServer, redis_server

CLIENTS = {"alone 0": 1, "alone 1": 1, "alone 2": 1, "alone 3": 1, "a few": 2, "many": 5}
"""How many clients ask concurrently in each conversation."""
REPLACING = {"replaced 0": 1, "replaced 1": 1, "replaced by two": 2}
"""How many clients ask, regenerate and edit concurrently in each further conversation."""
NAMES = (*CLIENTS, *REPLACING)
LEASE_SECONDS = 5
"""Long enough that a worker on a busy machine keeps its lease if it gets no CPU for a second or two."""
EVERYTHING = 1_000_000
MAX_KILLS_PER_HIT = 20
"""The limit for each wanted kill of an executing run. If these are not enough, something is wrong."""


@dataclass(frozen=True)
class Plan:
    title: str
    store: str
    """`sqlite` or `redis`."""
    servers: int
    workers: tuple[int, ...]
    """The numbers of worker processes, one of which a server has each time that it starts."""
    kills: int
    """How many kills have to hit an executing run."""


@dataclass(frozen=True)
class Outcome:
    title: str
    kills: Counter[str]
    """By victim."""
    stages: Counter[str]
    """How many kills came at each of `STAGES`. A kill may come at several, of several questions."""
    counts: Counter[str]
    violations: Sequence[Violation]
    folder: Path | None
    """The logs and the database file; None if there are no violations."""


def run_round(plan: Plan, seed: int) -> Outcome:
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    with ExitStack() as stack:
        redis = None
        if plan.store == "redis":
            redis = stack.enter_context(redis_server(appendonly="yes", appendfsync="always"))
        url = f"sqlite:///{folder / 'store.db'}" if redis is None else redis.url
        upstream = Upstream(seed)
        stack.callback(upstream.close)
        servers = [stack.enter_context(_run_server(name, folder, url, upstream)) for name in "ab"[: plan.servers]]
        outcome = _Round(plan, seed, url, upstream, servers, redis).run(folder)
    if not outcome.violations:
        shutil.rmtree(folder)
    return outcome


@contextmanager
def _run_server(name: str, folder: Path, url: str, upstream: Upstream) -> Iterator[Server]:
    server = Server(
        name,
        folder,
        upstream.url,
        STORE_URL=url,
        DEFAULT_MODEL="any",
        LEASE_SECONDS=str(LEASE_SECONDS),
    )
    try:
        yield server
    finally:
        with suppress(ProcessLookupError):
            server.kill()


class _Round:
    def __init__(
        self,
        plan: Plan,
        seed: int,
        url: str,
        upstream: Upstream,
        servers: Sequence[Server],
        redis: RedisServer | None,
    ) -> None:
        self._plan = plan
        self._seed = seed
        self._chance = random.Random(seed)
        self._url = url
        self._upstream = upstream
        self._servers = servers
        self._redis = redis
        self._client = Client(servers)
        self._recorder = Recorder(self._client)
        self._kills: list[Kill] = []
        self._violations: list[Violation] = []

    def run(self, folder: Path) -> Outcome:
        self._start(self._servers)
        threads = self._start_clients()
        self._kill_again_and_again()
        self._await_moment()
        self._client.is_over.set()
        self._kill_all()
        for thread in threads:
            thread.join()
        time.sleep(LEASE_SECONDS + 0.25)  # Leases of other processes pass by the clock alone.
        self._check_nothing_is_open()
        self._start(self._servers[:1])
        self._client.is_over.clear()
        self._ask_last_questions()
        self._replace_last_turns()
        shown = {name: self._servers[0].history(name) for name in NAMES}
        self._kill_all()
        return self._check_everything(shown, folder)

    def _start_clients(self) -> list[threading.Thread]:
        threads: list[threading.Thread] = []
        for name, count in CLIENTS.items():
            threads += [ClientThread(self._client, name, number, count == 1, self._seed) for number in range(count)]
        for name, count in REPLACING.items():
            threads += [ReplacingThread(self._recorder, name, number, self._seed) for number in range(count)]
        for thread in threads:
            thread.start()
        return threads

    def _kill_again_and_again(self) -> None:
        while sum(kill.is_running for kill in self._kills) < self._plan.kills:
            if len(self._kills) >= MAX_KILLS_PER_HIT * self._plan.kills:
                self._report("kills come while runs execute", f"of {len(self._kills)}, too few did")
                return
            self._await_moment()
            if self._redis is not None and len(self._kills) % 2:
                self._kill_redis(self._redis)
            else:
                server = self._chance.choice(self._servers)
                self._kill([server])
                self._start([server])

    def _await_moment(self) -> None:
        """Wait for a random moment, or until just after a question was sent, a reply ended or an answer came."""
        time.sleep(self._chance.random() ** 2)
        events = (self._client.question_sent, self._upstream.reply_ended, self._client.answer_received)
        for event in self._chance.choice([(), *((each,) for each in events)]):
            event.clear()
            event.wait(1.0)
            time.sleep(self._chance.uniform(0.0, 0.006))

    def _start(self, servers: Sequence[Server]) -> None:
        for server in servers:
            server.launch(self._chance.choice(self._plan.workers))
        for server in servers:
            server.await_answer()

    def _kill_all(self) -> None:
        self._kill([server for server in self._servers if server.life is not None])

    def _kill(self, servers: Sequence[Server]) -> None:
        killed = []
        for server in servers:
            life = server.life
            assert life is not None
            start = time.time()
            server.kill()
            killed.append((server, start, life.name, self._upstream.is_running([life.name])))
        for server, start, victim, is_running in killed:
            server.await_exit()
            self._kills.append(Kill(start, time.time(), victim, frozenset([victim]), is_running))

    def _kill_redis(self, redis: RedisServer) -> None:
        lives = frozenset(server.life.name for server in self._servers if server.life is not None)
        start = time.time()
        redis.send_signal(signal.SIGKILL)
        is_running = self._upstream.is_running(lives)
        redis.stop(signal.SIGKILL)
        redis.start()
        self._kills.append(Kill(start, time.time(), "redis", lives, is_running))

    def _check_nothing_is_open(self) -> None:
        for name, runs in self._load_store()[0].items():
            for run in runs:
                if run.is_open:
                    self._report(
                        "no run is open when its lease has passed", f"{name}: {run.question!r} is {run.status}"
                    )

    def _ask_last_questions(self) -> None:
        """Ask a last question in each conversation. It must be answered without waiting for anything."""

        def ask(name: str) -> Ask | None:
            return self._client.ask(random.Random(name), name, f"The last question in {name}", None)

        with ThreadPoolExecutor(len(CLIENTS)) as threads:
            for name, last in zip(CLIENTS, threads.map(ask, CLIENTS), strict=True):
                if last is None or last.answer is None:
                    self._report("a conversation goes on after all kills", f"{name}: {last}")

    def _replace_last_turns(self) -> None:
        """Ask a question in each of the other conversations, and have its turn replaced."""
        for name in REPLACING:
            for kind in ("ask", "regenerate"):
                question = f"The last question in {name}" if kind == "ask" else None
                created = self._recorder.send(self._chance, kind, name, question=question)
                told = created.told if created else None
                last = self._recorder.read(self._chance, name, told) if told else created
                if last is None or last.end != "END":
                    self._report("a conversation goes on after all kills", f"{name}: {last}")

    def _report(self, rule: str, details: str) -> None:
        self._violations.append(Violation(rule, details))

    def _check_everything(self, shown: dict[str, list[tuple[str, str]]], folder: Path) -> Outcome:
        runs, histories = self._load_store()
        error_codes = frozenset(
            {"run_interrupted"} if self._redis is None else {"run_interrupted", "store_unavailable"}
        )
        calls = self._calls_by_name()
        conversations, replaced = [], []
        for name in NAMES:
            end = calls[name], runs[name], histories[name], self._kills, error_codes
            if name in CLIENTS:
                conversations.append(Evidence(name, [ask for ask in self._client.asks if ask.name == name], *end))
                self._violations += find_violations(conversations[-1])
            else:
                requests = [request for request in self._recorder.requests if request.name == name]
                replaced.append(replacement_evidence.Evidence(name, requests, *end))
                self._violations += replacement_checks.find_violations(replaced[-1])
            if shown[name] != [(each.role, each.content) for each in histories[name]]:
                self._report("GET /history shows what the store has", f"{name}: {len(shown[name])} messages")
        for server in self._servers:
            for log in server.logs_with_tracebacks():
                self._report("every failure has a name", f"a traceback in {log}")
        hit = Counter[str]()
        for kill in self._kills:
            hit.update(find_stages(kill, conversations) or {"at rest"})
        return Outcome(
            self._plan.title,
            Counter(kill.victim for kill in self._kills),
            hit,
            count_asks(self._client.asks, conversations) + count_replacements(replaced),
            self._violations,
            folder if self._violations else None,
        )

    def _calls_by_name(self) -> dict[str, list[Call]]:
        """The calls of each conversation, by their questions, which name it."""
        names = {ask.question: ask.name for ask in self._client.asks}
        names |= {each.question: each.name for each in self._recorder.requests if each.question is not None}
        calls: dict[str, list[Call]] = {name: [] for name in NAMES}
        for call in self._upstream.calls():
            if call.question in names:
                calls[names[call.question]].append(call)
            else:
                self._report("the upstream is asked only what clients asked", repr(call.question))
        return calls

    def _load_store(self) -> tuple[dict[str, list[Run]], dict[str, list[Message]]]:
        """The runs and the history of each conversation, oldest first."""
        store = open_store(self._url, max_conversations=len(NAMES), max_records=1, lease_seconds=LEASE_SECONDS)
        try:
            runs = {name: list(reversed(store.list_runs(name, None, EVERYTHING))) for name in NAMES}
            return runs, {name: list(store.list_messages(name, 0, EVERYTHING)) for name in NAMES}
        finally:
            store.close()

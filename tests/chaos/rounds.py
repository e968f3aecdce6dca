"""One round: servers over one store, killed while they are asked, and judged in the end."""

import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from server.domain import Message, Run
from server.store import open_store
from tests.chaos.checks import Violation, violations
from tests.chaos.clients import Ask, Asker, Client
from tests.chaos.evidence import Kill, Talk
from tests.chaos.servers import Server
from tests.chaos.stages import stages
from tests.chaos.upstream import Upstream
from tests.support.redis_server import RedisServer, redis_server

ASKERS = {"alone 0": 1, "alone 1": 1, "alone 2": 1, "alone 3": 1, "a few": 2, "many": 5}
"""How many clients ask at the same time in each conversation."""
LEASE_SECONDS = 5
"""A writer on a busy machine may have no turn for a second or two, and is not to lose its lease for that."""
EVERYTHING = 1_000_000
MOST_KILLS = 20
"""For each that is wanted while a reply is written; there is something wrong where these are not enough."""


@dataclass(frozen=True)
class Plan:
    title: str
    store: str
    """`sqlite` or `redis`."""
    servers: int
    workers: tuple[int, ...]
    """Of how many worker processes a server may be, each time that it starts."""
    kills: int
    """How many are wanted while a reply is written."""


@dataclass(frozen=True)
class Outcome:
    title: str
    kills: Counter[str]
    """By their victims."""
    stages: Counter[str]
    """How many of the kills came at each of `STAGES`; a kill may come at several, of several questions."""
    counts: Counter[str]
    violations: Sequence[Violation]
    folder: Path | None
    """The servers' logs, and the file, where there are violations."""


def play(plan: Plan, seed: int) -> Outcome:
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    with ExitStack() as stack:
        redis = None
        if plan.store == "redis":
            redis = stack.enter_context(redis_server(appendonly="yes", appendfsync="always"))
        url = f"sqlite:///{folder / 'kept.db'}" if redis is None else redis.url
        upstream = Upstream(seed)
        stack.callback(upstream.close)
        servers = [stack.enter_context(_server(name, folder, url, upstream)) for name in "ab"[: plan.servers]]
        outcome = _Round(plan, seed, url, upstream, servers, redis).outcome(folder)
    if not outcome.violations:
        shutil.rmtree(folder)
    return outcome


@contextmanager
def _server(name: str, folder: Path, url: str, upstream: Upstream) -> Iterator[Server]:
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
        self._kills: list[Kill] = []
        self._found: list[Violation] = []

    def outcome(self, folder: Path) -> Outcome:
        self._start(self._servers)
        askers = [
            Asker(self._client, name, number, count == 1, self._seed)
            for name, count in ASKERS.items()
            for number in range(count)
        ]
        for asker in askers:
            asker.start()
        self._kill_again_and_again()
        self._await_instant()
        self._client.is_over.set()
        self._kill_all()
        for asker in askers:
            asker.join()
        time.sleep(LEASE_SECONDS + 0.25)  # Other processes' leases pass by the clock alone.
        self._check_nothing_is_open()
        self._start(self._servers[:1])
        self._client.is_over.clear()
        self._ask_for_the_last_time()
        shown = {name: self._servers[0].history(name) for name in ASKERS}
        self._kill_all()
        return self._judged(shown, folder)

    def _kill_again_and_again(self) -> None:
        while sum(kill.is_writing for kill in self._kills) < self._plan.kills:
            if len(self._kills) >= MOST_KILLS * self._plan.kills:
                self._find("kills come while replies are written", f"of {len(self._kills)}, too few did")
                return
            self._await_instant()
            if self._redis is not None and len(self._kills) % 2:
                self._kill_redis(self._redis)
            else:
                server = self._chance.choice(self._servers)
                self._kill([server])
                self._start([server])

    def _await_instant(self) -> None:
        """Any instant; or one just after a question left, a reply ended or an answer came, so that those are hit."""
        time.sleep(self._chance.random() ** 2)
        events = (self._client.asked, self._upstream.ended_as, self._client.answered)
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
            began = time.time()
            server.kill()
            killed.append((server, began, life.name, self._upstream.is_writing([life.name])))
        for server, began, life, is_writing in killed:
            server.bury()
            self._kills.append(Kill(began, time.time(), life, frozenset([life]), is_writing))

    def _kill_redis(self, redis: RedisServer) -> None:
        lives = frozenset(server.life.name for server in self._servers if server.life is not None)
        began = time.time()
        redis.send_signal(signal.SIGKILL)
        is_writing = self._upstream.is_writing(lives)
        redis.stop(signal.SIGKILL)
        redis.start()
        self._kills.append(Kill(began, time.time(), "redis", lives, is_writing))

    def _check_nothing_is_open(self) -> None:
        for name, runs in self._stored()[0].items():
            for run in runs:
                if run.is_open:
                    self._find("no run is open when its lease has passed", f"{name}: {run.question!r} is {run.status}")

    def _ask_for_the_last_time(self) -> None:
        """Each conversation must go on, without waiting for anything."""

        def ask(name: str) -> Ask | None:
            return self._client.ask(random.Random(name), name, f"The last question in {name}", None)

        with ThreadPoolExecutor(len(ASKERS)) as threads:
            for name, last in zip(ASKERS, threads.map(ask, ASKERS), strict=True):
                if last is None or last.answer is None:
                    self._find("a conversation goes on after all kills", f"{name}: {last}")

    def _find(self, rule: str, found: str) -> None:
        self._found.append(Violation(rule, found))

    def _judged(self, shown: dict[str, list[tuple[str, str]]], folder: Path) -> Outcome:
        runs, histories = self._stored()
        calls = self._upstream.calls()
        names = {ask.question: ask.name for ask in self._client.asks}
        failures = frozenset({"run_interrupted"} if self._redis is None else {"run_interrupted", "store_unavailable"})
        talks = []
        for call in calls:
            if call.question not in names:
                self._find("the upstream is asked only what clients asked", repr(call.question))
        for name in ASKERS:
            asks = [ask for ask in self._client.asks if ask.name == name]
            own = [call for call in calls if names.get(call.question) == name]
            talks.append(Talk(name, asks, own, runs[name], histories[name], self._kills, failures))
            if shown[name] != [(each.role, each.content) for each in histories[name]]:
                self._find("GET /history shows what the store has", f"{name}: {len(shown[name])} messages")
            self._found += violations(talks[-1])
        for server in self._servers:
            for log in server.failures_without_a_name():
                self._find("every failure has a name", f"a traceback in {log}")
        hit = Counter[str]()
        for kill in self._kills:
            hit.update(stages(kill, talks) or {"at rest"})
        return Outcome(
            self._plan.title,
            Counter(kill.victim for kill in self._kills),
            hit,
            _counts(self._client.asks, talks),
            self._found,
            folder if self._found else None,
        )

    def _stored(self) -> tuple[dict[str, list[Run]], dict[str, list[Message]]]:
        """The runs and the history of each conversation, oldest first."""
        store = open_store(self._url, max_conversations=len(ASKERS), max_records=1, lease_seconds=LEASE_SECONDS)
        try:
            runs = {name: list(reversed(store.list_runs(name, None, EVERYTHING))) for name in ASKERS}
            return runs, {name: list(store.list_messages(name, 0, EVERYTHING)) for name in ASKERS}
        finally:
            store.close()


def _counts(asks: Sequence[Ask], talks: Sequence[Talk]) -> Counter[str]:
    return Counter(
        questions=len({ask.question for ask in asks}),
        requests=len(asks),
        answered=len({ask.question for ask in asks if ask.answer is not None}),
        interrupted=sum(run.status != "completed" for talk in talks for run in talk.runs),
        turns=sum(len(talk.turns) for talk in talks),
        calls=sum(len(talk.calls) for talk in talks),
    )

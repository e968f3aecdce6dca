"""Rate limits and budgets hold exactly over four workers that share a store, also if workers are killed."""

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from threading import Event, Thread

import pytest

from server.charges import Charge
from server.domain import Run, Usage
from server.errors import BudgetExhausted
from server.store import open_store
from server.store.limits import RunLimits
from server.store.protocol import CreateOptions
from server.upstream.protocol import Completion, CompletionRequest
from tests.support.process import ServerProcess, await_answer, eventually, serve
from tests.support.redis_server import needs_redis, shared_redis
from tests.support.replies import ScriptedReplies
from tests.support.replies_over_http import serve_replies

ADMIN_KEY = "the limits' administrator"
WORKERS = 4
REPLY = Usage(10, 100, 110)
BUDGET = 10 * REPLY.total_tokens
CLIENTS = 200
KILLS = 5


class SlowReplies:
    """The upstream: each reply takes a while, and as many tokens as `REPLY`."""

    def __call__(self, call: CompletionRequest) -> Iterator[str | Completion]:
        time.sleep(0.1)
        yield "Because."
        yield Completion("told", REPLY, "stop")

    def release(self) -> None:
        """Nothing waits."""


@pytest.fixture(params=["memory", "sqlite", pytest.param("redis", marks=needs_redis)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        shared_redis().ask("FLUSHALL")
        return shared_redis().url
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'kept.db'}"


@contextmanager
def limited(store_url: str, **env: str) -> Iterator[ServerProcess]:
    workers = 1 if store_url == "memory://" else WORKERS
    settings = {"STORE_URL": store_url, "WEB_CONCURRENCY": str(workers), "LEASE_SECONDS": "1", "DEFAULT_MODEL": "told"}
    with (
        serve_replies(SlowReplies()) as upstream,
        serve(tls=None, OPENAI_BASE_URL=upstream, **settings, **env) as served,
    ):
        yield served


@contextmanager
def budgeted(store_url: str, whose: str) -> Iterator[tuple[ServerProcess, str, dict[str, str]]]:
    """A server with `BUDGET` for all together, or for one key that opens all clients.

    Yields it with whose budget that is in the store, and the headers to ask with.
    """
    if whose == "server":
        with limited(store_url, DAILY_TOKEN_BUDGET=str(BUDGET), DEFAULT_MAX_TOKENS="100") as served:
            yield served, "server", {}
        return
    with limited(store_url, ADMIN_KEY=ADMIN_KEY, DEFAULT_MAX_TOKENS="100") as served:
        scope = {"client_name": "*", "daily_token_budget": BUDGET}
        status, created = served.ask("POST", "/api-keys", scope)
        assert status == 200
        yield served, f"key:{created['id']}", {"Authorization": f"Bearer {created['key']}"}


def ask_all(served: ServerProcess, count: int, **headers: str) -> Counter[int]:
    """The statuses of questions of so many clients at once, each of whom asks again if its connection breaks."""

    def ask(n: int) -> int:
        for _ in range(40):
            with suppress(OSError, HTTPException):
                question = {"client_name": f"client {n}", "input": "why?", "request_id": "1"}
                status, _ = served.ask("POST", "/query", question, **headers)
                if status != 500:  # The worker was killed: the run is interrupted, or its lease has to pass first.
                    return status
            time.sleep(0.1)
        return 0

    with ThreadPoolExecutor(64) as threads:
        return Counter(threads.map(ask, range(count)))


def kill_workers(served: ServerProcess, stopped: Event) -> None:
    """Kill the oldest worker, a few times; gunicorn starts another."""
    for _ in range(KILLS):
        if stopped.wait(0.4):
            return
        kill_oldest_worker(served)


def kill_oldest_worker(served: ServerProcess) -> None:
    found = subprocess.run(["pgrep", "-o", "-P", str(served.process.pid)], capture_output=True, check=False)
    with suppress(ProcessLookupError, ValueError):
        os.kill(int(found.stdout), signal.SIGKILL)


def room(store_url: str, payer: str, tokens: int) -> bool:
    """Whether so many tokens are left of a budget, as another process sees it."""
    store = open_store(store_url, max_conversations=1, lease_seconds=1.0)
    charge = Charge(payer, time.strftime("%Y-%m-%d", time.gmtime()), tokens, 1)
    options = CreateOptions(limits=RunLimits(daily_tokens=BUDGET))
    try:
        run = store.create_run("probe", Run(f"{tokens}?", charge=charge), options, waiting=32, start=True).run
        store.finish_run("probe", run.ended_as("failed", time.time()))
    except BudgetExhausted:
        return False
    finally:
        store.close()
    return True


def test_of_many_questions_at_once_exactly_as_many_begin_as_the_rate_limit_allows(store_url: str) -> None:
    with limited(store_url, RATE_LIMIT="20/hour") as served:
        assert ask_all(served, 60) == {200: 20, 429: 40}
        # Each of those that begun is answered again, since its id is known.
        assert ask_all(served, 60) == {200: 20, 429: 40}


@pytest.mark.parametrize("whose", ["key", "server"])
def test_many_questions_at_once_spend_no_more_than_the_budget(store_url: str, whose: str) -> None:
    with budgeted(store_url, whose) as (served, _, headers):
        assert ask_all(served, CLIENTS, **headers) == {200: 10, 429: CLIENTS - 10}


@pytest.mark.parametrize("store_url", ["sqlite", pytest.param("redis", marks=needs_redis)], indirect=True)
@pytest.mark.parametrize("whose", ["key", "server"])
def test_a_budget_is_not_overspent_if_workers_are_killed_and_nothing_of_it_is_lost(store_url: str, whose: str) -> None:
    with budgeted(store_url, whose) as (served, payer, headers):
        stopped = Event()
        killer = Thread(target=kill_workers, args=(served, stopped))
        killer.start()
        try:
            first = ask_all(served, CLIENTS, **headers)
        finally:
            stopped.set()
            killer.join()
        assert first[200] <= 10
        time.sleep(1.5)  # The leases of the killed workers pass.
        asked = [(n, served.query(f"late client {n}", "why?", **headers)[0]) for n in range(12)]
        answered = first[200] + sum(status == 200 for _, status in asked)
        assert answered <= 10
        # What was interrupted has spent its prompt, and has given back the rest.
        assert answered >= 8
        assert not room(store_url, payer, REPLY.total_tokens)


@pytest.mark.parametrize("store_url", ["sqlite", pytest.param("redis", marks=needs_redis)], indirect=True)
def test_a_client_whose_worker_was_killed_may_ask_again(store_url: str) -> None:
    replies = ScriptedReplies("slow")
    settings = {"STORE_URL": store_url, "WEB_CONCURRENCY": "1", "LEASE_SECONDS": "1", "MAX_CLIENT_OPEN_RUNS": "1"}
    with serve_replies(replies) as upstream, serve(OPENAI_BASE_URL=upstream, ADMIN_KEY=ADMIN_KEY, **settings) as served:
        _, created = served.ask("POST", "/api-keys", {"client_name": "team-*"})
        key = {"Authorization": f"Bearer {created['key']}"}
        assert served.query("team-a", "slow", Prefer="wait=0", **key)[0] == 202
        replies.await_call("slow")
        assert eventually(lambda: served.query("team-b", "why?", **key)[0] == 429)
        kill_oldest_worker(served)
        await_answer(served)
        assert eventually(lambda: served.query("team-b", "why?", **key)[0] == 200)

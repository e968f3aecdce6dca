"""The Redis store's index of conversations and its usage agree with the conversations, which may be on other nodes."""

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest

from server.domain import Run, Usage
from server.errors import AppError, ConversationBusy, NotLastTurn
from server.store.protocol import CreateOptions
from server.store.redis import RedisStore
from server.store.redis.caller import tag_of
from tests.store.contract import LEASE_SECONDS, asked, finished
from tests.store.contract_conversations import DAY, USAGE, complete, get, names
from tests.support.clock import Clock
from tests.support.redis_server import RedisServer, needs_redis, redis_server, shared_cluster, shared_redis

pytestmark = needs_redis


@pytest.fixture
def redis() -> RedisServer:
    server = shared_redis()
    server.ask("FLUSHALL")
    return server


@pytest.fixture
def stored() -> Iterator[Callable[..., RedisStore]]:
    """A factory of stores, which are closed after the test."""
    stores = []

    def made(url: str, clock: Clock) -> RedisStore:
        stores.append(RedisStore(url, LEASE_SECONDS, clock))
        return stores[-1]

    yield made
    for each in stores:
        each.close()


@pytest.fixture
def store(redis: RedisServer, stored: Callable[..., RedisStore], clock: Clock) -> RedisStore:
    return stored(redis.url, clock)


def index(redis: RedisServer) -> dict[str, float]:
    flat = redis.ask("ZRANGE", "listed:", 0, -1, "WITHSCORES")
    return dict(flat)


def usage(store: RedisStore) -> list[tuple[str, int]]:
    return [(each.name, each.runs) for each in store.list_usage(None, DAY, DAY)]


class TestIndex:
    """Its times are those of the conversations."""

    @pytest.mark.parametrize(
        "call",
        [
            lambda store, run: asked(store),  # Joins.
            lambda store, run: store.create_run("ada", Run("more"), waiting=0, start=True),
            lambda store, run: store.create_run("ada", Run("more", replaces="run_1"), waiting=1, start=True),
            lambda store, run: store.create_run(
                "ada", Run("x"), CreateOptions(reject_if_busy=True), waiting=1, start=True
            ),
            lambda store, run: store.add_messages("ada", run.ended_as("completed", 1.0, text="a").history_messages()),
            lambda store, run: store.update_conversation("ada", {"title": "t"}),
            lambda store, run: store.create_conversation("ada", None, {}),
            lambda store, run: store.start_run("ada", run.id),
            lambda store, run: finished(store, replace(run, conversation="ada", id="run_1")),
        ],
    )
    def test_a_call_that_does_not_touch_leaves_the_entry_as_it_is(
        self, redis: RedisServer, store: RedisStore, clock: Clock, call: Callable[[RedisStore, Run], object]
    ) -> None:
        run = asked(store).run
        before = index(redis)
        clock.now += 1
        with suppress(AppError, AssertionError):
            call(store, run)
        assert index(redis) == before == {"ada": get(store).touched}

    @pytest.mark.parametrize(
        "call",
        [
            lambda store: store.touch("ada"),
            lambda store: store.clear_conversation("ada"),
            lambda store: store.add_messages("ada", ()),
            lambda store: asked(store),
            lambda store: store.publish_conversation("ada", 1.0, 999_999.5),
        ],
    )
    def test_a_call_that_touches_moves_the_entry(
        self, redis: RedisServer, store: RedisStore, clock: Clock, call: Callable[[RedisStore], object]
    ) -> None:
        store.create_conversation("ada", 3600.0, {})
        before = index(redis)
        clock.now += 0.1
        call(store)
        assert index(redis) == {"ada": get(store).touched} != before

    @pytest.mark.parametrize("refused", [ConversationBusy, NotLastTurn])
    def test_a_refused_first_question_leaves_no_entry(
        self, redis: RedisServer, store: RedisStore, refused: type[AppError]
    ) -> None:
        replaces = "run_1" if refused is NotLastTurn else None
        with pytest.raises(refused):
            store.create_run("ada", Run("why?", replaces=replaces), waiting=0, start=False)
        assert redis.all_keys() == []

    def test_workers_whose_clocks_differ_agree_on_the_order(
        self, redis: RedisServer, store: RedisStore, stored: Callable[..., RedisStore], clock: Clock
    ) -> None:
        slow = Clock()
        slow.now = clock.now - 5
        behind = stored(redis.url, slow)
        for name in ("ada", "eve"):
            asked(store, name=name)
        finished(behind, asked(behind, "more").run)
        assert (
            index(redis) == {"ada": clock.now, "eve": clock.now} == {n: get(store, n).touched for n in ("ada", "eve")}
        )

    @pytest.mark.parametrize("score", [1.0, 2_000_000.0])
    def test_a_time_that_an_ended_process_left_is_corrected_when_it_is_read(
        self, redis: RedisServer, store: RedisStore, clock: Clock, score: float
    ) -> None:
        for name in ("a", "b", "c"):
            store.create_conversation(name, None, {})
            clock.now += 1
        redis.ask("ZADD", "listed:", str(score), "b")
        assert names(store) in (["c", "a"], ["c", "b", "a"])
        assert names(store) == ["c", "b", "a"]

    def test_an_entry_without_a_listed_conversation_is_dropped_when_it_is_read(
        self, redis: RedisServer, store: RedisStore
    ) -> None:
        store.create_conversation("chat", None, {}, is_unlisted=True)
        redis.ask("ZADD", "listed:", "1", "nobody", "2", "chat")
        assert names(store) == []
        assert index(redis) == {}

    def test_an_expired_conversation_keeps_its_entry_until_it_is_swept(
        self, redis: RedisServer, store: RedisStore, clock: Clock
    ) -> None:
        store.create_conversation("ada", 10.0, {})
        clock.now += 11
        assert names(store) == []
        assert "ada" in index(redis)
        store.sweep()
        assert redis.all_keys() == []

    def test_pages_are_right_if_many_were_used_at_one_time(self, store: RedisStore) -> None:
        expected = sorted((f"{n} {'한' * (n % 3)}" for n in range(250)), reverse=True)
        for name in expected:
            store.create_conversation(name, None, {})
        assert names(store, most=1000) == expected
        for first in (0, 1, 99, 249):
            touched = get(store, expected[first]).touched
            assert names(store, (touched, expected[first]), 7) == expected[first + 1 : first + 8]
        assert names(store, (touched, "2~"), 1000) == [name for name in expected if name < "2~"]

    def test_a_conversation_of_an_earlier_version_is_listed_when_it_is_used_again(
        self, redis: RedisServer, store: RedisStore, clock: Clock
    ) -> None:
        for name, *seconds in (("ada",), ("eve",), ("session", "seconds", "60.0")):
            redis.ask("HSET", tag_of(name), "touched", str(clock.now), "created", "1.0", "model", "m", *seconds)
        assert names(store) == []
        clock.now += 1
        asked(store)
        store.update_conversation("eve", {"title": "t"})
        finished(store, asked(store, name="session").run, usage=USAGE)
        assert names(store) == ["ada", "eve"]
        assert usage(store) == [("", 1)]

    def test_it_agrees_after_many_calls_at_once(
        self, redis: RedisServer, store: RedisStore, stored: Callable[..., RedisStore]
    ) -> None:
        check_after_many_calls([redis], store, stored)

    def test_it_agrees_after_many_calls_at_once_on_a_cluster(self, stored: Callable[..., RedisStore]) -> None:
        nodes = shared_cluster()
        for node in nodes:
            node.ask("FLUSHALL")
        check_after_many_calls(nodes, stored(nodes[0].url, RandomClock()), stored)


class RandomClock(Clock):
    """No two times are the same, and none is later than another one for sure."""

    def __call__(self) -> float:
        return self.now + random.random()


def check_after_many_calls(servers: list[RedisServer], store: RedisStore, stored: Callable[..., RedisStore]) -> None:
    workers = [stored(servers[0].url, RandomClock()) for _ in range(3)]
    ended = []

    def use(n: int) -> None:
        worker, name = workers[n % 3], f"client {random.randrange(4)}"
        for call in random.sample(CALLS, len(CALLS)):
            with suppress(AppError):
                call(worker, name)
        with suppress(AppError):
            run = worker.create_run(name, Run(f"{n}"), waiting=1_000, start=True).run
            if worker.finish_run(name, run.ended_as("completed", 1_000_000.0, text="a", usage=Usage(1, 2, 3))):
                ended.append(run)

    with ThreadPoolExecutor(12) as threads:
        list(threads.map(use, range(120)))
    times = {
        name: conversation.touched for n in range(4) if (conversation := store.get_conversation(name := f"client {n}"))
    }
    found = {
        name: score for server in servers if "listed:" in server.all_keys() for name, score in index(server).items()
    }
    assert found == times
    assert sum(runs for _, runs in usage(store)) == len(ended)


CALLS: list[Callable[[RedisStore, str], object]] = [
    lambda store, name: store.list_conversations(None, 3),
    lambda store, name: store.touch(name),
    lambda store, name: store.update_conversation(name, {"title": "t"}),
    lambda store, name: store.create_run(name, Run("same"), waiting=1_000, start=True),
    lambda store, name: store.create_run(name, Run("refused"), waiting=0, start=False),
    lambda store, name: store.clear_conversation(name),
    lambda store, name: store.delete_conversation(name),
    lambda store, name: store.create_conversation(name, None, {}),
]


class TestUsage:
    def test_it_moves_to_the_unlisted_ones_if_the_conversation_is_deleted(
        self, redis: RedisServer, store: RedisStore
    ) -> None:
        complete(store, Run("one"))
        store.delete_conversation("ada")
        complete(store, Run("two"))
        store.delete_conversation("ada")
        assert usage(store) == [("", 2)]
        added = [key for key in redis.all_keys() if key.startswith("{unlisted}:usage:added:")]
        assert [key for key in redis.all_keys() if key not in added] == ["{unlisted}:usage"]
        assert all(0 < redis.ask("TTL", key) <= 3600 for key in added)

    def test_that_of_an_expired_conversation_is_listed_without_its_name(self, store: RedisStore, clock: Clock) -> None:
        store.create_conversation("ada", 10.0, {})
        complete(store, Run("one"))
        clock.now += 11
        assert usage(store) == [("", 1)]
        assert store.list_usage("ada", DAY, DAY) == []

    def test_a_process_that_ends_before_it_is_added_leaves_it_to_the_next_call(
        self, redis: RedisServer, store: RedisStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.create_conversation("chat", 60.0, {}, is_unlisted=True)
        with monkeypatch.context() as patched:
            patched.setattr(store._expiry, "add_usage", lambda *given: None)  # As if the process ended here.
            complete(store, Run("one"), "chat")
        assert usage(store) == []
        complete(store, Run("two"), "chat")
        assert usage(store) == [("", 2)]
        with monkeypatch.context() as patched:
            patched.setattr(store._expiry, "add_usage", lambda *given: None)
            complete(store, Run("three"), "chat")
        store.delete_conversation("chat")
        assert usage(store) == [("", 3)]

    def test_a_model_may_have_any_name(self, store: RedisStore) -> None:
        complete(store, Run("one"), model="a|b/한\n")
        complete(store, Run("two"), model=None)
        store.delete_conversation("ada")
        assert [each.model for each in store.list_usage(None, DAY, DAY)] == ["", "a|b/한\n"]

    @pytest.mark.parametrize("is_unlisted", [False, True])
    def test_a_full_memory_counts_it(self, stored: Callable[..., RedisStore], clock: Clock, is_unlisted: bool) -> None:
        with redis_server() as server:
            store = stored(server.url, clock)
            store.create_conversation("ada", 60.0, {}, is_unlisted=is_unlisted)
            runs = [asked(store, f"{n}").run for n in range(2)]
            clock.now += 1
            server.ask("CONFIG", "SET", "maxmemory", 1)
            for run in runs:
                finished(store, run, usage=USAGE)
            finished(store, runs[0], usage=USAGE)
            assert usage(store) == [("" if is_unlisted else "ada", 2)]
            store.delete_conversation("ada")
            assert usage(store) == [("", 2)]

    def test_that_of_many_clients_is_listed(self, store: RedisStore) -> None:
        for n in range(250):
            complete(store, Run("one"), f"client {n:03}")
        assert usage(store) == [(f"client {n:03}", 1) for n in range(250)]

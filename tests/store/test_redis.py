"""The Redis store: the shared store tests, and the failures that only a server can cause."""

import logging
import re
import signal
import subprocess
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from server.charges import Charge
from server.domain import Conversation, Message, Run, Step, ToolCall, Usage
from server.errors import BudgetExhausted, ConversationBusy, RequestIdConflict, StoreUnavailable
from server.store import open_store
from server.store.limits import RateLimit, RunLimits
from server.store.protocol import REQUEST_ID_SECONDS, CreatedRun, CreateOptions, Store
from server.store.redis import RedisStore, commands
from server.store.redis.caller import tag_of
from server.store.redis.client import CALL_SECONDS
from server.store.redis.limits import CREATION_SECONDS
from tests.store.contract import LEASE_SECONDS, MAX_RECORDS, SharedStoreTests, asked, contents, finished
from tests.support.clock import Clock
from tests.support.process import eventually, free_port
from tests.support.redis_server import LosingProxy, RedisServer, needs_redis, redis_server, shared_cluster, shared_redis

pytestmark = needs_redis


@pytest.fixture
def redis() -> RedisServer:
    server = shared_redis()
    server.ask("FLUSHALL")
    return server


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server of the test's own, which it may stop and configure; it persists every write."""
    with redis_server(appendonly="yes", appendfsync="always") as server:
        yield server


@pytest.fixture
def stored(clock: Clock) -> Iterator[Callable[[str], RedisStore]]:
    """A factory of stores, which are closed after the test."""
    stores = []

    def made(url: str) -> RedisStore:
        stores.append(RedisStore(url, LEASE_SECONDS, clock, max_records=MAX_RECORDS))
        return stores[-1]

    yield made
    for each in stores:
        each.close()


@pytest.fixture
def store(redis: RedisServer, stored: Callable[[str], Store]) -> Store:
    return stored(redis.url)


@pytest.fixture
def other(redis: RedisServer, stored: Callable[[str], Store]) -> Store:
    return stored(redis.url)


class TestRedisStore(SharedStoreTests):
    """On one server."""

    @pytest.mark.parametrize("call", ["begin", "start"])
    def test_a_worker_hears_that_its_turn_has_come_since_the_run_ahead_was_abandoned(
        self, store: Store, other: Store, redis: RedisServer, stored: Callable[[str], Store], clock: Clock, call: str
    ) -> None:
        asked(other, "ahead")
        waits, waits_longer = asked(store, "waits").run, asked(stored(redis.url), "waits longer").run
        clock.now += LEASE_SECONDS - 1
        store.renew_leases({waits.id: "ada"})
        store.renew_leases({waits_longer.id: "ada"})
        clock.now += 2
        assert list(store.listen([], 0.0)) == []
        third = stored(redis.url)
        if call == "begin":
            asked(third, "next")
        else:
            assert third.start_run("ada", waits_longer.id) is None
        assert list(store.listen([], 0.0)) == [waits.id]

    def test_to_begin_begins_the_time_anew_also_where_the_run_is_abandoned(
        self, store: Store, other: Store, clock: Clock
    ) -> None:
        store.create_conversation("ada", 100.0, {})
        clock.now += 90
        asked(other)
        clock.now += 90
        assert store.get_conversation("ada") is not None
        clock.now += 11
        assert store.get_conversation("ada") is None

    @pytest.mark.parametrize(
        "call",
        [
            lambda store, ended: store.get_conversation("ada"),
            lambda store, ended: store.list_messages("ada", 0, 10),
            lambda store, ended: store.list_runs("ada", None, 10),
            lambda store, ended: store.finish_run("ada", ended),
            lambda store, ended: store.start_run("ada", ended.id),
            lambda store, ended: store.append_text("ada", ended.id, 0, "be"),
            lambda store, ended: store.touch("ada"),
            lambda store, ended: store.clear_conversation("ada"),
            lambda store, ended: store.delete_conversation("ada"),
        ],
    )
    def test_no_call_finds_what_has_expired_and_was_not_swept(
        self, store: Store, clock: Clock, call: Callable[[Store, Run], object]
    ) -> None:
        store.create_conversation("ada", 10.0, {})
        ended = finished(store, asked(store).run)
        clock.now += 11
        assert not call(store, ended)


class AcrossNodes(RedisStore):
    """Listens a little longer, since a message takes a moment from one node to the others."""

    def listen(self, followed: Collection[str], seconds: float) -> Collection[str]:
        return super().listen(followed, max(seconds, 0.3))


class TestRedisClusterStore(SharedStoreTests):
    """On a cluster of three nodes."""

    @pytest.fixture
    def redis(self) -> RedisServer:
        for node in shared_cluster():
            node.ask("FLUSHALL")
        return shared_cluster()[0]

    @pytest.fixture
    def stored(self, clock: Clock) -> Iterator[Callable[[str], RedisStore]]:
        stores = []

        def made(url: str) -> RedisStore:
            stores.append(AcrossNodes(url, LEASE_SECONDS, clock, max_records=MAX_RECORDS))
            return stores[-1]

        yield made
        for each in stores:
            each.close()

    def test_conversations_spread_over_the_nodes_and_each_is_on_one(self, store: Store) -> None:
        for n in range(30):
            finished(store, asked(store, name=f"client {n}").run)
        tags = [{key.split("}")[0] for key in node.all_keys() if "}" in key} for node in shared_cluster()]
        assert all(tags)
        assert sum(map(len, tags)) == len(set().union(*tags)) == 30

    def test_deleting_leaves_nothing_on_any_node(self, store: Store) -> None:
        for n in range(30):
            store.create_conversation(f"client {n}", 10.0, {})
            finished(store, asked(store, name=f"client {n}", request_id="id").run)
            store.delete_conversation(f"client {n}")
        assert [node.all_keys() for node in shared_cluster()] == [[], [], []]


class TestKeys:
    def test_every_key_of_a_conversation_carries_its_hash_tag(self, redis: RedisServer, store: Store) -> None:
        run = asked(store, name="Ada {x}", request_id="{y}").run
        store.append_text("Ada {x}", run.id, 0, "be")
        finished(store, asked(store, "next", name="Ada {x}").run)
        tag = "{" + sha256(b"Ada {x}").hexdigest() + "}"
        elsewhere = [key for key in redis.all_keys() if not key.startswith(tag)]
        assert len(elsewhere) == 3
        assert elsewhere[0] == "listed:"
        assert all(re.fullmatch("run:run_[0-9a-f]{32}", key) for key in elsewhere[1:])

    def test_no_key_tells_the_name_of_a_client(self, redis: RedisServer, store: Store) -> None:
        store.create_conversation("Lovelace", 10.0, {})
        asked(store, name="Lovelace")
        assert "Lovelace" not in "".join(redis.all_keys()) + "".join(redis.ask("ZRANGE", "expiring", 0, -1))

    @pytest.mark.parametrize("abandons", [False, True])
    def test_deleting_leaves_nothing(
        self, redis: RedisServer, store: Store, other: Store, clock: Clock, abandons: bool
    ) -> None:
        store.create_conversation("ada", 1e9, {})
        store.update_conversation("ada", {"model": "m1", "title": "t", "response_format": {"type": "text"}})
        finished(store, asked(store, "done", request_id="1").run)
        finished(store, asked(store, "failed", request_id="2").run, "failed")
        asked(store, "failed", request_id="2")
        running, _ = asked(store, "running").run, asked(store, "queued").run
        store.append_text("ada", running.id, 0, "be")
        if abandons:
            clock.now += LEASE_SECONDS + 1
            asked(other, "next")
        other.delete_conversation("ada")
        assert redis.all_keys() == []

    def test_clearing_leaves_what_is_known_of_the_conversation(self, redis: RedisServer, store: Store) -> None:
        store.update_conversation("ada", {"model": "m1", "title": "t"})
        done = finished(store, asked(store, "done", request_id="1").run, usage=Usage(1, 2, 3))
        again = store.create_run("ada", Run("again", replaces=done.id), waiting=1, start=True).run
        finished(store, again, "completed")
        store.append_text("ada", asked(store, "running").run.id, 0, "be")
        store.clear_conversation("ada")
        tag = tag_of("ada")
        assert redis.all_keys() == sorted(["listed:", tag, f"{tag}:usage"])
        fields = {"touched", "created", "history_id", "listed", "model", "title"}
        assert set(redis.ask("HKEYS", tag)) == fields

    def test_sweeping_leaves_nothing_of_what_has_expired(self, redis: RedisServer, store: Store, clock: Clock) -> None:
        for n in range(150):
            store.create_conversation(f"client {n}", 10.0, {})
            finished(store, asked(store, name=f"client {n}", request_id="1").run)
        clock.now += 11
        assert store.sweep() is False
        assert redis.all_keys() == []

    def test_a_sweep_forgets_thousands_at_once(self, redis: RedisServer, store: RedisStore, clock: Clock) -> None:
        names = [f"client {n}" for n in range(5000)]
        fields = "", 60.0, b"{}", "1", "", SAID.fragment
        scripts, tags = store._scripts, {name: tag_of(name) for name in names}
        scripts.ask_all([("ZADD", "listed:", clock.now, name) for name in names])
        scripts.ask_all([scripts.command("create_conversation", tag, name, *fields) for name, tag in tags.items()])
        scripts.ask_all([("ZADD", "expiring", clock.now + 60.0, tag) for tag in tags.values()])
        clock.now += 61
        assert store.sweep(60.0) is False
        assert redis.all_keys() == []

    def test_a_sweep_passes_by_what_would_have_expired_if_its_run_were_not_open(
        self, redis: RedisServer, store: RedisStore, clock: Clock
    ) -> None:
        for n in range(120):
            store.create_conversation(f"client {n}", 10.0, {})
            asked(store, name=f"client {n}")
        clock.now += 5
        store.create_conversation("late", 1.0, {})
        clock.now += 6
        assert store.sweep(60.0) is False
        assert redis.ask("ZCARD", "expiring") == 120
        assert store.get_run(asked(store, name="client 7").run.id).is_open

    def test_a_reply_is_stored_once(self, redis: RedisServer, store: Store) -> None:
        finished(store, asked(store).run, text="word" * 250_000)
        assert sum(redis.ask("MEMORY", "USAGE", key) for key in redis.all_keys()) < 1_500_000

    def test_a_run_that_was_kept_with_its_text_has_it(self, redis: RedisServer, store: Store) -> None:
        runs = [finished(store, asked(store, str(n)).run) for n in range(3)]
        for run in runs:
            key = "{" + sha256(b"ada").hexdigest() + "}:run:" + run.id
            redis.ask("HSET", key, "run_json", run.dump().decode())
            redis.ask("HDEL", key, "reply_index", "reply_head")
        store.delete_message("ada", runs[0].reply_id)
        assert [store.get_run(run.id).text for run in runs] == ["re: 0", "re: 1", "re: 2"]

    @pytest.mark.parametrize("again", ["begin", "create", "set_model"])
    def test_a_conversation_in_the_place_of_an_expired_one_has_nothing_of_it(
        self, redis: RedisServer, store: Store, clock: Clock, again: str
    ) -> None:
        store.create_conversation("ada", 10.0, {})
        finished(store, asked(store, request_id="1").run)
        clock.now += 11
        if again == "begin":
            asked(store)
        elif again == "create":
            store.create_conversation("ada", 10.0, {})
        else:
            store.update_conversation("ada", {"model": "m1"})
        store.delete_conversation("ada")
        assert redis.all_keys() == []

    def test_what_expires_is_swept_after_its_run_has_ended(
        self, redis: RedisServer, store: Store, clock: Clock
    ) -> None:
        store.create_conversation("ada", 10.0, {})
        run = asked(store).run
        clock.now += 11
        store.sweep()
        finished(store, run)
        store.sweep()
        assert contents(store) == ["why?", "re: why?"]
        clock.now += 11
        store.sweep()
        assert redis.all_keys() == []

    def test_a_question_that_joins_or_is_refused_leaves_nothing(self, redis: RedisServer, store: Store) -> None:
        asked(store, request_id="1")
        before = redis.all_keys()
        asked(store, request_id="1")
        with pytest.raises(RequestIdConflict):
            asked(store, "what?", request_id="1")
        with pytest.raises(ConversationBusy):
            store.create_run("ada", Run("more"), waiting=0, start=True)
        assert redis.all_keys() == before

    def test_redis_forgets_a_request_id_by_itself_after_a_day(self, redis: RedisServer, store: Store) -> None:
        asked(store, request_id="1")
        (key,) = [key for key in redis.all_keys() if ":request:" in key]
        assert REQUEST_ID_SECONDS < redis.ask("TTL", key) <= REQUEST_ID_SECONDS + 60

    def test_asking_whether_it_is_healthy_leaves_nothing(self, redis: RedisServer, store: Store) -> None:
        store.ping()
        assert eventually(lambda: redis.all_keys() == [])


class TestLimitKeys:
    def test_redis_itself_deletes_what_limits_nobody_any_more(self, store: Store, redis: RedisServer) -> None:
        begin_limited(store)
        assert redis.ask("TTL", "rate:k") == 61
        assert redis.ask("TTL", "budget:k:1970-01-12") == 2 * 86_400

    def test_tokens_reserved_for_a_run_that_was_never_created_are_left_again(
        self, store: RedisStore, redis: RedisServer, clock: Clock
    ) -> None:
        limits = RunLimits(daily_tokens=100)
        store._redis.ask(*store._limits.begin(CHARGED, limits).commands)  # As if the process ended here.
        later = replace(BEHIND, charge=CHARGED.charge)
        clock.now += CREATION_SECONDS
        with pytest.raises(BudgetExhausted):
            store.create_run("eve", later, CreateOptions(limits=limits), waiting=1, start=True)
        clock.now += LEASE_SECONDS
        assert store.create_run("eve", later, CreateOptions(limits=limits), waiting=1, start=True).is_new


class TestRestart:
    def test_nothing_is_lost_and_the_next_call_is_answered(
        self, own_redis: RedisServer, stored: Callable[[str], Store]
    ) -> None:
        store = stored(own_redis.url)
        finished(store, asked(store, "1").run)
        run = asked(store, "2").run
        own_redis.stop(signal.SIGKILL)
        own_redis.start()
        assert store.append_text("ada", run.id, 0, "be")
        finished(store, run)
        assert asked(store, "3").conversation.message_count == 4

    def test_no_call_of_many_at_once_is_lost(self, own_redis: RedisServer, stored: Callable[[str], Store]) -> None:
        store = stored(own_redis.url)
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(lambda n: asked(store, name=f"client {n}"), range(64)))
            own_redis.stop()
            own_redis.start()
            assert all(threads.map(lambda n: asked(store, f"{n}").is_new, range(32)))

    def test_a_listener_is_told_of_all_that_it_follows_and_hears_again(
        self, own_redis: RedisServer, stored: Callable[[str], Store]
    ) -> None:
        store, other = stored(own_redis.url), stored(own_redis.url)
        mine, others = asked(store, name="eve").run, asked(other).run
        assert list(store.listen([others.id], 0.0)) == [others.id]
        assert list(store.listen([others.id], 0.0)) == []
        own_redis.stop()
        with pytest.raises(StoreUnavailable):
            store.listen([others.id], 10.0)
        own_redis.start()
        assert list(store.listen([others.id], 10.0)) == [others.id]
        other.append_text("ada", others.id, 0, "be")
        finished(other, mine, "cancelled")
        assert set(store.listen([others.id], 10.0)) == {mine.id, others.id}

    def test_a_listener_that_waits_while_the_connection_breaks_is_told(
        self, own_redis: RedisServer, stored: Callable[[str], Store]
    ) -> None:
        store, other = stored(own_redis.url), stored(own_redis.url)
        run = asked(other).run
        store.listen([run.id], 0.0)
        with ThreadPoolExecutor(1) as threads:
            heard = threads.submit(store.listen, [run.id], 20.0)
            own_redis.ask("CLIENT", "KILL", "TYPE", "pubsub")
            assert list(heard.result(10)) == [run.id]

    def test_a_script_that_redis_forgot_is_sent_again(self, redis: RedisServer, store: Store) -> None:
        asked(store, "1")
        redis.ask("SCRIPT", "FLUSH")
        assert asked(store, "2").run.status == "queued"
        redis.ask("SCRIPT", "FLUSH")
        assert store.get_conversation("ada") is not None

    def test_a_call_whose_answer_was_lost_can_be_made_again(
        self, own_redis: RedisServer, stored: Callable[[str], Store], clock: Clock
    ) -> None:
        # A server that hangs is sent something only by who has a connection, and goes on with scripts that it knows.
        begins, starts, appends, ends = [stored(own_redis.url) for _ in range(4)]
        asked(begins, name="elsewhere")
        begins.create_conversation("begins", None, {})
        draft = Run("begun", "id", created=clock.now)
        running, queued = asked(starts, name="starts").run, asked(starts, "behind", name="starts").run
        finished(starts, running)
        assert starts.start_run("nowhere", queued.id) is None
        appended, ended = asked(appends, name="appends").run, asked(ends, name="ends").run
        appends.append_text("appends", appended.id, 0, "be")
        calls: list[Callable[[], Any]] = [
            lambda: begins.create_run("begins", draft, waiting=0, start=True),
            lambda: starts.start_run("starts", queued.id),
            lambda: appends.append_text("appends", appended.id, 2, "cause"),
            lambda: finished(ends, ended),
        ]
        own_redis.send_signal(signal.SIGSTOP)  # What is sent to it now, it does when it goes on.
        with ThreadPoolExecutor(len(calls)) as threads:
            lost = [threads.submit(call) for call in calls]
            assert [type(each.exception(10)) for each in lost] == [StoreUnavailable] * len(calls)
        own_redis.send_signal(signal.SIGCONT)
        own_redis.ask("PING")
        reader = stored(own_redis.url)
        assert reader.get_run(draft.id).status == reader.get_run(queued.id).status == "running"
        assert reader.get_run(appended.id).text == "because"
        assert reader.get_run(ended.id).status == "completed"
        begun, started, is_appended, end = [call() for call in calls]
        assert (begun.run, begun.is_new) == (replace(draft, status="running", conversation="begins"), True)
        assert started == Conversation("starts", None, 2)
        assert is_appended
        assert reader.get_run(appended.id).text == "because"
        assert end == reader.get_run(ended.id)
        assert contents(reader, "ends") == ["why?", "re: why?"]
        assert starts.start_run("starts", queued.id) is None


RUN, BEHIND = Run("why?", "1", created=5.0, id="run_1"), Run("what?", created=5.0, id="run_2")
SAID = Message.of("user", "hello", None, 5.0, id="msg_1")
CALLS = Step((ToolCall("call_1", "look", "{}"),), 5.0)
PAUSED = replace(RUN, status="requires_action", text="be", conversation="ada", steps=(CALLS,), expires=1_000_600.0)
IMPORTED = RUN.ended_as("completed", 9.0, text="because", usage=Usage(1, 2, 3))
FAILED = BEHIND.ended_as("failed", 9.0, text="be")
CHARGED = replace(RUN, charge=Charge("k", "1970-01-12", 100, 10))
RESUMED = replace(PAUSED, status="queued", expires=None)


def begin(store: Store, *runs: Run) -> None:
    for run in runs:
        store.create_run("ada", run, waiting=32, start=True)


def begin_limited(store: Store) -> CreatedRun:
    limits = RunLimits(RateLimit("k", 2, 60.0), 1_000)
    return store.create_run("ada", CHARGED, CreateOptions(limits=limits), waiting=32, start=True)


def finish(store: Store, run: Run = RUN) -> Run | None:
    ended = run.ended_as("completed", 9.0, text="because", conversation="ada", model="m", usage=Usage(1, 2, 3))
    return store.finish_run("ada", ended, {"m": 2})


def replace_turn(store: Store) -> None:
    begin(store, RUN)
    finish(store)
    begin(store, replace(BEHIND, replaces=RUN.id))


def finish_replacement(store: Store) -> Run | None:
    return store.finish_run("ada", replace(BEHIND, replaces=RUN.id).ended_as("completed", 9.0, text="that"))


def expire(store: RedisStore) -> None:
    """Leave a conversation that has expired and was not swept."""
    store.create_conversation("ada", 10.0, {})
    begin(store, RUN)
    finish(store)
    store._clock.now += 11  # type: ignore[attr-defined]


def paused(store: Store) -> bool:
    begin(store, RUN)
    return store.pause_run("ada", PAUSED)


CHANGES: dict[str, tuple[Callable[[Store], object], Callable[[Store], object]]] = {
    # By script: how the store is prepared, and a call that runs the script.
    "create_conversation": (expire, lambda store: store.create_conversation("ada", 60.0, {"a": 1}, [SAID])),
    "touch": (lambda store: store.create_conversation("ada", 60.0, {}), lambda store: store.touch("ada")),
    "update_conversation": (expire, lambda store: store.update_conversation("ada", {"model": "m", "top_p": 0.5})),
    "import_history": (
        lambda store: store.create_conversation("ada", 60.0, {}, is_unlisted=True),
        lambda store: store.import_history("ada", IMPORTED.history_messages(), [IMPORTED, FAILED]),
    ),
    "publish_conversation": (
        lambda store: store.create_conversation("ada", 60.0, {}, [SAID], is_unlisted=True),
        lambda store: store.publish_conversation("ada", 5.0, 6.0),
    ),
    "create_run": (expire, lambda store: store.create_run("ada", RUN, CreateOptions([SAID]), waiting=1, start=True)),
    "start_run": (
        lambda store: (begin(store, RUN, BEHIND), finish(store)),
        lambda store: store.start_run("ada", BEHIND.id),
    ),
    "append_text": (lambda store: begin(store, RUN), lambda store: store.append_text("ada", RUN.id, 0, "be")),
    "finish_run": (lambda store: begin(store, RUN, BEHIND), finish),
    "add_usage": (
        lambda store: (store.create_conversation("ada", 60.0, {}, is_unlisted=True), begin(store, RUN, BEHIND)),
        finish,
    ),
    "move_entry": (replace_turn, finish_replacement),
    "pause_run": (lambda store: begin(store, RUN), lambda store: store.pause_run("ada", PAUSED)),
    "resume_run": (paused, lambda store: store.resume_run("ada", RESUMED)),
    "set_run_details": (lambda store: begin(store, RUN), lambda store: store.set_run_details("ada", RUN.id, {"a": 1})),
    "mark_delivered": (
        lambda store: (begin(store, RUN), finish(store)),
        lambda store: store.mark_delivered("ada", RUN.id),
    ),
    "add_messages": (
        lambda store: store.create_conversation("ada", None, {}),
        lambda store: store.add_messages("ada", [SAID]),
    ),
    "set_message_metadata": (
        lambda store: store.create_conversation("ada", None, {}, [SAID]),
        lambda store: store.set_message_metadata("ada", SAID.id, {"a": 1}),
    ),
    "delete_message": (
        lambda store: store.create_conversation("ada", None, {}, [SAID]),
        lambda store: store.delete_message("ada", SAID.id),
    ),
    "clear_conversation": (
        lambda store: (store.create_conversation("ada", 60.0, {}), begin(store, RUN, BEHIND)),
        lambda store: store.clear_conversation("ada"),
    ),
    "delete_conversation": (
        lambda store: (begin(store, RUN, BEHIND), finish(store)),
        lambda store: store.delete_conversation("ada"),
    ),
    "empty_outbox": (lambda store: begin(store, RUN, BEHIND), lambda store: store.delete_conversation("ada")),
    "unschedule_expiry": (lambda store: begin(store, RUN, BEHIND), lambda store: store.clear_conversation("ada")),
    "expire_conversation": (expire, lambda store: store.sweep()),
    "schedule_expiry": (
        lambda store: store.create_conversation("ada", 60.0, {}),
        lambda store: store.clear_conversation("ada"),
    ),
    "renew_leases": (
        lambda store: begin(store, RUN),
        lambda store: store.renew_leases({RUN.id: "ada", "run_9": "ada"}),
    ),
    "take_rate": (expire, lambda store: begin_limited(store).rate),
    "reserve_tokens": (expire, lambda store: begin_limited(store).run),
    "settle_tokens": (begin_limited, lambda store: finish(store, CHARGED)),
    "put_record": (lambda store: None, lambda store: store.put_record("key", "1", b"{}")),
    "delete_record": (lambda store: store.put_record("key", "1", b"{}"), lambda store: store.delete_record("key", "1")),
}


class LostAnswerTests:
    """`store` reaches `servers` through `proxies`."""

    @pytest.fixture(autouse=True)
    def wait_longer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An answer is lost only if the connection closes, not because the machine is busy."""
        monkeypatch.setattr("server.store.redis.client.CALL_SECONDS", 10.0)

    def outcome(self, store: Store, servers: Sequence[RedisServer], call: Callable[[Store], object]) -> object:
        """The call's answer and the state of the store after it."""
        answer = call(store)
        runs = [replace(run, ended=None) for run in store.list_runs("ada", None, 9)]
        keys = {key for each in servers for key in each.all_keys()}
        keys = {key for key in keys if not re.search("^ping:|:added:", key)}
        sets = [
            [each.ask("ZRANGE", key, 0, -1, "WITHSCORES") for each in servers if key in each.all_keys()]
            for key in ("expiring", "listed:")
        ]
        messages = [(each.fragment, each.run_id, each.metadata) for each in store.list_messages("ada", 0, 9)]
        conversation = store.get_conversation("ada")
        told = conversation and (conversation, conversation.excerpt, conversation.touched)
        usage = store.list_usage(None, "", "9")
        budgets = [
            each.ask("HVALS", key) for each in servers for key in keys & set(each.all_keys()) if "budget:" in key
        ]
        return answer, told, messages, runs, store.list_records("key"), keys, sets, usage, budgets

    def test_every_script_that_changes_something_is_asked(self) -> None:
        changing = {name for name, text in commands._sources.items() if not text.startswith("#!lua flags=no-writes")}
        assert changing == CHANGES.keys()

    @pytest.mark.parametrize("name", CHANGES)
    def test_a_call_of_which_any_answer_is_lost_does_what_it_does_without_a_loss(
        self, store: Store, servers: Sequence[RedisServer], proxies: Sequence[LosingProxy], clock: Clock, name: str
    ) -> None:
        before, call = CHANGES[name]
        start, outcomes = clock.now, []
        losses: list[tuple[LosingProxy, int] | None] = [None]
        for loss in losses:
            for each in servers:
                each.ask("FLUSHALL")
                for text in commands._sources.values():
                    each.ask("SCRIPT", "LOAD", text)
            clock.now = start
            before(store)
            clock.now += 1
            for proxy in proxies:
                proxy.count(*([loss[1]] if loss is not None and loss[0] is proxy else []))
            outcomes.append(self.outcome(store, servers, lambda store: self.counted(store, proxies, call)))
            if loss is None:
                losses += [(proxy, n) for proxy in proxies for n in range(proxy.requests)]
        assert len(outcomes) > 1
        assert all(outcome == outcomes[0] for outcome in outcomes)

    def counted(self, store: Store, proxies: Sequence[LosingProxy], call: Callable[[Store], object]) -> object:
        try:
            return call(store)
        finally:
            for proxy in proxies:
                proxy.stop_counting()

    @pytest.mark.parametrize("forget", [RedisStore.clear_conversation, RedisStore.delete_conversation])
    def test_a_call_that_failed_gives_the_open_runs_when_it_is_made_again(
        self, store: RedisStore, servers: Sequence[RedisServer], proxies: Sequence[LosingProxy], forget: Any
    ) -> None:
        begin(store, RUN, BEHIND)
        store.get_conversation("ada")
        for proxy in proxies:
            proxy.count(*range(1 if len(proxies) > 1 else 0, 100))
        with pytest.raises(StoreUnavailable):
            forget(store, "ada")
        for proxy in proxies:
            proxy.stop_counting()
        assert list(forget(store, "ada")) == [RUN.id, BEHIND.id]
        store.delete_conversation("ada")
        assert [each.all_keys() for each in servers] == [[]] * len(servers)

    def test_what_a_failed_deletion_left_is_swept(
        self,
        store: RedisStore,
        servers: Sequence[RedisServer],
        proxies: Sequence[LosingProxy],
        clock: Clock,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        begin(store, RUN, BEHIND)
        with monkeypatch.context() as patched:
            patched.setattr(store._expiry, "_complete", lambda *given: [])  # As if the process ended here.
            store.delete_conversation("ada")
        assert any(each.all_keys() for each in servers)
        clock.now += 1
        store.sweep()
        assert [each.all_keys() for each in servers] == [[]] * len(servers)


class TestLostAnswers(LostAnswerTests):
    @pytest.fixture
    def servers(self, redis: RedisServer) -> Sequence[RedisServer]:
        return [redis]

    @pytest.fixture
    def proxies(self, redis: RedisServer) -> Iterator[Sequence[LosingProxy]]:
        proxy = LosingProxy(redis.port)
        yield [proxy]
        proxy.close()

    @pytest.fixture
    def store(self, proxies: Sequence[LosingProxy], stored: Callable[[str], Store]) -> Store:
        return stored(f"redis://127.0.0.1:{proxies[0].port}")


@pytest.fixture(scope="module")
def proxied_cluster() -> Iterator[Sequence[LosingProxy]]:
    """Each node announces its proxy's port."""
    nodes = shared_cluster()
    proxies = [LosingProxy(node.port) for node in nodes]
    announced_by_all(nodes, [proxy.port for proxy in proxies], [proxy.port for proxy in proxies])
    yield proxies
    announced_by_all(nodes, [0, 0, 0], [node.port for node in nodes])
    for proxy in proxies:
        proxy.close()


class TestLostAnswersOfACluster(LostAnswerTests):
    @pytest.fixture
    def servers(self) -> Sequence[RedisServer]:
        for node in shared_cluster():
            node.ask("FLUSHALL")
        return shared_cluster()

    @pytest.fixture
    def proxies(self, proxied_cluster: Sequence[LosingProxy]) -> Sequence[LosingProxy]:
        return proxied_cluster

    @pytest.fixture
    def store(self, proxies: Sequence[LosingProxy], stored: Callable[[str], Store]) -> Store:
        return stored(f"redis://127.0.0.1:{proxies[0].port}")


def announced_by_all(nodes: Sequence[RedisServer], announced: Sequence[int], told: Sequence[int]) -> None:
    for node, port in zip(nodes, announced, strict=True):
        node.ask("CONFIG", "SET", "cluster-announce-port", port)
    assert eventually(lambda: all(known_ports(node) == set(told) for node in nodes))


def known_ports(node: RedisServer) -> set[int]:
    addresses = [line.split()[1].partition("@")[0] for line in node.ask("CLUSTER", "NODES").splitlines()]
    return {int(each.rpartition(":")[2]) for each in addresses}


class TestFailure:
    """Every failure raises StoreUnavailable; the log tells the operator what to do."""

    def test_a_redis_that_is_not_there_is_no_obstacle_to_the_start(self, stored: Callable[[str], Store]) -> None:
        store = stored("redis://127.0.0.1:1")
        with pytest.raises(StoreUnavailable):
            store.ping()

    def test_a_redis_that_hangs_is_not_waited_for(
        self, own_redis: RedisServer, stored: Callable[[str], Store], caplog: pytest.LogCaptureFixture
    ) -> None:
        assert 2 * CALL_SECONDS < 2
        store = stored(own_redis.url)
        store.listen([], 0.0)
        own_redis.send_signal(signal.SIGSTOP)
        with ThreadPoolExecutor(100) as threads:
            calls = [threads.submit(store.get_conversation, "ada") for _ in range(98)]
            calls += [threads.submit(store.ping), threads.submit(store.listen, [], 60.0)]
            assert {type(each.exception(30)) for each in calls} == {StoreUnavailable}
        assert "does not answer in time" in caplog.text
        own_redis.send_signal(signal.SIGCONT)
        store.ping()

    def test_many_calls_at_once_wait_for_their_turn(self, store: Store) -> None:
        with ThreadPoolExecutor(300) as threads:
            assert all(threads.map(lambda n: asked(store, name=f"client {n}").is_new, range(300)))

    def test_the_same_failure_is_logged_once_for_a_while(
        self, stored: Callable[[str], Store], caplog: pytest.LogCaptureFixture
    ) -> None:
        store = stored("redis://127.0.0.1:1")
        for _ in range(5):
            with pytest.raises(StoreUnavailable):
                store.ping()
        assert len(caplog.records) == 1

    def test_a_full_memory_takes_no_question_and_keeps_every_reply(
        self, own_redis: RedisServer, stored: Callable[[str], Store], caplog: pytest.LogCaptureFixture
    ) -> None:
        store = stored(own_redis.url)
        run = asked(store).run
        own_redis.ask("CONFIG", "SET", "maxmemory", 1)
        for call in (
            store.ping,
            lambda: asked(store, "more"),
            lambda: store.update_conversation("ada", {"model": "m1"}),
        ):
            with pytest.raises(StoreUnavailable):
                call()
        assert "raise its maxmemory" in caplog.text
        assert store.append_text("ada", run.id, 0, "be")
        finished(store, run)
        assert contents(store) == ["why?", "re: why?"]
        assert list(store.list_runs("ada", None, 10)) == [store.get_run(run.id)]
        store.delete_conversation("ada")
        assert own_redis.all_keys() == []

    def test_a_replica_that_takes_no_writes_is_not_healthy(
        self, own_redis: RedisServer, stored: Callable[[str], Store], caplog: pytest.LogCaptureFixture
    ) -> None:
        store = stored(own_redis.url)
        asked(store)
        own_redis.ask("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(StoreUnavailable):
            store.ping()
        assert "let STORE_URL name the primary" in caplog.text
        assert store.get_conversation("ada") is not None
        own_redis.ask("REPLICAOF", "NO", "ONE")
        store.ping()

    def test_a_redis_that_cannot_write_to_its_disk_is_not_healthy(
        self, stored: Callable[[str], Store], caplog: pytest.LogCaptureFixture
    ) -> None:
        with redis_server(save="3600 1") as server:
            store = stored(server.url)
            store.ping()
            (Path(server.folder.name) / "dump.rdb").mkdir()  # In the way of the file that is to have this name.
            server.ask("BGSAVE")
            assert eventually(lambda: server.ask("INFO", "persistence")["rdb_last_bgsave_status"] == "err")
            with pytest.raises(StoreUnavailable):
                store.ping()
            with pytest.raises(StoreUnavailable):
                asked(store)
        assert "see its log, and make room there" in caplog.text

    def test_a_password_is_sent_and_told_nobody(
        self, stored: Callable[[str], Store], caplog: pytest.LogCaptureFixture
    ) -> None:
        with redis_server(requirepass="s3cr/t") as server:
            address = f"127.0.0.1:{server.port}"
            stored(f"redis://:s3cr%2Ft@{address}").ping()
            stored(f"redis://default:s3cr%2Ft@{address}/3").ping()
            for url in (f"redis://{address}", f"redis://:wr0ng@{address}"):
                with pytest.raises(StoreUnavailable) as told:
                    stored(url).ping()
                assert address not in str(told.value)
        assert "check user and password in STORE_URL" in caplog.text
        assert "wr0ng" not in caplog.text

    def test_tls_is_spoken_where_the_address_says_so(self, tmp_path: Path, stored: Callable[[str], Store]) -> None:
        key, certificate = tmp_path / "key", tmp_path / "certificate"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
                *("-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate),
            ],
            check=True,
            capture_output=True,
        )
        tls = {"tls_cert_file": str(certificate), "tls_key_file": str(key), "tls_auth_clients": "no"}
        with redis_server(tls_port=str(free_port()), **tls) as server:
            address = f"rediss://127.0.0.1:{server.options['tls_port']}"
            with pytest.raises(StoreUnavailable):
                stored(address).ping()  # Nobody whom it trusts has signed this certificate.
            store = stored(f"{address}?ssl_ca_certs={certificate}")
            assert asked(store).is_new
            assert list(store.listen([], 0.0)) == []

    @pytest.mark.parametrize(
        "url",
        [
            "redis://:secret@host:port",
            "redis://:secret@host:99999",
            "redis://:sec/ret@host:6379",
            "redis://:secret@host:6379?socket_timeout=secret",
            "redis://:secret@host:6379?secret=1",
            "redis://[secret",
            "redis://:secret@host/database",
            "redis://:secret@host/-1",
            "redis://:secret@host/0/1",
            "redis://:secret@host:0",
            "redis://:secret@ho st",
            "redis://:secret@host#1",
            "redis://:secret@host?decode_responses=1",
        ],
    )
    def test_an_address_that_cannot_be_read_stops_the_start_and_is_not_told(self, url: str) -> None:
        with pytest.raises(ValueError, match=r"^STORE_URL: ") as told:
            open_store(url, max_conversations=1, max_records=1, lease_seconds=LEASE_SECONDS)
        assert "sec" not in str(told.value)
        assert told.value.__cause__ is None
        assert told.value.__suppress_context__


class TestWarnings:
    def warned(self, store: Store, caplog: pytest.LogCaptureFixture) -> list[str]:
        store.ping()
        asked(store)
        store.ping()
        return [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]

    def test_a_redis_that_drops_what_it_should_keep_is_told_of_once(
        self, own_redis: RedisServer, stored: Callable[[str], Store], caplog: pytest.LogCaptureFixture
    ) -> None:
        own_redis.ask("CONFIG", "SET", "maxmemory", "100mb", "maxmemory-policy", "allkeys-lru")
        (told,) = self.warned(stored(own_redis.url), caplog)
        assert "maxmemory-policy to noeviction" in told

    def test_a_redis_that_keeps_nothing_on_its_disk_is_told_of_once(
        self, redis: RedisServer, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        (told,) = self.warned(store, caplog)
        assert "set appendonly to yes" in told

    def test_nothing_is_said_of_one_that_is_as_it_should_be_or_does_not_tell(
        self, own_redis: RedisServer, stored: Callable[[str], Store], caplog: pytest.LogCaptureFixture
    ) -> None:
        assert self.warned(stored(own_redis.url), caplog) == []
        own_redis.ask("CONFIG", "SET", "appendonly", "no")
        own_redis.ask("ACL", "SETUSER", "reserved", "on", ">x", "allkeys", "allchannels", "+@all", "-config")
        assert self.warned(stored(f"redis://reserved:x@127.0.0.1:{own_redis.port}"), caplog) == []

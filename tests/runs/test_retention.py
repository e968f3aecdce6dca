"""Conversations that nobody uses are deleted after RETENTION_DAYS."""

import pytest

from server.domain import Run
from server.runs.config import RunConfig
from server.runs.runner import Runner
from server.store.memory import MemoryStore
from tests.support.clock import Clock
from tests.support.replies import ScriptedReplies, SteeredUpstream

DAY = 86_400.0


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(1000, clock)


def make_runner(store: MemoryStore, upstream: SteeredUpstream, clock: Clock, days: float | None) -> Runner:
    runner = Runner(store, upstream, RunConfig(retention_days=days, run_timeout_seconds=10 * DAY), clock)
    runner.ticker.stop()  # The tests tick.
    return runner


def listed(store: MemoryStore) -> set[str]:
    return {each.conversation.name for each in store.list_conversations(None, 1000)}


def test_what_was_not_used_for_so_long_is_deleted_and_nothing_else(
    store: MemoryStore, upstream: SteeredUpstream, clock: Clock
) -> None:
    runner = make_runner(store, upstream, clock, 2)
    for number in range(50):
        store.create_conversation(f"old {number}", None, {})
    clock.now += DAY
    store.create_conversation("young", None, {})
    clock.now += DAY + 1
    for _ in range(4):
        clock.now += 1
        runner.ticker.tick()
    assert listed(store) == {"young"}


def test_an_open_run_is_a_use(replies: ScriptedReplies, store: MemoryStore, clock: Clock) -> None:
    silent = ScriptedReplies("slow")
    runner = make_runner(store, SteeredUpstream(silent), clock, 2)
    run = runner.create(Run("slow", conversation="ada"))
    silent.await_call("slow")
    clock.now += 3 * DAY
    runner.ticker.tick()
    assert listed(store) == {"ada"}
    silent.end("slow", "at last")
    assert runner.wait(run.id, 10, lambda: True).status == "completed"
    clock.now += 1
    runner.ticker.tick()
    assert listed(store) == {"ada"}
    clock.now += 2 * DAY + 60
    runner.ticker.tick()
    assert listed(store) == set()
    runner.shut_down(0)


def test_without_the_setting_nothing_is_deleted(store: MemoryStore, upstream: SteeredUpstream, clock: Clock) -> None:
    runner = make_runner(store, upstream, clock, None)
    store.create_conversation("old", None, {})
    clock.now += 1000 * DAY
    runner.ticker.tick()
    assert listed(store) == {"old"}

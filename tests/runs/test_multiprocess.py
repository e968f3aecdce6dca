"""Two processes over one store keep every rule of runs. Each is a Runner with its own store object."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server import errors
from server.core import Core
from server.domain import Run
from server.runs.config import RunConfig
from server.runs.events import TextDelta
from server.runs.runner import Runner
from server.store.protocol import Store
from server.store.redis import RedisStore
from server.store.sqlite import SqliteStore
from tests.support.clock import Clock
from tests.support.process import eventually
from tests.support.redis_server import needs_redis, shared_redis
from tests.support.replies import PATIENCE_SECONDS, ScriptedReplies, SteeredUpstream

AtOnce = Callable[..., Any]


@pytest.fixture
def replies() -> ScriptedReplies:
    return ScriptedReplies("slow", "slower")


class Process:
    """The parts of one worker process. All processes share the upstream."""

    def __init__(self, store: Store, upstream: SteeredUpstream, clock: Clock) -> None:
        self.store = store
        self.runner = Runner(self.store, upstream, RunConfig(), clock)
        self.core = Core(self.store, upstream, self.runner)

    def create_run(self, question: str, request_id: str | None = None) -> Run:
        return self.runner.create(Run(question, request_id, conversation="ada"))

    def await_end(self, run: Run) -> Run:
        return self.runner.wait(run.id, PATIENCE_SECONDS, lambda: True)

    def contents(self) -> list[str]:
        return [each.content for each in self.store.list_messages("ada", 0, 1_000_000)]

    def fall_asleep(self) -> None:
        """Stop renewing leases, as a suspended machine does."""
        ticker = self.runner.ticker
        ticker.stop()
        assert ticker._thread is not None
        ticker._thread.join(PATIENCE_SECONDS)

    def die(self, clock: Clock) -> None:
        """Act as after `kill -9`: nothing is saved, the locks are gone, and leases are not renewed."""
        self.runner.ticker.stop()
        self.runner._local._dispatcher.stop()
        self.store.close()
        clock.now += 31


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=needs_redis)])
def processes(
    request: pytest.FixtureRequest, tmp_path: Path, upstream: SteeredUpstream, clock: Clock
) -> Iterator[tuple[Process, Process]]:
    def store() -> Store:
        if request.param == "sqlite":
            return SqliteStore(str(tmp_path / "kept.db"), 30.0, clock)
        return RedisStore(shared_redis().url, 30.0, clock)

    if request.param == "redis":
        shared_redis().ask("FLUSHALL")
    pair = Process(store(), upstream, clock), Process(store(), upstream, clock)
    yield pair
    for each in pair:
        each.runner.shut_down(0)
        each.store.close()


@pytest.fixture
def here(processes: tuple[Process, Process]) -> Process:
    return processes[0]


@pytest.fixture
def there(processes: tuple[Process, Process]) -> Process:
    return processes[1]


def test_runs_of_one_conversation_are_written_in_order_of_arrival_whoever_writes_them(
    here: Process, there: Process, replies: ScriptedReplies
) -> None:
    runs = [here.create_run("slow")]
    replies.await_call("slow")
    runs += [(there, here)[n % 2].create_run(f"q{n}") for n in range(6)]
    replies.end("slow", "ok")
    assert [here.await_end(run).status for run in runs] == ["completed"] * 7
    assert replies.calls == ["slow", *(f"q{n}" for n in range(6))]
    assert there.contents()[::2] == replies.calls


def test_a_question_asked_in_both_is_asked_upstream_once(
    here: Process, there: Process, replies: ScriptedReplies, at_once: AtOnce
) -> None:
    first, second = here.create_run("slow"), there.create_run("slow")
    assert first.id == second.id
    answer = at_once(there.await_end, second)
    replies.end("slow", "ok")
    assert answer.result().text == "ok"
    assert replies.calls == ["slow"]


def test_a_reply_delivered_in_another_process_is_not_given_to_the_next_who_asks(
    here: Process, there: Process, replies: ScriptedReplies, at_once: AtOnce
) -> None:
    run = here.create_run("slow")
    replies.await_call("slow")
    answer = at_once(there.await_end, there.create_run("slow"))
    replies.end("slow", "ok")
    assert answer.result().id == run.id
    assert here.create_run("slow").id != run.id


def test_a_request_id_gets_the_saved_reply_in_another_process(
    here: Process, there: Process, replies: ScriptedReplies
) -> None:
    run = here.await_end(here.create_run("why?", "id"))
    assert there.create_run("why?", "id") == here.store.get_run(run.id)
    with pytest.raises(errors.RequestIdConflict):
        there.create_run("what?", "id")
    assert replies.calls == ["why?"]


def test_a_run_is_cancelled_from_another_process_with_what_the_store_was_told(
    here: Process, there: Process, replies: ScriptedReplies, upstream: SteeredUpstream, at_once: AtOnce
) -> None:
    run = here.create_run("slow")
    events = here.runner.read(run.id, 0, lambda: True)
    replies.say("slow", "be")
    assert next(events) == TextDelta("be", 2)
    here.runner.ticker.tick()
    cancelled = there.core.replies.cancel(run.id)
    assert (cancelled.status, cancelled.text) == ("cancelled", "be")
    replies.say("slow", "cause")  # The cut is seen with the next piece, as in a real connection.
    assert here.await_end(run).status == "cancelled"
    assert next(item for item in events if isinstance(item, Run)) == cancelled
    assert there.contents() == ["slow", "be"]


def test_a_stream_is_read_in_another_process_from_any_offset(
    here: Process, there: Process, replies: ScriptedReplies
) -> None:
    run = here.create_run("slow")
    readings = [there.core.replies.read(run.id, position, lambda: True) for position in (0, 1)]
    replies.say("slow", "왜 be")
    assert [next(events) for events in readings] == [TextDelta("왜 be", 4), TextDelta(" be", 4)]
    replies.end("slow", "cause")
    for events in readings:
        assert next(events) == TextDelta("cause", 9)
        ended = next(events)
        assert isinstance(ended, Run)
        assert (ended.status, ended.text) == ("completed", "왜 because")


def test_a_stream_whose_worker_dies_ends_with_what_was_told_and_an_interruption(
    here: Process, there: Process, replies: ScriptedReplies, clock: Clock
) -> None:
    run = here.create_run("slow")
    events = there.core.replies.read(run.id, 0, lambda: True)
    replies.say("slow", "be")
    assert next(events) == TextDelta("be", 2)
    here.die(clock)
    ended = next(events)
    assert isinstance(ended, Run)
    assert (ended.status, ended.text) == ("interrupted", "be")


def test_a_run_queued_behind_a_worker_that_dies_has_its_turn(
    here: Process, there: Process, replies: ScriptedReplies, clock: Clock
) -> None:
    lost = here.create_run("slow")
    replies.await_call("slow")
    queued = there.create_run("next")
    here.die(clock)
    assert there.await_end(queued).text == "re: next"
    assert there.store.get_run(lost.id).status == "interrupted"
    assert there.contents() == ["next", "re: next"]


def test_clearing_in_one_process_cancels_what_the_other_writes(
    here: Process, there: Process, replies: ScriptedReplies, at_once: AtOnce
) -> None:
    run, queued = here.create_run("slow"), here.create_run("next")
    replies.await_call("slow")
    waiting = at_once(here.await_end, run)
    there.core.conversations.clear("ada")
    assert waiting.result().status == "cancelled"
    replies.end("slow", "too late")
    assert here.await_end(here.create_run("after")).text == "re: after"
    assert here.contents() == ["after", "re: after"]
    assert replies.calls == ["slow", "after"]
    with pytest.raises(errors.NotFound):
        there.store.get_run(queued.id)


def test_deleting_in_one_process_cancels_what_the_other_writes_and_leaves_nothing(
    here: Process, there: Process, replies: ScriptedReplies, at_once: AtOnce
) -> None:
    run = here.create_run("slow")
    replies.await_call("slow")
    waiting = at_once(here.await_end, run)
    there.core.conversations.delete("ada")
    assert waiting.result().status == "cancelled"
    assert here.store.get_conversation("ada") is None


def test_a_worker_that_renews_its_lease_is_not_given_up(
    here: Process, there: Process, replies: ScriptedReplies, clock: Clock
) -> None:
    run = here.create_run("slow")
    replies.await_call("slow")
    for _ in range(10):
        clock.now += 11
        here.runner.ticker.tick()
    assert there.store.get_run(run.id).is_open
    replies.end("slow", "at last")
    assert there.await_end(run).text == "at last"


def test_a_worker_that_was_given_up_while_it_slept_does_not_write_over_what_came_after(
    here: Process, there: Process, replies: ScriptedReplies, clock: Clock
) -> None:
    run = here.create_run("slow")
    replies.await_call("slow")
    here.fall_asleep()
    clock.now += 31
    after = there.create_run("after")
    assert there.await_end(after).text == "re: after"
    replies.end("slow", "too late")
    assert here.await_end(run).status == "interrupted"
    assert here.contents() == ["after", "re: after"]


class TestRetrying:
    def test_a_failed_question_is_asked_again_once(
        self, here: Process, there: Process, replies: ScriptedReplies
    ) -> None:
        run = here.create_run("slow")
        replies.fail("slow", errors.UpstreamTimedOut())
        assert here.await_end(run).status == "failed"
        assert [each.id for each in there.core.replies.list("ada", "failed", 9)] == [run.id]
        retried = there.core.replies.retry(run.id)
        replies.end("slow", "now")
        assert there.await_end(retried).text == "now"
        assert here.core.replies.retry(run.id).id == retried.id
        assert replies.calls == ["slow", "slow"]
        assert here.contents() == ["slow", "now"]
        assert here.store.get_run(run.id).status == "failed"

    def test_an_interrupted_question_is_asked_again(
        self, here: Process, there: Process, replies: ScriptedReplies, upstream: SteeredUpstream
    ) -> None:
        run = here.create_run("slow", "id")
        replies.await_call("slow")
        here.runner.shut_down(0)
        replies.say("slow", "cut")  # The cut is seen with the next piece, as in a real connection.
        assert eventually(lambda: not upstream.open_now)
        assert there.store.get_run(run.id).status == "interrupted"
        retried = there.core.replies.retry(run.id)
        replies.end("slow", "now")
        assert there.await_end(retried).text == "now"
        assert there.create_run("slow", "id").id == retried.id
        assert there.contents() == ["slow", "now"]

    def test_a_retry_that_failed_is_retried(self, here: Process, replies: ScriptedReplies) -> None:
        run = retried = here.create_run("slow")
        for _ in range(2):
            replies.fail("slow", errors.UpstreamTimedOut())
            assert here.await_end(retried).status == "failed"
            retried = here.core.replies.retry(run.id)
        replies.end("slow", "now")
        assert here.await_end(retried).text == "now"
        assert replies.calls == ["slow"] * 3

    def test_a_completed_a_cancelled_and_an_open_run_are_not(self, here: Process, replies: ScriptedReplies) -> None:
        completed = here.await_end(here.create_run("why?"))
        running = here.create_run("slow")
        cancelled = here.core.replies.cancel(here.create_run("next").id)
        for run in (completed, running, cancelled):
            with pytest.raises(errors.NotRetryable):
                here.core.replies.retry(run.id)

    def test_an_unknown_run_is_not_found(self, here: Process) -> None:
        with pytest.raises(errors.NotFound):
            here.core.replies.retry("run_nobody")


def test_a_process_that_stops_lets_nobody_wait_for_a_run_of_another(
    here: Process, there: Process, replies: ScriptedReplies, at_once: AtOnce
) -> None:
    run = here.create_run("slow")
    replies.await_call("slow")
    waiting = at_once(there.await_end, run)
    events = at_once(next, there.runner.read(run.id, 0, lambda: True))
    assert eventually(lambda: there.runner._remote.ids())
    there.runner.shut_down(0)
    for each in (waiting, events):
        with pytest.raises(errors.StoreUnavailable):
            each.result(PATIENCE_SECONDS)
    replies.end("slow", "ok")
    assert here.await_end(run).text == "ok"


def test_a_process_that_stops_still_gives_those_who_wait_the_reply_of_another(
    here: Process, there: Process, replies: ScriptedReplies, at_once: AtOnce
) -> None:
    run = here.create_run("slow")
    replies.await_call("slow")
    waiting = at_once(there.await_end, run)
    assert eventually(lambda: there.runner._remote.ids())
    stopped = at_once(there.runner.shut_down, PATIENCE_SECONDS)
    assert eventually(lambda: there.runner.is_closing)
    replies.end("slow", "ok")
    assert waiting.result(PATIENCE_SECONDS).text == "ok"
    stopped.result(PATIENCE_SECONDS)

"""Store outages during runs: no caller hangs, and a paid reply is neither lost nor paid again."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from server import errors
from server.domain import Run, RunOptions, ToolCall
from server.runs.config import RunConfig
from server.runs.events import TextDelta
from server.runs.runner import Runner
from server.store.memory import MemoryStore
from server.upstream.protocol import Completion
from tests.support.clock import Clock
from tests.support.replies import PATIENCE_SECONDS, ScriptedReplies, SteeredUpstream

CALLS = (
    *("get_conversation", "create_run", "start_run", "append_text", "finish_run", "pause_run", "resume_run"),
    *("get_run", "list_messages", "renew_leases", "listen", "sweep", "ping"),
)
LOOK = Completion(None, None, "tool_calls", (ToolCall("call_1", "look", "{}"),))


class Failing(MemoryStore):
    """A store that fails on demand, before a call does anything or after it did everything."""

    is_durable = True

    def __init__(self, clock: Clock) -> None:
        super().__init__(1000, clock)
        self.is_down = False
        self.fails_after: set[str] = set()
        """Calls that work once more, and then lose their answer."""
        self.asked: list[str] = []

    def failing(self, name: str, *arguments: Any, **options: Any) -> Any:
        self.asked.append(name)
        if self.is_down:
            raise errors.StoreUnavailable
        answer = getattr(MemoryStore, name)(self, *arguments, **options)
        if name in self.fails_after:
            self.fails_after.remove(name)
            raise errors.StoreUnavailable
        return answer


def _failing(name: str) -> Callable[..., Any]:
    return lambda self, *arguments, **options: self.failing(name, *arguments, **options)


for each in CALLS:
    setattr(Failing, each, _failing(each))


@pytest.fixture
def store(clock: Clock) -> Failing:
    return Failing(clock)


@pytest.fixture
def replies() -> ScriptedReplies:
    return ScriptedReplies("slow", "slower")


@pytest.fixture
def runner(
    store: Failing, upstream: SteeredUpstream, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Runner]:
    # Ticks are the test's own.
    monkeypatch.setattr("server.runs.maintenance.Ticker.start", lambda ticker: None)
    runner = Runner(store, upstream, RunConfig(), clock)
    yield runner
    store.is_down = False
    runner.shut_down(0)


def begun(runner: Runner, question: str, request_id: str | None = None) -> Run:
    return runner.create(Run(question, request_id, conversation="ada"))


def ended(runner: Runner, run: Run) -> Run:
    return runner.wait(run.id, PATIENCE_SECONDS, lambda: True)


def with_outputs(run: Run, output: str = "seen") -> Run:
    (step,) = run.steps
    return replace(run, steps=(replace(step, calls=tuple(replace(each, output=output) for each in step.calls)),))


def requiring_action(runner: Runner, replies: ScriptedReplies) -> Run:
    """A run that requires the output of a tool. The upstream's next call gets `seen`."""
    options = RunOptions(parameters={"tools": [{"type": "function", "function": {"name": "look"}}]})
    run = runner.create(Run("slow", conversation="ada", options=options))
    replies.say("slow", LOOK)
    return ended(runner, run)


def contents(store: MemoryStore) -> list[str]:
    return [each.content for each in store.list_messages("ada", 0, 1_000_000)]


def pending_end(runner: Runner, run: Run) -> bool:
    """Wait until the run's end could not be written to the store."""
    with pytest.raises(errors.StoreUnavailable):
        ended(runner, run)
    return True


def test_a_question_is_refused_at_once_and_not_asked_upstream(
    runner: Runner, store: Failing, replies: ScriptedReplies
) -> None:
    store.is_down = True
    with pytest.raises(errors.StoreUnavailable):
        begun(runner, "why?")
    store.asked.clear()
    with pytest.raises(errors.StoreUnavailable):
        begun(runner, "what?")
    assert store.asked == []  # If the store hangs, each call to it would block the caller.
    assert replies.calls == []


def test_questions_are_taken_again_once_a_tick_finds_the_store_well(runner: Runner, store: Failing) -> None:
    store.is_down = True
    with pytest.raises(errors.StoreUnavailable):
        begun(runner, "why?")
    runner.ticker.tick()
    with pytest.raises(errors.StoreUnavailable):
        begun(runner, "why?")
    store.is_down = False
    runner.ticker.tick()
    assert ended(runner, begun(runner, "why?")).text == "re: why?"
    assert contents(store) == ["why?", "re: why?"]


def test_a_reply_that_cannot_be_written_down_is_when_the_store_is_back(
    runner: Runner, store: Failing, replies: ScriptedReplies
) -> None:
    run = begun(runner, "slow")
    replies.await_call("slow")
    store.is_down = True
    replies.end("slow", "paid ", "for")
    assert pending_end(runner, run)
    runner.ticker.tick()
    store.is_down = False
    assert contents(store) == []
    runner.ticker.tick()
    assert contents(store) == ["slow", "paid for"]
    kept = begun(runner, "slow")
    assert (kept.id, kept.text) == (run.id, "paid for")  # Nobody had it, so whoever asks the same gets it.
    assert replies.calls == ["slow"]


def test_a_reply_whose_end_was_written_though_the_answer_was_lost_stands_once(
    runner: Runner, store: Failing, replies: ScriptedReplies
) -> None:
    run = begun(runner, "slow")
    replies.await_call("slow")
    store.fails_after = {"finish_run"}
    replies.end("slow", "paid for")
    assert pending_end(runner, run)
    runner.ticker.tick()
    assert contents(store) == ["slow", "paid for"]
    assert ended(runner, run).status == "completed"


def test_a_reader_gets_all_the_text_and_then_the_failure(
    runner: Runner, store: Failing, replies: ScriptedReplies
) -> None:
    run = begun(runner, "slow")
    reading = runner.read(run.id, 0, lambda: True)
    replies.say("slow", "paid ")
    assert next(reading) == TextDelta("paid ", 5)
    store.is_down = True
    replies.end("slow", "for")
    assert next(reading) == TextDelta("for", 8)
    with pytest.raises(errors.StoreUnavailable):
        next(reading)
    store.is_down = False
    runner.ticker.tick()
    *_, last = runner.read(run.id, 5, lambda: True)
    assert isinstance(last, Run)
    assert last.text == "paid for"


def test_the_next_question_waits_until_the_reply_before_it_is_written_down(
    runner: Runner, store: Failing, replies: ScriptedReplies, upstream: SteeredUpstream
) -> None:
    first, second = begun(runner, "slow"), begun(runner, "next")
    replies.await_call("slow")
    store.is_down = True
    replies.end("slow", "ok")
    assert pending_end(runner, first)
    runner.ticker.tick()
    assert replies.calls == ["slow"]
    store.is_down = False
    runner.ticker.tick()
    assert ended(runner, second).text == "re: next"
    assert contents(store) == ["slow", "ok", "next", "re: next"]


def test_a_run_that_was_begun_though_its_caller_was_told_of_a_failure_is_not_left_open(
    runner: Runner, store: Failing, replies: ScriptedReplies
) -> None:
    store.fails_after = {"create_run"}
    with pytest.raises(errors.StoreUnavailable):
        begun(runner, "why?")
    assert [run.status for run in store.list_runs("ada", None, 9)] == ["running"]
    runner.ticker.tick()
    assert [run.status for run in store.list_runs("ada", None, 9)] == ["failed"]
    assert ended(runner, begun(runner, "why?")).text == "re: why?"
    assert replies.calls == ["why?"]


def test_a_failed_question_may_be_asked_again_with_its_request_id(
    runner: Runner, store: Failing, replies: ScriptedReplies
) -> None:
    store.fails_after = {"create_run"}
    with pytest.raises(errors.StoreUnavailable):
        begun(runner, "why?", "id")
    runner.ticker.tick()
    assert ended(runner, begun(runner, "why?", "id")).text == "re: why?"
    assert replies.calls == ["why?"]


def test_text_is_kept_once_though_the_store_failed_after_it_was_told(
    runner: Runner, store: Failing, replies: ScriptedReplies
) -> None:
    run = begun(runner, "slow")
    reading = runner.read(run.id, 0, lambda: True)
    replies.say("slow", "왜 ")
    next(reading)
    store.fails_after = {"append_text"}
    runner.ticker.tick()
    replies.say("slow", "👩‍👩‍👧")
    next(reading)
    runner.ticker.tick()
    runner.ticker.tick()
    assert store.get_run(run.id).text == "왜 👩‍👩‍👧"


@pytest.mark.parametrize("lost", [False, True], ids=["not started", "started, and the answer lost"])
def test_a_queued_run_is_written_once_though_the_store_failed_when_its_turn_came(
    runner: Runner, store: Failing, replies: ScriptedReplies, lost: bool
) -> None:
    first, second = begun(runner, "slow"), begun(runner, "next")
    replies.await_call("slow")
    if lost:
        store.fails_after = {"start_run"}
    else:
        store.is_down = True
    replies.end("slow", "ok")
    if lost:
        ended(runner, first)
    else:
        assert pending_end(runner, first)
    store.is_down = False
    runner.ticker.tick()
    assert ended(runner, second).text == "re: next"
    assert replies.calls == ["slow", "next"]


def test_a_reply_that_could_not_read_its_history_fails_and_is_listed(
    runner: Runner, store: Failing, replies: ScriptedReplies
) -> None:
    ended(runner, begun(runner, "first"))
    store.fails_after = {"list_messages"}
    run = ended(runner, begun(runner, "why?"))
    assert run.error is not None
    assert (run.status, run.error.code) == ("failed", "store_unavailable")
    assert [each.id for each in store.list_runs("ada", "failed", 9)] == [run.id]
    assert replies.calls == ["first"]


def test_a_stop_writes_down_what_is_still_unwritten(runner: Runner, store: Failing, replies: ScriptedReplies) -> None:
    run = begun(runner, "slow")
    replies.await_call("slow")
    store.is_down = True
    replies.end("slow", "paid for")
    assert pending_end(runner, run)
    store.is_down = False
    runner.shut_down(0)
    assert contents(store) == ["slow", "paid for"]


def test_a_run_whose_time_is_over_ends_though_the_store_is_away(
    runner: Runner, store: Failing, replies: ScriptedReplies, clock: Clock
) -> None:
    run = begun(runner, "slow")
    replies.await_call("slow")
    store.is_down = True
    clock.now += 601
    runner.ticker.tick()
    assert pending_end(runner, run)
    store.is_down = False
    runner.ticker.tick()
    failure = store.get_run(run.id).error
    assert failure is not None
    assert failure.code == "run_timed_out"


def test_a_turn_that_comes_while_the_store_fails_lets_no_question_wait_for_it(
    runner: Runner, store: Failing, replies: ScriptedReplies
) -> None:
    first, second = begun(runner, "slow"), begun(runner, "next")
    replies.await_call("slow")
    store.fails_after = {"start_run"}
    runner.cancel(first.id)
    store.asked.clear()
    with pytest.raises(errors.StoreUnavailable):
        begun(runner, "another")
    assert store.asked == []
    runner.ticker.tick()
    assert ended(runner, second).text == "re: next"


def test_a_run_goes_on_with_its_outputs_once_the_store_takes_them(
    runner: Runner, store: Failing, replies: ScriptedReplies
) -> None:
    run = requiring_action(runner, replies)
    store.is_down = True
    with pytest.raises(errors.StoreUnavailable):
        runner.resume(with_outputs(run))
    store.is_down = False
    runner.ticker.tick()
    assert ended(runner, runner.resume(with_outputs(run))).text == "re: seen"
    assert replies.calls == ["slow", "seen"]


def test_a_run_whose_outputs_were_taken_though_the_answer_was_lost_is_not_left_open(
    runner: Runner, store: Failing, replies: ScriptedReplies
) -> None:
    run = requiring_action(runner, replies)
    store.fails_after = {"resume_run"}
    with pytest.raises(errors.StoreUnavailable):
        runner.resume(with_outputs(run))
    runner.ticker.tick()
    assert store.get_run(run.id).status == "failed"
    assert ended(runner, begun(runner, "next")).text == "re: next"
    assert replies.calls == ["slow", "next"]


def test_a_run_that_requires_action_still_does_though_the_answer_to_that_was_lost(
    runner: Runner, store: Failing, replies: ScriptedReplies
) -> None:
    store.fails_after = {"pause_run"}
    with pytest.raises(errors.StoreUnavailable):
        requiring_action(runner, replies)
    runner.ticker.tick()
    (run,) = store.list_runs("ada", None, 9)
    assert ended(runner, run).status == "requires_action"
    assert ended(runner, runner.resume(with_outputs(run))).text == "re: seen"


def test_a_stop_leaves_a_run_waiting_for_outputs_though_the_answer_to_that_was_lost(
    runner: Runner, store: Failing, replies: ScriptedReplies
) -> None:
    store.fails_after = {"pause_run"}
    with pytest.raises(errors.StoreUnavailable):
        requiring_action(runner, replies)
    runner.shut_down(0)
    (run,) = store.list_runs("ada", None, 9)
    assert run.status == "requires_action"


def test_a_run_that_goes_on_with_outputs_is_not_ended_by_who_lost_the_answer_to_its_pause(
    runner: Runner, store: Failing, replies: ScriptedReplies, upstream: SteeredUpstream, clock: Clock
) -> None:
    store.fails_after = {"pause_run"}
    with pytest.raises(errors.StoreUnavailable):
        requiring_action(runner, replies)
    (run,) = store.list_runs("ada", None, 9)
    other = Runner(store, upstream, RunConfig(), clock)
    other.resume(with_outputs(run, "slower"))
    replies.await_call("slower")
    runner.ticker.tick()
    replies.end("slower", "seen")
    assert ended(other, run).text == "seen"
    assert store.get_run(run.id).status == "completed"


def test_a_run_that_could_not_be_said_to_require_action_fails(
    runner: Runner, store: Failing, replies: ScriptedReplies
) -> None:
    options = RunOptions(parameters={"tools": []})
    run = runner.create(Run("slow", conversation="ada", options=options))
    replies.await_call("slow")
    store.is_down = True
    replies.say("slow", LOOK)
    assert pending_end(runner, run)
    store.is_down = False
    runner.ticker.tick()
    assert store.get_run(run.id).status == "failed"
    assert ended(runner, begun(runner, "next")).text == "re: next"


def test_a_store_that_ends_with_the_process_is_told_no_text_before_the_end(
    runner: Runner, store: Failing, replies: ScriptedReplies
) -> None:
    store.is_durable = False
    run = begun(runner, "slow")
    reading = runner.read(run.id, 0, lambda: True)
    replies.say("slow", "paid ")
    next(reading)
    runner.ticker.tick()
    assert "append_text" not in store.asked
    replies.end("slow", "for")
    assert ended(runner, run).text == "paid for"

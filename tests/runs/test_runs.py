"""The rules of runs, R1 to R9 of docs/invariants.md, as far as they hold without a durable store."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import orjson
import pytest

from server import errors
from server.domain import Conversation, Run, RunOptions, ToolCall
from server.runs import live
from server.runs.config import RunConfig
from server.runs.events import RunEvents, TextDelta
from server.runs.live import KEEPALIVE_SECONDS
from server.runs.runner import Runner
from server.store.memory import MemoryStore
from server.store.protocol import DEFAULT_OPTIONS, CreatedRun, CreateOptions
from server.upstream.protocol import Completion, CompletionRequest
from tests.support.clock import Clock
from tests.support.replies import PATIENCE_SECONDS, ScriptedReplies, SteeredUpstream

AtOnce = Callable[..., Any]


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(1000, clock)


@pytest.fixture
def replies() -> ScriptedReplies:
    return ScriptedReplies("slow", "slower")


@pytest.fixture
def limits() -> RunConfig:
    return RunConfig()


@pytest.fixture
def runner(store: MemoryStore, upstream: SteeredUpstream, limits: RunConfig, clock: Clock) -> Iterator[Runner]:
    runner = Runner(store, upstream, limits, clock)
    yield runner
    runner.shut_down(0)


def create_run(runner: Runner, question: str, name: str = "ada", request_id: str | None = None) -> Run:
    return runner.create(Run(question, request_id, conversation=name))


def await_end(runner: Runner, run: Run) -> Run:
    return runner.wait(run.id, PATIENCE_SECONDS, lambda: True)


def ask(runner: Runner, question: str, name: str = "ada") -> Run:
    return await_end(runner, create_run(runner, question, name))


def read_events(runner: Runner, run: Run, position: int = 0) -> RunEvents:
    return runner.read(run.id, position, lambda: True)


def contents(store: MemoryStore, name: str = "ada") -> list[str]:
    return [each.content for each in store.list_messages(name, 0, 1_000_000)]


class TestOneAtATime:
    """R1."""

    def test_runs_of_one_conversation_are_written_one_at_a_time_in_order_of_arrival(
        self, runner: Runner, replies: ScriptedReplies, store: MemoryStore, upstream: SteeredUpstream
    ) -> None:
        runs = [create_run(runner, "slow"), *(create_run(runner, f"q{n}") for n in range(10))]
        replies.await_call("slow")
        assert replies.calls == ["slow"]
        replies.end("slow", "at last")
        assert [await_end(runner, run).status for run in runs] == ["completed"] * 11
        assert replies.calls == ["slow", *(f"q{n}" for n in range(10))]
        assert contents(store)[:4] == ["slow", "at last", "q0", "re: q0"]
        sent = [[each["content"] for each in orjson.loads(call.messages)] for call in upstream.requests]
        assert sent == [contents(store)[: 2 * n + 1] for n in range(11)]

    def test_other_conversations_do_not_wait(self, runner: Runner, replies: ScriptedReplies) -> None:
        create_run(runner, "slow", "ada")
        replies.await_call("slow")
        assert ask(runner, "quick", "eve").text == "re: quick"

    def test_a_run_that_is_cancelled_gives_its_turn_to_the_next(self, runner: Runner, replies: ScriptedReplies) -> None:
        first, queued, last = create_run(runner, "slow"), create_run(runner, "slower"), create_run(runner, "last")
        replies.await_call("slow")
        runner.cancel(queued.id)
        runner.cancel(first.id)
        assert await_end(runner, last).text == "re: last"
        assert "slower" not in replies.calls

    def test_a_run_that_fails_gives_its_turn_to_the_next(self, runner: Runner, replies: ScriptedReplies) -> None:
        first, last = create_run(runner, "slow"), create_run(runner, "last")
        replies.fail("slow", errors.UpstreamTimedOut())
        assert await_end(runner, first).status == "failed"
        assert await_end(runner, last).text == "re: last"

    def test_so_many_wait_and_one_more_is_refused(self, runner: Runner, replies: ScriptedReplies) -> None:
        create_run(runner, "slow")
        waiting = [create_run(runner, f"q{n}") for n in range(32)]
        with pytest.raises(errors.ConversationBusy):
            create_run(runner, "one more")
        replies.end("slow", "ok")
        assert {await_end(runner, run).status for run in waiting} == {"completed"}
        assert ask(runner, "one more").status == "completed"


class Staged(MemoryStore):
    """Calls a test's functions before and after a run is created, and before one starts."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(1000, clock)
        self.before_begin: dict[str, Callable[[], object]] = {}
        self.after_begin: dict[str, Callable[[], object]] = {}
        self.before_start: dict[str, Callable[[], object]] = {}

    def create_run(
        self, name: str, run: Run, options: CreateOptions = DEFAULT_OPTIONS, *, waiting: int, start: bool
    ) -> CreatedRun:
        self.before_begin.pop(run.question, lambda: None)()
        created = super().create_run(name, run, options, waiting=waiting, start=start)
        self.after_begin.pop(run.question, lambda: None)()
        return created

    def start_run(self, name: str, run_id: str) -> Conversation | None:
        self.before_start.pop(self.get_run(run_id).question, lambda: None)()
        return super().start_run(name, run_id)


class TestWhatComesInBetween:
    """Races that threads seldom hit, made to happen."""

    @pytest.fixture
    def store(self, clock: Clock) -> Staged:
        return Staged(clock)

    @pytest.fixture
    def limits(self) -> RunConfig:
        return RunConfig(max_concurrent_runs=1)

    def test_who_finds_the_last_place_taken_by_an_attempt_that_fails_is_not_forgotten(
        self, runner: Runner, replies: ScriptedReplies, store: Staged, at_once: AtOnce
    ) -> None:
        other = create_run(runner, "slow", "eve")
        replies.await_call("slow")
        written, may_go_on = threading.Event(), threading.Event()
        store.after_begin["older"] = lambda: (written.set(), may_go_on.wait(PATIENCE_SECONDS))
        older = at_once(create_run, runner, "older")
        assert written.wait(PATIENCE_SECONDS)
        replies.end("slow", "ok")
        await_end(runner, other)
        store.before_start["newer"] = lambda: (may_go_on.set(), older.result(PATIENCE_SECONDS))
        newer = create_run(runner, "newer")
        assert [await_end(runner, each).text for each in (older.result(), newer)] == ["re: older", "re: newer"]
        assert replies.calls == ["slow", "older", "newer"]

    def test_a_queued_run_that_is_cleared_before_it_is_known_to_wait_leaves_nothing(
        self, runner: Runner, replies: ScriptedReplies, store: Staged
    ) -> None:
        create_run(runner, "slow", "eve")
        store.after_begin["gone"] = lambda: runner.clear("ada")
        create_run(runner, "gone")
        assert not runner._local._dispatcher._queued
        replies.end("slow", "ok")
        assert ask(runner, "next").status == "completed"
        assert "gone" not in replies.calls

    def test_a_run_that_is_interrupted_before_it_was_written_down_is_not_left_open(
        self, runner: Runner, replies: ScriptedReplies, store: Staged
    ) -> None:
        store.before_begin["late"] = lambda: runner.shut_down(0)
        run = create_run(runner, "late")
        assert not store.get_run(run.id).is_open
        assert replies.calls == []


class TestWriteAhead:
    """R2.1, R2.6 and R2.7."""

    def test_a_question_is_in_the_store_before_the_upstream_is_called(self, store: MemoryStore) -> None:
        known: list[Run] = []

        def answer(call: CompletionRequest) -> Iterator[str]:
            known.append(store.create_run("ada", Run("why?"), waiting=0, start=False).run)
            yield "because"

        runner = Runner(store, SteeredUpstream(answer), RunConfig())
        run = create_run(runner, "why?")
        assert await_end(runner, run).status == "completed"
        assert [(each.id, each.status) for each in known] == [(run.id, "running")]
        runner.shut_down(0)

    def test_an_ended_run_never_changes(self, runner: Runner, replies: ScriptedReplies, store: MemoryStore) -> None:
        run = create_run(runner, "slow")
        replies.say("slow", "half")
        replies.await_call("slow")
        next(read_events(runner, run))
        cancelled = runner.cancel(run.id)
        replies.end("slow", " and the rest")
        assert ask(runner, "next").status == "completed"
        assert store.get_run(run.id) == cancelled == runner.cancel(run.id)
        assert contents(store)[:2] == ["slow", "half"]

    def test_a_retry_is_a_new_run(self, runner: Runner, replies: ScriptedReplies) -> None:
        first = create_run(runner, "slow", request_id="id")
        replies.fail("slow", errors.UpstreamTimedOut())
        assert await_end(runner, first).status == "failed"
        second = create_run(runner, "slow", request_id="id")
        replies.end("slow", "now")
        assert (await_end(runner, second).text, second.id != first.id) == ("now", True)
        assert runner.cancel(first.id).status == "failed"


class TestHistory:
    """R3. What is sent upstream of a long history: R10.4 and R10.7."""

    def test_a_question_is_not_in_the_history_until_its_run_completes(
        self, runner: Runner, replies: ScriptedReplies, store: MemoryStore
    ) -> None:
        run = create_run(runner, "slow")
        replies.say("slow", "half")
        next(read_events(runner, run))
        assert contents(store) == []
        replies.end("slow")
        assert await_end(runner, run).text == "half"
        assert contents(store) == ["slow", "half"]

    def test_a_failed_question_is_neither_shown_nor_replayed(
        self, runner: Runner, replies: ScriptedReplies, store: MemoryStore, upstream: SteeredUpstream
    ) -> None:
        run = create_run(runner, "slow")
        replies.say("slow", "half")
        replies.fail("slow", errors.UpstreamCut())
        failed = await_end(runner, run)
        assert (failed.status, failed.text, failed.question) == ("failed", "half", "slow")
        assert ask(runner, "next").status == "completed"
        assert contents(store) == ["next", "re: next"]
        assert b"slow" not in upstream.requests[-1].messages

    def test_order_is_by_index_not_by_time(
        self, runner: Runner, replies: ScriptedReplies, store: MemoryStore, clock: Clock
    ) -> None:
        first = create_run(runner, "slow")
        queued = create_run(runner, "quick")
        clock.now += 60
        replies.end("slow", "at last")
        await_end(runner, first)
        await_end(runner, queued)
        question, reply, late_question, _ = store.list_messages("ada", 0, 4)
        assert late_question.timestamp < reply.timestamp
        assert question.timestamp == late_question.timestamp

    def test_what_was_replayed_and_what_left_out_is_told_in_the_run(
        self, store: MemoryStore, replies: ScriptedReplies
    ) -> None:
        runner = Runner(store, SteeredUpstream(replies), RunConfig(max_context_messages=4))
        runs = [ask(runner, f"q{n}") for n in range(5)]
        assert [(run.replayed, run.omitted) for run in runs] == [(0, 0), (2, 0), (4, 0), (4, 2), (4, 4)]
        runner.shut_down(0)

    def test_a_context_that_is_too_long_drops_the_older_half_and_is_remembered(self, store: MemoryStore) -> None:
        lengths: list[int] = []

        def answer(call: CompletionRequest) -> Iterator[str]:
            lengths.append(len(orjson.loads(call.messages)))
            if lengths[-1] > 5:
                raise errors.ContextTooLong
            yield "ok"

        runner = Runner(store, SteeredUpstream(answer), RunConfig())
        runs = [ask(runner, f"q{n}") for n in range(5)]
        assert {run.status for run in runs} == {"completed"}
        assert lengths == [1, 3, 5, 7, 3, 5]
        assert len(contents(store)) == 10
        assert (runs[3].replayed, runs[3].omitted) == (2, 4)
        runner.shut_down(0)

    def test_a_question_too_long_even_alone_fails(self, store: MemoryStore) -> None:
        def answer(call: CompletionRequest) -> Iterator[str]:
            if b"long" in call.messages:
                raise errors.ContextTooLong
            yield "ok"

        runner = Runner(store, SteeredUpstream(answer), RunConfig())
        ask(runner, "short")
        failed = ask(runner, "long")
        assert failed.error is not None
        assert (failed.status, failed.error.code) == ("failed", "context_length_exceeded")
        assert contents(store) == ["short", "ok"]
        runner.shut_down(0)


class TestReading:
    """R4."""

    def test_a_run_is_read_from_any_character_while_it_is_written_and_after(
        self, runner: Runner, replies: ScriptedReplies
    ) -> None:
        run = create_run(runner, "slow")
        replies.say("slow", "안녕", "👩‍👩‍👧!")
        here = read_events(runner, run, 1)
        assert next(here) in (TextDelta("녕", 2), TextDelta("녕👩‍👩‍👧!", 8))
        replies.end("slow", " end")
        whole = "안녕👩‍👩‍👧! end"
        assert await_end(runner, run).text == whole
        for position in range(len(whole) + 1):
            *pieces, last = read_events(runner, run, position)
            assert "".join(piece.text for piece in pieces if isinstance(piece, TextDelta)) == whole[position:]
            assert isinstance(last, Run)

    def test_readers_see_the_same_text_each_character_once(
        self, runner: Runner, replies: ScriptedReplies, at_once: AtOnce
    ) -> None:
        run = create_run(runner, "slow")

        def read() -> str:
            return "".join(piece.text for piece in read_events(runner, run) if isinstance(piece, TextDelta))

        readers = [at_once(read) for _ in range(8)]
        for n in range(200):
            replies.say("slow", f"{n} ")
        replies.end("slow")
        assert {reader.result() for reader in readers} == {"".join(f"{n} " for n in range(200))}

    def test_a_position_beyond_what_an_open_run_has_waits(
        self, runner: Runner, replies: ScriptedReplies, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = create_run(runner, "slow")
        replies.say("slow", "abc")
        next(read_events(runner, run))
        monkeypatch.setattr(live, "KEEPALIVE_SECONDS", 0.0)
        beyond = read_events(runner, run, 5)
        assert next(beyond) is None
        replies.end("slow", "defg")
        assert [each for each in beyond if isinstance(each, TextDelta)] == [TextDelta("fg", 7)]

    def test_a_position_beyond_a_completed_run_is_refused_at_once(self, runner: Runner) -> None:
        run = ask(runner, "quick")
        with pytest.raises(errors.InvalidPosition):
            read_events(runner, run, len(run.text) + 1)

    def test_a_position_that_an_open_run_never_reaches_is_refused_at_its_end(
        self, runner: Runner, replies: ScriptedReplies
    ) -> None:
        run = create_run(runner, "slow")
        beyond = read_events(runner, run, 99)
        replies.end("slow", "short")
        with pytest.raises(errors.InvalidPosition):
            list(beyond)

    def test_a_position_beyond_an_interrupted_run_gets_its_failure(
        self, runner: Runner, replies: ScriptedReplies
    ) -> None:
        run = create_run(runner, "slow")
        replies.say("slow", "half")
        next(read_events(runner, run))
        runner.shut_down(0)
        (last,) = read_events(runner, run, 99)
        assert isinstance(last, Run)
        assert last.error is not None
        assert last.error.code == "run_interrupted"

    def test_silence_is_told_when_it_has_lasted_and_again(
        self, runner: Runner, replies: ScriptedReplies, clock: Clock, at_once: AtOnce
    ) -> None:
        run = create_run(runner, "slow")
        reader = read_events(runner, run)
        first = at_once(next, reader)
        runner.ticker.tick()
        clock.now += KEEPALIVE_SECONDS - 1
        runner.ticker.tick()
        replies.say("slow", "half")
        assert first.result() == TextDelta("half", 4)
        for _ in range(2):
            runner.ticker.tick()
            clock.now += KEEPALIVE_SECONDS
            runner.ticker.tick()
            assert next(reader) is None
        replies.end("slow", " whole")
        assert [each for each in reader if isinstance(each, TextDelta)] == [TextDelta(" whole", 10)]

    def test_an_unknown_run_is_not_found(self, runner: Runner) -> None:
        with pytest.raises(errors.NotFound):
            runner.read("run_nobody", 0, lambda: True)

    def test_what_was_written_is_told_to_a_durable_store_while_the_run_goes_on(
        self, runner: Runner, replies: ScriptedReplies, store: MemoryStore
    ) -> None:
        store.is_durable = True
        run = create_run(runner, "slow")
        replies.say("slow", "abc")
        next(read_events(runner, run))
        runner.ticker.tick()
        assert store.get_run(run.id).text == "abc"
        replies.say("slow", "def")
        next(read_events(runner, run, 3))
        runner.ticker.tick()
        runner.ticker.tick()
        assert store.get_run(run.id).text == "abcdef"
        replies.end("slow")
        assert await_end(runner, run).text == store.get_run(run.id).text == "abcdef"


class TestNothingIsPaidTwice:
    """R6, as far as it does not depend on the store alone."""

    def test_an_identical_open_question_is_joined_and_paid_once(
        self, runner: Runner, replies: ScriptedReplies, store: MemoryStore, at_once: AtOnce
    ) -> None:
        runs = [caller.result() for caller in [at_once(create_run, runner, "slow") for _ in range(20)]]
        assert len({run.id for run in runs}) == 1
        callers = [at_once(await_end, runner, run) for run in runs]
        replies.end("slow", "once")
        assert {caller.result().text for caller in callers} == {"once"}
        assert contents(store) == ["slow", "once"]
        assert replies.calls == ["slow"]

    @pytest.mark.parametrize("is_connected", [True, False])
    def test_only_a_caller_who_is_still_there_was_delivered_the_reply(
        self, runner: Runner, replies: ScriptedReplies, at_once: AtOnce, is_connected: bool
    ) -> None:
        run = create_run(runner, "slow")
        looked = threading.Event()

        def connection_probe() -> bool:
            looked.set()
            return is_connected

        live = runner._local.open.get(run.id)
        caller = at_once(runner.wait, run.id, PATIENCE_SECONDS, connection_probe)
        while not looked.is_set():
            with live.changed:
                live.has_waiters()
        replies.end("slow", "ok")
        assert caller.result().delivered is is_connected
        assert (create_run(runner, "slow").id == run.id) is not is_connected

    def test_a_caller_who_gave_up_was_not_delivered_the_reply(self, runner: Runner, replies: ScriptedReplies) -> None:
        run = create_run(runner, "slow")
        assert runner.wait(run.id, 0, lambda: True).is_open
        reader = read_events(runner, run)
        replies.say("slow", "la")
        next(reader)
        reader.close()
        replies.end("slow", "te")
        assert runner.wait(run.id, PATIENCE_SECONDS, lambda: False).text == "late"
        assert create_run(runner, "slow").text == "late"
        assert replies.calls == ["slow"]

    def test_a_reader_who_read_to_the_end_was_delivered_the_reply(
        self, runner: Runner, replies: ScriptedReplies, store: MemoryStore
    ) -> None:
        run = create_run(runner, "slow")
        reader = read_events(runner, run)
        replies.say("slow", "half")
        next(reader)
        replies.end("slow", " whole")
        assert next(each for each in reader if isinstance(each, Run)).delivered
        assert store.get_run(run.id).delivered


class TestCancelling:
    """R7."""

    def test_cancelling_closes_the_upstream_and_keeps_what_was_written(
        self, runner: Runner, replies: ScriptedReplies, store: MemoryStore, upstream: SteeredUpstream
    ) -> None:
        run = create_run(runner, "slow")
        replies.say("slow", "half")
        next(read_events(runner, run))
        assert runner.cancel(run.id).status == "cancelled"
        assert contents(store) == ["slow", "half"]
        replies.say("slow", "never heard")
        assert ask(runner, "next").status == "completed"
        assert contents(store)[:2] == ["slow", "half"]
        assert await_end(runner, run).text == "half"

    def test_cancelling_before_a_word_was_written_leaves_nothing(
        self, runner: Runner, replies: ScriptedReplies, store: MemoryStore
    ) -> None:
        run = create_run(runner, "slow")
        replies.await_call("slow")
        runner.cancel(run.id)
        assert contents(store) == []

    def test_a_queued_run_that_is_cancelled_is_never_paid(self, runner: Runner, replies: ScriptedReplies) -> None:
        first, queued = create_run(runner, "slow"), create_run(runner, "slower")
        runner.cancel(queued.id)
        replies.end("slow", "ok")
        await_end(runner, first)
        assert ask(runner, "next").status == "completed"
        assert "slower" not in replies.calls

    def test_who_waits_for_a_cancelled_run_is_told_at_once(
        self, runner: Runner, replies: ScriptedReplies, at_once: AtOnce
    ) -> None:
        run = create_run(runner, "slow")
        replies.await_call("slow")
        caller = at_once(await_end, runner, run)
        runner.cancel(run.id)
        assert caller.result(5).status == "cancelled"

    def test_a_reader_who_leaves_cancels_nothing(
        self, runner: Runner, replies: ScriptedReplies, store: MemoryStore
    ) -> None:
        run = create_run(runner, "slow")
        replies.say("slow", "half")
        reader = read_events(runner, run)
        next(reader)
        reader.close()
        replies.end("slow", " whole")
        assert await_end(runner, run).text == "half whole"
        assert contents(store) == ["slow", "half whole"]

    def test_clearing_cancels_open_runs_queued_ones_too_and_keeps_nothing(
        self, runner: Runner, replies: ScriptedReplies, store: MemoryStore
    ) -> None:
        ask(runner, "before")
        run, queued = create_run(runner, "slow"), create_run(runner, "slower")
        replies.say("slow", "half")
        here = read_events(runner, run)
        next(here)
        runner.clear("ada")
        (last,) = here
        assert isinstance(last, Run)
        assert last.status == "cancelled"
        for each in (run, queued):
            with pytest.raises(errors.NotFound):
                await_end(runner, each)
        replies.end("slow", " more")
        assert ask(runner, "after").text == "re: after"
        assert contents(store) == ["after", "re: after"]
        assert "slower" not in replies.calls

    def test_cancelling_an_unknown_run_is_not_found(self, runner: Runner) -> None:
        with pytest.raises(errors.NotFound):
            runner.cancel("run_nobody")


class TestShutdown:
    """R8."""

    def test_no_new_runs_begin_and_open_ones_may_end(
        self, runner: Runner, replies: ScriptedReplies, at_once: AtOnce
    ) -> None:
        run = create_run(runner, "slow")
        replies.await_call("slow")
        stopping = at_once(runner.shut_down, PATIENCE_SECONDS)
        while not runner.is_closing:
            pass
        with pytest.raises(errors.ShuttingDown):
            create_run(runner, "too late")
        replies.end("slow", "in time")
        stopping.result(5)
        assert await_end(runner, run).text == "in time"

    def test_what_does_not_end_in_time_is_interrupted_with_its_text(
        self, runner: Runner, replies: ScriptedReplies, store: MemoryStore, at_once: AtOnce
    ) -> None:
        run, queued = create_run(runner, "slow"), create_run(runner, "slower")
        replies.say("slow", "half")
        next(read_events(runner, run))
        caller = at_once(await_end, runner, run)
        runner.shut_down(0)
        assert (caller.result(5).status, caller.result(5).text) == ("interrupted", "half")
        assert (store.get_run(queued.id).status, store.get_run(queued.id).text) == ("interrupted", "")
        assert contents(store) == []
        assert "slower" not in replies.calls


class TestLimits:
    """R9."""

    @pytest.fixture
    def limits(self) -> RunConfig:
        return RunConfig(max_concurrent_runs=2, run_timeout_seconds=600)

    def test_so_many_write_at_once_and_more_stay_queued(
        self, runner: Runner, replies: ScriptedReplies, store: MemoryStore, upstream: SteeredUpstream
    ) -> None:
        first, second = create_run(runner, "slow", "a"), create_run(runner, "slower", "b")
        third, fourth = create_run(runner, "quick", "c"), create_run(runner, "quick", "d")
        replies.await_call("slow")
        replies.await_call("slower")
        assert [store.get_run(run.id).status for run in (first, second, third, fourth)] == [
            "running",
            "running",
            "queued",
            "queued",
        ]
        assert upstream.open_now == 2
        replies.end("slow", "ok")
        assert {await_end(runner, run).status for run in (first, third, fourth)} == {"completed"}
        replies.end("slower", "ok")
        assert await_end(runner, second).status == "completed"

    def test_a_run_that_takes_too_long_fails_and_the_next_has_its_turn(
        self, runner: Runner, replies: ScriptedReplies, clock: Clock
    ) -> None:
        run = create_run(runner, "slow")
        replies.say("slow", "half")
        next(read_events(runner, run))
        clock.now += 600
        runner.ticker.tick()
        assert runner.wait(run.id, 0, lambda: True).is_open
        clock.now += 1
        runner.ticker.tick()
        failed = await_end(runner, run)
        assert failed.error is not None
        assert (failed.status, failed.text, failed.error.code) == ("failed", "half", "run_timed_out")
        assert ask(runner, "next").text == "re: next"

    def test_a_queued_run_that_waits_too_long_fails_and_is_never_paid(
        self, runner: Runner, replies: ScriptedReplies, clock: Clock
    ) -> None:
        create_run(runner, "slow")
        queued = create_run(runner, "slower")
        clock.now += 601
        runner.ticker.tick()
        assert await_end(runner, queued).status == "failed"
        assert "slower" not in replies.calls

    def test_a_call_may_take_what_is_left_of_the_runs_time(
        self, runner: Runner, replies: ScriptedReplies, clock: Clock, upstream: SteeredUpstream
    ) -> None:
        first, queued = create_run(runner, "slow"), create_run(runner, "quick")
        replies.await_call("slow")
        clock.now += 100
        replies.end("slow", "ok")
        await_end(runner, first)
        await_end(runner, queued)
        assert [call.seconds for call in upstream.requests] == [600, 500]


class Interrupting(MemoryStore):
    """Calls a test's function after the store has paused a run and before its process knows it."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(1000, clock)
        self.between: Callable[[Run], None] = lambda _: None

    def pause_run(self, name: str, run: Run) -> bool:
        was_paused = super().pause_run(name, run)
        self.between(run)
        return was_paused


def test_outputs_that_come_before_the_pause_is_heard_of_are_answered(clock: Clock, replies: ScriptedReplies) -> None:
    store = Interrupting(clock)
    call = ToolCall("call_1", "look", "{}")
    replies.say("slow", Completion("m", None, "tool_calls", (call,)))  # type: ignore[arg-type]
    runner = Runner(store, SteeredUpstream(replies), RunConfig(), clock)

    def submit(run: Run) -> None:
        step = replace(run.steps[-1], calls=(replace(call, output="seen"),), ended=clock.now)
        runner.resume(replace(run, steps=(step,)))

    store.between = submit
    options = RunOptions(parameters={"tools": [{}]})
    run = runner.create(Run("slow", conversation="ada", options=options))
    assert told_of(runner, run).text == "re: seen"
    assert ask(runner, "next").text == "re: next"
    runner.shut_down(0)


def told_of(runner: Runner, run: Run) -> Run:
    """The run once it has ended, even if it required action before."""
    while (found := await_end(runner, run)).is_open:
        pass
    return found


def test_a_reply_that_was_delivered_after_its_end_is_not_given_to_the_next_question(
    runner: Runner, replies: ScriptedReplies
) -> None:
    first = runner.ask(Run("slow", conversation="ada"), 0, lambda: True)
    replies.end("slow", "the first")
    runner.wait(first.id, PATIENCE_SECONDS, lambda: False)
    delivered = runner.ask(Run("slow", conversation="ada"), PATIENCE_SECONDS, lambda: True)
    assert (delivered.id, delivered.text) == (first.id, "the first")
    replies.end("slow", "the second")
    again = runner.ask(Run("slow", conversation="ada"), PATIENCE_SECONDS, lambda: True)
    assert again.text == "the second"


def test_a_reply_whose_caller_is_gone_is_kept_for_the_next_question(runner: Runner, replies: ScriptedReplies) -> None:
    first = runner.ask(Run("slow", conversation="ada"), 0, lambda: True)
    replies.end("slow", "at last")
    runner.wait(first.id, PATIENCE_SECONDS, lambda: False)
    for is_connected in (lambda: False, lambda: True):
        assert runner.ask(Run("slow", conversation="ada"), PATIENCE_SECONDS, is_connected).id == first.id


def test_what_a_small_model_could_not_read_is_still_replayed_to_a_big_one(store: MemoryStore, clock: Clock) -> None:
    def answer(call: CompletionRequest) -> Iterator[str]:
        if call.model == "small" and len(orjson.loads(call.messages)) > 5:
            raise errors.ContextTooLong
        yield "ok"

    upstream = SteeredUpstream(answer)
    runner = Runner(store, upstream, RunConfig(), clock)
    sent = []
    for number, model in enumerate(["big"] * 4 + ["small", "big", "small"]):
        run = runner.create(Run(f"q{number}", conversation="ada", options=RunOptions(model=model)))
        assert await_end(runner, run).status == "completed"
        sent.append(len(orjson.loads(upstream.requests[-1].messages)))
    assert sent == [1, 3, 5, 7, 5, 11, 5]
    assert store.get_conversation("ada").context_starts.keys() == {"small"}  # type: ignore[union-attr]
    runner.shut_down(0)


def test_a_failure_without_a_name_ends_the_run_and_is_logged(
    runner: Runner, replies: ScriptedReplies, caplog: pytest.LogCaptureFixture
) -> None:
    run = create_run(runner, "slow")
    replies.fail("slow", ZeroDivisionError("secret"))
    failed = await_end(runner, run)
    assert failed.error is not None
    assert failed.error.code == "internal_error"
    assert "secret" not in failed.error.sentence
    assert "unhandled exception in run" in caplog.text


def test_a_run_that_gets_no_thread_fails_and_the_next_is_written(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "run":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        failed = ask(runner, "unlucky")
    assert failed.error is not None
    assert failed.error.code == "internal_error"
    assert ask(runner, "next").text == "re: next"


def test_settings_go_with_every_call(store: MemoryStore, replies: ScriptedReplies) -> None:
    upstream = SteeredUpstream(replies)
    runner = Runner(store, upstream, RunConfig(system_prompt="be brief", parameters={"temperature": 0.5}))
    store.update_conversation("ada", {"model": "m1"})
    run = ask(runner, "quick")
    (call,) = upstream.requests
    assert (call.model, dict(call.parameters), run.model) == ("m1", {"temperature": 0.5}, "m1")
    assert orjson.loads(call.messages)[0] == {"role": "system", "content": "be brief"}
    runner.shut_down(0)


def test_two_hundred_questions_over_ten_clients_make_strict_histories(
    runner: Runner, store: MemoryStore, upstream: SteeredUpstream, at_once: AtOnce
) -> None:
    barrier = threading.Barrier(50)

    def ask_client(n: int) -> Run:
        if n < 50:
            barrier.wait()
        return ask(runner, f"q{n}", f"client {n % 10}")

    assert {each.result().status for each in [at_once(ask_client, n) for n in range(200)]} == {"completed"}
    requests = {orjson.loads(call.messages)[-1]["content"]: call for call in upstream.requests}
    assert len(requests) == len(upstream.requests) == 200
    for c in range(10):
        history = contents(store, f"client {c}")
        assert sorted(history[::2]) == sorted(f"q{n}" for n in range(c, 200, 10))
        assert history[1::2] == [f"re: {question}" for question in history[::2]]
        for index in range(0, len(history), 2):
            sent = [each["content"] for each in orjson.loads(requests[history[index]].messages)]
            assert sent == history[: index + 1]

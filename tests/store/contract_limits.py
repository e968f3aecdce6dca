"""The shared tests of every store about rate limits and budgets."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from server.charges import TOKEN_BYTES, Charge
from server.domain import Run, Step, ToolCall, Usage
from server.errors import BudgetExhausted, ConversationBusy, RateLimited
from server.rates import RateState
from server.store.limits import NO_LIMITS, RESERVED_SECONDS, RateLimit, RunLimits
from server.store.protocol import DEFAULT_OPTIONS, CreatedRun, CreateOptions, Store
from tests.support.clock import Clock

DAY = "1970-01-12"
"""The day of the clock."""

PROMPT = 4
RESERVED = 10
BUDGET = 3 * RESERVED

TWO_A_MINUTE = RunLimits(RateLimit("k", 2, 60.0))
BUDGETED = RunLimits(daily_tokens=BUDGET)


def begin(
    store: Store, question: str = "why?", limits: RunLimits = TWO_A_MINUTE, name: str = "ada", **more: Any
) -> CreatedRun:
    run = Run(question, created=1_000_000.0, **more)
    return store.create_run(name, run, CreateOptions(limits=limits), waiting=32, start=True)


def reserve(store: Store, name: str, key: str = "k", tokens: int = RESERVED, **more: Any) -> Run:
    """A run that is charged, in a conversation of its own."""
    return begin(store, "why?", BUDGETED, name, charge=Charge(key, DAY, tokens, PROMPT), **more).run


def left(store: Store, key: str = "k") -> int:
    """The tokens that are left."""
    for tokens in range(BUDGET, 0, -1):
        try:
            run = reserve(store, f"probe {tokens}", key, tokens)
        except BudgetExhausted:
            continue
        store.finish_run(run.conversation, run.ended_as("failed", 1_000_000.0))
        return tokens
    return 0


def end(store: Store, run: Run, status: Any, text: str = "", tokens: int | None = None) -> None:
    usage = None if tokens is None else Usage(0, tokens, tokens)
    ended = store.get_run(run.id).ended_as(status, 1_000_000.0, text=text, usage=usage)
    assert store.finish_run(run.conversation, ended) is not None


class LimitTests:
    """One test for each sentence of the protocol; the fixtures `store` and `clock` belong to the backend."""

    def test_as_many_runs_begin_as_the_rate_limit_allows(self, store: Store, clock: Clock) -> None:
        assert begin(store, "1").rate == RateState(2, 1, 60.0)
        clock.now += 10
        assert begin(store, "2").rate == RateState(2, 0, 50.0)
        with pytest.raises(RateLimited) as refused:
            begin(store, "3")
        assert refused.value.state == RateState(2, 0, 50.0)
        assert refused.value.retry_seconds == 50.0
        assert [run.question for run in store.list_runs("ada", None, 9)] == ["2", "1"]

    def test_a_refused_question_makes_no_conversation(self, store: Store) -> None:
        for n in range(2):
            begin(store, f"{n}")
        with pytest.raises(RateLimited):
            begin(store, name="eve")
        assert store.get_conversation("eve") is None
        assert list(store.list_conversations(None, 9))[1:] == []

    def test_never_more_runs_begin_within_any_such_time(self, store: Store, clock: Clock) -> None:
        steps = [(0, True), (30, True), (29.5, False), (0.5, True), (0, False), (30, True), (1, False)]
        for n, (seconds, is_allowed) in enumerate(steps):
            clock.now += seconds
            if is_allowed:
                begin(store, f"{n}")
            else:
                with pytest.raises(RateLimited):
                    begin(store, f"{n}")

    def test_what_joins_does_not_count_and_is_answered_when_no_run_may_begin(self, store: Store) -> None:
        first = begin(store, "1", request_id="id").run
        second = begin(store, "2").run
        assert begin(store, "2").run.id == second.id
        assert begin(store, "1", request_id="id").run.id == first.id
        with pytest.raises(RateLimited):
            begin(store, "3")
        end(store, second, "completed", "ok")
        again = begin(store, "2")
        assert (again.run.id, again.is_new, again.rate) == (second.id, False, None)

    def test_a_question_that_joins_gives_back_what_it_took(self, store: Store) -> None:
        begin(store, "1")
        begin(store, "1")
        begin(store, "2")
        with pytest.raises(RateLimited):
            begin(store, "3")

    def test_a_call_that_is_made_again_counts_once(self, store: Store) -> None:
        run = Run("1", created=1.0)
        for _ in range(3):
            assert store.create_run("ada", run, CreateOptions(limits=TWO_A_MINUTE), waiting=32, start=True).is_new
        begin(store, "2")

    def test_a_retry_of_what_failed_counts(self, store: Store) -> None:
        for _ in range(2):
            end(store, begin(store, request_id="id").run, "failed")
        with pytest.raises(RateLimited):
            begin(store, request_id="id")

    def test_a_question_that_is_refused_for_another_reason_does_not_count(self, store: Store) -> None:
        begin(store, "1")
        for _ in range(3):
            options = CreateOptions(reject_if_busy=True, limits=TWO_A_MINUTE)
            with pytest.raises(ConversationBusy):
                store.create_run("ada", Run("2"), options, waiting=32, start=True)
        begin(store, "2")

    def test_each_key_has_a_rate_limit_of_its_own(self, store: Store) -> None:
        for n in range(2):
            begin(store, f"{n}")
        begin(store, "2", RunLimits(RateLimit("other", 2, 60.0)))
        begin(store, "3", NO_LIMITS)
        with pytest.raises(RateLimited):
            begin(store, "4")

    def test_a_limit_that_was_lowered_holds_at_once(self, store: Store, clock: Clock) -> None:
        for n in range(3):
            begin(store, f"{n}", RunLimits(RateLimit("k", 5, 60.0)))
            clock.now += 1
        with pytest.raises(RateLimited) as refused:
            begin(store, "4")
        assert refused.value.state == RateState(2, 0, 58.0)

    def test_exactly_as_many_of_many_at_once_begin(self, store: Store) -> None:
        limits = RunLimits(RateLimit("k", 7, 60.0))

        def ask(n: int) -> bool:
            try:
                begin(store, f"{n}", limits, name=f"client {n}")
            except RateLimited:
                return False
            return True

        with ThreadPoolExecutor(16) as threads:
            assert sum(threads.map(ask, range(48))) == 7

    def test_what_open_runs_have_reserved_is_not_left(self, store: Store) -> None:
        for n in range(3):
            reserve(store, f"{n}")
        with pytest.raises(BudgetExhausted):
            reserve(store, "3", tokens=1)
        assert store.get_conversation("3") is None

    def test_what_is_refused_for_the_budget_does_not_count_for_the_rate_limit(self, store: Store) -> None:
        reserve(store, "ada", tokens=BUDGET)
        limits = replace(TWO_A_MINUTE, daily_tokens=BUDGET)
        for _ in range(3):
            with pytest.raises(BudgetExhausted):
                begin(store, "why?", limits, "eve", charge=Charge("k", DAY, 1, 1))
        assert begin(store, "why?", limits, "eve").rate == RateState(2, 1, 60.0)

    def test_a_budget_tells_when_there_is_more(self, store: Store, clock: Clock) -> None:
        end(store, reserve(store, "ada"), "completed", "ok", BUDGET - RESERVED + 1)
        with pytest.raises(BudgetExhausted, match="midnight UTC") as refused:
            reserve(store, "eve")
        assert refused.value.retry_seconds == 86_400 - clock.now % 86_400

    def test_a_budget_that_is_only_reserved_has_more_in_a_few_seconds(self, store: Store) -> None:
        end(store, reserve(store, "ada"), "completed", "ok", RESERVED)
        reserve(store, "bob", tokens=2 * RESERVED)
        with pytest.raises(BudgetExhausted, match="reserved by replies being written") as refused:
            reserve(store, "eve", tokens=2 * RESERVED)
        assert refused.value.retry_seconds == RESERVED_SECONDS
        with pytest.raises(BudgetExhausted, match="midnight UTC"):
            reserve(store, "eve", tokens=2 * RESERVED + 1)

    def test_a_run_that_cannot_go_on_is_told_when_it_can(self, store: Store, clock: Clock) -> None:
        paused = self._pause(store, reserve(store, "ada"), clock)
        eve = reserve(store, "eve", tokens=2 * RESERVED)
        needs = replace(paused, status="queued", expires=None, charge=Charge("k", DAY, 2 * RESERVED, PROMPT))
        with pytest.raises(BudgetExhausted, match="reserved by replies being written"):
            store.resume_run("ada", needs, BUDGETED)
        end(store, eve, "completed", "ok", RESERVED + 1)
        with pytest.raises(BudgetExhausted, match="midnight UTC"):
            store.resume_run("ada", needs, BUDGETED)

    def test_one_question_that_is_larger_than_a_day_is_told_what_to_change(self, store: Store) -> None:
        with pytest.raises(BudgetExhausted, match="may take 31 tokens, and a day has 30; set a lower max_") as refused:
            reserve(store, "ada", tokens=BUDGET + 1)
        assert refused.value.retry_seconds is None
        with pytest.raises(BudgetExhausted, match=r"prompt alone, .* 30 tokens, and a day has 30; .* new conversation"):
            begin(store, "why?", BUDGETED, charge=Charge("k", DAY, BUDGET + RESERVED, BUDGET))

    def test_a_question_that_joins_reserves_nothing(self, store: Store) -> None:
        first = reserve(store, "ada")
        for _ in range(5):
            assert reserve(store, "ada").id == first.id
        assert left(store) == 2 * RESERVED

    def test_a_question_that_joins_is_answered_when_nothing_is_left(self, store: Store) -> None:
        first = reserve(store, "ada", tokens=BUDGET)
        assert reserve(store, "ada").id == first.id
        with pytest.raises(BudgetExhausted):
            reserve(store, "eve")

    @pytest.mark.parametrize(
        ("status", "text", "tokens", "spent"),
        [
            ("completed", "because", 7, 7),
            ("completed", "because", 2 * RESERVED, 2 * RESERVED),
            ("completed", "x" * 2 * TOKEN_BYTES, None, PROMPT + 2),
            ("failed", "be", None, 0),
            ("cancelled", "x" * 3 * TOKEN_BYTES, None, PROMPT + 3),
            ("interrupted", "", None, PROMPT),
        ],
    )
    def test_a_run_that_ends_has_spent_what_it_used_or_wrote(
        self, store: Store, status: str, text: str, tokens: int | None, spent: int
    ) -> None:
        end(store, reserve(store, "ada"), status, text, tokens)
        assert left(store) == BUDGET - spent

    def test_a_run_that_was_cancelled_while_it_waited_has_spent_nothing(self, store: Store) -> None:
        reserve(store, "ada")
        run = begin(store, "behind", BUDGETED, charge=Charge("k", DAY, RESERVED, PROMPT)).run
        assert run.status == "queued"
        end(store, run, "cancelled")
        assert left(store) == BUDGET - RESERVED

    def test_what_a_run_has_spent_is_counted_once(self, store: Store) -> None:
        run = reserve(store, "ada")
        for _ in range(3):
            end(store, run, "completed", "ok", 7)
        assert left(store) == BUDGET - 7

    @pytest.mark.parametrize("forget", ["clear_conversation", "delete_conversation"])
    def test_a_run_that_is_forgotten_has_spent_what_it_wrote(self, store: Store, forget: str) -> None:
        run = reserve(store, "ada")
        store.append_text("ada", run.id, 0, "왜" * 2)
        for _ in range(2):
            getattr(store, forget)("ada")
        assert left(store) == BUDGET - PROMPT - 2
        assert store.finish_run("ada", run.ended_as("completed", 1.0, text="ok", usage=Usage(9, 9, 18))) is None
        assert left(store) == BUDGET - PROMPT - 2

    def test_each_key_and_each_day_has_a_budget_of_its_own(self, store: Store) -> None:
        reserve(store, "ada", tokens=BUDGET)
        assert left(store, "other") == BUDGET
        begin(store, "why?", BUDGETED, "eve", charge=Charge("k", "1970-01-13", BUDGET, PROMPT))
        assert left(store) == 0

    def test_a_run_keeps_its_charge(self, store: Store) -> None:
        run = reserve(store, "ada")
        assert store.get_run(run.id).charge == Charge("k", DAY, RESERVED, PROMPT)
        end(store, run, "completed", "ok", 7)
        assert store.get_run(run.id).charge == Charge("k", DAY, RESERVED, PROMPT, 7)

    def test_a_run_that_goes_on_reserves_what_it_needs_then(self, store: Store, clock: Clock) -> None:
        paused = self._pause(store, reserve(store, "ada"), clock)
        assert left(store) == BUDGET - RESERVED
        needs = replace(paused, status="queued", expires=None, charge=Charge("k", DAY, 2 * RESERVED, PROMPT))
        for _ in range(2):
            assert store.resume_run("ada", needs, BUDGETED)
        assert left(store) == BUDGET - 2 * RESERVED
        end(store, needs, "completed", "ok", 12)
        assert left(store) == BUDGET - 12

    def test_a_run_does_not_go_on_if_what_it_needs_is_not_left(self, store: Store, clock: Clock) -> None:
        paused = self._pause(store, reserve(store, "ada"), clock)
        reserve(store, "eve", tokens=2 * RESERVED)
        needs = replace(paused, status="queued", expires=None, charge=Charge("k", DAY, RESERVED + 1, PROMPT))
        with pytest.raises(BudgetExhausted):
            store.resume_run("ada", needs, BUDGETED)
        assert store.get_run(paused.id) == paused
        end(store, paused, "cancelled", tokens=5)
        assert not store.resume_run("ada", needs, BUDGETED)
        assert left(store) == BUDGET - 2 * RESERVED - 5

    def test_a_budget_is_never_overspent_by_many_at_once(self, store: Store) -> None:
        def ask(n: int) -> bool:
            try:
                reserve(store, f"client {n}")
            except BudgetExhausted:
                return False
            return True

        with ThreadPoolExecutor(16) as threads:
            assert sum(threads.map(ask, range(48))) == 3

    def test_a_run_that_expired_is_not_open_any_more(self, store: Store, clock: Clock) -> None:
        store.create_conversation("ada", None, {}, owner="ada")
        self._pause(store, begin(store).run, clock)
        assert store.measure_owner("ada").open_runs == 1
        clock.now += 601
        assert store.measure_owner("ada").open_runs == 0

    def test_a_question_without_limits_is_never_refused(self, store: Store) -> None:
        reserve(store, "ada", tokens=BUDGET)
        assert store.create_run("eve", Run("why?"), DEFAULT_OPTIONS, waiting=32, start=True).rate is None

    def _pause(self, store: Store, run: Run, clock: Clock) -> Run:
        step = Step((ToolCall("call_1", "look", "{}"),), clock.now)
        paused = replace(run, status="requires_action", steps=(step,), expires=clock.now + 600, usage=Usage(2, 3, 5))
        assert store.pause_run("ada", paused)
        return paused


class SharedLimitTests:
    """Subclass for each backend that processes share, with the fixtures `store`, `other` and `abandon`."""

    def test_what_an_abandoned_run_has_reserved_is_left_but_for_what_it_wrote(
        self, store: Store, other: Store, abandon: Callable[[Store], None]
    ) -> None:
        run = reserve(other, "ada", tokens=BUDGET)
        other.append_text("ada", run.id, 0, "x" * TOKEN_BYTES)
        with pytest.raises(BudgetExhausted):
            reserve(store, "eve")
        abandon(other)
        reserve(store, "bob", tokens=BUDGET - PROMPT - 1)
        with pytest.raises(BudgetExhausted):
            reserve(store, "joe", tokens=1)
        ended = store.get_run(run.id)
        assert (ended.status, ended.text) == ("interrupted", "x" * TOKEN_BYTES)

    def test_an_abandoned_run_whose_end_was_written_for_the_budget_stays_ended(
        self, store: Store, other: Store, abandon: Callable[[Store], None]
    ) -> None:
        run = reserve(other, "ada", tokens=BUDGET)
        abandon(other)
        reserve(store, "eve", tokens=BUDGET - PROMPT)
        late = store.finish_run("ada", run.ended_as("completed", 1.0, text="ok", usage=Usage(9, 9, 18)))
        assert late is not None
        assert late.status == "interrupted"

    def test_an_abandoned_run_is_not_open_any_more(
        self, store: Store, other: Store, abandon: Callable[[Store], None]
    ) -> None:
        for worker, name in ((store, "a"), (other, "b"), (other, "b")):
            worker.create_conversation(name, None, {}, owner="ada")
            begin(worker, f"{worker.list_runs(name, None, 9)}", NO_LIMITS, name)
        assert store.measure_owner("ada").open_runs == 3
        abandon(other)
        assert store.measure_owner("ada").open_runs == 1
        assert [run.status for run in store.list_runs("b", None, 9)] == ["interrupted"] * 2

    def test_limits_hold_for_all_processes_together(self, store: Store, other: Store) -> None:
        begin(store, "1")
        begin(other, "2")
        with pytest.raises(RateLimited):
            begin(store, "3")
        reserve(store, "eve", tokens=BUDGET)
        with pytest.raises(BudgetExhausted):
            reserve(other, "bob")

"""What a run is charged: an estimate before, and what it used or wrote afterwards."""

import pytest

from server.access.budgets import Budgets
from server.access.caller import OPEN, Caller
from server.charges import REPLY_TOKENS, Charge, estimate_tokens
from server.domain import Message, Run, RunOptions, Status, Step, ToolCall, Usage
from server.store.memory import MemoryStore
from tests.support.clock import Clock

CHARGE = Charge("server", "1970-01-12", 100, 10)


def spent(run: Run, status: Status, **known: object) -> int | None:
    charge = run.ended_as(status, 2.0, **known).charge
    assert charge is not None
    return charge.spent


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(1000, clock)


@pytest.fixture
def budgets(store: MemoryStore, clock: Clock) -> Budgets:
    return Budgets(store, 1_000, None, "Be brief.", clock)


def complete(store: MemoryStore, tokens: int | None) -> None:
    run = store.create_run("ada", Run("why?"), waiting=32, start=True).run
    usage = None if tokens is None else Usage(tokens - 1, 1, tokens)
    store.finish_run("ada", run.ended_as("completed", 1.0, text="because", usage=usage))


class TestSpending:
    RUN = Run("why?", status="running", charge=CHARGE)
    WAITING = Run("why?", charge=CHARGE)
    STEP = Step((ToolCall("call_1", "look", "{}", "found"),), 1.0, "be")
    AGAIN = Run("why?", status="running", charge=CHARGE, steps=(STEP,), text="be", usage=Usage(20, 5, 25))

    def test_a_completed_run_has_spent_what_the_upstream_counted(self) -> None:
        assert spent(self.RUN, "completed", text="ok", usage=Usage(3, 4, 7)) == 7

    def test_a_completed_run_that_nobody_counted_is_estimated(self) -> None:
        assert spent(self.RUN, "completed", text="x" * 6) == 12

    def test_a_failed_run_has_spent_nothing(self) -> None:
        assert spent(self.RUN, "failed", text="be") == 0

    @pytest.mark.parametrize("status", ["cancelled", "interrupted"])
    def test_what_was_written_is_spent(self, status: Status) -> None:
        assert spent(self.RUN, status, text="x" * 6) == 12
        assert spent(self.WAITING, status, text="x" * 6) == 12

    @pytest.mark.parametrize("status", ["cancelled", "interrupted"])
    def test_a_run_that_never_started_has_spent_nothing(self, status: Status) -> None:
        assert spent(self.WAITING, status) == 0

    @pytest.mark.parametrize(
        ("status", "text", "tokens"),
        [("failed", "be", 25), ("cancelled", "bexxxxxx", 25 + 12), ("completed", "bexxxxxx", 25 + 12)],
    )
    def test_what_was_used_before_a_pause_is_spent_whatever_follows(
        self, status: Status, text: str, tokens: int
    ) -> None:
        assert spent(self.AGAIN, status, text=text) == tokens

    def test_what_was_used_after_a_pause_is_counted_with_what_came_before(self) -> None:
        assert spent(self.AGAIN, "completed", text="because", usage=Usage(50, 10, 60)) == 60

    def test_a_run_that_expired_has_spent_what_it_used(self) -> None:
        paused = Run(
            "why?", status="requires_action", charge=CHARGE, steps=(self.STEP,), text="be", usage=Usage(2, 5, 7)
        )
        assert spent(paused, "expired") == 7

    def test_a_run_that_was_stored_before_there_were_charges_is_read(self) -> None:
        dumped = Run("why?").dump().replace(b',"charge":null', b"")
        assert b"charge" not in dumped
        assert Run.load(dumped).charge is None

    def test_a_charge_is_stored_with_its_run(self) -> None:
        assert Run.load(self.RUN.dump()) == self.RUN


class TestReserving:
    def test_a_first_question_is_estimated_by_its_bytes(self, budgets: Budgets) -> None:
        charge = budgets.charge(OPEN, Run("why?" * 30, conversation="ada"), [])
        prompt = 1 + estimate_tokens("Be brief.") + estimate_tokens("why?" * 30)
        assert charge == Charge("server", "1970-01-12", prompt + REPLY_TOKENS, prompt)

    def test_a_korean_text_is_not_taken_for_less_than_it_is(self) -> None:
        assert estimate_tokens("왜 그런가요?") >= len("왜 그런가요?") - 1

    def test_the_longest_reply_is_reserved_as_the_run_or_the_conversation_or_the_server_limits_it(
        self, store: MemoryStore, clock: Clock
    ) -> None:
        budgets = Budgets(store, 1_000, 300, "", clock)
        run = Run("why?", conversation="ada")
        assert budgets.charge(OPEN, run, []).reserved == 3 + 300
        store.update_conversation("eve", {"max_completion_tokens": 200})
        assert budgets.charge(OPEN, Run("why?", conversation="eve"), []).reserved == 3 + 200
        options = RunOptions(parameters={"max_completion_tokens": 100})
        assert budgets.charge(OPEN, Run("why?", conversation="eve", options=options), []).reserved == 3 + 100

    def test_a_history_costs_what_its_last_run_used(self, budgets: Budgets, store: MemoryStore) -> None:
        complete(store, 500)
        assert budgets.charge(OPEN, Run("why?", conversation="ada"), []).prompt_tokens == 1 + 500 + 2

    def test_a_history_that_nobody_counted_is_estimated_from_a_few_messages(
        self, budgets: Budgets, store: MemoryStore
    ) -> None:
        messages = [Message.of("user", "x" * 300, None, 1.0) for _ in range(100)]
        store.create_conversation("ada", None, {}, messages)
        prompt = budgets.charge(OPEN, Run("", conversation="ada"), []).prompt_tokens
        assert 10_000 < prompt < 15_000

    def test_messages_that_come_with_the_run_count(self, budgets: Budgets) -> None:
        message = Message.of("user", "x" * 300, None, 1.0)
        without, with_ = (budgets.charge(OPEN, Run("", conversation="ada"), each) for each in ([], [message]))
        assert with_.reserved - without.reserved >= 100

    def test_a_context_is_measured_again_after_a_minute(
        self, budgets: Budgets, store: MemoryStore, clock: Clock
    ) -> None:
        complete(store, 100)
        before = budgets.charge(OPEN, Run("", conversation="ada"), [])
        complete(store, 500)
        clock.now += 61
        assert budgets.charge(OPEN, Run("", conversation="ada"), []).reserved - before.reserved == 400

    def test_a_run_that_goes_on_reserves_what_it_used_and_needs(self, budgets: Budgets) -> None:
        step = Step((ToolCall("call_1", "look", "{}", "x" * 30),), 1.0)
        run = Run("why?", conversation="ada", charge=CHARGE, steps=(step,), usage=Usage(20, 5, 25))
        charge = budgets.recharge(run)
        assert charge == Charge("server", "1970-01-12", 25 + 25 + 10 + REPLY_TOKENS, 25 + 10)
        assert budgets.recharge(Run("why?")) is None

    @pytest.mark.parametrize(
        ("caller", "key", "tokens"),
        [
            (OPEN, "server", 1_000),
            (Caller(is_admin=True), "server", 1_000),
            (Caller("ada*", "ada*", key_id="1"), "key:1", 1_000),
            (Caller("ada*", "ada*", key_id="1", daily_token_budget=50), "key:1", 50),
        ],
    )
    def test_a_key_has_a_budget_for_all_names_and_a_server_without_keys_one_for_all(
        self, budgets: Budgets, caller: Caller, key: str, tokens: int
    ) -> None:
        assert budgets.daily_tokens(caller) == tokens
        for name in ("ada 1", "ada 2"):
            assert budgets.charge(caller, Run("why?", conversation=name), []).key == key

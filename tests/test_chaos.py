"""Servers are killed, at a small size; and the judge of what is left sees each thing that could be wrong."""

import math
import random
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from server.model import Failure, Message, Run
from tests.chaos import judging
from tests.chaos.asking import Ask
from tests.chaos.judging import Kill, Talk, stages, violations
from tests.chaos.rounds import Outcome, Plan, play
from tests.chaos.upstream import Call
from tests.redis_server import needs_redis

SQLITE = Plan("SQLite", "sqlite", servers=1, workers=(1,), kills=5)
REDIS = Plan("Redis", "redis", servers=2, workers=(1,), kills=2)
SEED = random.randrange(1_000_000)


@pytest.fixture(scope="module")
def rounds() -> Iterator[dict[str, Future[Outcome]]]:
    """Both at once, since they mostly wait for servers to start."""
    with ThreadPoolExecutor(2) as threads:
        yield {plan.store: threads.submit(play, plan, SEED) for plan in (SQLITE, REDIS)}


def test_nothing_is_lost_where_a_server_on_sqlite_is_killed(rounds: dict[str, Future[Outcome]]) -> None:
    outcome = rounds["sqlite"].result()
    assert outcome.violations == [], f"SEED={SEED}"
    assert outcome.stages["while writing"] >= SQLITE.kills
    assert outcome.counts["answered"] > 0


@needs_redis
def test_nothing_is_lost_where_one_of_two_servers_or_redis_itself_is_killed(
    rounds: dict[str, Future[Outcome]],
) -> None:
    outcome = rounds["redis"].result()
    assert outcome.violations == [], f"SEED={SEED}"
    assert outcome.stages["while writing"] >= REDIS.kills
    assert outcome.counts["answered"] > 0


def said(*contents: str) -> list[tuple[str, str]]:
    return [(("user", "assistant")[place % 2], content) for place, content in enumerate(contents)]


ASKS = [
    Ask("ada", "Q1", "id", "a", sent=10, known=14, done=14, answer="A1"),
    Ask("ada", "Q2", None, "a", sent=20, done=25.1, failure="cut"),
    Ask("ada", "Q2", None, "a", sent=30, known=34, done=34, answer="A3"),
    Ask("ada", "Q3", None, "a", sent=40, known=41.1, done=45.1, run_id="run 4", failure="cut"),
]
CALLS = [
    Call("a", said("Q1"), "A1", heard=12, ended=12.5),
    Call("a", said("Q1", "A1", "Q2"), "A2", heard=22, ended=25.2),
    Call("a", said("Q1", "A1", "Q2"), "A3", heard=32, ended=32.5),
    Call("a", said("Q1", "A1", "Q2", "A3", "Q3"), "A4", heard=42, ended=None),
]
RUNS = [
    Run("Q1", "id", created=11, id="run 1").ending("completed", 13, text="A1"),
    Run("Q2", None, created=21, id="run 2").ending("interrupted", 31, text="A"),
    Run("Q2", None, created=31, id="run 3").ending("completed", 33, text="A3", collected=True),
    Run("Q3", None, created=41, id="run 4").ending("interrupted", 60),
]
HISTORY = [message for run in RUNS for message in run.exchange()]
KILLS = [Kill(25, "a", frozenset("a"), is_writing=True), Kill(45, "a", frozenset("a"), is_writing=True)]
GOOD = Talk("ada", ASKS, CALLS, RUNS, HISTORY, KILLS, frozenset({"run_interrupted"}))


def test_the_judge_finds_nothing_where_all_is_well() -> None:
    assert violations(GOOD) == []


def with_run(place: int, **changes: Any) -> list[Run]:
    return [replace(run, **changes) if run is RUNS[place] else run for run in RUNS]


def with_call(place: int, **changes: Any) -> list[Call]:
    return [replace(call, **changes) if call is CALLS[place] else call for call in CALLS]


def with_ask(place: int, **changes: Any) -> list[Ask]:
    return [replace(ask, **changes) if ask is ASKS[place] else ask for ask in ASKS]


def turn(question: str, reply: str, run_id: str) -> list[Message]:
    return [Message.of("user", question, run_id, 1.0), Message.of("assistant", reply, run_id, 1.0)]


BROKEN: dict[judging.Rule, dict[str, dict[str, Any]]] = {
    judging.the_history_is_made_of_whole_turns_each_of_a_run_of_its_own: {
        "half a turn": {"history": HISTORY[:3]},
        "a completed run without its turn": {"history": HISTORY[:2]},
        "two turns of one run": {"history": [*HISTORY, *turn("Q2", "A3", "run 3")]},
        "a turn of a run that was interrupted": {"runs": with_run(2, status="interrupted")},
        "a turn with another reply than its run": {"history": [*HISTORY[:2], *turn("Q2", "A2", "run 3")]},
    },
    judging.every_answer_is_in_the_history_exactly_once: {
        "an answer that was lost": {"history": HISTORY[:2], "runs": RUNS[:2]},
        "an answer that is there twice": {"history": [*HISTORY, *turn("Q2", "A3", "run 5")]},
        "two answers for one request id": {"asks": [*ASKS, Ask("ada", "Q1", "id", "a", 70, 71, 71, answer="A9")]},
    },
    judging.every_turn_was_asked_for_and_answered_by_the_upstream_once: {
        "a turn that nobody asked for": {"history": [*HISTORY, *turn("Q9", "A4", "run 5")]},
        "a reply that is not whole": {"history": [*HISTORY, *turn("Q3", "A", "run 4")]},
        "two turns for one request id": {
            "history": [*HISTORY, *turn("Q1", "A9", "run 5")],
            "calls": [*CALLS, Call("a", said("Q1"), "A9", 70, 71)],
        },
    },
    judging.turns_and_runs_are_in_the_order_in_which_clients_saw_them: {
        "turns in another order than their runs": {"history": HISTORY[2:] + HISTORY[:2]},
        "turns in another order than their answers": {
            "history": HISTORY[2:] + HISTORY[:2],
            "runs": [RUNS[1], RUNS[2], RUNS[0], RUNS[3]],
        },
        "a question begun before one that was accepted earlier": {"runs": [RUNS[3], *RUNS[:3]]},
    },
    judging.every_accepted_question_has_a_run_that_has_ended: {
        "an accepted question that vanished": {"runs": RUNS[:3]},
        "a 200 that was cut, of nothing completed": {"asks": with_ask(3, status=200, run_id=None)},
        "a 202 that was cut, of nothing at all": {"asks": with_ask(3, status=202, run_id=None), "runs": RUNS[:3]},
        "a failure that is not listed": {
            "asks": with_ask(3, run_id=None, known=math.inf, failure="run_interrupted"),
            "runs": RUNS[:3],
        },
        "a run that is open": {"runs": with_run(3, status="running", ended=None)},
        "a run that failed for another reason": {
            "runs": with_run(3, status="failed", failure=Failure("internal_error", "Oh."))
        },
        "a run that was cancelled": {"runs": with_run(3, status="cancelled")},
    },
    judging.a_question_is_begun_once_for_each_time_that_it_had_to_be_asked: {
        "a run that nobody asked for": {"runs": with_run(2, created=27)},
        "two runs for one request": {"runs": [*RUNS, replace(RUNS[3], id="run 5", created=42)]},
        "a run for a request id that was answered": {
            "asks": [*ASKS, Ask("ada", "Q1", "id", "a", 70, 79, 79, answer="A1")],
            "runs": [*RUNS, replace(RUNS[0], id="run 5", created=71)],
        },
        "a reply written again that could be collected": {"runs": with_run(1, status="completed", collected=False)},
    },
    judging.every_call_is_of_a_run_that_was_written_down_and_made_once: {
        "a call of a question that was not written down": {"runs": [RUNS[0], *RUNS[2:]]},
        "a call too many": {"calls": [*CALLS, replace(CALLS[3], heard=43)]},
        "a reply of another call": {"calls": with_call(2, reply="A5")},
        "the beginning of another reply": {"runs": with_run(1, text="B")},
    },
    judging.every_call_saw_exactly_the_history_before_it: {
        "a turn was missing": {"calls": with_call(3, messages=said("Q1", "A1", "Q3"))},
        "what was interrupted was there": {"calls": with_call(2, messages=said("Q1", "A1", "Q2", "A", "Q2"))},
    },
    judging.one_reply_is_written_at_a_time: {"two calls at once": {"calls": with_call(0, ended=23)}},
    judging.every_failure_is_explained_by_a_kill: {
        "a failure of another kind": {"asks": with_ask(1, failure="internal_error")},
        "a connection that broke by itself": {"kills": KILLS[1:]},
        "a run that was interrupted while its server lived": {"runs": with_run(1, ended=24)},
        "no answer for too long": {"asks": with_ask(1, failure="hung")},
    },
}


@pytest.mark.parametrize(
    ("rule", "wrong"),
    [pytest.param(rule, wrong, id=name) for rule, wrongs in BROKEN.items() for name, wrong in wrongs.items()],
)
def test_the_judge_finds(rule: judging.Rule, wrong: dict[str, Any]) -> None:
    assert list(rule(GOOD)) == []
    assert list(rule(replace(GOOD, **wrong)))


def test_each_rule_is_asked_and_is_known_to_be_breakable() -> None:
    assert list(BROKEN) == list(judging.RULES)


@pytest.mark.parametrize(
    ("at", "stage"),
    [(15, set()), (20.5, {"before begin"}), (21.5, {"waiting"}), (22.5, {"while writing"}), (33.5, {"after finish"})],
)
def test_a_kill_is_counted_by_how_far_the_questions_had_come(at: float, stage: set[str]) -> None:
    assert stages(Kill(at, "a", frozenset("a"), is_writing=False), [replace(GOOD, kills=[])]) == stage

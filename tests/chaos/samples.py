"""Invented evidence: of sound servers, and of servers with each fault that the checks must find."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from server.domain import Message, Run, RunError
from tests.chaos import checks
from tests.chaos.clients import Ask
from tests.chaos.evidence import Evidence, Kill
from tests.chaos.upstream import Call

T = TypeVar("T")
UNAVAILABLE = RunError("store_unavailable", "Later.")


def make_messages(*contents: str) -> list[tuple[str, str]]:
    return [(("user", "assistant")[index % 2], content) for index, content in enumerate(contents)]


def make_turn(question: str, reply: str, run_id: str) -> list[Message]:
    return [Message.of("user", question, run_id, 1.0), Message.of("assistant", reply, run_id, 1.0)]


def kill_server(life: str, start: float) -> Kill:
    return Kill(start, start + 0.3, life, frozenset({life}), is_running=True)


def kill_redis(start: float) -> Kill:
    return Kill(start, start + 1, "redis", frozenset({"a.1", "b.1"}), is_running=True)


SQLITE = Evidence(
    "ada",
    [
        Ask("ada", "Q1", "id", "a.1", sent=10, known=14, done=14, answer="A1"),
        Ask("ada", "Q2", None, "a.1", sent=20, done=25.1, error="broken"),
        Ask("ada", "Q2", None, "a.2", sent=30, known=34, done=34, answer="A3"),
        Ask("ada", "Q3", None, "a.2", sent=40, known=41.1, done=45.1, run_id="run 4", error="broken"),
    ],
    [
        Call("a.1", make_messages("Q1"), "A1", received=12, ended=12.5),
        Call("a.1", make_messages("Q1", "A1", "Q2"), "A2", received=22, ended=25.2),
        Call("a.2", make_messages("Q1", "A1", "Q2"), "A3", received=32, ended=32.5),
        Call("a.2", make_messages("Q1", "A1", "Q2", "A3", "Q3"), "A4", received=42, ended=None),
    ],
    [
        Run("Q1", "id", created=11, id="run 1").ended_as("completed", 13, text="A1"),
        Run("Q2", None, created=21, id="run 2").ended_as("interrupted", 31, text="A"),
        Run("Q2", None, created=31, id="run 3").ended_as("completed", 33, text="A3", delivered=True),
        Run("Q3", None, created=41, id="run 4").ended_as("interrupted", 60),
    ],
    [*make_turn("Q1", "A1", "run 1"), *make_turn("Q2", "A3", "run 3")],
    [kill_server("a.1", 25), kill_server("a.2", 45)],
    frozenset({"run_interrupted"}),
)
"""A server that was killed twice, each time during a reply."""

REDIS = Evidence(
    "bob",
    [
        Ask("bob", "Q1", "id", "a.1", sent=10, done=13.5, error="store_unavailable"),
        Ask("bob", "Q2", None, "b.1", sent=20, known=24, done=24, run_id="run 2", answer="B1"),
        Ask("bob", "Q1", "id", "a.1", sent=30, known=34, done=34, answer="B2"),
    ],
    [
        Call("a.1", make_messages("Q1"), "B0", received=12, ended=13.5),
        Call("b.1", make_messages("Q2"), "B1", received=22, ended=22.5),
        Call("a.1", make_messages("Q2", "B1", "Q1"), "B2", received=32, ended=32.5),
    ],
    [
        Run("Q1", "id", created=11, id="run 1").ended_as("failed", 14, error=UNAVAILABLE),
        Run("Q2", None, created=21, id="run 2").ended_as("completed", 23, text="B1", delivered=True),
        Run("Q1", "id", created=31, id="run 3").ended_as("completed", 33, text="B2"),
    ],
    [*make_turn("Q2", "B1", "run 2"), *make_turn("Q1", "B2", "run 3")],
    [kill_redis(13)],
    frozenset({"run_interrupted", "store_unavailable"}),
)
"""Two servers over a Redis that was killed. One life of a server creates two runs of the same question."""


def replace_one(items: Sequence[T], index: int, **changes: Any) -> list[T]:
    return [replace(each, **changes) if each is items[index] else each for each in items]  # type: ignore[type-var]


def ada(**changes: Any) -> Evidence:
    return replace(SQLITE, **changes)


def with_ask(index: int, **changes: Any) -> Evidence:
    return ada(asks=replace_one(SQLITE.asks, index, **changes))


def with_call(index: int, **changes: Any) -> Evidence:
    return ada(calls=replace_one(SQLITE.calls, index, **changes))


def with_run(index: int, **changes: Any) -> Evidence:
    return ada(runs=replace_one(SQLITE.runs, index, **changes))


def and_ask(*ask: Any, **more: Any) -> Evidence:
    return ada(asks=[*SQLITE.asks, Ask("ada", *ask, **more)])


def and_call(*call: Any) -> Evidence:
    return ada(calls=[*SQLITE.calls, Call(*call)])


def and_turn(*turned: str, **more: Any) -> Evidence:
    return ada(history=[*SQLITE.history, *make_turn(*turned)], **more)


def bob(**changes: Any) -> Evidence:
    return replace(REDIS, **changes)


def bobs_call(index: int, **changes: Any) -> Evidence:
    return bob(calls=replace_one(REDIS.calls, index, **changes))


SOUND = {
    "a server that is killed": SQLITE,
    "a Redis that is killed": REDIS,
    "a request of a server is heard when it is gone": with_call(1, received=25.31, ended=25.4),
    "a request of a server is heard when the next life has its reply": with_call(1, received=33, ended=33),
    "a request of a server is heard while the next life is answered": with_call(1, received=32.1, ended=None),
    "calls are noted in another order": ada(calls=SQLITE.calls[::-1]),
    "a reply is written on for a server that is gone": with_call(1, ended=70),
    "a kill takes its time, while another question is sent": and_ask("Q4", None, "a.1", 25.1, done=26, error="broken"),
    "a run is begun when the kill of its server has begun": ada(kills=[kill_server("a.1", 20.8), SQLITE.kills[1]]),
    "a connection breaks when its server is long gone": with_ask(1, done=29),
    "a run was killed before it asked anything": ada(
        calls=[SQLITE.calls[0], *SQLITE.calls[2:]], runs=replace_one(SQLITE.runs, 1, text="")
    ),
    "a request of a run that failed is heard when the same is asked again": bobs_call(0, received=31.5, ended=31.6),
    "the requests of two runs of one question are noted in another order": bob(calls=REDIS.calls[::-1]),
    "the first of two runs of one question asked nothing": bob(calls=REDIS.calls[1:]),
    "a lease passes while Redis is gone, and its writer does not know yet": bob(
        runs=replace_one(REDIS.runs, 0, status="interrupted", error=None, ended=20.9),
        calls=replace_one(REDIS.calls, 0, ended=22.1),
    ),
}
"""Evidence of servers without a fault. It looks faulty if recorded times are taken for exact."""

BROKEN: dict[checks.Rule, dict[str, Evidence]] = {
    checks.the_history_is_made_of_whole_turns_each_of_a_run_of_its_own: {
        "half a turn": ada(history=SQLITE.history[:3]),
        "a completed run without its turn": ada(history=SQLITE.history[:2]),
        "two turns of one run": and_turn("Q2", "A3", "run 3"),
        "a turn of a run that was interrupted": with_run(2, status="interrupted"),
        "a turn with another reply than its run": ada(history=[*SQLITE.history[:2], *make_turn("Q2", "A2", "run 3")]),
    },
    checks.every_answer_is_in_the_history_exactly_once: {
        "an answer that was lost": ada(history=SQLITE.history[:2], runs=SQLITE.runs[:2]),
        "an answer that is there twice": and_turn("Q2", "A3", "run 5"),
        "two answers for one request id": and_ask("Q1", "id", "a.2", 70, 71, 71, answer="A9"),
        "an answer to another question": with_ask(2, answer="A1"),
        "an answer to another client": with_ask(2, answer="B1"),
        "an answer of a call whose run was interrupted": with_ask(2, answer="A2"),
        "an answer of another run than the one that was told": with_ask(2, run_id="run 1"),
        "an answer of another client's run": with_ask(2, run_id="run of bob"),
    },
    checks.every_turn_was_asked_for_and_answered_by_the_upstream_once: {
        "a turn that nobody asked for": and_turn("Q9", "A4", "run 5"),
        "a reply that is not whole": and_turn("Q3", "A", "run 4"),
        "a reply to another question": and_turn("Q3", "A1", "run 4"),
        "two turns for one request id": and_turn(
            "Q1", "A9", "run 5", calls=[*SQLITE.calls, Call("a.2", make_messages("Q1"), "A9", 70, 71)]
        ),
    },
    checks.turns_and_runs_are_in_the_order_in_which_clients_saw_them: {
        "turns in another order than their runs": ada(history=[*SQLITE.history[2:], *SQLITE.history[:2]]),
        "turns in another order than their answers": ada(
            history=[*SQLITE.history[2:], *SQLITE.history[:2]], runs=[SQLITE.runs[each] for each in (1, 2, 0, 3)]
        ),
        "a question begun before one that was accepted earlier": ada(runs=[SQLITE.runs[3], *SQLITE.runs[:3]]),
    },
    checks.every_accepted_question_has_a_run_that_has_ended: {
        "an accepted question that vanished": ada(runs=SQLITE.runs[:3]),
        "a question accepted as that of another client": with_ask(3, run_id="run of bob"),
        "a question accepted as another one": with_ask(3, run_id="run 3"),
        "a 200 that was cut, of nothing completed": with_ask(3, status=200, run_id=None),
        "a 202 that was cut, of nothing at all": ada(
            asks=replace_one(SQLITE.asks, 3, status=202, run_id=None), runs=SQLITE.runs[:3]
        ),
        "a failure that is not listed": ada(
            asks=replace_one(SQLITE.asks, 3, run_id=None, known=math.inf, error="run_interrupted"), runs=SQLITE.runs[:3]
        ),
        "a run that is open": with_run(3, status="running", ended=None),
        "a run that failed for another reason": with_run(3, status="failed", error=RunError("internal_error", "Oh.")),
        "a run that was cancelled": with_run(3, status="cancelled"),
    },
    checks.a_question_is_begun_once_for_each_time_that_it_had_to_be_asked: {
        "a run that nobody asked for": with_run(2, created=27),
        "two runs for one request": ada(runs=[*SQLITE.runs, replace(SQLITE.runs[3], id="run 5", created=42)]),
        "a run for a request id that was answered": ada(
            asks=[*SQLITE.asks, Ask("ada", "Q1", "id", "a.2", 70, 79, 79, answer="A1")],
            runs=[*SQLITE.runs, replace(SQLITE.runs[0], id="run 5", created=71)],
        ),
        "a reply written again that could be collected": with_run(1, status="completed", delivered=False),
    },
    checks.every_call_is_of_a_run_that_was_written_down_and_made_once: {
        "a call of a question that was not written down": ada(runs=[SQLITE.runs[0], *SQLITE.runs[2:]]),
        "a call before its question was written down": with_call(3, received=40.9),
        "a call too many": and_call("a.2", make_messages("Q1", "A1", "Q2", "A3", "Q3"), "A9", 43, None),
        "a second call for a reply that was completed": and_call("a.1", make_messages("Q1"), "A9", 12.6, 12.9),
        "a second call by another life": and_call("a.2", make_messages("Q1"), "A9", 50, 51),
        "a second call by another server": and_call("b.1", make_messages("Q1"), "A9", 12.6, 12.9),
        "a call by another server than its run's": with_call(0, life="b.1"),
        "a reply of another call": with_call(2, reply="A5"),
        "a reply of another life's call": with_run(2, text="A2"),
        "the beginning of a reply, as if it were whole": with_run(2, text="A"),
        "the beginning of another reply": with_run(1, text="B"),
        "a text without a call": ada(calls=[SQLITE.calls[0], *SQLITE.calls[2:]]),
        "three calls for two runs of one question": bob(
            calls=[*REDIS.calls, Call("a.1", make_messages("Q2", "B1", "Q1"), "B9", 33, 33.5)]
        ),
        "two calls for the second of two runs of one question": bob(
            calls=replace_one(REDIS.calls, 0, received=32.6, ended=32.9), runs=replace_one(REDIS.runs, 0, text="C")
        ),
        "a reply of two runs": bob(runs=replace_one(REDIS.runs, 0, text="B2")),
    },
    checks.every_call_saw_exactly_the_history_before_it: {
        "a turn was missing": with_call(3, messages=make_messages("Q1", "A1", "Q3")),
        "what was interrupted was there": with_call(2, messages=make_messages("Q1", "A1", "Q2", "A", "Q2")),
        "a turn of another client was there": with_call(2, messages=make_messages("Q1", "B1", "Q2")),
        "a later turn was there": with_call(1, messages=make_messages("Q1", "A1", "Q2", "A3", "Q2")),
        "the question in another role": with_call(0, messages=[("system", "Q1")]),
        "the second of two runs of one question saw what the first did": bobs_call(2, messages=make_messages("Q1")),
        "both of two runs of one question saw what the second did": bobs_call(
            0, messages=make_messages("Q2", "B1", "Q1")
        ),
    },
    checks.one_reply_is_written_at_a_time: {
        "two calls at once": with_call(0, ended=23),
        "two calls at once, though a server is killed later": with_call(1, received=12.1),
        "two calls at once, though another server is killed": ada(
            calls=replace_one(SQLITE.calls, 0, ended=33), kills=[*SQLITE.kills, kill_server("b.1", 12)]
        ),
        "two calls at once, though Redis was killed": bobs_call(1, received=32.1),
        "two calls at once before Redis was killed": bob(calls=replace_one(REDIS.calls, 1, received=12.1)),
    },
    checks.every_failure_is_explained_by_a_kill: {
        "a failure of another kind": with_ask(1, error="internal_error"),
        "a connection that broke by itself": ada(kills=SQLITE.kills[1:]),
        "a connection that broke before the kill": with_ask(1, done=24.9),
        "a connection that broke when another server was killed": with_ask(1, life="b.1"),
        "a connection that broke when Redis was killed": bob(asks=replace_one(REDIS.asks, 0, error="broken")),
        "a run that was interrupted while its server lived": with_run(1, ended=24),
        "a run that was interrupted by an earlier kill": ada(kills=[kill_server("a.1", 5), SQLITE.kills[1]]),
        "a run that was interrupted when another server was killed": ada(
            asks=replace_one(SQLITE.asks, 1, error="left"), kills=[kill_server("b.1", 25), SQLITE.kills[1]]
        ),
        "no answer for too long": with_ask(1, error="timeout"),
        "an interruption before anything was killed": with_ask(0, error="run_interrupted"),
        "a store that is away by itself": bob(kills=[kill_server("b.1", 13)]),
        "a store that is away where it cannot be": with_ask(2, error="store_unavailable"),
        "a run that failed when Redis was back": bob(runs=replace_one(REDIS.runs, 0, created=14.1)),
    },
}

"""Invented evidence of sound servers, and what evidence of faults is made of."""

from dataclasses import replace
from typing import Any

from server.domain import Run, RunError
from tests.chaos.replacements.clients import Request, ShownMessage
from tests.chaos.replacements.evidence import Evidence
from tests.chaos.samples import kill_redis, kill_server, make_messages, make_turn, replace_one
from tests.chaos.upstream import Call

INTERRUPTED = RunError("run_interrupted", "Again.")
NOT_LAST = RunError("not_the_last_turn", "Look.")


def request(kind: Any, sent: float, done: float, life: str = "a.1", **fields: Any) -> Request:
    return Request(kind, "eve", life, sent, done=done, **fields)


def shown(question: str, reply: str, run_id: str) -> list[ShownMessage]:
    return [ShownMessage("user", question, run_id), ShownMessage("assistant", reply, run_id)]


SQLITE = Evidence(
    "eve",
    [
        request("ask", 10, 11.5, question="Q1", told="run 1"),
        request("read", 11.6, 14, run_id="run 1", end="END", text="A1"),
        request("messages", 15, 15.5, shown=shown("Q1", "A1", "run 1")),
        request("regenerate", 20, 21.5, run_id="run 1", told="run 2"),
        request("regenerate", 20.1, 21.6, told="run 2"),
        request("read", 21.6, 25.1, run_id="run 2", error="broken"),
        request("edit", 30, 31.5, "a.2", run_id="run 1", question="Q2", told="run 3"),
        request("read", 31.6, 34, "a.2", run_id="run 3", end="END", text="A3"),
        request("regenerate", 35, 35.5, "a.2", run_id="run 1", error="not_the_last_turn"),
        request("regenerate", 40, 41.5, "a.2", told="run 4"),
        request("edit", 41.6, 42.5, "a.2", run_id="run 3", question="Q3", told="run 5"),
        request("stop", 43, 44, "a.2", run_id="run 4"),
        request("read", 44.1, 45, "a.2", run_id="run 4", end="STOPPED", text="A"),
        request("ask", 50, 51.5, "a.2", question="Q4", told="run 6"),
        request("stop", 52, 53, "a.2", run_id="run 6"),
        request("messages", 54, 54.5, "a.2", shown=shown("Q4", "A6", "run 6")),
    ],
    [
        Call("a.1", make_messages("Q1"), "A1", received=12, ended=13),
        Call("a.1", make_messages("Q1"), "A2", received=22, ended=25.2),
        Call("a.2", make_messages("Q2"), "A3", received=32, ended=33),
        Call("a.2", make_messages("Q2"), "A4", received=42, ended=43.5),
        Call("a.2", make_messages("Q3"), "A5", received=44, ended=45),
        Call("a.2", make_messages("Q3", "A5", "Q4"), "A6 and more", received=52, ended=53),
    ],
    [
        Run("Q1", created=11, id="run 1").ended_as("completed", 13, text="A1"),
        Run("Q1", created=21, id="run 2", replaces="run 1").ended_as("interrupted", 31, text="A", error=INTERRUPTED),
        Run("Q2", created=31, id="run 3", replaces="run 1").ended_as("completed", 33, text="A3"),
        Run("Q2", created=41, id="run 4", replaces="run 3").ended_as("cancelled", 43.5, text="A"),
        Run("Q3", created=42, id="run 5", replaces="run 3").ended_as("completed", 45, text="A5"),
        Run("Q4", created=51, id="run 6").ended_as("cancelled", 52.5, text="A6"),
    ],
    [*make_turn("Q3", "A5", "run 5"), *make_turn("Q4", "A6", "run 6")],
    [kill_server("a.1", 25)],
    frozenset({"run_interrupted"}),
)
"""A turn is regenerated until the server is killed, edited, regenerated until that is stopped, and edited meanwhile."""

REDIS = Evidence(
    "bob",
    [
        request("ask", 10, 11.5, question="Q1", told="run 1"),
        request("read", 11.6, 14, run_id="run 1", end="END", text="B1"),
        request("regenerate", 20, 21.5, run_id="run 1", told="run 2"),
        request("edit", 20, 21.5, "b.1", run_id="run 1", question="Q2", told="run 3"),
        request("read", 22, 26, "b.1", run_id="run 3", error="not_the_last_turn"),
        request("regenerate", 23.9, 24.2, error="not_the_last_turn"),
        request("read", 22, 24.5, run_id="run 2", end="END", text="B2"),
        request("regenerate", 30, 35.5, "b.1", error="store_unavailable"),
        request("messages", 36, 36.5, "b.1", error="store_unavailable"),
    ],
    [
        Call("a.1", make_messages("Q1"), "B1", received=12, ended=13),
        Call("a.1", make_messages("Q1"), "B2", received=22, ended=23),
    ],
    [
        Run("Q1", created=11, id="run 1").ended_as("completed", 13, text="B1"),
        Run("Q1", created=21, id="run 2", replaces="run 1").ended_as("completed", 24, text="B2"),
        Run("Q2", created=21, id="run 3", replaces="run 1").ended_as("failed", 25, error=NOT_LAST),
    ],
    make_turn("Q1", "B2", "run 2"),
    [kill_redis(32)],
    frozenset({"run_interrupted", "store_unavailable"}),
)
"""Two clients replace one turn at once, at two servers over a Redis that is killed."""


def eve(**changes: Any) -> Evidence:
    return replace(SQLITE, **changes)


def with_request(index: int, **changes: Any) -> Evidence:
    return eve(requests=replace_one(SQLITE.requests, index, **changes))


def with_call(index: int, **changes: Any) -> Evidence:
    return eve(calls=replace_one(SQLITE.calls, index, **changes))


def with_run(index: int, **changes: Any) -> Evidence:
    return eve(runs=replace_one(SQLITE.runs, index, **changes))


def and_request(*values: Any, **fields: Any) -> Evidence:
    return eve(requests=[*SQLITE.requests, request(*values, **fields)])


def and_run(question: str, replaced: str | None, status: Any, *, created: float = 60, **fields: Any) -> Evidence:
    run = Run(question, created=created, id="run 7", replaces=replaced).ended_as(status, created + 2, **fields)
    return eve(runs=[*SQLITE.runs, run])


def with_history(*turns: tuple[str, str, str]) -> Evidence:
    return eve(history=[message for turn in turns for message in make_turn(*turn)])


def bob(**changes: Any) -> Evidence:
    return replace(REDIS, **changes)


def bobs_request(index: int, **changes: Any) -> Evidence:
    return bob(requests=replace_one(REDIS.requests, index, **changes))


ASKED_AGAIN = eve(
    requests=[*SQLITE.requests, request("ask", 60, 61.5, "a.2", question="Q1", told="run 7")],
    calls=[*SQLITE.calls, Call("a.2", make_messages("Q3", "A5", "Q4", "A6", "Q1"), "A7", 62, 63)],
    runs=and_run("Q1", None, "completed", text="A7").runs,
    history=[*SQLITE.history, *make_turn("Q1", "A7", "run 7")],
)

SOUND = {
    "a question that is asked again": ASKED_AGAIN,
    "a question that is interrupted": replace(
        ASKED_AGAIN,
        runs=and_run("Q1", None, "interrupted", text="A", error=INTERRUPTED).runs,
        calls=replace_one(ASKED_AGAIN.calls, 6, reply="A and more"),
        kills=[*SQLITE.kills, kill_server("a.2", 61.7)],
        history=SQLITE.history,
    ),
    "a question that is stopped before it is answered": replace(
        ASKED_AGAIN,
        requests=[*ASKED_AGAIN.requests, request("stop", 61, 63, "a.2", run_id="run 7")],
        runs=and_run("Q1", None, "cancelled").runs,
        history=SQLITE.history,
    ),
    "the turn before is shown when a replacement was stopped": and_request(
        "messages", 45.05, 45.2, "a.2", shown=shown("Q2", "A3", "run 3")
    ),
    "a server that is killed": SQLITE,
    "a Redis that is killed": REDIS,
    "a second request for the same is asked again after the kill": eve(
        requests=[*SQLITE.requests, request("regenerate", 30.1, 31.4, "a.2", run_id="run 1", told="run 7")],
        runs=[
            *SQLITE.runs[:2],
            Run("Q1", created=30.9, id="run 7", replaces="run 1").ended_as("interrupted", 31, error=INTERRUPTED),
            *SQLITE.runs[2:],
        ],
        kills=[*SQLITE.kills, kill_server("a.2", 30.95)],
    ),
    "a request of a killed run is heard late": with_call(1, received=31.5, ended=31.6),
    "a run was killed before it asked anything": eve(
        calls=[SQLITE.calls[0], *SQLITE.calls[2:]], runs=replace_one(SQLITE.runs, 1, text="")
    ),
    "an older turn is shown while nobody knows of the newer one": and_request(
        "messages", 31.7, 33.5, "a.2", shown=shown("Q1", "A1", "run 1")
    ),
    "a conversation without a turn is shown": and_request("messages", 9, 9.5),
    "a client leaves": and_request("leave", 44.1, 44.2, "a.2", run_id="run 4"),
}
"""Evidence of servers without a fault."""

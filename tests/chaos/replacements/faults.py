"""Invented evidence of servers with each fault that the rules must find."""

from dataclasses import replace

from server.domain import RunError
from tests.chaos.replacements import checks
from tests.chaos.replacements.evidence import Evidence, shown_by
from tests.chaos.replacements.samples import (
    ASKED_AGAIN,
    NOT_LAST,
    REDIS,
    SQLITE,
    and_request,
    and_run,
    bob,
    bobs_request,
    eve,
    request,
    shown,
    with_call,
    with_history,
    with_request,
    with_run,
)
from tests.chaos.samples import kill_server, make_messages, make_turn, replace_one
from tests.chaos.upstream import Call

LAST = ("Q4", "A6", "run 6")
AFTER_RUN_5 = shown_by(SQLITE.runs[4])
UNHARMED = replace_one(SQLITE.requests, 5, error=None)

BROKEN: dict[checks.Rule, dict[str, Evidence]] = {
    checks.the_history_is_what_its_runs_in_their_order_make_of_it: {
        "a replaced turn is still there": with_history(("Q2", "A3", "run 3"), ("Q3", "A5", "run 5"), LAST),
        "a replaced turn came back": with_history(("Q2", "A3", "run 3"), LAST),
        "a new turn is missing": with_history(LAST),
        "a new turn is at the end": with_history(LAST, ("Q3", "A5", "run 5")),
        "a new turn is there twice": with_history(("Q3", "A5", "run 5"), ("Q3", "A5", "run 5"), LAST),
        "the text of a stopped question is missing": with_history(("Q3", "A5", "run 5")),
        "a new reply has the old question": with_history(("Q2", "A5", "run 5"), LAST),
        "half a turn is missing": eve(history=SQLITE.history[:3]),
    },
    checks.a_turn_is_replaced_once_and_only_while_it_is_the_last_one: {
        "a turn that was replaced before": and_run("Q1", "run 1", "completed", text="A9"),
        "two replacements at once": bob(runs=replace_one(REDIS.runs, 2, status="completed", text="B3")),
        "a turn that another one follows": and_run("Q3", "run 5", "completed", text="A9"),
        "a turn of a run that was interrupted": and_run("Q1", "run 2", "completed", text="A9"),
    },
    checks.equal_requests_to_replace_a_turn_join_one_run: {
        "a second run while the first one was executing": bob(
            requests=replace_one(REDIS.requests, 3, question="Q1", done=21.9),
            runs=replace_one(REDIS.runs, 2, question="Q1"),
        ),
        "a second run though the first one was completed": eve(
            requests=[*SQLITE.requests, request("regenerate", 59, 61, "a.2", told="run 7")],
            runs=and_run("Q2", "run 1", "failed").runs,
        ),
    },
    checks.nothing_of_a_replacement_that_did_not_complete_is_in_the_history: {
        "an interrupted replacement": with_history(("Q1", "A", "run 2"), LAST),
        "a stopped replacement": with_history(("Q2", "A", "run 4"), LAST),
        "the question of a failed replacement": bob(history=make_turn("Q2", "B2", "run 3")),
        "the text of a stopped replacement in another turn": with_history(("Q3", "A", "run 5"), LAST),
    },
    checks.every_call_is_of_one_run_and_every_reply_of_one_call: {
        "a call of a run that was not written down": eve(runs=[SQLITE.runs[0], *SQLITE.runs[2:]]),
        "a second call for one run": eve(calls=[*SQLITE.calls, Call("a.2", make_messages("Q2"), "A9", 43, 43.5)]),
        "a call for each of two requests that joined": eve(
            calls=[*SQLITE.calls, Call("a.1", make_messages("Q1"), "A9", 22, 23)]
        ),
        "a call before its run was written down": with_call(4, received=41.9),
        "a call by another server than its run's": with_call(2, life="b.1"),
        "a call for a run that came too late": bob(
            calls=[
                *REDIS.calls,
                Call("b.1", make_messages("Q2"), "B3", 22.5, 23),
                Call("b.1", [("user", "Q2")], "B4", 23, 24),
            ]
        ),
        "the old reply as the new one": with_run(2, text="A1"),
        "a part of a reply as if it were whole": with_run(4, text="A"),
        "a text without a call": eve(calls=[*SQLITE.calls[:3], *SQLITE.calls[4:]]),
        "a completed run without a call and a text": bob(
            calls=REDIS.calls[:1], runs=replace_one(REDIS.runs, 1, text="")
        ),
    },
    checks.every_call_saw_the_history_before_it_without_the_turn_that_it_replaces: {
        "the replaced turn": with_call(2, messages=make_messages("Q1", "A1", "Q2")),
        "the text of the stopped replacement": with_call(4, messages=make_messages("Q2", "A", "Q3")),
        "the turn that was replaced before": with_call(5, messages=make_messages("Q2", "A3", "Q4")),
        "both the old and the new turn": with_call(5, messages=make_messages("Q2", "A3", "Q3", "A5", "Q4")),
        "a turn too few": with_call(5, messages=make_messages("Q4")),
        "each of two runs of one question saw what the other one should": replace(
            ASKED_AGAIN,
            calls=[
                replace(ASKED_AGAIN.calls[0], messages=ASKED_AGAIN.calls[6].messages),
                *ASKED_AGAIN.calls[1:6],
                replace(ASKED_AGAIN.calls[6], messages=ASKED_AGAIN.calls[0].messages),
            ],
        ),
    },
    checks.every_run_was_asked_for_by_a_request_of_its_own: {
        "a run that nobody asked for": and_run("Q3", "run 5", "interrupted"),
        "a run of a request that had not been sent": with_run(4, created=41.55),
        "a run of a request to read": and_run("Q4", "run 6", "interrupted", created=54.2),
        "a second run of requests that were told the first one": and_run("Q1", "run 1", "interrupted", created=21.2),
        "a second run for one request": and_run("Q2", "run 3", "interrupted", created=41.1),
        "a run that replaces another turn than the request names": with_run(4, replaces="run 1"),
        "a regenerated turn with another question": with_run(3, question="Q9"),
        "a run for a request that was over": with_run(3, created=41.6),
    },
    checks.every_run_that_a_client_was_told_is_what_it_asked_for_and_has_ended: {
        "a run that has vanished": eve(runs=[*SQLITE.runs[:3], *SQLITE.runs[4:]]),
        "a run with another question": with_request(6, told="run 5"),
        "a run that replaces another turn": with_request(3, told="run 4"),
        "another question": with_request(13, told="run 1"),
        "a question that replaces a turn": with_request(13, told="run 5", question="Q3"),
        "a question that replaces none": with_request(4, told="run 1"),
        "a run that is open": with_run(1, status="running", ended=None),
    },
    checks.every_reply_that_a_client_read_is_its_runs_and_stays_until_it_is_replaced: {
        "another text than the run's": with_request(7, text="A4"),
        "a whole reply of a run that was interrupted": with_request(5, error=None, end="END", text="A2"),
        "a whole reply of a run that was stopped": with_request(12, end="END"),
        "an end of a run that was stopped, though it was completed": with_request(1, end="STOPPED"),
        "a reply of a run that has vanished": with_request(7, run_id="run 9"),
        "a reply that is neither there nor replaced": eve(
            requests=[*SQLITE.requests, request("read", 46, 47, run_id="run 5", end="END", text="A5")],
            history=make_turn(*LAST),
        ),
        "a reply that a run replaced which was stopped": eve(
            requests=SQLITE.requests, runs=replace_one(SQLITE.runs, 4, replaces="run 1")
        ),
    },
    checks.the_last_turn_that_a_client_is_shown_is_whole_and_no_older_than_what_it_knew: {
        "a replaced turn": and_request("messages", 34.1, 34.2, shown=shown("Q1", "A1", "run 1")),
        "a turn older than one that was shown": and_request("messages", 55, 56, shown=AFTER_RUN_5),
        "nothing at all": and_request("messages", 55, 56),
        "half a turn": and_request("messages", 55, 56, shown=shown(*LAST)[:1]),
        "halves of two turns": and_request("messages", 55, 56, shown=[AFTER_RUN_5[0], shown(*LAST)[1]]),
        "the question of the old turn": with_request(15, shown=shown("Q3", "A6", "run 6")),
        "a stopped replacement": with_request(15, shown=shown("Q2", "A", "run 4")),
        "a turn of no run": with_request(15, shown=shown("Q4", "A6", "run 9")),
    },
    checks.every_failure_is_explained_by_a_kill_or_by_another_turn: {
        "a connection that broke by itself": eve(kills=[]),
        "a connection that broke before the kill": with_request(5, done=24.9),
        "a connection that broke when Redis was killed": bobs_request(7, error="broken"),
        "no answer for too long": with_request(5, error="timeout"),
        "a store that is away by itself": bobs_request(7, done=31.9),
        "a store that is away where it cannot be": with_request(5, error="store_unavailable"),
        "a failure of another kind": with_request(8, error="internal_error"),
        "a refusal though the turn was the last one": with_request(8, run_id="run 6"),
        "a refusal before another turn took the place": with_request(8, sent=30, done=32.9),
        "a refusal of the last turn, whichever it was": with_request(8, run_id=None, sent=55, done=56),
        "a refusal of a run that is none": with_request(8, run_id="run 9"),
        "a refusal before another turn came, whichever was the last": bobs_request(5, done=23.95),
        "a refusal when another run had failed": bobs_request(5, sent=25.5, done=26),
        "a refusal by a stream of a run that did not fail": bobs_request(4, run_id="run 1"),
        "a failure of another kind when Redis was killed": bobs_request(7, error="internal_error"),
        "a stream of a run that was told and is not found": with_request(5, error="not_found"),
        "a run that was interrupted while its server lived": with_run(1, ended=24),
        "a run that was interrupted when another server was killed": eve(
            requests=UNHARMED, kills=[kill_server("b.1", 25)]
        ),
        "a run that was interrupted by an earlier kill": eve(requests=UNHARMED, kills=[kill_server("a.1", 5)]),
        "a run that failed because of another turn, without one": with_run(1, status="failed", error=NOT_LAST),
        "a question that failed because of another turn": with_run(0, status="failed", error=NOT_LAST),
        "a run that failed for another reason": with_run(1, status="failed", error=RunError("internal_error", "Oh.")),
        "a run that nobody stopped": with_request(11, kind="leave"),
        "a run that was stopped instead of another one": with_request(11, run_id="run 5"),
        "a run that was stopped before anybody did": with_run(3, ended=42.9),
    },
}

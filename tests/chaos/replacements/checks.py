"""The rules of replaced turns. Each yields a sentence for each violation.

As in `tests.chaos.checks`, times are bounds, and a rule yields only what no order of events within them explains.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from tests.chaos.checks import Violation, apply_rules
from tests.chaos.replacements.clients import Request
from tests.chaos.replacements.evidence import Evidence, shown_by

Rule = Callable[[Evidence], Iterator[str]]


def find_violations(evidence: Evidence) -> list[Violation]:
    return apply_rules(RULES, evidence.name, evidence)


def the_history_is_what_its_runs_in_their_order_make_of_it(evidence: Evidence) -> Iterator[str]:
    expected = [(each.role, each.content, each.run_id) for run in evidence.states[-1] for each in shown_by(run)]
    actual = [(each.role, each.content, each.run_id) for each in evidence.history]
    if actual != expected:
        pairs = zip(actual, expected, strict=False)
        index = next((index for index, pair in enumerate(pairs) if pair[0] != pair[1]), len(actual))
        yield f"it has {len(actual)} messages instead of {len(expected)}; the first other one is {actual[index:][:1]}"


def a_turn_is_replaced_once_and_only_while_it_is_the_last_one(evidence: Evidence) -> Iterator[str]:
    for run in evidence.runs:
        # A turn that was replaced is not the last one any more.
        if run.replaces and run.status == "completed" and not evidence.replaces_last_turn(run):
            yield f"{run.text!r} replaced the turn of {run.replaces}, which was not the last one"


def equal_requests_to_replace_a_turn_join_one_run(evidence: Evidence) -> Iterator[str]:
    same: dict[tuple[str, str], float] = defaultdict(float)
    for run in evidence.runs:
        if run.replaces:
            key = run.replaces, run.question
            told = min((each.done for each in evidence.requests if each.told == run.id), default=math.inf)
            if same[key] > told:
                yield f"{run.id} replaces the turn of {run.replaces}, as an earlier run did until {same[key]}"
            same[key] = max(same[key], math.inf if run.status == "completed" else run.ended or math.inf)


def nothing_of_a_replacement_that_did_not_complete_is_in_the_history(evidence: Evidence) -> Iterator[str]:
    ids, contents = ({getattr(each, name) for each in evidence.history} for name in ("run_id", "content"))
    for run in evidence.runs:
        if run.replaces and run.status != "completed" and (run.id in ids or run.text in contents):
            yield f"{run.text!r} is {run.status}, and in the history"


def every_call_is_of_one_run_and_every_reply_of_one_call(evidence: Evidence) -> Iterator[str]:
    for index, call in enumerate(evidence.calls):
        if index not in evidence.run_indexes:
            runs = [run.id for run in evidence.runs if run.question == call.question]
            yield f"{call.life} asked {call.question!r}; {call.reply!r} is of none of the {len(runs)} runs"
    known = set(evidence.run_indexes.values())
    for index, run in enumerate(evidence.runs):
        if index not in known and (run.text or run.status == "completed"):
            yield f"{run.id} is {run.status} with a text that was not written for it: {run.text!r}"


def every_call_saw_the_history_before_it_without_the_turn_that_it_replaces(evidence: Evidence) -> Iterator[str]:
    for index, run_index in evidence.run_indexes.items():
        if index not in evidence.run_indexes_by_history:
            call, run = evidence.calls[index], evidence.runs[run_index]
            yield f"{call.question!r} saw {call.messages[:-1]}, not {evidence.expected_messages(run)[:-1]}"


def every_run_was_asked_for_by_a_request_of_its_own(evidence: Evidence) -> Iterator[str]:
    for index, run in enumerate(evidence.runs):
        if index not in evidence.request_indexes:
            yield f"{run.id}, {run.question!r} instead of {run.replaces}, was begun when nobody asked for it"


def every_run_that_a_client_was_told_is_what_it_asked_for_and_has_ended(evidence: Evidence) -> Iterator[str]:
    for request in evidence.requests:
        if request.told is not None:
            run = evidence.find_run(request.told)
            if run is None:
                yield f"{request.told} was told to {request.kind}, and has vanished"
            elif not evidence.asks_for(request, run):
                yield f"{request.told} was told to {request.kind} {request.run_id}, and is another's"
    for run in evidence.runs:
        if run.is_open:
            yield f"{run.id} is still {run.status}"


def every_reply_that_a_client_read_is_its_runs_and_stays_until_it_is_replaced(evidence: Evidence) -> Iterator[str]:
    in_history = {each.run_id for each in evidence.history}
    replaced = {run.replaces for run in evidence.runs if run.status == "completed"}
    for request in evidence.requests:
        if request.end is not None:
            run = evidence.find_run(request.run_id)
            status = {"END": "completed", "STOPPED": "cancelled"}[request.end]
            if run is None or (run.status, run.text) != (status, request.text):
                found = (run.status, run.text) if run else "gone"
                yield f"{request.run_id} was read as {status} with {request.text!r}, and is {found}"
            elif evidence.takes_effect(run) and run.id not in in_history | replaced:
                yield f"{run.text!r} was read, and has vanished"


def the_last_turn_that_a_client_is_shown_is_whole_and_no_older_than_what_it_knew(evidence: Evidence) -> Iterator[str]:
    for request in evidence.requests:
        if request.kind != "messages" or request.error is not None:
            continue
        run = evidence.find_run(request.shown[-1].run_id) if request.shown else None
        if request.shown and (run is None or list(request.shown) != shown_by(run) or not evidence.takes_effect(run)):
            yield f"{request.shown} is no turn"
        elif (evidence.index_of[run.id] if run else -1) < evidence.find_known(request.sent):
            yield f"{request.shown} was shown when a newer turn was known"


def every_failure_is_explained_by_a_kill_or_by_another_turn(evidence: Evidence) -> Iterator[str]:
    for request in evidence.requests:
        if request.error is not None and not _is_explained(evidence, request):
            yield f"to {request.kind} {request.run_id} failed with {request.error} at {request.life}"
    for run in evidence.runs:
        code = run.error.code if run.error else None
        if run.status == "cancelled":
            stops = [each for each in evidence.requests if each.kind == "stop" and each.run_id == run.id]
            is_explained = any(each.sent <= (run.ended or 0.0) for each in stops)
        elif code == "not_the_last_turn":
            is_explained = run.replaces is not None and not evidence.replaces_last_turn(run)
        else:
            is_explained = run.status == "completed" or (code in evidence.error_codes and evidence.is_hit(run))
        if not is_explained:
            yield f"{run.id} is {run.status} with {code}, which nothing explains"


def _is_explained(evidence: Evidence, request: Request) -> bool:
    kills = [kill for kill in evidence.kills if kill.start <= request.done]
    run = evidence.find_run(request.run_id)
    if request.error == "broken":
        # A connection to a living server does not break.
        return any(kill.victim == request.life for kill in kills)
    if run is not None and run.error and run.error.code == request.error:
        return True  # It is the run that has to be explained.
    if request.error == "not_the_last_turn" and request.kind in ("regenerate", "edit"):
        index = evidence.find_known(request.sent) if request.run_id is None else evidence.index_of.get(request.run_id)
        return index is not None and evidence.has_turn_after(index, request.done)
    return request.error == "store_unavailable" and any(kill.victim == "redis" for kill in kills)


RULES: Sequence[Rule] = (
    the_history_is_what_its_runs_in_their_order_make_of_it,
    a_turn_is_replaced_once_and_only_while_it_is_the_last_one,
    equal_requests_to_replace_a_turn_join_one_run,
    nothing_of_a_replacement_that_did_not_complete_is_in_the_history,
    every_call_is_of_one_run_and_every_reply_of_one_call,
    every_call_saw_the_history_before_it_without_the_turn_that_it_replaces,
    every_run_was_asked_for_by_a_request_of_its_own,
    every_run_that_a_client_was_told_is_what_it_asked_for_and_has_ended,
    every_reply_that_a_client_read_is_its_runs_and_stays_until_it_is_replaced,
    the_last_turn_that_a_client_is_shown_is_whole_and_no_older_than_what_it_knew,
    every_failure_is_explained_by_a_kill_or_by_another_turn,
)

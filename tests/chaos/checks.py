"""The checks: what must be true of the evidence. Each rule yields a sentence for each violation.

A client and the upstream record a time before what they cause, or after what they receive. The exact times between are
unknown, and a kill is an interval. A rule yields only what no order of events within these bounds explains.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import TypeVar

from tests.chaos.evidence import Evidence

T = TypeVar("T")
Rule = Callable[[Evidence], Iterator[str]]


@dataclass(frozen=True)
class Violation:
    rule: str
    """The rule that is broken."""
    details: str


def find_violations(evidence: Evidence) -> list[Violation]:
    return apply_rules(RULES, evidence.name, evidence)


def apply_rules(rules: Sequence[Callable[[T], Iterator[str]]], name: str, evidence: T) -> list[Violation]:
    return [
        Violation(rule.__name__.replace("_", " "), f"{name}: {details}") for rule in rules for details in rule(evidence)
    ]


def the_history_is_made_of_whole_turns_each_of_a_run_of_its_own(evidence: Evidence) -> Iterator[str]:
    roles = [each.role for each in evidence.history]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        yield f"its roles are {roles}"
    runs = {run.id: run for run in evidence.runs}
    used = Counter(each.run_id for each in evidence.history)
    for question, reply in zip(evidence.history[::2], evidence.history[1::2], strict=False):
        run = runs.get(question.run_id or "")
        if run is None or reply.run_id != question.run_id or used[run.id] != 2:
            yield f"the turn {question.content!r} is not that of one run"
        elif (run.status, run.question, run.text) != ("completed", question.content, reply.content):
            yield f"the turn {question.content!r} is not what its run has: {run.status}, {run.question!r}, {run.text!r}"
    for run in evidence.completed:
        if used[run.id] == 0:
            yield f"{run.question!r} was completed, but its turn is missing"


def every_answer_is_in_the_history_exactly_once(evidence: Evidence) -> Iterator[str]:
    turns = Counter(evidence.turns)
    texts = {run.id: run.text for run in evidence.runs}
    answers: dict[str, set[str]] = defaultdict(set)
    for ask in evidence.asks:
        if ask.answer is not None:
            if (count := turns[ask.question, ask.answer]) != 1:
                yield f"{ask.question!r} was answered with {ask.answer!r}, which is there {count} times"
            if ask.run_id is not None and texts.get(ask.run_id) != ask.answer:
                yield f"{ask.question!r} was answered with {ask.answer!r}, which {ask.run_id} has not written"
            if ask.request_id is not None:
                answers[ask.request_id].add(ask.answer)
    for request_id, different in answers.items():
        if len(different) > 1:
            yield f"{request_id!r} was answered in {len(different)} ways"


def every_turn_was_asked_for_and_answered_by_the_upstream_once(evidence: Evidence) -> Iterator[str]:
    replies = {(call.question, call.reply) for call in evidence.calls}
    for turn, count in Counter(evidence.turns).items():
        if turn[0] not in evidence.asks_by_question:
            yield f"{turn[0]!r} was never asked"
        if turn not in replies:
            yield f"{turn[1]!r} is not what the upstream replied to {turn[0]!r}"
        if count > 1:
            yield f"the turn {turn[0]!r} is there {count} times"
    for question, count in Counter(question for question, _ in evidence.turns).items():
        asks = evidence.asks_by_question.get(question, [])
        if count > (1 if any(ask.request_id for ask in asks) else len(asks)):
            yield f"{question!r} has {count} turns, asked {len(asks)} times"


def turns_and_runs_are_in_the_order_in_which_clients_saw_them(evidence: Evidence) -> Iterator[str]:
    """If a question was answered, or accepted, before another one was sent, it comes before it."""
    if [run.id for run in evidence.completed] != [each.run_id for each in evidence.history[::2]]:
        yield "the history is not in the order in which its runs were begun"
    answered = {(ask.question, ask.answer): ask.done for ask in reversed(evidence.asks) if ask.answer is not None}
    sent = [ask.sent if (ask := evidence.ask_of(run)) else math.inf for run in evidence.completed]
    done = [answered.get((run.question, run.text), math.inf) for run in evidence.completed]
    for early, late in _find_swapped(sent, done):
        first, second = evidence.completed[early], evidence.completed[late]
        yield f"{second.question!r} was answered before {first.question!r} was asked"
    asks = [evidence.ask_of(run) for run in evidence.runs]
    sent = [ask.sent if ask else math.inf for ask in asks]
    known = [ask.known if ask else math.inf for ask in asks]
    for early, late in _find_swapped(sent, known):
        yield f"{evidence.runs[late].question!r} was accepted before {evidence.runs[early].question!r} was asked"


def every_accepted_question_has_a_run_that_has_ended(evidence: Evidence) -> Iterator[str]:
    runs = {run.id: run for run in evidence.runs}
    for ask in evidence.asks:
        if ask.run_id is not None and (ask.run_id not in runs or runs[ask.run_id].question != ask.question):
            yield f"{ask.question!r} was accepted as {ask.run_id}, and has vanished"
        own = evidence.runs_by_question.get(ask.question, [])
        if ask.status == 202 and not own:
            yield f"{ask.question!r} was answered with 202, and has vanished"
        if ask.status == 200 and ask.run_id is None and not any(run.status == "completed" for run in own):
            yield f"{ask.question!r} was answered with 200, and is not completed"
        if ask.error == "run_interrupted" and not any(run.status == "interrupted" for run in own):
            yield f"{ask.question!r} was told to be interrupted, and is not listed so"
    for run in evidence.runs:
        if run.is_open:
            yield f"{run.question!r} is still {run.status}"
        elif run.status not in ("completed", "interrupted") and not (
            run.error and run.error.code in evidence.error_codes
        ):
            yield f"{run.question!r} is {run.status}, which no kill explains: {run.error}"


def a_question_is_begun_once_for_each_time_that_it_had_to_be_asked(evidence: Evidence) -> Iterator[str]:
    index = {run.id: index for index, run in enumerate(evidence.runs)}
    asks = Counter[float]()
    for run in evidence.runs:
        ask = evidence.ask_of(run)
        if ask is None:
            yield f"{run.question!r} was begun when nobody asked it"
            continue
        asks[ask.sent] += 1
        if asks[ask.sent] > 1:
            yield f"{run.question!r} was begun twice for one request"
    for runs in evidence.runs_by_question.values():
        has_id = runs[0].request_id is not None
        for earlier, later in pairwise(runs):
            is_newest = index[later.id] == index[earlier.id] + 1
            may_repeat = not has_id and (earlier.delivered or not is_newest)
            if earlier.status == "completed" and not may_repeat:
                yield f"{earlier.question!r} was begun again after it was completed"


def every_call_is_of_a_run_that_was_written_down_and_made_once(evidence: Evidence) -> Iterator[str]:
    for index, call in enumerate(evidence.calls):
        if index not in evidence.run_indexes:
            own = [
                run for run in evidence.runs_by_question.get(call.question, []) if evidence.life_of(run) == call.life
            ]
            calls = [each for each in evidence.calls if (each.question, each.life) == (call.question, call.life)]
            yield f"{call.life} asked {call.question!r} {len(calls)} times for {len(own)} runs; {call.reply!r} has none"
    known = set(evidence.run_indexes.values())
    for index, run in enumerate(evidence.runs):
        if run.text and index not in known:
            yield f"{run.question!r} is {run.status} with a text that was not written for it: {run.text!r}"


def every_call_saw_exactly_the_history_before_it(evidence: Evidence) -> Iterator[str]:
    for index, run_index in evidence.run_indexes.items():
        if index not in evidence.run_indexes_by_history:
            call, expected = evidence.calls[index], evidence.expected_messages(evidence.runs[run_index])
            yield f"{call.question!r} came with {len(call.messages) - 1} messages instead of {len(expected) - 1}"


def one_reply_is_written_at_a_time(evidence: Evidence) -> Iterator[str]:
    indexes = sorted(range(len(evidence.calls)), key=lambda index: evidence.calls[index].received)
    for first, second in combinations(indexes, 2):
        earlier, later = evidence.calls[first], evidence.calls[second]
        if earlier.ended is not None and earlier.ended <= later.received:
            continue
        # Either can have been sent first, by a server that was gone when the other one was sent.
        if not _may_be_over(evidence, first, later.received) and not _may_be_over(evidence, second, earlier.received):
            yield f"{later.question!r} was sent while {earlier.question!r} was being answered"


def _may_be_over(evidence: Evidence, index: int, at: float) -> bool:
    """Whether a call may have had no run by then: its server was gone, or its lease had passed while Redis was gone."""
    call = evidence.calls[index]
    kills = [kill for kill in evidence.kills if call.life in kill.lives and kill.start <= at]
    if any(kill.victim == call.life for kill in kills):
        return True
    run = evidence.runs[evidence.run_indexes[index]] if index in evidence.run_indexes else None
    return bool(kills) and run is not None and run.status == "interrupted" and (run.ended or 0.0) <= at


def every_failure_is_explained_by_a_kill(evidence: Evidence) -> Iterator[str]:
    for ask in evidence.asks:
        if ask.error is None or ask.error == "left":
            continue
        kills = [kill for kill in evidence.kills if kill.start <= ask.done]
        if ask.error == "broken":
            # A connection to a living server does not break.
            is_explained = any(kill.victim == ask.life for kill in kills)
        elif ask.error == "store_unavailable":
            is_explained = ask.error in evidence.error_codes and any(kill.victim == "redis" for kill in kills)
        else:
            is_explained = ask.error in evidence.error_codes and bool(kills)
        if not is_explained:
            yield f"{ask.question!r} to {ask.life} failed with {ask.error}"
    for run in evidence.runs:
        # A living worker renews its leases.
        if run.status in ("interrupted", "failed") and not evidence.is_hit(run):
            yield f"{run.question!r} is {run.status}, though nothing happened to {evidence.life_of(run)}"


RULES: Sequence[Rule] = (
    the_history_is_made_of_whole_turns_each_of_a_run_of_its_own,
    every_answer_is_in_the_history_exactly_once,
    every_turn_was_asked_for_and_answered_by_the_upstream_once,
    turns_and_runs_are_in_the_order_in_which_clients_saw_them,
    every_accepted_question_has_a_run_that_has_ended,
    a_question_is_begun_once_for_each_time_that_it_had_to_be_asked,
    every_call_is_of_a_run_that_was_written_down_and_made_once,
    every_call_saw_exactly_the_history_before_it,
    one_reply_is_written_at_a_time,
    every_failure_is_explained_by_a_kill,
)


def _find_swapped(sent: Sequence[float], known: Sequence[float]) -> Iterator[tuple[int, int]]:
    """Indexes of pairs in the wrong order: the later one was known before the earlier one was sent."""
    first = len(known) - 1
    for index in range(len(known) - 2, -1, -1):
        first = min(first, index + 1, key=known.__getitem__)
        if known[first] < sent[index]:
            yield index, first

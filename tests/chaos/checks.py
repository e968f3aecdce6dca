"""What must be true of all that was seen. Each rule gives a sentence for everything that breaks it.

A client and the upstream note an instant before what they cause, or after what they hear; the instants between are not
known, and a kill is an interval. A rule gives only what no order of events within these bounds explains.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from tests.chaos.evidence import Talk

Rule = Callable[[Talk], Iterator[str]]


@dataclass(frozen=True)
class Violation:
    rule: str
    """The sentence that does not hold."""
    found: str


def violations(talk: Talk) -> list[Violation]:
    return [
        Violation(rule.__name__.replace("_", " "), f"{talk.name}: {found}") for rule in RULES for found in rule(talk)
    ]


def the_history_is_made_of_whole_turns_each_of_a_run_of_its_own(talk: Talk) -> Iterator[str]:
    roles = [each.role for each in talk.history]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        yield f"its roles are {roles}"
    runs = {run.id: run for run in talk.runs}
    used = Counter(each.run_id for each in talk.history)
    for question, reply in zip(talk.history[::2], talk.history[1::2], strict=False):
        run = runs.get(question.run_id or "")
        if run is None or reply.run_id != question.run_id or used[run.id] != 2:
            yield f"the turn {question.content!r} is not that of one run"
        elif (run.status, run.question, run.text) != ("completed", question.content, reply.content):
            yield f"the turn {question.content!r} is not what its run has: {run.status}, {run.question!r}, {run.text!r}"
    for run in talk.completed:
        if used[run.id] == 0:
            yield f"{run.question!r} was completed, but its turn is missing"


def every_answer_is_in_the_history_exactly_once(talk: Talk) -> Iterator[str]:
    turns = Counter(talk.turns)
    texts = {run.id: run.text for run in talk.runs}
    answers: dict[str, set[str]] = defaultdict(set)
    for ask in talk.asks:
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


def every_turn_was_asked_for_and_answered_by_the_upstream_once(talk: Talk) -> Iterator[str]:
    replies = {(call.question, call.reply) for call in talk.calls}
    for turn, count in Counter(talk.turns).items():
        if turn[0] not in talk.asked:
            yield f"{turn[0]!r} was never asked"
        if turn not in replies:
            yield f"{turn[1]!r} is not what the upstream replied to {turn[0]!r}"
        if count > 1:
            yield f"the turn {turn[0]!r} is there {count} times"
    for question, count in Counter(question for question, _ in talk.turns).items():
        asks = talk.asked.get(question, [])
        if count > (1 if any(ask.request_id for ask in asks) else len(asks)):
            yield f"{question!r} has {count} turns, asked {len(asks)} times"


def turns_and_runs_are_in_the_order_in_which_clients_saw_them(talk: Talk) -> Iterator[str]:
    """What was known to be answered, or accepted, before another question left comes before it."""
    if [run.id for run in talk.completed] != [each.run_id for each in talk.history[::2]]:
        yield "the history is not in the order in which its runs were begun"
    answered = {(ask.question, ask.answer): ask.done for ask in reversed(talk.asks) if ask.answer is not None}
    sent = [ask.sent if (ask := talk.ask_of(run)) else math.inf for run in talk.completed]
    done = [answered.get((run.question, run.text), math.inf) for run in talk.completed]
    for early, late in _swapped(sent, done):
        yield f"{talk.completed[late].question!r} was answered before {talk.completed[early].question!r} was asked"
    begun = [talk.ask_of(run) for run in talk.runs]
    sent = [ask.sent if ask else math.inf for ask in begun]
    known = [ask.known if ask else math.inf for ask in begun]
    for early, late in _swapped(sent, known):
        yield f"{talk.runs[late].question!r} was accepted before {talk.runs[early].question!r} was asked"


def every_accepted_question_has_a_run_that_has_ended(talk: Talk) -> Iterator[str]:
    runs = {run.id: run for run in talk.runs}
    for ask in talk.asks:
        if ask.run_id is not None and (ask.run_id not in runs or runs[ask.run_id].question != ask.question):
            yield f"{ask.question!r} was accepted as {ask.run_id}, and has vanished"
        own = talk.begun.get(ask.question, [])
        if ask.status == 202 and not own:
            yield f"{ask.question!r} was answered with 202, and has vanished"
        if ask.status == 200 and ask.run_id is None and not any(run.status == "completed" for run in own):
            yield f"{ask.question!r} was answered with 200, and is not completed"
        if ask.failure == "run_interrupted" and not any(run.status == "interrupted" for run in own):
            yield f"{ask.question!r} was told to be interrupted, and is not listed so"
    for run in talk.runs:
        if run.is_open:
            yield f"{run.question!r} is still {run.status}"
        elif run.status not in ("completed", "interrupted") and not (run.error and run.error.code in talk.failures):
            yield f"{run.question!r} is {run.status}, which no kill explains: {run.error}"


def a_question_is_begun_once_for_each_time_that_it_had_to_be_asked(talk: Talk) -> Iterator[str]:
    index = {run.id: index for index, run in enumerate(talk.runs)}
    asks = Counter[float]()
    for run in talk.runs:
        ask = talk.ask_of(run)
        if ask is None:
            yield f"{run.question!r} was begun when nobody asked it"
            continue
        asks[ask.sent] += 1
        if asks[ask.sent] > 1:
            yield f"{run.question!r} was begun twice for one request"
    for runs in talk.begun.values():
        has_id = runs[0].request_id is not None
        for earlier, later in pairwise(runs):
            is_newest = index[later.id] == index[earlier.id] + 1
            may_repeat = not has_id and (earlier.delivered or not is_newest)
            if earlier.status == "completed" and not may_repeat:
                yield f"{earlier.question!r} was begun again after it was completed"


def every_call_is_of_a_run_that_was_written_down_and_made_once(talk: Talk) -> Iterator[str]:
    for index, call in enumerate(talk.calls):
        if index not in talk.run_places:
            own = [run for run in talk.begun.get(call.question, []) if talk.life_of(run) == call.life]
            calls = [each for each in talk.calls if (each.question, each.life) == (call.question, call.life)]
            yield f"{call.life} asked {call.question!r} {len(calls)} times for {len(own)} runs; {call.reply!r} has none"
    known = set(talk.run_places.values())
    for index, run in enumerate(talk.runs):
        if run.text and index not in known:
            yield f"{run.question!r} is {run.status} with a text that was not written for it: {run.text!r}"


def every_call_saw_exactly_the_history_before_it(talk: Talk) -> Iterator[str]:
    for index, run_place in talk.run_places.items():
        if index not in talk.run_places_by_history:
            call, due = talk.calls[index], talk.due(talk.runs[run_place])
            yield f"{call.question!r} came with {len(call.messages) - 1} messages, not the {len(due) - 1} before it"


def one_reply_is_written_at_a_time(talk: Talk) -> Iterator[str]:
    indexes = sorted(range(len(talk.calls)), key=lambda index: talk.calls[index].heard)
    for first, second in combinations(indexes, 2):
        earlier, later = talk.calls[first], talk.calls[second]
        if earlier.ended is not None and earlier.ended <= later.heard:
            continue
        # Either may have been sent first, by a server that was gone when the other one was sent.
        if not _may_be_over(talk, first, later.heard) and not _may_be_over(talk, second, earlier.heard):
            yield f"{later.question!r} was sent while {earlier.question!r} was being answered"


def _may_be_over(talk: Talk, index: int, at: float) -> bool:
    """Whether a call may have been nobody's by then: its server was gone, or its lease, where Redis was."""
    call = talk.calls[index]
    kills = [kill for kill in talk.kills if call.life in kill.lives and kill.began <= at]
    if any(kill.victim == call.life for kill in kills):
        return True
    run = talk.runs[talk.run_places[index]] if index in talk.run_places else None
    return bool(kills) and run is not None and run.status == "interrupted" and (run.ended or 0.0) <= at


def every_failure_is_explained_by_a_kill(talk: Talk) -> Iterator[str]:
    for ask in talk.asks:
        if ask.failure is None or ask.failure == "left":
            continue
        kills = [kill for kill in talk.kills if kill.began <= ask.done]
        if ask.failure == "cut":
            # The connection to a server that lives does not break.
            is_explained = any(kill.victim == ask.life for kill in kills)
        elif ask.failure == "store_unavailable":
            is_explained = ask.failure in talk.failures and any(kill.victim == "redis" for kill in kills)
        else:
            is_explained = ask.failure in talk.failures and bool(kills)
        if not is_explained:
            yield f"{ask.question!r} to {ask.life} failed with {ask.failure}"
    for run in talk.runs:
        # A writer that lives renews its leases.
        if run.status in ("interrupted", "failed") and not talk.is_hit(run):
            yield f"{run.question!r} is {run.status}, though nothing happened to {talk.life_of(run)}"


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


def _swapped(sent: Sequence[float], known: Sequence[float]) -> Iterator[tuple[int, int]]:
    """Places of two that stand the wrong way round: the later one was known before the earlier one was sent."""
    first = len(known) - 1
    for index in range(len(known) - 2, -1, -1):
        first = min(first, index + 1, key=known.__getitem__)
        if known[first] < sent[index]:
            yield index, first

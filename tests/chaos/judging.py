"""What must be true of all that was seen. Each rule gives a sentence for everything that breaks it."""

import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TypeVar

from server.model import Message, Run
from tests.chaos.asking import Ask
from tests.chaos.upstream import Call

SECONDS_TO_DIE = 0.5
"""How long after a kill a client may still find the server up, at most."""

T = TypeVar("T")
Rule = Callable[["Talk"], Iterator[str]]


@dataclass(frozen=True)
class Kill:
    at: float
    """Unix seconds."""
    victim: str
    """A server's name, or `redis`."""
    servers: frozenset[str]
    """Those whose work it hit."""
    is_writing: bool
    """Whether the upstream still had pieces to send to one of these servers once the kill was sent: then a run was open
    for certain, whatever the store says afterwards."""


@dataclass(frozen=True)
class Talk:
    """One conversation: what its clients sent and were told, what the upstream heard of it, what the store has."""

    name: str
    asks: Sequence[Ask]
    """In the order in which they were sent."""
    calls: Sequence[Call]
    """In the order in which they were heard."""
    runs: Sequence[Run]
    """In the order in which they were begun, as the store tells it."""
    history: Sequence[Message]
    kills: Sequence[Kill]
    failures: frozenset[str]
    """The codes that a kill may lead to."""

    @cached_property
    def begun(self) -> Mapping[str, list[Run]]:
        """The runs of each question."""
        return _grouped(self.runs, lambda run: run.question)

    @cached_property
    def asked(self) -> Mapping[str, list[Ask]]:
        return _grouped(self.asks, lambda ask: ask.question)

    @cached_property
    def turns(self) -> Sequence[tuple[str, str]]:
        contents = [each.content for each in self.history]
        return list(zip(contents[::2], contents[1::2], strict=False))

    @cached_property
    def completed(self) -> Sequence[Run]:
        return [run for run in self.runs if run.status == "completed"]

    def run_at(self, question: str, at: float) -> Run | None:
        """The newest run of a question that was there then. There is never more than one open at a time."""
        runs = self.begun.get(question, [])
        place = bisect_right(runs, at, key=lambda run: run.created)
        return runs[place - 1] if place else None

    def run_of(self, call: Call) -> Run | None:
        return self.run_at(call.question, call.heard)

    def ask_of(self, run: Run) -> Ask | None:
        """The one that began it: a client asks the same again only when its last try is over."""
        return next((ask for ask in self.asked.get(run.question, []) if ask.sent <= run.created <= ask.done), None)


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
    answers: dict[str, set[str]] = defaultdict(set)
    for ask in talk.asks:
        if ask.answer is not None:
            if (count := turns[ask.question, ask.answer]) != 1:
                yield f"{ask.question!r} was answered with {ask.answer!r}, which is there {count} times"
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
        elif run.status not in ("completed", "interrupted") and not (run.failure and run.failure.code in talk.failures):
            yield f"{run.question!r} is {run.status}, which no kill explains: {run.failure}"


def a_question_is_begun_once_for_each_time_that_it_had_to_be_asked(talk: Talk) -> Iterator[str]:
    place = {run.id: place for place, run in enumerate(talk.runs)}
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
            is_newest = place[later.id] == place[earlier.id] + 1
            may_repeat = not has_id and (earlier.collected or not is_newest)
            if earlier.status == "completed" and not may_repeat:
                yield f"{earlier.question!r} was begun again after it was completed"


def every_call_is_of_a_run_that_was_written_down_and_made_once(talk: Talk) -> Iterator[str]:
    calls: dict[str, list[Call]] = defaultdict(list)
    for call in talk.calls:
        run = talk.run_of(call)
        if run is None:
            yield f"the upstream was asked {call.question!r}, of which no run is known"
        else:
            calls[run.id].append(call)
    for run in talk.runs:
        own = calls[run.id]
        if len(own) > 1:
            yield f"the upstream was asked {run.question!r} {len(own)} times, though it was not asked again"
        if run.status == "completed" and run.text not in [call.reply for call in own]:
            yield f"{run.question!r} has a reply that was not written for it: {run.text!r}"
        if run.status == "interrupted" and not any(call.reply.startswith(run.text) for call in own) and run.text:
            yield f"{run.question!r} was interrupted with a text that is no beginning of its reply: {run.text!r}"


def every_call_saw_exactly_the_history_before_it(talk: Talk) -> Iterator[str]:
    before: dict[str, int] = {}
    count = 0
    for run in talk.runs:
        before[run.id] = count
        count += 2 * (run.status == "completed")
    history = [(each.role, each.content) for each in talk.history]
    for call in talk.calls:
        run = talk.run_of(call)
        if run is not None and call.messages != [*history[: before[run.id]], ("user", call.question)]:
            sent = len(call.messages) - 1
            yield f"with {call.question!r} came {sent} messages, which are not the {before[run.id]} before it"


def one_reply_is_written_at_a_time(talk: Talk) -> Iterator[str]:
    for first, second in pairwise(talk.calls):
        if first.ended is not None and first.ended <= second.heard:
            continue
        if not any(first.server == kill.victim and first.heard <= kill.at <= second.heard for kill in talk.kills):
            yield f"{second.question!r} was sent while {first.question!r} was being answered"


def every_failure_is_explained_by_a_kill(talk: Talk) -> Iterator[str]:
    for ask in talk.asks:
        if ask.failure is None or ask.failure in talk.failures or ask.failure == "left":
            continue
        # The connection to a server that lives does not break.
        victims = {kill.victim for kill in talk.kills if ask.sent - SECONDS_TO_DIE <= kill.at <= ask.done}
        if ask.failure != "cut" or ask.server not in victims:
            yield f"{ask.question!r} failed with {ask.failure}"
    for run in talk.runs:
        ask = talk.ask_of(run)
        if run.status != "interrupted" or run.ended is None or ask is None:
            continue
        # A writer that lives renews its leases.
        if not any(ask.server in kill.servers and run.created <= kill.at <= run.ended for kill in talk.kills):
            yield f"{run.question!r} was interrupted while its server lived"


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

STAGES = ("before begin", "waiting", "while writing", "after finish")


def stages(kill: Kill, talks: Iterable[Talk]) -> set[str]:
    """How far the questions had come that were in flight at the killed server; none where it was at rest."""
    found = {
        _stage(ask, kill, talk)
        for talk in talks
        for ask in talk.asks
        if ask.server in kill.servers and ask.sent <= kill.at < ask.done
    }
    return found | {"while writing"} if kill.is_writing else found


def _stage(ask: Ask, kill: Kill, talk: Talk) -> str:
    run = talk.run_at(ask.question, kill.at)
    if run is None or (run.created < ask.sent and _was_over(run, kill, talk)):
        return "before begin"
    if run.status == "completed" and run.ended is not None and run.ended <= kill.at:
        return "after finish"
    heard = [call for call in talk.calls if call.question == ask.question and run.created <= call.heard <= kill.at]
    return "while writing" if heard else "waiting"


def _was_over(run: Run, kill: Kill, talk: Talk) -> bool:
    """Whether an earlier kill had ended it."""
    begun_by = talk.ask_of(run)
    servers = [each.victim for each in talk.kills if run.created <= each.at < kill.at]
    return run.status == "failed" or (
        run.status == "interrupted" and begun_by is not None and begun_by.server in servers
    )


def _swapped(sent: Sequence[float], known: Sequence[float]) -> Iterator[tuple[int, int]]:
    """Places of two that stand the wrong way round: the later one was known before the earlier one was sent."""
    first = len(known) - 1
    for place in range(len(known) - 2, -1, -1):
        first = min(first, place + 1, key=known.__getitem__)
        if known[first] < sent[place]:
            yield place, first


def _grouped(items: Iterable[T], key: Callable[[T], str]) -> Mapping[str, list[T]]:
    groups: dict[str, list[T]] = defaultdict(list)
    for each in items:
        groups[key(each)].append(each)
    return groups

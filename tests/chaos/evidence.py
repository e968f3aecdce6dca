"""The evidence of one conversation, and what belongs together in it: the request of each run, the run of each call.

Nothing is concluded from how close two times are. A call has its question, the messages before it, and the *life* of
the server that sent it. A reply is different from all others. A run was created by the request that was open at that
time. If several assignments remain possible, a rule is broken only if each of them breaks it.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from server.domain import Message, Run
from tests.chaos.clients import Ask
from tests.chaos.upstream import Call

T = TypeVar("T")
IndexMap = Mapping[int, int]


@dataclass(frozen=True)
class Kill:
    """An interval: the victim lives before it, and is gone after it."""

    start: float
    """Unix seconds, before the signal was sent."""
    end: float
    """Unix seconds, when the victim was known to be gone, or Redis was up again."""
    victim: str
    """The name of a life, or `redis`."""
    lives: frozenset[str]
    """The names of the lives that it hit."""
    is_running: bool
    """Whether the upstream still had chunks to send to one of these lives after the kill. If so, a run was open,
    whatever the store says afterwards."""


@dataclass(frozen=True)
class Evidence:
    """One conversation: the requests and answers of its clients, the calls to the upstream, and what the store has."""

    name: str
    asks: Sequence[Ask]
    """In the order in which they were sent. Each question is asked again only after the request before has ended."""
    calls: Sequence[Call]
    """In the order in which the upstream recorded them, which can differ from the order in which they were sent."""
    runs: Sequence[Run]
    """In the order in which they were created, as listed by the store."""
    history: Sequence[Message]
    kills: Sequence[Kill]
    error_codes: frozenset[str]
    """The codes of errors that a kill can cause."""

    @cached_property
    def runs_by_question(self) -> Mapping[str, list[Run]]:
        """The runs of each question."""
        return _group(self.runs, lambda run: run.question)

    @cached_property
    def asks_by_question(self) -> Mapping[str, list[Ask]]:
        return _group(self.asks, lambda ask: ask.question)

    @cached_property
    def turns(self) -> Sequence[tuple[str, str]]:
        contents = [each.content for each in self.history]
        return list(zip(contents[::2], contents[1::2], strict=False))

    @cached_property
    def completed(self) -> Sequence[Run]:
        return [run for run in self.runs if run.status == "completed"]

    def ask_of(self, run: Run) -> Ask | None:
        """The request that created the run: it was sent before that and had not ended."""
        return next(
            (ask for ask in self.asks_by_question.get(run.question, []) if ask.sent <= run.created <= ask.done), None
        )

    def life_of(self, run: Run) -> str | None:
        """The name of the life that created it, and so executes it."""
        ask = self.ask_of(run)
        return ask.life if ask else None

    def is_hit(self, run: Run) -> bool:
        """Whether a kill can have hit its server, or its store, before it ended."""
        life, ended = self.life_of(run), run.ended or math.inf
        return any(life in kill.lives and kill.start <= ended and run.created <= kill.end for kill in self.kills)

    @cached_property
    def run_indexes(self) -> IndexMap:
        """The index of the run by the index of its call, without calls that no run can have made."""
        return match_calls(self.calls, self.runs, self._may_be_of)

    @cached_property
    def run_indexes_by_history(self) -> IndexMap:
        """The same, with only those calls that had the history before their run."""
        return match_calls(
            self.calls,
            self.runs,
            lambda call, run: self._may_be_of(call, run) and call.messages == self.expected_messages(run),
        )

    def expected_messages(self, run: Run) -> Sequence[tuple[str, str]]:
        """Role and content of the messages that a run has to send: the turns before it, and its question."""
        return [*self._contents[: self._counts_before[run.id]], ("user", run.question)]

    @cached_property
    def _counts_before(self) -> Mapping[str, int]:
        """How many messages the history had before each run."""
        before: dict[str, int] = {}
        count = 0
        for run in self.runs:
            before[run.id] = count
            count += 2 * (run.status == "completed")
        return before

    @cached_property
    def _contents(self) -> list[tuple[str, str]]:
        return [(each.role, each.content) for each in self.history]

    def _may_be_of(self, call: Call, run: Run) -> bool:
        """Whether the call can be of the run, regardless of other calls and runs."""
        is_its_reply = call.reply == run.text if run.status == "completed" else call.reply.startswith(run.text)
        return is_its_reply and call.life == self.life_of(run) and run.created <= call.received


def match_calls(calls: Sequence[Call], runs: Sequence[Run], fits: Callable[[Call, Run], bool]) -> IndexMap:
    """The index of the run by the index of its call. `fits` tells whether a call can be of a run of its question."""
    fitting: dict[int, list[int]] = {index: [] for index in range(len(calls))}
    fitted: dict[int, list[int]] = {index: [] for index in range(len(runs))}
    indexes = _group(range(len(runs)), lambda index: runs[index].question)
    for index, call in enumerate(calls):
        fitting[index] = [each for each in indexes.get(call.question, []) if fits(call, runs[each])]
        for each in fitting[index]:
            fitted[each].append(index)
    run_by_call: dict[int, int] = {}
    call_of: dict[int, int] = {}
    # Matched items stay matched. So if all calls, and all runs with a text, can be matched, they are.
    for index, run in enumerate(runs):
        if run.text:
            find_partner(index, fitted, call_of, run_by_call, set())
    for index in fitting:
        if index not in run_by_call:
            find_partner(index, fitting, run_by_call, call_of, set())
    return run_by_call


def find_partner(
    index: int, fitting: Mapping[int, Sequence[int]], own: dict[int, int], others: dict[int, int], tried: set[int]
) -> bool:
    """Match an item with one that fits, whose partner may have to change (an augmenting path)."""
    for each in fitting[index]:
        if each not in tried:
            tried.add(each)
            if each not in others or find_partner(others[each], fitting, own, others, tried):
                own[index], others[each] = each, index
                return True
    return False


def _group(items: Iterable[T], key: Callable[[T], str]) -> Mapping[str, list[T]]:
    groups: dict[str, list[T]] = defaultdict(list)
    for each in items:
        groups[key(each)].append(each)
    return groups

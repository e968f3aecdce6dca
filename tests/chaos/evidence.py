"""What was seen of one conversation, and what belongs together in it: which request began a run, which call is of it.

Nothing is told by how close two instants are. A call carries its question, what was said before it, and the *life* of
the server that sent it; a reply is unlike all others; a run is begun by the request that was under way when it was. Of
what is left to choose, only what no choice explains is held against the server.
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
ConversationTable = Mapping[int, int]


@dataclass(frozen=True)
class Kill:
    """An interval: the victim was there before it, and is gone after it."""

    began: float
    """Unix seconds: before the signal was sent."""
    over: float
    """When the victim was known to be gone; of Redis, when it was there again."""
    victim: str
    """A server's life, or `redis`."""
    lives: frozenset[str]
    """Those whose work it hit."""
    is_writing: bool
    """Whether the upstream still had pieces to send to one of these once the kill was sent: then a run was open for
    certain, whatever the store says afterwards."""


@dataclass(frozen=True)
class Talk:
    """One conversation: what its clients sent and were told, what the upstream heard of it, what the store has."""

    name: str
    asks: Sequence[Ask]
    """In the order in which they were sent. Of each question, one is over before the next one is sent."""
    calls: Sequence[Call]
    """In the order in which the upstream came to note them, which need not be that in which they were sent."""
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

    def ask_of(self, run: Run) -> Ask | None:
        """The one that began it, which was sent before, and not over until after."""
        return next((ask for ask in self.asked.get(run.question, []) if ask.sent <= run.created <= ask.done), None)

    def life_of(self, run: Run) -> str | None:
        """Of the server that began it, and so writes it."""
        ask = self.ask_of(run)
        return ask.life if ask else None

    def is_hit(self, run: Run) -> bool:
        """Whether a kill may have hit the server that wrote it, or its store, before it ended."""
        life, ended = self.life_of(run), run.ended or math.inf
        return any(life in kill.lives and kill.began <= ended and run.created <= kill.over for kill in self.kills)

    @cached_property
    def run_places(self) -> ConversationTable:
        """By the place of each call, that of its run; without those that no run can have made."""
        return self._paired(self._fits)

    @cached_property
    def run_places_by_history(self) -> ConversationTable:
        """The same, of those calls alone that saw the history before their run."""
        return self._paired(lambda call, run: self._fits(call, run) and call.messages == self.due(run))

    def due(self, run: Run) -> Sequence[tuple[str, str]]:
        """Role and content of what is to be sent for a run: the turns before it, and its question."""
        return [*self._question_texts[: self._before[run.id]], ("user", run.question)]

    @cached_property
    def _before(self) -> Mapping[str, int]:
        """How many messages the history had before each run."""
        before: dict[str, int] = {}
        count = 0
        for run in self.runs:
            before[run.id] = count
            count += 2 * (run.status == "completed")
        return before

    @cached_property
    def _question_texts(self) -> list[tuple[str, str]]:
        return [(each.role, each.content) for each in self.history]

    def _fits(self, call: Call, run: Run) -> bool:
        """Whether the call can be of the run, whatever others are."""
        is_its_reply = call.reply == run.text if run.status == "completed" else call.reply.startswith(run.text)
        return is_its_reply and call.life == self.life_of(run) and run.created <= call.heard

    def _paired(self, fits: Callable[[Call, Run], bool]) -> ConversationTable:
        fitting: dict[int, list[int]] = {index: [] for index in range(len(self.calls))}
        fitted: dict[int, list[int]] = {index: [] for index in range(len(self.runs))}
        indexes = _grouped(range(len(self.runs)), lambda index: self.runs[index].question)
        for index, call in enumerate(self.calls):
            fitting[index] = [each for each in indexes.get(call.question, []) if fits(call, self.runs[each])]
            for each in fitting[index]:
                fitted[each].append(index)
        run_by_call: dict[int, int] = {}
        call_of: dict[int, int] = {}
        # Who has a partner keeps one. So if all calls, and all runs that have a text, can have one, they do.
        for index, run in enumerate(self.runs):
            if run.text:
                _pair(index, fitted, call_of, run_by_call, set())
        for index in fitting:
            if index not in run_by_call:
                _pair(index, fitting, run_by_call, call_of, set())
        return run_by_call


def _pair(
    index: int, fitting: Mapping[int, Sequence[int]], own: dict[int, int], others: dict[int, int], tried: set[int]
) -> bool:
    """Find a partner among those that fit, whose own partner may have to take another one (an augmenting path)."""
    for each in fitting[index]:
        if each not in tried:
            tried.add(each)
            if each not in others or _pair(others[each], fitting, own, others, tried):
                own[index], others[each] = each, index
                return True
    return False


def _grouped(items: Iterable[T], key: Callable[[T], str]) -> Mapping[str, list[T]]:
    groups: dict[str, list[T]] = defaultdict(list)
    for each in items:
        groups[key(each)].append(each)
    return groups

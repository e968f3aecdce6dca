"""The evidence of one conversation whose turns are replaced, and what its runs make of its history.

The runs of a conversation execute, and so take effect, in the order in which they were created: what the history was
at any time follows from their ends alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from server.domain import Message, Run
from tests.chaos.evidence import IndexMap, Kill, find_partner, match_calls
from tests.chaos.replacements.clients import CREATING, Request, ShownMessage
from tests.chaos.upstream import Call

Contents = list[tuple[str, str]]
"""Role and content of each message."""


@dataclass(frozen=True)
class Evidence:
    """One conversation: its clients' requests and answers, the calls to the upstream, and what the store has."""

    name: str
    requests: Sequence[Request]
    """In the order in which they were sent."""
    calls: Sequence[Call]
    """In the order in which the upstream recorded them."""
    runs: Sequence[Run]
    """In the order in which they were created, as listed by the store."""
    history: Sequence[Message]
    kills: Sequence[Kill]
    error_codes: frozenset[str]
    """The codes of errors that a kill can cause."""

    @cached_property
    def index_of(self) -> Mapping[str, int]:
        """The index of each run, by its id."""
        return {run.id: index for index, run in enumerate(self.runs)}

    def find_run(self, run_id: str | None) -> Run | None:
        index = self.index_of.get(run_id or "")
        return None if index is None else self.runs[index]

    @cached_property
    def states(self) -> Sequence[tuple[Run, ...]]:
        """The runs that had a turn in the history before each run, and, as the last item, after all of them."""
        states: list[tuple[Run, ...]] = [()]
        for run in self.runs:
            turns = states[-1]
            if self.takes_effect(run):
                turns = (*(turns[:-1] if run.replaces else turns), run)
            states.append(turns)
        return states

    @staticmethod
    def takes_effect(run: Run) -> bool:
        """Whether the run's end adds a turn to the history."""
        return run.status == "completed" or (run.status == "cancelled" and run.text != "" and run.replaces is None)

    def replaces_last_turn(self, run: Run) -> bool:
        """Whether the turn that it replaces was the last one when it was its turn to execute."""
        return [each.id for each in self.states[self.index_of[run.id]][-1:]] == [run.replaces]

    def has_turn_after(self, index: int, at: float) -> bool:
        """Whether a run that was created after the one at `index` may have brought a turn by then."""
        return any(self.takes_effect(run) and (run.ended or 0.0) <= at for run in self.runs[index + 1 :])

    def find_known(self, at: float) -> int:
        """The highest index among the runs whose turn a client had seen by then; -1 if none had."""
        seen = [
            request.run_id if request.end else request.shown[-1].run_id
            for request in self.requests
            if request.done <= at and (request.end or request.shown)
        ]
        runs = [run for run in map(self.find_run, seen) if run is not None and self.takes_effect(run)]
        return max((self.index_of[run.id] for run in runs), default=-1)

    def expected_messages(self, run: Run) -> Contents:
        """The messages that a run has to send: the turns before it without the one that it replaces; its question."""
        turns = self.states[self.index_of[run.id]]
        return [*contents_of(turns[:-1] if run.replaces else turns), ("user", run.question)]

    def may_have_created(self, request: Request, run: Run) -> bool:
        """Whether the request can be the one that created the run, regardless of other requests and runs."""
        return (
            request.kind in CREATING
            and request.sent <= run.created <= request.done
            and request.told in (None, run.id)
            and self.asks_for(request, run)
        )

    def asks_for(self, request: Request, run: Run) -> bool:
        """Whether the run is what the request asked for."""
        if request.kind == "ask":
            return run.replaces is None and run.question == request.question
        replaced = self.find_run(run.replaces)
        question = request.question if request.kind == "edit" else replaced and replaced.question
        return replaced is not None and request.run_id in (None, replaced.id) and run.question == question

    @cached_property
    def lives(self) -> Mapping[str, frozenset[str]]:
        """The lives that may have created, and so execute, each run."""
        return {
            run.id: frozenset(each.life for each in self.requests if self.may_have_created(each, run))
            for run in self.runs
        }

    @cached_property
    def request_indexes(self) -> Mapping[int, int]:
        """The index of the request that created it by the index of the run, each request for one run."""
        fitting = {
            index: [number for number, each in enumerate(self.requests) if self.may_have_created(each, run)]
            for index, run in enumerate(self.runs)
        }
        requests: dict[int, int] = {}
        runs: dict[int, int] = {}
        for index in fitting:
            find_partner(index, fitting, requests, runs, set())
        return requests

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

    def _may_be_of(self, call: Call, run: Run) -> bool:
        """Whether the call can be of the run, regardless of other calls and runs."""
        is_its_reply = call.reply == run.text if run.status == "completed" else call.reply.startswith(run.text)
        return is_its_reply and call.life in self.lives[run.id] and run.created <= call.received

    def is_hit(self, run: Run) -> bool:
        """Whether a kill can have hit its server, or its store, before it ended."""
        return any(
            self.lives[run.id] & kill.lives and kill.start <= (run.ended or 0.0) and run.created <= kill.end
            for kill in self.kills
        )


def contents_of(turns: Sequence[Run]) -> Contents:
    return [each for run in turns for each in (("user", run.question), ("assistant", run.text))]


def shown_by(run: Run) -> list[ShownMessage]:
    """The turn of a run as a client is shown it."""
    return [ShownMessage(role, content, run.id) for role, content in contents_of([run])]

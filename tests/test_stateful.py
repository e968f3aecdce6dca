"""Calls in any order, asked of each store and of a plain model of the same promises."""

from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from server.errors import ConversationBusy, NotFound, RequestIdConflict
from server.model import Conversation, Failure, Run, Status
from server.store import COLLECT_SECONDS, REQUEST_ID_SECONDS, Store
from server.store.memory import MemoryStore
from tests.clock import Clock

Entry = tuple[str, str, str | None, float]
"""Role, content, run and timestamp of one message."""

names = st.sampled_from(["ada", "eve"])
questions = st.sampled_from(["why?", "what?"])
request_ids = st.sampled_from([None, None, "id 1", "id 2"])
texts = st.sampled_from(["be", "cause", "왜 👩‍👩‍👧"])


@dataclass
class Known:
    """What one conversation must be, by the sentences of the protocol and nothing else."""

    model: str | None = None
    replay_from: int = 0
    runs: dict[str, Run] = field(default_factory=dict)
    """Oldest first."""
    ends: list[str] = field(default_factory=list)
    """The runs that have ended, in the order of their ends."""
    seen: list[tuple[str, str, float]] = field(default_factory=list)
    """Each request id, the run that was begun for it, and when; oldest first."""

    def with_status(self, *statuses: str) -> list[Run]:
        return [run for run in self.runs.values() if run.status in statuses]

    @property
    def open(self) -> list[Run]:
        return self.with_status("queued", "running")

    def history(self) -> list[Entry]:
        entries: list[Entry] = []
        for run in (self.runs[run_id] for run_id in self.ends):
            if run.status == "completed" or (run.status == "cancelled" and run.text):
                assert run.ended is not None
                entries.append(("user", run.question, run.id, run.created))
                entries.append(("assistant", run.text, run.id, run.ended))
        return entries

    def joined(self, run: Run, now: float) -> Run | None:
        """The run that `run` joins. Raises RequestIdConflict."""
        if run.request_id is not None:
            return self._joined_by_id(run, now)
        for other in self.open:
            if other.question == run.question:
                return other
        for newest in list(self.runs.values())[-1:]:
            if newest.status == "completed" and newest.question == run.question and not newest.collected:
                assert newest.ended is not None
                return newest if now <= newest.ended + COLLECT_SECONDS else None
        return None

    def _joined_by_id(self, run: Run, now: float) -> Run | None:
        earlier = [
            run_id for each, run_id, at in self.seen if each == run.request_id and now <= at + REQUEST_ID_SECONDS
        ]
        if not earlier:
            return None
        newest = self.runs[earlier[-1]]
        if newest.question != run.question:
            raise RequestIdConflict
        return None if newest.status in ("failed", "interrupted") else newest


class StoreMachine(RuleBasedStateMachine):
    """Subclass me once for each backend, with a `new_store`."""

    begun = Bundle("begun")
    """Ids of runs: open ones, ended ones, and ones that were cleared away."""

    def new_store(self, clock: Clock) -> Store:
        raise NotImplementedError

    @initialize()
    def open_store(self) -> None:
        self.clock = Clock()
        self.store = self.new_store(self.clock)
        self.known: dict[str, Known] = {}
        self.names: dict[str, str] = {}
        """The conversation of each run that was ever begun."""
        self.last: dict[str, Run] = {}
        """Each run that was ever begun, as it was last."""
        self.ended: dict[str, Run] = {}
        """Each run that has ended, as it was first seen to."""

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()

    @rule(
        target=begun,
        name=names,
        question=questions,
        request_id=request_ids,
        waiting=st.sampled_from([0, 1, 2, 32, 32]),
        start=st.sampled_from([True, True, False]),
    )
    def begin(self, name: str, question: str, request_id: str | None, waiting: int, start: bool) -> object:
        known = self.known.get(name, Known())
        run = Run(question, request_id, created=self.clock.now)
        try:
            joined = known.joined(run, self.clock.now)
        except RequestIdConflict:
            with pytest.raises(RequestIdConflict):
                self.store.begin(name, run, waiting=waiting, start=start)
            return multiple()
        runs_at_once = start and not known.open
        if joined is None and not runs_at_once and len(known.with_status("queued")) >= waiting:
            with pytest.raises(ConversationBusy):
                self.store.begin(name, run, waiting=waiting, start=start)
            return multiple()
        answer = self.store.begin(name, run, waiting=waiting, start=start)
        if joined is not None:
            assert (answer.run, answer.fresh) == (joined, False)
        else:
            expected = replace(run, status="running" if runs_at_once else "queued")
            assert (answer.run, answer.fresh) == (expected, True)
            self.known[name] = known
            self.names[run.id] = name
            self._keep(expected)
            if request_id is not None:
                known.seen.append((request_id, run.id, self.clock.now))
        assert answer.conversation == self._conversation(name)
        return multiple() if joined is not None else run.id

    @rule(target=begun, run_id=begun, seconds=st.sampled_from([0.0, COLLECT_SECONDS, REQUEST_ID_SECONDS]))
    def ask_again(self, run_id: str, seconds: float) -> object:
        self.clock.now += seconds
        asked = self.last[run_id]
        return self.begin(self.names[run_id], asked.question, asked.request_id, 32, True)

    @rule(run_id=begun)
    def start(self, run_id: str) -> None:
        name = self.names[run_id]
        known = self.known[name]
        started = self.store.start(name, run_id)
        if [run.id for run in known.open][:1] == [run_id] and known.runs[run_id].status == "queued":
            self._keep(replace(known.runs[run_id], status="running"))
            assert started == self._conversation(name)
        else:
            assert started is None

    @rule(name=names)
    def start_the_oldest(self, name: str) -> None:
        for run in self.known.get(name, Known()).open[:1]:
            self.start(run.id)

    @rule(run_id=begun, text=texts)
    def append(self, run_id: str, text: str) -> None:
        run = self._kept(run_id)
        if run is not None and run.status == "queued":
            return  # The protocol says nothing of it; the Runner does not.
        is_running = run is not None and run.status == "running"
        assert self.store.append(self.names[run_id], run_id, text) is is_running
        if run is not None and is_running:
            self._keep(replace(run, text=run.text + text))

    @rule(
        run_id=begun,
        status=st.sampled_from(["completed", "completed", "failed", "cancelled", "interrupted"]),
        text=texts,
        is_empty=st.booleans(),
        collected=st.booleans(),
        replay_from=st.sampled_from([None, None, 0, 2]),
    )
    def finish(
        self, run_id: str, status: Status, text: str, is_empty: bool, collected: bool, replay_from: int | None
    ) -> None:
        name, run = self.names[run_id], self._kept(run_id)
        ended = self.last[run_id].ending(
            status,
            self.clock.now,
            text="" if is_empty and status != "completed" else text,
            collected=collected,
            failure=Failure("upstream_failed", "It failed.") if status in ("failed", "interrupted") else None,
        )
        answer = self.store.finish(name, ended, replay_from)
        if run is None:
            assert answer is None
        elif run.ended is not None:
            assert answer == run
        else:
            assert answer == ended
            self._keep(ended)
            self.ended[run_id] = ended
            self.known[name].ends.append(run_id)
            if replay_from is not None:
                self.known[name].replay_from = replay_from

    @rule(run_id=begun, text=texts)
    def mistake_the_conversation(self, run_id: str, text: str) -> None:
        other = "eve" if self.names[run_id] == "ada" else "ada"
        assert self.store.start(other, run_id) is None
        assert self.store.append(other, run_id, text) is False
        ended = self.last[run_id].ending("completed", self.clock.now, text=text)
        assert self.store.finish(other, ended, 2) is None

    @rule(name=names)
    def clear(self, name: str) -> None:
        known = self.known.get(name)
        assert list(self.store.clear(name)) == ([] if known is None else [run.id for run in known.open])
        if known is not None:
            self.known[name] = Known(known.model)

    @rule(name=names, model=st.sampled_from(["m1", "m2"]))
    def set_model(self, name: str, model: str) -> None:
        self.store.set_model(name, model)
        self.known.setdefault(name, Known()).model = model

    @rule(seconds=st.sampled_from([1.0, COLLECT_SECONDS, COLLECT_SECONDS + 1, REQUEST_ID_SECONDS]))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(name=names, start=st.integers(0, 6), more=st.integers(0, 6))
    def read_a_part(self, name: str, start: int, more: int) -> None:
        assert self._history(name, start, start + more) == self._history(name)[start : start + more]

    @invariant()
    def everything_is_as_promised(self) -> None:
        for name in ("ada", "eve"):
            assert self.store.conversation(name) == self._conversation(name)
            assert self._history(name) == self.known.get(name, Known()).history()
        for run_id in self.names:
            kept = self._kept(run_id)
            if kept is None:
                with pytest.raises(NotFound):
                    self.store.run(run_id)
            else:
                assert self.store.run(run_id) == kept

    @invariant()
    def at_most_one_run_of_a_conversation_is_written(self) -> None:
        running = Counter(self.names[run.id] for run in self._stored() if run.status == "running")
        assert set(running.values()) <= {1}

    @invariant()
    def an_ended_run_never_changes(self) -> None:
        assert all(self.ended.get(run.id, run) == run for run in self._stored())

    @invariant()
    def a_history_is_made_of_whole_turns_in_order_of_their_ends(self) -> None:
        for name in ("ada", "eve"):
            history = self._history(name)
            assert [role for role, *_ in history] == ["user", "assistant"] * (len(history) // 2)
            assert [run_id for *_, run_id, _ in history[::2]] == [run_id for *_, run_id, _ in history[1::2]]
            ends = [at for *_, at in history[1::2]]
            assert ends == sorted(ends)

    def _keep(self, run: Run) -> None:
        self.known[self.names[run.id]].runs[run.id] = self.last[run.id] = run

    def _kept(self, run_id: str) -> Run | None:
        """What the run must be; None where it was cleared away."""
        return self.known[self.names[run_id]].runs.get(run_id)

    def _stored(self) -> list[Run]:
        return [self.store.run(run_id) for run_id in self.names if self._kept(run_id) is not None]

    def _conversation(self, name: str) -> Conversation | None:
        known = self.known.get(name)
        return None if known is None else Conversation(name, known.model, len(known.history()), known.replay_from)

    def _history(self, name: str, start: int = 0, stop: int = 1_000_000) -> list[Entry]:
        kept = self.store.messages(name, start, stop)
        return [(each.role, each.content, each.run_id, each.timestamp) for each in kept]


class MemoryMachine(StoreMachine):
    def new_store(self, clock: Clock) -> Store:
        return MemoryStore(1000, clock)


TestMemoryStore = MemoryMachine.TestCase
TestMemoryStore.settings = settings(max_examples=250, stateful_step_count=40, deadline=None)

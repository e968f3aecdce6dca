"""Random calls by random workers, compared between each store and a simple model of the protocol."""

import tempfile
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from server.domain import Conversation, Run, RunError, Status
from server.errors import ConversationBusy, NotFound, NotLastTurn, RequestIdConflict
from server.store.memory import MemoryStore
from server.store.protocol import REDELIVERY_SECONDS, REQUEST_ID_SECONDS, RETRYABLE_STATUSES, Store
from server.store.redis import RedisStore
from server.store.rules import as_abandoned
from server.store.sqlite import SqliteStore
from tests.support.clock import Clock
from tests.support.redis_server import needs_redis, shared_redis

LEASE_SECONDS = 30.5
SESSION_SECONDS = 700.5
"""Neither is a sum of the times that pass here, so that no call hits the exact instant of an end."""

Entry = tuple[str, str, str | None, float]
"""Role, content, run and timestamp of one message."""

names = st.sampled_from(["ada", "eve"])
questions = st.sampled_from(["why?", "what?"])
request_ids = st.sampled_from([None, None, "id 1", "id 2"])
texts = st.sampled_from(["be", "cause", "왜 👩‍👩‍👧"])
worker_indexes = st.sampled_from([0, 1])
"""Which of the machine's workers makes a call, modulo their number."""


@dataclass
class Known:
    """The expected state of one conversation, from the protocol's docstrings alone."""

    touched: float
    seconds: float | None = None
    model: str | None = None
    settings: dict[str, object] = field(default_factory=dict)
    context_starts: dict[str, int] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    """Oldest first, each as its own worker reads it."""
    leases: dict[str, tuple[int, float]] = field(default_factory=dict)
    """The worker of each open run, and when its lease expires."""
    ends: list[str] = field(default_factory=list)
    """The runs that have ended, in the order of their ends."""
    seen: list[tuple[str, str, float]] = field(default_factory=list)
    """Each request id, the run created for it, and when; oldest first."""

    def read(self, run_id: str, worker: int, now: float) -> Run:
        run = self.runs[run_id]
        holder, until = self.leases.get(run_id, (worker, now))
        return run if holder == worker or now <= until else as_abandoned(run, now)

    def read_all(self, worker: int, now: float) -> list[Run]:
        return [self.read(run_id, worker, now) for run_id in self.runs]

    def open(self, worker: int, now: float) -> list[Run]:
        return [run for run in self.read_all(worker, now) if run.is_open]

    def has_expired(self, worker: int, now: float) -> bool:
        return self.seconds is not None and now - self.touched > self.seconds and not self.open(worker, now)

    def write_down_abandoned(self, worker: int, now: float) -> None:
        for run in self.read_all(worker, now):
            if run.id in self.leases and not run.is_open:
                self.end(run)

    def end(self, run: Run) -> None:
        count = len(self.history())
        self.runs[run.id] = run
        del self.leases[run.id]
        self.ends.append(run.id)
        if run.replaces and run.status == "completed":
            left = min(count, len(self.history()) - 2)
            self.context_starts = {model: min(start, left) for model, start in self.context_starts.items()}

    def history(self) -> list[Entry]:
        entries: list[Entry] = []
        for run in (self.runs[run_id] for run_id in self.ends):
            if run.status == "completed" or (run.status == "cancelled" and run.text and not run.replaces):
                assert run.ended is not None
                while run.replaces and entries and entries[-1][2] == run.replaces:
                    entries.pop()
                entries.append(("user", run.question, run.id, run.created))
                entries.append(("assistant", run.text, run.id, run.ended))
        return entries

    def joined(self, run: Run, now: float) -> Run | None:
        """The run that `run` joins, after the ends of abandoned runs were written. Raises RequestIdConflict."""
        if run.request_id is not None:
            return self._joined_by_id(run, now)
        for other in self.runs.values():
            if other.is_open and (other.question, other.replaces) == (run.question, run.replaces):
                return other
        for newest in list(self.runs.values())[-1:]:
            is_same = (newest.question, newest.replaces) == (run.question, run.replaces)
            if newest.status == "completed" and is_same and not newest.delivered:
                assert newest.ended is not None
                return newest if now <= newest.ended + REDELIVERY_SECONDS else None
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
        return None if newest.status in RETRYABLE_STATUSES else newest


class StoreMachine(RuleBasedStateMachine):
    """Subclass me once for each backend, with a `new_store`."""

    begun = Bundle("begun")
    """Ids of runs: open, ended and deleted ones."""

    workers = 1

    def new_store(self, clock: Clock) -> Store:
        """Another worker on the same data; on no data if it is the first of the machine."""
        raise NotImplementedError

    def left(self) -> list[str]:
        """The data left after all conversations were deleted."""
        return []

    @initialize()
    def open_store(self) -> None:
        self.clock = Clock()
        self.stores = [self.new_store(self.clock) for _ in range(self.workers)]
        self.serials = list(range(self.workers))
        """The serial number of each worker in `stores`, counted over all that ever existed."""
        self.known: dict[str, Known] = {}
        self.drafts: dict[str, tuple[str, Run]] = {}
        """Each run ever created, as it was given to `create_run`, and the name of its conversation."""
        self.last: dict[str, Run] = {}
        """Each run ever created, as its worker last wrote it."""
        self.holders: dict[str, int] = {}
        self.ended: dict[str, Run] = {}
        """Each run whose end was written, as first read after that."""

    def teardown(self) -> None:
        if not hasattr(self, "stores"):
            return
        for run_id in self.drafts:
            self.refresh(run_id, 0)
        for name in ("ada", "eve"):
            self.delete(name, 0)
        self.stores[0].sweep()
        assert self.left() == []
        for store in self.stores:
            store.close()

    @rule(
        target=begun,
        worker_index=worker_indexes,
        name=names,
        question=questions,
        request_id=request_ids,
        waiting=st.sampled_from([0, 1, 2, 32, 32]),
        start=st.sampled_from([True, True, False]),
        replaces=st.sampled_from(["nothing", "nothing", "last turn", "older turn"]),
    )
    def begin(
        self,
        worker_index: int,
        name: str,
        question: str,
        request_id: str | None,
        waiting: int,
        start: bool,
        replaces: str = "nothing",
    ) -> object:
        store, worker = self._worker(worker_index)
        known = self._there(name, worker) or Known(self.clock.now)
        known.write_down_abandoned(worker, self.clock.now)
        turns = [run_id for _, _, run_id, _ in known.history()[::2]]
        replaced = {"last turn": turns[-1:], "older turn": turns[-2:-1]}.get(replaces) or [None]
        run = Run(question, request_id, created=self.clock.now, replaces=replaced[0])
        try:
            joined = known.joined(run, self.clock.now)
        except RequestIdConflict:
            with pytest.raises(RequestIdConflict):
                store.create_run(name, run, waiting=waiting, start=start)
            return multiple()
        if joined is None and run.replaces not in (None, *turns[-1:]):
            with pytest.raises(NotLastTurn):
                store.create_run(name, run, waiting=waiting, start=start)
            return multiple()
        queued = [each for each in known.runs.values() if each.status == "queued"]
        runs_at_once = start and not known.leases
        if joined is None and not runs_at_once and len(queued) >= waiting:
            with pytest.raises(ConversationBusy):
                store.create_run(name, run, waiting=waiting, start=start)
            return multiple()
        answer = store.create_run(name, run, waiting=waiting, start=start)
        if joined is not None:
            assert (answer.run, answer.is_new) == (joined, False)
        else:
            expected = replace(run, status="running" if runs_at_once else "queued", conversation=name)
            assert (answer.run, answer.is_new) == (expected, True)
            self.known[name] = known
            self.drafts[run.id] = (name, run)
            self.holders[run.id] = worker
            self._keep(expected)
            known.touched = self.clock.now
            known.leases[run.id] = (worker, self.clock.now + LEASE_SECONDS)
            if request_id is not None:
                known.seen.append((request_id, run.id, self.clock.now))
        assert answer.conversation == self._conversation(name, worker)
        return multiple() if joined is not None else run.id

    @rule(
        target=begun,
        worker_index=worker_indexes,
        run_id=begun,
        seconds=st.sampled_from([0.0, REDELIVERY_SECONDS, REQUEST_ID_SECONDS]),
    )
    def ask_again(self, worker_index: int, run_id: str, seconds: float) -> object:
        self.clock.now += seconds
        name, asked = self.drafts[run_id]
        return self.begin(worker_index, name, asked.question, asked.request_id, 32, True)

    @rule(run_id=begun)
    def make_the_same_call_again(self, run_id: str) -> None:
        name, draft = self.drafts[run_id]
        if self.holders[run_id] not in self.serials:
            return
        store, worker = self._worker(self.serials.index(self.holders[run_id]))
        known = self._there(name, worker)
        if known is None or run_id not in known.runs:
            return  # It would be created anew, and no worker repeats a call so late.
        known.write_down_abandoned(worker, self.clock.now)
        answer = store.create_run(name, draft, waiting=0, start=False)
        assert (answer.run, answer.is_new) == (known.runs[run_id], True)

    @rule(run_id=begun)
    def start(self, run_id: str) -> None:
        name = self.drafts[run_id][0]
        store, worker = self._worker_of(run_id)
        known = self._there(name, worker)
        started = store.start_run(name, run_id)
        if known is None:
            assert started is None
            return
        known.write_down_abandoned(worker, self.clock.now)
        if next(iter(known.leases), None) == run_id and known.runs[run_id].status == "queued":
            self._keep(replace(known.runs[run_id], status="running"))
            self._renew(known, run_id)
            assert started == self._conversation(name, worker)
        else:
            assert started is None

    @rule(name=names)
    def start_the_oldest(self, name: str) -> None:
        for run_id in list(self.known[name].leases)[:1] if name in self.known else []:
            self.start(run_id)

    @rule(run_id=begun, text=texts, cut=st.sampled_from([0, 0, 0, 1, 2]))
    def append(self, run_id: str, text: str, cut: int) -> None:
        name = self.drafts[run_id][0]
        store, worker = self._worker_of(run_id)
        run = self._read(run_id, worker)
        if run is not None and run.status == "queued":
            return  # The protocol does not define it, and the Runner does not do it.
        there = "" if run is None else run.text[: len(run.text) - cut]
        is_running = run is not None and run.status == "running"
        assert store.append_text(name, run_id, len(there.encode()), text) is is_running
        if run is not None and is_running:
            self._keep(replace(run, text=there + text))
            self._renew(self.known[name], run_id)

    @rule(
        worker_index=worker_indexes,
        run_id=begun,
        status=st.sampled_from(["completed", "completed", "failed", "cancelled", "interrupted"]),
        text=texts,
        is_empty=st.booleans(),
        delivered=st.booleans(),
        context_starts=st.sampled_from([{}, {}, {"m": 2}, {"m": 4, "n": 0}]),
    )
    def finish(
        self,
        worker_index: int,
        run_id: str,
        status: Status,
        text: str,
        is_empty: bool,
        delivered: bool,
        context_starts: dict[str, int],
    ) -> None:
        store, worker = self._worker(worker_index)
        name, run = self.drafts[run_id][0], self._read(run_id, worker)
        ended = self.last[run_id].ended_as(
            status,
            self.clock.now,
            text="" if is_empty and status != "completed" else text,
            delivered=delivered,
            error=RunError("upstream_failed", "It failed.") if status in ("failed", "interrupted") else None,
        )
        answer = store.finish_run(name, ended, context_starts)
        if run is None:
            assert answer is None
        elif run.ended is not None:
            assert answer == run
        else:
            assert answer == ended
            known = self.known[name]
            self.last[run_id] = ended
            known.end(ended)
            known.touched = self.clock.now
            known.context_starts |= context_starts

    @rule(worker_index=worker_indexes, run_id=begun)
    def mark_delivered(self, worker_index: int, run_id: str) -> None:
        store, worker = self._worker(worker_index)
        name, run = self.drafts[run_id][0], self._read(run_id, worker)
        if run is not None and run.status == "interrupted":
            return  # There is no reply to deliver.
        store.mark_delivered(name, run_id)
        if run is not None and not run.is_open:
            self._keep(replace(run, delivered=True))
            self.ended[run_id] = self.last[run_id]

    @rule(worker_index=worker_indexes, run_id=begun, text=texts)
    def mistake_the_conversation(self, worker_index: int, run_id: str, text: str) -> None:
        store, _ = self._worker(worker_index)
        other = "eve" if self.drafts[run_id][0] == "ada" else "ada"
        assert store.append_text(other, run_id, 0, text) is False
        ended = self.last[run_id].ended_as("completed", self.clock.now, text=text)
        assert store.finish_run(other, ended, {"m": 2}) is None

    @rule(worker_index=worker_indexes, name=names)
    def clear(self, worker_index: int, name: str) -> None:
        store, worker = self._worker(worker_index)
        known = self._there(name, worker)
        were_open = [] if known is None else [run.id for run in known.open(worker, self.clock.now)]
        assert list(store.clear_conversation(name)) == were_open
        if known is not None:
            self.known[name] = Known(self.clock.now, known.seconds, known.model, known.settings)
        elif all(each.get_conversation(name) is None for each in self.stores):
            # What has expired for one worker may be deleted for all, also for the worker of its abandoned run.
            self.known.pop(name, None)

    @rule(worker_index=worker_indexes, name=names)
    def delete(self, name: str, worker_index: int) -> None:
        store, worker = self._worker(worker_index)
        known = self._there(name, worker)
        were_open = [] if known is None else [run.id for run in known.open(worker, self.clock.now)]
        assert list(store.delete_conversation(name)) == were_open
        self.known.pop(name, None)

    @rule(worker_index=worker_indexes, name=names)
    def create(self, worker_index: int, name: str) -> None:
        store, worker = self._worker(worker_index)
        if self._there(name, worker) is None:
            store.create_conversation(name, SESSION_SECONDS, {})
            self.known[name] = Known(self.clock.now, SESSION_SECONDS)

    @rule(worker_index=worker_indexes, name=names)
    def touch(self, worker_index: int, name: str) -> None:
        store, worker = self._worker(worker_index)
        known = self._there(name, worker)
        assert store.touch(name) is (known is not None)
        if known is not None and known.seconds is not None:
            known.touched = self.clock.now

    @rule(
        worker_index=worker_indexes,
        name=names,
        changes=st.fixed_dictionaries(
            {},
            optional={
                "model": st.sampled_from(["m1", "m2", None]),
                "title": st.sampled_from(["Küche", None]),
                "temperature": st.sampled_from([0.0, 1, None]),
            },
        ),
        create=st.booleans(),
    )
    def update(self, worker_index: int, name: str, changes: dict[str, object], create: bool) -> None:
        store, worker = self._worker(worker_index)
        known = self._there(name, worker)
        if known is None and not create:
            with pytest.raises(NotFound):
                store.update_conversation(name, changes, create=False)
            return
        known = self.known[name] = known or Known(self.clock.now)
        known.settings = known.settings | changes
        known.model = known.settings.pop("model", known.model)  # type: ignore[assignment]
        known.settings = {each: value for each, value in known.settings.items() if value is not None}
        assert store.update_conversation(name, changes, create=create) == self._conversation(name, worker)

    @rule(worker_index=worker_indexes)
    def renew(self, worker_index: int) -> None:
        store, worker = self._worker(worker_index)
        held = {run_id: self.drafts[run_id][0] for run_id, holder in self.holders.items() if holder == worker}
        still_open = [run_id for run_id, name in held.items() if run_id in self._leases(name)]
        assert set(store.renew_leases(held)) == set(held) - set(still_open)
        for run_id in still_open:
            self._renew(self.known[held[run_id]], run_id)

    @rule(worker_index=worker_indexes)
    def sweep(self, worker_index: int) -> None:
        store, worker = self._worker(worker_index)
        store.sweep()
        for name in list(self.known):
            if self._there(name, worker) is None:
                del self.known[name]

    @rule(seconds=st.sampled_from([1.0, 31.0, REDELIVERY_SECONDS, REDELIVERY_SECONDS + 1, REQUEST_ID_SECONDS]))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(worker_index=worker_indexes, name=names, start=st.integers(0, 6), more=st.integers(0, 6))
    def read_a_part(self, worker_index: int, name: str, start: int, more: int) -> None:
        store, _ = self._worker(worker_index)
        assert _history(store, name, start, start + more) == _history(store, name)[start : start + more]

    @rule(
        worker_index=worker_indexes,
        name=names,
        status=st.sampled_from(["queued", "completed", "interrupted"]),
        most=st.integers(0, 3),
    )
    def list_some(self, worker_index: int, name: str, status: Status, most: int) -> None:
        store, _ = self._worker(worker_index)
        fitting = [run for run in store.list_runs(name, None, 1000) if run.status == status]
        assert list(store.list_runs(name, status, most)) == fitting[:most]

    @rule(worker_index=worker_indexes, most=st.integers(0, 3), position=st.integers(0, 2))
    def list_a_page(self, worker_index: int, most: int, position: int) -> None:
        store, worker = self._worker(worker_index)
        there = [(known.touched, name) for name in self.known for known in [self._there(name, worker)] if known]
        newest_first = sorted(there, reverse=True)
        before = newest_first[position - 1] if 0 < position <= len(newest_first) else None
        expected = [each for each in newest_first if before is None or each < before][:most]
        listed = store.list_conversations(before, most)
        assert [(each.conversation.touched, each.conversation.name) for each in listed] == expected
        assert [each.conversation for each in listed] == [self._conversation(name, worker) for _, name in expected]
        runs = [list(self.known[name].read_all(worker, self.clock.now))[-1:] for _, name in expected]
        assert [each.newest_status for each in listed] == [run[0].status if run else None for run in runs]

    @rule(worker_index=worker_indexes, run_id=begun)
    def refresh(self, run_id: str, worker_index: int) -> None:
        store, worker = self._worker(worker_index)
        expected = self._read(run_id, worker)
        if expected is None:
            with pytest.raises(NotFound):
                store.get_run(run_id)
        else:
            assert store.get_run(run_id) == expected

    @invariant()
    def everything_is_as_promised(self) -> None:
        for store, worker in zip(self.stores, self.serials, strict=True):
            for name in ("ada", "eve"):
                known = self._there(name, worker)
                runs = [] if known is None else known.read_all(worker, self.clock.now)
                assert store.get_conversation(name) == self._conversation(name, worker)
                assert list(store.list_runs(name, None, 1000)) == runs[::-1]
                assert _history(store, name) == ([] if known is None else known.history())

    @invariant()
    def at_most_one_run_of_a_conversation_is_written(self) -> None:
        for store in self.stores:
            for name in ("ada", "eve"):
                assert Counter(run.status for run in store.list_runs(name, None, 1000))["running"] <= 1

    @invariant()
    def an_ended_run_never_changes(self) -> None:
        for store in self.stores:
            for run in (each for name in ("ada", "eve") for each in store.list_runs(name, None, 1000)):
                if not run.is_open and run.id not in self._leases(run.conversation):
                    assert self.ended.setdefault(run.id, run) == run

    @invariant()
    def a_history_is_made_of_whole_turns_in_order_of_their_ends(self) -> None:
        for name in ("ada", "eve"):
            history = _history(self.stores[0], name)
            assert [role for role, *_ in history] == ["user", "assistant"] * (len(history) // 2)
            assert [run_id for *_, run_id, _ in history[::2]] == [run_id for *_, run_id, _ in history[1::2]]
            ends = [at for *_, at in history[1::2]]
            assert ends == sorted(ends)

    def _worker(self, worker_index: int) -> tuple[Store, int]:
        worker_index %= self.workers
        return self.stores[worker_index], self.serials[worker_index]

    def _worker_of(self, run_id: str) -> tuple[Store, int]:
        """The worker that created a run; if it has crashed, the one that replaced it."""
        holder = self.holders[run_id]
        return self._worker(self.serials.index(holder) if holder in self.serials else holder)

    def _there(self, name: str, worker: int) -> Known | None:
        known = self.known.get(name)
        return None if known is None or known.has_expired(worker, self.clock.now) else known

    def _read(self, run_id: str, worker: int) -> Run | None:
        """The run as that worker must read it; None if it is missing."""
        known = self._there(self.drafts[run_id][0], worker)
        return None if known is None or run_id not in known.runs else known.read(run_id, worker, self.clock.now)

    def _keep(self, run: Run) -> None:
        self.known[run.conversation].runs[run.id] = self.last[run.id] = run

    def _leases(self, name: str) -> dict[str, tuple[int, float]]:
        return self.known[name].leases if name in self.known else {}

    def _renew(self, known: Known, run_id: str) -> None:
        known.leases[run_id] = (self.holders[run_id], self.clock.now + LEASE_SECONDS)

    def _conversation(self, name: str, worker: int) -> Conversation | None:
        known = self._there(name, worker)
        if known is None:
            return None
        return Conversation(
            name, known.model, len(known.history()), dict(known.context_starts), settings=dict(known.settings)
        )


def _history(store: Store, name: str, start: int = 0, stop: int = 1_000_000) -> list[Entry]:
    kept = store.list_messages(name, start, stop)
    return [(each.role, each.content, each.run_id, each.timestamp) for each in kept]


class SharedStoreMachine(StoreMachine):
    """For a backend that several workers share; any of them may crash."""

    workers = 2

    @rule(worker_index=worker_indexes)
    def crash(self, worker_index: int) -> None:
        self.stores[worker_index].close()
        self.clock.now += LEASE_SECONDS + 1
        self.stores[worker_index] = self.new_store(self.clock)
        self.serials[worker_index] = max(*self.serials, *self.holders.values()) + 1


class MemoryMachine(StoreMachine):
    def new_store(self, clock: Clock) -> Store:
        return MemoryStore(1000, clock)


class SqliteMachine(SharedStoreMachine):
    @initialize()
    def open_store(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        super().open_store()

    def new_store(self, clock: Clock) -> Store:
        return SqliteStore(str(Path(self.folder.name) / "kept.db"), LEASE_SECONDS, clock)

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


class RedisMachine(SharedStoreMachine):
    @initialize()
    def open_store(self) -> None:
        shared_redis().ask("FLUSHALL")
        super().open_store()

    def new_store(self, clock: Clock) -> Store:
        return RedisStore(shared_redis().url, LEASE_SECONDS, clock)

    def left(self) -> list[str]:
        return shared_redis().all_keys()


TestMemoryStore = MemoryMachine.TestCase
TestMemoryStore.settings = settings(max_examples=250, stateful_step_count=40, deadline=None)

TestSqliteStore = SqliteMachine.TestCase
TestSqliteStore.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)

TestRedisStore = needs_redis(RedisMachine.TestCase)
TestRedisStore.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)

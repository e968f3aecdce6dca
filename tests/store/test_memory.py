"""The memory store: which conversations a full store evicts."""

from collections import Counter

import pytest

from server.charges import Charge
from server.domain import Run
from server.errors import StoreFull
from server.store.limits import BUDGET_SECONDS, RateLimit, RunLimits
from server.store.memory import MemoryStore
from server.store.memory.eviction import IDLE_SECONDS
from server.store.protocol import CreateOptions
from tests.store.contract import asked, contents, finished
from tests.support.clock import Clock

MOST = 4


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(MOST, clock)


def chat(store: MemoryStore, name: str, *, is_open: bool = False) -> None:
    store.create_conversation(name, 3600.0, {}, is_unlisted=True)
    run = asked(store, name=name).run
    if not is_open:
        finished(store, run)


def kept(store: MemoryStore, *names: str) -> list[str]:
    return [name for name in names if store.get_conversation(name) is not None]


def test_a_chat_without_a_name_makes_room_the_oldest_first(store: MemoryStore) -> None:
    for n in range(MOST):
        chat(store, f"chat {n}")
    asked(store, name="ada")
    chat(store, "chat 4")
    assert kept(store, "ada", *(f"chat {n}" for n in range(5))) == ["ada", "chat 2", "chat 3", "chat 4"]


def test_chats_without_a_name_never_fill_the_store(store: MemoryStore) -> None:
    asked(store, name="ada")
    for n in range(100):
        chat(store, f"chat {n}")
    for name in ("eve", "bob", "joe"):
        asked(store, name=name)
    with pytest.raises(StoreFull):
        chat(store, "chat")
    assert kept(store, "ada", "eve", "bob", "joe") == ["ada", "eve", "bob", "joe"]


def test_one_that_is_used_again_is_not_the_oldest(store: MemoryStore) -> None:
    for n in range(MOST):
        chat(store, f"chat {n}")
    store.touch("chat 0")
    finished(store, asked(store, "more", name="chat 1").run)
    for name in ("ada", "eve"):
        asked(store, name=name)
    assert kept(store, *(f"chat {n}" for n in range(MOST))) == ["chat 0", "chat 1"]


def test_one_whose_reply_is_being_written_stays_until_it_is(store: MemoryStore) -> None:
    for n in range(MOST):
        chat(store, f"chat {n}", is_open=True)
    with pytest.raises(StoreFull):
        asked(store, name="ada")
    (run,) = store.list_runs("chat 2", None, 9)
    finished(store, run)
    assert asked(store, name="ada").is_new
    assert kept(store, *(f"chat {n}" for n in range(MOST))) == ["chat 0", "chat 1", "chat 3"]


def test_what_was_forgotten_leaves_nothing(store: MemoryStore) -> None:
    for n in range(50):
        chat(store, f"chat {n}")
    assert len(store._table.run_names) == len(store._table.states) == MOST


def test_a_client_that_only_chose_a_model_makes_room_when_it_was_not_seen_for_an_hour(
    store: MemoryStore, clock: Clock
) -> None:
    for name in ("ada", "eve", "bob"):
        store.update_conversation(name, {"model": "m"})
    asked(store, name="joe")
    clock.now += IDLE_SECONDS
    store.touch("ada")
    store.update_conversation("eve", {"model": "m2"})
    with pytest.raises(StoreFull):
        store.update_conversation("new", {"model": "m"})
    clock.now += 1
    store.update_conversation("new", {"model": "m"})
    with pytest.raises(StoreFull):
        asked(store, name="another")
    assert kept(store, "ada", "eve", "bob", "joe", "new") == ["ada", "eve", "joe", "new"]


def test_chats_without_a_name_make_room_before_clients_that_chose_a_model(store: MemoryStore, clock: Clock) -> None:
    store.update_conversation("ada", {"model": "m"})
    clock.now += IDLE_SECONDS + 1
    for n in range(MOST - 1):
        chat(store, f"chat {n}")
    asked(store, name="eve")
    assert kept(store, "ada", "chat 0") == ["ada"]


def test_a_client_that_has_a_history_or_a_thread_without_one_stays(store: MemoryStore, clock: Clock) -> None:
    store.update_conversation("ada", {"model": "m"})
    finished(store, asked(store, name="ada").run)
    store.create_conversation("thread", None, {})
    store.create_conversation("session", 1e9, {})
    store.update_conversation("session", {"model": "m"})
    chat(store, "chat")
    clock.now += IDLE_SECONDS + 1
    asked(store, name="eve")
    with pytest.raises(StoreFull):
        asked(store, name="bob")
    assert kept(store, "ada", "thread", "session", "eve") == ["ada", "thread", "session", "eve"]
    assert contents(store) == ["why?", "re: why?"]


def test_a_client_that_only_keeps_data_of_its_own_stays(store: MemoryStore, clock: Clock) -> None:
    store.update_conversation("ada", {"metadata": {"color": "blue"}})
    clock.now += IDLE_SECONDS + 1
    for n in range(MOST - 1):
        asked(store, name=f"client {n}")
    with pytest.raises(StoreFull):
        asked(store, name="bob")
    assert kept(store, "ada") == ["ada"]


def test_a_question_that_is_refused_makes_no_room(store: MemoryStore) -> None:
    for n in range(MOST):
        chat(store, f"chat {n}")
    with pytest.raises(Exception, match="waiting"):
        store.create_run("ada", Run("why?"), waiting=0, start=False)
    assert len(kept(store, *(f"chat {n}" for n in range(MOST)))) == MOST


def test_to_make_room_is_no_search(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each new conversation looks at one other, regardless of their number."""
    store = MemoryStore(3000, clock)
    for n in range(1500):
        chat(store, f"open {n}", is_open=True)
        chat(store, f"chat {n}")
    looks: Counter[str] = Counter()
    delete = store._table.delete
    monkeypatch.setattr(store._table, "delete", lambda name: (looks.update([name]), delete(name))[1])
    for n in range(1000):
        asked(store, name=f"client {n}")
    assert list(looks) == [f"chat {n}" for n in range(1000)]


def test_a_page_of_runs_is_no_search(clock: Clock) -> None:
    """The runs before it are not looked at, regardless of their number."""
    looks = 0

    class Id(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal looks
            looks += 1
            return str.__eq__(self, other)

    store = MemoryStore(MOST, clock)
    store.create_conversation("ada", None, {})
    runs = [Run("why?", id=Id(f"run_{n}"), status="completed", text="so", ended=2.0) for n in range(1000)]
    store.import_history("ada", [], runs)
    looks = 0
    found = store.list_runs("ada", None, 2, Id("run_3"))
    assert [each.id for each in found] == ["run_2", "run_1"] and looks < 10


def test_a_sweep_forgets_thousands_at_once(clock: Clock) -> None:
    store = MemoryStore(100_000, clock)
    for n in range(5000):
        store.create_conversation(f"made {n}", 60.0, {})
    for n in range(20_000):
        finished(store, asked(store, str(n), f"client {n % 40}", request_id=str(n)).run)
    clock.now += 24 * 3600 + 1
    assert store.sweep() is False
    assert len(store._table.states) == 40
    assert not any(state.request_ids for state in store._table.states.values())


def test_a_sweep_deletes_what_limits_nobody_any_more(store: MemoryStore, clock: Clock) -> None:
    charge = Charge("k", "1970-01-12", 5, 1)
    for n in range(20):
        limits = RunLimits(RateLimit(f"key {n}", 1, 60.0), 1_000)
        run = store.create_run("ada", Run(f"{n}", charge=charge), CreateOptions(limits=limits), waiting=1, start=True)
        finished(store, run.run)
    store.sweep()
    assert (len(store._table.limits._hits), len(store._table.limits._budgets)) == (20, 1)
    clock.now += BUDGET_SECONDS
    store.sweep()
    assert (len(store._table.limits._hits), len(store._table.limits._budgets)) == (0, 0)

"""The memory store keeps the contract of every store, and an unknown URL opens none."""

from collections.abc import Callable

import pytest

from server.errors import StoreFull
from server.store import open_store
from server.store.memory import MemoryStore
from server.store.protocol import Store
from tests.store.contract import LEASE_SECONDS, MAX_RECORDS, StoreTests, asked, contents, finished
from tests.support.clock import Clock


class TestMemoryStore(StoreTests):
    @pytest.fixture
    def store(self, clock: Clock) -> Store:
        return MemoryStore(1000, clock, max_records=MAX_RECORDS)

    @pytest.mark.parametrize(
        "new",
        [lambda store: asked(store, name="third"), lambda store: store.update_conversation("third", {"model": "m"})],
    )
    def test_it_holds_so_many_conversations_and_loses_none_for_another(
        self, clock: Clock, new: Callable[[Store], object]
    ) -> None:
        store = MemoryStore(2, clock)
        finished(store, asked(store, name="ada").run)
        asked(store, name="eve")
        with pytest.raises(StoreFull):
            new(store)
        assert store.get_conversation("third") is None
        assert contents(store) == ["why?", "re: why?"]
        assert asked(store, "more", name="ada").is_new


def test_an_unknown_store_stops_the_start_and_names_the_setting() -> None:
    with pytest.raises(ValueError, match="STORE_URL"):
        open_store("carrier-pigeon://coop", max_conversations=1, max_records=1, lease_seconds=LEASE_SECONDS)

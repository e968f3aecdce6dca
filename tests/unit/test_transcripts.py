"""The cache of transcripts: valid whatever happens to the history, and bounded in size."""

from collections.abc import Sequence

import orjson
import pytest

from server.domain import Conversation, Message, Run
from server.runs import context
from server.runs.transcripts import IDLE_SECONDS, MIN_MESSAGES, Transcripts
from server.store.memory import MemoryStore
from tests.support.clock import Clock


class CountingStore(MemoryStore):
    """Counts the messages that are read from it."""

    read = 0

    def list_messages(self, name: str, start: int, stop: int) -> Sequence[Message]:
        messages = super().list_messages(name, start, stop)
        self.read += len(messages)
        return messages


@pytest.fixture
def store() -> CountingStore:  # type: ignore[override]
    return CountingStore(max_conversations=100)


@pytest.fixture
def transcripts(store: CountingStore, clock: Clock) -> Transcripts:
    return Transcripts(store, clock)


def grow(store: CountingStore, count: int, name: str = "ada", text: str = "m") -> None:
    """Add `count` messages with alternating roles."""
    message_count = store.create_conversation(name, None, {}).message_count
    roles = ["assistant" if n % 2 else "user" for n in range(message_count, message_count + count)]
    store.add_messages(
        name, [Message.of(role, f"{text}{message_count + n}", None, 0.0) for n, role in enumerate(roles)]
    )


def get_row(store: CountingStore, name: str = "ada") -> Conversation:
    found = store.get_conversation(name)
    assert found is not None
    return found


def get_contents(transcripts: Transcripts, conversation: Conversation, start: int = 0, **more: bool) -> list[str]:
    found = transcripts.get(conversation, start, **more)
    return [each["content"] for each in orjson.loads(context.build_messages("", found.transcript, ""))]


def test_only_what_is_new_is_read_of_a_long_history(store: CountingStore, transcripts: Transcripts) -> None:
    grow(store, 100)
    assert get_contents(transcripts, get_row(store)) == [f"m{n}" for n in range(100)]
    grow(store, 2)
    store.read = 0
    assert get_contents(transcripts, get_row(store)) == [f"m{n}" for n in range(102)]
    assert store.read == 2
    assert transcripts.get(get_row(store), 0).count == 102


def test_a_short_history_is_not_cached(store: CountingStore, transcripts: Transcripts) -> None:
    grow(store, MIN_MESSAGES - 1)
    for _ in range(2):
        store.read = 0
        transcripts.get(get_row(store), 0)
        assert store.read == MIN_MESSAGES - 1


def test_a_message_that_was_deleted_is_sent_no_more(store: CountingStore, transcripts: Transcripts) -> None:
    grow(store, 40)
    transcripts.get(get_row(store), 0)
    store.delete_message("ada", store.list_messages("ada", 39, 40)[0].id)
    grow(store, 1, text="new ")
    assert get_contents(transcripts, get_row(store))[-2:] == ["m38", "new 39"]


def test_a_history_that_was_cleared_or_deleted_and_has_grown_again_is_read_anew(
    store: CountingStore, transcripts: Transcripts
) -> None:
    grow(store, 40)
    transcripts.get(get_row(store), 0)
    for forget in (store.clear_conversation, store.delete_conversation):
        forget("ada")
        grow(store, 50, text="new ")
        assert get_contents(transcripts, get_row(store)) == [f"new {n}" for n in range(50)]


def test_a_message_that_is_deleted_while_the_transcript_is_read_leaves_no_gap(
    store: CountingStore, transcripts: Transcripts
) -> None:
    grow(store, 40)
    transcripts.get(get_row(store), 0)
    grow(store, 2)
    before = get_row(store)
    store.delete_message("ada", store.list_messages("ada", 0, 1)[0].id)
    assert get_contents(transcripts, before) == [f"m{n}" for n in range(1, 42)]


def test_another_beginning_is_read_anew_and_has_no_reply_without_its_question(
    store: CountingStore, transcripts: Transcripts
) -> None:
    grow(store, 60)
    transcripts.get(get_row(store), 0)
    found = transcripts.get(get_row(store), 21)
    assert (found.first, found.count) == (22, 38)
    grow(store, 2)
    assert get_contents(transcripts, get_row(store), 21) == [f"m{n}" for n in range(22, 62)]


def test_a_window_of_one_run_alone_is_not_cached(store: CountingStore, transcripts: Transcripts) -> None:
    grow(store, 60)
    transcripts.get(get_row(store), 0)
    assert get_contents(transcripts, get_row(store), 20, keep=False) == [f"m{n}" for n in range(20, 60)]
    store.read = 0
    transcripts.get(get_row(store), 0)
    assert store.read == 0


def test_of_too_many_bytes_those_are_dropped_that_were_not_asked_for_longest(
    store: CountingStore, clock: Clock
) -> None:
    transcripts = Transcripts(store, clock, max_bytes=3_000)
    for name in ("ada", "eve", "bob"):
        grow(store, 30, name)
        transcripts.get(get_row(store, name), 0)
    store.read = 0
    for name in ("bob", "eve"):
        transcripts.get(get_row(store, name), 0)
    assert store.read == 0
    transcripts.get(get_row(store, "ada"), 0)
    assert store.read == 30


def test_one_that_nobody_asks_for_is_forgotten(store: CountingStore, transcripts: Transcripts, clock: Clock) -> None:
    grow(store, 30)
    grow(store, 30, "eve")
    transcripts.get(get_row(store), 0)
    clock.now += IDLE_SECONDS
    transcripts.get(get_row(store, "eve"), 0)
    clock.now += 1
    transcripts.forget_unused()
    store.read = 0
    transcripts.get(get_row(store, "eve"), 0)
    assert store.read == 0
    transcripts.get(get_row(store), 0)
    assert store.read == 30


def test_one_is_forgotten_with_its_conversation(store: CountingStore, transcripts: Transcripts) -> None:
    grow(store, 30)
    transcripts.get(get_row(store), 0)
    transcripts.forget("ada")
    store.read = 0
    transcripts.get(get_row(store), 0)
    assert store.read == 30


def test_a_conversation_of_which_it_is_not_known_whether_it_has_changed_is_read_each_time(
    store: CountingStore, transcripts: Transcripts
) -> None:
    grow(store, 30)
    unknown = Conversation("ada", message_count=30)
    for _ in range(2):
        store.read = 0
        assert len(get_contents(transcripts, unknown)) == 30
        assert store.read == 30


def test_the_runs_own_question_is_no_part_of_what_is_cached(store: CountingStore, transcripts: Transcripts) -> None:
    grow(store, 30)
    run = Run("why?")
    cached = transcripts.get(get_row(store), 0)
    assert b"why?" in context.build_messages("", cached.transcript, run.question)
    assert b"why?" not in context.build_messages("", transcripts.get(get_row(store), 0).transcript, "")

"""What every store promises, asked of each: one test for each sentence of the protocol."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from server.errors import ConversationBusy, NotFound, RequestIdConflict, StoreFull
from server.model import Run, Status
from server.store import COLLECT_SECONDS, REQUEST_ID_SECONDS, Begun, Store, open_store
from server.store.memory import MemoryStore
from tests.clock import Clock


def asked(store: Store, question: str = "why?", name: str = "ada", request_id: str | None = None) -> Begun:
    return store.begin(name, Run(question, request_id), waiting=32, start=True)


def finished(store: Store, run: Run, status: Status = "completed", now: float = 1_000_000.0, **known: object) -> Run:
    known.setdefault("text", f"re: {run.question}")
    kept = store.finish("ada", run.ending(status, now, **known), None)
    assert kept is not None
    return kept


def contents(store: Store, name: str = "ada") -> list[str]:
    return [each.content for each in store.messages(name, 0, 1_000_000)]


class StoreTests:
    """Subclass me once for each backend, with a fixture `store` that takes the clock."""

    def test_a_conversation_never_named_is_not_there(self, store: Store) -> None:
        assert store.conversation("ada") is None
        assert contents(store) == []
        assert store.clear("ada") == ()

    def test_a_chosen_model_makes_the_conversation_and_is_kept(self, store: Store) -> None:
        store.set_model("ada", "m1")
        store.set_model("ada", "m2")
        kept = store.conversation("ada")
        assert kept is not None
        assert (kept.name, kept.model, kept.message_count) == ("ada", "m2", 0)

    def test_the_first_run_of_a_conversation_runs_at_once(self, store: Store) -> None:
        begun = asked(store)
        assert begun.fresh
        assert begun.run.status == "running"
        assert store.run(begun.run.id) == begun.run

    def test_a_run_that_may_not_start_is_queued(self, store: Store) -> None:
        begun = store.begin("ada", Run("why?"), waiting=32, start=False)
        assert begun.run.status == "queued"

    def test_a_run_behind_an_open_one_is_queued_and_starts_when_it_is_the_oldest(self, store: Store) -> None:
        first, second, third = asked(store, "1").run, asked(store, "2").run, asked(store, "3").run
        assert (second.status, third.status) == ("queued", "queued")
        assert store.start("ada", second.id) is None
        finished(store, first)
        assert store.start("ada", third.id) is None
        conversation = store.start("ada", second.id)
        assert conversation is not None
        assert conversation.message_count == 2
        assert store.run(second.id).status == "running"

    def test_a_run_that_is_gone_or_ended_does_not_start(self, store: Store) -> None:
        run = store.begin("ada", Run("why?"), waiting=32, start=False).run
        finished(store, run, "cancelled", text="")
        assert store.start("ada", run.id) is None
        assert store.start("eve", run.id) is None

    def test_a_run_starts_once(self, store: Store) -> None:
        at_once = asked(store, "1").run
        assert store.start("ada", at_once.id) is None
        queued = asked(store, "2").run
        finished(store, at_once)
        assert store.start("ada", queued.id) is not None
        assert store.start("ada", queued.id) is None

    def test_at_most_so_many_runs_wait_and_a_refusal_changes_nothing(self, store: Store) -> None:
        asked(store, "0")
        for n in range(3):
            store.begin("ada", Run(f"waits {n}"), waiting=3, start=True)
        with pytest.raises(ConversationBusy):
            store.begin("ada", Run("one more", "id-1"), waiting=3, start=True)
        again = store.begin("ada", Run("other", "id-1"), waiting=32, start=True)
        assert again.fresh

    def test_a_refused_first_run_leaves_no_conversation(self, store: Store) -> None:
        with pytest.raises(ConversationBusy):
            store.begin("ada", Run("why?"), waiting=0, start=False)
        assert store.conversation("ada") is None

    def test_an_identical_open_question_is_joined(self, store: Store) -> None:
        first, other = asked(store, "why?"), asked(store, "what?")
        assert asked(store, "why?") == replace(first, conversation=first.conversation, fresh=False)
        joined = asked(store, "what?")
        assert (joined.run.id, joined.fresh) == (other.run.id, False)

    def test_an_identical_question_of_another_client_is_not_joined(self, store: Store) -> None:
        first = asked(store, "why?", "ada")
        assert asked(store, "why?", "eve").run.id != first.run.id

    def test_a_reply_that_nobody_collected_is_joined_for_ten_minutes(self, store: Store, clock: Clock) -> None:
        run = asked(store).run
        finished(store, run, now=clock.now)
        clock.now += COLLECT_SECONDS
        assert asked(store).run.text == "re: why?"
        clock.now += 1
        assert asked(store).fresh

    def test_a_reply_that_was_collected_is_not_joined(self, store: Store) -> None:
        finished(store, asked(store).run, collected=True)
        assert asked(store).fresh

    def test_only_the_newest_run_is_joined_after_its_end(self, store: Store) -> None:
        finished(store, asked(store, "1").run)
        finished(store, asked(store, "2").run)
        assert asked(store, "1").fresh

    @pytest.mark.parametrize("status", ["failed", "interrupted", "cancelled"])
    def test_a_run_that_did_not_complete_is_not_joined(self, store: Store, status: Status) -> None:
        finished(store, asked(store).run, status)
        assert asked(store).fresh

    def test_a_request_id_gets_the_kept_reply(self, store: Store) -> None:
        run = asked(store, request_id="id").run
        finished(store, run, collected=True)
        finished(store, asked(store, "between").run)
        again = asked(store, request_id="id")
        assert (again.run.id, again.run.text, again.fresh) == (run.id, "re: why?", False)

    def test_a_request_id_joins_its_open_run(self, store: Store) -> None:
        run = asked(store, request_id="id").run
        assert asked(store, request_id="id").run.id == run.id

    def test_a_new_request_id_asks_anew_also_where_the_question_is_open(self, store: Store) -> None:
        asked(store, request_id="1")
        assert asked(store, request_id="2").fresh

    def test_a_request_id_with_another_question_is_refused_whatever_became_of_its_run(self, store: Store) -> None:
        run = asked(store, request_id="id").run
        with pytest.raises(RequestIdConflict):
            asked(store, "other", request_id="id")
        finished(store, run, "failed")
        with pytest.raises(RequestIdConflict):
            asked(store, "other", request_id="id")

    @pytest.mark.parametrize("status", ["failed", "interrupted"])
    def test_a_request_id_retries_a_run_that_failed_or_was_interrupted(self, store: Store, status: Status) -> None:
        run = asked(store, request_id="id").run
        finished(store, run, status)
        retried = asked(store, request_id="id")
        assert retried.fresh
        assert retried.run.id != run.id
        assert asked(store, request_id="id").run.id == retried.run.id
        assert store.run(run.id).status == status

    def test_a_request_id_of_a_cancelled_run_pays_nothing_again(self, store: Store) -> None:
        finished(store, asked(store, request_id="id").run, "cancelled")
        again = asked(store, request_id="id")
        assert (again.run.status, again.fresh) == ("cancelled", False)

    def test_a_request_id_is_exact_for_a_day_and_then_forgotten(self, store: Store, clock: Clock) -> None:
        finished(store, asked(store, request_id="id").run)
        clock.now += REQUEST_ID_SECONDS
        assert not asked(store, request_id="id").fresh
        clock.now += 1
        assert asked(store, request_id="id").fresh

    def test_a_request_id_is_the_conversations_own(self, store: Store) -> None:
        first = asked(store, request_id="id", name="ada")
        assert asked(store, "other", request_id="id", name="eve").run.id != first.run.id

    def test_text_is_added_to_an_open_run(self, store: Store) -> None:
        run = asked(store).run
        assert store.append("ada", run.id, "be")
        assert store.append("ada", run.id, "cause")
        assert store.run(run.id).text == "because"

    def test_nothing_is_added_to_a_run_that_has_not_started(self, store: Store) -> None:
        run = store.begin("ada", Run("why?"), waiting=32, start=False).run
        assert not store.append("ada", run.id, "be")
        assert store.run(run.id).text == ""

    def test_nothing_is_added_after_a_runs_end(self, store: Store) -> None:
        run = asked(store).run
        finished(store, run)
        assert not store.append("ada", run.id, "more")
        assert not store.append("eve", run.id, "more")
        assert store.run(run.id).text == "re: why?"

    def test_a_completed_run_adds_question_and_reply_together(self, store: Store) -> None:
        finished(store, asked(store, "1").run)
        finished(store, asked(store, "2").run)
        assert contents(store) == ["1", "re: 1", "2", "re: 2"]

    def test_what_was_kept_comes_back_whole(self, store: Store) -> None:
        text = 'é e\u0301 안녕 👩‍👩‍👧 \u202eabc \u2028 \\ " \t' + "x" * 100_000
        run = finished(store, asked(store, text).run, text=text)
        question, reply = store.messages("ada", 0, 2)
        assert (question.role, question.content, reply.role, reply.content) == ("user", text, "assistant", text)
        assert {question.run_id, reply.run_id} == {run.id}

    def test_the_first_end_stands(self, store: Store) -> None:
        run = asked(store).run
        first = finished(store, run, "cancelled", text="be")
        assert finished(store, run, "completed", text="because") == first
        assert contents(store) == ["why?", "be"]

    def test_a_run_that_is_gone_cannot_be_finished(self, store: Store) -> None:
        run = asked(store).run
        store.clear("ada")
        assert store.finish("ada", run.ending("completed", 1.0, text="late"), None) is None
        assert store.finish("eve", run.ending("completed", 1.0, text="late"), None) is None
        assert contents(store) == []

    def test_the_place_of_the_replay_is_remembered_with_the_end(self, store: Store) -> None:
        run = asked(store).run
        store.finish("ada", run.ending("completed", 1.0, text="because"), 2)
        kept = store.conversation("ada")
        assert kept is not None
        assert kept.replay_from == 2
        finished(store, asked(store, "more").run)
        kept = store.conversation("ada")
        assert kept is not None
        assert (kept.replay_from, kept.message_count) == (2, 4)

    def test_messages_are_read_by_their_places(self, store: Store) -> None:
        for n in range(3):
            finished(store, asked(store, str(n)).run)
        assert [each.content for each in store.messages("ada", 1, 4)] == ["re: 0", "1", "re: 1"]
        assert [each.content for each in store.messages("ada", 4, 99)] == ["2", "re: 2"]
        assert list(store.messages("ada", 9, 99)) == []

    def test_clearing_forgets_all_but_the_model(self, store: Store) -> None:
        store.set_model("ada", "m1")
        done = asked(store, "done", request_id="id").run
        store.finish("ada", done.ending("completed", 1.0, text="yes"), 2)
        running, queued = asked(store, "running").run, asked(store, "queued").run
        assert list(store.clear("ada")) == [running.id, queued.id]
        kept = store.conversation("ada")
        assert kept is not None
        assert (kept.model, kept.message_count, kept.replay_from) == ("m1", 0, 0)
        assert contents(store) == []
        for run in (done, running, queued):
            with pytest.raises(NotFound):
                store.run(run.id)
        assert asked(store, "other", request_id="id").run.status == "running"

    def test_one_clients_clearing_leaves_the_others_alone(self, store: Store) -> None:
        kept = asked(store, name="eve").run
        finished(store, asked(store, name="ada").run)
        store.clear("ada")
        assert store.run(kept.id) == kept

    def test_an_unknown_run_is_not_found(self, store: Store) -> None:
        with pytest.raises(NotFound):
            store.run("run_nobody")

    def test_of_many_that_begin_at_once_one_runs_and_the_rest_wait(self, store: Store) -> None:
        barrier = threading.Barrier(16)

        def begin(n: int) -> Run:
            barrier.wait()
            return asked(store, f"q{n}").run

        with ThreadPoolExecutor(16) as threads:
            statuses = [run.status for run in threads.map(begin, range(16))]
        assert sorted(statuses) == ["queued"] * 15 + ["running"]

    def test_of_many_ends_at_once_one_is_written(self, store: Store) -> None:
        run = asked(store).run
        barrier = threading.Barrier(16)

        def end(n: int) -> Run:
            barrier.wait()
            return finished(store, run, text=f"reply {n}")

        with ThreadPoolExecutor(16) as threads:
            ends = set(threads.map(end, range(16)))
        assert len(ends) == 1
        assert contents(store) == ["why?", ends.pop().text]

    def test_a_healthy_store_can_be_asked(self, store: Store) -> None:
        store.ping()


class TestMemoryStore(StoreTests):
    @pytest.fixture
    def store(self, clock: Clock) -> Store:
        return MemoryStore(1000, clock)

    @pytest.mark.parametrize(
        "new", [lambda store: asked(store, name="third"), lambda store: store.set_model("third", "m")]
    )
    def test_it_holds_so_many_conversations_and_loses_none_for_another(
        self, clock: Clock, new: Callable[[Store], object]
    ) -> None:
        store = MemoryStore(2, clock)
        finished(store, asked(store, name="ada").run)
        asked(store, name="eve")
        with pytest.raises(StoreFull):
            new(store)
        assert store.conversation("third") is None
        assert contents(store) == ["why?", "re: why?"]
        assert asked(store, "more", name="ada").fresh


def test_an_unknown_store_stops_the_start_and_names_the_setting() -> None:
    with pytest.raises(ValueError, match="STORE_URL"):
        open_store("carrier-pigeon://coop", max_conversations=1)

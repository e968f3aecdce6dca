"""The shared tests of every store: one test for each sentence of the protocol."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from server.domain import Conversation, Message, Run, RunError, Status, Step, ToolCall, Usage
from server.errors import ConversationBusy, NotFound, RequestIdConflict, RunInterrupted, TooManyRecords
from server.store.protocol import (
    RECENT_MESSAGES,
    REDELIVERY_SECONDS,
    REQUEST_ID_SECONDS,
    CreatedRun,
    CreateOptions,
    Store,
)
from tests.store.contract_conversations import ConversationTests
from tests.store.contract_limits import LimitTests, SharedLimitTests
from tests.support.clock import Clock

LEASE_SECONDS = 30.0
"""The setting of every store in these tests."""


def asked(store: Store, question: str = "why?", name: str = "ada", request_id: str | None = None) -> CreatedRun:
    return store.create_run(name, Run(question, request_id), waiting=32, start=True)


def finished(store: Store, run: Run, status: Status = "completed", now: float = 1_000_000.0, **known: object) -> Run:
    known.setdefault("text", f"re: {run.question}")
    kept = store.finish_run(run.conversation, run.ended_as(status, now, **known))
    assert kept is not None
    return kept


def there(store: Store, name: str = "ada") -> Conversation:
    kept = store.get_conversation(name)
    assert kept is not None
    return kept


def contents(store: Store, name: str = "ada") -> list[str]:
    return [each.content for each in store.list_messages(name, 0, 1_000_000)]


def ids(runs: Sequence[Run]) -> list[str]:
    return [run.id for run in runs]


def there_after(store: Store, question: str) -> Conversation:
    """The conversation after `question` was asked and answered."""
    finished(store, asked(store, question).run)
    return there(store)


MAX_RECORDS = 5
"""The setting of every store in these tests."""

SAID = Message.of("user", "hello", None, 1.0, id="msg_1")
DRAFT, COMPLETED, RUNNING = (Run(f"{n}?", created=1.0, id=f"run_{n}", conversation="ada") for n in range(3))


def ended(run: Run) -> Run:
    return run.ended_as("completed", 9.0, text="because")


def requiring_action(run: Run, clock: Clock) -> Run:
    step = Step((ToolCall("call_1", "look", "{}"),), clock.now)
    return replace(run, status="requires_action", steps=(step,), expires=clock.now + 600)


class StoreTests(ConversationTests, LimitTests):
    """Subclass once for each backend, with a fixture `store` that takes the clock."""

    def test_a_conversation_never_named_is_not_there(self, store: Store) -> None:
        run = Run("why?", conversation="ada")
        store.mark_delivered("ada", run.id)
        assert store.start_run("ada", run.id) is None
        assert store.append_text("ada", run.id, 0, "because") is False
        assert store.finish_run("ada", run.ended_as("completed", 1.0, text="because"), {"m": 2}) is None
        assert list(store.clear_conversation("ada")) == []
        assert list(store.delete_conversation("ada")) == []
        assert store.touch("ada") is False
        assert store.get_conversation("ada") is None
        assert contents(store) == []
        assert list(store.list_runs("ada", None, 10)) == []

    def test_a_chosen_model_makes_the_conversation_and_is_kept(self, store: Store) -> None:
        store.update_conversation("ada", {"model": "m1"})
        store.update_conversation("ada", {"model": "m2"})
        assert there(store) == Conversation("ada", "m2")

    def test_the_first_run_makes_the_conversation(self, store: Store) -> None:
        assert asked(store).conversation == there(store) == Conversation("ada")

    def test_a_run_knows_its_conversation(self, store: Store) -> None:
        run = asked(store).run
        assert run.conversation == store.get_run(run.id).conversation == "ada"

    def test_the_first_run_of_a_conversation_runs_at_once(self, store: Store) -> None:
        begun = asked(store)
        assert begun.is_new
        assert begun.run.status == "running"
        assert store.get_run(begun.run.id) == begun.run

    def test_a_run_that_may_not_start_is_queued(self, store: Store) -> None:
        begun = store.create_run("ada", Run("why?"), waiting=32, start=False)
        assert begun.run.status == "queued"

    def test_a_run_behind_an_open_one_is_queued_and_starts_when_it_is_the_oldest(self, store: Store) -> None:
        first, second, third = asked(store, "1").run, asked(store, "2").run, asked(store, "3").run
        assert (second.status, third.status) == ("queued", "queued")
        assert store.start_run("ada", second.id) is None
        finished(store, first)
        assert store.start_run("ada", third.id) is None
        conversation = store.start_run("ada", second.id)
        assert conversation is not None
        assert conversation.message_count == 2
        assert store.get_run(second.id).status == "running"

    def test_a_run_that_is_gone_or_ended_does_not_start(self, store: Store) -> None:
        run = store.create_run("ada", Run("why?"), waiting=32, start=False).run
        finished(store, run, "cancelled", text="")
        assert store.start_run("ada", run.id) is None
        assert store.start_run("eve", run.id) is None

    def test_a_run_starts_once(self, store: Store) -> None:
        at_once = asked(store, "1").run
        assert store.start_run("ada", at_once.id) is None
        queued = asked(store, "2").run
        finished(store, at_once)
        assert store.start_run("ada", queued.id) is not None
        assert store.start_run("ada", queued.id) is None

    def test_a_run_ahead_that_was_cancelled_while_it_waited_is_no_obstacle(self, store: Store) -> None:
        first, second, third = asked(store, "1").run, asked(store, "2").run, asked(store, "3").run
        finished(store, second, "cancelled", text="")
        finished(store, first)
        assert store.start_run("ada", third.id) is not None

    def test_the_same_call_made_again_gets_the_same_run(self, store: Store) -> None:
        run = Run("why?", "id")
        begun = store.create_run("ada", run, waiting=0, start=True)
        again = store.create_run("ada", run, waiting=0, start=True)
        assert again == begun
        assert again.is_new
        assert ids(store.list_runs("ada", None, 10)) == [run.id]
        ended = finished(store, begun.run)
        last = store.create_run("ada", run, waiting=0, start=True)
        assert (last.run, last.is_new, last.conversation.message_count) == (ended, True, 2)

    def test_the_same_call_made_again_decides_before_all_else(self, store: Store) -> None:
        behind = Run("what?")
        asked(store)
        queued = store.create_run("ada", behind, waiting=1, start=True)
        assert store.create_run("ada", behind, waiting=0, start=True) == queued
        finished(store, queued.run, "failed")
        assert not store.create_run("ada", behind, waiting=0, start=True).run.is_open

    def test_at_most_so_many_runs_wait_and_a_refusal_changes_nothing(self, store: Store) -> None:
        asked(store, "0")
        for n in range(3):
            store.create_run("ada", Run(f"waits {n}"), waiting=3, start=True)
        with pytest.raises(ConversationBusy):
            store.create_run("ada", Run("one more", "id-1"), waiting=3, start=True)
        again = store.create_run("ada", Run("other", "id-1"), waiting=32, start=True)
        assert again.is_new
        assert len(store.list_runs("ada", None, 10)) == 5

    def test_a_run_that_may_not_start_counts_as_waiting(self, store: Store) -> None:
        store.create_run("ada", Run("1"), waiting=1, start=False)
        with pytest.raises(ConversationBusy):
            store.create_run("ada", Run("2"), waiting=1, start=True)

    def test_a_refused_first_run_leaves_no_conversation(self, store: Store) -> None:
        with pytest.raises(ConversationBusy):
            store.create_run("ada", Run("why?"), waiting=0, start=False)
        assert store.get_conversation("ada") is None

    def test_an_identical_open_question_is_joined(self, store: Store) -> None:
        first, other = asked(store, "why?"), asked(store, "what?")
        assert asked(store, "why?") == replace(first, conversation=first.conversation, is_new=False)
        joined = asked(store, "what?")
        assert (joined.run.id, joined.is_new) == (other.run.id, False)

    def test_an_identical_question_of_another_client_is_not_joined(self, store: Store) -> None:
        first = asked(store, "why?", "ada")
        assert asked(store, "why?", "eve").run.id != first.run.id

    def test_a_reply_that_was_not_delivered_is_joined_for_ten_minutes(self, store: Store, clock: Clock) -> None:
        run = asked(store).run
        finished(store, run, now=clock.now)
        clock.now += REDELIVERY_SECONDS
        assert asked(store).run.text == "re: why?"
        clock.now += 1
        assert asked(store).is_new

    def test_a_reply_that_was_delivered_is_not_joined(self, store: Store) -> None:
        finished(store, asked(store).run, delivered=True)
        assert asked(store).is_new

    def test_only_the_newest_run_is_joined_after_its_end(self, store: Store) -> None:
        finished(store, asked(store, "1").run)
        finished(store, asked(store, "2").run)
        assert asked(store, "1").is_new

    @pytest.mark.parametrize("status", ["failed", "interrupted", "cancelled"])
    def test_a_run_that_did_not_complete_is_not_joined(self, store: Store, status: Status) -> None:
        finished(store, asked(store).run, status)
        assert asked(store).is_new

    def test_a_request_id_gets_the_kept_reply(self, store: Store) -> None:
        run = asked(store, request_id="id").run
        finished(store, run, delivered=True)
        finished(store, asked(store, "between").run)
        again = asked(store, request_id="id")
        assert (again.run.id, again.run.text, again.is_new) == (run.id, "re: why?", False)

    def test_a_request_id_joins_its_open_run(self, store: Store) -> None:
        run = asked(store, request_id="id").run
        assert asked(store, request_id="id").run.id == run.id

    def test_a_new_request_id_asks_anew_also_where_the_question_is_open(self, store: Store) -> None:
        asked(store, request_id="1")
        assert asked(store, request_id="2").is_new

    def test_a_request_id_with_another_question_is_refused_whatever_became_of_its_run(self, store: Store) -> None:
        run = asked(store, request_id="id").run
        with pytest.raises(RequestIdConflict):
            asked(store, "other", request_id="id")
        finished(store, run, "failed")
        with pytest.raises(RequestIdConflict):
            asked(store, "other", request_id="id")

    def test_a_refused_request_id_changes_nothing(self, store: Store) -> None:
        run = asked(store, request_id="id").run
        before = there(store), list(store.list_runs("ada", None, 10))
        with pytest.raises(RequestIdConflict):
            asked(store, "other", request_id="id")
        assert (there(store), list(store.list_runs("ada", None, 10))) == before
        assert asked(store, request_id="id").run == run

    def test_a_request_id_of_a_reply_that_was_not_delivered_decides_alone(self, store: Store) -> None:
        finished(store, asked(store, request_id="1").run)
        assert asked(store, request_id="2").is_new

    @pytest.mark.parametrize("status", ["failed", "interrupted"])
    def test_a_request_id_retries_a_run_that_failed_or_was_interrupted(self, store: Store, status: Status) -> None:
        run = asked(store, request_id="id").run
        finished(store, run, status)
        retried = asked(store, request_id="id")
        assert retried.is_new
        assert retried.run.id != run.id
        assert asked(store, request_id="id").run.id == retried.run.id
        assert store.get_run(run.id).status == status

    def test_a_request_id_of_a_cancelled_run_pays_nothing_again(self, store: Store) -> None:
        finished(store, asked(store, request_id="id").run, "cancelled")
        again = asked(store, request_id="id")
        assert (again.run.status, again.is_new) == ("cancelled", False)

    def test_a_request_id_is_exact_for_a_day_and_then_forgotten(self, store: Store, clock: Clock) -> None:
        finished(store, asked(store, request_id="id").run)
        clock.now += REQUEST_ID_SECONDS
        assert not asked(store, request_id="id").is_new
        clock.now += 1
        assert asked(store, request_id="id").is_new

    def test_a_request_id_is_the_conversations_own(self, store: Store) -> None:
        first = asked(store, request_id="id", name="ada")
        assert asked(store, "other", request_id="id", name="eve").run.id != first.run.id

    def test_text_is_added_to_a_running_run(self, store: Store) -> None:
        run = asked(store).run
        assert store.append_text("ada", run.id, 0, "be")
        assert store.append_text("ada", run.id, 2, "cause")
        assert store.get_run(run.id) == replace(run, text="because")

    def test_text_is_added_after_bytes_and_not_after_characters(self, store: Store) -> None:
        run = asked(store).run
        for at, text in ((0, "안녕"), (6, "👩‍👩‍👧"), (24, "\x00e\u0301"), (28, "!")):
            assert store.append_text("ada", run.id, at, text)
        assert store.get_run(run.id).text == "안녕👩‍👩‍👧\x00e\u0301!"

    def test_text_that_is_added_again_replaces_what_is_there(self, store: Store) -> None:
        run = asked(store).run
        store.append_text("ada", run.id, 0, "안녕")
        assert store.append_text("ada", run.id, 3, "녕!")
        assert store.append_text("ada", run.id, 3, "녕!")
        assert store.get_run(run.id).text == "안녕!"
        assert store.append_text("ada", run.id, 0, "no")
        assert store.get_run(run.id).text == "no"

    def test_text_grows_to_any_length(self, store: Store) -> None:
        run = asked(store).run
        for n in range(50):
            assert store.append_text("ada", run.id, n * 3000, "가" * 1000)
        assert store.get_run(run.id).text == "가" * 50_000

    def test_nothing_is_added_to_a_run_that_has_not_started(self, store: Store) -> None:
        run = store.create_run("ada", Run("why?"), waiting=32, start=False).run
        assert store.append_text("ada", run.id, 0, "be") is False
        assert store.get_run(run.id).text == ""

    def test_nothing_is_added_after_a_runs_end(self, store: Store) -> None:
        run = asked(store).run
        finished(store, run)
        assert store.append_text("ada", run.id, 0, "more") is False
        assert store.append_text("eve", run.id, 0, "more") is False
        assert store.get_run(run.id).text == "re: why?"

    def test_nothing_is_added_to_a_run_that_is_gone(self, store: Store) -> None:
        run = asked(store).run
        store.clear_conversation("ada")
        assert store.append_text("ada", run.id, 0, "more") is False

    def test_a_completed_run_adds_question_and_reply_together(self, store: Store) -> None:
        finished(store, asked(store, "1").run)
        finished(store, asked(store, "2").run)
        assert contents(store) == ["1", "re: 1", "2", "re: 2"]

    def test_an_end_comes_back_as_it_was_given(self, store: Store) -> None:
        run = asked(store, request_id="id").run
        usage, failure = Usage(1, 2, 3), RunError("upstream_failed", "It failed.")
        given = run.ended_as("failed", 7.5, text="be", model="m", usage=usage, error=failure, replayed=3, omitted=4)
        assert store.finish_run("ada", given) == given
        assert store.get_run(run.id) == given

    def test_a_queued_run_can_be_ended(self, store: Store) -> None:
        asked(store)
        queued = asked(store, "queued").run
        assert finished(store, queued, "cancelled", text="").status == "cancelled"
        assert contents(store) == []

    @pytest.mark.parametrize("status", ["failed", "interrupted"])
    def test_a_run_that_did_not_end_well_adds_nothing_to_the_history(self, store: Store, status: Status) -> None:
        finished(store, asked(store).run, status)
        assert contents(store) == []

    def test_what_was_kept_comes_back_whole(self, store: Store) -> None:
        text = 'é e\u0301 안녕 👩‍👩‍👧 \u202eabc \u2028 \\ " \t' + "x" * 100_000
        run = finished(store, asked(store, text).run, text=text)
        question, reply = store.list_messages("ada", 0, 2)
        assert (question.role, question.content, reply.role, reply.content) == ("user", text, "assistant", text)
        assert {question.run_id, reply.run_id} == {run.id}
        assert (question.timestamp, reply.timestamp) == (run.created, run.ended)
        assert list(store.list_messages("ada", 0, 2)) == [question, reply]

    def test_the_first_end_stands(self, store: Store) -> None:
        run = asked(store).run
        first = finished(store, run, "cancelled", text="be")
        assert finished(store, run, "completed", text="because") == first
        assert contents(store) == ["why?", "be"]

    def test_a_run_that_is_gone_cannot_be_finished(self, store: Store) -> None:
        run = asked(store).run
        store.clear_conversation("ada")
        assert store.finish_run("ada", run.ended_as("completed", 1.0, text="late")) is None
        assert store.finish_run("eve", run.ended_as("completed", 1.0, text="late")) is None
        assert contents(store) == []

    def test_the_context_start_is_remembered_with_the_end(self, store: Store) -> None:
        run = asked(store).run
        store.finish_run("ada", run.ended_as("completed", 1.0, text="because"), {"m": 2})
        assert there(store).context_starts == {"m": 2}
        finished(store, asked(store, "more").run)
        assert (there(store).context_starts, there(store).message_count) == ({"m": 2}, 4)

    def test_the_context_start_is_not_remembered_with_an_end_that_does_not_stand(self, store: Store) -> None:
        run = asked(store).run
        ended = finished(store, run)
        assert store.finish_run("ada", ended, {"m": 2}) == ended
        assert there(store).context_starts == {}

    def test_the_context_start_belongs_to_the_model_that_could_not_read_more(self, store: Store) -> None:
        for question, starts in (("1", {"small": 2, "tiny: {}": 4}), ("2", {"small": 6}), ("3", {})):
            store.finish_run("ada", asked(store, question).run.ended_as("completed", 1.0, text="ok"), starts)
        assert there(store).context_starts == {"small": 6, "tiny: {}": 4}
        store.clear_conversation("ada")
        assert there(store).context_starts == {}

    def test_a_history_that_grows_is_the_same_one(self, store: Store) -> None:
        first = there_after(store, "1").history_id
        assert first
        assert there_after(store, "2").history_id == first
        store.update_conversation("ada", {"model": "m"})
        store.update_conversation("ada", {"metadata": {"a": 1}}, create=False)
        store.add_messages("ada", [Message.of("user", "more", None, 1.0)])
        assert there(store).history_id == first

    def test_a_history_that_has_changed_otherwise_is_another_one(self, store: Store) -> None:
        seen = [there_after(store, "1").history_id]
        store.delete_message("ada", store.list_messages("ada", 0, 1)[0].id)
        seen.append(there(store).history_id)
        store.clear_conversation("ada")
        seen.append(there_after(store, "2").history_id)
        store.delete_conversation("ada")
        seen.append(there_after(store, "3").history_id)
        store.delete_conversation("ada")
        store.update_conversation("ada", {"model": "m"})
        seen.append(there(store).history_id)
        store.delete_conversation("ada")
        seen.append(store.create_conversation("ada", None, {}).history_id)
        assert "" not in seen
        assert len(set(seen)) == len(seen)

    def test_a_conversation_that_is_made_again_is_left_as_it_is(self, store: Store) -> None:
        first = [Message.of("user", "hello", None, 1.0)]
        made = store.create_conversation("ada", 60.0, {"a": 1}, first)
        assert made.message_count == 1
        store.update_conversation("ada", {"model": "m"})
        again = store.create_conversation("ada", None, {"b": 2}, [*first, *first])
        assert (again.metadata, again.model, again.message_count) == ({"a": 1}, "m", 1)
        assert contents(store) == ["hello"]

    def test_a_reply_that_was_delivered_later_is_not_joined(self, store: Store) -> None:
        ended = finished(store, asked(store).run)
        store.mark_delivered("ada", ended.id)
        assert store.get_run(ended.id) == replace(ended, delivered=True)
        assert asked(store).is_new

    def test_a_reply_is_delivered_in_its_own_conversation(self, store: Store) -> None:
        ended = finished(store, asked(store).run)
        asked(store, name="eve")
        store.mark_delivered("eve", ended.id)
        assert store.get_run(ended.id) == ended

    def test_runs_are_listed_newest_first(self, store: Store) -> None:
        runs = [asked(store, str(n)).run for n in range(3)]
        asked(store, name="eve")
        assert list(store.list_runs("ada", None, 10)) == runs[::-1]
        assert list(store.list_runs("ada", None, 2)) == runs[:0:-1]
        assert list(store.list_runs("ada", None, 0)) == []

    def test_runs_are_listed_by_their_status(self, store: Store) -> None:
        completed, failed, also_completed, running, queued = (asked(store, str(n)).run for n in range(5))
        finished(store, completed)
        finished(store, failed, "failed")
        finished(store, also_completed)
        store.start_run("ada", running.id)
        store.append_text("ada", running.id, 0, "be")
        assert ids(store.list_runs("ada", "completed", 10)) == [also_completed.id, completed.id]
        assert ids(store.list_runs("ada", "completed", 1)) == [also_completed.id]
        assert list(store.list_runs("ada", "queued", 10)) == [queued]
        assert list(store.list_runs("ada", "running", 10)) == [replace(running, status="running", text="be")]
        assert list(store.list_runs("ada", "failed", 10)) == [store.get_run(failed.id)]
        assert list(store.list_runs("ada", "cancelled", 10)) == []

    def test_messages_are_read_by_their_indexes(self, store: Store) -> None:
        for n in range(3):
            finished(store, asked(store, str(n)).run)
        assert [each.content for each in store.list_messages("ada", 1, 4)] == ["re: 0", "1", "re: 1"]
        assert [each.content for each in store.list_messages("ada", 4, 99)] == ["2", "re: 2"]
        assert list(store.list_messages("ada", 9, 99)) == []
        assert list(store.list_messages("ada", 2, 2)) == []
        assert list(store.list_messages("eve", 0, 99)) == []

    def test_clearing_forgets_all_but_the_model(self, store: Store) -> None:
        store.update_conversation("ada", {"model": "m1"})
        done = asked(store, "done", request_id="id").run
        store.finish_run("ada", done.ended_as("completed", 1.0, text="yes"), {"m": 2})
        running, queued = asked(store, "running").run, asked(store, "queued").run
        assert list(store.clear_conversation("ada")) == [running.id, queued.id]
        assert there(store) == Conversation("ada", "m1")
        assert contents(store) == []
        assert list(store.list_runs("ada", None, 10)) == []
        for run in (done, running, queued):
            with pytest.raises(NotFound):
                store.get_run(run.id)
        assert asked(store, "other", request_id="id").run.status == "running"
        assert asked(store, "done").is_new

    def test_after_clearing_a_history_begins_anew(self, store: Store) -> None:
        for name in ("1", "2"):
            finished(store, asked(store, name).run)
        store.clear_conversation("ada")
        finished(store, asked(store, "3").run)
        assert contents(store) == ["3", "re: 3"]
        assert there(store).message_count == 2

    def test_deleting_forgets_all(self, store: Store) -> None:
        store.update_conversation("ada", {"model": "m1"})
        done = asked(store, "done", request_id="id").run
        store.finish_run("ada", done.ended_as("completed", 1.0, text="yes"), {"m": 2})
        running, queued = asked(store, "running").run, asked(store, "queued").run
        assert list(store.delete_conversation("ada")) == [running.id, queued.id]
        assert store.get_conversation("ada") is None
        assert contents(store) == []
        assert list(store.list_runs("ada", None, 10)) == []
        for run in (done, running, queued):
            with pytest.raises(NotFound):
                store.get_run(run.id)
            assert store.finish_run("ada", run.ended_as("completed", 1.0, text="late"), {"m": 2}) is None
        assert asked(store, "other", request_id="id").conversation == Conversation("ada")

    def test_one_clients_deleting_leaves_the_others_alone(self, store: Store) -> None:
        kept = finished(store, asked(store, name="eve").run)
        asked(store, name="ada")
        store.delete_conversation("ada")
        assert store.get_run(kept.id) == kept
        assert contents(store, "eve") == ["why?", "re: why?"]

    def test_one_clients_clearing_leaves_the_others_alone(self, store: Store) -> None:
        kept = asked(store, name="eve").run
        finished(store, asked(store, name="ada").run)
        store.clear_conversation("ada")
        assert store.get_run(kept.id) == kept
        assert there(store, "eve") == Conversation("eve")

    def test_an_unknown_run_is_not_found(self, store: Store) -> None:
        with pytest.raises(NotFound):
            store.get_run("run_nobody")

    def test_a_made_conversation_is_there_and_empty(self, store: Store) -> None:
        store.create_conversation("ada", 60.0, {})
        assert there(store) == Conversation("ada")
        assert asked(store).run.status == "running"

    def test_a_made_conversation_expires_when_it_was_not_touched_for_its_time(self, store: Store, clock: Clock) -> None:
        store.create_conversation("ada", 60.0, {})
        clock.now += 60
        assert store.get_conversation("ada") is not None
        clock.now += 1
        assert store.get_conversation("ada") is None
        assert store.touch("ada") is False

    def test_to_touch_begins_the_time_anew(self, store: Store, clock: Clock) -> None:
        store.create_conversation("ada", 60.0, {})
        clock.now += 50
        assert store.touch("ada") is True
        clock.now += 60
        assert store.touch("ada") is True
        clock.now += 61
        assert store.get_conversation("ada") is None

    def test_to_begin_and_to_finish_begin_the_time_anew(self, store: Store, clock: Clock) -> None:
        store.create_conversation("ada", 60.0, {})
        clock.now += 50
        run = store.create_run("ada", Run("why?"), waiting=32, start=True).run
        clock.now += 50
        finished(store, run)
        clock.now += 60
        assert contents(store) == ["why?", "re: why?"]
        clock.now += 1
        assert contents(store) == []

    def test_to_read_does_not_begin_the_time_anew(self, store: Store, clock: Clock) -> None:
        store.create_conversation("ada", 60.0, {})
        clock.now += 50
        there(store)
        contents(store)
        store.list_runs("ada", None, 10)
        clock.now += 11
        assert store.get_conversation("ada") is None

    def test_a_conversation_does_not_expire_while_a_run_is_open(self, store: Store, clock: Clock) -> None:
        store.create_conversation("ada", 10.0, {})
        run = asked(store).run
        for _ in range(3):
            clock.now += 20
            assert list(store.renew_leases({run.id: "ada"})) == []
            assert there(store) == Conversation("ada")
        store.sweep()
        assert store.get_run(run.id) == run
        assert finished(store, run).status == "completed"

    def test_a_conversation_that_was_not_made_never_expires(self, store: Store, clock: Clock) -> None:
        store.update_conversation("ada", {"model": "m1"})
        finished(store, asked(store, name="eve").run)
        clock.now += 1e9
        store.sweep()
        assert there(store) == Conversation("ada", "m1")
        assert contents(store, "eve") == ["why?", "re: why?"]

    def test_a_conversation_that_was_cleared_still_expires(self, store: Store, clock: Clock) -> None:
        store.create_conversation("ada", 60.0, {})
        store.clear_conversation("ada")
        clock.now += 61
        assert store.get_conversation("ada") is None

    @pytest.mark.parametrize("is_swept", [False, True])
    def test_an_expired_conversation_is_as_if_it_had_never_been(
        self, store: Store, clock: Clock, is_swept: bool
    ) -> None:
        store.create_conversation("ada", 60.0, {})
        store.update_conversation("ada", {"model": "m1"})
        run = asked(store, request_id="id").run
        ended = run.ended_as("completed", clock.now, text="because")
        store.finish_run("ada", ended, {"m": 2})
        clock.now += 61
        if is_swept:
            store.sweep()
        with pytest.raises(NotFound):
            store.get_run(run.id)
        self.test_a_conversation_never_named_is_not_there(store)
        assert store.finish_run("ada", ended, {"m": 2}) is None
        begun = asked(store, "other", request_id="id")
        assert (begun.is_new, begun.conversation) == (True, Conversation("ada"))
        clock.now += 61
        assert there(store) == Conversation("ada")
        assert ids(store.list_runs("ada", None, 10)) == [begun.run.id]

    def test_a_model_for_an_expired_conversation_makes_a_new_one(self, store: Store, clock: Clock) -> None:
        store.create_conversation("ada", 60.0, {})
        finished(store, asked(store).run, now=clock.now)
        clock.now += 61
        store.update_conversation("ada", {"model": "m2"})
        clock.now += 61
        assert there(store) == Conversation("ada", "m2")

    def test_an_expired_conversation_can_be_made_again(self, store: Store, clock: Clock) -> None:
        store.create_conversation("ada", 60.0, {})
        finished(store, asked(store).run, now=clock.now)
        clock.now += 61
        store.create_conversation("ada", 60.0, {})
        assert there(store) == Conversation("ada")
        clock.now += 60
        assert there(store) == Conversation("ada")

    def test_sweeping_leaves_what_is_not_old(self, store: Store, clock: Clock) -> None:
        store.create_conversation("eve", 60.0, {})
        finished(store, asked(store, request_id="id").run)
        clock.now += 60
        store.sweep()
        assert there(store, "eve") == Conversation("eve")
        assert contents(store) == ["why?", "re: why?"]
        assert not asked(store, request_id="id").is_new

    def test_renewing_tells_which_runs_have_ended_or_are_gone(self, store: Store) -> None:
        ended, running, queued = (asked(store, str(n)).run for n in range(3))
        cleared, deleted = asked(store, name="eve").run, asked(store, name="bob").run
        finished(store, ended)
        store.clear_conversation("eve")
        store.delete_conversation("bob")
        held = {run.id: run.conversation for run in (ended, running, queued, cleared, deleted)}
        assert set(store.renew_leases(held)) == {ended.id, cleared.id, deleted.id}
        assert list(store.renew_leases({})) == []

    def test_a_workers_own_runs_are_never_abandoned_to_itself(self, store: Store, clock: Clock) -> None:
        run, queued = asked(store).run, asked(store, "queued").run
        clock.now += 100 * LEASE_SECONDS
        assert store.get_run(run.id) == run
        assert list(store.list_runs("ada", None, 10)) == [queued, run]
        assert asked(store).run == run
        assert store.start_run("ada", queued.id) is None
        assert store.append_text("ada", run.id, 0, "be") is True
        assert finished(store, run).status == "completed"
        assert store.start_run("ada", queued.id) is not None

    def test_nobody_else_did_anything(self, store: Store) -> None:
        run = asked(store).run
        asked(store, "queued")
        store.append_text("ada", run.id, 0, "be")
        finished(store, run)
        assert list(store.listen([], 0.0)) == []

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

    def test_a_request_id_retries_a_run_whose_outputs_did_not_come_in_time(self, store: Store, clock: Clock) -> None:
        run = asked(store, request_id="id").run
        assert store.pause_run("ada", requiring_action(run, clock))
        clock.now += 601
        retried = asked(store, request_id="id")
        assert (retried.is_new, retried.run.status) == (True, "running")
        assert store.get_run(run.id).status == "expired"
        assert asked(store, request_id="id").run.id == retried.run.id

    def test_there_are_at_most_so_many_records_of_a_kind(self, store: Store) -> None:
        for n in range(MAX_RECORDS):
            store.put_record("assistant", str(n), b"{}")
        with pytest.raises(TooManyRecords):
            store.put_record("assistant", "one more", b"{}")
        with pytest.raises(NotFound):
            store.get_record("assistant", "one more")
        store.put_record("assistant", "0", b"[]")
        store.put_record("key", "one more", b"{}")
        assert store.get_record("assistant", "0") == b"[]"
        store.delete_record("assistant", "1")
        store.put_record("assistant", "one more", b"{}")

    def test_of_many_records_that_are_put_at_once_no_more_are_kept_than_may_be(self, store: Store) -> None:
        def put(n: int) -> bool:
            try:
                store.put_record("assistant", str(n), b"{}")
            except TooManyRecords:
                return False
            return True

        with ThreadPoolExecutor(16) as threads:
            assert sum(threads.map(put, range(3 * MAX_RECORDS))) == MAX_RECORDS
        assert len(store.list_records("assistant")) == MAX_RECORDS

    @pytest.mark.parametrize(
        "call",
        [
            lambda store: store.create_conversation("ada", 60.0, {"a": 1}, [SAID]),
            lambda store: store.touch("ada"),
            lambda store: store.update_conversation("ada", {"model": "m"}),
            lambda store: store.update_conversation("ada", {"metadata": {"a": 2}}, create=False),
            lambda store: store.create_run("ada", DRAFT, CreateOptions([SAID]), waiting=32, start=True),
            lambda store: store.append_text("ada", RUNNING.id, 0, "be"),
            lambda store: store.finish_run("ada", ended(RUNNING), {"m": 2}),
            lambda store: store.set_run_details("ada", RUNNING.id, {"a": 1}),
            lambda store: store.mark_delivered("ada", COMPLETED.id),
            lambda store: store.set_message_metadata("ada", SAID.id, {"a": 1}),
            lambda store: store.put_record("key", "1", b"{}"),
            lambda store: store.renew_leases({RUNNING.id: "eve", "run_9": "ada"}),
        ],
    )
    def test_a_repeated_call_writes_the_same_again_and_gives_the_same_answer(
        self, store: Store, call: Callable[[Store], object]
    ) -> None:
        store.create_conversation("ada", 60.0, {}, [SAID])
        store.create_run("ada", COMPLETED, waiting=32, start=True)
        store.finish_run("ada", ended(COMPLETED))
        store.create_run("ada", RUNNING, waiting=32, start=True)
        outcomes = []
        for _ in range(2):
            answer = call(store)
            runs, messages = list(store.list_runs("ada", None, 9)), list(store.list_messages("ada", 0, 9))
            outcomes.append((answer, store.get_conversation("ada"), runs, messages, store.list_records("key")))
        assert outcomes[0] == outcomes[1]

    def test_messages_that_are_added_again_are_there_once(self, store: Store) -> None:
        store.create_conversation("ada", None, {})
        said = [Message.of("user", str(n), None, 1.0) for n in range(30)]
        store.add_messages("ada", said)
        store.add_messages("ada", said)
        for n in range(RECENT_MESSAGES):
            store.add_messages("ada", [Message.of("user", f"more {n}", None, 1.0)])
        store.add_messages("ada", said)
        assert there(store).message_count == 30 + RECENT_MESSAGES

    def test_messages_that_were_added_are_so_also_while_a_run_is_open(self, store: Store) -> None:
        store.create_conversation("ada", None, {})
        store.add_messages("ada", [SAID])
        asked(store)
        store.add_messages("ada", [SAID])
        assert contents(store) == ["hello"]

    def test_a_pause_that_is_repeated_gets_the_same_answer(self, store: Store, clock: Clock) -> None:
        paused = requiring_action(asked(store).run, clock)
        assert [store.pause_run("ada", paused), store.pause_run("ada", paused)] == [True, True]
        assert store.get_run(paused.id) == paused

    def test_a_resumption_that_is_repeated_gets_the_same_answer(self, store: Store, clock: Clock) -> None:
        paused = requiring_action(asked(store).run, clock)
        store.pause_run("ada", paused)
        queued = replace(paused, status="queued", expires=None)
        assert [store.resume_run("ada", queued), store.resume_run("ada", queued)] == [True, True]
        assert store.get_run(paused.id) == queued

    def test_a_clearing_or_deletion_that_is_repeated_forgets_what_was_begun_since(self, store: Store) -> None:
        first = asked(store).run
        assert list(store.clear_conversation("ada")) == [first.id]
        assert list(store.clear_conversation("ada")) == []
        second = asked(store).run
        assert list(store.delete_conversation("ada")) == [second.id]
        assert list(store.delete_conversation("ada")) == []

    def test_what_is_deleted_again_is_not_found(self, store: Store) -> None:
        store.create_conversation("ada", None, {}, [SAID])
        store.put_record("key", "1", b"{}")
        for _ in range(2):
            store.delete_message("ada", SAID.id)
            store.delete_record("key", "1")
            store.create_conversation("ada", None, {})
            with pytest.raises(NotFound):
                store.delete_message("ada", SAID.id)
            with pytest.raises(NotFound):
                store.delete_record("key", "1")
            store.add_messages("ada", [SAID])
            store.put_record("key", "1", b"{}")

    def test_a_sweep_forgets_all_that_is_to_be_forgotten_and_holds_nobody_up(
        self, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for n in range(400):
            store.create_conversation(f"made {n}", 60.0, {})
        lasting = asked(store, name="made 7").run
        finished(store, asked(store, request_id="old").run)
        clock.now += REQUEST_ID_SECONDS + 1
        is_between, is_answered = threading.Event(), threading.Event()

        def rest() -> None:
            is_between.set()
            assert is_answered.wait(20)

        def ask() -> CreatedRun:
            assert is_between.wait(20)
            answer = asked(store, name="in between")
            is_answered.set()
            return answer

        monkeypatch.setattr(store, "_rest", rest)
        with ThreadPoolExecutor(1) as threads:
            answer = threads.submit(ask)
            assert store.sweep(60.0) is False
            assert answer.result().is_new
        assert store.get_conversation("made 0") is None
        assert store.get_run(lasting.id).is_open
        assert asked(store, request_id="old").is_new

    def test_a_sweep_whose_time_is_over_is_gone_on_with_by_the_next(self, store: Store, clock: Clock) -> None:
        for n in range(400):
            store.create_conversation(f"made {n}", 60.0, {})
        clock.now += 61
        count = 1
        while store.sweep(-1.0):
            count += 1
        assert count > 1
        assert store.sweep() is False

    def test_an_ended_run_has_its_text_whichever_messages_are_deleted(self, store: Store) -> None:
        runs = [finished(store, asked(store, str(n), request_id=str(n)).run, delivered=True) for n in range(6)]
        messages = store.list_messages("ada", 0, 12)
        for index in (2, 3, 5, 6, 11):  # Question and reply of one, a reply, a question, the last reply.
            store.delete_message("ada", messages[index].id)
            assert [store.get_run(run.id) for run in runs] == runs
        assert list(store.list_runs("ada", None, 9)) == runs[::-1]
        assert [asked(store, str(n), request_id=str(n)).run for n in range(6)] == runs
        assert contents(store) == ["0", "re: 0", "2", "re: 3", "4", "re: 4", "5"]
        runs.append(finished(store, asked(store, "6").run))
        store.delete_message("ada", messages[0].id)
        assert [store.get_run(run.id) for run in runs] == runs

    @pytest.mark.parametrize("is_deleted", [False, True])
    def test_an_ended_run_has_its_text_whatever_is_noted_of_it(self, store: Store, is_deleted: bool) -> None:
        run = finished(store, asked(store).run)
        if is_deleted:
            store.delete_message("ada", run.reply_id)
        assert asked(store).run.text == "re: why?"
        assert store.set_run_details("ada", run.id, {"a": 1}).text == "re: why?"
        store.mark_delivered("ada", run.id)
        assert (store.get_run(run.id).text, store.get_run(run.id).delivered) == ("re: why?", True)
        assert finished(store, run, "failed", text="late").text == "re: why?"

    def test_a_cancelled_run_has_the_text_that_it_had(self, store: Store) -> None:
        queued = finished(store, asked(store, "1").run, "cancelled", text="")
        begun = finished(store, asked(store, "2").run, "cancelled", text="be")
        failed = finished(store, asked(store, "3").run, "failed", text="be")
        assert [store.get_run(run.id) for run in (queued, begun, failed)] == [queued, begun, failed]

    def test_a_healthy_store_can_be_asked(self, store: Store) -> None:
        store.ping()


class SharedStoreTests(StoreTests, SharedLimitTests):
    """For a backend that several workers share. A fixture `other` is another worker on the data of `store`.

    `abandon` makes a worker's runs abandoned: by default, its lease expires.
    """

    @pytest.fixture
    def abandon(self, clock: Clock) -> Callable[[Store], None]:
        def let_its_lease_pass(worker: Store) -> None:
            clock.now += LEASE_SECONDS + 1

        return let_its_lease_pass

    def test_what_one_worker_wrote_all_others_read(self, store: Store, other: Store) -> None:
        store.update_conversation("ada", {"model": "m1"})
        ended = asked(store, "1").run
        store.finish_run("ada", ended.ended_as("completed", 1.0, text="re: 1"), {"m": 2})
        running, queued = asked(store, "2").run, asked(store, "3").run
        store.append_text("ada", running.id, 0, "be")
        assert there(other) == Conversation("ada", "m1", 2, {"m": 2})
        assert contents(other) == ["1", "re: 1"]
        assert other.get_run(running.id) == replace(running, text="be")
        assert other.list_runs("ada", None, 10) == store.list_runs("ada", None, 10)
        assert other.get_run(queued.id) == queued

    def test_runs_of_all_workers_stand_in_one_line(self, store: Store, other: Store) -> None:
        first, second, third = asked(store, "1").run, asked(other, "2").run, asked(store, "3").run
        assert (first.status, second.status, third.status) == ("running", "queued", "queued")
        finished(store, first)
        assert store.start_run("ada", third.id) is None
        assert other.start_run("ada", second.id) is not None
        finished(other, second)
        assert store.start_run("ada", third.id) == Conversation("ada", None, 4)

    def test_runs_of_all_workers_count_as_waiting(self, store: Store, other: Store) -> None:
        asked(store, "1")
        asked(other, "2")
        with pytest.raises(ConversationBusy):
            store.create_run("ada", Run("3"), waiting=1, start=True)

    def test_an_open_question_is_joined_from_anywhere(self, store: Store, other: Store) -> None:
        run = asked(store).run
        assert asked(other) == CreatedRun(run, Conversation("ada"), is_new=False)

    def test_a_reply_that_was_not_delivered_is_joined_from_anywhere(self, store: Store, other: Store) -> None:
        ended = finished(store, asked(store).run)
        assert (asked(other).run, asked(other).is_new) == (ended, False)
        other.mark_delivered("ada", ended.id)
        assert asked(store).is_new

    def test_a_request_id_is_exact_from_anywhere(self, store: Store, other: Store) -> None:
        run = asked(store, request_id="id").run
        assert asked(other, request_id="id").run == run
        with pytest.raises(RequestIdConflict):
            asked(other, "other", request_id="id")
        finished(store, run, "failed")
        retried = asked(other, request_id="id")
        assert retried.is_new
        assert asked(store, request_id="id").run == retried.run

    def test_any_worker_may_end_a_run_and_the_first_end_stands(self, store: Store, other: Store) -> None:
        run = asked(store).run
        store.append_text("ada", run.id, 0, "be")
        cancelled = finished(other, run, "cancelled", text="be")
        assert store.append_text("ada", run.id, 2, "cause") is False
        assert finished(store, run, text="because") == cancelled
        assert contents(store) == ["why?", "be"]

    def test_another_workers_clearing_takes_all_runs_away(self, store: Store, other: Store) -> None:
        run, queued = asked(store).run, asked(other, "queued").run
        assert list(other.clear_conversation("ada")) == [run.id, queued.id]
        assert store.append_text("ada", run.id, 0, "more") is False
        assert store.finish_run("ada", run.ended_as("completed", 1.0, text="late")) is None
        assert list(store.renew_leases({run.id: "ada"})) == [run.id]

    def test_an_abandoned_run_reads_as_interrupted_with_its_text(
        self, store: Store, other: Store, abandon: Callable[[Store], None]
    ) -> None:
        run, queued = asked(other).run, asked(other, "queued").run
        other.append_text("ada", run.id, 0, "be")
        abandon(other)
        failure = RunError(RunInterrupted.code, RunInterrupted.sentence)
        for read, text in ((store.get_run(run.id), "be"), (store.get_run(queued.id), "")):
            assert (read.status, read.text, read.error, read.is_open) == ("interrupted", text, failure, False)
        assert ids(store.list_runs("ada", "interrupted", 10)) == [queued.id, run.id]
        assert [each.status for each in store.list_runs("ada", None, 10)] == ["interrupted"] * 2
        assert list(store.list_runs("ada", "running", 10)) == []
        assert list(store.list_runs("ada", "queued", 10)) == []
        assert contents(store) == []

    def test_a_lease_is_held_from_begin_on(self, store: Store, other: Store, clock: Clock) -> None:
        running, queued = asked(other).run, asked(other, "queued").run
        clock.now += LEASE_SECONDS - 1
        assert [store.get_run(run.id).status for run in (running, queued)] == ["running", "queued"]
        clock.now += 2
        assert [store.get_run(run.id).status for run in (running, queued)] == ["interrupted", "interrupted"]

    @pytest.mark.parametrize(
        "call",
        [
            lambda worker, run, behind: worker.append_text("ada", run.id, 0, "be"),
            lambda worker, run, behind: worker.renew_leases({run.id: "ada"}),
            lambda worker, run, behind: finished(worker, run) and worker.start_run("ada", behind.id),
        ],
        ids=["append", "renew", "start"],
    )
    def test_a_lease_is_held_anew_from_each_of_these_on(
        self, store: Store, other: Store, clock: Clock, call: Callable[[Store, Run, Run], object]
    ) -> None:
        run, behind = asked(other).run, asked(other, "behind").run
        clock.now += LEASE_SECONDS - 1
        call(other, run, behind)
        (run,) = other.list_runs("ada", "running", 1)
        clock.now += LEASE_SECONDS - 1
        assert store.get_run(run.id).status == "running"
        clock.now += 2
        assert store.get_run(run.id).status == "interrupted"

    def test_the_next_begin_writes_an_abandoned_runs_end_down(
        self, store: Store, other: Store, abandon: Callable[[Store], None]
    ) -> None:
        run, queued = asked(other).run, asked(other, "queued").run
        other.append_text("ada", run.id, 0, "be")
        abandon(other)
        assert asked(store, "next").run.status == "running"
        written = store.get_run(run.id)
        assert (written.status, written.text) == ("interrupted", "be")
        assert finished(other, run) == written
        assert other.append_text("ada", run.id, 2, "cause") is False
        assert set(other.renew_leases({run.id: "ada", queued.id: "ada"})) == {run.id, queued.id}
        assert contents(store) == []

    def test_also_a_begin_that_is_refused_counts_no_abandoned_run(
        self, store: Store, other: Store, abandon: Callable[[Store], None]
    ) -> None:
        asked(other, "1")
        waiting = asked(other, "2").run
        abandon(other)
        with pytest.raises(ConversationBusy):
            store.create_run("ada", Run("3"), waiting=0, start=False)
        assert store.get_run(waiting.id).status == "interrupted"
        assert store.create_run("ada", Run("4"), waiting=0, start=True).run.status == "running"

    def test_the_next_start_writes_an_abandoned_runs_end_down(
        self, store: Store, other: Store, abandon: Callable[[Store], None]
    ) -> None:
        run, queued = asked(other).run, asked(store, "queued").run
        assert store.start_run("ada", queued.id) is None
        abandon(other)
        assert store.start_run("ada", queued.id) == Conversation("ada")
        assert finished(other, run) == store.get_run(run.id)
        assert store.get_run(run.id).status == "interrupted"

    def test_an_abandoned_question_is_not_joined(
        self, store: Store, other: Store, abandon: Callable[[Store], None]
    ) -> None:
        run = asked(other).run
        abandon(other)
        again = asked(store)
        assert again.is_new
        assert again.run.id != run.id

    def test_a_request_id_retries_an_abandoned_run(
        self, store: Store, other: Store, abandon: Callable[[Store], None]
    ) -> None:
        run = asked(other, request_id="id").run
        abandon(other)
        with pytest.raises(RequestIdConflict):
            asked(store, "other", request_id="id")
        again = asked(store, request_id="id")
        assert (again.is_new, again.run.status) == (True, "running")
        assert store.get_run(run.id).status == "interrupted"

    def test_until_its_end_is_written_its_own_worker_may_go_on(self, store: Store, other: Store, clock: Clock) -> None:
        run = asked(other).run
        clock.now += LEASE_SECONDS + 1
        assert store.get_run(run.id).status == "interrupted"
        assert list(other.renew_leases({run.id: "ada"})) == []
        assert store.get_run(run.id).status == "running"
        clock.now += LEASE_SECONDS + 1
        assert other.append_text("ada", run.id, 0, "be") is True
        assert store.get_run(run.id).text == "be"
        assert store.get_run(run.id).status == "running"
        clock.now += LEASE_SECONDS + 1
        assert finished(other, run, text="because") == store.get_run(run.id)
        assert contents(store) == ["why?", "because"]

    def test_a_conversation_expires_also_where_its_open_run_is_abandoned(
        self, store: Store, other: Store, clock: Clock
    ) -> None:
        other.create_conversation("ada", 10.0, {})
        run = asked(other).run
        clock.now += 11
        assert store.get_conversation("ada") is not None
        clock.now += LEASE_SECONDS
        assert store.get_conversation("ada") is None
        assert asked(store).conversation == Conversation("ada")
        assert other.finish_run("ada", run.ended_as("completed", clock.now, text="late")) is None

    def test_a_closed_workers_open_runs_are_abandoned(self, store: Store, other: Store, clock: Clock) -> None:
        run = asked(other).run
        other.close()
        clock.now += LEASE_SECONDS + 1
        assert store.get_run(run.id).status == "interrupted"
        assert asked(store).is_new

    @pytest.mark.parametrize("take", ["finish_run", "clear_conversation", "delete_conversation"])
    def test_a_worker_hears_that_another_ended_its_run_or_took_it_away(
        self, store: Store, other: Store, take: str
    ) -> None:
        store.listen([], 0.0)
        run, elsewhere = asked(store).run, asked(store, name="eve").run
        if take == "finish_run":
            finished(other, run, "cancelled")
        else:
            getattr(other, take)("ada")
        assert list(store.listen([], 0.0)) == [run.id]
        assert list(store.listen([], 0.0)) == []
        assert list(other.listen([], 0.0)) == []
        assert store.get_run(elsewhere.id).is_open

    def test_a_worker_hears_that_another_wrote_its_runs_end_down(
        self, store: Store, other: Store, clock: Clock
    ) -> None:
        run = asked(store).run
        clock.now += LEASE_SECONDS + 1
        asked(other)
        assert list(store.listen([], 0.0)) == [run.id]

    def test_a_worker_hears_that_its_runs_turn_may_have_come(self, store: Store, other: Store) -> None:
        ahead, behind, last = asked(other, "1").run, asked(store, "2").run, asked(store, "3").run
        assert list(store.listen([], 0.0)) == []
        finished(other, ahead)
        assert behind.id in store.listen([], 0.0)
        store.start_run("ada", behind.id)
        assert store.get_run(last.id).status == "queued"

    def test_a_follower_hears_of_a_run_when_it_begins_to_follow_and_whenever_it_may_have_changed(
        self, store: Store, other: Store
    ) -> None:
        running, queued = asked(other, "1").run, asked(other, "2").run
        both = [running.id, queued.id]
        assert sorted(store.listen(both, 0.0)) == sorted(both)
        assert list(store.listen(both, 0.0)) == []
        other.append_text("ada", running.id, 0, "be")
        assert list(store.listen(both, 0.0)) == [running.id]
        other.append_text("ada", running.id, 2, "cause")
        assert list(store.listen(both, 0.0)) == [running.id]
        finished(other, running)
        assert running.id in store.listen(both, 0.0)
        other.start_run("ada", queued.id)
        assert queued.id in store.listen([queued.id], 0.0)
        assert list(store.listen([queued.id], 0.0)) == []
        other.clear_conversation("ada")
        assert list(store.listen([queued.id], 0.0)) == [queued.id]

    def test_who_no_longer_follows_hears_no_more(self, store: Store, other: Store) -> None:
        run = asked(other).run
        assert list(store.listen([run.id], 0.0)) == [run.id]
        other.append_text("ada", run.id, 0, "be")
        assert list(store.listen([], 0.0)) == []
        assert list(store.listen([run.id], 0.0)) == [run.id]

    def test_who_follows_again_hears_at_once(self, store: Store, other: Store) -> None:
        run, another = asked(other).run, asked(other, "another").run
        assert set(store.listen([run.id, another.id], 0.0)) == {run.id, another.id}
        assert list(store.listen([run.id], 0.0)) == []
        assert list(store.listen([run.id, another.id], 0.0)) == [another.id]

    def test_a_listener_waits_until_something_happens(self, store: Store, other: Store) -> None:
        run = asked(other).run
        assert list(store.listen([run.id], 0.0)) == [run.id]
        with ThreadPoolExecutor(1) as threads:
            heard = threads.submit(store.listen, [run.id], 20.0)
            other.append_text("ada", run.id, 0, "be")
            assert list(heard.result(10.0)) == [run.id]

    def test_of_many_workers_that_begin_at_once_one_runs_and_the_rest_wait(self, store: Store, other: Store) -> None:
        barrier = threading.Barrier(16)

        def begin(n: int) -> Run:
            barrier.wait()
            return asked((store, other)[n % 2], f"q{n}").run

        with ThreadPoolExecutor(16) as threads:
            statuses = [run.status for run in threads.map(begin, range(16))]
        assert sorted(statuses) == ["queued"] * 15 + ["running"]

    def test_of_many_ends_by_all_workers_one_is_written(self, store: Store, other: Store) -> None:
        run = asked(store).run
        barrier = threading.Barrier(16)

        def end(n: int) -> Run:
            barrier.wait()
            return finished((store, other)[n % 2], run, text=f"reply {n}")

        with ThreadPoolExecutor(16) as threads:
            ends = set(threads.map(end, range(16)))
        assert len(ends) == 1
        assert contents(store) == contents(other) == ["why?", ends.pop().text]

"""Store calls that only the chat, sessions and Assistants dialects need, tested for every store."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from server.domain import Conversation, Message, Run, RunOptions, Step, ToolCall
from server.errors import ConversationBusy, NotFound
from server.store.memory import MemoryStore
from server.store.protocol import DEFAULT_OPTIONS, CreatedRun, CreateOptions, Store
from server.store.redis import RedisStore
from server.store.sqlite import SqliteStore
from tests.support.clock import Clock
from tests.support.redis_server import needs_redis, shared_redis

CALL = ToolCall("call_1", "weather", '{"city": "서울"}')


def said(content: str, role: str = "user", **more: object) -> Message:
    return Message.of(role, content, None, 5.0, **more)  # type: ignore[arg-type]


def begun(store: Store, run: Run, options: CreateOptions = DEFAULT_OPTIONS, *, start: bool = True) -> CreatedRun:
    return store.create_run("ada", run, options, waiting=32, start=start)


def ended(store: Store, run: Run, text: str = "ok") -> None:
    assert store.finish_run("ada", run.ended_as("completed", 9.0, text=text)) is not None


def contents(store: Store) -> list[str]:
    return [each.content for each in store.list_messages("ada", 0, 1_000_000)]


def paused(run: Run, clock: Clock, **more: object) -> Run:
    known = {"status": "requires_action", "steps": (Step((CALL,), clock.now, "be"),), "text": "be", **more}
    return replace(run, expires=clock.now + 600, **known)  # type: ignore[arg-type]


def resumed(run: Run) -> Run:
    return replace(run, status="queued", expires=None)


class DialectCallTests:
    """Subclass once for each backend, with a fixture `store` that takes the clock."""

    def test_a_conversation_is_made_with_its_metadata(self, store: Store, clock: Clock) -> None:
        made = store.create_conversation("ada", None, {"topic": "고양이", "n": [1, None]})
        assert made == Conversation("ada", metadata={"topic": "고양이", "n": [1, None]})
        kept = store.get_conversation("ada")
        assert kept == made
        assert (made.created, kept.created, kept.touched) == (clock.now,) * 3

    def test_a_conversation_that_a_question_made_tells_when(self, store: Store, clock: Clock) -> None:
        made = clock.now
        run = begun(store, Run("why?")).run
        clock.now += 5
        store.finish_run("ada", run.ended_as("completed", clock.now, text="ok"))
        kept = store.get_conversation("ada")
        assert kept is not None
        assert (kept.created, kept.touched) == (made, made + 5)

    def test_metadata_is_replaced_and_the_rest_stays(self, store: Store) -> None:
        ended(store, begun(store, Run("why?")).run)
        store.update_conversation("ada", {"model": "m1"})
        changed = store.update_conversation("ada", {"metadata": {"a": "1"}}, create=False)
        assert changed == store.get_conversation("ada")
        assert (changed.metadata, changed.model, changed.message_count) == ({"a": "1"}, "m1", 2)
        assert store.update_conversation("ada", {"metadata": {}}, create=False).metadata == {}

    def test_metadata_survives_a_clearing(self, store: Store) -> None:
        store.create_conversation("ada", None, {"a": "1"})
        store.clear_conversation("ada")
        kept = store.get_conversation("ada")
        assert kept is not None
        assert kept.metadata == {"a": "1"}

    @pytest.mark.parametrize(
        "call",
        [
            lambda store: store.update_conversation("ada", {"metadata": {}}, create=False),
            lambda store: store.add_messages("ada", [said("hi")]),
            lambda store: store.message_index("ada", "msg_1"),
            lambda store: store.set_message_metadata("ada", "msg_1", {}),
            lambda store: store.delete_message("ada", "msg_1"),
            lambda store: store.set_run_details("ada", "run_1", {}),
            lambda store: store.create_run(
                "ada", Run("why?"), CreateOptions(create_conversation=False), waiting=1, start=True
            ),
        ],
    )
    @pytest.mark.parametrize("has_expired", [False, True])
    def test_what_is_not_there_is_not_found(
        self, store: Store, call: Callable[[Store], object], has_expired: bool, clock: Clock
    ) -> None:
        store.create_conversation("eve", None, {})
        store.create_conversation("ada", 10.0, {})
        clock.now += 11  # It has expired.
        with pytest.raises(NotFound):
            call(store)
        assert store.get_conversation("ada") is None

    def test_messages_are_added_without_a_run_in_order(self, store: Store) -> None:
        store.create_conversation("ada", None, {})
        first, second = said("1", metadata={"a": "1"}), said("2", "assistant")
        store.add_messages("ada", [first, second])
        store.add_messages("ada", [said("3")])
        assert list(store.list_messages("ada", 0, 2)) == [first, second]
        assert contents(store) == ["1", "2", "3"]
        kept = store.get_conversation("ada")
        assert kept is not None
        assert kept.message_count == 3

    def test_messages_are_not_added_while_a_run_is_open(self, store: Store) -> None:
        run = begun(store, Run("why?")).run
        with pytest.raises(ConversationBusy):
            store.add_messages("ada", [said("hi")])
        ended(store, run)
        store.add_messages("ada", [said("hi")])
        assert contents(store) == ["why?", "ok", "hi"]

    def test_messages_are_added_with_the_run_that_they_come_with_or_not_at_all(self, store: Store) -> None:
        first = begun(store, Run(""), CreateOptions([said("1"), said("2")]))
        assert (contents(store), first.conversation.message_count) == (["1", "2"], 2)
        with pytest.raises(ConversationBusy):
            begun(store, Run(""), CreateOptions([said("3")], reject_if_busy=True))
        assert contents(store) == ["1", "2"]
        again = begun(store, first.run, CreateOptions([said("1"), said("2")]))
        assert (again.run.id, contents(store)) == (first.run.id, ["1", "2"])

    def test_a_run_that_must_be_alone_is_refused_beside_an_open_one(self, store: Store) -> None:
        run = begun(store, Run(""), CreateOptions(reject_if_busy=True)).run
        with pytest.raises(ConversationBusy):
            begun(store, Run(""), CreateOptions(reject_if_busy=True))
        ended(store, run)
        assert begun(store, Run(""), CreateOptions(reject_if_busy=True)).is_new

    def test_a_run_that_must_be_alone_may_wait_for_a_slot(self, store: Store) -> None:
        assert begun(store, Run(""), CreateOptions(reject_if_busy=True), start=False).run.status == "queued"

    def test_a_run_without_a_question_adds_its_reply_alone_and_joins_nothing(self, store: Store) -> None:
        run = begun(store, Run("")).run
        assert begun(store, Run("")).is_new
        ended(store, run)
        assert contents(store) == ["ok"]
        assert [each.id for each in store.list_messages("ada", 0, 9)] == [run.reply_id]

    def test_a_run_keeps_the_options_that_it_was_asked_with(self, store: Store) -> None:
        options = RunOptions("m1", "Be brief.", {"temperature": 0.5, "tools": [{"a": "왜"}]}, 4, {"assistant_id": "a"})
        run = begun(store, Run("why?", options=options)).run
        assert store.get_run(run.id).options == options
        assert store.get_run(run.id).options.details == {"assistant_id": "a"}
        ended(store, run)
        assert store.get_run(run.id).options.details == {"assistant_id": "a"}

    def test_the_same_question_with_other_options_is_another(self, store: Store) -> None:
        hot, cold = RunOptions(parameters={"temperature": 2, "seed": 1}), RunOptions(parameters={"temperature": 0})
        run = begun(store, Run("why?", options=hot)).run
        assert begun(store, Run("why?", options=cold)).is_new
        assert begun(store, Run("why?")).is_new
        same = RunOptions(parameters={"seed": 1, "temperature": 2}, details={"other": "details"})
        assert begun(store, Run("why?", options=same)).run.id == run.id

    def test_an_undelivered_reply_to_other_options_is_not_joined(self, store: Store, clock: Clock) -> None:
        run = begun(store, Run("why?", options=RunOptions("m1"))).run
        store.finish_run("ada", run.ended_as("completed", clock.now, text="ok"))
        assert begun(store, Run("why?", options=RunOptions("m1"))).run.id == run.id
        assert begun(store, Run("why?")).is_new

    def test_details_are_replaced_while_the_run_is_open_and_after_its_end(self, store: Store) -> None:
        run = begun(store, Run("why?", options=RunOptions("m1", details={"a": 1}))).run
        assert store.set_run_details("ada", run.id, {"b": 2}).options.details == {"b": 2}
        assert store.get_run(run.id).options == RunOptions("m1")
        assert store.append_text("ada", run.id, 0, "be")
        ended(store, run, "be")
        assert store.get_run(run.id).options.details == {"b": 2}
        noted = store.set_run_details("ada", run.id, {"c": 3})
        assert (noted.status, noted.text, noted.options.details) == ("completed", "be", {"c": 3})
        assert store.get_run(run.id) == noted

    def test_details_are_kept_while_a_run_waits_for_outputs_and_goes_on(self, store: Store, clock: Clock) -> None:
        run = begun(store, Run("why?", options=RunOptions(details={"a": 1}))).run
        store.set_run_details("ada", run.id, {"b": 2})
        store.pause_run("ada", paused(run, clock))
        assert store.get_run(run.id).options.details == {"b": 2}
        store.set_run_details("ada", run.id, {"c": 3})
        store.resume_run("ada", resumed(run))
        assert store.get_run(run.id).options.details == {"c": 3}

    def test_a_run_that_requires_action_keeps_its_position(self, store: Store, clock: Clock) -> None:
        run, queued = begun(store, Run("1")).run, begun(store, Run("2")).run
        assert store.pause_run("ada", paused(run, clock))
        kept = store.get_run(run.id)
        assert (kept.status, kept.text, kept.steps[0].calls, kept.is_open) == ("requires_action", "be", (CALL,), True)
        assert store.start_run("ada", queued.id) is None
        assert [each.id for each in store.list_runs("ada", "requires_action", 9)] == [run.id]
        assert not store.append_text("ada", run.id, 2, "cause")

    def test_a_paused_run_has_no_lease_and_waits_ten_minutes(self, store: Store, clock: Clock) -> None:
        run = begun(store, Run("1")).run
        store.pause_run("ada", paused(run, clock))
        clock.now += 600
        assert store.get_run(run.id).status == "requires_action"
        clock.now += 1
        expired = store.get_run(run.id)
        assert (expired.status, expired.text, expired.ended) == ("expired", "be", clock.now - 1)
        assert expired.error is not None
        assert expired.error.code == "run_expired"
        assert not store.resume_run("ada", resumed(run))
        assert begun(store, Run("2")).run.status == "running"
        assert (store.get_run(run.id).status, contents(store)) == ("expired", [])

    def test_a_run_queued_behind_one_that_expired_starts(self, store: Store, clock: Clock) -> None:
        run, queued = begun(store, Run("1")).run, begun(store, Run("2")).run
        store.pause_run("ada", paused(run, clock))
        clock.now += 601
        assert store.start_run("ada", queued.id) is not None
        assert store.get_run(run.id).status == "expired"

    def test_an_expired_run_stays_so_whatever_comes_late(self, store: Store, clock: Clock) -> None:
        run = begun(store, Run("1")).run
        store.pause_run("ada", paused(run, clock))
        clock.now += 601
        late = store.finish_run("ada", run.ended_as("completed", clock.now, text="late"))
        assert late is not None
        assert late.status == "expired"
        assert contents(store) == []

    def test_a_run_that_was_resumed_waits_for_its_turn_in_its_position(self, store: Store, clock: Clock) -> None:
        run, queued = begun(store, Run("1")).run, begun(store, Run("2")).run
        store.pause_run("ada", paused(run, clock))
        step = Step((replace(CALL, output="sunny"),), clock.now, "be", clock.now)
        assert store.resume_run("ada", replace(resumed(run), steps=(step,), text="be"))
        assert not store.resume_run("ada", resumed(run))
        assert store.start_run("ada", queued.id) is None
        assert store.start_run("ada", run.id) is not None
        kept = store.get_run(run.id)
        assert (kept.status, kept.steps, kept.text, kept.expires) == ("running", (step,), "be", None)
        assert store.append_text("ada", run.id, 2, "cause")
        assert store.get_run(run.id).text == "because"
        ended(store, kept, "because")
        assert contents(store) == ["1", "because"]

    def test_only_a_running_run_is_paused(self, store: Store, clock: Clock) -> None:
        run, queued = begun(store, Run("1")).run, begun(store, Run("2")).run
        assert not store.pause_run("ada", paused(queued, clock))
        ended(store, run)
        assert not store.pause_run("ada", paused(run, clock))
        assert not store.pause_run("ada", paused(Run("3"), clock))
        assert store.get_run(run.id).status == "completed"

    def test_a_paused_run_is_cancelled_with_what_was_written(self, store: Store, clock: Clock) -> None:
        run = begun(store, Run("1")).run
        store.pause_run("ada", paused(run, clock))
        kept = store.finish_run("ada", store.get_run(run.id).ended_as("cancelled", 9.0))
        assert kept is not None
        assert (kept.status, contents(store)) == ("cancelled", ["1", "be"])

    def test_a_paused_run_holds_a_conversation_that_would_expire(self, store: Store, clock: Clock) -> None:
        store.create_conversation("ada", 10.0, {})
        run = begun(store, Run("1")).run
        store.pause_run("ada", paused(run, clock))
        clock.now += 500
        store.sweep()
        assert store.get_conversation("ada") is not None

    def test_clearing_forgets_a_paused_run_and_tells_of_it(self, store: Store, clock: Clock) -> None:
        run = begun(store, Run("1")).run
        store.pause_run("ada", paused(run, clock))
        assert list(store.clear_conversation("ada")) == [run.id]
        assert not store.resume_run("ada", resumed(run))
        with pytest.raises(NotFound):
            store.get_run(run.id)

    def test_a_message_has_an_index(self, store: Store) -> None:
        store.create_conversation("ada", None, {})
        messages = [said(str(n)) for n in range(300)]
        store.add_messages("ada", messages)
        assert [store.message_index("ada", messages[n].id) for n in (0, 7, 299)] == [0, 7, 299]
        with pytest.raises(NotFound):
            store.message_index("ada", "msg_nobody")

    def test_a_messages_metadata_is_replaced(self, store: Store) -> None:
        store.create_conversation("ada", None, {})
        one, other = said("1", metadata={"a": "1"}), said("2")
        store.add_messages("ada", [one, other])
        changed = store.set_message_metadata("ada", one.id, {"b": "2"})
        assert changed == replace(one, metadata={"b": "2"})
        assert list(store.list_messages("ada", 0, 9)) == [changed, other]
        with pytest.raises(NotFound):
            store.set_message_metadata("ada", "msg_nobody", {})

    def test_those_after_a_message_that_is_deleted_move_down_by_one_index(self, store: Store) -> None:
        store.create_conversation("ada", None, {})
        messages = [said(str(n)) for n in range(4)]
        store.add_messages("ada", messages)
        store.delete_message("ada", messages[1].id)
        assert contents(store) == ["0", "2", "3"]
        assert store.message_index("ada", messages[3].id) == 2
        kept = store.get_conversation("ada")
        assert kept is not None
        assert kept.message_count == 3
        store.add_messages("ada", [said("4")])
        assert contents(store) == ["0", "2", "3", "4"]
        assert [each.content for each in store.list_messages("ada", 1, 3)] == ["2", "3"]
        with pytest.raises(NotFound):
            store.delete_message("ada", messages[1].id)

    @pytest.mark.parametrize(("deleted", "start"), [(0, 1), (1, 1), (2, 2), (3, 2)])
    def test_the_context_start_moves_with_its_message(self, store: Store, deleted: int, start: int) -> None:
        for question in ("1", "2"):
            run = begun(store, Run(question)).run
            store.finish_run("ada", run.ended_as("completed", 9.0, text="ok"), {"m": 2})
        store.delete_message("ada", store.list_messages("ada", deleted, deleted + 1)[0].id)
        kept = store.get_conversation("ada")
        assert kept is not None
        assert kept.context_starts == {"m": start}

    def test_a_record_is_kept_by_its_kind_and_name(self, store: Store) -> None:
        store.put_record("assistant", "asst_1", b'{"name":"\xec\x99\x9c"}')
        store.put_record("assistant", "asst_2", b"{}")
        store.put_record("key", "asst_1", b'{"other":1}')
        store.put_record("assistant", "asst_2", b'{"new":1}')
        assert store.get_record("assistant", "asst_1") == b'{"name":"\xec\x99\x9c"}'
        assert sorted(store.list_records("assistant")) == [b'{"name":"\xec\x99\x9c"}', b'{"new":1}']
        assert list(store.list_records("nothing")) == []

    def test_a_record_that_was_deleted_is_not_found(self, store: Store) -> None:
        store.put_record("assistant", "asst_1", b"{}")
        store.put_record("key", "asst_1", b"{}")
        store.delete_record("assistant", "asst_1")
        with pytest.raises(NotFound):
            store.get_record("assistant", "asst_1")
        with pytest.raises(NotFound):
            store.delete_record("assistant", "asst_1")
        assert store.get_record("key", "asst_1") == b"{}"


class TestMemoryStore(DialectCallTests):
    @pytest.fixture
    def store(self, clock: Clock) -> Store:
        return MemoryStore(1000, clock)


class TestSqliteStore(DialectCallTests):
    @pytest.fixture
    def store(self, clock: Clock, tmp_path: Path) -> Iterator[Store]:
        store = SqliteStore(str(tmp_path / "kept.db"), 30.0, clock)
        yield store
        store.close()


@needs_redis
class TestRedisStore(DialectCallTests):
    @pytest.fixture
    def store(self, clock: Clock) -> Iterator[Store]:
        shared_redis().ask("FLUSHALL")
        store = RedisStore(shared_redis().url, 30.0, clock)
        yield store
        store.close()

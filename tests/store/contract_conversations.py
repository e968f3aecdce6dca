"""The shared tests of every store about lists, settings, replaced turns, imports and usage."""

from dataclasses import replace

import pytest

from server.domain import Conversation, Message, Run, Step, ToolCall, Usage
from server.errors import ClientFull, ConversationImporting, NotFound, NotLastTurn, RunExists
from server.store.limits import Holdings, RunLimits
from server.store.protocol import CreatedRun, CreateOptions, Store
from tests.support.clock import Clock

DAY = "1970-01-12"
"""The day of `NOW`."""
NOW = 1_000_000.0
USAGE = Usage(3, 4, 7)


def create(store: Store, run: Run, name: str = "ada") -> CreatedRun:
    return store.create_run(name, run, waiting=32, start=True)


def complete(store: Store, run: Run, name: str = "ada", **known: object) -> Run:
    """Create and complete a run."""
    created = create(store, run, name).run
    known = {"text": f"re: {run.question}", "model": "m", "usage": USAGE} | known
    ended = store.finish_run(name, created.ended_as("completed", NOW, **known))
    assert ended is not None
    return ended


def get(store: Store, name: str = "ada") -> Conversation:
    conversation = store.get_conversation(name)
    assert conversation is not None
    return conversation


def contents(store: Store, name: str = "ada") -> list[str]:
    return [each.content for each in store.list_messages(name, 0, 1_000)]


def names(store: Store, before: tuple[float, str] | None = None, most: int = 100) -> list[str]:
    return [each.conversation.name for each in store.list_conversations(before, most)]


class ConversationTests:
    """One test for each sentence of the protocol; the fixtures `store` and `clock` belong to the backend."""

    def test_settings_are_set_one_by_one_and_taken_back(self, store: Store) -> None:
        shape = {"type": "json_schema", "json_schema": {"required": [], "maximum": 1.0, "minimum": 1}}
        changes = {"title": "Küche", "temperature": 0.0, "response_format": shape, "model": "m", "metadata": {"a": []}}
        store.update_conversation("ada", changes)
        updated = store.update_conversation("ada", {"temperature": None, "top_p": 0.5})
        assert updated == get(store)
        assert updated.settings == {"title": "Küche", "response_format": shape, "top_p": 0.5}
        assert (updated.model, updated.metadata) == ("m", {"a": []})
        assert str(updated.settings["response_format"]) == str(shape)
        taken_back = store.update_conversation("ada", dict.fromkeys([*changes, "top_p"]))
        assert (taken_back.settings, taken_back.model, taken_back.metadata) == ({}, None, {})
        assert taken_back == get(store)

    def test_an_update_that_must_not_create_finds_nothing_to_change(self, store: Store) -> None:
        with pytest.raises(NotFound):
            store.update_conversation("ada", {"title": "t"}, create=False)
        assert store.get_conversation("ada") is None

    def test_every_call_returns_a_conversation_with_its_settings(self, store: Store) -> None:
        expected = store.update_conversation("ada", {"system_prompt": "Be brief."}).settings
        run = Run("why?")
        assert create(store, run).conversation.settings == expected
        behind = create(store, Run("and?")).run
        store.finish_run("ada", run.ended_as("failed", NOW))
        started = store.start_run("ada", behind.id)
        assert started is not None and started.settings == expected
        store.clear_conversation("ada")
        assert get(store).settings == expected

    def test_a_conversation_belongs_to_whoever_it_was_created_for(self, store: Store) -> None:
        store.create_conversation("a", None, {}, owner="ada")
        store.create_conversation("hidden", 60.0, {}, owner="ada", is_unlisted=True)
        store.update_conversation("b", {"model": "m"}, owner="ada")
        store.create_run("c", Run("why?"), CreateOptions(owner="ada"), waiting=32, start=True)
        store.create_conversation("d", None, {}, owner="eve")
        create(store, Run("why?"), "nobody's")
        assert sorted(store.list_owned("ada")) == ["a", "b", "c", "hidden"]
        assert [get(store, name).owner for name in ("a", "hidden", "b", "c", "d", "nobody's")] == [
            *["ada"] * 4,
            "eve",
            "",
        ]
        assert (list(store.list_owned("eve")), list(store.list_owned(""))) == (["d"], [])

    def test_an_owner_does_not_change(self, store: Store) -> None:
        store.create_conversation("a", None, {}, owner="ada")
        store.create_conversation("a", None, {}, owner="eve")
        store.update_conversation("a", {"model": "m"}, owner="eve")
        store.create_run("a", Run("why?"), CreateOptions(owner="eve"), waiting=32, start=True)
        store.clear_conversation("a")
        assert get(store, "a").owner == "ada"
        assert (list(store.list_owned("ada")), list(store.list_owned("eve"))) == (["a"], [])

    def test_what_is_deleted_or_has_expired_belongs_to_nobody(self, store: Store, clock: Clock) -> None:
        store.create_conversation("a", None, {}, owner="ada")
        store.create_conversation("b", 10.0, {}, owner="ada")
        store.create_conversation("c", 10.0, {}, owner="ada", is_unlisted=True)
        store.delete_conversation("a")
        clock.now += 11
        assert list(store.list_owned("ada")) == []
        store.sweep()
        assert list(store.list_owned("ada")) == []
        store.create_conversation("a", None, {}, owner="eve")
        store.create_conversation("b", None, {}, owner="ada")
        assert (list(store.list_owned("ada")), list(store.list_owned("eve"))) == (["b"], ["a"])

    def test_what_an_owner_has_is_measured(self, store: Store) -> None:
        assert store.measure_owner("ada") == Holdings(0, 0, 0, 0)
        store.create_conversation("a", None, {}, owner="ada")
        store.add_messages("a", [Message.of("user", "x" * 1000, None, 1.0) for _ in range(20)])
        store.create_conversation("hidden", 60.0, {}, owner="ada", is_unlisted=True)
        create(store, Run("why?"), "hidden")
        store.create_conversation("e", None, {}, [Message.of("user", "mine", None, 1.0)], owner="eve")
        held = store.measure_owner("ada")
        assert (held.conversations, held.messages, held.open_runs) == (2, 20, 1)
        assert 20_000 <= held.bytes <= 40_000
        store.delete_conversation("a")
        assert store.measure_owner("ada") == Holdings(1, 0, 0, 1)
        assert store.measure_owner("") == Holdings(0, 0, 0, 0)

    def test_a_conversation_counts_for_its_owner_and_for_whose_name_it_has(self, store: Store, clock: Clock) -> None:
        store.create_conversation("ada", 60.0, {}, [Message.of("user", "hello", None, 1.0)], owner="a*")
        store.create_conversation("b", None, {}, owner="ada")
        create(store, Run("why?"), "ada")
        found = [store.measure_owner(owner) for owner in ("ada", "a*", "")]
        assert [(held.conversations, held.messages, held.open_runs) for held in found] == [
            (2, 1, 1),
            (1, 1, 1),
            (0, 0, 0),
        ]
        store.create_conversation("eve", None, {}, owner="eve")
        assert store.measure_owner("eve").conversations == 1
        store.delete_conversation("ada")
        assert store.measure_owner("ada") == Holdings(1, 0, 0, 0)

    def test_a_run_that_is_refused_for_another_reason_may_still_be_joined(self, store: Store) -> None:
        limits = RunLimits(refusal=ClientFull())
        run = create(store, Run("why?", "id")).run
        for name, draft in (("ada", Run("and?")), ("eve", Run("why?"))):
            with pytest.raises(ClientFull):
                store.create_run(name, draft, CreateOptions(limits=limits), waiting=32, start=True)
        assert store.get_conversation("eve") is None
        joined = store.create_run("ada", Run("why?", "id"), CreateOptions(limits=limits), waiting=32, start=True)
        assert (joined.run.id, joined.is_new) == (run.id, False)

    def test_a_conversation_that_was_used_since_is_not_deleted(self, store: Store, clock: Clock) -> None:
        for name in ("old", "open", "used"):
            store.create_conversation(name, None, {}, owner="ada")
        store.create_conversation("short", 1000.0, {})
        create(store, Run("why?"), "open")
        clock.now += 10
        since = clock.now
        create(store, Run("why?"), "used")
        for name in ("old", "open", "used", "missing"):
            assert list(store.delete_conversation(name, unused_since=since)) == []
        store.touch("short")
        store.delete_conversation("short", unused_since=since)
        assert sorted(names(store)) == ["open", "short", "used"]
        assert sorted(store.list_owned("ada")) == ["open", "used"]
        assert (get(store, "open").message_count, len(store.list_runs("open", None, 9))) == (0, 1)
        clock.now += 1001
        assert sorted(names(store)) == ["open", "used"]

    def test_entries_are_read_by_name_in_order(self, store: Store, clock: Clock) -> None:
        for name in ("a", "b"):
            create(store, Run("why?"), name)
        store.create_conversation("hidden", 60.0, {}, is_unlisted=True)
        store.create_conversation("short", 1.0, {})
        clock.now += 2
        read = store.read_entries(["b", "hidden", "missing", "short", "a"])
        assert [(each.conversation.name, each.newest_status) for each in read] == [("b", "running"), ("a", "running")]
        assert list(store.read_entries([])) == []

    def test_lists_conversations_by_their_last_use_in_pages(self, store: Store, clock: Clock) -> None:
        assert names(store) == []
        for name in ("a", "b", "c", "d"):
            clock.now += 1
            store.update_conversation(name, {"model": "m"})
        clock.now += 1
        run = create(store, Run("why?"), "b").run
        assert names(store) == ["b", "d", "c", "a"]
        clock.now += 1
        create(store, Run("why?"), "a")
        assert names(store) == ["a", "b", "d", "c"]
        clock.now += 1
        store.finish_run("b", run.ended_as("completed", NOW, text="because"))
        assert names(store) == ["b", "a", "d", "c"]
        page = store.list_conversations(None, 2)
        last = page[-1].conversation
        assert names(store, (last.touched, last.name)) == ["d", "c"]
        assert names(store, (last.touched, last.name), 1) == ["d"]
        store.delete_conversation("d")
        assert names(store) == ["b", "a", "c"]

    def test_conversations_used_at_one_time_are_listed_by_name(self, store: Store) -> None:
        for name in ("b", "한", "a", "c"):
            store.update_conversation(name, {"model": "m"})
        listed = store.list_conversations(None, 10)
        assert [each.conversation.name for each in listed] == ["한", "c", "b", "a"]
        assert [each.conversation for each in listed] == [get(store, name) for name in ("한", "c", "b", "a")]
        assert names(store, (listed[1].conversation.touched, "c")) == ["b", "a"]

    def test_a_touch_moves_only_a_conversation_with_a_time_limit_in_the_list(self, store: Store, clock: Clock) -> None:
        store.create_conversation("session", 60.0, {})
        for name in ("a", "b"):
            clock.now += 1
            store.update_conversation(name, {"model": "m"})
        clock.now += 1
        assert store.touch("session") and store.touch("a")
        assert names(store) == ["session", "b", "a"]

    def test_unlisted_and_expired_conversations_are_not_listed(self, store: Store, clock: Clock) -> None:
        store.create_conversation("chat", 60.0, {}, is_unlisted=True)
        store.create_conversation("session", 60.0, {})
        create(store, Run("why?"), "chat")
        assert names(store) == ["session"]
        for _ in range(3):
            store.update_conversation(f"kept {_}", {"model": "m"})
        clock.now += 61
        assert names(store, most=3) == ["kept 2", "kept 1", "kept 0"]
        assert names(store, most=4) == ["kept 2", "kept 1", "kept 0"]

    def test_a_list_tells_the_status_of_the_newest_run(self, store: Store) -> None:
        store.update_conversation("ada", {"model": "m"})
        assert [each.newest_status for each in store.list_conversations(None, 1)] == [None]
        run = create(store, Run("why?")).run
        assert [each.newest_status for each in store.list_conversations(None, 1)] == ["running"]
        store.finish_run("ada", run.ended_as("failed", NOW))
        assert [each.newest_status for each in store.list_conversations(None, 1)] == ["failed"]

    def test_the_excerpt_is_the_first_question_until_the_history_is_cleared(self, store: Store) -> None:
        assert create(store, Run("what\n is  it? " + "한" * 200)).conversation.excerpt.startswith("what is it? 한한")
        create(store, Run("and that?"))
        assert get(store).excerpt.startswith("what is it? 한한")
        store.clear_conversation("ada")
        assert get(store).excerpt == ""
        store.add_messages("ada", [Message.of("assistant", "hello", None, 1.0), Message.of("user", "hi", None, 1.0)])
        assert get(store).excerpt == "hi"
        assert store.create_conversation("b", None, {}, [Message.of("user", "yes", None, 1.0)]).excerpt == "yes"
        options = CreateOptions([Message.of("user", "added", None, 1.0)])
        assert store.create_run("c", Run(""), options, waiting=1, start=True).conversation.excerpt == "added"
        assert get(store, "c").excerpt == "added"

    def test_the_excerpt_stays_that_of_a_first_question_that_failed(self, store: Store) -> None:
        run = create(store, Run("first")).run
        store.finish_run("ada", run.ended_as("failed", NOW))
        complete(store, Run("second"))
        assert get(store).excerpt == "first"

    def test_a_completed_run_takes_the_place_of_the_turn_that_it_replaces(self, store: Store) -> None:
        complete(store, Run("one"))
        old = complete(store, Run("two"))
        before = get(store)
        new = complete(store, Run("two, please", replaces=old.id))
        assert contents(store) == ["one", "re: one", "two, please", "re: two, please"]
        assert get(store).history_id != before.history_id
        assert store.get_run(new.id) == new
        assert store.get_run(old.id).text == "re: two"
        assert [run.id for run in store.list_runs("ada", None, 2)] == [new.id, old.id]
        newest = complete(store, Run("two", replaces=new.id))
        assert contents(store) == ["one", "re: one", "two", "re: two"]
        assert [store.get_run(each.id).text for each in (old, new, newest)] == ["re: two", "re: two, please", "re: two"]

    @pytest.mark.parametrize("status", ["failed", "cancelled", "interrupted"])
    def test_a_run_without_an_end_of_its_own_leaves_the_turn_as_it_is(self, store: Store, status: str) -> None:
        old = complete(store, Run("one"))
        before = get(store)
        run = create(store, Run("two", replaces=old.id)).run
        assert contents(store) == ["one", "re: one"]
        ended = store.finish_run("ada", run.ended_as(status, NOW, text="half"))  # type: ignore[arg-type]
        assert ended is not None and ended.text == "half" and store.get_run(run.id) == ended
        assert contents(store) == ["one", "re: one"]
        assert (get(store).history_id, get(store).excerpt) == (before.history_id, "one")
        complete(store, Run("three", replaces=old.id))
        assert contents(store) == ["three", "re: three"]
        assert get(store).excerpt == "three"

    def test_only_the_last_turn_can_be_replaced(self, store: Store) -> None:
        first = complete(store, Run("one"))
        last = complete(store, Run("two"))
        for replaced in (first.id, "run_missing"):
            with pytest.raises(NotLastTurn):
                create(store, Run("three", replaces=replaced))
        with pytest.raises(NotLastTurn):
            create(store, Run("three", replaces=last.id), "eve")
        assert [run.id for run in store.list_runs("ada", None, 10)] == [last.id, first.id]

    def test_a_replacement_is_joined_by_the_same_replacement_only(self, store: Store) -> None:
        old = complete(store, Run("one"))
        run = create(store, Run("one", replaces=old.id)).run
        joined = create(store, Run("one", replaces=old.id))
        assert (joined.run.id, joined.is_new) == (run.id, False)
        plain = create(store, Run("one"))
        assert plain.is_new
        store.finish_run("ada", run.ended_as("completed", NOW, text="new"))
        store.finish_run("ada", plain.run.ended_as("failed", NOW))
        assert contents(store) == ["one", "new"]

    def test_a_replacement_without_a_question_is_joined_too(self, store: Store) -> None:
        options = CreateOptions([Message.of("user", "added", None, 1.0)])
        old = store.create_run("ada", Run(""), options, waiting=1, start=True).run
        store.finish_run("ada", old.ended_as("completed", NOW, text="first"))
        run = create(store, Run("", replaces=old.id)).run
        assert create(store, Run("", replaces=old.id)).run.id == run.id
        store.finish_run("ada", run.ended_as("completed", NOW, text="second"))
        assert contents(store) == ["added", "second"]

    def test_what_is_left_of_a_replaced_turn_goes_with_it(self, store: Store) -> None:
        complete(store, Run("zero"))
        old = complete(store, Run("one"))
        run = create(store, Run("two", replaces=old.id)).run
        reply = store.list_messages("ada", 3, 4)[0]
        store.delete_message("ada", reply.id)
        store.finish_run("ada", run.ended_as("completed", NOW, text="re: two"))
        assert contents(store) == ["zero", "re: zero", "two", "re: two"]

    def test_a_replaced_turn_moves_no_context_start_beyond_the_history(self, store: Store) -> None:
        complete(store, Run("zero"))
        old = complete(store, Run("one"))
        run = create(store, Run("two", replaces=old.id)).run
        store.finish_run("ada", run.ended_as("completed", NOW, text="re: two"), {"m": 2})
        assert get(store).context_starts == {"m": 2}
        assert get(store).message_count == 4

    def test_lists_runs_that_are_older_than_a_run(self, store: Store) -> None:
        runs = [complete(store, Run(f"{n}")) for n in range(4)]
        assert [run.id for run in store.list_runs("ada", None, 2, runs[2].id)] == [runs[1].id, runs[0].id]
        assert [run.id for run in store.list_runs("ada", "completed", 1, runs[3].id)] == [runs[2].id]
        assert store.list_runs("ada", "failed", 1, runs[3].id) == () or not store.list_runs("ada", "failed", 1)
        assert list(store.list_runs("ada", None, 2, runs[0].id)) == []
        other = complete(store, Run("x"), "eve")
        for name, run_id in (("ada", "run_missing"), ("ada", other.id), ("nobody", runs[0].id)):
            with pytest.raises(NotFound):
                store.list_runs(name, None, 2, run_id)

    def test_usage_is_counted_by_day_client_and_model(self, store: Store) -> None:
        complete(store, Run("one"))
        complete(store, Run("two"))
        complete(store, Run("three"), model="n")
        complete(store, Run("four"), "eve")
        complete(store, Run("five"), usage=None)
        day = 86_400.0
        failed = create(store, Run("six")).run
        store.finish_run("ada", failed.ended_as("failed", NOW + day, model="m", usage=USAGE))
        listed = [
            (each.day, each.name, each.model, each.runs, each.prompt_tokens, each.completion_tokens, each.total_tokens)
            for each in store.list_usage(None, "1970-01-01", "1970-12-31")
        ]
        assert listed == [
            ("1970-01-13", "ada", "m", 1, 3, 4, 7),
            (DAY, "ada", "m", 2, 6, 8, 14),
            (DAY, "ada", "n", 1, 3, 4, 7),
            (DAY, "eve", "m", 1, 3, 4, 7),
        ]
        assert [each.name for each in store.list_usage("eve", DAY, DAY)] == ["eve"]
        assert [each.day for each in store.list_usage("ada", "1970-01-13", "1970-01-13")] == ["1970-01-13"]
        assert list(store.list_usage(None, "1970-01-14", "1970-12-31")) == []
        assert list(store.list_usage("nobody", DAY, DAY)) == []

    def test_an_end_that_is_written_twice_is_counted_once(self, store: Store) -> None:
        run = create(store, Run("one")).run
        ended = run.ended_as("completed", NOW, text="re", model="m", usage=USAGE)
        store.finish_run("ada", ended)
        store.finish_run("ada", ended)
        assert [each.runs for each in store.list_usage(None, DAY, DAY)] == [1]

    def test_the_usage_of_a_run_that_expired_is_counted(self, store: Store, clock: Clock) -> None:
        clock.now = NOW
        run = create(store, Run("one")).run
        step = Step((ToolCall("call_1", "look", "{}"),), clock.now)
        waiting = replace(run, status="requires_action", steps=(step,), expires=NOW + 60, model="m", usage=USAGE)
        assert store.pause_run("ada", waiting)
        clock.now += 61
        create(store, Run("two"))
        assert [(each.name, each.total_tokens) for each in store.list_usage(None, DAY, DAY)] == [("ada", 7)]

    def test_usage_outlives_the_history_and_the_name(self, store: Store, clock: Clock) -> None:
        complete(store, Run("one"))
        store.clear_conversation("ada")
        assert [(each.name, each.runs) for each in store.list_usage(None, DAY, DAY)] == [("ada", 1)]
        store.create_conversation("chat", 60.0, {}, is_unlisted=True)
        complete(store, Run("two"), "chat")
        assert [(each.name, each.runs) for each in store.list_usage(None, DAY, DAY)] == [("", 1), ("ada", 1)]
        store.delete_conversation("ada")
        assert [(each.name, each.runs) for each in store.list_usage(None, DAY, DAY)] == [("", 2)]
        store.create_conversation("session", 60.0, {})
        complete(store, Run("three"), "session")
        clock.now += 61
        while store.sweep():
            pass
        assert [(each.name, each.runs) for each in store.list_usage(None, DAY, DAY)] == [("", 3)]

    def test_an_import_appears_when_it_is_published(self, store: Store, clock: Clock) -> None:
        runs = [
            Run(
                f"{n}?", id=f"run_{n}", created=5.0, status="completed", text=f"{n}!", ended=6.0, model="m", usage=USAGE
            )
            for n in range(3)
        ]
        failed = replace(runs[0], id="run_failed", status="failed", text="half")
        store.create_conversation("ada", 60.0, {}, is_unlisted=True, is_importing=True)
        turns = [run.history_messages() for run in runs]
        with pytest.raises(ConversationImporting):
            create(store, Run("too early"))
        with pytest.raises(ConversationImporting):
            store.add_messages("ada", [Message.of("user", "too early", None, 1.0)])
        for run, turn in zip(runs, turns, strict=True):
            store.import_history("ada", turn, [run])
            store.import_history("ada", turn, [run])
        store.import_history("ada", (), [failed])
        store.import_history("ada", (), [failed])
        assert names(store) == []
        clock.now += 30
        published = store.publish_conversation("ada", 5.0, 6.0)
        clock.now += 10_000
        assert (published.created, published.touched, published.excerpt) == (5.0, 6.0, "0?")
        assert published == get(store) and get(store).touched == 6.0
        assert names(store) == ["ada"]
        assert contents(store) == ["0?", "0!", "1?", "1!", "2?", "2!"]
        messages = store.list_messages("ada", 0, 6)
        assert [each.timestamp for each in messages] == [5.0, 6.0] * 3
        assert list(messages) == [message for turn in turns for message in turn]
        listed = store.list_runs("ada", None, 10)
        assert [replace(run, conversation="") for run in listed] == [failed, *reversed(runs)]
        assert store.get_run("run_1") == replace(runs[1], conversation="ada")
        assert list(store.list_usage("ada", "1970-01-01", "1970-12-31")) == []
        complete(store, Run("again", replaces="run_2"))
        assert contents(store)[4:] == ["again", "re: again"]
        assert store.get_run("run_2").text == "2!"
        store.delete_conversation("ada")
        with pytest.raises(NotFound):
            store.get_run("run_1")

    def test_an_import_takes_no_run_of_another_conversation(self, store: Store) -> None:
        run = complete(store, Run("one"), "eve")
        imported = Run("x", id="run_x", created=5.0, status="completed", text="y", ended=6.0)
        store.create_conversation("ada", 60.0, {}, is_unlisted=True)
        with pytest.raises(RunExists):
            store.import_history("ada", imported.history_messages(), [imported, replace(run, text="stolen")])
        assert contents(store) == [] and list(store.list_runs("ada", None, 10)) == []
        assert store.get_run(run.id) == run
        store.import_history("ada", imported.history_messages(), [imported])
        assert contents(store) == ["x", "y"]

    def test_an_import_that_is_not_published_expires(self, store: Store, clock: Clock) -> None:
        store.create_conversation("ada", 60.0, {}, is_unlisted=True)
        store.import_history("ada", [Message.of("user", "hi", None, 1.0)], ())
        clock.now += 61
        assert store.get_conversation("ada") is None
        with pytest.raises(NotFound):
            store.import_history("ada", [Message.of("user", "hi", None, 1.0)], ())
        with pytest.raises(NotFound):
            store.publish_conversation("ada", 1.0, 2.0)

    def test_published_conversations_are_listed_by_the_times_that_they_bring(self, store: Store, clock: Clock) -> None:
        store.update_conversation("new", {"model": "m"})
        for name, touched in (("old", 5.0), ("older", 4.0)):
            store.create_conversation(name, 60.0, {}, is_unlisted=True)
            store.publish_conversation(name, 1.0, touched)
        assert names(store) == ["new", "old", "older"]
        clock.now += 1
        create(store, Run("why?"), "older")
        assert names(store) == ["older", "new", "old"]

"""The conversations dialect, as a caller sees it, over a conversation that any door may have begun."""

import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from flask.testing import FlaskClient

from server import errors
from server.core import search
from server.domain import Run, Usage
from server.store.memory import MemoryStore
from server.upstream.protocol import Completion
from tests.support.clock import Clock
from tests.support.replies import ScriptedReplies, SteeredUpstream

Messages = list[tuple[str, str]]

SETTINGS = {
    "system_prompt": "Be brief.",
    "temperature": 0.5,
    "top_p": 0.9,
    "max_completion_tokens": 77,
    "response_format": {"type": "json_object"},
}


@pytest.fixture
def replies() -> ScriptedReplies:
    return ScriptedReplies("slow", "slower")


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(1000, clock)


def ask(client: FlaskClient, question: str, name: str = "ada") -> None:
    assert client.post("/query", json={"input": question, "client_name": name}).status_code == 200


def start(client: FlaskClient, question: str, name: str = "ada", **more: Any) -> str:
    answer = client.post("/chat/stream", json={"message": question, "client_name": name, **more})
    return str(answer.json["stream_id"])


def get(client: FlaskClient, path: str, name: str | None = "ada", **query: Any) -> Any:
    query_string = {} if name is None else {"client_name": name}
    answer = client.get(f"/conversations{path}", query_string={**query_string, **query})
    assert answer.status_code == 200, answer.text
    return answer.json


def post(client: FlaskClient, path: str, name: str = "ada", status: int = 202, **body: Any) -> Any:
    answer = client.post(f"/conversations/{path}", json={"client_name": name, **body})
    assert answer.status_code == status, answer.text
    return answer.json


def update(client: FlaskClient, name: str = "ada", **changes: Any) -> Any:
    answer = client.patch("/conversations/details", json={"client_name": name, **changes})
    assert answer.status_code == 200, answer.text
    return answer.json


def read(client: FlaskClient, run_id: str) -> str:
    """The stream of a run, to its end."""
    return client.get(f"/chat/stream/{run_id}").get_data(as_text=True)


def contents(client: FlaskClient, name: str = "ada") -> list[str]:
    return [each["content"] for each in client.get("/history", query_string={"client_name": name}).json]


def listed(client: FlaskClient, **query: Any) -> list[str]:
    return [each["client_name"] for each in get(client, "", None, **query)["conversations"]]


def sent(upstream: SteeredUpstream) -> Messages:
    return [(each["role"], each["content"]) for each in orjson.loads(upstream.requests[-1].messages)]


class TestList:
    def test_the_conversation_used_last_comes_first(self, client: FlaskClient, clock: Clock) -> None:
        assert get(client, "", None) == {"conversations": []}
        for name in ("ada", "eve", "ada"):
            clock.now += 1
            ask(client, f"Who is {name}?", name)
        first, second = get(client, "", None)["conversations"]
        assert (first["client_name"], first["title"], first["has_title"]) == ("ada", "Who is ada?", False)
        assert (first["message_count"], first["status"]) == (4, "completed")
        assert second["client_name"] == "eve" and second["last_used_at"] < first["last_used_at"]

    def test_a_page_leads_to_the_next(self, client: FlaskClient) -> None:
        names = [f"{each}/한 &%" for each in range(5)]
        for name in names:
            ask(client, "hi", name)
        found, query = [], {}
        for _ in range(3):
            page = get(client, "", None, limit=2, **query)
            found += [each["client_name"] for each in page["conversations"]]
            query = {"before": page.get("next")}
        assert found == sorted(names, reverse=True) and query == {"before": None}

    def test_a_cursor_that_no_page_gave_is_refused(self, client: FlaskClient) -> None:
        for cursor in ("x", "/", "nan/x", "inf/x", "0x1p0/", "nope/x"):
            answer = client.get("/conversations", query_string={"before": cursor})
            assert (answer.status_code, answer.json["code"]) == (400, "invalid_request")

    def test_chats_without_a_name_are_not_listed(self, client: FlaskClient) -> None:
        client.post("/chat", json={"message": "hi"})
        session = client.post("/api/sessions", json={}).json["session_id"]
        assert listed(client) == [session]

    def test_a_title_takes_the_place_of_the_first_words_and_back(self, client: FlaskClient) -> None:
        ask(client, "What  is\nthis? " + "long " * 100)
        assert get(client, "", None)["conversations"][0]["title"].startswith("What is this? long")
        update(client, title="부엌")
        entry = get(client, "", None)["conversations"][0]
        assert (entry["title"], entry["has_title"]) == ("부엌", True)
        update(client, title=None)
        assert get(client, "", None)["conversations"][0]["has_title"] is False

    def test_an_open_and_a_failed_run_are_told(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        run_id = start(client, "slow")
        replies.await_call("slow")
        assert get(client, "", None)["conversations"][0]["status"] == "running"
        replies.fail("slow", errors.UpstreamFailed())
        read(client, run_id)
        entry = get(client, "", None)["conversations"][0]
        assert (entry["status"], entry["title"], entry["message_count"]) == ("failed", "slow", 0)


class TestSearch:
    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("TOFU", ["ada"]),
            ("두부", ["eve"]),
            ("두부".encode().decode(), ["eve"]),
            ("50%", ["pct"]),
            ("%", ["pct"]),
            ("a_b", ["pct"]),
            ("_", ["pct"]),
            ("\\", []),
            ("pCt", ["pct"]),
            ("STRASSE", ["eve"]),
            ("nothing", []),
        ],
    )
    def test_looks_in_title_name_and_messages_without_regard_to_case(
        self, client: FlaskClient, text: str, found: list[str]
    ) -> None:
        ask(client, "How do I fry Tofu?", "ada")
        ask(client, "순두부 찌개", "eve")
        update(client, "eve", title="Hauptstraße")
        ask(client, "50% of a_b", "pct")
        assert listed(client, q=text) == found

    def test_a_decomposed_syllable_is_found_as_the_same(self, client: FlaskClient) -> None:
        ask(client, "\u1103\u116e\u1107\u116e", "eve")
        assert listed(client, q="두부") == ["eve"]

    def test_shows_the_passage_of_the_newest_message(self, client: FlaskClient) -> None:
        ask(client, "tofu first")
        ask(client, f"{'before ' * 20}Tofu\n  second {'after ' * 50}")
        (entry,) = get(client, "", None, q="tofu")["conversations"]
        assert entry["match"].startswith("…") and "Tofu second" in entry["match"] and len(entry["match"]) <= 122
        update(client, title="tofu")
        assert "match" not in get(client, "", None, q="tofu")["conversations"][0]

    def test_the_passage_has_the_text_after_letters_that_folding_makes_longer(self, client: FlaskClient) -> None:
        ask(client, f"{'Straße İﬃ ' * 30}TOFU {'after ' * 50}")
        (entry,) = get(client, "", None, q="tofu")["conversations"]
        assert "TOFU after" in entry["match"]

    def test_pages_and_goes_on_after_it_ran_out_of_time(
        self, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("a", "b", "c"):
            ask(client, "tofu", name)
        page = get(client, "", None, q="tofu", limit=2)
        assert [each["client_name"] for each in page["conversations"]] == ["c", "b"]
        assert listed(client, q="tofu", before=page["next"]) == ["a"]
        monkeypatch.setattr(search, "SEARCH_SECONDS", -1.0)
        found, query, pages = [], {}, 0
        while pages == 0 or query["before"] is not None:
            page = get(client, "", None, q="tofu", **query)
            found += [each["client_name"] for each in page["conversations"]]
            query, pages = {"before": page.get("next")}, pages + 1
        assert (found, pages) == (["c", "b", "a"], 4)


class TestSettings:
    def test_a_client_never_seen_has_no_conversation(self, client: FlaskClient) -> None:
        for path in ("details", "messages", "runs", "statistics"):
            answer = client.get(f"/conversations/{path}", query_string={"client_name": "nobody"})
            assert (answer.status_code, answer.json["code"]) == (404, "not_found")
        assert client.delete("/conversations/details?client_name=nobody").status_code == 404
        assert listed(client) == []

    def test_they_are_changed_one_by_one_and_taken_back(self, client: FlaskClient) -> None:
        changed = update(client, title="Küche", temperature=0.2, metadata={"a": [1.0]})
        assert changed == get(client, "/details")
        assert (changed["title"], changed["temperature"], changed["top_p"]) == ("Küche", 0.2, None)
        again = update(client, temperature=None, top_p=1)
        assert (again["title"], again["temperature"], again["top_p"]) == ("Küche", None, 1)
        assert update(client, metadata={"a": "x" * 16_376})["metadata"] == {"a": "x" * 16_376}
        assert again["revision"] != changed["revision"]
        assert update(client, title=None, top_p=None, metadata=None)["metadata"] is None

    def test_a_whole_number_may_be_written_as_a_decimal_one(
        self, client: FlaskClient, upstream: SteeredUpstream
    ) -> None:
        assert repr(update(client, max_completion_tokens=10.0)["max_completion_tokens"]) == "10"
        ask(client, "hi")
        assert repr(upstream.requests[-1].parameters["max_completion_tokens"]) == "10"

    @pytest.mark.parametrize(
        "changes",
        [
            {"temperature": 3},
            {"temperature": "1"},
            {"top_p": -1},
            {"max_completion_tokens": 0},
            {"response_format": {"type": "xml"}},
            {"response_format": {}},
            {"title": ""},
            {"title": "a\nb"},
            {"system_prompt": "a\0b"},
            {"metadata": []},
            {"metadata": {"a": "x" * 16_377}},
            {"model": "unheard-of"},
        ],
        ids=lambda changes: json.dumps(changes)[:40],
    )
    def test_a_value_that_does_not_fit_changes_nothing(self, client: FlaskClient, changes: dict[str, Any]) -> None:
        before = update(client, title="t")
        answer = client.patch("/conversations/details", json={"client_name": "ada", "top_p": 0.5, **changes})
        assert answer.status_code == 400
        assert get(client, "/details") == before

    @pytest.mark.parametrize(
        "question",
        [
            lambda client: client.post("/query", json={"input": "hi", "client_name": "ada"}),
            lambda client: client.post("/chat", json={"message": "hi", "client_name": "ada"}),
            lambda client: client.post("/api/v1/chat", json={"message": "hi", "thread_id": "ada"}),
            lambda client: client.post("/api/chat", json={"message": "hi", "session_id": "ada"}),
        ],
        ids=["query", "chat", "thread", "session"],
    )
    def test_they_hold_at_every_door(
        self, client: FlaskClient, upstream: SteeredUpstream, question: Callable[[FlaskClient], Any]
    ) -> None:
        update(client, **SETTINGS)
        assert question(client).status_code == 200
        expected = {name: value for name, value in SETTINGS.items() if name != "system_prompt"}
        assert upstream.requests[-1].parameters == expected
        assert sent(upstream) == [("system", "Be brief."), ("user", "hi")]
        client.delete("/history?client_name=ada")
        assert get(client, "/details")["temperature"] == 0.5
        assert question(client).status_code == 200
        assert upstream.requests[-1].parameters == expected

    def test_a_questions_own_come_first(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
        update(client, **SETTINGS)
        body = {"message": "hi", "client_name": "ada", "temperature": 1, "system_prompt": "Be long."}
        client.post("/chat", json=body)
        assert upstream.requests[-1].parameters["temperature"] == 1
        assert upstream.requests[-1].parameters["top_p"] == 0.9
        assert sent(upstream)[0] == ("system", "Be long.")

    def test_an_empty_system_prompt_is_none_at_all(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
        update(client, system_prompt="")
        ask(client, "hi")
        assert sent(upstream) == [("user", "hi")]

    def test_the_model_is_the_one_of_the_published_contract(self, client: FlaskClient) -> None:
        model = client.get("/models").json["data"][-1]["id"]
        client.post("/model", json={"model": model, "client_name": "ada"})
        assert get(client, "/details")["model"] == model
        assert update(client, model=None)["model"] is None
        assert client.get("/model?client_name=ada").json["model"] == get(client, "/details")["default_model"]

    def test_deleting_leaves_nothing(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        ask(client, "hi")
        update(client, title="t")
        run_id = start(client, "slow")
        replies.await_call("slow")
        assert client.delete("/conversations/details?client_name=ada").status_code == 200
        assert listed(client) == [] and contents(client) == []
        assert client.get(f"/chat/stream/{run_id}").status_code == 404
        assert client.get("/conversations/details?client_name=ada").status_code == 404


class TestMessages:
    def test_a_reply_has_what_its_run_tells(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
        logprobs = [{"token": "ok", "logprob": -0.5, "bytes": [111, 107], "top_logprobs": []}]
        upstream.answer = lambda _: ["ok", Completion(None, Usage(1, 2, 3), logprobs=logprobs, finish_reason="stop")]
        client.post("/chat", json={"message": "hi", "client_name": "ada", "logprobs": True})
        question, reply = get(client, "/messages")["messages"]
        assert (question["role"], question["content"], question["status"]) == ("user", "hi", "completed")
        assert (reply["content"], reply["run_id"], reply["logprobs"]) == ("ok", question["run_id"], logprobs)
        assert reply["usage"] == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
        assert reply["seconds"] >= 0 and reply["finish_reason"] == "stop" and reply["model"]

    def test_pages_lead_to_older_ones(self, client: FlaskClient) -> None:
        for number in range(5):
            ask(client, f"q{number}")
        found: list[str] = []
        query: dict[str, Any] = {}
        while not found or query["before"] is not None:
            page = get(client, "/messages", limit=3, **query)
            assert page["message_count"] == 10
            assert all(each["status"] == "completed" and each["run_id"] for each in page["messages"])
            found = [each["content"] for each in page["messages"]] + found
            query = {"before": page.get("next")}
        assert found == contents(client)

    def test_messages_of_a_thread_have_no_run(self, client: FlaskClient) -> None:
        thread = client.post("/api/v1/threads", json={"messages": [{"role": "user", "content": "hi"}]}).json["id"]
        (message,) = get(client, "/messages", thread)["messages"]
        assert message["content"] == "hi" and "run_id" not in message and "status" not in message


class TestRuns:
    def test_they_are_listed_by_status_in_pages(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        ask(client, "hi")
        failed = start(client, "slow")
        replies.fail("slow", errors.UpstreamFailed())
        read(client, failed)
        ask(client, "ho")
        page = get(client, "/runs", limit=2)
        assert [(each["input"], each["status"]) for each in page["runs"]] == [("ho", "completed"), ("slow", "failed")]
        assert page["runs"][1]["error"]["code"] == "upstream_failed"
        assert [each["input"] for each in get(client, "/runs", before=page["next"])["runs"]] == ["hi"]
        assert [each["id"] for each in get(client, "/runs", status="failed")["runs"]] == [failed]
        assert client.get("/conversations/runs?client_name=ada&before=nope").status_code == 404

    def test_an_open_one_is_in_the_details_and_can_be_stopped(
        self, client: FlaskClient, replies: ScriptedReplies
    ) -> None:
        ask(client, "hi")
        running, queued = start(client, "slow"), start(client, "slower")
        replies.await_call("slow")
        open_runs = get(client, "/details")["open_runs"]
        assert [(each["id"], each["status"]) for each in open_runs] == [(running, "running"), (queued, "queued")]
        assert post(client, "runs/cancel", status=200, run_id=queued)["status"] == "cancelled"
        assert [each["id"] for each in get(client, "/details")["open_runs"]] == [running]
        assert post(client, "runs/cancel", status=200, run_id=running)["status"] == "cancelled"
        assert get(client, "/details")["open_runs"] == []
        assert post(client, "runs/cancel", status=200, run_id=running)["status"] == "cancelled"

    def test_a_failed_one_is_retried_once_however_often_it_is_asked(
        self, client: FlaskClient, replies: ScriptedReplies, upstream: SteeredUpstream
    ) -> None:
        failed = start(client, "slow", temperature=0.25)
        replies.fail("slow", errors.UpstreamFailed())
        read(client, failed)
        retried = {post(client, "runs/retry", run_id=failed)["id"] for _ in range(3)}
        assert len(retried) == 1 and failed not in retried
        replies.end("slow", "done")
        read(client, *retried)
        assert contents(client) == ["slow", "done"]
        assert upstream.requests[-1].parameters == {"temperature": 0.25}
        assert post(client, "runs/retry", run_id=failed)["id"] in retried
        answer = post(client, "runs/retry", status=409, run_id=next(iter(retried)))
        assert answer["code"] == "not_retryable"

    def test_a_run_of_another_client_is_not_found(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        ask(client, "hi", "eve")
        run_id = start(client, "slow")
        replies.await_call("slow")
        for path in ("runs/cancel", "runs/retry", "regenerate"):
            assert post(client, path, "eve", 404, run_id=run_id)["code"] == "not_found"
        assert post(client, "edit", "eve", 404, run_id=run_id, input="x")["code"] == "not_found"
        assert get(client, "/details")["open_runs"][0]["status"] == "running"


class TestReplacing:
    def test_a_reply_is_written_anew_without_the_old_one_in_the_replay(
        self, client: FlaskClient, upstream: SteeredUpstream, replies: ScriptedReplies
    ) -> None:
        ask(client, "hi")
        old = start(client, "slow")
        replies.end("slow", "first")
        read(client, old)
        new = post(client, "regenerate")
        assert (new["replaces"], new["input"]) == (old, "slow")
        replies.await_call("slow", 2)
        assert contents(client) == ["hi", "re: hi", "slow", "first"]
        assert sent(upstream) == [("user", "hi"), ("assistant", "re: hi"), ("user", "slow")]
        replies.end("slow", "second")
        assert "second" in read(client, new["id"])
        assert contents(client) == ["hi", "re: hi", "slow", "second"]
        ask(client, "ho")
        assert ("assistant", "first") not in sent(upstream) and ("assistant", "second") in sent(upstream)
        assert len(get(client, "/runs")["runs"]) == 4

    def test_the_last_question_is_asked_in_other_words(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
        ask(client, "hi")
        ask(client, "typo")
        read(client, post(client, "edit", input="no typo")["id"])
        assert sent(upstream) == [("user", "hi"), ("assistant", "re: hi"), ("user", "no typo")]
        assert contents(client) == ["hi", "re: hi", "no typo", "re: no typo"]

    def test_the_title_of_an_untitled_one_follows_its_first_question(self, client: FlaskClient) -> None:
        ask(client, "typo")
        read(client, post(client, "edit", input="no typo")["id"])
        assert get(client, "", None)["conversations"][0]["title"] == "no typo"

    @pytest.mark.parametrize("end", ["fail", "stop"])
    def test_the_old_turn_stays_unless_the_new_one_completes(
        self, client: FlaskClient, replies: ScriptedReplies, end: str
    ) -> None:
        ask(client, "hi")
        run = post(client, "edit", input="slow")
        replies.await_call("slow")
        replies.say("slow", "half")
        if end == "fail":
            replies.fail("slow", errors.UpstreamFailed())
        else:
            client.delete(f"/chat/stream/{run['id']}")
        read(client, run["id"])
        assert contents(client) == ["hi", "re: hi"]
        ended = get(client, "/runs")["runs"][0]
        assert (ended["status"], ended["input"]) == ({"fail": "failed", "stop": "cancelled"}[end], "slow")
        if end == "fail":
            again = post(client, "runs/retry", run_id=run["id"])
            replies.end("slow", "whole")
            read(client, again["id"])
            assert contents(client) == ["slow", "whole"]

    def test_only_the_last_turn_can_be_replaced(self, client: FlaskClient) -> None:
        ask(client, "hi")
        first = get(client, "/runs")["runs"][0]["id"]
        ask(client, "ho")
        for path, more in (("regenerate", {}), ("edit", {"input": "x"})):
            assert post(client, path, status=409, run_id=first, **more)["code"] == "not_the_last_turn"
        update(client, "empty", title="t")
        assert post(client, "regenerate", "empty", 409)["code"] == "not_the_last_turn"
        assert post(client, "regenerate", "nobody", 404)["code"] == "not_found"

    def test_a_turn_that_is_not_the_last_any_more_when_its_run_starts_stays(
        self, client: FlaskClient, replies: ScriptedReplies
    ) -> None:
        ask(client, "hi")
        running = start(client, "slow")
        replies.await_call("slow")
        waiting = post(client, "regenerate")
        assert waiting["status"] == "queued"
        replies.end("slow", "done")
        read(client, running)
        assert "not_the_last_turn" in read(client, waiting["id"])
        assert contents(client) == ["hi", "re: hi", "slow", "done"]
        assert get(client, "/runs", status="failed")["runs"][0]["error"]["code"] == "not_the_last_turn"
        assert replies.calls == ["hi", "slow"]

    def test_twice_at_once_is_paid_once(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        run_id = start(client, "slow")
        replies.end("slow", "first")
        read(client, run_id)
        one, other = post(client, "regenerate"), post(client, "regenerate", run_id=run_id)
        assert one["id"] == other["id"]
        replies.end("slow", "second")
        read(client, one["id"])
        assert replies.calls == ["slow", "slow"]

    def test_a_turn_of_a_thread_is_written_anew_but_has_no_question_to_edit(self, client: FlaskClient) -> None:
        thread = client.post("/api/v1/threads", json={"messages": [{"role": "user", "content": "hi"}]}).json["id"]
        run = client.post(f"/api/v1/threads/{thread}/runs", json={"assistant_id": "asst_default"}).json
        read(client, run["id"])
        assert contents(client, thread) == ["hi", "re: hi"]
        read(client, post(client, "regenerate", thread)["id"])
        assert contents(client, thread) == ["hi", "re: hi"]
        assert post(client, "edit", thread, 409, input="x")["code"] == "not_editable"

    def test_token_probabilities_are_switched_on_and_off(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
        ask(client, "hi")
        read(client, post(client, "regenerate", logprobs=True)["id"])
        assert upstream.requests[-1].parameters == {"logprobs": True}
        read(client, post(client, "regenerate")["id"])
        assert upstream.requests[-1].parameters == {"logprobs": True}
        read(client, post(client, "edit", input="ho", logprobs=False)["id"])
        assert upstream.requests[-1].parameters == {}


class TestTitles:
    def test_the_model_writes_one_which_is_kept(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
        ask(client, "두부 요리")
        upstream.answer = lambda _: ['**"두부 요리법"**\n\nmore']
        assert post(client, "title", status=200) == {"title": "두부 요리법"}
        assert get(client, "/details")["title"] == "두부 요리법"
        assert sent(upstream)[0][0] == "system" and "두부 요리" in sent(upstream)[1][1]
        assert contents(client) == ["두부 요리", "re: 두부 요리"]
        assert listed(client) == ["ada"]

    def test_one_that_another_process_had_first_is_told_to_all(
        self, client: FlaskClient, store: MemoryStore, upstream: SteeredUpstream
    ) -> None:
        ask(client, "hi")

        def answer_after_another(_: object) -> list[str]:
            store.update_conversation("ada", {"title": "Theirs"})
            (chat,) = [name for name in store._table.states if name.startswith("title_")]
            store.delete_conversation(chat)
            return ["Ours"]

        upstream.answer = answer_after_another
        assert post(client, "title", status=200) == {"title": "Theirs"}
        assert get(client, "/details")["title"] == "Theirs"

    def test_there_is_none_without_a_message_or_a_text(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
        update(client, top_p=1)
        assert post(client, "title", status=400)["code"] == "invalid_request"
        assert post(client, "title", "nobody", 404)["code"] == "not_found"
        ask(client, "hi")
        upstream.answer = lambda _: ["***\n"]
        assert post(client, "title", status=502)["code"] == "upstream_empty_reply"
        assert get(client, "/details")["title"] is None

    @pytest.mark.parametrize("reply", [errors.UpstreamFailed(), ["***"]], ids=["failed", "empty"])
    def test_what_was_read_for_one_that_fails_is_deleted(
        self, client: FlaskClient, store: MemoryStore, upstream: SteeredUpstream, reply: Any
    ) -> None:
        def answer(_: object) -> Any:
            if isinstance(reply, Exception):
                raise reply
            return reply

        ask(client, "hi")
        upstream.answer = answer
        post(client, "title", status=502)
        assert list(store._table.states) == ["ada"]


class TestCounts:
    def test_statistics_count_messages_runs_and_tokens(
        self, client: FlaskClient, upstream: SteeredUpstream, replies: ScriptedReplies
    ) -> None:
        ask(client, "hi")
        failed = start(client, "slow")
        replies.fail("slow", errors.UpstreamFailed())
        read(client, failed)
        upstream.answer = lambda _: ["ok", Completion(None, Usage(10, 20, 30))]
        ask(client, "ho")
        counts = get(client, "/statistics")
        assert (counts["message_count"], counts["question_count"], counts["reply_count"]) == (4, 2, 2)
        assert counts["runs"] == {"completed": 2, "failed": 1}
        assert counts["usage"]["total_tokens"] >= 30 and counts["reply_seconds"] >= 0

    def test_others_are_answered_while_a_long_history_is_counted_or_searched(
        self, client: FlaskClient, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.create_conversation("ada", None, {})
        turns = [Run("hi", id=f"run_{n}", status="completed", text="ho", ended=2.0) for n in range(1000)]
        store.import_history("ada", [each for turn in turns for each in turn.history_messages()], turns)
        rests: list[float] = []
        monkeypatch.setattr(time, "sleep", rests.append)
        for path in ("/statistics?client_name=ada", "?q=tofu"):
            rests.clear()
            assert client.get(f"/conversations{path}").status_code == 200
            assert rests.count(0) >= 10

    @pytest.mark.parametrize(
        ("path", "query", "read"),
        [("/statistics", {}, "list_runs"), ("/messages", {"before": "301"}, "list_messages")],
    )
    def test_a_history_that_is_cleared_while_it_is_read_is_no_error(
        self,
        client: FlaskClient,
        store: MemoryStore,
        monkeypatch: pytest.MonkeyPatch,
        path: str,
        query: dict[str, str],
        read: str,
    ) -> None:
        store.create_conversation("ada", None, {})
        turns = [Run("hi", id=f"run_{n}", status="completed", text="ho", ended=2.0) for n in range(200)]
        store.import_history("ada", [each for turn in turns for each in turn.history_messages()], turns)
        unpatched = getattr(store, read)

        def read_and_clear(*given: Any) -> Any:
            found = unpatched(*given)
            store.clear_conversation("ada")
            return found

        monkeypatch.setattr(store, read, read_and_clear)
        get(client, path, **query)

    def test_usage_outlives_the_history(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
        upstream.answer = lambda _: ["ok", Completion(None, Usage(1, 2, 3))]
        ask(client, "hi")
        ask(client, "ho", "eve")
        client.post("/chat", json={"message": "nameless"})
        client.delete("/history?client_name=ada")
        usage = get(client, "/usage", None)
        assert [each["client_name"] for each in usage["usage"]] == ["", "ada", "eve"]
        expected = {"questions": 3, "prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9}
        assert usage["total"] == expected
        assert get(client, "/usage")["total"]["questions"] == 1
        assert get(client, "/usage", None, since="2000-01-01", until="2000-12-31")["usage"] == []

    @pytest.mark.parametrize("query", ["since=2026-02-31", "until=2026-1-1", "since=yesterday"])
    def test_a_day_that_is_none_is_refused(self, client: FlaskClient, query: str) -> None:
        assert client.get(f"/conversations/usage?{query}").status_code == 400

    def test_no_day_is_before_the_first_of_the_calendar(self, client: FlaskClient) -> None:
        for until in ("0001-01-01", "0001-01-29", "0001-01-30", "9999-12-31"):
            assert get(client, "/usage", None, until=until)["usage"] == []


def test_a_name_may_have_any_character_that_a_client_name_may(client: FlaskClient) -> None:
    name = "a/../b?c=d&e#f g+%25 한"
    ask(client, "hi", name)
    assert get(client, "/details", name)["client_name"] == name
    answer = client.get(f"/conversations/messages?client_name={quote(name, safe='')}")
    assert [each["content"] for each in answer.json["messages"]] == ["hi", "re: hi"]

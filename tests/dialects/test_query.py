"""The published dialect, as a caller sees it."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient

from server import errors
from server.domain import Message, Run
from server.http.headers import wait_seconds
from server.settings import Settings
from server.store.memory import MemoryStore
from server.upstream.protocol import CompletionRequest
from tests.support.replies import ScriptedReplies, SteeredUpstream

AtOnce = Callable[..., Any]

CHATGPT = [{"User-Agent": "Mozilla/5.0 ChatGPT-User/1.0"}, {"openai-conversation-id": "c-1"}]


@pytest.fixture
def replies() -> ScriptedReplies:
    return ScriptedReplies("slow")


def query(client: FlaskClient, question: str, name: str = "ada", headers: Any = None, **more: Any) -> Any:
    return client.post("/query", json={"client_name": name, "input": question, **more}, headers=headers)


def history(client: FlaskClient, name: str = "ada", **more: Any) -> Any:
    return client.get("/history", query_string={"client_name": name, **more})


def contents(client: FlaskClient, name: str = "ada") -> list[str]:
    return [each["content"] for each in history(client, name).json]


class TestModels:
    def test_the_models_are_listed_with_what_the_contract_has(self, client: FlaskClient) -> None:
        answer = client.get("/models")
        assert answer.status_code == 200
        assert answer.json["object"] == "list"
        (model,) = answer.json["data"]
        assert model["root"] == model["id"] == "scripted-demo"
        assert model["permission"] == []
        assert "parent" not in model

    def test_the_upstreams_own_description_comes_through(self, client: FlaskClient, upstream: Any) -> None:
        upstream.list_models = lambda: [
            {"id": "m", "created": 7, "owned_by": "o", "root": "r", "parent": "p", "shutdown_date": "2027-01-14"},
            {"id": "n", "created": "yesterday", "object": None, "permission": None, "parent": None},
            {"id": "o", "parent": [], "shutdown_date": None},
        ]
        first, second, third = client.get("/models").json["data"]
        assert first == {
            "id": "m",
            "object": "model",
            "created": 7,
            "owned_by": "o",
            "permission": [],
            "root": "r",
            "parent": "p",
            "shutdown_date": "2027-01-14",
        }
        assert second == {
            "id": "n",
            "object": "model",
            "created": 0,
            "owned_by": "unknown",
            "permission": [],
            "root": "n",
        }
        assert not third.keys() & {"parent", "shutdown_date"}

    def test_a_client_never_seen_has_the_default_model_and_is_not_made(
        self, client: FlaskClient, store: MemoryStore
    ) -> None:
        assert client.get("/model", query_string={"client_name": "ada"}).json == {"model": "scripted-demo"}
        assert store.get_conversation("ada") is None

    def test_a_chosen_model_answers_from_then_on(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
        upstream.list_models = lambda: [{"id": "m1"}]  # type: ignore[method-assign]
        answer = client.post("/model", json={"client_name": "ada", "model": "m1"})
        assert (answer.status_code, answer.json) == (200, {"model": "m1"})
        assert client.get("/model", query_string={"client_name": "ada"}).json == {"model": "m1"}
        assert client.get("/model", query_string={"client_name": "eve"}).json == {"model": "scripted-demo"}
        query(client, "hi")
        assert upstream.requests[-1].model == "m1"

    def test_a_model_that_is_not_offered_is_refused_and_nothing_changes(
        self, client: FlaskClient, store: MemoryStore
    ) -> None:
        answer = client.post("/model", json={"client_name": "ada", "model": "gpt-4"})
        assert (answer.status_code, answer.json["code"]) == (400, "unknown_model")
        assert store.get_conversation("ada") is None

    def test_any_model_is_taken_where_the_list_cannot_be_had(self, client: FlaskClient, upstream: Any) -> None:
        def models() -> Any:
            raise errors.UpstreamUnreachable

        upstream.list_models = models
        assert client.post("/model", json={"client_name": "ada", "model": "any"}).status_code == 200
        answer = client.get("/models")
        assert (answer.status_code, answer.json["code"]) == (500, "upstream_unreachable")


class TestQuery:
    def test_a_question_is_answered_and_both_are_in_the_history(self, client: FlaskClient) -> None:
        answer = query(client, "hi")
        assert (answer.status_code, answer.json) == (200, {"response": "re: hi"})
        assert [(each["role"], each["content"]) for each in history(client).json] == [
            ("user", "hi"),
            ("assistant", "re: hi"),
        ]

    def test_the_history_is_replayed(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
        query(client, "first")
        query(client, "second")
        assert b"re: first" in upstream.requests[-1].messages

    def test_one_client_never_sees_another(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
        query(client, "secret", "ada")
        query(client, "hi", "eve")
        assert b"secret" not in upstream.requests[-1].messages
        assert contents(client, "eve") == ["hi", "re: hi"]

    def test_what_fails_behind_us_is_500_with_a_code_and_the_conversation_goes_on(
        self, client: FlaskClient, replies: ScriptedReplies, at_once: AtOnce
    ) -> None:
        replies.fail("slow", errors.UpstreamRateLimited())
        answer = query(client, "slow")
        assert (answer.status_code, answer.json["code"]) == (500, "upstream_rate_limited")
        assert query(client, "hi").status_code == 200
        assert contents(client) == ["hi", "re: hi"]

    def test_who_waits_for_a_cleared_conversation_gets_409(
        self, client: FlaskClient, replies: ScriptedReplies, at_once: AtOnce
    ) -> None:
        waiting = at_once(query, client, "slow")
        replies.await_call("slow")
        client.delete("/history", query_string={"client_name": "ada"})
        assert (waiting.result().status_code, waiting.result().json["code"]) == (409, "run_cancelled")
        assert contents(client) == []

    def test_a_busy_conversation_refuses_one_more(self, app: Any, replies: ScriptedReplies, at_once: AtOnce) -> None:
        client = app.test_client()
        runner = app.extensions["runner"]
        runner.create(Run("slow", conversation="ada"))
        waiting = [runner.create(Run(f"q{n}", conversation="ada")) for n in range(32)]
        answer = query(client, "one more")
        assert (answer.status_code, answer.json["code"]) == (429, "conversation_busy")
        replies.end("slow", "ok")
        runner.wait(waiting[-1].id, 20, lambda: True)
        assert query(client, "one more").status_code == 200


class TestDeadline:
    """R5 of docs/invariants.md."""

    @pytest.fixture
    def settings(self) -> Settings:
        return Settings(query_deadline_seconds=0)

    def test_a_reply_that_takes_longer_is_202_and_delivered_by_asking_the_same_again(
        self, client: FlaskClient, replies: ScriptedReplies, upstream: SteeredUpstream
    ) -> None:
        late = query(client, "slow")
        assert late.status_code == 202
        assert late.json["status"] == "running"
        assert re.fullmatch(r"run_[0-9a-f]{32}", late.json["run_id"])
        assert query(client, "slow").json["run_id"] == late.json["run_id"]
        replies.end("slow", "at last")
        delivered = query(client, "slow", headers={"Prefer": "wait=20"})
        assert (delivered.status_code, delivered.json) == (200, {"response": "at last"})
        assert len(upstream.requests) == 1

    def test_a_caller_may_prefer_to_wait(self, client: FlaskClient, replies: ScriptedReplies, at_once: AtOnce) -> None:
        waiting = at_once(query, client, "slow", headers={"Prefer": "respond-async, wait=20"})
        replies.await_call("slow")
        replies.end("slow", "ok")
        assert waiting.result().status_code == 200

    @pytest.mark.parametrize("headers", CHATGPT)
    def test_chatgpt_is_answered_within_forty_seconds(self, app: Any, headers: dict[str, str]) -> None:
        with app.test_request_context("/query", headers=headers):
            assert wait_seconds(300) == 40
            assert wait_seconds(10) == 10
        with app.test_request_context("/query", headers={**headers, "Prefer": "wait=90"}):
            assert wait_seconds(300) == 90
        with app.test_request_context("/query", headers={"User-Agent": "curl/8"}):
            assert wait_seconds(300) == 300

    @pytest.mark.parametrize("prefer", ["respond-async", "Respond-Async", "handling=lenient; respond-async", "wait=0"])
    def test_who_prefers_not_to_wait_is_answered_at_once_and_the_reply_is_streamed(
        self, client: FlaskClient, replies: ScriptedReplies, upstream: SteeredUpstream, prefer: str
    ) -> None:
        answer = query(client, "slow", headers={"Prefer": prefer})
        assert (answer.status_code, answer.json["status"]) == (202, "running")
        replies.say("slow", "So ")
        reader = client.get(f"/chat/stream/{answer.json['run_id']}", buffered=False)
        assert any(b"So " in frame for frame in reader.response)
        reader.close()  # Who reads it to its end would have it.
        replies.end("slow", "far.")
        assert query(client, "slow", headers={"Prefer": "wait=20"}).json == {"response": "So far."}
        assert [call.streamed for call in upstream.requests] == [True]

    def test_who_waits_for_the_whole_reply_is_no_reason_to_stream_it(
        self, client: FlaskClient, upstream: SteeredUpstream
    ) -> None:
        for prefer in ("wait=20", "respond-asynchronously, wait=20", "respond-async; wait=20"):
            assert query(client, f"hi {prefer}", headers={"Prefer": prefer}).status_code == 200
        assert [call.streamed for call in upstream.requests] == [False, False, True]

    def test_who_prefers_not_to_wait_is_told_so_however_soon_the_reply_comes(
        self, client: FlaskClient, replies: ScriptedReplies
    ) -> None:
        for _ in range(20):
            answer = query(client, "hi", headers={"Prefer": "respond-async"})
            assert (answer.status_code, answer.json["status"]) == (202, "running")
            assert query(client, "hi", headers={"Prefer": "wait=20"}).json == {"response": "re: hi"}
        assert len(replies.calls) == 20

    def test_a_reply_that_is_there_already_is_given_at_once(self, client: FlaskClient) -> None:
        assert query(client, "hi", request_id="1", headers={"Prefer": "wait=20"}).status_code == 200
        again = query(client, "hi", request_id="1", headers={"Prefer": "respond-async"})
        assert (again.status_code, again.json) == (200, {"response": "re: hi"})

    def test_prefer_wait_zero_answers_at_once(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        assert query(client, "slow", headers={"Prefer": "wait=0"}).status_code == 202
        replies.end("slow")


class TestRequestId:
    def test_a_request_id_is_exact(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
        for _ in range(3):
            assert query(client, "hi", request_id="1").json == {"response": "re: hi"}
        assert len(upstream.requests) == 1
        assert query(client, "hi", request_id="2").status_code == 200
        assert len(upstream.requests) == 2

    def test_another_input_under_the_same_id_is_409_and_changes_nothing(self, client: FlaskClient) -> None:
        query(client, "hi", request_id="1")
        answer = query(client, "ho", request_id="1")
        assert (answer.status_code, answer.json["code"]) == (409, "request_id_conflict")
        assert contents(client) == ["hi", "re: hi"]

    def test_the_header_idempotency_key_does_the_same_and_the_body_wins(
        self, client: FlaskClient, upstream: SteeredUpstream
    ) -> None:
        query(client, "hi", headers={"Idempotency-Key": "1"})
        query(client, "hi", headers={"Idempotency-Key": "1"})
        query(client, "hi", request_id="1", headers={"Idempotency-Key": "2"})
        assert len(upstream.requests) == 1
        answer = query(client, "ho", headers={"Idempotency-Key": "1"})
        assert answer.status_code == 409

    @pytest.mark.parametrize("key", ["", "x" * 201])
    def test_an_idempotency_key_of_no_or_too_many_characters_is_refused(self, client: FlaskClient, key: str) -> None:
        assert query(client, "hi", headers={"Idempotency-Key": key}).status_code == 400
        assert contents(client) == []

    def test_a_failed_question_is_retried_under_its_id(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        replies.fail("slow", errors.UpstreamTimedOut())
        assert query(client, "slow", request_id="1").status_code == 500
        replies.end("slow", "now")
        assert query(client, "slow", request_id="1").json == {"response": "now"}
        assert query(client, "slow", request_id="1").json == {"response": "now"}
        assert replies.calls == ["slow", "slow"]

    def test_clearing_forgets_ids(self, client: FlaskClient) -> None:
        query(client, "hi", request_id="1")
        client.delete("/history", query_string={"client_name": "ada"})
        assert query(client, "ho", request_id="1").status_code == 200


class TestHistory:
    def test_a_client_never_seen_has_an_empty_history_and_is_not_made(
        self, client: FlaskClient, store: MemoryStore
    ) -> None:
        assert history(client).json == []
        assert store.get_conversation("ada") is None

    def test_times_are_rfc_3339_in_utc(self, client: FlaskClient) -> None:
        query(client, "hi")
        for each in history(client).json:
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", each["timestamp"])

    def test_clearing_keeps_the_model(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
        upstream.list_models = lambda: [{"id": "m1"}]  # type: ignore[method-assign]
        client.post("/model", json={"client_name": "ada", "model": "m1"})
        query(client, "hi")
        assert set(client.delete("/history", query_string={"client_name": "ada"}).json) == {"message"}
        assert history(client).json == []
        assert client.get("/model", query_string={"client_name": "ada"}).json == {"model": "m1"}
        query(client, "again")
        assert contents(client) == ["again", "re: again"]

    def test_a_limit_gives_the_newest_and_a_link_to_what_is_older(self, client: FlaskClient) -> None:
        for n in range(5):
            query(client, f"q{n}", "a b&c")
        seen: list[str] = []
        address: str | None = "/history?client_name=a+b%26c&limit=4"
        while address:
            answer = client.get(address)
            seen = [each["content"] for each in answer.json] + seen
            found = re.fullmatch(r'<(.*)>; rel="next"', answer.headers.get("Link", ""))
            address = found[1] if found else None
        assert seen == [text for n in range(5) for text in (f"q{n}", f"re: q{n}")]

    def test_a_limit_larger_than_the_history_has_no_link(self, client: FlaskClient) -> None:
        query(client, "hi")
        answer = history(client, limit=10_000)
        assert len(answer.json) == 2
        assert "Link" not in answer.headers
        assert "X-Messages-Omitted" not in answer.headers

    def test_an_index_from_before_a_clearing_is_harmless(self, client: FlaskClient) -> None:
        query(client, "hi")
        assert len(history(client, before=999_999).json) == 2
        assert history(client, before=0).json == []

    @pytest.mark.parametrize("headers", CHATGPT)
    def test_chatgpt_gets_the_newest_that_fit_and_is_told(
        self, app: Any, store: MemoryStore, headers: dict[str, str]
    ) -> None:
        client = app.test_client()
        for n in range(30):
            query(client, f"{n} " + "한" * 2_000)
        full = history(client)
        assert len(full.json) == 60
        assert len(full.get_data(as_text=True)) > 100_000
        page = client.get("/history", query_string={"client_name": "ada"}, headers=headers)
        assert 85_000 < len(page.get_data(as_text=True)) <= 95_000
        assert page.json == full.json[-len(page.json) :]
        assert int(page.headers["X-Messages-Omitted"]) == 60 - len(page.json)
        older = client.get(re.findall("<(.*)>", page.headers["Link"])[0], headers=headers)
        assert older.json[-1] == full.json[-len(page.json) - 1]

    def test_a_single_message_too_long_for_chatgpt_gives_an_empty_list_and_is_told(
        self, app: Any, replies: ScriptedReplies
    ) -> None:
        client = app.test_client()
        query(client, "x" * 99_000)
        page = client.get("/history", query_string={"client_name": "ada"}, headers=CHATGPT[0])
        assert page.json == []
        assert page.headers["X-Messages-Omitted"] == "2"


def test_the_demonstration_says_what_it_is_and_shows_that_history_was_replayed() -> None:
    upstream = SteeredUpstream()
    parts = [
        Message.of("user", "first", None, 0.0).fragment,
        Message.of("assistant", "reply", None, 0.0).fragment,
        Message.of("user", "안녕", None, 0.0).fragment,
    ]
    alone = "".join(map(str, list(upstream.open_stream(CompletionRequest("m", b"[" + parts[2] + b"]", 1.0)))[:-1]))
    assert "demo" in alone
    assert "안녕" in alone
    later = "".join(
        map(str, list(upstream.open_stream(CompletionRequest("m", b"[" + b",".join(parts) + b"]", 1.0)))[:-1])
    )
    assert "2 earlier messages" in later
    assert "first" in later

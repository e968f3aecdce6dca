"""Every door that begins a run counts, and its answer tells what is left."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from server.app import create_app
from server.errors import StoreUnavailable
from server.settings import Settings
from server.store.memory import MemoryStore
from tests.conftest import validate_responses
from tests.support.clock import Clock
from tests.support.replies import ScriptedReplies, SteeredUpstream

Begin = Callable[..., Any]
"""Sends a request, given the client and a number that makes it another one than before."""


@pytest.fixture
def replies() -> ScriptedReplies:
    return ScriptedReplies("slow", "failing")


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(1000, clock)


@pytest.fixture
def serve(store: MemoryStore, upstream: SteeredUpstream) -> Iterator[Callable[..., FlaskClient]]:
    apps: list[Flask] = []

    def make(**chosen: Any) -> FlaskClient:
        app = create_app(Settings(**chosen), store=store, upstream=upstream)
        app.testing = True
        validate_responses(app)
        apps.append(app)
        return app.test_client()

    yield make
    for app in apps:
        app.extensions["runner"].shut_down(0)


def query(client: FlaskClient, question: str, name: str = "ada", headers: Any = None, **more: Any) -> Any:
    return client.post("/query", json={"client_name": name, "input": question, **more}, headers=headers)


def stream(client: FlaskClient, question: str) -> Any:
    return query(client, question, headers={"Accept": "text/event-stream"})


def thread(client: FlaskClient) -> str:
    message = {"role": "user", "content": "hi"}
    return str(client.post("/api/v1/threads", json={"messages": [message]}).json["id"])


def session(client: FlaskClient) -> str:
    return str(client.post("/api/sessions", json={}).json["session_id"])


BEGIN: dict[str, Begin] = {
    "query": lambda client, n: query(client, f"{n}"),
    "a stream": lambda client, n: stream(client, f"{n}"),
    "chat": lambda client, n: client.post("/chat", json={"message": f"{n}"}),
    "a started stream": lambda client, n: client.post("/chat/stream", json={"message": f"{n}"}),
    "regenerate": lambda client, n: client.post("/conversations/regenerate", json={"client_name": "eve"}),
    "edit": lambda client, n: client.post("/conversations/edit", json={"client_name": "eve", "input": f"{n}"}),
    "a title": lambda client, n: client.post("/conversations/title", json={"client_name": f"{n}"}),
    "a session": lambda client, n: client.post("/api/chat", json={"session_id": session(client), "message": f"{n}"}),
    "a thread's message": lambda client, n: client.post("/api/v1/chat", json={"message": f"{n}"}),
    "a thread's run": lambda client, n: client.post(
        f"/api/v1/threads/{thread(client)}/runs", json={"assistant_id": "asst_default"}
    ),
    "a thread with its run": lambda client, n: client.post(
        "/api/v1/threads/runs",
        json={"assistant_id": "asst_default", "thread": {"messages": [{"role": "user", "content": "hi"}]}},
    ),
}


def answer(store: MemoryStore, client: FlaskClient, *names: str) -> None:
    for name in names:
        assert query(client, "hello", name).status_code == 200


class TestRateLimit:
    @pytest.mark.parametrize("door", BEGIN)
    def test_every_door_counts_and_tells_what_is_left(
        self, serve: Callable[..., FlaskClient], store: MemoryStore, door: str
    ) -> None:
        answer(store, serve(), "eve", "0", "1")
        client = serve(rate_limit="1/minute")
        began = BEGIN[door](client, 0)
        assert began.status_code in (200, 202), began.data
        assert began.headers["RateLimit-Limit"] == "1"
        assert began.headers["RateLimit-Remaining"] == "0"
        assert began.headers["RateLimit-Reset"] == "60"
        began.close()
        refused = BEGIN[door](client, 1)
        assert refused.status_code == 429
        assert "rate_limited" in refused.text
        assert "60 seconds" in refused.text
        assert refused.headers["Retry-After"] == refused.headers["RateLimit-Reset"] == "60"

    def test_reading_counts_nothing_and_tells_nothing(self, serve: Callable[..., FlaskClient]) -> None:
        client = serve(rate_limit="1/minute")
        query(client, "1")
        for path in ("/history?client_name=ada", "/models", "/health", "/conversations"):
            read = client.get(path)
            assert read.status_code == 200
            assert "RateLimit-Limit" not in read.headers

    def test_what_joins_or_is_repeated_is_answered_when_the_limit_is_used_up(
        self, serve: Callable[..., FlaskClient], replies: ScriptedReplies
    ) -> None:
        client = serve(rate_limit="2/minute")
        first = query(client, "1", request_id="id")
        assert query(client, "slow", headers={"Prefer": "wait=0"}).status_code == 202
        assert query(client, "2").status_code == 429
        joined = query(client, "slow", headers={"Prefer": "wait=0"})
        assert (joined.status_code, "RateLimit-Limit" in joined.headers) == (202, False)
        assert query(client, "1", request_id="id").json == first.json
        replies.end("slow", "ok")
        assert query(client, "slow").json == {"response": "ok"}

    def test_each_address_has_a_limit_of_its_own_behind_as_many_proxies_as_are_trusted(
        self, serve: Callable[..., FlaskClient]
    ) -> None:
        client = serve(rate_limit="1/minute", trusted_proxies=1)
        statuses = [
            query(client, f"{n}", headers={"X-Forwarded-For": f"192.0.2.9, {address}"}).status_code
            for n, address in enumerate(["192.0.2.1", "192.0.2.2", "192.0.2.1", "2001:db8::1", "2001:db8::2"])
        ]
        assert statuses == [200, 200, 429, 200, 429]

    def test_the_administrator_is_limited_too(self, serve: Callable[..., FlaskClient]) -> None:
        client = serve(rate_limit="1/minute", admin_key="an administrator's long key")
        headers = {"X-API-Key": "an administrator's long key"}
        assert [query(client, f"{n}", headers=headers).status_code for n in range(2)] == [200, 429]

    def test_a_forged_address_is_not_believed_without_proxies(self, serve: Callable[..., FlaskClient]) -> None:
        client = serve(rate_limit="1/minute")
        statuses = [query(client, f"{n}", headers={"X-Forwarded-For": f"192.0.2.{n}"}).status_code for n in range(2)]
        assert statuses == [200, 429]

    def test_programs_for_openai_are_told_in_its_words(self, serve: Callable[..., FlaskClient]) -> None:
        client = serve(rate_limit="1/minute")
        query(client, "1")
        error = client.post("/api/v1/chat", json={"message": "2"}).json["error"]
        assert (error["type"], error["code"]) == ("rate_limit_exceeded", "rate_limited")


class TestBudget:
    def test_what_is_left_of_a_budget_is_spent_and_no_more(self, serve: Callable[..., FlaskClient]) -> None:
        client = serve(daily_token_budget=120, default_max_tokens=100)
        assert query(client, "1").status_code == 200
        statuses = [query(client, f"{n}", f"client {n}").status_code for n in range(40)]
        assert set(statuses) == {200, 429}
        assert statuses == sorted(statuses)

    def test_a_refusal_tells_when_there_is_more(self, serve: Callable[..., FlaskClient], clock: Clock) -> None:
        client = serve(daily_token_budget=103, default_max_tokens=100)
        assert query(client, "1").status_code == 200
        refused = query(client, "1", "eve")
        assert (refused.status_code, refused.json["code"]) == (429, "budget_exhausted")
        assert refused.headers["Retry-After"] == str(int(86_400 - clock.now % 86_400))
        assert "midnight UTC" in refused.json["error"]
        assert client.get("/history?client_name=eve").json == []

    def test_what_waits_for_replies_being_written_may_be_asked_again_in_seconds(
        self, serve: Callable[..., FlaskClient]
    ) -> None:
        client = serve(daily_token_budget=150, default_max_tokens=100)
        assert query(client, "slow", headers={"Prefer": "wait=0"}).status_code == 202
        refused = query(client, "1", "eve")
        assert (refused.status_code, refused.json["code"]) == (429, "budget_exhausted")
        assert refused.headers["Retry-After"] == "5"
        assert "reserved by replies being written" in refused.json["error"]

    def test_a_failed_reply_costs_nothing(
        self, serve: Callable[..., FlaskClient], replies: ScriptedReplies, at_once: Callable[..., Any]
    ) -> None:
        client = serve(daily_token_budget=105, default_max_tokens=100)
        for _ in range(3):
            asked = at_once(query, client, "failing")
            replies.fail("failing", ValueError("as if the upstream had gone"))
            assert asked.result().status_code == 500
        assert query(client, "1").status_code == 200

    @pytest.mark.parametrize(("budget", "status"), [(174, 429), (175, 200)])
    def test_a_cancelled_reply_costs_what_was_written(
        self, serve: Callable[..., FlaskClient], replies: ScriptedReplies, budget: int, status: int
    ) -> None:
        client = serve(daily_token_budget=budget, default_max_tokens=100)
        stream_id = client.post("/chat/stream", json={"message": "slow", "client_name": "ada"}).json["stream_id"]
        replies.say("slow", "x" * 210)
        with client.get(f"/chat/stream/{stream_id}", buffered=False) as read:
            assert any("xxx" in frame.decode() for frame in read.iter_encoded())
        assert client.delete(f"/chat/stream/{stream_id}").status_code == 200
        # 3 tokens of the prompt and 70 of the reply are spent; 2 and 100 are needed.
        assert query(client, "1", "eve").status_code == status

    def test_one_question_that_may_cost_more_than_a_day_has_is_told_so(self, serve: Callable[..., FlaskClient]) -> None:
        refused = query(serve(daily_token_budget=100), "1")
        assert (refused.status_code, refused.json["code"]) == (429, "budget_exhausted")
        assert "Retry-After" not in refused.headers
        assert "4098 tokens, and a day has 100; set a lower max_tokens" in refused.json["error"]

    def test_programs_for_openai_are_told_in_its_words(self, serve: Callable[..., FlaskClient]) -> None:
        error = serve(daily_token_budget=100).post("/api/v1/chat", json={"message": "2"}).json["error"]
        assert (error["type"], error["code"]) == ("insufficient_quota", "budget_exhausted")


class TestRefusedQuestions:
    @pytest.mark.parametrize("door", [door for door in BEGIN if door not in ("a session", "a thread's run")])
    @pytest.mark.parametrize(
        "refuse", [{"rate_limit": "1/minute"}, {"daily_token_budget": 1}, "store", "shutdown"], ids=str
    )
    def test_a_refused_question_stores_nothing(
        self,
        serve: Callable[..., FlaskClient],
        store: MemoryStore,
        monkeypatch: pytest.MonkeyPatch,
        door: str,
        refuse: Any,
    ) -> None:
        def create_run(*_: Any, **__: Any) -> Any:
            raise StoreUnavailable

        answer(store, serve(), "eve", "0", "1")
        client = serve(**refuse) if isinstance(refuse, dict) else serve()
        if refuse == "store":
            monkeypatch.setattr(store, "create_run", create_run)
        elif refuse == "shutdown":
            client.application.extensions["runner"].shut_down(0)
        elif "rate_limit" in refuse:
            BEGIN["query"](client, 0)
        before = set(store._table.states)
        assert BEGIN[door](client, 1).status_code in (429, 500, 503)
        assert set(store._table.states) == before

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("/chat", {"message": "hi"}),
            ("/api/v1/threads/runs", {"thread": {"messages": [{"role": "user", "content": "hi"}]}}),
        ],
    )
    def test_a_refused_question_leaves_what_an_earlier_request_created(
        self, serve: Callable[..., FlaskClient], store: MemoryStore, path: str, body: Any
    ) -> None:
        headers = {"Idempotency-Key": "a key of sixteen or more"}
        open_client, refusing = serve(), serve(daily_token_budget=1)
        assert open_client.post(path, json=body, headers=headers).status_code == 200
        before = set(store._table.states)
        body = {**body, "message": "another"} if "message" in body else {**body, "instructions": "another"}
        refusing.post(path, json=body, headers=headers)
        assert set(store._table.states) == before

    def test_a_chat_whose_reply_failed_stays(
        self,
        serve: Callable[..., FlaskClient],
        store: MemoryStore,
        replies: ScriptedReplies,
        at_once: Callable[..., Any],
    ) -> None:
        asked = at_once(serve().post, "/chat", json={"message": "failing"})
        replies.fail("failing", ValueError("as if the upstream had gone"))
        assert asked.result().status_code == 500
        (name,) = store._table.states
        assert [run.status for run in store.list_runs(name, None, 9)] == ["failed"]

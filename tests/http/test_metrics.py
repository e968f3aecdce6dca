"""What `/metrics` tells of requests, runs, calls and the store, with labels of bounded sets; and who may see it."""

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, g
from flask.testing import FlaskClient

from server.access.caller import Caller
from server.app import create_app
from server.domain import Usage
from server.errors import StoreUnavailable, UpstreamUnreachable
from server.settings import Settings
from server.store.memory import MemoryStore
from server.upstream.protocol import Completion, CompletionRequest
from tests.support.metrics import Samples, parse_metrics
from tests.support.process import eventually
from tests.support.replies import ScriptedReplies, SteeredUpstream

PORT = 9100
ON_PORT = f"http://stranger.example:{PORT}"


@pytest.fixture
def settings() -> Settings:
    return Settings(metrics_port=PORT)


@pytest.fixture
def replies() -> ScriptedReplies:
    return ScriptedReplies("slow", "slower")


def read(client: FlaskClient) -> Samples:
    answer = client.get("/metrics", base_url=ON_PORT)
    assert answer.status_code == 200
    return parse_metrics(answer.text)


def ask(client: FlaskClient, question: str, **headers: str) -> int:
    asked = {"client_name": "ada", "input": question}
    return client.post("/query", json=asked, headers=headers).status_code


class TestDoor:
    def test_it_is_text_for_prometheus(self, client: FlaskClient) -> None:
        answer = client.get("/metrics", base_url=ON_PORT)
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")

    @pytest.mark.parametrize(
        ("method", "path"),
        [("GET", "/"), ("GET", "/healthz"), ("POST", "/query"), ("GET", "/nowhere"), ("POST", "/metrics")],
    )
    def test_its_port_has_nothing_else(
        self, settings: Settings, store: MemoryStore, upstream: SteeredUpstream, method: str, path: str
    ) -> None:
        client = create_app(settings, store=store, upstream=upstream).test_client()  # The documents are of the other.
        answer = client.open(path, method=method, base_url=ON_PORT)
        assert (answer.status_code, answer.json["code"]) == (404, "not_found")

    def test_elsewhere_nobody_finds_it(self, client: FlaskClient) -> None:
        assert client.get("/metrics").status_code == 404

    def test_elsewhere_the_administrator_finds_it(self, app: Flask, client: FlaskClient) -> None:
        @app.before_request
        def identify() -> None:
            g.caller = Caller(is_admin=True)

        assert client.get("/metrics").status_code == 200

    def test_without_a_port_of_its_own_no_port_shows_it(self, store: MemoryStore, upstream: SteeredUpstream) -> None:
        client = create_app(Settings(), store=store, upstream=upstream).test_client()
        assert client.get("/metrics", base_url="http://localhost:9100").status_code == 404


class TestRequests:
    def test_they_are_counted_by_door_route_and_status(self, client: FlaskClient) -> None:
        ask(client, "hi")
        client.get("/history")
        client.get("/chat/stream/unknown")
        client.get("/nowhere/planted")
        client.delete("/query")
        assert read(client)["conversation_requests_total"] == {
            ("published", "POST /query", "200"): 1,
            ("published", "GET /history", "400"): 1,
            ("chat", "GET /chat/stream/<stream_id>", "404"): 1,
            ("none", "unknown", "404"): 1,
            ("none", "unknown", "405"): 1,
        }


class TestRuns:
    def test_their_ends_are_counted(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        ask(client, "hi")
        ask(client, "slow", Prefer="wait=0")
        replies.await_call("slow")
        client.delete("/history?client_name=ada")
        ask(client, "slower", Prefer="wait=0")
        replies.await_call("slower")
        replies.fail("slower", UpstreamUnreachable())
        expected = {("completed",): 1, ("cancelled",): 1, ("failed",): 1, ("interrupted",): 0}
        assert eventually(lambda: read(client)["conversation_runs_total"] == expected)
        assert read(client)["conversation_upstream_errors_total"] == {("upstream_unreachable",): 1}

    def test_open_and_waiting_ones_are_seen(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        ask(client, "slow", Prefer="wait=0")
        replies.await_call("slow")
        ask(client, "next", Prefer="wait=0")
        found = read(client)
        assert (found["conversation_runs_open"][()], found["conversation_runs_waiting"][()]) == (2, 1)
        replies.end("slow", "done")
        assert eventually(lambda: read(client)["conversation_runs_open"][()] == 0)

    def test_a_first_text_is_timed_once_for_a_run(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        ask(client, "slow", Prefer="wait=0")
        replies.say("slow", "a", "b")
        replies.end("slow", "c")
        assert eventually(lambda: read(client)["conversation_upstream_seconds_count"].get(()) == 1)
        assert read(client)["conversation_first_text_seconds_count"] == {(): 1}

    def test_a_reply_is_uncollected_until_it_is_fetched(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        ask(client, "hi")
        assert read(client)["conversation_replies_uncollected"] == {(): 0}
        ask(client, "slow", Prefer="wait=0")
        replies.end("slow", "done")
        assert eventually(lambda: read(client)["conversation_replies_uncollected"] == {(): 1})
        assert ask(client, "slow") == 200
        assert read(client)["conversation_replies_uncollected"] == {(): 0}


class TestTokens:
    @pytest.fixture
    def upstream(self) -> SteeredUpstream:
        def answer(request: CompletionRequest) -> Iterator[Any]:
            yield "yes"
            yield Completion(told.pop(), Usage(5, 3, 8), "stop")

        told = ["planted", "scripted-demo"]
        return SteeredUpstream(answer)

    def test_they_have_the_model_that_was_asked_whatever_the_reply_names(self, client: FlaskClient) -> None:
        for question in ("1", "2"):
            ask(client, question)
        tokens = read(client)["conversation_tokens_total"]
        assert tokens == {("prompt", "scripted-demo"): 10, ("completion", "scripted-demo"): 6}

    def test_a_model_that_nobody_lists_is_another(
        self, client: FlaskClient, upstream: SteeredUpstream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(upstream, "knows_model", lambda _: False)
        ask(client, "1")
        assert read(client)["conversation_tokens_total"] == {("prompt", "other"): 5, ("completion", "other"): 3}


class TestStore:
    def test_its_calls_are_timed_by_their_names(self, client: FlaskClient) -> None:
        ask(client, "hi")
        counts = read(client)["conversation_store_seconds_count"]
        assert {("create_run",): 1, ("finish_run",): 1}.items() <= counts.items()
        assert ("listen",) not in counts

    def test_so_are_those_for_records(self, client: FlaskClient) -> None:
        assert client.post("/api/v1/assistants", json={"model": "told"}).status_code == 200
        assert read(client)["conversation_store_seconds_count"][("put_record",)] == 1

    @pytest.mark.parametrize(
        ("call", "path", "status"),
        [("get_conversation", "/model?client_name=ada", 500), ("list_records", "/api/v1/assistants", 503)],
    )
    def test_its_failures_are_counted(
        self,
        client: FlaskClient,
        store: MemoryStore,
        monkeypatch: pytest.MonkeyPatch,
        call: str,
        path: str,
        status: int,
    ) -> None:
        def failing(*_: object, **__: object) -> None:
            raise StoreUnavailable

        monkeypatch.setattr(store, call, failing)
        assert client.get(path).status_code == status
        assert read(client)["conversation_store_errors_total"] == {(): 1}


def test_no_label_comes_from_a_caller(client: FlaskClient) -> None:
    mark = "planted"
    client.post("/query", json={"client_name": mark, "input": mark})
    client.post("/model", json={"client_name": mark, "model": mark})
    client.post("/chat", json={"client_name": mark, "message": mark, "model": mark})
    client.get(f"/{mark}/openapi.json")
    client.get(f"/{mark}")
    client.get(f"/chat/stream/{mark}")
    client.open("/query", method=mark.upper())
    assert mark not in client.get("/metrics", base_url=ON_PORT).text.lower()

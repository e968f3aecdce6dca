"""The operations for operators: health, readiness, documents, CORS and the log."""

import json
import logging
import re
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from flask import Flask, g, request
from flask.testing import FlaskClient

from server.access.caller import Caller
from server.app import create_app
from server.dialects.documents import DOCUMENTS
from server.errors import StoreUnavailable
from server.settings import Settings
from server.store.memory import MemoryStore
from tests.support.process import free_port
from tests.support.replies import SteeredUpstream

RFC3339 = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"

LOCAL_HEALTH_SECONDS = 2.0


def served_with(**env: str) -> FlaskClient:
    """A client of a server with these settings and the upstream that they select."""
    return create_app(Settings.from_env(env)).test_client()


class TestRoot:
    def test_it_tells_what_runs_and_where_its_documents_are(self, client: FlaskClient) -> None:
        body = client.get("/").get_json()
        assert (body["service"], body["status"], body["version"]) == ("conversation server", "running", "v1.0.0")
        assert re.fullmatch(RFC3339, body["timestamp"])

    def test_every_address_that_it_tells_answers(self, client: FlaskClient) -> None:
        body = client.get("/").get_json()
        addresses = [body["openapi"], body["health"], *body["documents"]]
        assert [each for each in addresses if client.get(each).status_code != 200] == []


class TestHealth:
    def test_it_is_healthy_where_all_is_well(self, client: FlaskClient) -> None:
        body = client.get("/health").get_json()
        assert re.fullmatch(RFC3339, body.pop("timestamp"))
        assert body == {"status": "healthy", "openai_api": "connected", "store": "available", "version": "v1.0.0"}

    def test_it_is_degraded_where_no_upstream_is_configured(self) -> None:
        client = served_with()
        body = client.get("/health").get_json()
        assert (body["status"], body["openai_api"]) == ("degraded", "not_configured")
        answer = client.post("/query", json={"client_name": "ada", "input": "hi"})
        assert (answer.status_code, answer.get_json()["code"]) == (500, "not_configured")
        assert "OPENAI_API_KEY" in answer.get_json()["error"]

    def test_it_is_degraded_and_quick_where_the_upstream_is_unreachable(self) -> None:
        client = served_with(OPENAI_BASE_URL=f"http://127.0.0.1:{free_port()}/v1")
        began = time.monotonic()
        body = client.get("/health").get_json()
        assert time.monotonic() - began < LOCAL_HEALTH_SECONDS
        assert (body["status"], body["openai_api"]) == ("degraded", "unreachable")

    def test_it_is_unhealthy_where_the_store_fails(
        self, client: FlaskClient, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(store, "ping", failing)
        answer = client.get("/health")
        body = answer.get_json()
        assert (answer.status_code, body["status"], body["store"]) == (200, "unhealthy", "unavailable")

    def test_it_is_unhealthy_while_the_process_ends(self, app: Flask, client: FlaskClient) -> None:
        app.extensions["runner"].shut_down(0)
        body = client.get("/health").get_json()
        assert (body["status"], body["store"]) == ("unhealthy", "closing")

    def test_it_spends_no_tokens(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
        client.get("/health")
        assert list(upstream.requests) == []


class TestProbes:
    def test_alive_asks_nobody(
        self, client: FlaskClient, store: MemoryStore, upstream: SteeredUpstream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(store, "ping", failing)
        monkeypatch.setattr(upstream, "check_health", failing)
        answer = client.get("/healthz")
        assert (answer.status_code, answer.get_json()) == (200, {"status": "alive"})

    def test_ready_is_503_as_long_as_the_store_fails(
        self, client: FlaskClient, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert client.get("/readyz").get_json() == {"status": "ready"}
        with monkeypatch.context() as broken:
            broken.setattr(store, "ping", failing)
            answer = client.get("/readyz")
            assert (answer.status_code, answer.get_json()["code"]) == (503, "store_unavailable")
        assert client.get("/readyz").status_code == 200

    def test_ready_is_503_while_the_process_ends(self, app: Flask, client: FlaskClient) -> None:
        app.extensions["runner"].shut_down(0)
        answer = client.get("/readyz")
        assert (answer.status_code, answer.get_json()["code"]) == (503, "shutting_down")
        assert client.get("/healthz").status_code == 200

    @pytest.mark.parametrize("path", ["/", "/health", "/healthz", "/readyz", "/openapi.json"])
    def test_a_monitor_may_ask_with_head(self, client: FlaskClient, path: str) -> None:
        answer = client.head(path)
        assert (answer.status_code, answer.data) == (200, b"")


def failing(*_: object) -> None:
    raise StoreUnavailable


class TestDocuments:
    @pytest.mark.parametrize(
        ("env", "address"),
        [
            ({"PUBLIC_URL": "https://chat.example.org"}, "https://chat.example.org"),
            ({"PUBLIC_URL": "https://chat.example.org/"}, "https://chat.example.org"),
            ({"RENDER_EXTERNAL_URL": "https://chat.onrender.com"}, "https://chat.onrender.com"),
            (
                {"PUBLIC_URL": "https://chat.example.org", "RENDER_EXTERNAL_URL": "https://chat.onrender.com"},
                "https://chat.example.org",
            ),
            ({}, "http://asked.example:8080"),
        ],
    )
    @pytest.mark.parametrize("path", ["/openapi.json", "/published/openapi.json", "/chat/openapi.json"])
    def test_they_name_the_public_address(self, env: dict[str, str], address: str, path: str) -> None:
        answer = served_with(**{"ALLOWED_HOSTS": "asked.example", **env}).get(
            path, base_url="http://asked.example:8080"
        )
        assert answer.get_json()["servers"] == [{"url": address}]

    @pytest.mark.parametrize(
        ("trusted", "address"),
        [("0", "http://asked.example"), ("1", "https://chat.example.org"), ("2", "http://asked.example")],
    )
    def test_as_many_proxies_are_believed_about_the_address_as_are_trusted(self, trusted: str, address: str) -> None:
        said = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "chat.example.org"}  # By one.
        client = served_with(TRUSTED_PROXIES=trusted, HOST="0.0.0.0")
        answer = client.get("/openapi.json", base_url="http://asked.example", headers=said)
        assert answer.get_json()["servers"] == [{"url": address}]

    @pytest.mark.parametrize("name", DOCUMENTS)
    def test_each_is_served_as_it_is_but_for_the_address(self, client: FlaskClient, name: str) -> None:
        served = client.get(f"/{name}/openapi.json").get_json()
        assert {**served, "servers": None} == {**json.loads(DOCUMENTS[name].read_text()), "servers": None}

    def test_the_published_one_is_at_the_root_too(self, client: FlaskClient) -> None:
        assert client.get("/openapi.json").data == client.get("/published/openapi.json").data

    @pytest.mark.parametrize("name", ["unknown", "..", "%2e%2e", "Chat", "chat%00", "가"])
    def test_there_is_no_other(self, client: FlaskClient, name: str) -> None:
        answer = client.get(f"/{name}/openapi.json")
        assert (answer.status_code, answer.get_json()["code"]) == (404, "not_found")


class TestCrossOrigin:
    OURS = ("https://page.example", "http://localhost:3000")

    def allowed(self, client: FlaskClient, origin: str) -> str | None:
        answer = client.get("/models", headers={"Origin": origin})
        assert answer.status_code == 200
        return answer.headers.get("Access-Control-Allow-Origin")

    def asked_before(self, client: FlaskClient, origin: str) -> Any:
        wanted = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
        return client.options("/query", headers={"Origin": origin, **wanted})

    def test_no_page_may_call_unless_it_was_allowed(self, client: FlaskClient) -> None:
        assert self.allowed(client, self.OURS[0]) is None
        answer = self.asked_before(client, self.OURS[0])
        assert not [name for name, _ in answer.headers if name.startswith("Access-Control-")]

    @pytest.mark.parametrize("origins", [", ".join(OURS), json.dumps(OURS)], ids=["commas", "JSON"])
    def test_the_listed_origins_may_and_no_others(self, origins: str) -> None:
        client = served_with(UPSTREAM="scripted", CORS_ORIGINS=origins)
        for ours in self.OURS:
            assert self.allowed(client, ours) == ours
        for other in ("https://other.example", "https://page.example.evil", "http://page.example", "null"):
            assert self.allowed(client, other) is None

    @pytest.mark.parametrize("origins", [", ".join(OURS), json.dumps(OURS)], ids=["commas", "JSON"])
    def test_a_browser_that_asks_before_is_told_yes(self, origins: str) -> None:
        client = served_with(UPSTREAM="scripted", CORS_ORIGINS=origins)
        answer = self.asked_before(client, self.OURS[0])
        assert answer.status_code == 200
        assert answer.headers["Access-Control-Allow-Origin"] == self.OURS[0]
        assert "POST" in answer.headers["Access-Control-Allow-Methods"]
        assert answer.headers["Access-Control-Allow-Headers"] == "content-type"
        assert "Access-Control-Allow-Origin" not in self.asked_before(client, "https://other.example").headers

    def test_a_star_allows_every_origin(self) -> None:
        assert self.allowed(served_with(UPSTREAM="scripted", CORS_ORIGINS="*"), "https://any.example") is not None

    def test_a_page_may_read_a_failure_and_our_headers_too(self) -> None:
        client = served_with(UPSTREAM="scripted", CORS_ORIGINS=self.OURS[0])
        for path in ("/history", "/nowhere"):
            answer = client.get(path, headers={"Origin": self.OURS[0]})
            assert answer.status_code >= 400
            assert answer.headers["Access-Control-Allow-Origin"] == self.OURS[0]
            exposed = set(answer.headers["Access-Control-Expose-Headers"].split(", "))
            assert exposed >= {"Link", "X-Messages-Omitted", "X-Request-ID", "X-Stream-ID"}


EVERY_KIND = [
    ("GET", "/models", 200),
    ("GET", "/history", 400),
    ("GET", "/nowhere", 404),
    ("PUT", "/models", 405),
    ("POST", "/query", 400),
    ("OPTIONS", "/query", 200),
    ("HEAD", "/healthz", 200),
    ("GET", "/chat/stream/unknown", 404),
]


class TestRequestId:
    @pytest.mark.parametrize(("method", "path", "status"), EVERY_KIND)
    def test_every_answer_has_one(self, client: FlaskClient, method: str, path: str, status: int) -> None:
        answer = client.open(path, method=method)
        assert answer.status_code == status
        assert re.fullmatch(r"[0-9a-f]{16}", answer.headers["X-Request-ID"])

    def test_each_is_another(self, client: FlaskClient) -> None:
        assert len({client.get("/healthz").headers["X-Request-ID"] for _ in range(100)}) == 100

    @pytest.mark.parametrize("sane", ["a", "7f3c:1.2_3-4", "x" * 128])
    def test_the_callers_own_is_kept(self, client: FlaskClient, sane: str) -> None:
        assert client.get("/healthz", headers={"X-Request-ID": sane}).headers["X-Request-ID"] == sane

    @pytest.mark.parametrize("odd", ["", "x" * 129, "a b", 'a"b', "a,b", "<b>", "é", "a;b"])
    def test_one_that_is_odd_is_replaced(self, client: FlaskClient, odd: str) -> None:
        answer = client.get("/healthz", headers={"X-Request-ID": odd})
        assert re.fullmatch(r"[0-9a-f]{16}", answer.headers["X-Request-ID"])


class TestLog:
    """One line of JSON for each request."""

    @pytest.fixture
    def client(self, client: FlaskClient) -> FlaskClient:
        """Reads each answer and closes it, as a server does: the line is logged then."""
        client.open = partial(client.open, buffered=True)
        return client

    @pytest.fixture(autouse=True)
    def capture_logs(self, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
        with caplog.at_level(logging.DEBUG):
            yield

    def lines(self, caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
        return [json.loads(each.getMessage()) for each in caplog.records if each.name == "server.requests"]

    @pytest.mark.parametrize(("method", "path", "status"), EVERY_KIND)
    def test_there_is_one_line_for_a_request(
        self, client: FlaskClient, caplog: pytest.LogCaptureFixture, method: str, path: str, status: int
    ) -> None:
        answer = client.open(path, method=method)
        (line,) = self.lines(caplog)
        assert set(line) >= {"time", "request_id", "method", "route", "status", "ms", "code"}
        assert re.fullmatch(RFC3339, line["time"])
        assert line["request_id"] == answer.headers["X-Request-ID"]
        assert (line["method"], line["status"]) == (method, status)
        assert line["ms"] >= 0

    def test_nobody_waits_for_it(self, app: Flask, caplog: pytest.LogCaptureFixture) -> None:
        answer = app.test_client().get("/healthz")
        assert answer.json == {"status": "alive"}
        assert self.lines(caplog) == []
        answer.close()
        assert len(self.lines(caplog)) == 1

    def test_of_a_stream_it_is_written_when_it_begins(self, app: Flask, caplog: pytest.LogCaptureFixture) -> None:
        asked = {"client_name": "ada", "input": "hi"}
        answer = app.test_client().post("/query", json=asked, headers={"Accept": "text/event-stream"})
        assert len(self.lines(caplog)) == 1
        answer.close()
        assert len(self.lines(caplog)) == 1

    def test_it_names_the_route_and_what_went_wrong(
        self, client: FlaskClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        client.get("/history?client_name=ada")
        client.get("/history")
        client.get("/chat/stream/unknown")
        client.get("/nowhere")
        assert [(line["route"], line["code"]) for line in self.lines(caplog)] == [
            ("/history", None),
            ("/history", "invalid_request"),
            ("/chat/stream/<stream_id>", "not_found"),
            (None, "not_found"),
        ]

    def test_it_names_the_run_that_a_request_made_or_read(
        self, client: FlaskClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        stream_id = client.post("/chat/stream", json={"client_name": "ada", "message": "hi"}).json["stream_id"]
        client.get(f"/chat/stream/{stream_id}")
        client.get("/history?client_name=ada")
        client.get("/chat/stream/unknown")
        assert [line["run_id"] for line in self.lines(caplog)] == [stream_id, stream_id, None, None]

    def test_it_names_the_run_of_a_reply_that_failed(
        self, client: FlaskClient, upstream: SteeredUpstream, caplog: pytest.LogCaptureFixture
    ) -> None:
        upstream.answer = failing  # type: ignore[assignment]
        client.post("/query", json={"client_name": "ada", "input": "hi"})
        (line,) = self.lines(caplog)
        assert line["code"] == "store_unavailable"
        assert re.fullmatch(r"run_[0-9a-f]{32}", line["run_id"])

    def test_it_names_the_key_by_its_id(
        self, app: Flask, client: FlaskClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        @app.before_request
        def identify() -> None:
            g.caller = Caller(key_id="key_1") if request.path == "/models" else Caller()

        client.get("/models")
        client.get("/healthz")
        assert [line["key_id"] for line in self.lines(caplog)] == ["key_1", None]

    def test_nothing_in_the_log_tells_what_was_said_by_whom_and_with_which_key(
        self, client: FlaskClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        secret = "Xylophon"
        headers = {"Authorization": f"Bearer {secret}", "Idempotency-Key": secret, "User-Agent": secret}
        for body in ({"client_name": secret, "input": secret}, {"client_name": secret}, {secret: secret}, [secret]):
            client.post("/query", json=body, headers=headers)
        client.post("/query", data=f'{{"client_name": "{secret}', content_type="application/json")
        client.post("/model", json={"client_name": secret, "model": secret}, headers=headers)
        client.get("/history", query_string={"client_name": secret, "limit": secret}, headers=headers)
        client.get(f"/{secret}?{secret}", headers=headers)
        client.get(f"/chat/stream/{secret}", headers={**headers, "Last-Event-ID": secret})
        client.delete("/history", query_string={"client_name": secret}, headers=headers)
        assert len(self.lines(caplog)) == 10
        assert secret not in caplog.text
        assert "re: " not in caplog.text

    def test_the_key_of_the_upstream_is_not_in_the_log_nor_in_an_answer(self, caplog: pytest.LogCaptureFixture) -> None:
        secret = "sk-Xylophon"
        client = served_with(OPENAI_API_KEY=secret, OPENAI_BASE_URL=f"http://127.0.0.1:{free_port()}/v1")
        answers = [client.get("/health"), client.get("/models"), client.get("/")]
        assert [each.status_code for each in answers] == [200, 500, 200]
        assert secret not in caplog.text + "".join(each.get_data(as_text=True) for each in answers)

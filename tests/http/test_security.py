"""Every answer tells browsers what it may not be used for, whoever gives it and however it turns out."""

import socket

import pytest
from flask.testing import FlaskClient

from server.app import create_app
from server.dialects import ops
from server.http.security import DATA_POLICY, HEADERS, HSTS
from server.settings import Settings
from tests.http import test_caching as sweep
from tests.support.process import ServerProcess, serve

ids = sweep.ids

PROBES = {endpoint.partition(".")[2] for endpoint in ops.PROBES}
"""Operations that answer to every host."""

PAGES = {"getDocs", "getRedoc"}
"""Operations whose success is a page, with a policy of its own; `getService` answers programs with JSON."""

COMMON = {name.lower(): value for name, value in HEADERS}


def assert_secured(headers: list[tuple[str, str]], what: str, *, is_page: bool = False) -> None:
    found = [(name.lower(), value) for name, value in headers]
    assert len({name for name, _ in found}) == len(found), f"{what} sends a header twice"
    sent = dict(found)
    assert {name: sent.get(name) for name in COMMON} == COMMON, what
    assert (sent["content-security-policy"] == DATA_POLICY) is not is_page, what
    assert "frame-ancestors 'none'" in sent["content-security-policy"], what


def of_bytes(answer: bytes) -> list[tuple[str, str]]:
    """The headers of an answer as it came over the wire."""
    lines = answer.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]


def asked_badly(served: ServerProcess, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as line:
        line.sendall(request)
        line.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: line.recv(65536), b""))


UNREADABLE = {
    400: b"no request\r\n\r\n",
    414: b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"x" * 9000),
    431: b"GET / HTTP/1.1\r\nHost: localhost\r\nX: %b\r\n\r\n" % (b"x" * 9000),
}
"""By the status of the answer, which gunicorn's worker gives and no app."""


class TestEveryAnswer:
    def test_every_operation_is_secured_when_it_succeeds_and_when_it_fails(
        self, demo: ServerProcess, ids: dict[str, str]
    ) -> None:
        # What ends or deletes comes last.
        operations = sorted(sweep.OPERATIONS, key=lambda each: (each[0] == "delete", "cancel" in each[1]))
        for method, path, operation in operations:
            name = operation["operationId"]
            succeeded = sweep.asked(demo, method, path, operation, ids)
            is_page = succeeded.status == 200 and name in PAGES
            assert_secured(succeeded.headers, f"{name} {succeeded.status}", is_page=is_page)
            if name in PROBES or name == "getMetrics":
                failed = sweep.Answer(demo, "DELETE", path)
            else:
                failed = sweep.Answer(demo, method.upper(), path, Host="stranger.org")
            assert failed.status in (405, 421), name
            assert_secured(failed.headers, f"{name} {failed.status}")

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/nowhere", 404),
            ("GET", "/api/v1/nowhere", 404),
            ("GET", "/redoc?document=nothing", 404),
            ("GET", "/web/0/nothing.js", 404),
            ("GET", "/history", 400),
            ("PUT", "/query", 405),
            ("OPTIONS", "/query", 200),
            ("HEAD", "/models", 200),
            ("GET", "/web/0/docs.js", 200),
        ],
    )
    def test_so_is_what_is_no_operation(self, demo: ServerProcess, method: str, path: str, status: int) -> None:
        answer = sweep.Answer(demo, method, path)
        assert answer.status == status
        assert_secured(answer.headers, path)

    def test_so_is_a_stream(self, demo: ServerProcess) -> None:
        answer = sweep.Answer(demo, "POST", "/query", sweep.QUESTION, Accept="text/event-stream")
        assert answer.header("Content-Type").startswith("text/event-stream")
        assert_secured(answer.headers, "a stream")

    def test_so_is_an_unforeseen_error(self) -> None:
        app = create_app(Settings(upstream="scripted"))

        @app.get("/broken")
        def broken() -> str:
            raise RuntimeError

        answer = app.test_client().get("/broken")
        assert answer.status_code == 500
        assert_secured(list(answer.headers), "an unforeseen error")

    @pytest.mark.parametrize("status", UNREADABLE)
    def test_so_is_the_answer_to_what_is_no_request(self, demo: ServerProcess, status: int) -> None:
        answer = asked_badly(demo, UNREADABLE[status])
        assert int(answer.split()[1]) == status
        assert_secured(of_bytes(answer), str(status))
        assert "Strict-Transport-Security" not in dict(of_bytes(answer))

    def test_the_chat_page_has_its_own_policy_and_no_second_one(self, client: FlaskClient) -> None:
        answer = client.get("/", headers={"Accept": "text/html"})
        assert_secured(list(answer.headers), "the chat page", is_page=True)


HTTPS = {"X-Forwarded-Proto": "https"}


class TestHttps:
    @pytest.mark.parametrize(
        ("env", "base_url", "headers", "is_sent"),
        [
            ({}, "https://localhost", {}, True),
            ({}, "http://localhost", {}, False),
            ({}, "http://localhost", HTTPS, False),
            ({"TRUSTED_PROXIES": "1"}, "http://localhost", HTTPS, True),
            ({"TRUSTED_PROXIES": "1"}, "http://localhost", {}, False),
            ({"PUBLIC_URL": "https://bot.example"}, "http://localhost", {}, True),
            ({"PUBLIC_URL": "http://bot.example"}, "http://localhost", {}, False),
            ({"RENDER_EXTERNAL_URL": "https://a.onrender.com"}, "http://localhost", {}, True),
        ],
        ids=["tls", "plain", "untrusted", "trusted", "no header", "public", "public but plain", "render"],
    )
    def test_callers_behind_https_are_told_to_stay_there(
        self, env: dict[str, str], base_url: str, headers: dict[str, str], is_sent: bool
    ) -> None:
        client = create_app(Settings.from_env({"UPSTREAM": "scripted", **env})).test_client()
        for path in ("/healthz", "/nowhere", "/docs"):
            answer = client.get(path, base_url=base_url, headers=headers)
            assert answer.headers.getlist(HSTS[0]) == ([HSTS[1]] if is_sent else [])

    def test_so_are_those_whose_request_cannot_be_read(self) -> None:
        with serve(UPSTREAM="scripted", PUBLIC_URL="https://bot.example", ALLOW_OPEN="true") as served:
            for request in UNREADABLE.values():
                answer = asked_badly(served, request)
                assert_secured(of_bytes(answer), "unreadable")
                assert dict(of_bytes(answer))[HSTS[0]] == HSTS[1]

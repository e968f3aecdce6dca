"""Which names the server answers to: a page elsewhere that points its own name at it reads nothing."""

import http.client
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from werkzeug.test import EnvironBuilder, run_wsgi_app

from server.app import create_app
from server.settings import Settings
from tests.support.openapi import expected_field_names, field_names, validate_response
from tests.support.process import SETTINGS, ServerProcess, eventually, free_port, serve, start_process

STRANGERS = [
    "stranger.org",
    "stranger.org:10000",
    "localhost.stranger.org",
    "127.0.0.1.stranger.org",
    "127.0.0.2",
    "xlocalhost",
    "localhost@stranger.org",
    "[::1]stranger.org",
    "[::2]",
    "[nonsense]",
    "localhost:port",
    "localhost,stranger.org",
    "0.0.0.0",
    "",
]

OWN = [
    "localhost",
    "localhost:10000",
    "LocalHost:10000",
    "localhost.",
    "localhost.:10000",
    "127.0.0.1",
    "127.0.0.1:8000",
    "[::1]",
    "[::1]:10000",
    "[0:0:0:0:0:0:0:1]:10000",
]

DOORS = [
    ("GET", "/history?client_name=ada"),
    ("POST", "/query"),
    ("DELETE", "/history?client_name=ada"),
    ("OPTIONS", "/query"),
    ("HEAD", "/models"),
    ("GET", "/chat/stream/unknown"),
    ("GET", "/api/sessions/unknown"),
    ("GET", "/api/v1/assistants"),
    ("GET", "/"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/web/0/docs.js"),
    ("GET", "/nowhere"),
    ("GET", "/api/v1/nowhere"),
    ("GET", "/api/nowhere"),
    ("PUT", "/chat"),
]


def served_with(**env: str) -> FlaskClient:
    return create_app(Settings.from_env({"UPSTREAM": "scripted", **env})).test_client()


def status(client: FlaskClient, host: str, path: str = "/models", **headers: str) -> int:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.get(path, headers={"Host": host, **sent}).status_code


def status_without_host(client: FlaskClient, path: str) -> str:
    environ = EnvironBuilder(path).get_environ()
    del environ["HTTP_HOST"]
    _, told, _ = run_wsgi_app(client.application.wsgi_app, environ, buffered=True)
    return told.partition(" ")[0]


@contextmanager
def served_by(command: list[str], port: int, address: str = "127.0.0.1", **env: str) -> Iterator[ServerProcess]:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        served = ServerProcess(port, start_process(command, log, **{**dict.fromkeys(SETTINGS, ""), **env}), log)
        try:
            assert eventually(lambda: is_alive(port, address)), served.log()
            yield served
        finally:
            served.kill()


def over(port: int, address: str, path: str, host: str) -> int:
    """The status of an answer at an address of this machine."""
    connection = http.client.HTTPConnection(address, port, timeout=30)
    try:
        connection.request("GET", path, headers={"Host": host})
        return connection.getresponse().status
    finally:
        connection.close()


def is_alive(port: int, address: str) -> bool:
    try:
        return over(port, address, "/healthz", "localhost") == 200
    except OSError:
        return False


class TestOnLoopback:
    @pytest.mark.parametrize("host", OWN)
    def test_a_request_that_names_this_machine_is_answered(self, client: FlaskClient, host: str) -> None:
        assert status(client, host) == 200

    @pytest.mark.parametrize("host", STRANGERS)
    def test_a_request_that_names_another_host_is_refused(self, client: FlaskClient, host: str) -> None:
        assert status(client, host) == 421

    def test_the_refusal_says_which_setting_would_allow_it_and_not_the_host(self, client: FlaskClient) -> None:
        answer = client.get("/models", headers={"Host": "stranger.org"})
        assert answer.json["code"] == "misdirected_request"
        assert "ALLOWED_HOSTS" in answer.json["error"]
        assert "stranger" not in answer.text

    @pytest.mark.parametrize(("method", "path"), DOORS)
    def test_every_door_refuses_in_its_own_words(self, client: FlaskClient, method: str, path: str) -> None:
        answer = client.open(path, method=method, headers={"Host": "stranger.org"})
        assert answer.status_code == 421
        if method not in ("HEAD", "OPTIONS"):
            validate_response(method, path, 421, answer.data)
            assert field_names(answer.json) == expected_field_names(path.partition("?")[0])

    def test_nothing_is_asked_or_changed(self, client: FlaskClient) -> None:
        asked = {"client_name": "ada", "input": "hi"}
        assert client.post("/query", json=asked, headers={"Host": "stranger.org"}).status_code == 421
        assert client.get("/history?client_name=ada").json == []

    @pytest.mark.parametrize("path", ["/healthz", "/readyz"])
    def test_probes_may_name_any_host_or_none(self, client: FlaskClient, path: str) -> None:
        assert [status(client, host, path) for host in STRANGERS] == [200] * len(STRANGERS)
        assert status_without_host(client, path) == "200"

    def test_a_request_without_a_host_is_refused(self, client: FlaskClient) -> None:
        assert status_without_host(client, "/models") == "421"

    @pytest.mark.parametrize("name", ["::1", "localhost", "127.0.0.2", "LOCALHOST", "::ffff:127.0.0.1"])
    def test_every_address_of_loopback_counts_and_names_the_server(self, name: str) -> None:
        client = served_with(HOST=name)
        assert status(client, "stranger.org") == 421
        assert status(client, f"[{name}]" if ":" in name else name) == 200

    def test_the_host_of_the_public_address_is_the_servers_own(self) -> None:
        client = served_with(
            PUBLIC_URL="https://Bot.example.com:8443/under", RENDER_EXTERNAL_URL="https://a.onrender.com"
        )
        for host in ("bot.example.com", "bot.example.com:8443", "a.onrender.com", "localhost"):
            assert status(client, host) == 200
        assert status(client, "x.bot.example.com") == 421


class TestOnOtherAddresses:
    def test_every_host_is_answered_as_long_as_nothing_is_configured(self) -> None:
        for env in ({}, {"RENDER_EXTERNAL_URL": "https://chat.onrender.com"}):
            client = served_with(HOST="0.0.0.0", **env)
            assert [status(client, host) for host in STRANGERS] == [200] * len(STRANGERS)

    @pytest.mark.parametrize("env", [{"ALLOWED_HOSTS": "bot.example.com"}, {"PUBLIC_URL": "https://bot.example.com"}])
    def test_the_check_begins_as_soon_as_a_host_is_configured(self, env: dict[str, str]) -> None:
        client = served_with(HOST="0.0.0.0", RENDER_EXTERNAL_URL="https://chat.onrender.com", **env)
        for host in ("bot.example.com", "BOT.example.com.:443", "chat.onrender.com", "localhost", "127.0.0.1:10000"):
            assert status(client, host) == 200
        for host in ("stranger.org", "bot.example.com.stranger.org", "xbot.example.com", "a.bot.example.com", ""):
            assert status(client, host) == 421


class TestAllowedHosts:
    def test_a_star_before_a_name_allows_its_subdomains_and_nothing_else(self) -> None:
        client = served_with(ALLOWED_HOSTS="*.a.example, 10.0.0.7, [fd00::1], 봇.example")
        for host in ("x.a.example", "y.x.a.example:80", "10.0.0.7", "[fd00::1]:10000", "xn--7n3b.example"):
            assert status(client, host) == 200
        for host in ("a.example", "xa.example", "x.a.example.org", "10.0.0.8", "fd00::1"):
            assert status(client, host) == 421

    def test_a_star_alone_allows_every_host(self) -> None:
        client = served_with(ALLOWED_HOSTS='["*"]')
        assert [status(client, host) for host in ("stranger.org", "localhost")] == [200, 200]


class TestBehindAProxy:
    def test_the_host_that_a_trusted_proxy_tells_is_the_one_that_counts(self) -> None:
        client = served_with(TRUSTED_PROXIES="1", PUBLIC_URL="https://bot.example.com")
        assert status(client, "127.0.0.1:10000", X_Forwarded_Host="bot.example.com") == 200
        assert status(client, "127.0.0.1:10000", X_Forwarded_Host="stranger.org") == 421
        assert status(client, "stranger.org", X_Forwarded_Host="bot.example.com") == 421
        assert status(client, "stranger.org") == 421

    def test_elsewhere_than_on_loopback_a_proxy_may_call_the_server_by_another_name(self) -> None:
        client = served_with(HOST="0.0.0.0", TRUSTED_PROXIES="1", PUBLIC_URL="https://bot.example.com")
        assert status(client, "app:10000", X_Forwarded_Host="bot.example.com") == 200
        assert status(client, "app:10000", X_Forwarded_Host="stranger.org") == 421
        assert status(client, "app:10000") == 421

    def test_without_trust_a_header_opens_nothing(self) -> None:
        client = served_with(PUBLIC_URL="https://bot.example.com")
        assert status(client, "stranger.org", X_Forwarded_Host="bot.example.com") == 421


class TestIPv6:
    @pytest.mark.parametrize("host", ["::1", "::"])
    def test_a_server_listens_on_an_ipv6_address(self, host: str) -> None:
        port = free_port()
        env = {"HOST": host, "PORT": str(port), "UPSTREAM": "scripted"}
        with served_by([sys.executable, "run.py"], port, "::1", **env) as served:
            assert f"Listening at: http://[{host}]:{port}" in served.log()
            assert over(port, "::1", "/models", f"[::1]:{port}") == 200
            assert over(port, "::1", "/models", "stranger.org") == (421 if host == "::1" else 200)


class TestServed:
    def asked(self, served: ServerProcess, host: str, path: str = "/models") -> int:
        return served.ask("GET", path, Host=host)[0]

    def test_a_server_on_loopback_answers_only_to_its_own_names(self, demo: ServerProcess) -> None:
        assert [self.asked(demo, host) for host in ("localhost", "127.0.0.1:1", "[::1]")] == [200] * 3
        assert [self.asked(demo, host) for host in ("stranger.org", "localhost.stranger.org")] == [421] * 2
        assert self.asked(demo, "stranger.org", "/healthz") == 200

    def test_what_gunicorn_really_listens_on_is_what_counts(self) -> None:
        with serve(HOST="0.0.0.0", UPSTREAM="scripted") as opened:
            assert self.asked(opened, "stranger.org") == 200
            port = opened.port
        bound = ["--bind", f"127.0.0.1:{port}"]
        with served_by([sys.executable, "run.py", *bound], port, HOST="0.0.0.0", UPSTREAM="scripted") as closed:
            assert self.asked(closed, "stranger.org") == 421

"""Who we are at the upstream, and every way to it: redirects, proxies, certificates, and compression."""

import gzip
import importlib
import json
import logging
import os
import shutil
import socket
import subprocess
import threading
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import openai
import pytest

from server import errors
from server.app import create_upstream
from server.settings import Settings
from server.upstream import openai as upstream_module
from server.upstream.client import Account, Client
from server.upstream.errors import ERROR_CLASSES, map_exception
from server.upstream.openai import OpenAIUpstream
from server.upstream.protocol import Completion, CompletionRequest
from tests.support.openai_server import (
    END,
    PATIENCE_SECONDS,
    Exchange,
    OpenAIServer,
    Script,
    answers,
    completion,
    good,
    piece,
    says,
    silent,
    streams_and_waits,
)

KEY = "sk-the-operators-own"
CONTENT = "a question that is nobody's business"
MESSAGES = json.dumps([{"role": "user", "content": CONTENT}]).encode()
MODELS = b'{"object": "list", "data": [{"id": "a"}]}'
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
OURS = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_CUSTOM_HEADERS")
ELSEWHERE = "http://models.example:8080/v1"
"""No such host; a proxy is to know the way."""
BASIC = f"Basic {b64encode(b'me:p@ss').decode()}"

AtOnce = Callable[..., Any]

either = pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As where nothing is set, and the system trusts nobody, which saves the time to read its certificates."""
    for name in (*PROXIES, *map(str.lower, PROXIES), *OURS, "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "nobody").mkdir()
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "nobody"))


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    server = OpenAIServer()
    server.follow(answers_all)
    yield server
    server.close()


@pytest.fixture
def other() -> Iterator[OpenAIServer]:
    other = OpenAIServer()
    other.follow(answers_all)
    yield other
    other.close()


class Recorder:
    """A server that keeps each request as it was written, and gives each `answer`."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.answer = b"HTTP/1.1 404 Nothing\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                wire, _ = self._listener.accept()
                with wire, wire.makefile("rb") as reader:
                    lines = [reader.readline()]
                    while lines[-1].strip():
                        lines.append(reader.readline())
                    fields = [line.decode().partition(":") for line in lines[1:]]
                    lengths = [int(value) for name, _, value in fields if name.lower() == "content-length"]
                    self.requests.append(b"".join(lines) + reader.read(sum(lengths)))
                    wire.sendall(self.answer)

    def fields(self, name: str) -> list[list[str]]:
        """The values of the headers of that name, of each request."""
        heads = [each.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:] for each in self.requests]
        pairs = [[line.partition(": ")[::2] for line in head] for head in heads]
        return [[value for each, value in head if each.lower() == name] for head in pairs]


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.close()


class Relay:
    """What takes connections and relays them: a proxy, of the kind that `_greet` makes it."""

    def __init__(self, port: int) -> None:
        self._port = port
        """Where everybody is taken, whatever is asked for."""
        self.heads: list[str] = []
        """What it was asked, a text for each connection."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                wire, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(wire,), daemon=True).start()

    def _serve(self, wire: socket.socket) -> None:
        with suppress(OSError), wire:
            wire.settimeout(PATIENCE_SECONDS)
            self._greet(wire)
            with socket.create_connection(("127.0.0.1", self._port)) as beyond:
                back = threading.Thread(target=self._pass_on, args=(beyond, wire), daemon=True)
                back.start()
                self._pass_on(wire, beyond)
                back.join(PATIENCE_SECONDS)

    def _greet(self, wire: socket.socket) -> None:
        raise NotImplementedError

    @staticmethod
    def _pass_on(one: socket.socket, another: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65_536):
                another.sendall(data)
        with suppress(OSError):
            another.shutdown(socket.SHUT_WR)


class Tunnel(Relay):
    """A proxy that is asked by CONNECT."""

    def _greet(self, wire: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += wire.recv(1) or b"\r\n\r\n"
        self.heads.append(head.decode())
        wire.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")


class Socks(Relay):
    """A proxy that speaks SOCKS5 (RFC 1928), to which nobody has to log in."""

    def _greet(self, wire: socket.socket) -> None:
        with wire.makefile("rb") as reader:
            _, methods = reader.read(2)
            assert 0 in reader.read(methods)
            wire.sendall(b"\x05\x00")
            _, command, _, kind = reader.read(4)
            assert command == 1
            host = reader.read(4 if kind == 1 else reader.read(1)[0])
            port = int.from_bytes(reader.read(2))
            name = socket.inet_ntoa(host) if kind == 1 else host.decode()
        self.heads.append(f"{name}:{port}")
        wire.sendall(b"\x05\x00\x00\x01" + bytes(6))


class NoSocks(Socks):
    """One that does not want to connect."""

    def _greet(self, wire: socket.socket) -> None:
        wire.recv(100)
        wire.sendall(b"\x05\x00")
        wire.recv(100)
        wire.sendall(b"\x05\x02\x00\x01" + bytes(6))
        raise ConnectionRefusedError


@pytest.fixture
def relay() -> Iterator[Callable[[type[Relay], int], Relay]]:
    made: list[Relay] = []

    def make(kind: type[Relay], port: int) -> Relay:
        made.append(kind(port))
        return made[-1]

    yield make
    for each in made:
        each.close()


def answers_all(exchange: Exchange) -> None:
    """The list of models or a reply, as the request wants it."""
    (says(MODELS) if exchange.request.path.partition("?")[0].endswith("/models") else answers)(exchange)


def call(*, streamed: bool = False, seconds: float = PATIENCE_SECONDS) -> CompletionRequest:
    return CompletionRequest("gpt-test", MESSAGES, seconds, streamed)


def asked(upstream: OpenAIUpstream, *, streamed: bool = False) -> str:
    """The whole text of one reply."""
    *pieces, reply = upstream.open_stream(call(streamed=streamed))
    assert isinstance(reply, Completion)
    return "".join(map(str, pieces))


def failure(upstream: OpenAIUpstream, *, streamed: bool = False) -> type[errors.AppError]:
    """What one call fails with: ours, and in our words alone."""
    with pytest.raises(errors.AppError) as caught:
        list(upstream.open_stream(call(streamed=streamed)))
    assert str(caught.value) == caught.value.sentence
    return type(caught.value)


def opened(url: str, **changes: Any) -> OpenAIUpstream:
    return OpenAIUpstream(KEY, url, retry_seconds=0.0, **changes)


def asked_all(upstream: OpenAIUpstream) -> None:
    """A plain reply, a streamed one, and the list of models, whatever comes of them."""
    for streamed in (False, True):
        with suppress(errors.UpstreamFailed):
            list(upstream.open_stream(call(streamed=streamed)))
    with suppress(errors.UpstreamFailed):
        upstream.list_models()


# Who we are.


def test_the_organization_and_the_project_go_with_every_request(server: OpenAIServer) -> None:
    asked_all(opened(server.url, organization="org-1", project="proj-1"))
    organizations = [
        (heard.headers["openai-organization"], heard.headers["openai-project"]) for heard in server.requests
    ]
    assert organizations == [("org-1", "proj-1")] * 3


def test_no_organization_and_no_project_are_no_headers(server: OpenAIServer) -> None:
    asked_all(opened(server.url, organization="", project=""))
    assert len(server.requests) == 3
    assert not any({"openai-organization", "openai-project"} & heard.headers.keys() for heard in server.requests)


def test_custom_headers_go_with_every_request(server: OpenAIServer) -> None:
    asked_all(opened(server.url, headers={"X-Team": "blue", "api-key": "abc"}))
    assert [(each.headers["x-team"], each.headers["api-key"]) for each in server.requests] == [("blue", "abc")] * 3
    assert {each.headers["authorization"] for each in server.requests} == {f"Bearer {KEY}"}


@pytest.mark.parametrize("name", ["Authorization", "authorization", "AUTHORIZATION"])
def test_an_authorization_of_the_operators_own_wins_over_the_key(recorder: Recorder, name: str) -> None:
    asked_all(opened(recorder.url, headers={name: "Token own"}))
    assert recorder.fields("authorization") == [["Token own"]] * 3


@pytest.mark.parametrize("name", ["User-Agent", "user-agent"])
def test_a_custom_header_wins_over_the_packages_own(recorder: Recorder, name: str) -> None:
    asked_all(opened(recorder.url, headers={name: "ours"}))
    assert recorder.fields("user-agent") == [["ours"]] * 3


def test_every_field_of_a_request_stands_there_once(recorder: Recorder) -> None:
    asked_all(opened(recorder.url, organization="org-1", headers={"X-Team": "blue"}))
    for head in recorder.requests:
        names = [line.partition(b":")[0].lower() for line in head.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]]
        assert len(names) == len(set(names))


def test_who_we_are_is_read_from_the_environment(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", recorder.url)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Team: blue\nauthorization: Token own")
    upstream = create_upstream(Settings.from_env(os.environ))
    assert isinstance(upstream, OpenAIUpstream)
    asked_all(upstream)
    for name, value in (
        ("openai-organization", "org-1"),
        ("openai-project", "proj-1"),
        ("x-team", "blue"),
        ("authorization", "Token own"),
    ):
        assert recorder.fields(name) == [[value]] * 3


# Where the upstream is.


@pytest.mark.parametrize("end", ["", "/"])
def test_the_query_of_the_base_url_goes_with_every_request(server: OpenAIServer, end: str) -> None:
    asked_all(opened(f"{server.url}{end}?api-version=2&x="))
    completions = "/v1/chat/completions?api-version=2&x="
    assert [each.path for each in server.requests] == [completions, completions, "/v1/models?api-version=2&x="]


@pytest.mark.parametrize("query", ["a=%2F%20b", "a", "a=b+c"])
def test_every_query_comes_the_same_with_a_reply_and_with_the_models(server: OpenAIServer, query: str) -> None:
    asked_all(opened(f"{server.url}?{query}"))
    parsed = [httpx2.URL(f"http://x{each.path}").params.multi_items() for each in server.requests]
    assert parsed == [httpx2.QueryParams(query).multi_items()] * 3


def test_a_path_of_any_depth_comes_before_ours_and_a_plain_key_goes_along(server: OpenAIServer) -> None:
    asked_all(opened(f"http://127.0.0.1:{server.port}/openai/v1/"))
    completions = "/openai/v1/chat/completions"
    assert [each.path for each in server.requests] == [completions, completions, "/openai/v1/models"]
    assert {each.headers["authorization"] for each in server.requests} == {f"Bearer {KEY}"}


# Redirects.


def redirects(to: str, status: int = 307) -> Script:
    return says(b"gone", status, Location=to)


@either
@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_is_followed_to_another_port(
    server: OpenAIServer, other: OpenAIServer, streamed: bool, status: int
) -> None:
    server.follow(redirects(f"{other.url}/elsewhere", status))
    assert asked(opened(server.url), streamed=streamed) == "Hello"
    assert other.requests[0].path == "/v1/elsewhere"
    assert other.requests[0].content == server.requests[0].content


def test_a_redirect_keeps_the_method(server: OpenAIServer, recorder: Recorder) -> None:
    server.follow(redirects(f"{recorder.url}/elsewhere"))
    asked_all(opened(server.url))
    assert [each.split(b" ")[0] for each in recorder.requests] == [b"POST", b"POST", b"GET"]


def test_the_list_of_models_is_redirected_too(server: OpenAIServer, other: OpenAIServer) -> None:
    server.follow(redirects(f"{other.url}/models"))
    assert opened(server.url).list_models() == [{"id": "a"}]


def test_a_redirect_to_the_same_server_takes_the_key_along(server: OpenAIServer) -> None:
    server.follow(redirects("/v2/chat/completions"), answers)
    assert asked(opened(server.url)) == "Hello"
    assert [each.path for each in server.requests] == ["/v1/chat/completions", "/v2/chat/completions"]
    assert server.requests[1].headers["authorization"] == f"Bearer {KEY}"


def test_a_redirect_to_another_server_takes_no_key_along(server: OpenAIServer, recorder: Recorder) -> None:
    server.follow(redirects(f"{recorder.url}/elsewhere"))
    asked_all(opened(server.url))
    assert len(recorder.requests) == 3
    assert not any(KEY.encode() in each for each in recorder.requests)


def test_a_redirect_to_another_server_takes_no_custom_header_along(server: OpenAIServer, recorder: Recorder) -> None:
    server.follow(redirects(f"{recorder.url}/elsewhere"))
    asked_all(opened(server.url, headers={"api-key": "a-secret"}))
    assert len(recorder.requests) == 3
    assert not any(b"a-secret" in each for each in recorder.requests)


@either
def test_redirects_without_an_end_are_unreachable(server: OpenAIServer, streamed: bool) -> None:
    server.follow(redirects(f"{server.url}/chat/completions"))
    assert failure(opened(server.url), streamed=streamed) is errors.UpstreamUnreachable


def test_redirects_of_the_list_of_models_without_an_end_are_unreachable(server: OpenAIServer) -> None:
    server.follow(redirects(f"{server.url}/models"))
    with pytest.raises(errors.UpstreamUnreachable):
        opened(server.url).list_models()


@pytest.mark.parametrize("to", ["ftp://127.0.0.1/v1", "http://127.0.0.1:99999/", "http://a..b/", "mailto:someone"])
def test_a_redirect_to_what_cannot_be_asked_is_a_failure_of_ours(server: OpenAIServer, to: str) -> None:
    server.follow(redirects(to))
    assert issubclass(failure(opened(server.url)), errors.UpstreamFailed)


def test_a_redirect_to_a_scheme_that_is_not_spoken_gets_no_request(server: OpenAIServer, recorder: Recorder) -> None:
    server.follow(redirects(recorder.url.replace("http:", "ftp:")))
    assert failure(opened(server.url)) is errors.UpstreamUnreachable
    assert recorder.requests == []


# Proxies.


@either
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"])
def test_plain_http_is_asked_of_the_proxy(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, variable: str, streamed: bool
) -> None:
    monkeypatch.setenv(variable, f"http://me:p%40ss@127.0.0.1:{server.port}")
    assert asked(opened(ELSEWHERE), streamed=streamed) == "Hello"
    (heard,) = server.requests
    assert heard.path == "http://models.example:8080/v1/chat/completions"
    assert heard.headers["host"] == "models.example:8080"
    assert heard.headers["proxy-authorization"] == BASIC
    assert heard.headers["authorization"] == f"Bearer {KEY}"


def test_the_list_of_models_is_asked_of_the_proxy_too(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.port}")
    assert opened(f"{ELSEWHERE}?a=b").list_models() == [{"id": "a"}]
    assert server.requests[0].path == "http://models.example:8080/v1/models?a=b"


@either
@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY", "https_proxy", "all_proxy"])
def test_tls_goes_through_a_tunnel_and_the_proxy_sees_no_key(
    tls_server: OpenAIServer,
    relay: Callable[[type[Relay], int], Relay],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    streamed: bool,
) -> None:
    tls_server.follow(answers)
    proxy = relay(Tunnel, tls_server.port)
    monkeypatch.setenv(variable, f"me:p%40ss@{proxy.address}")
    assert asked(opened(tls_server.url), streamed=streamed) == "Hello"
    (head,) = proxy.heads
    assert head.startswith(f"CONNECT 127.0.0.1:{tls_server.port} ")
    assert f"Proxy-Authorization: {BASIC}" in head
    assert KEY not in head
    (heard,) = tls_server.requests
    assert (heard.path, heard.headers["authorization"]) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert "proxy-authorization" not in heard.headers


@either
def test_a_reply_comes_through_a_socks_proxy(
    server: OpenAIServer, relay: Callable[[type[Relay], int], Relay], monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    proxy = relay(Socks, server.port)
    monkeypatch.setenv("ALL_PROXY", f"socks5://{proxy.address}")
    upstream = opened(ELSEWHERE)
    assert [asked(upstream, streamed=streamed), upstream.list_models()] == ["Hello", [{"id": "a"}]]
    assert proxy.heads == ["models.example:8080"] * 2
    assert [each.path for each in server.requests] == ["/v1/chat/completions", "/v1/models"]


@pytest.mark.usefixtures("trusting")
def test_tls_goes_through_a_socks_proxy(
    tls_server: OpenAIServer, relay: Callable[[type[Relay], int], Relay], monkeypatch: pytest.MonkeyPatch
) -> None:
    tls_server.follow(answers)
    proxy = relay(Socks, tls_server.port)
    monkeypatch.setenv("ALL_PROXY", f"socks5h://{proxy.address}")
    assert asked(opened(tls_server.url)) == "Hello"
    assert proxy.heads == [f"127.0.0.1:{tls_server.port}"]


@pytest.mark.parametrize("excepted", ["127.0.0.1", "127.0.0.1:{port}", "*", "127.0.0.0/8", "models.example, 127.0.0.1"])
def test_a_proxy_is_not_asked_for_what_is_excepted(
    server: OpenAIServer, other: OpenAIServer, monkeypatch: pytest.MonkeyPatch, excepted: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{other.port}")
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{other.port}")
    monkeypatch.setenv("NO_PROXY", excepted.format(port=server.port))
    asked_all(opened(server.url))
    assert (len(server.requests), other.requests) == (3, [])
    assert server.connections == 1


@pytest.mark.parametrize("excepted", ["127.0.0.2", "127.0.0.1:9", "10.0.0.0/8", "models.example", ""])
def test_a_proxy_is_asked_for_what_is_not_excepted(
    server: OpenAIServer, other: OpenAIServer, monkeypatch: pytest.MonkeyPatch, excepted: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{other.port}")
    monkeypatch.setenv("no_proxy", excepted)
    asked_all(opened(server.url))
    assert (server.requests, len(other.requests)) == ([], 3)


@either
def test_a_proxy_that_wants_a_login_for_plain_http_is_no_way(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    server.follow(says(b"", 407))
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.port}")
    assert failure(opened(ELSEWHERE), streamed=streamed) is errors.UpstreamUnreachable


@either
def test_a_proxy_that_wants_a_login_for_a_tunnel_is_no_way(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    server.follow(says(b"", 407))
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.port}")
    assert failure(opened("https://models.example/v1"), streamed=streamed) is errors.UpstreamUnreachable
    assert {each.path for each in server.requests} == {"models.example:443"}
    assert not any("authorization" in each.headers for each in server.requests)


def test_a_proxy_that_wants_a_login_is_no_way_to_the_list_of_models(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.follow(says(b"", 407))
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{server.port}")
    for url in (ELSEWHERE, "https://models.example/v1"):
        with pytest.raises(errors.UpstreamUnreachable):
            opened(url).list_models()


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 Yes\r\n\r\nand more", b"no HTTP\r\n", b""], ids=["more", "no", "end"]
)
def test_a_proxy_that_does_not_connect_gets_no_key(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    server.follow(lambda exchange: exchange.send(answer))
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.port}")
    assert issubclass(failure(opened("https://models.example/v1")), errors.UpstreamFailed)
    assert {each.path for each in server.requests} == {"models.example:443"}
    assert not any("authorization" in each.headers for each in server.requests)


def test_a_socks_proxy_that_does_not_connect_is_no_way(
    server: OpenAIServer, relay: Callable[[type[Relay], int], Relay], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", f"socks5://{relay(NoSocks, server.port).address}")
    assert failure(opened(ELSEWHERE)) is errors.UpstreamUnreachable
    assert server.connections == 0


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "ftp://127.0.0.1:9", "http://a b:x"])
def test_a_proxy_that_cannot_be_reached_is_no_way(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    assert failure(opened(ELSEWHERE)) is errors.UpstreamUnreachable


# Calls that are ended by another thread, through a proxy.


@pytest.fixture(params=["plain", "tunnel", "SOCKS", "TLS in SOCKS"])
def behind(
    request: pytest.FixtureRequest,
    server: OpenAIServer,
    tls_server: OpenAIServer,
    trusting: None,
    relay: Callable[[type[Relay], int], Relay],
    monkeypatch: pytest.MonkeyPatch,
) -> OpenAIServer:
    """A server behind a proxy."""
    beyond = tls_server if request.param in ("tunnel", "TLS in SOCKS") else server
    if request.param == "plain":
        proxy = f"http://127.0.0.1:{server.port}"  # Asked itself, since an absolute address is nothing special to it.
    elif request.param == "tunnel":
        proxy = f"http://{relay(Tunnel, beyond.port).address}"
    else:
        proxy = f"socks5://{relay(Socks, beyond.port).address}"
    monkeypatch.setenv("ALL_PROXY", proxy)
    return beyond


def ends_cut(cut: Callable[[], None], reading: Any) -> None:
    """`cut` ends the `reading` in another thread at once."""
    began = time.monotonic()
    cut()
    with pytest.raises(errors.UpstreamCut):
        reading.result(PATIENCE_SECONDS)
    assert time.monotonic() - began < 2


@either
def test_a_cut_ends_the_wait_for_an_answer_through_a_proxy(
    behind: OpenAIServer, at_once: AtOnce, streamed: bool
) -> None:
    behind.follow(silent, answers)
    upstream = opened(behind.url)
    writing = upstream.open_stream(call(streamed=streamed))
    reading = at_once(list, writing)
    behind.await_requests(1)
    ends_cut(writing.abort, reading)
    behind.await_disconnect(0)
    assert asked(upstream, streamed=streamed) == "Hello"


def test_a_cut_ends_a_stream_midway_through_a_proxy(behind: OpenAIServer, at_once: AtOnce) -> None:
    behind.follow(streams_and_waits(piece("Hel")), answers)
    upstream = opened(behind.url)
    writing = upstream.open_stream(call(streamed=True))
    pieces = iter(writing)
    assert next(pieces) == "Hel"
    ends_cut(writing.abort, at_once(list, pieces))
    behind.await_disconnect(0)
    assert asked(upstream, streamed=True) == "Hello"


def test_a_cut_of_the_second_call_through_a_proxy_ends_it_too(behind: OpenAIServer, at_once: AtOnce) -> None:
    behind.follow(good, silent)
    upstream = opened(behind.url)
    assert asked(upstream) == "Hello"
    writing = upstream.open_stream(call())
    reading = at_once(list, writing)
    behind.await_requests(2)
    ends_cut(writing.abort, reading)


def test_a_cut_before_a_call_through_a_proxy_sends_nothing(behind: OpenAIServer) -> None:
    writing = opened(behind.url).open_stream(call())
    writing.abort()
    with pytest.raises(errors.UpstreamCut):
        list(writing)
    assert behind.requests == []


def test_a_cut_ends_the_wait_for_a_tunnel(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, at_once: AtOnce
) -> None:
    server.follow(silent)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.port}")
    writing = opened("https://models.example/v1").open_stream(call())
    reading = at_once(list, writing)
    server.await_requests(1)
    ends_cut(writing.abort, reading)


@pytest.mark.usefixtures("trusting")
def test_a_cut_ends_a_tls_handshake_that_stalls_in_a_tunnel(
    tls_server: OpenAIServer,
    relay: Callable[[type[Relay], int], Relay],
    monkeypatch: pytest.MonkeyPatch,
    at_once: AtOnce,
) -> None:
    tls_server.may_shake_hands.clear()
    monkeypatch.setenv("HTTPS_PROXY", f"http://{relay(Tunnel, tls_server.port).address}")
    writing = opened(tls_server.url).open_stream(call(seconds=4.0))
    reading = at_once(list, writing)
    tls_server.await_connections(1)
    time.sleep(0.1)  # Nobody tells when the handshake begins.
    ends_cut(writing.abort, reading)
    assert tls_server.requests == []


# Certificates.


@either
def test_a_certificate_is_trusted_by_its_file(
    tls_server: OpenAIServer, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    monkeypatch.delenv("SSL_CERT_DIR")
    tls_server.follow(answers_all)
    upstream = opened(tls_server.url)
    assert [asked(upstream, streamed=streamed), upstream.list_models()] == ["Hello", [{"id": "a"}]]


@either
def test_a_certificate_is_trusted_by_its_folder(
    tls_server: OpenAIServer,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    streamed: bool,
) -> None:
    command = ["openssl", "x509", "-hash", "-noout", "-in", str(certificate[0])]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    shutil.copy(certificate[0], tmp_path / f"{name}.0")
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    tls_server.follow(answers_all)
    upstream = opened(tls_server.url)
    assert [asked(upstream, streamed=streamed), upstream.list_models()] == ["Hello", [{"id": "a"}]]


@either
def test_a_certificate_that_nobody_trusts_is_unreachable_and_gets_no_request(
    tls_server: OpenAIServer, streamed: bool
) -> None:
    tls_server.follow(answers)
    upstream = opened(tls_server.url)
    assert failure(upstream, streamed=streamed) is errors.UpstreamUnreachable
    with pytest.raises(errors.UpstreamUnreachable):
        upstream.list_models()
    assert tls_server.requests == []


def test_a_certificate_that_nobody_trusts_gets_no_request_through_a_tunnel(
    tls_server: OpenAIServer, relay: Callable[[type[Relay], int], Relay], monkeypatch: pytest.MonkeyPatch
) -> None:
    tls_server.follow(answers)
    monkeypatch.setenv("HTTPS_PROXY", f"http://{relay(Tunnel, tls_server.port).address}")
    assert failure(opened(tls_server.url)) is errors.UpstreamUnreachable
    assert tls_server.requests == []


@pytest.mark.usefixtures("trusting")
def test_a_certificate_for_another_host_is_unreachable_and_gets_no_request(tls_server: OpenAIServer) -> None:
    tls_server.follow(answers)
    assert failure(opened(f"https://localhost:{tls_server.port}/v1")) is errors.UpstreamUnreachable
    assert tls_server.requests == []


def test_certificates_that_are_not_there_are_unreachable(
    tls_server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nothing.pem"))
    assert failure(opened(tls_server.url)) is errors.UpstreamUnreachable


# Compression.


def deflated(data: bytes) -> bytes:
    """Without zlib's frame, as some understand the word."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


compressed = pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", deflated)],
    ids=["gzip", "deflate", "bare deflate"],
)


@compressed
def test_a_compressed_answer_is_understood(server: OpenAIServer, encoding: str, pack: Callable[[bytes], bytes]) -> None:
    server.follow(says(pack(completion("Grüße 👋")), Content_Encoding=encoding))
    upstream = opened(server.url)
    assert [asked(upstream), asked(upstream)] == ["Grüße 👋"] * 2
    assert server.connections == 1


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_compressed_stream_is_understood_however_it_is_cut(
    server: OpenAIServer, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    compressed = pack(piece("Hel") + piece("lo") + END)

    def script(exchange: Exchange) -> None:
        exchange.begin(200, Content_Type="text/event-stream", Transfer_Encoding="chunked", Content_Encoding=encoding)
        for byte in compressed:
            exchange.chunk(bytes([byte]))
        exchange.end_stream()

    server.follow(script)
    assert asked(opened(server.url), streamed=True) == "Hello"


def test_each_piece_of_a_compressed_stream_is_there_before_the_next_is_written(server: OpenAIServer) -> None:
    was_read = threading.Event()

    def script(exchange: Exchange) -> None:
        packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
        exchange.begin(200, Content_Type="text/event-stream", Transfer_Encoding="chunked", Content_Encoding="gzip")
        exchange.chunk(packer.compress(piece("Hel")) + packer.flush(zlib.Z_SYNC_FLUSH))
        assert was_read.wait(PATIENCE_SECONDS)
        exchange.chunk(packer.compress(piece("lo") + END) + packer.flush())
        exchange.end_stream()

    server.follow(script)
    pieces = iter(opened(server.url).open_stream(call(streamed=True)))
    assert next(pieces) == "Hel"
    was_read.set()
    assert next(pieces) == "lo"


@compressed
def test_a_compressed_refusal_is_understood(
    server: OpenAIServer, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    refusal = json.dumps({"error": {"code": "context_length_exceeded", "message": "too long"}}).encode()
    server.follow(says(pack(refusal), 400, Content_Encoding=encoding))
    for streamed in (False, True):
        assert failure(opened(server.url), streamed=streamed) is errors.ContextTooLong


def test_a_compressed_list_of_models_is_understood(server: OpenAIServer) -> None:
    server.follow(says(gzip.compress(MODELS), Content_Encoding="gzip"))
    assert opened(server.url).list_models() == [{"id": "a"}]


@either
@pytest.mark.parametrize(
    ("encoding", "content"),
    [("gzip", b"no gzip"), ("gzip", gzip.compress(completion())[:20] + b"\0" * 40), ("deflate", b"no deflate")],
    ids=["no gzip", "broken", "no deflate"],
)
def test_broken_compression_is_a_bad_reply(server: OpenAIServer, streamed: bool, encoding: str, content: bytes) -> None:
    server.follow(says(content, Content_Encoding=encoding))
    assert failure(opened(server.url), streamed=streamed) is errors.UpstreamBadReply


@either
def test_compression_that_ends_too_early_is_no_reply(server: OpenAIServer, streamed: bool) -> None:
    server.follow(says(gzip.compress(completion())[:-20], Content_Encoding="gzip"))
    assert failure(opened(server.url), streamed=streamed) in (errors.UpstreamBadReply, errors.UpstreamCut)


@either
def test_a_compression_that_nobody_asked_for_is_a_failure_of_ours(server: OpenAIServer, streamed: bool) -> None:
    server.follow(says(b"\x8b\x02\x80" + bytes(range(256)), Content_Encoding="br"))
    assert issubclass(failure(opened(server.url), streamed=streamed), errors.UpstreamFailed)


def test_a_broken_compression_in_the_middle_of_a_stream_is_a_bad_reply(server: OpenAIServer) -> None:
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    begin = packer.compress(piece("Hel")) + packer.flush(zlib.Z_SYNC_FLUSH)

    def script(exchange: Exchange) -> None:
        exchange.begin(200, Content_Type="text/event-stream", Transfer_Encoding="chunked", Content_Encoding="gzip")
        exchange.chunk(begin)
        exchange.chunk(b"\xff" * 40)
        exchange.end_stream()

    server.follow(script)
    pieces = iter(opened(server.url).open_stream(call(streamed=True)))
    assert next(pieces) == "Hel"
    with pytest.raises(errors.UpstreamBadReply):
        next(pieces)


def test_broken_compression_of_the_list_of_models_is_a_bad_reply(server: OpenAIServer) -> None:
    server.follow(says(b"no gzip", Content_Encoding="gzip"))
    with pytest.raises(errors.UpstreamBadReply):
        opened(server.url).list_models()


def test_compression_is_asked_for_only_where_it_holds_nothing_back(server: OpenAIServer) -> None:
    upstream = opened(server.url)
    asked(upstream)
    asked(upstream, streamed=True)
    assert [each.headers["accept-encoding"] for each in server.requests] == ["gzip, deflate", "identity"]


# What is logged.


@pytest.mark.parametrize("is_proxied", [False, True], ids=["direct", "proxy"])
def test_no_package_logs_what_is_asked_of_whom(
    server: OpenAIServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, is_proxied: bool
) -> None:
    for name in ("", "openai", "httpx2", "httpcore2", "httpcore2.http11", "httpcore2.connection"):
        caplog.set_level(logging.DEBUG if name.count(".") == 0 else logging.NOTSET, logger=name)
    if is_proxied:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.port}")
    upstream = opened(server.url, headers={"api-key": "a-secret"})
    asked_all(upstream)
    server.follow(says(b'{"error": {"message": "no"}}', 400))
    asked_all(upstream)
    server.close()
    asked_all(opened(server.url))
    assert [each.name for each in caplog.records if each.name.split(".")[0] in ("openai", "httpx2", "httpcore2")] == []
    for secret in (KEY, "a-secret", f"127.0.0.1:{server.port}", CONTENT, "Hello"):
        assert secret not in caplog.text


# The client.


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Client]:
    """The clients that are made."""
    made: list[Client] = []

    def make(account: Account) -> Client:
        time.sleep(0.05)  # So that others come meanwhile.
        made.append(Client(account))
        return made[-1]

    monkeypatch.setattr(upstream_module, "Client", make)
    return made


def test_an_upstream_opens_nothing_before_its_first_use(server: OpenAIServer, made: list[Client]) -> None:
    upstream = opened(server.url)
    upstream.open_stream(call())
    upstream.close_idle()
    assert (made, server.connections) == ([], 0)


def test_a_client_is_made_once_for_many_first_calls(server: OpenAIServer, made: list[Client], at_once: AtOnce) -> None:
    upstream = opened(server.url)
    together = threading.Barrier(20)

    def first() -> str:
        together.wait(PATIENCE_SECONDS)
        return asked(upstream)

    assert [each.result(PATIENCE_SECONDS) for each in [at_once(first) for _ in range(20)]] == ["Hello"] * 20
    assert len(made) == 1


# What the packages raise.


def raised_by(*modules: ModuleType) -> list[type[Exception]]:
    """Every class of exception that the modules export or have loaded."""
    names = {module.__name__ for module in modules}
    exported = [getattr(module, name, None) for module in modules for name in dir(module)]
    kinds = {each for each in exported if isinstance(each, type) and issubclass(each, Exception)}
    kinds |= {each for each in _below(Exception) if each.__module__.partition(".")[0] in names}
    return sorted(kinds, key=str)


def _below(kind: type[Exception]) -> Iterator[type[Exception]]:
    for each in type.__subclasses__(kind):
        yield each
        yield from _below(each)


for _name in ("openai.lib.azure", "openai.lib.streaming.chat", "openai.resources.chat", "openai.resources.models"):
    importlib.import_module(_name)

RAISED = raised_by(httpx2, openai)
INSIDE = {"openai.auth._x509._TransientTokenExchangeError"}
"""Never leave their module."""


@pytest.mark.parametrize("kind", RAISED, ids=lambda kind: f"{kind.__module__}.{kind.__qualname__}")
def test_whatever_the_packages_raise_becomes_a_failure_of_ours_in_our_words(kind: type[Exception]) -> None:
    name = f"{kind.__module__}.{kind.__qualname__}"
    assert name in INSIDE or any(each in ERROR_CLASSES for each in kind.__mro__)
    problem = kind.__new__(kind, "words of theirs")
    error = map_exception(problem)
    assert isinstance(error, errors.UpstreamFailed)
    assert str(error) == type(error).sentence


def test_the_walk_finds_what_the_packages_raise() -> None:
    assert {httpx2.ReadTimeout, httpx2.StreamClosed, httpx2.InvalidURL, openai.RateLimitError} <= set(RAISED)
    assert len(RAISED) > 40


def _request() -> httpx2.Request:
    return httpx2.Request("POST", ELSEWHERE)


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (httpx2.ConnectError("x"), errors.UpstreamUnreachable),
        (httpx2.ConnectTimeout("x"), errors.UpstreamUnreachable),
        (httpx2.PoolTimeout("x"), errors.UpstreamUnreachable),
        (httpx2.ReadTimeout("x"), errors.UpstreamTimedOut),
        (httpx2.WriteTimeout("x"), errors.UpstreamTimedOut),
        (httpx2.ReadError("x"), errors.UpstreamCut),
        (httpx2.WriteError("x"), errors.UpstreamUnreachable),
        (httpx2.RemoteProtocolError("x"), errors.UpstreamCut),
        (httpx2.DecodingError("x"), errors.UpstreamBadReply),
        (httpx2.TooManyRedirects("x"), errors.UpstreamUnreachable),
        (httpx2.InvalidURL("x"), errors.UpstreamUnreachable),
        (openai.APITimeoutError(_request()), errors.UpstreamTimedOut),
        (openai.APIConnectionError(request=_request()), errors.UpstreamUnreachable),
        (
            openai.AuthenticationError("x", response=httpx2.Response(401, request=_request()), body=None),
            errors.UpstreamRefusedKey,
        ),
        (
            openai.RateLimitError("x", response=httpx2.Response(429, request=_request()), body=None),
            errors.UpstreamRateLimited,
        ),
        (
            openai.InternalServerError("x", response=httpx2.Response(500, request=_request()), body=None),
            errors.UpstreamFailed,
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_problem_has_the_name_that_says_most(problem: Exception, expected: type[errors.AppError]) -> None:
    assert type(map_exception(problem)) is expected

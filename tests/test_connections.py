"""The way to the upstream: connections that last, and proxies in between."""

import gc
import socket
import subprocess
import sys
import threading
import weakref
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import UpstreamFailed
from server.upstream import Call
from server.upstream.addresses import KNOWN_SECONDS, Addresses
from server.upstream.answers import Answer, Broken
from server.upstream.connections import KEPT_SECONDS, Connection, Connections, Unanswered
from server.upstream.openai import OpenAIUpstream
from tests.misbehaving import (
    PATIENCE_SECONDS,
    Exchange,
    Misbehaving,
    Script,
    breaks_off,
    good,
    says,
    streams,
    streams_and_breaks,
)

UNKNOWN_FAMILY = 9999
"""Of addresses; no system has one of that number."""

BEARER = {"Authorization": "Bearer sk-the-operators-own"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def server() -> Iterator[Misbehaving]:
    server = Misbehaving()
    yield server
    server.close()


class Proxy:
    """Takes whoever asks for it by CONNECT to `port`, whatever the address says."""

    def __init__(self, port: int) -> None:
        self.heads: list[str] = []
        """What it was asked, a text for each connection."""
        self._port = port
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
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += wire.recv(1)
                self.heads.append(head.decode())
                beyond = socket.create_connection(("127.0.0.1", self._port))
                wire.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
                for one, other in ((wire, beyond), (beyond, wire)):
                    threading.Thread(target=self._relay, args=(one, other), daemon=True).start()

    @staticmethod
    def _relay(one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65_536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)


def asked(connection: Connection, body: bytes = b"{}") -> bytes:
    response = connection.ask("POST", "/chat/completions", body, PATIENCE_SECONDS)
    try:
        return b"".join(connection.read(response))
    finally:
        connection.end(response)


def test_a_request_comes_with_its_key_and_its_body_as_it_is(server: Misbehaving) -> None:
    server.follow(says(b"ok"))
    with Connections(server.url, BEARER).lent() as connection:
        assert asked(connection, '{"a": "\u2028"}'.encode()) == b"ok"
    (heard,) = server.heard
    assert heard.path == "/v1/chat/completions"
    assert heard.content == '{"a": "\u2028"}'.encode()
    assert heard.headers["authorization"] == BEARER["Authorization"]


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("kind", ["server", "tls_server"])
def test_a_request_larger_than_what_the_system_takes_at_once_arrives_whole(
    request: pytest.FixtureRequest, kind: str
) -> None:
    server: Misbehaving = request.getfixturevalue(kind)
    server.follow(says(b"ok"))
    body = b"".join(b"%08d" % n for n in range(2_000_000))
    with Connections(server.url, {}).lent() as connection:
        assert asked(connection, body) == b"ok"
    (heard,) = server.heard
    assert heard.content == body


@pytest.mark.parametrize("script", [good, streams(b"a", b"b")], ids=["of known length", "in chunks"])
def test_a_connection_whose_answer_was_read_to_its_end_carries_the_next(server: Misbehaving, script: Script) -> None:
    server.follow(script)
    with Connections(server.url, {}).lent() as connection:
        asked(connection)
        asked(connection)
    assert server.connections == 1


def test_a_connection_whose_answer_was_left_in_the_middle_carries_no_other(server: Misbehaving) -> None:
    server.follow(streams_and_breaks(b"a"), good)
    with Connections(server.url, {}).lent() as connection:
        response = connection.ask("POST", "/chat/completions", b"{}", PATIENCE_SECONDS)
        assert next(connection.read(response)) == b"a"
        connection.end(response)
        asked(connection)
    assert [heard.connection for heard in server.heard] == [0, 1]


def test_answers_that_another_is_to_follow_are_passed_over(server: Misbehaving) -> None:
    def hints(exchange: Exchange) -> None:
        exchange.begin(100)
        exchange.begin(103, Link="</style.css>")
        exchange.begin(102)
        good(exchange)

    server.follow(hints)
    with Connections(server.url, {}).lent() as connection:
        assert [b"Hello" in asked(connection) for _ in range(2)] == [True, True]
    assert server.connections == 1


def test_chunks_that_make_no_sense_are_the_last_on_their_connection(server: Misbehaving) -> None:
    def breaks(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.send(b"zz\r\n")
        exchange.await_close()

    server.follow(breaks, good)
    with Connections(server.url, {}).lent() as connection:
        with pytest.raises(Broken):
            asked(connection)
        assert b"Hello" in asked(connection)
    assert [heard.connection for heard in server.heard] == [0, 1]


@pytest.mark.usefixtures("trusting")
def test_what_an_answer_over_tls_has_beyond_its_end_is_not_taken_for_the_next(tls_server: Misbehaving) -> None:
    def twice(exchange: Exchange) -> None:
        # More than is buffered, and no more than is encrypted together.
        exchange.send(
            b"".join(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (n, b"a" * n) for n in (9000, 5000))
        )
        exchange.is_whole = True

    tls_server.follow(twice, says(b"b"))
    with Connections(tls_server.url, {}).lent() as connection:
        assert asked(connection) == b"a" * 9000
        assert asked(connection) == b"b"


def test_what_stands_before_chunks_that_make_no_sense_is_given_out(server: Misbehaving) -> None:
    def breaks(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nzz\r\n")
        exchange.await_close()

    server.follow(breaks)
    heard = []
    with Connections(server.url, {}).lent() as connection:
        response = connection.ask("POST", "/chat/completions", b"{}", PATIENCE_SECONDS)
        with pytest.raises(Broken):
            for chunk in connection.read(response):
                heard.append(chunk)
        connection.end(response)
    assert heard == [b"ab"]


def test_an_answer_that_does_not_tell_its_end_ends_with_its_connection(server: Misbehaving) -> None:
    def untold(exchange: Exchange) -> None:
        exchange.begin(200)
        exchange.send(b"half ")
        exchange.send(b"and half")

    server.follow(untold, says(b"b"))
    with Connections(server.url, {}).lent() as connection:
        assert asked(connection) == b"half and half"
        assert asked(connection) == b"b"
    assert [heard.connection for heard in server.heard] == [0, 1]


@pytest.mark.parametrize("beyond", [b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", b"x", b"\r\n\r\nx"])
def test_what_comes_with_an_answer_beyond_its_end_is_not_taken_for_the_next(server: Misbehaving, beyond: bytes) -> None:
    def more(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na" + beyond)
        exchange.await_close()

    server.follow(more, says(b"b"))
    with Connections(server.url, {}).lent() as connection:
        assert asked(connection) == b"a"
        assert asked(connection) == b"b"
    assert [heard.connection for heard in server.heard] == [0, 1]


def test_a_connection_that_the_answer_says_is_over_carries_no_other(server: Misbehaving) -> None:
    server.follow(says(b"a", Connection="close"), says(b"b"))
    with Connections(server.url, {}).lent() as connection:
        assert asked(connection) == b"a"
        assert asked(connection) == b"b"
    assert [heard.connection for heard in server.heard] == [0, 1]


def test_a_status_counts_for_the_request_that_it_answers_and_no_other(server: Misbehaving) -> None:
    def begins(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 ")

    server.follow(good, begins, good)
    upstream = OpenAIUpstream("key", server.url, retry_seconds=0.0)
    for _ in range(2):
        assert next(iter(upstream.open(Call("gpt-test", b"[]", PATIENCE_SECONDS)))) == "Hello"
    assert len(server.heard) == 3


WHOLE = (
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nX-After: b\r\n\r\n"
)


@given(st.lists(st.integers(1, len(WHOLE) - 1), unique=True))
def test_an_answer_is_the_same_however_it_is_cut_into_packets(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(WHOLE)]
    answer = Answer()
    for start, stop in pairwise(places):
        assert not answer.is_whole
        answer.hear(WHOLE[start:stop])
    answer.close()
    assert (answer.status, answer.headers["retry-after"], "link" in answer.headers) == (429, "3", False)
    assert b"".join(answer.body) == b"abc0123456789"
    assert (answer.is_whole, answer.is_last) == (True, False)


def head_of(*fields: bytes) -> Script:
    """A reply whose head breaks off after `fields`."""
    return lambda exchange: exchange.send(b"\r\n".join((b"HTTP/1.1 200 OK", *fields, b"")))


def head_and_reset(exchange: Exchange) -> None:
    head_of()(exchange)
    exchange.reset()


@pytest.mark.parametrize(
    "script",
    [
        head_of(),
        head_and_reset,
        head_of(b"Content-Length: 9"),
        head_of(*[b"X-A: b"] * 101, b""),
        head_of(b"X-A: " + b"a" * 70_000),
    ],
    ids=["after the status", "reset", "after a field", "too many fields", "too long a field"],
)
def test_a_reply_whose_head_breaks_has_been_paid_for_and_is_not_asked_for_again(
    server: Misbehaving, script: Script
) -> None:
    server.follow(script, good)
    upstream = OpenAIUpstream("key", server.url, retry_seconds=0.0)
    with pytest.raises(UpstreamFailed):
        list(upstream.open(Call("gpt-test", b"[]", PATIENCE_SECONDS)))
    assert len(server.heard) == 1
    assert next(iter(upstream.open(Call("gpt-test", b"[]", PATIENCE_SECONDS)))) == "Hello"


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://[::1]/v1", ("::1", 80)),
        ("https://[::1]/v1", ("::1", 443)),
        ("http://[fd00::abcd]:8000", ("fd00::abcd", 8000)),
        ("https://models.example", ("models.example", 443)),
    ],
)
def test_the_port_is_the_one_of_the_address_or_its_schemes(
    url: str, place: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for: list[tuple[str, int]] = []

    def asks(host: str, port: int, **_: object) -> None:
        asked_for.append((host, port))
        raise OSError

    monkeypatch.setattr("server.upstream.addresses.socket.getaddrinfo", asks)
    with Connections(url, {}).lent() as connection, pytest.raises(Unanswered):
        asked(connection)
    assert asked_for == [place]


def test_a_connection_that_was_idle_for_long_is_made_anew(server: Misbehaving, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("server.upstream.connections.time.monotonic", lambda: now)
    server.follow(good)
    with Connections(server.url, {}).lent() as connection:
        asked(connection)
        now += KEPT_SECONDS
        asked(connection)
        now += KEPT_SECONDS + 1
        asked(connection)
    assert [heard.connection for heard in server.heard] == [0, 0, 1]


class Names:
    """Answers where a host is, in the place of `socket.getaddrinfo`."""

    def __init__(self, *ports: int) -> None:
        self.ports = ports
        """Of the addresses that are answered, all of 127.0.0.1."""
        self.asked = 0

    def __call__(self, host: str, port: int, type: int) -> list[tuple[object, ...]]:
        self.asked += 1
        return [(socket.AF_INET, type, 0, "", ("127.0.0.1", each)) for each in self.ports]


@pytest.fixture
def names(server: Misbehaving, monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names(server.port)
    monkeypatch.setattr("server.upstream.addresses.socket.getaddrinfo", names)
    return names


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Held, so that nobody else gets it, and not listened to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_a_name_is_asked_for_once_in_ten_seconds(
    server: Misbehaving, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("server.upstream.addresses.time.monotonic", lambda: now)
    server.follow(good)
    connections = Connections("http://models.example/v1", {})
    with connections.lent() as one, connections.lent() as other:
        asked(one)
        now += KNOWN_SECONDS
        asked(other)
        assert names.asked == 1
    now += 0.1
    with connections.lent(), connections.lent(), connections.lent() as third:
        asked(third)
    assert names.asked == 2
    assert [heard.connection for heard in server.heard] == [0, 1, 2]


def test_of_several_addresses_the_first_that_answers_is_taken(
    server: Misbehaving, names: Names, closed_port: int
) -> None:
    server.follow(good)
    names.ports = (closed_port, server.port)
    with Connections("http://models.example/v1", {}).lent() as connection:
        asked(connection)
    assert len(server.heard) == 1


def test_an_address_of_a_family_that_the_system_lacks_is_passed_over(
    server: Misbehaving, names: Names, closed_port: int
) -> None:
    server.follow(good)
    names.ports = (closed_port, server.port)
    answer = names("", 0, socket.SOCK_STREAM)
    answer[0] = (UNKNOWN_FAMILY, *answer[0][1:])
    with Connections("http://models.example/v1", {}).lent() as connection, pytest.MonkeyPatch.context() as patched:
        patched.setattr("server.upstream.addresses.socket.getaddrinfo", lambda *_, **__: answer)
        asked(connection)
    assert len(server.heard) == 1


def test_a_connection_that_fails_keeps_nothing_of_its_call(closed_port: int) -> None:
    def failed() -> "weakref.ref[Addresses]":
        held = Addresses()
        with suppress(OSError):
            held.connect(("127.0.0.1", closed_port), PATIENCE_SECONDS)
        return weakref.ref(held)

    gc.disable()
    try:
        assert failed()() is None
    finally:
        gc.enable()


def test_a_name_whose_addresses_do_not_answer_is_asked_for_anew(
    server: Misbehaving, names: Names, closed_port: int
) -> None:
    server.follow(good)
    names.ports = (closed_port,)
    with Connections("http://models.example/v1", {}).lent() as connection:
        with pytest.raises(Unanswered):
            asked(connection)
        names.ports = (server.port,)
        asked(connection)
    assert names.asked == 2


def test_plain_http_is_asked_of_the_proxy(server: Misbehaving, monkeypatch: pytest.MonkeyPatch) -> None:
    server.follow(good)
    monkeypatch.setenv("HTTP_PROXY", f"http://me:p%40ss@127.0.0.1:{server.port}")
    with Connections("http://models.example:8080/v1/", BEARER).lent() as connection:
        asked(connection)
    (heard,) = server.heard
    assert heard.path == "http://models.example:8080/v1/chat/completions"
    assert heard.headers["host"] == "models.example:8080"
    assert heard.headers["proxy-authorization"] == f"Basic {b64encode(b'me:p@ss').decode()}"


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY", "https_proxy"])
def test_tls_goes_through_a_tunnel_and_the_proxy_sees_no_key(
    tls_server: Misbehaving, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    tls_server.follow(good)
    proxy = Proxy(tls_server.port)
    monkeypatch.setenv(variable, f"me:pass@{proxy.address}")
    with Connections(tls_server.url, BEARER).lent() as connection:
        asked(connection)
        asked(connection)
    proxy.close()
    (head,) = proxy.heads
    assert head.startswith(f"CONNECT 127.0.0.1:{tls_server.port} ")
    assert f"Proxy-Authorization: Basic {b64encode(b'me:pass').decode()}" in head
    assert "Bearer" not in head
    assert [heard.path for heard in tls_server.heard] == ["/v1/chat/completions"] * 2
    assert "proxy-authorization" not in tls_server.heard[0].headers


def test_a_proxy_is_not_asked_for_what_is_excepted(server: Misbehaving, monkeypatch: pytest.MonkeyPatch) -> None:
    server.follow(good)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", f"127.0.0.1:{server.port}")
    with Connections(server.url, {}).lent() as connection:
        asked(connection)
    assert server.heard[0].path == "/v1/chat/completions"


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 Yes\r\n\r\nand more", b"no HTTP\r\n", b""],
)
def test_a_proxy_that_does_not_connect_is_no_way(
    server: Misbehaving, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    server.follow(lambda exchange: exchange.send(answer))
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.port}")
    with Connections("https://models.example/v1", BEARER).lent() as connection, pytest.raises(Unanswered):
        asked(connection)
    assert [heard.path for heard in server.heard] == ["models.example:443"]


def test_a_proxy_of_a_kind_that_is_not_spoken_is_no_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "socks5://127.0.0.1:9")
    with pytest.raises(Unanswered), Connections("http://models.example/v1", {}).lent():
        pass


def test_an_answer_that_ends_before_its_end_is_told_from_a_whole_one(server: Misbehaving) -> None:
    server.follow(breaks_off(b"half"))
    with Connections(server.url, {}).lent() as connection, pytest.raises(Broken):
        asked(connection)


def test_all_this_holds_under_gevent_too() -> None:
    """As it is served: what is done to sockets here goes past gevent's own methods in two places."""
    options = ["-q", "-p", "no:cacheprovider", "-k", "not gevent", __file__]
    command = [sys.executable, "-m", "gevent.monkey", "--module", "pytest", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout

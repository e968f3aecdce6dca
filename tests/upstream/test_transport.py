"""The way to the upstream without a proxy: connections that last, and how a call on one ends."""

import gc
import socket
import ssl
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import UpstreamFailed, UpstreamUnreachable
from server.runs.config import RunConfig
from server.runs.runner import Runner
from server.store.memory import MemoryStore
from server.upstream.abort import Abort
from server.upstream.openai import OpenAIUpstream
from server.upstream.protocol import CompletionRequest
from server.upstream.transport import DRAIN_SECONDS, IDLE_SECONDS, Transport
from tests.support.openai_server import (
    DONE,
    END,
    PATIENCE_SECONDS,
    Exchange,
    OpenAIServer,
    Script,
    breaks_off,
    good,
    hangs_up,
    piece,
    says,
    silent,
    streams,
    streams_and_breaks,
    streams_and_waits,
)

UNKNOWN_FAMILY = 9999
"""Of addresses; no system has one of that number."""
LARGE = b"".join(b"%08d" % n for n in range(2_000_000))
"""More than what the system takes at once."""
SYN_SENT, TIME_WAIT, CLOSE_WAIT = "02", "06", "08"
BURST = 200

AtOnce = Callable[..., Any]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def transport() -> Iterator[Transport]:
    transport = Transport()
    yield transport
    transport.close()


@pytest.fixture
def http(transport: Transport) -> httpx2.Client:
    return httpx2.Client(transport=transport, timeout=PATIENCE_SECONDS)


@pytest.fixture
def abort() -> Abort:
    return Abort()


class Watching(Abort):
    """Knows the socket of its call."""

    wire: socket.socket

    def watch(self, wire: socket.socket | None) -> None:
        if wire is not None:
            self.wire = wire
        super().watch(wire)


class Crowded:
    """A server whose queue is full, so that connections to it are neither taken nor refused."""

    def __init__(self) -> None:
        self._sockets = [socket.create_server(("127.0.0.1", 0), backlog=0)]
        self.port: int = self._sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        for _ in range(4):
            waiting = socket.socket()
            waiting.setblocking(False)
            with suppress(BlockingIOError):
                waiting.connect(("127.0.0.1", self.port))
            self._sockets.append(waiting)
        assert SYN_SENT in client_states(self.port)

    def close(self) -> None:
        for each in self._sockets:
            each.close()


@pytest.fixture
def crowded() -> Iterator[Crowded]:
    crowded = Crowded()
    yield crowded
    crowded.close()


class Impatient:
    """A server that reads no more than a request's head, says `answer`, and hangs up; or never, if it is None."""

    def __init__(self, answer: bytes | None, tls: ssl.SSLContext | None = None) -> None:
        self._answer, self._tls = answer, tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._listener.getsockname()[1]}"
        self.has_heard = threading.Event()
        self._may_end = threading.Event()
        self._serving = threading.Thread(target=self._serve, daemon=True)
        self._serving.start()

    def close(self) -> None:
        self._may_end.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._serving.join(PATIENCE_SECONDS)

    def _serve(self) -> None:
        with suppress(OSError):
            wire, _ = self._listener.accept()
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # To hang up discards what is not sent yet.
            if self._tls is not None:
                wire = self._tls.wrap_socket(wire, server_side=True)
            with wire:
                head = b""
                while b"\r\n\r\n" not in head and (byte := wire.recv(1)):
                    head += byte
                self.has_heard.set()
                if self._answer is None:
                    self._may_end.wait(PATIENCE_SECONDS)
                else:
                    wire.sendall(self._answer)


@pytest.fixture
def impatient() -> Iterator[Callable[..., Impatient]]:
    made: list[Impatient] = []

    def make(*args: Any) -> Impatient:
        made.append(Impatient(*args))
        return made[-1]

    yield make
    for each in made:
        each.close()


def asked(http: httpx2.Client, server: OpenAIServer, body: bytes = b"{}", **extensions: Any) -> bytes:
    return http.post(f"{server.url}/chat/completions", content=body, extensions=extensions).content


def streamed(http: httpx2.Client, url: str, **extensions: Any) -> AbstractContextManager[httpx2.Response]:
    """An answer whose body is unread."""
    request = http.build_request("POST", url, content=b"{}", extensions=extensions)
    return closing(http.send(request, stream=True))


def timeout(**changes: float | None) -> dict[str, float | None]:
    return {"connect": PATIENCE_SECONDS, "read": PATIENCE_SECONDS, "write": PATIENCE_SECONDS, **changes}


def raw(data: bytes, *, is_whole: bool = True) -> Script:
    """An answer as it is written here; if it is not whole, the server hangs up after it."""

    def script(exchange: Exchange) -> None:
        exchange.send(data)
        exchange.is_whole = is_whole

    return script


def raw_and_waits(data: bytes) -> Script:
    """An answer as it is written here, after which the server waits for the client to close."""

    def script(exchange: Exchange) -> None:
        exchange.send(data)
        exchange.await_close()

    return script


def answers_and_closes(exchange: Exchange) -> None:
    """A whole answer that does not tell that it is the last."""
    good(exchange)
    exchange.is_whole = False


def client_states(port: int) -> list[str]:
    """The states of this machine's connections to `port`, in the system's numbers.

    TIME_WAIT is left out: a connection that another server closed may have had `port` as its client's.
    """
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return [row[3] for row in rows if int(row[2].rpartition(":")[2], 16) == port and row[3] != TIME_WAIT]


def open_sockets() -> int:
    found = 0
    for each in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found += str(each.readlink()).startswith("socket:")
    return found


def awaited(is_so: Callable[[], bool]) -> None:
    """Until the system says so, which tells nobody of it."""
    until = time.perf_counter() + PATIENCE_SECONDS
    while not is_so():
        assert time.perf_counter() < until
        time.sleep(0.002)


def reply(upstream: OpenAIUpstream, *, is_streamed: bool = False) -> str:
    *pieces, _ = upstream.open_stream(CompletionRequest("gpt-test", b"[]", PATIENCE_SECONDS, is_streamed))
    return "".join(map(str, pieces))


# Requests.


def test_a_request_comes_with_its_key_and_its_body_as_it_is(server: OpenAIServer) -> None:
    messages = '[ {"content": "\u2028"}]'.encode()
    server.follow(good)
    list(
        OpenAIUpstream("sk-the-operators-own", server.url).open_stream(
            CompletionRequest("gpt-test", messages, PATIENCE_SECONDS)
        )
    )
    (heard,) = server.requests
    assert heard.path == "/v1/chat/completions"
    assert messages in heard.content
    assert heard.headers["authorization"] == "Bearer sk-the-operators-own"


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("kind", ["server", "tls_server"])
def test_a_request_larger_than_what_the_system_takes_at_once_arrives_whole(
    request: pytest.FixtureRequest, http: httpx2.Client, kind: str
) -> None:
    server: OpenAIServer = request.getfixturevalue(kind)
    server.follow(says(b"ok"))
    assert asked(http, server, LARGE) == b"ok"
    (heard,) = server.requests
    assert heard.content == LARGE


# Connections that carry another request, and those that do not.


@pytest.mark.parametrize("script", [good, streams(b"a", b"b")], ids=["of known length", "in chunks"])
def test_a_connection_whose_answer_was_read_to_its_end_carries_the_next(
    server: OpenAIServer, http: httpx2.Client, script: Script
) -> None:
    server.follow(script)
    asked(http, server)
    asked(http, server)
    assert server.connections == 1


@pytest.mark.usefixtures("trusting")
def test_a_connection_over_tls_carries_the_next_too(tls_server: OpenAIServer, http: httpx2.Client) -> None:
    tls_server.follow(good)
    asked(http, tls_server)
    asked(http, tls_server)
    assert tls_server.connections == 1


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_that_has_no_body_by_its_status_is_whole_at_once(
    server: OpenAIServer, http: httpx2.Client, status: int
) -> None:
    server.follow(raw(b"HTTP/1.1 %d As Scripted\r\n\r\n" % status))
    assert [asked(http, server), asked(http, server)] == [b"", b""]
    assert server.connections == 1


def test_connections_to_different_ports_are_not_mixed_up(server: OpenAIServer, http: httpx2.Client) -> None:
    other = OpenAIServer()
    server.follow(says(b"a"))
    other.follow(says(b"b"))
    assert [asked(http, each) for each in (server, other, server, other)] == [b"a", b"b", b"a", b"b"]
    assert (server.connections, other.connections) == (1, 1)
    other.close()


def test_a_connection_whose_answer_was_left_in_the_middle_carries_no_other(
    server: OpenAIServer, http: httpx2.Client
) -> None:
    server.follow(streams_and_waits(b"a"), good)
    with streamed(http, server.url) as response:
        assert next(response.iter_raw()) == b"a"
    server.await_disconnect(0)
    asked(http, server)
    assert [heard.connection for heard in server.requests] == [0, 1]


def test_answers_that_another_is_to_follow_are_passed_over(server: OpenAIServer, http: httpx2.Client) -> None:
    def hints(exchange: Exchange) -> None:
        exchange.begin(100)
        exchange.begin(103, Link="</style.css>")
        exchange.begin(102)
        good(exchange)

    server.follow(hints)
    response = http.post(server.url)
    assert (response.status_code, "link" in response.headers) == (200, False)
    assert b"Hello" in asked(http, server)
    assert server.connections == 1


def test_chunks_that_make_no_sense_are_the_last_on_their_connection(server: OpenAIServer, http: httpx2.Client) -> None:
    server.follow(raw_and_waits(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), good)
    with pytest.raises(httpx2.RemoteProtocolError):
        asked(http, server)
    assert b"Hello" in asked(http, server)
    assert [heard.connection for heard in server.requests] == [0, 1]


def test_what_stands_before_chunks_that_make_no_sense_is_given_out(server: OpenAIServer, http: httpx2.Client) -> None:
    server.follow(raw_and_waits(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nzz\r\n"))
    with streamed(http, server.url) as response:
        body = iter(response.iter_raw())
        assert next(body) == b"ab"
        with pytest.raises(httpx2.RemoteProtocolError):
            next(body)


@pytest.mark.parametrize("fields", [{}, {"Transfer_Encoding": "identity"}], ids=str)
def test_an_answer_that_does_not_tell_its_end_ends_with_its_connection(
    server: OpenAIServer, http: httpx2.Client, fields: dict[str, str]
) -> None:
    def untold(exchange: Exchange) -> None:
        exchange.begin(200, **fields)
        exchange.send(b"half ")
        exchange.send(b"and half")

    server.follow(untold, says(b"b"))
    assert asked(http, server) == b"half and half"
    assert asked(http, server) == b"b"
    assert [heard.connection for heard in server.requests] == [0, 1]


@pytest.mark.parametrize("beyond", [b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", b"x", b"\r\n\r\nx"])
def test_what_comes_with_an_answer_beyond_its_end_is_not_taken_for_the_next(
    server: OpenAIServer, http: httpx2.Client, beyond: bytes
) -> None:
    server.follow(raw_and_waits(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na" + beyond), says(b"b"))
    assert asked(http, server) == b"a"
    assert asked(http, server) == b"b"
    assert [heard.connection for heard in server.requests] == [0, 1]


@pytest.mark.usefixtures("trusting")
def test_what_an_answer_over_tls_has_beyond_its_end_is_not_taken_for_the_next(
    tls_server: OpenAIServer, http: httpx2.Client
) -> None:
    # More than is heard at once, and no more than is encrypted together.
    answers = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (n, b"a" * n) for n in (9000, 5000)]
    tls_server.follow(raw(b"".join(answers)), says(b"b"))
    assert asked(http, tls_server) == b"a" * 9000
    assert asked(http, tls_server) == b"b"


@pytest.mark.usefixtures("trusting")
def test_what_comes_over_tls_after_an_answer_is_not_taken_for_the_next(
    tls_server: OpenAIServer, http: httpx2.Client
) -> None:
    def twice(exchange: Exchange) -> None:
        for content in (b"a" * 16_384, b"x"):  # Encrypted each by itself, and read one at a time.
            exchange.answer(200, content)

    def has_more() -> bool:
        with suppress(BlockingIOError):
            return bool(socket.socket.recv(call.wire, 1, socket.MSG_PEEK))
        return False

    tls_server.follow(twice, says(b"b"))
    call = Watching()
    assert asked(http, tls_server, abort=call) == b"a" * 16_384
    call.wire.settimeout(0.0)
    awaited(has_more)
    assert asked(http, tls_server) == b"b"


def test_a_connection_that_the_answer_says_is_over_carries_no_other(server: OpenAIServer, http: httpx2.Client) -> None:
    server.follow(says(b"a", Connection="close"), says(b"b"))
    assert asked(http, server) == b"a"
    assert asked(http, server) == b"b"
    assert [heard.connection for heard in server.requests] == [0, 1]


def test_a_connection_of_the_older_protocol_carries_no_other(server: OpenAIServer, http: httpx2.Client) -> None:
    server.follow(raw_and_waits(b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na"), says(b"b"))
    assert asked(http, server) == b"a"
    assert asked(http, server) == b"b"
    assert [heard.connection for heard in server.requests] == [0, 1]


def test_a_connection_that_was_idle_for_long_is_made_anew(
    server: OpenAIServer, http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("server.upstream.transport.time.monotonic", lambda: now)
    server.follow(good)
    asked(http, server)
    now += IDLE_SECONDS
    asked(http, server)
    now += IDLE_SECONDS + 1
    asked(http, server)
    assert [heard.connection for heard in server.requests] == [0, 0, 1]


def test_a_connection_that_the_server_has_closed_meanwhile_is_made_anew(
    server: OpenAIServer, http: httpx2.Client
) -> None:
    server.follow(answers_and_closes, good)
    asked(http, server)
    awaited(lambda: CLOSE_WAIT in client_states(server.port))
    asked(http, server)
    assert [heard.connection for heard in server.requests] == [0, 1]


# The answer.


@pytest.mark.parametrize(
    "lengths",
    [b"Content-Length: 3\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked\r\nContent-Length: 3"],
    ids=["length first", "chunked first"],
)
def test_of_two_lengths_the_chunks_count(server: OpenAIServer, http: httpx2.Client, lengths: bytes) -> None:
    server.follow(raw(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n5\r\nhello\r\n0\r\n\r\n" % lengths))
    assert asked(http, server) == b"hello"


WHOLE = (
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nX-After: b\r\n\r\n"
)


@given(st.lists(st.integers(1, len(WHOLE) - 1), unique=True))
def test_an_answer_is_the_same_however_it_is_cut_into_packets(cuts: list[int]) -> None:
    positions = [0, *sorted(cuts), len(WHOLE)]
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # Keeps packets apart.
    with far, Transport() as transport, pytest.MonkeyPatch.context() as patched:
        patched.setattr("server.upstream.transport.SOCKET_OPTIONS", [])
        patched.setattr("server.upstream.transport.connect", lambda *_: near)
        for start, stop in pairwise(positions):
            far.sendall(WHOLE[start:stop])
        answer = httpx2.Client(transport=transport).get("http://models.example/")
        assert (answer.status_code, answer.headers["retry-after"], "link" in answer.headers) == (429, "3", False)
        assert answer.content == b"abc0123456789"
        far.setblocking(False)
        assert far.recv(1000).startswith(b"GET / HTTP/1.1\r\n")
        with pytest.raises(BlockingIOError):  # Not closed, but kept for the next.
            far.recv(1)


def test_fields_that_come_after_the_body_are_no_headers(server: OpenAIServer, http: httpx2.Client) -> None:
    server.follow(
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nContent-Encoding: gzip\r\n\r\n")
    )
    assert asked(http, server) == b"a"


def test_an_answer_that_ends_before_its_end_is_told_from_a_whole_one(server: OpenAIServer, http: httpx2.Client) -> None:
    server.follow(breaks_off(b"half"))
    with pytest.raises(httpx2.RemoteProtocolError):
        asked(http, server)


def test_chunks_that_end_before_their_end_are_told_from_whole_ones(server: OpenAIServer, http: httpx2.Client) -> None:
    server.follow(streams_and_breaks(b"half"))
    with pytest.raises(httpx2.RemoteProtocolError):
        asked(http, server)


def test_an_answer_that_breaks_with_a_reset_is_told_from_a_whole_one(server: OpenAIServer, http: httpx2.Client) -> None:
    is_heard = threading.Event()

    def resets(exchange: Exchange) -> None:
        streams_and_breaks(b"half")(exchange)
        is_heard.wait(PATIENCE_SECONDS)
        exchange.reset()

    server.follow(resets)
    with streamed(http, server.url) as response:
        body = response.iter_raw()
        assert next(body) == b"half"
        is_heard.set()
        with pytest.raises(httpx2.ReadError):
            next(body)


@pytest.mark.parametrize(
    "answer",
    [b"no HTTP\r\n\r\n", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nx", b""],
    ids=["no HTTP", "another protocol", "nothing"],
)
def test_what_is_no_answer_is_a_breach_of_the_protocol(
    server: OpenAIServer, http: httpx2.Client, answer: bytes
) -> None:
    server.follow(raw(answer, is_whole=False), says(b"b"))
    with pytest.raises(httpx2.RemoteProtocolError):
        asked(http, server)
    assert asked(http, server) == b"b"


def head_of(*fields: bytes) -> Script:
    """A reply whose head breaks off after `fields`."""
    return lambda exchange: exchange.send(b"\r\n".join((b"HTTP/1.1 200 OK", *fields, b"")))


def head_and_reset(exchange: Exchange) -> None:
    head_of()(exchange)
    exchange.reset()


@pytest.mark.parametrize(
    "script",
    [
        raw(b"HTTP/1.1 ", is_whole=False),
        head_of(),
        head_and_reset,
        head_of(b"Content-Length: 9"),
        head_of(*[b"X-A: b"] * 101, b""),
        head_of(b"X-A: " + b"a" * 70_000),
    ],
    ids=["before the status", "after the status", "reset", "after a field", "many fields", "long field"],
)
def test_a_reply_whose_head_breaks_may_have_been_paid_for_and_is_not_asked_for_again(
    server: OpenAIServer, script: Script
) -> None:
    server.follow(script, good)
    upstream = OpenAIUpstream("key", server.url, retry_seconds=0.0)
    with pytest.raises(UpstreamFailed):
        reply(upstream)
    assert len(server.requests) == 1
    assert reply(upstream) == "Hello"


# Where a host is.


class Names:
    """Answers where a host is, in the place of the system."""

    def __init__(self, *ports: int) -> None:
        self.ports = ports
        """Of the addresses that are answered, all of 127.0.0.1."""
        self.asked_for: list[tuple[str, int]] = []
        self.family: int = socket.AF_INET
        """Of the first address."""

    def __call__(self, host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        self.asked_for.append((host, port))
        families = [self.family, *[socket.AF_INET] * len(self.ports)]
        pairs = zip(families, self.ports, strict=False)
        return [(family, socket.SOCK_STREAM, 0, "", ("127.0.0.1", each)) for family, each in pairs]


@pytest.fixture
def names(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names(server.port)
    monkeypatch.setattr("server.upstream.abort.socket.getaddrinfo", names)
    return names


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Held, so that nobody else gets it, and not listened to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.mark.parametrize(
    ("url", "position"),
    [
        ("http://[::1]/v1", ("::1", 80)),
        ("https://[::1]/v1", ("::1", 443)),
        ("http://[fd00::abcd]:8000", ("fd00::abcd", 8000)),
        ("https://models.example", ("models.example", 443)),
        ("http://models.example", ("models.example", 80)),
        ("http://models.example:443", ("models.example", 443)),
    ],
)
def test_the_port_is_the_one_of_the_address_or_its_schemes(
    url: str, position: tuple[str, int], names: Names, http: httpx2.Client
) -> None:
    names.ports = ()
    with pytest.raises(httpx2.ConnectError):
        http.get(url)
    assert names.asked_for == [position]


def test_of_several_addresses_the_first_that_answers_is_taken(
    server: OpenAIServer, names: Names, closed_port: int, http: httpx2.Client
) -> None:
    server.follow(good)
    names.ports = (closed_port, server.port)
    assert http.get("http://models.example/v1").status_code == 200


def test_an_address_of_a_family_that_the_system_lacks_is_passed_over(
    server: OpenAIServer, names: Names, http: httpx2.Client
) -> None:
    server.follow(good)
    names.ports = (server.port, server.port)
    names.family = UNKNOWN_FAMILY
    assert http.get("http://models.example/v1").status_code == 200


def test_a_server_that_is_not_there_is_a_connection_that_fails(closed_port: int, http: httpx2.Client) -> None:
    with pytest.raises(httpx2.ConnectError):
        http.get(f"http://127.0.0.1:{closed_port}/")


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example", "nothing.invalid", "übel.invalid"])
def test_a_name_that_no_host_has_is_a_connection_that_fails(http: httpx2.Client, host: str) -> None:
    with pytest.raises(httpx2.ConnectError):
        http.get(f"http://{host}/")


def test_a_name_beyond_ascii_is_looked_up(server: OpenAIServer, names: Names, http: httpx2.Client) -> None:
    server.follow(good)
    assert http.get("http://müller.example/").status_code == 200
    assert server.requests[0].headers["host"] == "xn--mller-kva.example"


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example", "xn--a.example", "ﬁ\u0301\u200d.example"])
def test_a_base_url_whose_host_cannot_be_is_unreachable(host: str) -> None:
    with pytest.raises(UpstreamUnreachable):
        reply(OpenAIUpstream("key", f"http://{host}/v1", retry_seconds=0.0))


def test_a_scheme_that_is_not_spoken_gets_no_request(server: OpenAIServer, http: httpx2.Client) -> None:
    server.follow(good)
    with pytest.raises(httpx2.UnsupportedProtocol):
        http.get(f"ftp://127.0.0.1:{server.port}/")
    assert server.requests == []


# Timeouts.


def test_a_connection_that_is_neither_taken_nor_refused_is_given_up(crowded: Crowded, http: httpx2.Client) -> None:
    with pytest.raises(httpx2.ConnectTimeout):
        streamed(http, crowded.url, timeout=timeout(connect=0.1))


@pytest.mark.usefixtures("trusting")
def test_a_tls_handshake_that_stalls_is_given_up(tls_server: OpenAIServer, http: httpx2.Client) -> None:
    tls_server.may_shake_hands.clear()
    tls_server.follow(good)
    with pytest.raises(httpx2.ConnectTimeout):
        streamed(http, tls_server.url, timeout=timeout(connect=0.1))
    tls_server.may_shake_hands.set()
    assert tls_server.requests == []


def test_silence_in_the_place_of_an_answer_is_given_up(server: OpenAIServer, http: httpx2.Client) -> None:
    server.follow(silent)
    with pytest.raises(httpx2.ReadTimeout):
        streamed(http, server.url, timeout=timeout(read=0.1))
    server.await_disconnect(0)


@pytest.mark.parametrize("seconds", [{"read": 0.3}, {"read": 0.3, "body": 0.1}, {"body": 0.1}], ids=str)
def test_silence_in_a_body_is_given_up(server: OpenAIServer, http: httpx2.Client, seconds: dict[str, float]) -> None:
    server.follow(streams_and_waits(b"a"))
    with streamed(http, server.url, timeout=timeout(**seconds)) as response:
        body = response.iter_raw()
        assert next(body) == b"a"
        with pytest.raises(httpx2.ReadTimeout):
            next(body)
    server.await_disconnect(0)


def test_silence_in_a_body_without_a_time_is_waited_out(server: OpenAIServer, http: httpx2.Client) -> None:
    def hesitates(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.chunk(b"a")
        time.sleep(0.4)
        exchange.chunk(b"b")
        exchange.end_stream()

    server.follow(hesitates)
    with streamed(http, server.url, timeout=timeout(read=0.3, body=None)) as response:
        assert response.read() == b"ab"


def test_a_time_for_one_body_is_none_for_the_next_on_the_same_connection(
    server: OpenAIServer, http: httpx2.Client
) -> None:
    server.follow(good, silent)
    asked(http, server, timeout=timeout(body=None))
    with pytest.raises(httpx2.ReadTimeout):
        asked(http, server, timeout=timeout(read=0.1))
    assert server.connections == 1


def test_a_request_that_is_not_taken_is_given_up(impatient: Callable[..., Impatient], http: httpx2.Client) -> None:
    with pytest.raises(httpx2.WriteTimeout):
        http.post(impatient(None).url, content=LARGE, extensions={"timeout": timeout(write=0.1)})


# Answers to a request that was not heard to its end.

EARLY = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])
def test_an_answer_to_a_request_that_the_server_stops_reading_is_read(
    impatient: Callable[..., Impatient], http: httpx2.Client, certificate: tuple[Path, Path], is_tls: bool
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    answer = http.post(impatient(EARLY, tls if is_tls else None).url, content=LARGE)
    assert (answer.status_code, answer.content) == (413, b"no")


def test_a_request_that_the_server_stops_reading_without_an_answer_is_unsent(
    impatient: Callable[..., Impatient], http: httpx2.Client
) -> None:
    with pytest.raises(httpx2.WriteError):
        http.post(impatient(b"").url, content=LARGE)


def test_half_an_answer_to_a_request_that_the_server_stops_reading_is_none(
    impatient: Callable[..., Impatient], http: httpx2.Client
) -> None:
    with pytest.raises(httpx2.WriteError):
        http.post(impatient(EARLY[:30]).url, content=LARGE)


# The end of an answer that its reader does not wait for.


def ends_late(exchange: Exchange) -> None:
    """The last chunk comes 20 ms after the last word."""
    exchange.begin_stream()
    exchange.chunk(piece("Hello") + END)
    time.sleep(0.02)
    exchange.end_stream()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may be late by more than what is waited for."""
    assert DRAIN_SECONDS > 0.02
    monkeypatch.setattr("server.upstream.transport.DRAIN_SECONDS", PATIENCE_SECONDS)


@pytest.mark.usefixtures("patient")
def test_a_connection_whose_answer_ends_a_moment_after_its_last_word_carries_the_next(
    server: OpenAIServer, http: httpx2.Client
) -> None:
    server.follow(ends_late)
    for _ in range(3):
        with streamed(http, server.url) as response:
            assert DONE in next(response.iter_raw())
    assert [heard.connection for heard in server.requests] == [0, 0, 0]


@pytest.mark.usefixtures("patient")
def test_streamed_replies_that_end_a_moment_after_their_last_word_share_a_connection(server: OpenAIServer) -> None:
    server.follow(ends_late)
    upstream = OpenAIUpstream("key", server.url)
    assert [reply(upstream, is_streamed=True) for _ in range(3)] == ["Hello"] * 3
    assert [heard.connection for heard in server.requests] == [0, 0, 0]


def test_a_connection_whose_answer_does_not_end_after_its_last_word_is_closed(
    server: OpenAIServer, http: httpx2.Client
) -> None:
    server.follow(streams_and_waits(DONE), good)
    with streamed(http, server.url) as response:
        assert next(response.iter_raw()) == DONE
    server.await_disconnect(0)
    asked(http, server)
    assert [heard.connection for heard in server.requests] == [0, 1]


def test_a_streamed_reply_whose_end_does_not_come_is_whole_all_the_same(server: OpenAIServer) -> None:
    server.follow(streams_and_waits(piece("Hello") + END))
    upstream = OpenAIUpstream("key", server.url)
    assert reply(upstream, is_streamed=True) == "Hello"
    server.await_disconnect(0)


def test_an_answer_that_breaks_off_after_its_last_word_is_closed(server: OpenAIServer, http: httpx2.Client) -> None:
    server.follow(streams_and_breaks(DONE), good)
    with streamed(http, server.url) as response:
        assert next(response.iter_raw()) == DONE
    asked(http, server)
    assert [heard.connection for heard in server.requests] == [0, 1]


# Connections that nobody uses.


def burst(ask: Callable[[], object], server: OpenAIServer, after: Script) -> None:
    """As many calls at the same time as make `BURST` connections."""
    together = threading.Barrier(BURST)

    def answers_together(exchange: Exchange) -> None:
        together.wait(PATIENCE_SECONDS)
        after(exchange)

    server.follow(answers_together)
    with ThreadPoolExecutor(BURST) as threads:
        for each in [threads.submit(ask) for _ in range(BURST)]:
            each.result(PATIENCE_SECONDS)
    assert server.connections == BURST


def test_connections_that_the_server_has_closed_after_a_burst_do_not_stay(
    server: OpenAIServer, transport: Transport, http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    burst(lambda: asked(http, server), server, answers_and_closes)
    awaited(lambda: client_states(server.port) == [CLOSE_WAIT] * BURST)
    now = time.monotonic() + IDLE_SECONDS + 1
    monkeypatch.setattr("server.upstream.transport.time.monotonic", lambda: now)
    held = open_sockets()
    transport.close_idle()
    assert client_states(server.port) == []
    assert open_sockets() <= held - BURST


def test_a_runner_closes_now_and_then_what_nobody_uses(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = OpenAIUpstream("key", server.url)
    runner = Runner(MemoryStore(max_conversations=10), upstream, RunConfig())
    burst(lambda: reply(upstream), server, answers_and_closes)
    awaited(lambda: client_states(server.port) == [CLOSE_WAIT] * BURST)
    runner.ticker.tick()
    assert client_states(server.port) == [CLOSE_WAIT] * BURST
    now = time.monotonic() + IDLE_SECONDS + 1
    monkeypatch.setattr("server.upstream.transport.time.monotonic", lambda: now)
    runner.ticker.tick()
    assert client_states(server.port) == []
    runner.shut_down(0)


def test_only_those_are_closed_that_nobody_has_used_for_long(
    server: OpenAIServer, transport: Transport, http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("server.upstream.transport.time.monotonic", lambda: now)
    server.follow(streams_and_waits(b"a"), good)
    with streamed(http, server.url) as in_use:
        chunks = in_use.iter_raw()
        assert next(chunks) == b"a"
        asked(http, server)
        now += IDLE_SECONDS - 1
        transport.close_idle()
        asked(http, server)
        now += IDLE_SECONDS + 1
        transport.close_idle()
        server.await_disconnect(1)
        asked(http, server)
        assert [heard.connection for heard in server.requests] == [0, 1, 1, 2]
        now += DRAIN_SECONDS
        assert client_states(server.port).count("01") == 2


def test_to_close_the_transport_closes_what_is_idle(
    server: OpenAIServer, transport: Transport, http: httpx2.Client
) -> None:
    server.follow(good)
    asked(http, server)
    transport.close()
    server.await_disconnect(0)


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("kind", ["server", "tls_server"])
def test_a_connection_is_watched_by_the_system_for_a_server_that_is_gone(
    request: pytest.FixtureRequest, http: httpx2.Client, kind: str
) -> None:
    server: OpenAIServer = request.getfixturevalue(kind)
    server.follow(good)
    call = Watching()
    asked(http, server, abort=call)
    assert call.wire.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert call.wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("script", [hangs_up, breaks_off(b"half"), raw(b"no HTTP\r\n\r\n", is_whole=False), None])
def test_a_call_that_fails_leaves_nothing_of_itself(
    server: OpenAIServer, closed_port: int, http: httpx2.Client, script: Script | None
) -> None:
    if script is not None:
        server.follow(script)

    def failed() -> "weakref.ref[Abort]":
        call = Abort()
        with suppress(httpx2.TransportError):
            port = closed_port if script is None else server.port
            http.get(f"http://127.0.0.1:{port}/", extensions={"abort": call})
        return weakref.ref(call)

    failed()
    gc.disable()
    try:
        assert failed()() is None
    finally:
        gc.enable()


def test_a_call_whose_request_cannot_be_sent_leaves_nothing_of_itself(
    impatient: Callable[..., Impatient], http: httpx2.Client
) -> None:
    def failed() -> "weakref.ref[Abort]":
        call = Abort()
        with suppress(httpx2.WriteError):
            http.post(impatient(b"").url, content=LARGE, extensions={"abort": call})
        return weakref.ref(call)

    gc.disable()
    try:
        assert failed()() is None
    finally:
        gc.enable()


# Calls that are ended by another thread.


def ends(abort: Abort, reading: Any) -> None:
    """`abort` ends the `reading` in another thread at once."""
    began = time.perf_counter()
    abort.set()
    with pytest.raises(httpx2.TransportError):
        reading.result(PATIENCE_SECONDS)
    assert time.perf_counter() - began < 2


def test_a_call_that_is_aborted_before_it_begins_sends_nothing(
    server: OpenAIServer, http: httpx2.Client, abort: Abort
) -> None:
    server.follow(good)
    abort.set()
    with pytest.raises(httpx2.TransportError):
        asked(http, server, abort=abort)
    assert server.requests == []


def test_a_call_that_is_aborted_before_it_begins_sends_nothing_on_an_idle_connection(
    server: OpenAIServer, http: httpx2.Client, abort: Abort
) -> None:
    server.follow(good)
    asked(http, server)
    abort.set()
    with pytest.raises(httpx2.TransportError):
        asked(http, server, abort=abort)
    server.await_disconnect(0)
    assert len(server.requests) == 1


def test_an_abort_ends_the_wait_for_a_connection(
    crowded: Crowded, http: httpx2.Client, abort: Abort, at_once: AtOnce
) -> None:
    before = client_states(crowded.port).count(SYN_SENT)
    reading = at_once(streamed, http, crowded.url, abort=abort, timeout=timeout(connect=3.0))
    awaited(lambda: client_states(crowded.port).count(SYN_SENT) > before)
    ends(abort, reading)


@pytest.mark.usefixtures("trusting")
def test_an_abort_ends_a_tls_handshake_that_stalls(
    tls_server: OpenAIServer, http: httpx2.Client, abort: Abort, at_once: AtOnce
) -> None:
    tls_server.may_shake_hands.clear()
    tls_server.follow(silent)
    reading = at_once(asked, http, tls_server, abort=abort)
    tls_server.await_connections(1)
    ends(abort, reading)
    tls_server.may_shake_hands.set()
    assert tls_server.requests == []


def test_an_abort_ends_a_request_that_is_not_taken(
    impatient: Callable[..., Impatient], http: httpx2.Client, abort: Abort, at_once: AtOnce
) -> None:
    server = impatient(None)
    reading = at_once(http.post, server.url, content=LARGE, extensions={"abort": abort})
    assert server.has_heard.wait(PATIENCE_SECONDS)
    ends(abort, reading)


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("kind", ["server", "tls_server"])
def test_an_abort_ends_the_wait_for_an_answer(
    request: pytest.FixtureRequest, http: httpx2.Client, abort: Abort, at_once: AtOnce, kind: str
) -> None:
    server: OpenAIServer = request.getfixturevalue(kind)
    server.follow(silent, good)
    reading = at_once(asked, http, server, abort=abort)
    server.await_requests(1)
    ends(abort, reading)
    server.await_disconnect(0)
    assert b"Hello" in asked(http, server)


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("kind", ["server", "tls_server"])
@pytest.mark.parametrize("body", [PATIENCE_SECONDS, None], ids=["timed", "untimed"])
def test_an_abort_ends_a_body_midway(
    request: pytest.FixtureRequest, http: httpx2.Client, abort: Abort, at_once: AtOnce, kind: str, body: float | None
) -> None:
    server: OpenAIServer = request.getfixturevalue(kind)
    server.follow(streams_and_waits(b"a"))
    with streamed(http, server.url, abort=abort, timeout=timeout(body=body)) as response:
        chunks = response.iter_raw()
        assert next(chunks) == b"a"
        ends(abort, at_once(next, chunks))
    server.await_disconnect(0)


def test_a_reader_who_leaves_after_an_abort_does_not_wait_for_the_end(
    server: OpenAIServer, http: httpx2.Client, abort: Abort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.upstream.transport.DRAIN_SECONDS", PATIENCE_SECONDS)
    server.follow(streams_and_waits(b"a"))
    began = time.perf_counter()
    with streamed(http, server.url, abort=abort) as response:
        chunks = response.iter_raw()
        assert next(chunks) == b"a"
        abort.set()
    assert time.perf_counter() - began < 2
    server.await_disconnect(0)


def test_an_abort_ends_the_wait_for_the_end_of_an_answer(
    server: OpenAIServer, http: httpx2.Client, abort: Abort, at_once: AtOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.upstream.transport.DRAIN_SECONDS", PATIENCE_SECONDS)
    server.follow(streams_and_waits(DONE))
    with streamed(http, server.url, abort=abort) as response:
        chunks = response.iter_raw()
        assert next(chunks) == DONE
        leaving = at_once(response.close)
        began = time.perf_counter()
        abort.set()
        leaving.result(PATIENCE_SECONDS)
    assert time.perf_counter() - began < 2
    server.await_disconnect(0)


def test_an_abort_after_the_end_hurts_no_later_call_on_the_same_connection(
    server: OpenAIServer, http: httpx2.Client, abort: Abort
) -> None:
    was_aborted = threading.Event()

    def goes_on(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.chunk(b"a")
        assert was_aborted.wait(PATIENCE_SECONDS)
        exchange.chunk(b"b")
        exchange.end_stream()

    server.follow(good, goes_on)
    asked(http, server, abort=abort)
    with streamed(http, server.url) as later:
        body = later.iter_raw()
        assert next(body) == b"a"
        abort.set()
        was_aborted.set()
        assert next(body) == b"b"
    assert [heard.connection for heard in server.requests] == [0, 0]


def test_all_this_holds_under_gevent_too() -> None:
    """As it is served: what is done to sockets goes past gevent's own methods in places."""
    options = ["-q", "-p", "no:cacheprovider", "-k", "not gevent and not what_nobody_uses", __file__]
    command = [sys.executable, "-m", "gevent.monkey", "--module", "pytest", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout

"""Bytes that no honest client sends: refused or dropped, and nobody else notices."""

import re
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.access.people import ADMIN_KEY
from tests.support.process import ServerProcess, serve

MARK = "a secret of ada"

HOST = b"Host: localhost\r\n"

HIDDEN = b"GET /history?client_name=ada HTTP/1.1\r\nHost: localhost\r\n\r\n"
"""A request that is hidden in the body of another one. It has no key, whoever sends the one around it."""

POST = b"POST /query HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"

SHAPES = {
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 60\r\n\r\n" + HIDDEN,
    "a list of lengths": POST + b"Content-Length: 5, 60\r\n\r\n" + HIDDEN,
    "a length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunks twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunks and identity": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + HIDDEN,
    "an unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a coding after a blank": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a coding after a tab": POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a folded header": POST + b"X: a\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a negative length": POST + b"Content-Length: -1\r\n\r\n" + HIDDEN,
    "a length with a sign": POST + b"Content-Length: +5\r\n\r\n" + HIDDEN,
    "a length in hexadecimal": POST + b"Content-Length: 0x5\r\n\r\n" + HIDDEN,
    "a length of another script": POST + "Content-Length: ٥\r\n\r\n".encode() + HIDDEN,
    "an endless length": POST + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n{}",
    "a chunk of no size": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n" + HIDDEN,
    "a chunk of a negative size": POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n{}\r\n0\r\n\r\n" + HIDDEN,
    "a chunk of an endless size": POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 400 + b"\r\n{}\r\n",
    "a chunk without its end": POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}0\r\n\r\n" + HIDDEN,
    "lines that end in LF": POST.replace(b"\r\n", b"\n") + b"Content-Length: 0\n\n" + HIDDEN,
    "a line that ends in CR": POST + b"X: a\rTransfer-Encoding: chunked\r\n\r\n" + HIDDEN,
    "NUL in a header": POST + b"X: a\x00b\r\nContent-Length: 0\r\n\r\n" + HIDDEN,
    "a blank in a name": b"GET / HTTP/1.1\r\n" + HOST + b"X Y: 1\r\n\r\n",
    "no name": b"GET / HTTP/1.1\r\n" + HOST + b": 1\r\n\r\n",
    "no version": b"GET /history?client_name=ada\r\n\r\n",
    "a later version": b"GET / HTTP/9.9\r\n" + HOST + b"\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": bytes.fromhex("16030100c8010000c40303") + b"\x00" * 190,
    "another method": b"BREW /history?client_name=ada HTTP/1.1\r\n" + HOST + b"\r\n",
    "a tunnel": b"CONNECT localhost:22 HTTP/1.1\r\n" + HOST + b"\r\n",
    "half a line": b"GET /history?client_na",
    "half a head": b"GET / HTTP/1.1\r\nHost: local",
    "half a body": POST + b"Content-Length: 100\r\n\r\n{",
    "nothing but line ends": b"\r\n" * 2000,
    "a long line": b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "a long header": b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 20_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + HOST + b"".join(b"X%d: 1\r\n" % n for n in range(5_000)) + b"\r\n",
    "a prefix by a header": b"GET /history?client_name=ada HTTP/1.1\r\n" + HOST + b"SCRIPT_NAME: /healthz\r\n\r\n",
    "an absolute address": b"GET http://localhost/history?client_name=ada HTTP/1.1\r\n" + HOST + b"\r\n",
    "steps upwards": b"GET /web/../history?client_name=ada HTTP/1.1\r\n" + HOST + b"\r\n",
    "a path with two slashes": b"GET //history?client_name=ada HTTP/1.1\r\n" + HOST + b"\r\n",
    "a method by a header": b"GET /history?client_name=ada HTTP/1.1\r\n"
    + HOST
    + b"X-HTTP-Method-Override: OPTIONS\r\n\r\n",
    "an asked continuation": POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n",
}


@pytest.fixture(scope="module")
def protected() -> Iterator[ServerProcess]:
    """A protected server on which Ada has said something."""
    with serve(UPSTREAM="scripted", ADMIN_KEY=ADMIN_KEY, CLIENT_TIMEOUT_SECONDS="5") as served:
        assert served.query("ada", MARK)[0] == 200
        yield served


def speak(served: ServerProcess, *pieces: bytes) -> bytes:
    """Send bytes, end the sending, and read until the server closes. Fails if it takes longer than 20 s."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as line:
        try:
            for piece in pieces:
                line.sendall(piece)
            line.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: line.recv(65536), b""))
        except TimeoutError:
            raise
        except OSError:  # It was refused before all was sent; even the end of the sending may then fail.
            return b""


def statuses(answer: bytes) -> list[int]:
    """Of all answers that came over one connection."""
    return [int(each) for each in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)]


def assert_unhurt(served: ServerProcess) -> None:
    assert served.ask("GET", "/healthz")[0] == 200
    assert served.history("ada")[0] == MARK
    assert served.process.poll() is None
    assert "Traceback" not in served.log()


@pytest.mark.parametrize("name", SHAPES)
def test_a_hostile_request_is_refused_or_dropped(protected: ServerProcess, name: str) -> None:
    answer = speak(protected, SHAPES[name])
    assert MARK.encode() not in answer
    assert all(status < 500 or status in (501, 505) for status in statuses(answer)), answer
    assert 200 not in statuses(answer)[1:], answer
    assert_unhurt(protected)


@pytest.mark.parametrize("name", SHAPES)
def test_a_hostile_request_that_comes_in_pieces_is_the_same(protected: ServerProcess, name: str) -> None:
    shape = SHAPES[name]
    whole, pieces = speak(protected, shape), [shape[at : at + 97] for at in range(0, len(shape), 97)]
    assert statuses(speak(protected, *pieces))[:1] in (statuses(whole)[:1], [])
    assert_unhurt(protected)


@settings(max_examples=150)
@given(st.lists(st.sampled_from([*SHAPES.values(), b"\r\n", b"\x00", b"{}", HIDDEN, POST]), min_size=1, max_size=4))
def test_no_sequence_of_them_opens_anything(protected: ServerProcess, parts: list[bytes]) -> None:
    answer = speak(protected, *parts)
    assert MARK.encode() not in answer
    assert all(status < 500 or status in (501, 505) for status in statuses(answer)), answer


@settings(max_examples=200)
@given(st.binary(min_size=1, max_size=300), st.booleans())
def test_random_bytes_hurt_nobody(protected: ServerProcess, data: bytes, has_head: bool) -> None:
    answer = speak(protected, (POST + data) if has_head else data)
    assert MARK.encode() not in answer
    assert all(status < 500 or status in (501, 505) for status in statuses(answer)), answer


def test_half_requests_hold_nobody_up_and_are_dropped_in_time(protected: ServerProcess) -> None:
    lines = [socket.create_connection(("127.0.0.1", protected.port), timeout=30) for _ in range(200)]
    try:
        for number, line in enumerate(lines):
            line.sendall((b"GET / HTTP/1.1\r\nHost: loc", POST + b"Content-Length: 50\r\n\r\n{")[number % 2])
        assert_unhurt(protected)
        assert protected.query("ada", "and now?")[0] == 200
        for line in lines:
            while line.recv(65536):
                pass
    finally:
        for line in lines:
            line.close()
    assert_unhurt(protected)

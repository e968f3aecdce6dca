"""Large files of conversations in a server process: memory, other callers, slow senders, and a kill in the middle."""

import http.client
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.process import ServerProcess, eventually, serve
from tests.system.test_slow_callers import connect, encode_chunks, has_ended, measure_memory, read_all, wait

POST = b"POST /conversations/import?client_name=%b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"

COUNT = 20_000


@pytest.fixture(scope="module")
def large() -> bytes:
    """A list of messages of 10 MB."""
    pair = [
        {"role": "user", "content": "question " + "x" * 400},
        {"role": "assistant", "content": "reply " + "y" * 400},
    ]
    return json.dumps(pair * (COUNT // 2), indent=0).encode()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serve(UPSTREAM="scripted", STORE_URL=f"sqlite:///{tmp_path_factory.mktemp('large')}/c.db") as served:
        yield served


def send(served: ServerProcess, name: str, content: bytes) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=120)
    connection.request(
        "POST", f"/conversations/import?client_name={name}", content, {"Content-Type": "application/json"}
    )
    return connection.getresponse()


def start_sending(served: ServerProcess, name: str, content: bytes) -> socket.socket:
    line = connect(served)
    line.sendall(POST % name.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(content), content))
    return line


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_memory_stays_flat_and_others_are_answered_meanwhile(served: ServerProcess, large: bytes) -> None:
    assert send(served, "warm", b'[{"role": "user", "content": "hi"}]').status == 200
    before = measure_memory(served)
    with start_sending(served, "large", large) as line:
        line.setblocking(False)
        answered, peak = 0, before
        while not answered or not is_readable(line):
            assert served.query("other", f"question {answered}")[0] == 200
            answered += 1
            peak = max(peak, measure_memory(served))
    assert peak - before < 40_000_000
    status, statistics = served.ask("GET", "/conversations/statistics?client_name=large", seconds=120)
    assert (status, statistics["message_count"]) == (200, COUNT)
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=120)
    connection.request("GET", "/conversations/export?client_name=large")
    answer = connection.getresponse()
    assert len(answer.read()) == int(answer.headers["Content-Length"]) > len(large)
    assert measure_memory(served) - before < 40_000_000


def is_readable(line: socket.socket) -> bool:
    try:
        return bool(line.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


def test_a_file_may_come_in_chunks(served: ServerProcess, large: bytes) -> None:
    with connect(served) as line:
        line.sendall(
            POST % b"chunks" + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + encode_chunks(large)
        )
        assert read_all(line).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 2000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n1e8480\r\n"]
)
def test_a_sender_who_stalls_is_told_and_leaves_nothing(served: ServerProcess, framing: bytes) -> None:
    with connect(served) as line:
        line.sendall(POST % b"stalled" + framing + b"[" * 1_500_000)
        while not has_ended_or_told(line):
            assert served.ask("GET", "/healthz")[0] == 200
            wait(0.2)
        line.settimeout(60)
        assert read_all(line).startswith(b"HTTP/1.1 400 ")
    assert served.ask("GET", "/conversations/details?client_name=stalled")[0] == 404


def has_ended_or_told(line: socket.socket) -> bool:
    line.setblocking(False)
    return is_readable(line) or has_ended(line)


def test_a_file_beyond_the_limit_is_refused(tmp_path: Path, large: bytes) -> None:
    with serve(UPSTREAM="scripted", MAX_IMPORT_BYTES="1000000") as served:
        for framing in (
            b"Content-Length: %d\r\n\r\n%b" % (len(large), large),
            b"Transfer-Encoding: chunked\r\n\r\n" + encode_chunks(large),
        ):
            with connect(served) as line:
                line.sendall((POST % b"large" + b"Connection: close\r\n" + framing)[:3_000_000])
                line.shutdown(socket.SHUT_WR)
                assert read_all(line).startswith(b"HTTP/1.1 413 ")


def test_a_kill_in_the_middle_leaves_nothing_listed(tmp_path: Path, large: bytes) -> None:
    store = f"sqlite:///{tmp_path}/c.db"
    with serve(UPSTREAM="scripted", STORE_URL=store) as served, start_sending(served, "large", large):
        assert eventually(lambda: message_count(served) > 0)
        served.kill()
    with serve(UPSTREAM="scripted", STORE_URL=store) as served:
        assert 0 < message_count(served) < COUNT
        assert served.ask("GET", "/conversations") == (200, {"conversations": []})


def message_count(served: ServerProcess) -> int:
    status, told = served.ask("GET", "/conversations/details?client_name=large")
    return int(told["message_count"]) if status == 200 else 0

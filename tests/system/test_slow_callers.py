"""Callers who are slow or send too much: each is disconnected or answered, and no other caller is affected."""

import http.client
import json
import os
import re
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from server.app import create_app
from server.core.history import FIRST_READ, read_newest, read_page
from server.domain import Message
from server.errors import NotFound, StoreUnavailable
from server.serving.worker import MAX_UNSENT_BYTES
from server.settings import Settings
from server.store.memory import MemoryStore
from tests.support.process import ServerProcess, eventually, free_port, serve, start_process

MANY = 1_048_576
"""MAX_BODY_BYTES, as it is by default."""

POST = b"POST /query HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def make_message(n: int, length: int = 10) -> Message:
    return Message.of("user", f"{n} ".ljust(length, "x"), None, 1_000.0 + n)


class ChangingHistory:
    """A history that changes while it is read: `change` is called before each read but the first."""

    def __init__(self, messages: list[Message]) -> None:
        self.messages = messages
        self.reads: list[tuple[int, int]] = []
        self.change: Callable[[], None] = lambda: None

    def read(self, start: int, stop: int) -> list[Message]:
        if self.reads:
            self.change()
        self.reads.append((start, stop))
        return self.messages[start:stop]

    def find_next(self, last: Message, index: int) -> int | None:
        if index <= len(self.messages) and self.messages[index - 1] is last:
            return index
        return self.messages.index(last) + 1 if last in self.messages else None

    def read_contents(self, stop: int) -> list[str]:
        body = b"".join(read_page(self.read, self.find_next, 0, stop).chunks)
        return [each["content"].strip("x ") for each in json.loads(body)]


class TestPages:
    @pytest.mark.parametrize("count", [0, 1, FIRST_READ, FIRST_READ + 1, 1_000])
    @pytest.mark.parametrize("length", [10, 20_000])
    def test_a_history_is_the_same_list_in_one_part_or_in_many(self, count: int, length: int) -> None:
        history = ChangingHistory([make_message(n, length) for n in range(count)])
        chunks = read_page(history.read, history.find_next, 0, count).chunks
        assert isinstance(chunks, tuple) == (count <= FIRST_READ)
        parts = list(chunks)
        expected = [json.loads(each.fragment) for each in history.messages]
        messages = json.loads(b"".join(parts))
        assert [{"role": each["role"], "content": each["content"]} for each in messages] == expected
        if count > FIRST_READ:
            assert max(map(len, parts)) < 300_000
            assert max(stop - start for start, stop in history.reads) <= 500

    def test_what_is_cleared_meanwhile_ends_the_list(self) -> None:
        history = ChangingHistory([make_message(n) for n in range(1_000)])
        history.change = history.messages.clear
        assert history.read_contents(1_000) == [str(n) for n in range(FIRST_READ)]

    def test_if_a_message_is_deleted_meanwhile_no_other_is_missed_or_told_twice(self) -> None:
        history = ChangingHistory([make_message(n) for n in range(1_000)])
        history.change = lambda: history.messages.__delitem__(slice(0, len(history.reads) % 2))
        assert history.read_contents(1_000) == [str(n) for n in range(1_000)]

    def test_what_is_added_meanwhile_is_not_in_the_list(self) -> None:
        history = ChangingHistory([make_message(n) for n in range(200)])
        history.change = lambda: history.messages.append(make_message(-1))
        assert history.read_contents(200) == [str(n) for n in range(200)]

    def test_the_newest_that_fit_are_found_from_the_end(self) -> None:
        history = ChangingHistory([make_message(n, 1_000) for n in range(1_000)])
        page = read_newest(history.read, 0, 1_000, 10_000)
        (body,) = page.chunks
        assert len(body) <= 10_000 < len(body) + 1_080
        assert page.start == 1_000 - len(json.loads(body))
        assert history.reads == [(1_000 - FIRST_READ, 1_000)]


class TestLongHistory:
    @pytest.fixture
    def store(self) -> MemoryStore:
        store = MemoryStore(10)
        store.create_conversation("ada", None, {}, [make_message(n, 10_000) for n in range(1_000)])
        return store

    @pytest.fixture
    def answer(self, store: MemoryStore) -> Iterator[Any]:
        client = create_app(Settings(upstream="scripted"), store=store).test_client()
        with client.get("/history?client_name=ada") as answer:
            yield answer

    def test_it_is_a_stream_that_reads_on_when_more_is_taken(self, store: MemoryStore, answer: Any) -> None:
        assert answer.is_streamed
        store.clear_conversation("ada")
        assert len(json.loads(answer.data)) == FIRST_READ

    def test_a_store_that_fails_midway_breaks_the_stream(
        self, store: MemoryStore, answer: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*_: Any) -> None:
            raise StoreUnavailable

        monkeypatch.setattr(store, "get_conversation", fails)
        with pytest.raises(StoreUnavailable):
            answer.get_data()

    def test_a_message_deleted_midway_is_all_that_lacks(self, store: MemoryStore, answer: Any) -> None:
        first = store.list_messages("ada", 0, 1)[0]
        store.delete_message("ada", first.id)
        assert [int(each["content"].strip("x ")) for each in json.loads(answer.data)] == list(range(1_000))

    def test_the_last_message_told_so_far_may_be_gone(self, store: MemoryStore, answer: Any) -> None:
        store.delete_message("ada", store.list_messages("ada", FIRST_READ - 1, FIRST_READ)[0].id)
        assert len(json.loads(answer.data)) == FIRST_READ
        with pytest.raises(NotFound):
            store.message_index("ada", "msg_none")


def connect(served: ServerProcess, receive_buffer: int = 0) -> socket.socket:
    line = socket.socket()
    if receive_buffer:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    line.settimeout(60)
    line.connect(("127.0.0.1", served.port))
    return line


def read_all(line: socket.socket) -> bytes:
    """All that arrives until the server closes the connection."""
    received = bytearray()
    with suppress(ConnectionResetError, ssl.SSLEOFError):
        while data := line.recv(1_048_576):
            received += data
    return bytes(received)


def has_ended(line: socket.socket) -> bool:
    """Whether the server closed the connection and nothing is left to read."""
    line.settimeout(0)
    try:
        return line.recv(65_536) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    finally:
        line.settimeout(60)


def encode_chunks(body: bytes) -> bytes:
    chunks = [body[start : start + 65_536] for start in range(0, len(body), 65_536)]
    return b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks) + b"0\r\n\r\n"


class TestTooLargeARequest:
    BODY = b" " * (3 * MANY)

    @pytest.mark.parametrize("framing", ["length", "chunks"])
    @pytest.mark.parametrize("connection", ["keep-alive", "close"])
    def test_who_sends_three_megabytes_reads_the_answer(
        self, demo: ServerProcess, framing: str, connection: str
    ) -> None:
        head = POST + f"Connection: {connection}\r\n".encode()
        sent = head + b"Content-Length: %d\r\n\r\n%b" % (len(self.BODY), self.BODY)
        if framing == "chunks":
            sent = head + b"Transfer-Encoding: chunked\r\n\r\n" + encode_chunks(self.BODY)
        for _ in range(50):
            with connect(demo) as line:
                line.sendall(sent)
                line.shutdown(socket.SHUT_WR)
                answer = read_all(line)
                assert answer.startswith(b"HTTP/1.1 413 ")
                assert b'"body_too_large"' in answer

    def test_who_uses_a_client_library_reads_the_answer_and_goes_on(self, demo: ServerProcess) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", demo.port, timeout=60)
        for n in range(50):
            ends = {"Connection": "close"} if n % 2 else {}
            connection.request("POST", "/query", self.BODY, {"Content-Type": "application/json", **ends})
            response = connection.getresponse()
            assert (response.status, json.loads(response.read())["code"]) == (413, "body_too_large")
        connection.close()

    def test_a_head_that_is_too_large_is_answered_too(self, demo: ServerProcess) -> None:
        for _ in range(5):
            with connect(demo) as line:
                line.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: %b\r\n" % (b"x" * 8_000) * 100 + b"\r\n")
                assert read_all(line).startswith(b"HTTP/1.1 431 ")

    def test_who_sends_a_hundred_megabytes_is_cut_off(self, demo: ServerProcess) -> None:
        with connect(demo) as line:
            line.sendall(POST + b"Content-Length: 104857600\r\n\r\n")
            with pytest.raises(ConnectionError):
                for _ in range(100):
                    line.sendall(b" " * MANY)


@pytest.fixture(scope="module")
def strict() -> Iterator[ServerProcess]:
    """A server that disconnects a caller that takes nothing for a second."""
    with serve(UPSTREAM="scripted", CLIENT_TIMEOUT_SECONDS="1", MAX_BODY_BYTES="100000000") as served:
        yield served


@pytest.fixture(scope="module")
def long(strict: ServerProcess) -> str:
    """The name of a client whose history has 85 MB."""
    messages = [{"role": "user", "content": "x" * 100_000}] * 850
    status, thread = strict.ask("POST", "/api/v1/threads", {"messages": messages})
    assert status == 200
    name: str = thread["id"]
    return name


def open_reader(served: ServerProcess, name: str) -> socket.socket:
    line = connect(served, receive_buffer=4_096)
    line.sendall(b"GET /history?client_name=%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % name.encode())
    return line


def measure_memory(served: ServerProcess) -> int:
    """The resident bytes of the server process and of its children."""
    children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children").read_text().split()
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in (served.process.pid, *children)]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")


def server_side(line: socket.socket) -> tuple[str, int]:
    """State and unacknowledged bytes of the server's end of `line`, as Linux tells them."""
    ends = (line.getpeername()[1], line.getsockname()[1])
    for row in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, queues, *_ = row.split()
        if tuple(int(each.split(":")[1], 16) for each in (local, remote)) == ends:
            return state, int(queues.split(":")[0], 16)
    raise AssertionError("the server's end is gone")


class TestSlowCallers:
    @pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
    def test_readers_of_a_long_history_cost_little_memory(self, strict: ServerProcess, long: str) -> None:
        before = measure_memory(strict)
        with ExitStack() as lines:
            readers = [lines.enter_context(open_reader(strict, long)) for _ in range(8)]
            for line in readers:
                assert line.recv(1).startswith(b"H")
            grown = measure_memory(strict) - before
        assert grown < 50_000_000

    @pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
    def test_a_reader_who_takes_nothing_costs_the_system_little_memory(self, strict: ServerProcess, long: str) -> None:
        with open_reader(strict, long) as line:
            assert line.recv(1) == b"H"
            established = "01"
            assert eventually(lambda: server_side(line)[0] != established)  # Until then, more might be queued.
            assert 0 < server_side(line)[1] < 2 * MAX_UNSENT_BYTES

    def test_a_reader_who_takes_a_little_at_a_time_gets_it_whole(self, strict: ServerProcess, long: str) -> None:
        answer = bytearray()
        with open_reader(strict, f"{long}&limit=100") as line:
            for _ in range(20):  # Together longer than CLIENT_TIMEOUT_SECONDS.
                wait(0.1)
                answer += line.recv(200_000)
            while not answer.endswith(b"\r\n0\r\n\r\n"):
                data = line.recv(1_048_576)
                assert data
                answer += data
        head, _, body = bytes(answer).partition(b"\r\n\r\n")
        assert b"Transfer-Encoding: chunked" in head
        messages = json.loads(re.sub(rb"\r\n[0-9A-F]+\r\n", b"", b"\r\n" + body))
        assert [len(each["content"]) for each in messages] == [100_000] * 100

    def test_two_hundred_of_each_kind_are_ended_and_others_are_answered(self, strict: ServerProcess, long: str) -> None:
        with ExitStack() as lines:

            def open_request(sent: bytes) -> socket.socket:
                line = lines.enter_context(connect(strict))
                line.sendall(sent)
                return line

            readers = [lines.enter_context(open_reader(strict, long)) for _ in range(200)]
            heads = [open_request(b"GET /healthz HTTP/1.1\r\nX: ") for _ in range(200)]
            bodies = [open_request(POST + b"Content-Length: 1000\r\n\r\n{") for _ in range(200)]
            steady = open_request(POST + b"Content-Length: 10000000\r\n\r\n")
            sent = drip_until_ended(strict, [*heads, *bodies], steady)
            body = json.dumps({"client_name": "steady", "input": "hi"}).encode()
            steady.sendall(body.rjust(10_000_000 - sent))
            assert steady.recv(65_536).startswith(b"HTTP/1.1 200 ")
            for line in readers:
                answer = read_all(line)
                assert answer.startswith(b"HTTP/1.1 200 ")
                assert len(answer) < 20_000_000
                assert not answer.endswith(b"0\r\n\r\n")
        assert "Traceback" not in strict.log()


class TestOverTLS:
    def test_slow_readers_and_senders_are_ended_and_a_steady_one_gets_all(self, certificate: tuple[Path, Path]) -> None:
        files = [f"--certfile={certificate[0]}", f"--keyfile={certificate[1]}"]
        trust = ssl.create_default_context(cafile=certificate[0])
        with ExitStack() as lines:
            settings = {"UPSTREAM": "scripted", "CLIENT_TIMEOUT_SECONDS": "1", "MAX_BODY_BYTES": "100000000"}
            served = lines.enter_context(serve(*files, tls=trust, **settings))

            def open_request(sent: bytes, receive_buffer: int = 0) -> socket.socket:
                line = lines.enter_context(
                    trust.wrap_socket(connect(served, receive_buffer), server_hostname="127.0.0.1")
                )
                line.sendall(sent)
                return line

            head = open_request(b"GET /healthz HTTP/1.1\r\nX: ")
            body = open_request(POST + b"Content-Length: 1000\r\n\r\n{")
            messages = json.dumps({"messages": [{"role": "user", "content": "x" * 100_000}] * 200}).encode()
            sent = b"POST /api/v1/threads HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            create = open_request(sent + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(messages) + messages)
            thread = json.loads(read_all(create).partition(b"\r\n\r\n")[2])["id"].encode()
            get = b"GET /history?client_name=%b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % thread
            lazy = open_request(get, receive_buffer=4_096)
            assert len(read_all(open_request(get))) > 20_000_000
            assert read_all(head) == b""
            assert read_all(body).startswith(b"HTTP/1.1 400 ")
            assert len(read_all(lazy)) < 20_000_000
            assert "Traceback" not in served.log()


def wait(seconds: float) -> None:
    """Sleep: a caller who does nothing and a moment of the start give no event to wait for."""
    threading.Event().wait(seconds)


def drip_until_ended(served: ServerProcess, lines: list[socket.socket], steady: socket.socket) -> int:
    """Send a byte on each line every 0.2 s until the server has closed them all. Other callers are answered meanwhile.

    Returns how many bytes were sent to `steady`, faster than the limit, during that time.
    """
    open_lines, sent = lines, 0
    for n in range(400):
        open_lines = [line for line in open_lines if not has_ended(line)]
        if not open_lines:
            return sent
        for line in open_lines:
            with suppress(ConnectionError):
                line.send(b"x")
        steady.sendall(b" " * 20_000)
        sent += 20_000
        assert served.query("other", f"question {n}")[0] == 200
        wait(0.2)
    raise AssertionError(f"{len(open_lines)} were not ended")


class TestStopWhileStarting:
    """SIGTERM at any moment of the start ends the server without a traceback."""

    @pytest.mark.parametrize("seconds", [0.0, 0.1, 0.3, 0.6, 1.0])
    def test_a_start_ends_cleanly(self, tmp_path: Path, seconds: float) -> None:
        log = tmp_path / "log"
        process = start_process([sys.executable, "run.py"], log, PORT=str(free_port()), UPSTREAM="scripted")
        wait(seconds)
        process.terminate()
        # Before the first line of run.py, the default action of the signal ends the process; nothing was started.
        assert process.wait(60) == 0 or (process.returncode == -15 and not log.read_text())
        assert "Traceback" not in log.read_text()

    @pytest.mark.parametrize("seconds", [0.0, 0.1, 0.3])
    @pytest.mark.parametrize("mark", ["Listening at", "Booting worker"])
    def test_a_worker_that_is_loading_ends_cleanly(self, tmp_path: Path, mark: str, seconds: float) -> None:
        log = tmp_path / "log"
        process = start_process([sys.executable, "run.py"], log, PORT=str(free_port()), UPSTREAM="scripted")
        assert eventually(lambda: mark in log.read_text())
        wait(seconds)
        process.terminate()
        assert process.wait(30) == 0
        assert "Traceback" not in log.read_text()
        assert "SIGKILL" not in log.read_text()

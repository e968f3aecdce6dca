"""The server as users start it: gunicorn with gevent, in a process of its own."""

import http.client
import json
import os
import random
import re
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.openapi import validate_response
from tests.support.process import ROOT, ServerProcess, eventually, serve
from tests.support.replies import ScriptedReplies
from tests.support.replies_over_http import SwitchableReplies, serve_replies

AtOnce = Callable[..., Any]


@pytest.fixture
def replies() -> ScriptedReplies:
    return ScriptedReplies("slow", "slower")


@pytest.fixture
def base_url(replies: ScriptedReplies) -> Iterator[str]:
    with serve_replies(replies) as url:
        yield url


@pytest.fixture(scope="module")
def lasting() -> Iterator[tuple[ServerProcess, SwitchableReplies]]:
    """A server for all who leave it as it was, and its upstream."""
    handed = SwitchableReplies()
    with serve_replies(handed) as url, serve(OPENAI_BASE_URL=url) as served:
        yield served, handed


@pytest.fixture
def served(lasting: tuple[ServerProcess, SwitchableReplies], replies: ScriptedReplies) -> Iterator[ServerProcess]:
    """It, with nothing of the tests before."""
    served, handed = lasting
    served.forget("ada", *(f"client{n}" for n in range(32)))
    handed.current = replies
    yield served
    replies.release()


@pytest.fixture
def mortal(base_url: str) -> Iterator[ServerProcess]:
    """A server of a test's own, which may be stopped."""
    with serve(OPENAI_BASE_URL=base_url) as served:
        yield served


class Line:
    """A raw connection: a caller who may hang up at any instant."""

    def __init__(self, served: ServerProcess, question: str, accept: str = "application/json") -> None:
        body = json.dumps({"client_name": "ada", "input": question}).encode()
        self.socket = socket.create_connection(("127.0.0.1", served.port), timeout=20)
        self.socket.sendall(
            b"POST /query HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Accept: %s\r\nContent-Length: %d\r\n\r\n%s" % (accept.encode(), len(body), body)
        )
        self.received = b""

    def read_until(self, text: bytes) -> bytes:
        while text not in self.received:
            data = self.socket.recv(65536)
            assert data, self.received
            self.received += data
        return self.received

    def hang_up(self) -> None:
        self.socket.close()


def assert_strict_histories(served: ServerProcess, questions: int, clients: int) -> None:
    """Question n, asked by client n modulo `clients`, is there once with its own reply behind it, and nothing else."""
    for c in range(clients):
        history = served.history(f"client{c}")
        assert sorted(history[::2]) == sorted(f"q{n}" for n in range(c, questions, clients))
        assert history[1::2] == [f"re: {question}" for question in history[::2]]


class TestSmoke:
    """What the other tests hold on plain threads, held under gevent."""

    def test_the_contract_is_served(self, demo: ServerProcess) -> None:
        assert demo.ask("GET", "/models")[0] == 200
        assert demo.ask("GET", "/model?client_name=smoke") == (200, {"model": "scripted-demo"})
        assert demo.ask("POST", "/model", {"client_name": "smoke", "model": "scripted-demo"})[0] == 200
        assert demo.query("smoke", "안녕")[0] == 200
        assert demo.history("smoke")[0] == "안녕"
        assert demo.ask("DELETE", "/history?client_name=smoke")[0] == 200
        assert demo.history("smoke") == []

    def test_health_checks_answer(self, demo: ServerProcess) -> None:
        assert demo.ask("GET", "/healthz") == (200, {"status": "alive"})
        assert demo.ask("GET", "/readyz") == (200, {"status": "ready"})
        assert demo.ask("GET", "/health")[1]["status"] == "healthy"

    def test_it_says_loudly_that_it_is_a_demonstration(self, demo: ServerProcess) -> None:
        assert "DEMONSTRATION" in demo.log()

    def test_two_hundred_questions_at_once_over_ten_clients_make_strict_histories(
        self, served: ServerProcess, replies: ScriptedReplies, at_once: AtOnce
    ) -> None:
        asked = [at_once(served.query, f"client{n % 10}", f"q{n}") for n in range(200)]
        assert [each.result() for each in asked] == [(200, {"response": f"re: q{n}"}) for n in range(200)]
        assert_strict_histories(served, questions=200, clients=10)
        assert sorted(replies.calls) == sorted(f"q{n}" for n in range(200))

    def test_identical_questions_at_once_are_paid_once_and_delivered_past_the_deadline(
        self, served: ServerProcess, replies: ScriptedReplies, at_once: AtOnce
    ) -> None:
        asked = [at_once(served.query, "ada", "slow", Prefer="wait=0") for _ in range(20)]
        assert len({(each.result()[0], each.result()[1]["run_id"]) for each in asked}) == 1
        replies.end("slow", "once")
        assert served.query("ada", "slow", Prefer="wait=20") == (200, {"response": "once"})
        assert served.history("ada") == ["slow", "once"]
        assert replies.calls == ["slow"]

    def test_health_checks_answer_while_replies_are_written(
        self, served: ServerProcess, replies: ScriptedReplies, at_once: AtOnce
    ) -> None:
        asked = [at_once(served.query, f"client{n}", "slow") for n in range(32)]
        replies.await_call("slow", 32)
        assert served.ask("GET", "/healthz")[0] == 200
        for _ in asked:
            replies.end("slow", "ok")
        assert {each.result()[0] for each in asked} == {200}


def raw(served: ServerProcess, request: bytes) -> tuple[int, bytes]:
    """Status and whole answer to bytes that no client library would send."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as line:
        line.sendall(request)
        line.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: line.recv(65536), b""))
    return int(answer.split()[1]), answer


class TestRawRequests:
    def test_who_connects_and_speaks_later_is_heard(self, demo: ServerProcess) -> None:
        with socket.create_connection(("127.0.0.1", demo.port), timeout=20) as line:
            for _ in range(20):  # More than are taken in at a time.
                assert demo.ask("GET", "/healthz")[0] == 200
            line.sendall(b"GET /healthz HTTP/1.1\r\n")
            assert demo.ask("GET", "/healthz")[0] == 200
            line.sendall(b"Host: localhost\r\n\r\n")
            assert line.recv(65_536).startswith(b"HTTP/1.1 200")

    def test_an_answer_comes_in_one_piece(self, demo: ServerProcess) -> None:
        with socket.create_connection(("127.0.0.1", demo.port), timeout=20) as line:
            for _ in range(20):  # Of two packets, the second might once be there in time.
                line.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert line.recv(65_536).endswith(b'{"status":"alive"}')

    @pytest.mark.parametrize(
        ("request_line", "fields", "status"),
        [
            ("HEAD /healthz", "", 200),
            ("GET /web/0/docs.css", "If-None-Match: {etag}\r\n", 304),
            ("OPTIONS /healthz", "", 200),
        ],
    )
    def test_an_answer_without_a_body_is_its_head_and_leaves_the_line_to_the_next(
        self, demo: ServerProcess, request_line: str, fields: str, status: int
    ) -> None:
        _, whole = raw(demo, b"HEAD /web/0/docs.css HTTP/1.1\r\nHost: localhost\r\n\r\n")
        etag = re.search(r"ETag: (\S+)\r\n", whole.decode())
        assert etag is not None
        first = f"{request_line} HTTP/1.1\r\nHost: localhost\r\n{fields.format(etag=etag[1])}\r\n"
        _, answers = raw(demo, first.encode() + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head, _, rest = answers.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert rest.startswith(b"HTTP/1.1 200 OK\r\n")
        assert rest.endswith(b'{"status":"alive"}')

    def test_an_answer_to_http_1_0_ends_with_its_connection_and_has_no_chunks(self, demo: ServerProcess) -> None:
        body = b'{"client_name": "old", "input": "hi"}'
        head = "POST /query HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\nAccept: text/event-stream\r\n\r\n"
        status, answer = raw(demo, head.encode() + body)
        head_of_answer, _, stream = answer.partition(b"\r\n\r\n")
        assert status == 200
        assert b"chunked" not in head_of_answer
        assert stream.startswith(b"id: 0\nevent: chunk\n")
        assert b'"END"' in stream

    def test_nobody_is_believed_about_the_address_where_no_proxy_is_trusted(self, demo: ServerProcess) -> None:
        said = {"X_Forwarded_Proto": "https", "X_Forwarded_Ssl": "on", "X_Forwarded_Host": "evil.example"}
        _, document = demo.ask("GET", "/openapi.json", **said)
        assert document["servers"] == [{"url": demo.url}]

    @pytest.mark.parametrize("name", [b"SCRIPT_NAME", b"PATH_INFO"])
    def test_nobody_is_believed_about_the_path(self, demo: ServerProcess, name: bytes) -> None:
        status, answer = raw(demo, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + name + b": /healthz\r\n\r\n")
        assert (status, answer.endswith(b'{"status":"alive"}')) == (200, True)

    def test_answers_larger_than_what_the_system_keeps_for_a_slow_reader_arrive_whole(
        self, demo: ServerProcess
    ) -> None:
        file = (ROOT / "server/web/vendor/redoc/redoc.standalone.js").read_bytes()
        with socket.create_connection(("127.0.0.1", demo.port), timeout=20) as line:
            line.sendall(b"GET /web/0/redoc.standalone.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 8)
            line.shutdown(socket.SHUT_WR)
            # Answered by another turn of the server's loop, where this caller's reader has taken nothing yet.
            assert demo.ask("GET", "/healthz")[0] == 200
            answers = b"".join(iter(lambda: line.recv(65_536), b""))
        assert answers.count(file) == 8
        assert len(re.sub(rb"HTTP/1.1 200 OK\r\n.*?\r\n\r\n", b"", answers, flags=re.DOTALL)) == 8 * len(file)

    def test_each_answer_has_its_date(self, demo: ServerProcess) -> None:
        def date() -> datetime:
            _, answer = raw(demo, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            found = re.search(r"\r\nDate: (.+)\r\n", answer.decode())
            assert found is not None
            return parsedate_to_datetime(found[1])

        before, first = datetime.now(UTC), date()
        assert before - timedelta(seconds=1) <= first <= datetime.now(UTC)
        assert eventually(lambda: date() > first)

    def test_an_address_may_hold_korean_as_it_was_typed(self, demo: ServerProcess) -> None:
        demo.query("가나", "안녕")
        status, answer = raw(demo, "GET /history?client_name=가나 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert status == 200
        assert "안녕".encode() in answer

    def test_bytes_that_are_no_utf_8_are_refused(self, demo: ServerProcess) -> None:
        status, answer = raw(demo, b"GET /history?client_name=\xff HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert status == 400
        assert b'"invalid_request"' in answer

    @pytest.mark.parametrize(
        ("request_bytes", "expected"),
        [
            (b"GET /secret?a=\x01 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
            (b"secret\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nsecret\x00: 1\r\n\r\n", 400),
            (b"GET /?client_name=secret" + b"x" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
            (b"GET / HTTP/1.1\r\nHost: localhost\r\nsecret: " + b"x" * 9000 + b"\r\n\r\n", 431),
        ],
    )
    def test_what_is_no_request_is_answered_in_json_without_an_echo(
        self, demo: ServerProcess, request_bytes: bytes, expected: int
    ) -> None:
        status, answer = raw(demo, request_bytes)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert (status, set(json.loads(body))) == (expected, {"error", "code"})
        assert b"application/json" in head
        assert b"Cache-Control: no-store\r\n" in head
        assert re.search(rb"X-Request-ID: [0-9a-f]{16}\r\n", head)
        assert b"secret" not in answer
        assert "secret" not in demo.log()

    @pytest.mark.parametrize(
        "address",
        [
            "/history?client_name=",
            "/chat/stream/",
            "/conversations/runs?status=failed&client_name=",
            "/api/sessions/",
            "/api/v1/threads/",
            "/redoc?document=",
        ],
    )
    def test_an_address_that_is_too_long_is_answered_as_documented(self, demo: ServerProcess, address: str) -> None:
        status, answer = raw(demo, b"GET %b%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % (address.encode(), b"x" * 9000))
        assert status == 414
        validate_response("GET", f"{address}x", status, answer.partition(b"\r\n\r\n")[2])


class TestTls:
    def test_a_connection_that_speaks_no_tls_ends_without_a_word_in_the_log(
        self, certificate: tuple[Path, Path]
    ) -> None:
        trust = ssl.create_default_context(cafile=str(certificate[0]))
        files = [f"--certfile={certificate[0]}", f"--keyfile={certificate[1]}"]
        with serve(*files, tls=trust, UPSTREAM="scripted", LOG_LEVEL="info") as served:
            before = served.log()
            address = ("127.0.0.1", served.port)
            for sent in (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01", b"", bytes(range(256))):
                with socket.create_connection(address, timeout=20) as line:
                    line.sendall(sent)
                    with suppress(OSError):  # The server may have ended the connection before.
                        line.shutdown(socket.SHUT_WR)
                    read_to_the_end(line)
            with trust.wrap_socket(socket.create_connection(address, timeout=20), server_hostname="127.0.0.1") as line:
                os.write(line.fileno(), b"no record of TLS" * 8)
                read_to_the_end(line)
            assert served.ask("GET", "/healthz")[0] == 200
            said = served.log().removeprefix(before)
        assert [each for each in said.splitlines() if "/healthz" not in each] == []


def read_to_the_end(line: socket.socket) -> None:
    with suppress(OSError):  # A connection with unread data is reset.
        while line.recv(65536):
            pass


class TestHangingUp:
    def test_a_caller_who_hangs_up_mid_query_finds_the_reply_kept_and_paid_once(
        self, served: ServerProcess, replies: ScriptedReplies
    ) -> None:
        line = Line(served, "slow")
        replies.await_call("slow")
        line.hang_up()
        replies.end("slow", "kept")
        assert eventually(lambda: served.history("ada") == ["slow", "kept"])
        assert served.query("ada", "slow") == (200, {"response": "kept"})
        assert replies.calls == ["slow"]

    def test_a_caller_who_stays_was_delivered_the_reply(
        self, served: ServerProcess, replies: ScriptedReplies, at_once: AtOnce
    ) -> None:
        asked = at_once(served.query, "ada", "slow")
        replies.await_call("slow")
        replies.end("slow", "first")
        assert asked.result() == (200, {"response": "first"})
        replies.end("slow", "second")
        assert served.query("ada", "slow") == (200, {"response": "second"})

    def test_a_reader_who_leaves_mid_stream_finds_the_reply_kept_and_paid_once(
        self, served: ServerProcess, replies: ScriptedReplies
    ) -> None:
        line = Line(served, "slow", "text/event-stream")
        replies.say("slow", "half")
        stream_id = line.read_until(b'"half"').decode().partition("X-Stream-ID: ")[2].split()[0]
        line.hang_up()
        replies.end("slow", " whole")
        assert eventually(lambda: served.history("ada") == ["slow", "half whole"])
        assert b'"half whole"' in read_stream(served, stream_id, 2)
        assert replies.calls == ["slow"]

    def test_whoever_hangs_up_and_when_a_question_with_an_id_is_paid_once_and_kept_once(
        self, mortal: ServerProcess, replies: ScriptedReplies, at_once: AtOnce
    ) -> None:
        chance = random.Random(8)

        def insist(n: int, delays: list[float]) -> None:
            body = {"client_name": f"client{n % 5}", "input": f"q{n}", "request_id": f"id{n}"}
            for seconds in delays:
                with suppress(TimeoutError):
                    mortal.ask("POST", "/query", body, seconds)
            assert mortal.ask("POST", "/query", body) == (200, {"response": f"re: q{n}"})

        impatient = [at_once(insist, n, [chance.uniform(0.001, 0.2) for _ in range(3)]) for n in range(100)]
        for each in impatient:
            each.result()
        assert sorted(replies.calls) == sorted(f"q{n}" for n in range(100))
        assert_strict_histories(mortal, questions=100, clients=5)

    def test_a_stream_arrives_piece_by_piece(self, served: ServerProcess, replies: ScriptedReplies) -> None:
        line = Line(served, "slow", "text/event-stream")
        line.read_until(b'"START"')
        for n in range(5):
            replies.say("slow", f"piece {n} ")
            line.read_until(f'"piece {n} "'.encode())
        replies.end("slow")
        line.read_until(b'"END"')

    def test_cancelled_by_clearing_the_upstream_connection_is_closed(
        self, served: ServerProcess, replies: ScriptedReplies
    ) -> None:
        line = Line(served, "slow", "text/event-stream")
        replies.say("slow", "half")
        line.read_until(b'"half"')
        assert served.ask("DELETE", "/history?client_name=ada")[0] == 200
        line.read_until(b'"STOPPED"')
        assert served.history("ada") == []
        assert served.query("ada", "next") == (200, {"response": "re: next"})


class TestReload:
    def test_after_a_hangup_of_the_terminal_new_workers_answer_as_before(self, mortal: ServerProcess) -> None:
        mortal.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: mortal.log().count("Booting worker") == 2)
        assert eventually(lambda: "Worker exiting" in mortal.log())
        assert mortal.ask("GET", "/healthz") == (200, {"status": "alive"})
        assert mortal.query("ada", "why?") == (200, {"response": "re: why?"})
        two = b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        status, answers = raw(mortal, two)
        assert (status, answers.count(b"HTTP/1.1 200 OK")) == (200, 2)
        assert mortal.stop() == 0


class TestStopping:
    def test_open_replies_are_finished_and_nothing_new_begins(
        self, mortal: ServerProcess, replies: ScriptedReplies, at_once: AtOnce
    ) -> None:
        asked = [at_once(mortal.query, f"client{n}", "slow") for n in range(20)]
        kept_alive = http.client.HTTPConnection("127.0.0.1", mortal.port, timeout=20)
        kept_alive.request("GET", "/readyz")
        assert kept_alive.getresponse().read()
        replies.await_call("slow", 20)
        mortal.process.send_signal(signal.SIGTERM)
        body = json.dumps({"client_name": "late", "input": "hi"})
        assert eventually(lambda: refused(kept_alive, body))
        for _ in asked:
            replies.end("slow", "in time")
        assert [each.result() for each in asked] == [(200, {"response": "in time"})] * 20
        assert mortal.process.wait(20) == 0

    def test_what_does_not_end_in_time_is_answered_as_interrupted(
        self, base_url: str, replies: ScriptedReplies
    ) -> None:
        with serve(OPENAI_BASE_URL=base_url, GRACEFUL_SECONDS="1") as served:
            line = Line(served, "slow")
            replies.await_call("slow")
            assert served.stop() == 0
            assert b'"run_interrupted"' in line.read_until(b"}")

    def test_a_run_that_nobody_waits_for_is_finished_too(self, mortal: ServerProcess, replies: ScriptedReplies) -> None:
        assert mortal.query("ada", "slow", Prefer="wait=0")[0] == 202
        replies.await_call("slow")
        mortal.process.send_signal(signal.SIGTERM)
        with pytest.raises(Exception, match="timed out"):
            mortal.process.wait(1.5)
        replies.end("slow", "in time")
        assert mortal.process.wait(20) == 0

    def test_an_idle_connection_does_not_hold_it(self, mortal: ServerProcess) -> None:
        idle = [socket.create_connection(("127.0.0.1", mortal.port)) for _ in range(3)]
        idle[0].sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle[0].recv(65536)
        idle[1].sendall(b"GET /healthz HTTP/1.1\r\n")
        mortal.process.send_signal(signal.SIGTERM)
        # Far below the 75 seconds for which an idle connection is kept, and the 55 after which gunicorn kills.
        assert mortal.process.wait(20) == 0


def refused(connection: http.client.HTTPConnection, body: str) -> bool:
    """Whether a question on a connection from before is refused, because the server is about to end."""
    try:
        connection.request("POST", "/query", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status == 500 and json.loads(response.read())["code"] == "shutting_down"
    except (OSError, http.client.HTTPException):
        return True


def read_stream(served: ServerProcess, stream_id: str, position: int) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    connection.request("GET", f"/chat/stream/{stream_id}", headers={"Last-Event-ID": str(position)})
    return connection.getresponse().read()

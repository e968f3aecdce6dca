"""The parts of server/serving one by one, and what they need of gunicorn."""

import json
import queue
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gunicorn import http
from gunicorn.config import Config
from gunicorn.http import message, wsgi
from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.errors import InvalidRequestLine, LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.workers.base_async import AsyncWorker
from gunicorn.workers.ggevent import GeventWorker

from server.serving import errors, patches, request, response, signals, start, worker
from server.settings import Settings
from tests.support.process import ROOT, free_port, start_process

REQUIRED = [(owner, name) for owner, names in patches.REQUIRED for name in names]
OURS = (worker.Worker, response.Response, request.BoundedParser, request.TimedUnreader)


class Wire:
    """A caller's connection: `recv` gives the pieces, or raises them, and `send` collects what is sent."""

    def __init__(self, *pieces: bytes | Exception, takes: int = 1_000_000) -> None:
        self.pieces = list(pieces)
        self.takes = takes
        self.timeout: float | None = 30.0
        self.timeouts: list[float | None] = []
        self.sent: list[bytes] = []
        self.shut: list[int] = []

    def recv(self, size: int) -> bytes:
        self.timeouts.append(self.timeout)
        piece = self.pieces.pop(0) if self.pieces else b""
        if isinstance(piece, Exception):
            raise piece
        if len(piece) > size:
            self.pieces.insert(0, piece[size:])
        return piece[:size]

    def send(self, data: bytes | memoryview) -> int:
        self.sent.append(bytes(data[: self.takes]))
        return len(self.sent[-1])

    def sendall(self, data: bytes) -> None:
        self.sent.append(data)

    def shutdown(self, how: int) -> None:
        self.shut.append(how)

    def gettimeout(self) -> float | None:
        return self.timeout

    def settimeout(self, seconds: float | None) -> None:
        self.timeout = seconds

    def setblocking(self, flag: bool) -> None:
        self.timeout = None if flag else 0.0


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, line: str, *arguments: Any) -> None:
        self.lines.append(line % arguments)


class TestPatches:
    def test_the_installed_gunicorn_has_all_that_is_required(self) -> None:
        patches.require_known_gunicorn()

    @pytest.mark.parametrize(("owner", "name"), REQUIRED, ids=[f"{o.__name__}.{name}" for o, name in REQUIRED])
    def test_a_name_that_gunicorn_lacks_is_named(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        monkeypatch.delattr(owner, name)
        sentence = rf"^gunicorn [0-9.]+ has no {owner.__name__}\.{name}; install the version of requirements.txt\.$"
        with pytest.raises(ValueError, match=sentence):
            patches.require_known_gunicorn()

    def test_an_attribute_that_gunicorn_lacks_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Body, "__init__", lambda self, reader: setattr(self, "reader", reader))
        with pytest.raises(ValueError, match=r"has no Body\.failed; install"):
            patches.require_known_gunicorn()

    @pytest.mark.parametrize("ours", OURS)
    def test_every_method_that_is_overridden_is_required(self, ours: type) -> None:
        bases = [base for base in ours.__mro__[1:] if base.__module__.startswith("gunicorn.")]
        names = [name for name, each in vars(ours).items() if callable(each)]
        owners = {name: next((base for base in bases if name in vars(base)), None) for name in names}
        overridden = [(owner, name) for name, owner in owners.items() if owner is not None]
        assert overridden
        assert [each for each in overridden if each not in REQUIRED] == []

    def test_a_second_call_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        replaced = [(http, "RequestParser"), (wsgi, "Response"), (message, "RFC9112_TARGET_INVALID")]
        for owner, name in replaced:
            monkeypatch.setattr(owner, name, getattr(owner, name))  # Restored after the test.
        cfg = Config()
        patches.apply_patches(cfg)
        first = [getattr(owner, name) for owner, name in replaced]
        patches.apply_patches(cfg)
        assert [getattr(owner, name) for owner, name in replaced] == first
        assert first[:2] == [request.BoundedParser, response.Response]

    def test_a_worker_reads_its_settings_without_a_lookup(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for owner, name in ((http, "RequestParser"), (wsgi, "Response"), (message, "RFC9112_TARGET_INVALID")):
            monkeypatch.setattr(owner, name, getattr(owner, name))
        cfg = Config()
        cfg.set("keepalive", 75)
        patches.apply_patches(cfg)
        monkeypatch.delattr(Config, "__getattr__")
        assert (cfg.keepalive, cfg.limit_request_line) == (75, 4094)

    @pytest.mark.parametrize(
        ("lost", "sentence"),
        [
            ("parser.Parser.finish_body", "has no Parser.finish_body; install the version of requirements.txt."),
            ("errors.NoMoreData", "; install what requirements.txt names."),
        ],
        ids=["method", "class"],
    )
    def test_a_start_with_another_gunicorn_fails_with_one_sentence(
        self, tmp_path: Path, lost: str, sentence: str
    ) -> None:
        program = f"from gunicorn.http import errors, parser; del {lost}; from gunicorn.app.wsgiapp import run; run()"
        command = [sys.executable, "-c", program, "run:app"]
        process = start_process(command, tmp_path / "log", PORT=str(free_port()), UPSTREAM="scripted")
        try:
            assert process.wait(60) != 0
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        log = (tmp_path / "log").read_text()
        (told,) = [line for line in log.splitlines() if "INFO" not in line]
        assert told.startswith("The server cannot start. ")
        assert told.endswith(sentence)

    def test_requirements_allow_the_tested_minor_version_only(self) -> None:
        lines = (ROOT / "requirements.txt").read_text().splitlines()
        assert "gunicorn[gevent]>=27.0.1,<27.1" in lines


def answered(wire: Wire, *pieces: bytes, headers: tuple[tuple[str, str], ...] = (), method: str = "GET") -> None:
    req = SimpleNamespace(version=(1, 1), method=method, should_close=lambda: False)
    answer = response.Response(req, wire, Config())
    answer.start_response("200 OK", list(headers))
    for piece in pieces:
        answer.write(piece)
    answer.close()


class TestResponse:
    def test_head_and_body_are_sent_at_once(self) -> None:
        wire = Wire()
        answered(wire, b"hello", headers=(("Content-Length", "5"), ("X-Name", "\xe9")))
        (sent,) = wire.sent
        head, _, body = sent.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nX-Name: \xe9" in head
        assert body == b"hello"

    def test_pieces_of_unknown_length_are_chunks_and_the_first_comes_with_the_head(self) -> None:
        wire = Wire()
        answered(wire, b"hello", b"", b"you")
        assert wire.sent[0].endswith(b"\r\n\r\n5\r\nhello\r\n")
        assert wire.sent[1:] == [b"3\r\nyou\r\n", b"0\r\n\r\n"]

    def test_a_head_without_a_body_is_sent_at_the_end(self) -> None:
        wire = Wire()
        answered(wire, headers=(("Content-Length", "5"),), method="HEAD")
        (sent,) = wire.sent
        assert sent.endswith(b"\r\nContent-Length: 5\r\n\r\n")


class TestSendAll:
    def queue(self, monkeypatch: pytest.MonkeyPatch, *sizes: int) -> None:
        """What the system has unsent, each time it is asked."""
        left = iter(sizes)
        monkeypatch.setattr(response, "_queued_bytes", lambda _: next(left))

    def failing(self, *, times: int, then: int) -> Wire:
        """A connection whose next `times` of `send` time out."""
        wire = Wire(takes=then)
        send, left = wire.send, [TimeoutError()] * times

        def fails(data: bytes | memoryview) -> int:
            if left:
                raise left.pop()
            return send(data)

        wire.send = fails  # type: ignore[method-assign]
        return wire

    def test_data_is_sent_on_until_all_is_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.queue(monkeypatch, 3, 1)
        wire = Wire(takes=2)
        response.send_all(wire, b"hello")
        assert wire.sent == [b"he", b"ll", b"o"]

    def test_a_reader_who_took_a_little_meanwhile_has_more_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.queue(monkeypatch, 900, 800, 700)
        wire = self.failing(times=2, then=200_000)
        response.send_all(wire, b"x" * 200_000)
        assert sum(map(len, wire.sent)) == 200_000

    def test_a_reader_who_took_nothing_is_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.queue(monkeypatch, 900, 900)
        with pytest.raises(response.SlowReader):
            response.send_all(self.failing(times=1, then=0), b"x" * 200_000)

    def test_a_reader_of_a_short_answer_is_left_after_two_timeouts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.queue(monkeypatch, 900, 900)
        with pytest.raises(response.SlowReader):
            response.send_all(self.failing(times=2, then=0), b"hello")

    def test_what_is_queued_is_known_of_a_socket_and_0_without_one(self) -> None:
        one, other = socket.socketpair()
        with one, other:
            one.sendall(b"hello")
            assert response._queued_bytes(one) > 0
        assert response._queued_bytes(one) == 0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock that deadlines are counted by."""
    now = [100.0]
    monkeypatch.setattr(request, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


class TestTimedUnreader:
    def test_a_request_has_no_timeout_and_its_head_a_deadline(self, clock: Callable[[float], None]) -> None:
        wire = Wire(b"GE", b"T", b" /")
        unreader = request.TimedUnreader(wire)
        for _ in range(3):
            unreader.chunk()
            clock(4)
        assert wire.timeouts == [None, 10, 6]
        assert wire.timeout == 30

    def test_a_request_behind_another_one_has_its_deadline_at_once(self, clock: Callable[[float], None]) -> None:
        wire = Wire(b"T /")
        unreader = request.TimedUnreader(wire)
        unreader.unread(b"GE")
        unreader.expect_request()
        unreader.chunk()
        assert wire.timeouts == [10]

    def test_a_body_has_a_new_deadline_after_so_many_bytes(self, clock: Callable[[float], None]) -> None:
        wire = Wire(b"x" * 9_999, b"x", b"x")
        unreader = request.TimedUnreader(wire)
        unreader.expect_body()
        for _ in range(3):
            unreader.chunk(20_000)
            clock(4)
        assert wire.timeouts == [10, 6, 10]

    def test_a_large_body_has_a_new_deadline_after_more_bytes(self, clock: Callable[[float], None]) -> None:
        wire = Wire(b"x" * request.FILE_AFTER_BYTES, b"x", b"x" * 99_998, b"x", b"x" * 100_000, b"x")
        unreader = request.TimedUnreader(wire)
        unreader.expect_body()
        for _ in range(6):
            unreader.chunk(2_000_000)
            clock(3)
        assert wire.timeouts == [10, 10, 7, 4, 10, 10]

    def test_who_misses_the_deadline_is_a_slow_sender(self, clock: Callable[[float], None]) -> None:
        wire = Wire(b"x", TimeoutError())
        unreader = request.TimedUnreader(wire)
        unreader.expect_body()
        unreader.chunk()
        clock(20)
        with pytest.raises(request.SlowSender):
            unreader.chunk()
        assert wire.timeouts == [10, request.MIN_WAIT_SECONDS]
        assert wire.timeout == 30


POST = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
GET = b"GET /next HTTP/1.1\r\nHost: localhost\r\n\r\n"


class TestBoundedParser:
    def parser(self, wire: Wire) -> request.BoundedParser:
        return request.BoundedParser(Config(), wire, ("127.0.0.1", 1))

    @pytest.mark.parametrize(
        "body", [b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
    )
    def test_a_body_that_was_not_read_is_discarded_before_the_next_request(self, body: bytes) -> None:
        parser = self.parser(Wire(POST + body + GET))
        first = next(parser)
        assert request.has_unread(first.body)
        second = next(parser)
        assert not request.has_unread(first.body)
        assert (first.path, second.path) == ("/", "/next")

    def test_the_end_of_too_large_a_body_is_not_awaited(self) -> None:
        size = 2 * request.MAX_DISCARDED_BYTES
        wire = Wire(POST + b"Content-Length: %d\r\n\r\n" % size, b"x" * size, GET)
        parser = self.parser(wire)
        next(parser)
        assert not parser.finish_body()
        assert sum(len(each) for each in wire.pieces if isinstance(each, bytes)) > 0

    def test_a_body_whose_end_cannot_be_found_is_the_last(self) -> None:
        wire = Wire(POST + b"Transfer-Encoding: chunked\r\n\r\nno size\r\n")
        parser = self.parser(wire)
        body = next(parser).body
        with pytest.raises(ParseException):
            body.read()
        assert request.has_unread(body)
        assert not parser.finish_body()
        assert wire.shut == [socket.SHUT_WR]

    def test_before_the_first_request_nothing_is_to_be_discarded(self) -> None:
        assert self.parser(Wire()).finish_body()

    def test_a_body_without_bytes_leaves_nothing_unread(self) -> None:
        assert not request.has_unread(Body(LengthReader(None, 0)))
        assert request.has_unread(Body(ChunkedReader(SimpleNamespace(), SimpleNamespace())))


class TestLinger:
    def test_the_answer_is_ended_and_the_rest_discarded_up_to_a_bound(self) -> None:
        wire = Wire(b"x" * (2 * request.MAX_DISCARDED_BYTES))
        request.linger(wire)
        assert wire.shut == [socket.SHUT_WR]
        assert [len(each) for each in wire.pieces if isinstance(each, bytes)] == [request.MAX_DISCARDED_BYTES]

    @pytest.mark.parametrize("problem", [TimeoutError(), ConnectionResetError()])
    def test_a_caller_who_is_slow_or_gone_is_left(self, problem: Exception) -> None:
        request.linger(Wire(b"x", problem))


class TestUnreadable:
    @pytest.mark.parametrize(
        ("error", "status"),
        [(LimitRequestLine(9, 8), 414), (LimitRequestHeaders("secret"), 431), (InvalidRequestLine("secret"), 400)],
    )
    def test_it_is_answered_in_json_with_an_id_that_the_log_has(self, error: Exception, status: int) -> None:
        wire, log = Wire(), Log()
        assert errors.answer_unreadable(wire, error, log, is_https=False)
        head, _, body = b"".join(wire.sent).partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
        assert int(head.split()[1]) == status
        assert json.loads(body)["code"] == "invalid_request"
        assert int(fields["Content-Length"]) == len(body)
        assert log.lines == [f"request {fields['X-Request-ID']} could not be read: {type(error).__name__}"]
        assert b"secret" not in head + body
        assert wire.shut == [socket.SHUT_WR]

    def test_an_error_of_another_kind_is_left_to_gunicorn(self) -> None:
        wire, log = Wire(), Log()
        assert not errors.answer_unreadable(wire, ValueError("secret"), log, is_https=False)
        assert (wire.sent, wire.shut, log.lines) == ([], [], [])


KEPT = Settings(openai_api_key="key", admin_key="x" * 16, store_url="sqlite:///a.db")
"""Settings that nothing is to be said of."""


class TestStart:
    @pytest.mark.parametrize(
        ("store_url", "workers", "is_refused"),
        [("", 1, False), ("", 2, True), ("memory", 2, True), ("memory://", 2, True), ("sqlite:///a.db", 2, False)],
    )
    def test_several_workers_need_a_shared_store(self, store_url: str, workers: int, is_refused: bool) -> None:
        try:
            start.require_shared_store(Settings(store_url=store_url), workers)
        except SystemExit as refused:
            assert is_refused
            assert str(refused).startswith("The server cannot start")
        else:
            assert not is_refused

    @pytest.mark.parametrize(("workers", "is_loaded_before"), [("1", False), ("2", True)])
    def test_several_workers_load_the_server_once(self, tmp_path: Path, workers: str, is_loaded_before: bool) -> None:
        log = tmp_path / "log"
        env = {"WEB_CONCURRENCY": workers, "UPSTREAM": "scripted", "STORE_URL": f"sqlite:///{tmp_path / 'kept.db'}"}
        command = [sys.executable, "-m", "gunicorn", "--print-config", "run:app"]
        assert start_process(command, log, **env).wait(60) == 0
        printed = dict(line.split("=", 1) for line in log.read_text().splitlines() if " = " in line)
        assert {name.strip(): value.strip() for name, value in printed.items()}["preload_app"] == str(is_loaded_before)

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            (Settings(openai_api_key="key"), ["OPEN"]),
            (Settings(openai_api_key="key", admin_key="x" * 16), ["vanish at a restart"]),
            (KEPT, []),
            (replace(KEPT, daily_token_budget=4096), ["4096 tokens are reserved"]),
            (replace(KEPT, daily_token_budget=4097), []),
            (replace(KEPT, daily_token_budget=300, default_max_tokens=200), []),
            (replace(KEPT, daily_token_budget=200, default_max_tokens=200), ["DEFAULT_MAX_TOKENS"]),
            (Settings(openai_base_url="http://localhost/v1"), ["OPEN"]),
            (Settings(admin_key="x" * 16), ["No model is set", "vanish at a restart"]),
            (Settings(upstream="scripted"), ["OPEN", "DEMONSTRATION"]),
            (Settings(openai_api_key="key", database_url="postgres://host/db"), ["DATABASE_URL", "OPEN"]),
            (Settings(openai_api_key="key", database_url="postgres://host/db", store_url="memory"), ["OPEN"]),
        ],
    )
    def test_what_is_seldom_meant_is_warned_of(self, settings: Settings, words: list[str]) -> None:
        found = start.warnings(settings)
        assert len(found) == len(words)
        assert all(word in sentence for word, sentence in zip(words, found, strict=True))

    def test_names_in_the_dotenv_file_that_are_hardly_meant_are_warned_of(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert start.dotenv_warnings() == []
        (tmp_path / ".env").write_text("ADMIN_KEY=good\n# PORT=1\nPORT=2\nexport ADMIN_KEY=bad\nLOG_LEVL=info\n")
        repeated, misspelt = start.dotenv_warnings()
        assert repeated == "The file .env sets ADMIN_KEY more than once, and the last line counts; remove the others."
        assert "LOG_LEVL" in misspelt and "LOG_LEVEL" in misspelt

    @pytest.mark.parametrize(
        ("settings", "is_refused"),
        [
            (Settings(public_url="https://bot.example.com"), True),
            (Settings(render_external_url="https://a.onrender.com"), True),
            (Settings(public_url="https://bot.example.com", allow_open=True), False),
            (Settings(public_url="https://bot.example.com", admin_key="x" * 16), False),
            (Settings(), False),
        ],
    )
    def test_a_server_with_a_public_address_is_protected_or_open_on_purpose(
        self, settings: Settings, is_refused: bool
    ) -> None:
        try:
            start.require_protection(settings)
        except SystemExit as refused:
            assert is_refused
            assert "ADMIN_KEY" in str(refused) and "ALLOW_OPEN" in str(refused)
        else:
            assert not is_refused

    def test_a_setting_that_does_not_fit_ends_the_start_with_a_sentence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PORT", "no")
        with pytest.raises(SystemExit, match=r"^The server cannot start\. PORT: "):
            start.read_settings()


class Exited(BaseException):
    """Stands for the end of the process."""


def exit_here(*_: object) -> None:
    raise Exited


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> dict[int, object]:
    """What handles each signal, instead of the handlers of the test's own process."""
    found: dict[int, object] = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    monkeypatch.setattr(signal, "getsignal", found.get)
    monkeypatch.setattr(signal, "signal", found.__setitem__)
    monkeypatch.setattr(signals, "exit_now", exit_here)
    return found


class TestSignals:
    def test_a_start_ends_at_a_signal(self, handlers: dict[int, object]) -> None:
        signals.end_while_starting()
        assert handlers == {signal.SIGTERM: exit_here, signal.SIGINT: exit_here}

    def test_handlers_that_are_set_stay(self, handlers: dict[int, object]) -> None:
        handlers[signal.SIGTERM] = "gunicorn's"
        signals.end_while_starting()
        assert handlers[signal.SIGTERM] == "gunicorn's"

    def test_a_worker_ends_at_a_signal_from_before_its_fork_and_at_no_other(self, handlers: dict[int, object]) -> None:
        received: queue.SimpleQueue[int] = queue.SimpleQueue()
        arbiter = SimpleNamespace(SIG_QUEUE=received)
        received.put(signal.SIGCHLD)
        signals.end_while_booting(arbiter)
        assert handlers[signal.SIGQUIT] is exit_here
        received.put(signal.SIGTERM)
        with pytest.raises(Exited):
            signals.end_while_booting(arbiter)


class ConfiguredWorker(worker.Worker):
    client_timeout_seconds = 7.0
    graceful_seconds = 5.0
    is_https = False


@pytest.fixture
def booted() -> Iterator[ConfiguredWorker]:
    """A worker that serves an app, without its process."""
    made = ConfiguredWorker(0, 0, [], None, 30, Config(), Log())
    made.booted = True
    runner = SimpleNamespace(shut_down=lambda seconds: ended.append(seconds))
    metrics = SimpleNamespace(flush=lambda: ended.append("shared"))
    store = SimpleNamespace(close=lambda: ended.append("closed"))
    ended: list[object] = []
    made.wsgi = SimpleNamespace(extensions={"runner": runner, "metrics": metrics, "store": store}, ended=ended)
    yield made
    made.tmp.close()


class TestWorker:
    def test_a_connection_has_the_timeout_of_slow_readers(
        self, booted: ConfiguredWorker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[object] = []
        monkeypatch.setattr(AsyncWorker, "handle", lambda *arguments: seen.append(arguments[2].timeout))
        booted.handle(None, Wire(), None)
        assert seen == [7.0]

    def test_an_idle_connection_is_ended_silently_by_the_stop(self, booted: ConfiguredWorker) -> None:
        def idle() -> str:
            with booted.timeout_ctx():
                gevent.sleep(60)
                return "a request"
            return "ended"

        connection = gevent.spawn(idle)
        gevent.sleep(0)
        assert len(booted.idle) == 1
        booted.handle_exit(signal.SIGTERM, None)
        assert connection.get(timeout=20) == "ended"
        assert booted.idle == {}
        assert not booted.alive

    def test_a_request_that_came_before_the_end_of_its_wait_is_served(self, booted: ConfiguredWorker) -> None:
        with booted.timeout_ctx() as timeout:
            pass
        booted._end_idle(timeout)

    def test_a_worker_that_is_stopping_waits_for_no_further_request(self, booted: ConfiguredWorker) -> None:
        assert booted.timeout_ctx().seconds == booted.cfg.keepalive
        booted.alive = False
        assert booted.timeout_ctx().seconds == 0

    def test_its_end_waits_for_open_runs_and_closes_the_store(self, booted: ConfiguredWorker) -> None:
        booted.handle_exit(signal.SIGTERM, None)
        booted.release()
        assert booted.wsgi.ended == [5.0, "shared", "closed"]

    def test_a_worker_whose_app_could_not_be_loaded_has_nothing_to_close(self, booted: ConfiguredWorker) -> None:
        del booted.wsgi
        booted.release()

    @pytest.mark.parametrize("name", ["handle_exit", "handle_quit"])
    def test_a_signal_before_it_serves_ends_it_at_once(
        self, booted: ConfiguredWorker, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setattr(worker, "exit_now", exit_here)
        booted.booted = False
        with pytest.raises(Exited):
            getattr(booted, name)(signal.SIGTERM, None)

    def test_a_second_interrupt_changes_nothing(
        self, booted: ConfiguredWorker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[object] = []
        monkeypatch.setattr(GeventWorker, "handle_quit", lambda *arguments: seen.append(arguments))
        for _ in range(2):
            booted.handle_quit(signal.SIGINT, None)
        assert len(seen) == 1

    def test_a_body_left_unread_at_the_end_of_a_connection_is_drained(
        self, booted: ConfiguredWorker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def ends(*_: object) -> None:
            raise StopIteration

        monkeypatch.setattr(GeventWorker, "handle_request", ends)
        for left, shut in ((0, []), (1, [socket.SHUT_WR])):
            wire = Wire()
            req = SimpleNamespace(body=Body(LengthReader(None, left)))
            with pytest.raises(StopIteration):
                booted.handle_request(None, req, wire, None)
            assert wire.shut == shut

    def test_an_error_that_is_no_parse_error_is_gunicorns(
        self, booted: ConfiguredWorker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[object] = []
        monkeypatch.setattr(GeventWorker, "handle_error", lambda *arguments: seen.append(arguments[4]))
        wire = Wire()
        booted.handle_error(None, wire, None, InvalidRequestLine("x"))
        assert (seen, wire.sent[0][:12]) == ([], b"HTTP/1.1 400")
        problem = ValueError()
        booted.handle_error(None, wire, None, problem)
        assert seen == [problem]

    def test_a_listener_whose_buffer_cannot_be_bounded_is_left_as_it_is(self) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            worker.bound_send_buffer(listener)

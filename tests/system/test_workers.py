"""Many worker processes over one store, as users start them: every rule holds whoever is asked."""

import json
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.process import ServerProcess, eventually, serve
from tests.support.redis_server import needs_redis, redis_server
from tests.support.replies import ScriptedReplies
from tests.support.replies_over_http import SwitchableReplies, serve_replies
from tests.system.test_serving import Line, assert_strict_histories

AtOnce = Callable[..., Any]
Lasting = tuple[ServerProcess, ServerProcess, ServerProcess, SwitchableReplies]


@pytest.fixture
def replies() -> ScriptedReplies:
    return ScriptedReplies("slow", "slower")


STORES = ["sqlite", pytest.param("redis", marks=needs_redis)]


@contextmanager
def store(kind: str, folder: Path) -> Iterator[str]:
    """The address of an empty store."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/kept.db"
    else:
        with redis_server() as server:
            yield server.url


@pytest.fixture(scope="module", params=STORES)
def lasting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lasting]:
    """Servers over one store for all who leave them as they were, and their upstream: two, and one of four workers."""
    handed = SwitchableReplies()
    with ExitStack() as stack:
        store_url = stack.enter_context(store(request.param, tmp_path_factory.mktemp("store")))
        env = {"OPENAI_BASE_URL": stack.enter_context(serve_replies(handed)), "STORE_URL": store_url}
        here, there = started_together(stack, **env)
        four = stack.enter_context(serve("--preload", **env, WEB_CONCURRENCY="4"))  # As on Render.
        yield here, there, four, handed


@pytest.fixture
def emptied(lasting: Lasting, replies: ScriptedReplies) -> Iterator[Lasting]:
    """The same, with nothing of the tests before."""
    *_, four, handed = lasting
    four.forget("ada", *(f"client{n}" for n in range(10)))
    handed.current = replies
    yield lasting
    replies.release()


@pytest.fixture
def pair(emptied: Lasting) -> tuple[ServerProcess, ServerProcess]:
    """Two servers, so that a test knows which process it asks."""
    return emptied[0], emptied[1]


@pytest.fixture
def four(emptied: Lasting) -> ServerProcess:
    """A server of four workers."""
    return emptied[2]


@pytest.fixture(params=STORES)
def env(request: pytest.FixtureRequest, replies: ScriptedReplies, tmp_path: Path) -> Iterator[dict[str, str]]:
    """For servers of a test's own."""
    with store(request.param, tmp_path) as store_url, serve_replies(replies) as url:
        yield {"OPENAI_BASE_URL": url, "STORE_URL": store_url}


@pytest.fixture
def mortal_pair(env: dict[str, str]) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """Two servers that may be killed, of which also those who hold no lock on a file hear within seconds."""
    with ExitStack() as stack:
        yield started_together(stack, **env, LEASE_SECONDS="3")


def started_together(stack: ExitStack, **env: str) -> tuple[ServerProcess, ServerProcess]:
    """Two servers, each of one worker, started side by side."""
    with ThreadPoolExecutor(2) as threads:
        here, there = threads.map(lambda _: stack.enter_context(serve(**env, WEB_CONCURRENCY="1")), range(2))
    return here, there


def frames(stream: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in stream.split(b"\n") if line.startswith(b"data: ")]


def stream_id(line: Line) -> str:
    found: str = frames(line.read_until(b'"stream_id"'))[0]["stream_id"]
    return found


class Resumed(Line):
    """A raw connection that reads a stream from a place on."""

    def __init__(self, served: ServerProcess, run_id: str, position: int) -> None:
        self.received = b""
        self.socket = socket.create_connection(("127.0.0.1", served.port), timeout=20)
        head = f"GET /chat/stream/{run_id} HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: {position}\r\n\r\n"
        self.socket.sendall(head.encode())


def test_four_workers_keep_two_hundred_questions_in_order(
    four: ServerProcess, replies: ScriptedReplies, at_once: AtOnce
) -> None:
    assert eventually(lambda: four.log().count("Booting worker") == 4)
    asked = [at_once(four.query, f"client{n % 10}", f"q{n}") for n in range(200)]
    assert [each.result() for each in asked] == [(200, {"response": f"re: q{n}"}) for n in range(200)]
    assert_strict_histories(four, questions=200, clients=10)
    assert sorted(replies.calls) == sorted(f"q{n}" for n in range(200))


def test_four_workers_pay_an_identical_question_once(
    four: ServerProcess, replies: ScriptedReplies, at_once: AtOnce
) -> None:
    asked = [at_once(four.query, "ada", "slow", Prefer="wait=0") for _ in range(40)]
    assert len({(each.result()[0], each.result()[1]["run_id"]) for each in asked}) == 1
    replies.end("slow", "once")
    assert four.query("ada", "slow") == (200, {"response": "once"})
    assert four.history("ada") == ["slow", "once"]
    assert replies.calls == ["slow"]


def test_a_question_waits_for_the_one_that_another_process_answers(
    pair: tuple[ServerProcess, ServerProcess], replies: ScriptedReplies, at_once: AtOnce
) -> None:
    here, there = pair
    first = at_once(here.query, "ada", "slow")
    replies.await_call("slow")
    second = at_once(there.query, "ada", "next")
    assert there.query("ada", "next", Prefer="wait=0")[0] == 202
    assert replies.calls == ["slow"]
    replies.end("slow", "ok")
    assert (first.result(), second.result()) == ((200, {"response": "ok"}), (200, {"response": "re: next"}))
    assert here.history("ada") == ["slow", "ok", "next", "re: next"]


def test_a_request_id_holds_in_every_process(
    pair: tuple[ServerProcess, ServerProcess], replies: ScriptedReplies
) -> None:
    here, there = pair
    assert here.query("ada", "why?", Idempotency_Key="id") == (200, {"response": "re: why?"})
    assert there.query("ada", "why?", Idempotency_Key="id") == (200, {"response": "re: why?"})
    assert there.query("ada", "what?", Idempotency_Key="id")[0] == 409
    assert replies.calls == ["why?"]


def test_a_reply_that_is_written_in_one_process_is_delivered_in_the_other(
    pair: tuple[ServerProcess, ServerProcess], replies: ScriptedReplies, at_once: AtOnce
) -> None:
    here, there = pair
    assert here.query("ada", "slow", Prefer="wait=0")[0] == 202
    replies.await_call("slow")
    waiting = at_once(there.query, "ada", "slow")
    replies.end("slow", "ok")
    assert waiting.result() == (200, {"response": "ok"})
    assert replies.calls == ["slow"]


def test_a_stream_is_resumed_in_another_process_while_it_is_written(
    pair: tuple[ServerProcess, ServerProcess], replies: ScriptedReplies
) -> None:
    here, there = pair
    line = Line(here, "slow", "text/event-stream")
    replies.say("slow", "왜 be")
    line.read_until("왜 be".encode())
    run_id = stream_id(line)
    line.hang_up()
    resumed = Resumed(there, run_id, 2)
    assert stream_id(resumed) == run_id
    replies.end("slow", "cause")
    resumed.read_until(b'"END"')
    chunks = [each["content"] for each in frames(resumed.received) if each["type"] == "CHUNK"]
    assert "".join(chunks) == "because"
    assert frames(resumed.received)[-1]["full_content"] == "왜 because"


def test_clearing_in_one_process_stops_what_the_other_writes(
    pair: tuple[ServerProcess, ServerProcess], replies: ScriptedReplies, at_once: AtOnce
) -> None:
    here, there = pair
    asked = at_once(here.query, "ada", "slow")
    replies.await_call("slow")
    assert there.ask("DELETE", "/history?client_name=ada")[0] == 200
    status, answer = asked.result()
    assert (status, answer["code"]) == (409, "run_cancelled")
    assert here.query("ada", "after") == (200, {"response": "re: after"})
    assert there.history("ada") == ["after", "re: after"]


def test_what_a_killed_process_wrote_is_interrupted_and_the_conversation_goes_on(
    mortal_pair: tuple[ServerProcess, ServerProcess], replies: ScriptedReplies, at_once: AtOnce
) -> None:
    here, there = mortal_pair
    asked = at_once(here.query, "ada", "slow")
    replies.await_call("slow")
    here.kill()
    assert asked.exception() is not None
    assert there.query("ada", "next") == (200, {"response": "re: next"})
    assert there.history("ada") == ["next", "re: next"]


def test_who_waits_in_another_process_is_told_that_the_worker_died(
    mortal_pair: tuple[ServerProcess, ServerProcess], replies: ScriptedReplies
) -> None:
    here, there = mortal_pair
    assert here.query("ada", "slow", Prefer="wait=0")[0] == 202
    replies.await_call("slow")
    waiting = Line(there, "slow", "text/event-stream")
    assert stream_id(waiting)  # It has joined.
    here.kill()
    assert frames(waiting.read_until(b"run_interrupted"))[-1]["code"] == "run_interrupted"
    assert there.history("ada") == []


def test_everything_is_there_after_a_restart(env: dict[str, str]) -> None:
    with serve(**env) as served:
        served.ask("POST", "/model", {"client_name": "ada", "model": "told"})
        served.query("ada", "왜 👩‍👩‍👧")
        assert served.stop() == 0
    with serve(**env) as served:
        assert served.history("ada") == ["왜 👩‍👩‍👧", "re: 왜 👩‍👩‍👧"]
        assert served.ask("GET", "/model?client_name=ada") == (200, {"model": "told"})


def test_a_stream_is_stopped_from_another_process_with_what_was_told(
    pair: tuple[ServerProcess, ServerProcess], replies: ScriptedReplies
) -> None:
    here, there = pair
    line = Line(here, "slow", "text/event-stream")
    replies.say("slow", "be")
    run_id = stream_id(line)
    resumed = Resumed(there, run_id, 0)
    resumed.read_until(b"CHUNK")
    assert there.ask("DELETE", f"/chat/stream/{run_id}")[0] == 200
    assert frames(line.read_until(b"STOPPED"))[-1]["full_content"] == "be"
    assert frames(resumed.read_until(b"STOPPED"))[-1]["full_content"] == "be"
    assert there.history("ada") == here.history("ada") == ["slow", "be"]


class Shut:
    """A store that a test takes away and gives back."""

    def __init__(self, url: str, take: Callable[[], object], give: Callable[[], object]) -> None:
        self.url = url
        self.take = take
        self.give = give


@pytest.fixture(params=STORES)
def shut(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shut]:
    if request.param == "sqlite":
        folder, away = tmp_path / "data", tmp_path / "away"
        folder.mkdir()
        yield Shut(f"sqlite:///{folder}/kept.db", lambda: folder.rename(away), lambda: away.rename(folder))
    else:
        with redis_server(appendonly="yes", appendfsync="always") as server:
            yield Shut(server.url, lambda: server.stop(signal.SIGKILL), server.start)


def test_a_store_that_goes_and_comes_back_loses_nothing_and_holds_up_nobody(
    shut: Shut, replies: ScriptedReplies, at_once: AtOnce
) -> None:
    with serve_replies(replies) as url, serve(OPENAI_BASE_URL=url, STORE_URL=shut.url) as served:
        assert served.query("ada", "why?") == (200, {"response": "re: why?"})
        assert served.ask("GET", "/readyz")[0] == 200
        asked = at_once(served.query, "ada", "slow")
        replies.await_call("slow")
        shut.take()
        replies.end("slow", "paid for")
        status, answer = asked.result()
        assert (status, answer["code"]) == (500, "store_unavailable")
        assert served.ask("GET", "/readyz")[0] == 503
        assert served.ask("GET", "/healthz")[0] == 200
        status, answer = served.query("eve", "hello")
        assert (status, answer["code"]) == (500, "store_unavailable")
        shut.give()
        assert eventually(lambda: served.ask("GET", "/readyz")[0] == 200)
        assert eventually(lambda: served.history("ada")[2:] == ["slow", "paid for"])
        assert served.query("ada", "slow") == (200, {"response": "paid for"})
        assert served.history("ada") == ["why?", "re: why?", "slow", "paid for"]
        assert served.query("eve", "hello") == (200, {"response": "re: hello"})
    assert replies.calls == ["why?", "slow", "hello"]

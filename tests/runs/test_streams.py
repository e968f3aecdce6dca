"""Streams of every dialect: read, resumed at `GET /chat/stream/{stream_id}`, stopped."""

import http.client
import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from server import errors
from server.domain import Run
from server.http import sse
from server.runs import live
from server.runs.events import TextDelta
from server.runs.live import LiveRun
from server.store.memory import MemoryStore
from tests.support.process import ServerProcess, serve
from tests.support.replies import PATIENCE_SECONDS, ScriptedReplies
from tests.support.replies_over_http import serve_replies

AtOnce = Callable[..., Any]
STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def replies() -> ScriptedReplies:
    return ScriptedReplies("slow")


def events(response: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """The id and data of each event in order, without comments."""
    for frame in response.iter_encoded():
        if not frame.startswith(b":"):
            number, kind, data, *rest = frame.decode().split("\n")
            assert kind == "event: chunk"
            assert rest == ["", ""]
            yield int(number.removeprefix("id: ")), json.loads(data.removeprefix("data: "))


def stream(client: FlaskClient, question: str, **more: Any) -> Any:
    body = {"client_name": "ada", "input": question, **more}
    return client.post("/query", json=body, headers=STREAM, buffered=False)


def resume_stream(client: FlaskClient, stream_id: str, position: Any = None) -> Any:
    headers = {} if position is None else {"Last-Event-ID": str(position)}
    return client.get(f"/chat/stream/{stream_id}", headers=headers, buffered=False)


def contents(client: FlaskClient) -> list[str]:
    return [each["content"] for each in client.get("/history", query_string={"client_name": "ada"}).json]


def test_a_query_streams_start_chunks_and_end(client: FlaskClient) -> None:
    answer = stream(client, "안녕")
    assert answer.mimetype == "text/event-stream"
    stream_id = answer.headers["X-Stream-ID"]
    assert list(events(answer)) == [
        (0, {"type": "START", "stream_id": stream_id}),
        (6, {"type": "CHUNK", "content": "re: 안녕"}),
        (6, {"type": "END", "full_content": "re: 안녕", "usage": {**USAGE}}),
    ]
    assert contents(client) == ["안녕", "re: 안녕"]


USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def test_korean_leaves_as_utf_8(client: FlaskClient) -> None:
    assert "안녕".encode() in b"".join(stream(client, "안녕").iter_encoded())


def test_the_stream_is_known_before_a_word_was_written(client: FlaskClient, replies: ScriptedReplies) -> None:
    answer = stream(client, "slow")
    assert next(events(answer)) == (0, {"type": "START", "stream_id": answer.headers["X-Stream-ID"]})
    replies.end("slow", "ok")


def test_a_reader_who_leaves_midway_loses_nothing_and_it_is_paid_once(
    client: FlaskClient, replies: ScriptedReplies
) -> None:
    answer = stream(client, "slow")
    here = events(answer)
    next(here)
    replies.say("slow", "half")
    assert next(here) == (4, {"type": "CHUNK", "content": "half"})
    answer.close()
    replies.end("slow", " whole")
    assert list(events(resume_stream(client, answer.headers["X-Stream-ID"], 4)))[-1][1]["full_content"] == "half whole"
    assert contents(client) == ["slow", "half whole"]
    assert replies.calls == ["slow"]


def test_a_stream_is_resumed_at_any_character_during_and_after_the_run(
    client: FlaskClient, replies: ScriptedReplies
) -> None:
    stream_id = stream(client, "slow").headers["X-Stream-ID"]
    replies.say("slow", "안녕👩‍👩‍👧")
    here = events(resume_stream(client, stream_id, 1))
    assert next(here) == (1, {"type": "START", "stream_id": stream_id})
    assert next(here) == (7, {"type": "CHUNK", "content": "녕👩‍👩‍👧"})
    replies.end("slow", "!")
    assert [data["type"] for _, data in here] == ["CHUNK", "END"]
    for position in range(9):
        pieces = [
            data["content"] for _, data in events(resume_stream(client, stream_id, position)) if "content" in data
        ]
        assert "".join(pieces) == "안녕👩‍👩‍👧!"[position:]


@pytest.mark.parametrize("position", ["-1", "x", "1.5", "", "٣", "1e3", "9" * 20, "+1"])
def test_a_position_that_is_no_number_is_refused(client: FlaskClient, position: str) -> None:
    stream_id = stream(client, "hi").headers["X-Stream-ID"]
    answer = client.get(f"/chat/stream/{stream_id}", headers={"Last-Event-ID": position.encode().decode("latin-1")})
    assert answer.status_code == 400
    assert set(answer.json) == {"error", "code", "detail"}


def test_a_position_beyond_a_completed_reply_is_refused(client: FlaskClient) -> None:
    answer = stream(client, "hi")
    list(events(answer))
    beyond = resume_stream(client, answer.headers["X-Stream-ID"], 7)
    assert (beyond.status_code, beyond.json["code"]) == (400, "invalid_position")


def test_an_unknown_stream_is_404(client: FlaskClient) -> None:
    answer = client.get("/chat/stream/run_nobody")
    assert (answer.status_code, answer.json["code"], answer.json["detail"]) == (
        404,
        "not_found",
        answer.json["error"],
    )


def test_a_failure_after_the_first_byte_is_the_last_event(client: FlaskClient, replies: ScriptedReplies) -> None:
    answer = stream(client, "slow")
    replies.say("slow", "half")
    replies.fail("slow", errors.UpstreamCut())
    *_, (position, last) = events(answer)
    assert (position, last["type"], last["code"]) == (4, "ERROR", "upstream_cut")
    *_, (_, again) = events(resume_stream(client, answer.headers["X-Stream-ID"], 99))
    assert again["code"] == "upstream_cut"


def test_a_failure_before_the_run_is_an_ordinary_answer(client: FlaskClient) -> None:
    client.post("/query", json={"client_name": "ada", "input": "hi", "request_id": "1"})
    answer = stream(client, "ho", request_id="1")
    assert (answer.status_code, answer.json["code"]) == (409, "request_id_conflict")
    assert stream(client, "").status_code == 400


def test_a_stopped_stream_keeps_its_text_and_answers_later_readers(
    app: Flask, client: FlaskClient, replies: ScriptedReplies
) -> None:
    answer = stream(client, "slow")
    here = events(answer)
    next(here)
    replies.say("slow", "half")
    next(here)
    app.extensions["runner"].cancel(answer.headers["X-Stream-ID"])
    assert list(here) == [(4, {"type": "STOPPED", "full_content": "half"})]
    assert [data["type"] for _, data in events(resume_stream(client, answer.headers["X-Stream-ID"]))] == [
        "START",
        "CHUNK",
        "STOPPED",
    ]
    assert contents(client) == ["slow", "half"]


def test_a_cleared_conversations_stream_stops_and_is_gone(client: FlaskClient, replies: ScriptedReplies) -> None:
    answer = stream(client, "slow")
    here = events(answer)
    next(here)
    client.delete("/history", query_string={"client_name": "ada"})
    assert [data["type"] for _, data in here] == ["STOPPED"]
    assert client.get(f"/chat/stream/{answer.headers['X-Stream-ID']}").status_code == 404


def test_the_same_open_question_is_joined_as_json_and_as_a_stream(
    client: FlaskClient, replies: ScriptedReplies, at_once: AtOnce
) -> None:
    answer = stream(client, "slow")
    waiting = at_once(client.post, "/query", json={"client_name": "ada", "input": "slow"})
    other = stream(client, "slow")
    assert other.headers["X-Stream-ID"] == answer.headers["X-Stream-ID"]
    replies.end("slow", "once")
    assert waiting.result().json == {"response": "once"}
    assert replies.calls == ["slow"]


def test_silence_is_broken_by_a_comment(
    client: FlaskClient, replies: ScriptedReplies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "KEEPALIVE_SECONDS", 0.0)
    frames = stream(client, "slow").iter_encoded()
    next(frames)
    assert next(frames) == next(frames) == sse.KEEPALIVE
    replies.end("slow")
    assert sse.KEEPALIVE.startswith(b":")
    assert sse.KEEPALIVE.endswith(b"\n\n")


@pytest.mark.parametrize(
    ("accept", "is_stream"),
    [
        ("text/event-stream", True),
        ("text/event-stream, application/json;q=0.5", True),
        ("application/json, text/event-stream;q=0.5", False),
        ("*/*", False),
        ("application/json", False),
        ("", False),
    ],
)
def test_an_event_stream_is_given_to_who_asks_for_one(client: FlaskClient, accept: str, is_stream: bool) -> None:
    answer = client.post("/query", json={"client_name": "ada", "input": "hi"}, headers={"Accept": accept})
    assert (answer.mimetype == "text/event-stream") is is_stream


def test_a_post_that_resumes_is_refused_and_changes_nothing(client: FlaskClient) -> None:
    headers = {**STREAM, "Last-Event-ID": "3"}
    answer = client.post("/query", json={"client_name": "ada", "input": "hi"}, headers=headers)
    assert (answer.status_code, answer.json["code"]) == (400, "invalid_position")
    assert contents(client) == []


class Source:
    """Events that record whether they were closed. The test holds them, so that only an explicit close can end them."""

    def __init__(self) -> None:
        self.closed = False
        self.reading = self._read()

    def _read(self) -> Any:
        try:
            yield TextDelta("a", 1)
            yield TextDelta("b", 2)
            yield Run("why?").ended_as("completed", 1.0, text="ab")
        finally:
            self.closed = True


class TestAStreamGivesItsSourceBack:
    @pytest.fixture(autouse=True)
    def context(self, app: Flask) -> Iterator[None]:
        with app.test_request_context("/query"):
            yield

    def test_read_to_the_end(self) -> None:
        source = Source()
        assert len(list(sse.stream_run("run_1", 0, source.reading).iter_encoded())) == 4
        assert source.closed

    def test_left_midway(self) -> None:
        source = Source()
        response = sse.stream_run("run_1", 0, source.reading)
        body = response.iter_encoded()
        next(body)
        next(body)
        response.close()
        assert source.closed

    def test_a_reader_that_is_closed_no_longer_counts_as_company(self) -> None:
        live = LiveRun("ada", Run("why?", text="half"), streamed=True)
        reading = live.read(0, lambda: True)
        response = sse.stream_run("run_1", 0, reading)
        body = response.iter_encoded()
        next(body)
        next(body)
        assert live.has_waiters()
        response.close()
        assert not live.has_waiters()

    def test_never_read(self) -> None:
        live = LiveRun("ada", Run("why?"), streamed=True)
        reading = live.read(0, lambda: True)
        sse.stream_run("run_1", 0, reading).close()
        assert not live.has_waiters()
        assert list(reading) == []


def test_a_stream_that_is_written_here_can_be_read_while_the_store_fails(
    client: FlaskClient, replies: ScriptedReplies, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: str) -> Run:
        raise errors.StoreUnavailable

    stream_id = stream(client, "slow").headers["X-Stream-ID"]
    monkeypatch.setattr(store, "get_run", fail)
    here = events(resume_stream(client, stream_id))
    replies.end("slow", "ok")
    assert [data["type"] for _, data in here] == ["START", "CHUNK", "END"]


def test_stream_ids_are_runs_ids(client: FlaskClient) -> None:
    assert re.fullmatch(r"run_[0-9a-f]{32}", stream(client, "hi").headers["X-Stream-ID"])


def by_query(client: FlaskClient) -> Any:
    return stream(client, "slow")


def by_chat(client: FlaskClient) -> Any:
    stream_id = client.post("/chat/stream", json={"message": "slow"}).headers["X-Stream-ID"]
    return resume_stream(client, stream_id)


def by_clients_chat(client: FlaskClient) -> Any:
    body = {"message": "slow", "client_name": "ada"}
    return resume_stream(client, client.post("/chat/stream", json=body).json["stream_id"])


def by_session(client: FlaskClient) -> Any:
    session_id = client.post("/api/sessions").json["session_id"]
    return client.post("/api/chat/stream", json={"session_id": session_id, "message": "slow"}, buffered=False)


def by_thread(client: FlaskClient) -> Any:
    """Events of the assistants dialect have no positions. They have the id under which the stream is read."""
    thread = client.post("/api/v1/threads", json={"messages": [{"role": "user", "content": "slow"}]}).json["id"]
    body = {"assistant_id": "asst_default", "stream": True}
    answer = client.post(f"/api/v1/threads/{thread}/runs", json=body, buffered=False)
    answer.close()
    return resume_stream(client, answer.headers["X-Stream-ID"])


DIALECTS = {
    "query": by_query,
    "chat": by_chat,
    "a client's chat": by_clients_chat,
    "session": by_session,
    "thread": by_thread,
}
"""Each asks `slow` and reads the stream of its reply."""

PIECES = ["안", "녕, ", "👩‍", "👩‍👧", " a\n\ndata: b", "é", "e\u0301", "\u2028\r\n", ": x", "끝" * 500, "{}", "."]


def pieces(response: Any) -> Iterator[tuple[int, str]]:
    """The id and the text of each event in any dialect's format; the text is empty for other events."""
    for frame in response.iter_encoded():
        if not frame.startswith(b":"):
            fields = dict(line.split(": ", 1) for line in frame.decode().strip("\n").split("\n"))
            yield int(fields["id"]), json.loads(fields["data"]).get("content", "")


@pytest.fixture(params=DIALECTS.values(), ids=DIALECTS)
def start_stream(request: pytest.FixtureRequest) -> Callable[[FlaskClient], Any]:
    start: Callable[[FlaskClient], Any] = request.param
    return start


class TestEveryDialect:
    """What holds for a stream of every dialect."""

    def test_it_tells_its_name(self, client: FlaskClient, replies: ScriptedReplies, start_stream: Any) -> None:
        answer = start_stream(client)
        first = next(answer.iter_encoded()).decode()
        stream_id = answer.headers["X-Stream-ID"]
        assert re.fullmatch(r"run_[0-9a-f]{32}", stream_id)
        assert f'"stream_id":"{stream_id}"' in first
        assert resume_stream(client, stream_id).headers["X-Stream-ID"] == stream_id
        replies.end("slow", "ok")

    @pytest.mark.parametrize("seed", range(5))
    def test_a_reader_who_drops_again_and_again_gets_each_character_once_and_in_order(
        self, client: FlaskClient, replies: ScriptedReplies, start_stream: Any, seed: int
    ) -> None:
        """It disconnects before or after it has read what is there, and may have lost the last events."""
        luck = random.Random(seed)
        answer = start_stream(client)
        stream_id = answer.headers["X-Stream-ID"]
        said, got = "", ""
        for piece in [luck.choice(PIECES) for _ in range(40)]:
            said += piece
            replies.say("slow", piece)
            reading = pieces(answer)
            while len(got) < len(said) and luck.random() < 0.7:
                position, text = next(reading)
                if luck.random() < 0.2:
                    break
                got += text
                assert position == len(got)
            answer.close()
            answer = resume_stream(client, stream_id, len(got))
        replies.end("slow")
        for position, text in pieces(answer):
            got += text
            assert position == len(got)
        assert got == said
        assert replies.calls == ["slow"]

    def test_three_readers_see_the_same_text_each_at_its_own_pace(
        self, client: FlaskClient, replies: ScriptedReplies, start_stream: Any, at_once: AtOnce
    ) -> None:
        first = start_stream(client)
        stream_id = first.headers["X-Stream-ID"]

        def read_whole(response: Any) -> str:
            return "".join(text for _, text in pieces(response))

        def read_in_parts() -> str:
            text = ""
            while not text.endswith("END"):
                response = resume_stream(client, stream_id, len(text))
                text += next(text for _, text in pieces(response) if text)
                response.close()
            return text

        readers = [
            at_once(read_whole, first),
            at_once(read_whole, resume_stream(client, stream_id)),
            at_once(read_in_parts),
        ]
        for piece in PIECES * 5:
            replies.say("slow", piece)
        replies.end("slow", "END")
        assert {reader.result() for reader in readers} == {"".join(PIECES * 5) + "END"}

    def test_one_that_is_stopped_keeps_its_text_and_answers_later_readers(
        self, client: FlaskClient, replies: ScriptedReplies, start_stream: Any
    ) -> None:
        answer = start_stream(client)
        stream_id = answer.headers["X-Stream-ID"]
        replies.say("slow", "반쪽")
        assert next(text for _, text in pieces(answer) if text) == "반쪽"
        assert client.delete(f"/chat/stream/{stream_id}").json == {"stream_id": stream_id, "status": "stopped"}
        replies.end("slow", " more")
        for position in (0, 1, 2):
            *_, (last, data) = events(resume_stream(client, stream_id, position))
            assert (last, data) == (2, {"type": "STOPPED", "full_content": "반쪽"})
        assert "".join(text for _, text in pieces(resume_stream(client, stream_id, 1))) == "쪽"

    def test_a_bad_position_is_refused_and_one_ahead_of_an_open_reply_waits(
        self, client: FlaskClient, replies: ScriptedReplies, start_stream: Any, at_once: AtOnce
    ) -> None:
        stream_id = start_stream(client).headers["X-Stream-ID"]
        for position in ("-1", "x", "1.5", "", "1e3", "9" * 20):
            assert resume_stream(client, stream_id, position).status_code == 400
        replies.say("slow", "ab")
        ahead = resume_stream(client, stream_id, 3)
        assert ahead.status_code == 200
        replies.end("slow", "cd")
        assert [text for _, text in pieces(ahead) if text] == ["d"]
        assert resume_stream(client, stream_id, 4).status_code == 200
        beyond = resume_stream(client, stream_id, 5)
        assert (beyond.status_code, beyond.json["code"]) == (400, "invalid_position")

    def test_a_position_beyond_a_reply_that_failed_gets_its_failure(
        self, client: FlaskClient, replies: ScriptedReplies, start_stream: Any
    ) -> None:
        stream_id = start_stream(client).headers["X-Stream-ID"]
        replies.say("slow", "ab")
        replies.fail("slow", errors.UpstreamCut())
        for position in (0, 2, 99):
            *_, (_, last) = events(resume_stream(client, stream_id, position))
            assert (last["type"], last["code"]) == ("ERROR", "upstream_cut")


def test_who_has_read_a_reply_to_its_end_asks_anew_with_the_same_question(
    client: FlaskClient, replies: ScriptedReplies
) -> None:
    for _ in range(2):
        stream_id = client.post("/chat/stream", json={"message": "hi", "client_name": "ada"}).json["stream_id"]
        list(events(resume_stream(client, stream_id)))
    assert contents(client) == ["hi", "re: hi"] * 2


def test_who_has_not_read_a_reply_to_its_end_joins_it(
    app: Flask, client: FlaskClient, replies: ScriptedReplies
) -> None:
    body = {"message": "hi", "client_name": "ada"}
    stream_id = client.post("/chat/stream", json=body).json["stream_id"]
    app.extensions["runner"].wait(stream_id, PATIENCE_SECONDS, lambda: False)
    reading = events(resume_stream(client, stream_id))
    next(reading)
    assert client.post("/chat/stream", json=body).json["stream_id"] == stream_id
    assert replies.calls == ["hi"]


class TestUnderGunicorn:
    """Connections that break."""

    def test_a_reader_whose_line_breaks_after_every_piece_gets_each_character_once(
        self, replies: ScriptedReplies
    ) -> None:
        with serve_replies(replies) as url, serve(OPENAI_BASE_URL=url) as served:
            for dialect in ("query", "chat", "session"):
                self.read_in_parts(served, replies, dialect)
        assert replies.calls == ["slow"] * 3

    def read_in_parts(self, served: ServerProcess, replies: ScriptedReplies, dialect: str) -> None:
        line = self.open_stream(served, dialect)
        stream_id = line.answer.getheader("X-Stream-ID")
        got = ""
        for piece in PIECES:
            replies.say("slow", piece)
            position, text = line.next_text()
            got += text
            assert position == len(got)
            line.disconnect()
            line = Line(served, "GET", f"/chat/stream/{stream_id}", **{"Last-Event-ID": str(position)})
        replies.end("slow")
        assert b'"full_content"' in line.answer.read()
        assert got == "".join(PIECES), dialect

    @staticmethod
    def open_stream(served: ServerProcess, dialect: str) -> "Line":
        if dialect == "query":
            return Line(served, "POST", "/query", {"client_name": "ada", "input": "slow"}, **STREAM)
        if dialect == "chat":
            _, started = served.ask("POST", "/chat/stream", {"message": "slow"})
            return Line(served, "GET", f"/chat/stream/{started['stream_id']}")
        _, session = served.ask("POST", "/api/sessions", {})
        return Line(served, "POST", "/api/chat/stream", {"session_id": session["session_id"], "message": "slow"})


class Line:
    """A connection on which one stream is read."""

    def __init__(self, served: ServerProcess, method: str, path: str, body: Any = None, **headers: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE_SECONDS)
        data = None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} if data else {}
        self._connection.request(method, path, data, {**sent, **headers})
        self.answer = self._connection.getresponse()
        assert self.answer.status == 200

    def next_text(self) -> tuple[int, str]:
        """The id and the text of the next event that has text."""
        position = 0
        while True:
            name, _, value = self.answer.readline().decode().rstrip("\n").partition(": ")
            if name == "id":
                position = int(value)
            if name == "data" and "content" in json.loads(value):
                return position, json.loads(value)["content"]

    def disconnect(self) -> None:
        self.answer.close()
        self._connection.close()

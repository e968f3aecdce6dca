"""Replies as they are written: `POST /query` as an event stream, and `GET /chat/stream/{stream_id}`."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from server import conversations, errors
from server.live import LiveRun, Piece
from server.model import Run
from server.wire import sse
from tests.told import Told

AtOnce = Callable[..., Any]
STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def told() -> Told:
    return Told("slow")


def events(response: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each event's id and data, in order. Comments are passed over."""
    for frame in response.iter_encoded():
        if not frame.startswith(b":"):
            number, kind, data, *rest = frame.decode().split("\n")
            assert kind == "event: chunk"
            assert rest == ["", ""]
            yield int(number.removeprefix("id: ")), json.loads(data.removeprefix("data: "))


def stream(client: FlaskClient, question: str, **more: Any) -> Any:
    body = {"client_name": "ada", "input": question, **more}
    return client.post("/query", json=body, headers=STREAM, buffered=False)


def resume(client: FlaskClient, stream_id: str, position: Any = None) -> Any:
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


def test_the_stream_is_known_before_a_word_was_written(client: FlaskClient, told: Told) -> None:
    answer = stream(client, "slow")
    assert next(events(answer)) == (0, {"type": "START", "stream_id": answer.headers["X-Stream-ID"]})
    told.end("slow", "ok")


def test_a_reader_who_leaves_midway_loses_nothing_and_it_is_paid_once(client: FlaskClient, told: Told) -> None:
    answer = stream(client, "slow")
    here = events(answer)
    next(here)
    told.say("slow", "half")
    assert next(here) == (4, {"type": "CHUNK", "content": "half"})
    answer.close()
    told.end("slow", " whole")
    assert list(events(resume(client, answer.headers["X-Stream-ID"], 4)))[-1][1]["full_content"] == "half whole"
    assert contents(client) == ["slow", "half whole"]
    assert told.calls == ["slow"]


def test_a_stream_is_resumed_at_any_character_during_and_after_the_run(client: FlaskClient, told: Told) -> None:
    stream_id = stream(client, "slow").headers["X-Stream-ID"]
    told.say("slow", "안녕👩‍👩‍👧")
    here = events(resume(client, stream_id, 1))
    assert next(here) == (1, {"type": "START", "stream_id": stream_id})
    assert next(here) == (7, {"type": "CHUNK", "content": "녕👩‍👩‍👧"})
    told.end("slow", "!")
    assert [data["type"] for _, data in here] == ["CHUNK", "END"]
    for position in range(9):
        pieces = [data["content"] for _, data in events(resume(client, stream_id, position)) if "content" in data]
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
    beyond = resume(client, answer.headers["X-Stream-ID"], 7)
    assert (beyond.status_code, beyond.json["code"]) == (400, "invalid_position")


def test_an_unknown_stream_is_404(client: FlaskClient) -> None:
    answer = client.get("/chat/stream/run_nobody")
    assert (answer.status_code, answer.json["code"], answer.json["detail"]) == (
        404,
        "not_found",
        answer.json["error"],
    )


def test_a_failure_after_the_first_byte_is_the_last_event(client: FlaskClient, told: Told) -> None:
    answer = stream(client, "slow")
    told.say("slow", "half")
    told.fail("slow", errors.UpstreamCut())
    *_, (position, last) = events(answer)
    assert (position, last["type"], last["code"]) == (4, "ERROR", "upstream_cut")
    *_, (_, again) = events(resume(client, answer.headers["X-Stream-ID"], 99))
    assert again["code"] == "upstream_cut"


def test_a_failure_before_the_run_is_an_ordinary_answer(client: FlaskClient) -> None:
    client.post("/query", json={"client_name": "ada", "input": "hi", "request_id": "1"})
    answer = stream(client, "ho", request_id="1")
    assert (answer.status_code, answer.json["code"]) == (409, "request_id_conflict")
    assert stream(client, "").status_code == 400


def test_a_stopped_stream_keeps_its_text_and_answers_later_readers(app: Flask, client: FlaskClient, told: Told) -> None:
    answer = stream(client, "slow")
    here = events(answer)
    next(here)
    told.say("slow", "half")
    next(here)
    app.extensions["runner"].cancel(answer.headers["X-Stream-ID"])
    assert list(here) == [(4, {"type": "STOPPED", "full_content": "half"})]
    assert [data["type"] for _, data in events(resume(client, answer.headers["X-Stream-ID"]))] == [
        "START",
        "CHUNK",
        "STOPPED",
    ]
    assert contents(client) == ["slow", "half"]


def test_a_cleared_conversations_stream_stops_and_is_gone(client: FlaskClient, told: Told) -> None:
    answer = stream(client, "slow")
    here = events(answer)
    next(here)
    client.delete("/history", query_string={"client_name": "ada"})
    assert [data["type"] for _, data in here] == ["STOPPED"]
    assert client.get(f"/chat/stream/{answer.headers['X-Stream-ID']}").status_code == 404


def test_three_readers_of_one_stream_see_the_same_text(client: FlaskClient, told: Told, at_once: AtOnce) -> None:
    stream_id = stream(client, "slow").headers["X-Stream-ID"]
    readers = [at_once(lambda: list(events(resume(client, stream_id)))) for _ in range(3)]
    for n in range(50):
        told.say("slow", f"{n} ")
    told.end("slow")
    texts = {"".join(data.get("content", "") for _, data in reader.result()) for reader in readers}
    assert texts == {"".join(f"{n} " for n in range(50))}


def test_the_same_open_question_is_joined_as_json_and_as_a_stream(
    client: FlaskClient, told: Told, at_once: AtOnce
) -> None:
    answer = stream(client, "slow")
    waiting = at_once(client.post, "/query", json={"client_name": "ada", "input": "slow"})
    other = stream(client, "slow")
    assert other.headers["X-Stream-ID"] == answer.headers["X-Stream-ID"]
    told.end("slow", "once")
    assert waiting.result().json == {"response": "once"}
    assert told.calls == ["slow"]


def test_silence_is_broken_by_a_comment(client: FlaskClient, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "SILENCE_SECONDS", 0.01)
    frames = stream(client, "slow").iter_encoded()
    next(frames)
    assert next(frames) == next(frames) == sse.COMMENT
    told.end("slow")
    assert sse.COMMENT.startswith(b":")
    assert sse.COMMENT.endswith(b"\n\n")


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
    """A reading that tells whether it was closed. Held by the test, so that only an explicit close can end it."""

    def __init__(self) -> None:
        self.closed = False
        self.reading = self._read()

    def _read(self) -> Any:
        try:
            yield Piece("a", 1)
            yield Piece("b", 2)
            yield Run("why?").ending("completed", 1.0, text="ab")
        finally:
            self.closed = True


class TestAStreamGivesItsSourceBack:
    @pytest.fixture(autouse=True)
    def context(self, app: Flask) -> Iterator[None]:
        with app.test_request_context("/query"):
            yield

    def test_read_to_the_end(self) -> None:
        source = Source()
        assert len(list(sse.event_stream("run_1", 0, source.reading).iter_encoded())) == 4
        assert source.closed

    def test_left_midway(self) -> None:
        source = Source()
        response = sse.event_stream("run_1", 0, source.reading)
        body = response.iter_encoded()
        next(body)
        next(body)
        response.close()
        assert source.closed

    def test_a_reader_that_is_closed_no_longer_counts_as_company(self) -> None:
        live = LiveRun("ada", Run("why?"), streamed=True)
        reading = live.read(0, 0.0, lambda: True)
        response = sse.event_stream("run_1", 0, reading)
        body = response.iter_encoded()
        next(body)
        next(body)
        assert live.has_company()
        response.close()
        assert not live.has_company()

    def test_never_read(self) -> None:
        live = LiveRun("ada", Run("why?"), streamed=True)
        reading = live.read(0, 0.0, lambda: True)
        sse.event_stream("run_1", 0, reading).close()
        assert not live.has_company()
        assert list(reading) == []


def test_stream_ids_are_runs_ids(client: FlaskClient) -> None:
    assert re.fullmatch(r"run_[0-9a-f]{32}", stream(client, "hi").headers["X-Stream-ID"])

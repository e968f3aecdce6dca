"""The sessions dialect, as a caller sees it. What its streams share with those of other dialects is in test_streams."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient

from server import errors
from server.app import create_app
from server.domain import Usage
from server.http import sse
from server.runs import live
from server.settings import Settings
from server.store.memory import MemoryStore
from server.upstream.protocol import Completion
from tests.conftest import validate_responses
from tests.support.clock import Clock
from tests.support.replies import PATIENCE_SECONDS, ScriptedReplies, SteeredUpstream
from tests.support.replies_over_http import serve_replies

AtOnce = Callable[..., Any]

DAY = 24 * 3600.0
TOKENS = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
RFC3339 = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@pytest.fixture
def replies() -> ScriptedReplies:
    return ScriptedReplies("slow", "slower")


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(1000, clock)


@pytest.fixture
def session_id(client: FlaskClient) -> str:
    session: str = client.post("/api/sessions", json={}).json["session_id"]
    return session


def chat(client: FlaskClient, session_id: str, message: str = "hi", headers: Any = None, **more: Any) -> Any:
    return client.post("/api/chat", json={"session_id": session_id, "message": message, **more}, headers=headers)


def stream(client: FlaskClient, session_id: str, message: str = "hi", headers: Any = None, **more: Any) -> Any:
    body = {"session_id": session_id, "message": message, **more}
    return client.post("/api/chat/stream", json=body, headers=headers, buffered=False)


def frames(response: Any) -> Iterator[dict[str, Any]]:
    """The data of each event, without comments."""
    for frame in response.iter_encoded():
        if not frame.startswith(b":"):
            number, data, *rest = frame.decode().split("\n")
            assert re.fullmatch(r"id: \d+", number)
            assert rest == ["", ""]
            yield json.loads(data.removeprefix("data: "))


def list_messages(client: FlaskClient, session_id: str, **more: Any) -> Any:
    return client.get(f"/api/sessions/{session_id}/messages", query_string=more)


class TestASession:
    def test_it_is_made_under_a_name_that_nobody_can_guess(self, client: FlaskClient) -> None:
        answer = client.post("/api/sessions", json={"metadata": {"user": "에이다", "n": [1, None, {"a": 0.5}]}})
        assert answer.status_code == 200
        assert UUID(answer.json["session_id"]).version == 4
        assert re.fullmatch(RFC3339, answer.json["created_at"])
        assert answer.json["last_accessed"] == answer.json["created_at"]
        assert answer.json["metadata"] == {"user": "에이다", "n": [1, None, {"a": 0.5}]}
        assert "에이다".encode() in answer.data

    @pytest.mark.parametrize("sent", [{}, {"json": {}}, {"json": {"metadata": None}}], ids=["nothing", "{}", "null"])
    def test_it_needs_nothing(self, client: FlaskClient, sent: Any) -> None:
        answer = client.post("/api/sessions", **sent)
        assert (answer.status_code, answer.json["metadata"], answer.json["message_count"]) == (200, {}, 0)

    def test_it_is_found_by_its_name_and_tells_when_it_was_used(self, client: FlaskClient, clock: Clock) -> None:
        session = client.post("/api/sessions", json={"metadata": {"a": 1}}).json
        chat(client, session["session_id"])
        clock.now += 60
        found = client.get(f"/api/sessions/{session['session_id']}").json
        assert found == {**session, "last_accessed": found["last_accessed"], "message_count": 2}
        assert (session["last_accessed"][:19], found["last_accessed"][:19]) == (
            "1970-01-12T13:46:40",
            "1970-01-12T13:47:40",
        )

    def test_it_is_deleted_with_all_that_it_has(
        self, client: FlaskClient, session_id: str, replies: ScriptedReplies, store: MemoryStore
    ) -> None:
        chat(client, session_id)
        open_stream = stream(client, session_id, "slow")
        reader = frames(open_stream)
        next(reader)
        answer = client.delete(f"/api/sessions/{session_id}")
        assert (answer.status_code, answer.json) == (200, {"session_id": session_id, "status": "deleted"})
        assert [each["code"] for each in reader] == ["run_cancelled"]
        assert client.get(f"/chat/stream/{open_stream.headers['X-Stream-ID']}").status_code == 404
        assert client.get("/history", query_string={"client_name": session_id}).json == []
        assert not store._table.states
        assert not store._table.run_names

    def test_it_answers_with_what_was_said_in_it(
        self, client: FlaskClient, session_id: str, upstream: SteeredUpstream
    ) -> None:
        chat(client, session_id, "first")
        chat(client, session_id, "second")
        sent = json.loads(upstream.requests[-1].messages)
        assert [each["content"] for each in sent] == ["first", "re: first", "second"]

    def test_any_conversation_is_one_by_its_name(self, client: FlaskClient) -> None:
        client.post("/query", json={"client_name": "에이다 & co", "input": "hi"})
        assert client.get("/api/sessions/에이다 & co").json["message_count"] == 2
        assert chat(client, "에이다 & co", "ho").json["content"] == "re: ho"
        assert list_messages(client, "에이다 & co").json["total"] == 4


def unknown(client: FlaskClient, session_id: str) -> list[Any]:
    """The answer of each operation."""
    return [
        client.get(f"/api/sessions/{session_id}"),
        list_messages(client, session_id),
        chat(client, session_id),
        stream(client, session_id),
        client.delete(f"/api/sessions/{session_id}"),
    ]


class TestUnknown:
    def test_an_unknown_one_is_404_at_every_dialect_and_is_not_made(
        self, client: FlaskClient, store: MemoryStore, replies: ScriptedReplies
    ) -> None:
        for answer in unknown(client, "0b9d1a51-6f10-4f5a-8b57-6a8fb1a0c0de"):
            assert (answer.status_code, answer.json["code"]) == (404, "not_found")
            assert "no such session" in answer.json["error"]
            assert answer.json["detail"] == answer.json["error"]
        assert not store._table.states
        assert replies.calls == []

    def test_a_deleted_one_is_unknown(self, client: FlaskClient, session_id: str) -> None:
        client.delete(f"/api/sessions/{session_id}")
        assert {answer.status_code for answer in unknown(client, session_id)} == {404}


USES: dict[str, Callable[[FlaskClient, str, str], Any]] = {
    "looking at it": lambda client, name, _: client.get(f"/api/sessions/{name}"),
    "its messages": lambda client, name, _: list_messages(client, name),
    "a question": lambda client, name, _: chat(client, name, "again"),
    "a streamed question": lambda client, name, _: list(frames(stream(client, name, "again"))),
    "its history": lambda client, name, _: client.get("/history", query_string={"client_name": name}),
    "its model": lambda client, name, _: client.get("/model", query_string={"client_name": name}),
    "a query": lambda client, name, _: client.post("/query", json={"client_name": name, "input": "again"}),
    "a chat": lambda client, name, _: client.post("/chat", json={"client_name": name, "message": "again"}),
    "one of its streams": lambda client, _, stream_id: client.get(f"/chat/stream/{stream_id}"),
}
"""The operations that start a conversation's time until expiry again."""


class TestExpiry:
    @pytest.mark.parametrize("use", USES)
    def test_a_use_through_any_dialect_keeps_it_and_without_one_it_is_gone(
        self, client: FlaskClient, session_id: str, clock: Clock, use: str
    ) -> None:
        answer = stream(client, session_id)
        list(frames(answer))
        stream_id = answer.headers["X-Stream-ID"]
        clock.now += DAY - 1
        USES[use](client, session_id, stream_id)
        clock.now += DAY
        assert client.get(f"/api/sessions/{session_id}").status_code == 200
        clock.now += DAY + 1
        assert {each.status_code for each in unknown(client, session_id)} == {404}
        assert client.get(f"/chat/stream/{stream_id}").status_code == 404

    def test_many_reads_at_once_are_one_use(
        self, client: FlaskClient, session_id: str, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        touched: list[str] = []
        monkeypatch.setattr(store, "_clock", time.time)
        store.touch(session_id)
        monkeypatch.setattr(store, "touch", touched.append)
        for _ in range(5):
            client.get("/history", query_string={"client_name": session_id})
        assert touched == []

    def test_a_history_can_be_read_while_the_store_takes_no_writes(
        self, client: FlaskClient, session_id: str, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_: str) -> bool:
            raise errors.StoreUnavailable

        chat(client, session_id)
        monkeypatch.setattr(store, "touch", fail)
        assert len(client.get("/history", query_string={"client_name": session_id}).json) == 2

    def test_a_reply_that_is_being_written_holds_it(
        self, client: FlaskClient, session_id: str, clock: Clock, replies: ScriptedReplies, store: MemoryStore
    ) -> None:
        reader = frames(stream(client, session_id, "slow"))
        next(reader)
        clock.now += 10 * DAY
        store.sweep()
        replies.end("slow", "at last")
        assert list(reader)[-1]["done"]
        clock.now += DAY
        assert list_messages(client, session_id).json["total"] == 2

    def test_an_expired_one_is_swept_with_all_that_it_has(
        self, client: FlaskClient, session_id: str, clock: Clock, store: MemoryStore
    ) -> None:
        chat(client, session_id)
        client.post("/query", json={"client_name": "ada", "input": "hi"})
        clock.now += DAY + 1
        store.sweep()
        assert list(store._table.states) == ["ada"]

    class TestAsTheOperatorSays:
        @pytest.fixture
        def settings(self) -> Settings:
            return Settings(session_timeout_hours=0.5)

        def test_it_is_kept_for_so_many_hours(self, client: FlaskClient, session_id: str, clock: Clock) -> None:
            clock.now += 1800
            assert client.get(f"/api/sessions/{session_id}").status_code == 200
            clock.now += 1801
            assert client.get(f"/api/sessions/{session_id}").status_code == 404


class TestMessages:
    def test_the_newest_are_listed_oldest_first_with_their_number_in_all(
        self, client: FlaskClient, session_id: str
    ) -> None:
        for n in range(7):
            chat(client, session_id, f"q{n}")
        newest = list_messages(client, session_id).json
        assert (newest["session_id"], newest["total"], len(newest["messages"])) == (session_id, 14, 10)
        assert [each["content"] for each in newest["messages"]][:2] == ["q2", "re: q2"]
        assert [each["content"] for each in newest["messages"]][-2:] == ["q6", "re: q6"]
        three = list_messages(client, session_id, limit=3).json
        assert three["messages"] == newest["messages"][-3:]
        assert len(list_messages(client, session_id, limit=1000).json["messages"]) == 14

    def test_each_tells_what_it_has_cost(self, client: FlaskClient, session_id: str, replies: ScriptedReplies) -> None:
        replies.say("slow", "ok", Completion(None, Usage(7, 8, 15)))
        reply = chat(client, session_id, "slow").json
        question, answer = list_messages(client, session_id).json["messages"]
        assert answer == {name: value for name, value in reply.items() if name != "session_id"}
        assert answer["token_usage"] == {"prompt_tokens": 7, "completion_tokens": 8, "total_tokens": 15}
        assert (question["role"], question["content"], question["token_usage"]) == ("user", "slow", None)
        assert re.fullmatch(RFC3339, question["created_at"])
        assert question["message_id"] != answer["message_id"]

    def test_a_reply_that_was_stopped_is_there_and_its_cost_is_not_known(
        self, client: FlaskClient, session_id: str, replies: ScriptedReplies
    ) -> None:
        answer = stream(client, session_id, "slow")
        replies.say("slow", "half")
        reader = frames(answer)
        assert [next(reader), next(reader)][1] == {"content": "half"}
        client.delete(f"/chat/stream/{answer.headers['X-Stream-ID']}")
        (last,) = reader
        assert last["code"] == "run_cancelled"
        assert [each["token_usage"] for each in list_messages(client, session_id).json["messages"]] == [None, None]
        assert list_messages(client, session_id).json["messages"][1]["content"] == "half"

    def test_messages_that_no_run_wrote_have_no_cost(self, client: FlaskClient, store: MemoryStore) -> None:
        client.post("/chat", json={"message": "hi", "conversation_history": [{"role": "assistant", "content": "ho"}]})
        (name,) = store._table.states
        messages = list_messages(client, name).json["messages"]
        assert [(each["content"], each["token_usage"]) for each in messages] == [
            ("ho", None),
            ("hi", None),
            ("re: hi", TOKENS),
        ]

    @pytest.mark.parametrize("limit", ["0", "-1", "1001", "x", "", "1.5"])
    def test_a_limit_that_makes_no_sense_is_refused(self, client: FlaskClient, session_id: str, limit: str) -> None:
        answer = list_messages(client, session_id, limit=limit)
        assert (answer.status_code, answer.json["code"]) == (400, "invalid_request")


class TestChat:
    def test_a_question_is_answered(self, client: FlaskClient, session_id: str) -> None:
        answer = chat(client, session_id, "안녕")
        assert answer.status_code == 200
        assert answer.json == {
            "session_id": session_id,
            "message_id": answer.json["message_id"],
            "role": "assistant",
            "content": "re: 안녕",
            "token_usage": TOKENS,
            "created_at": answer.json["created_at"],
        }
        assert re.fullmatch(r"msg_[0-9a-f]{32}", answer.json["message_id"])
        assert re.fullmatch(RFC3339, answer.json["created_at"])
        assert "re: 안녕".encode() in answer.data

    @pytest.mark.parametrize(
        ("asked", "sent"),
        [
            ({}, {}),
            ({"max_new_tokens": 5}, {"max_completion_tokens": 5}),
            ({"temperature": 0.7}, {"temperature": 0.7}),
            ({"do_sample": True}, {}),
            ({"do_sample": True, "temperature": 0.7}, {"temperature": 0.7}),
            ({"do_sample": False}, {"temperature": 0}),
            ({"do_sample": False, "temperature": 0.7}, {"temperature": 0}),
            ({"max_new_tokens": None, "temperature": None, "do_sample": None, "request_id": None}, {}),
        ],
    )
    def test_its_parameters_are_sent_under_the_upstreams_names(
        self, client: FlaskClient, session_id: str, upstream: SteeredUpstream, asked: Any, sent: Any
    ) -> None:
        assert chat(client, session_id, **asked).status_code == 200
        list(frames(stream(client, session_id, "again", **asked)))
        assert [call.parameters for call in upstream.requests] == [sent, sent]

    @pytest.mark.parametrize(
        ("kind", "status"),
        [
            (errors.UpstreamUnreachable, 502),
            (errors.UpstreamTimedOut, 504),
            (errors.NotConfigured, 503),
            (errors.ContextTooLong, 400),
            (errors.InternalError, 500),
        ],
    )
    def test_each_failure_has_its_status_and_the_sentence_twice(
        self, client: FlaskClient, session_id: str, replies: ScriptedReplies, kind: type[errors.AppError], status: int
    ) -> None:
        replies.fail("slow", kind())
        answer = chat(client, session_id, "slow")
        assert answer.status_code == status
        assert answer.json == {"error": kind.sentence, "code": kind.code, "detail": kind.sentence}

    def test_a_store_that_fails_is_503(
        self, client: FlaskClient, session_id: str, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise errors.StoreUnavailable

        for call in ("create_run", "get_conversation", "create_conversation"):
            monkeypatch.setattr(store, call, fail)
        answers = [*unknown(client, session_id), client.post("/api/sessions")]
        assert {(answer.status_code, answer.json["code"]) for answer in answers} == {(503, "store_unavailable")}

    def test_a_request_id_is_exact(self, client: FlaskClient, session_id: str, replies: ScriptedReplies) -> None:
        first = chat(client, session_id, request_id="1").json
        assert chat(client, session_id, headers={"Idempotency-Key": "1"}).json == first
        assert list(frames(stream(client, session_id, request_id="1")))[-1]["message_id"] == first["message_id"]
        assert chat(client, session_id, "ho", request_id="1").json["code"] == "request_id_conflict"
        assert replies.calls == ["hi"]

    @pytest.mark.parametrize(
        "more",
        [
            {"session_id": None},
            {"session_id": ""},
            {"session_id": "a\n"},
            {"session_id": "x" * 257},
            {"message": ""},
            {"message": None},
            {"message": "a\0"},
            {"message": "x" * 100_001},
            {"max_new_tokens": 0},
            {"max_new_tokens": 1.5},
            {"temperature": 2.1},
            {"temperature": "hot"},
            {"do_sample": "no"},
            {"request_id": ""},
        ],
        ids=str,
    )
    def test_bad_input_is_a_400_and_nothing_is_asked(
        self, client: FlaskClient, session_id: str, replies: ScriptedReplies, more: Any
    ) -> None:
        body = {"session_id": session_id, "message": "hi", **more}
        for path in ("/api/chat", "/api/chat/stream"):
            answer = client.post(path, json=body)
            assert (answer.status_code, answer.json["code"]) == (400, "invalid_request")
        assert replies.calls == []


class TestMetadata:
    @pytest.mark.parametrize(
        "metadata",
        [[], "x", 5, {"a": "\0"}, {"\0": 1}, {"a": [{"b": ["\0"]}]}, {"a": {"\0": 1}}],
        ids=["list", "text", "number", "NUL", "NUL in a name", "NUL deep inside", "NUL in a name inside"],
    )
    def test_what_cannot_be_kept_is_refused(self, client: FlaskClient, store: MemoryStore, metadata: Any) -> None:
        answer = client.post("/api/sessions", json={"metadata": metadata})
        assert (answer.status_code, answer.json["code"]) == (400, "invalid_request")
        assert "metadata" in answer.json["error"]
        assert not store._table.states

    @pytest.mark.parametrize("levels", [150, 1000, 100_000])
    def test_what_is_nested_too_deeply_is_refused(self, client: FlaskClient, levels: int) -> None:
        deep = f'{{"metadata": {{"a": {"[" * levels}{"]" * levels}}}}}'
        answer = client.post("/api/sessions", data=deep, content_type="application/json")
        assert answer.status_code == 400
        assert "nested too deeply" in answer.json["error"]

    def test_what_is_nested_less_comes_back(self, client: FlaskClient) -> None:
        deep: Any = "bottom"
        for _ in range(90):
            deep = [deep]
        assert client.post("/api/sessions", json={"metadata": {"a": deep}}).json["metadata"] == {"a": deep}


class TestStream:
    def test_it_tells_its_name_then_the_text_then_its_end(self, client: FlaskClient, session_id: str) -> None:
        answer = stream(client, session_id, "안녕")
        assert answer.mimetype == "text/event-stream"
        first, piece, last = list(frames(answer))
        assert first == {"stream_id": answer.headers["X-Stream-ID"]}
        assert piece == {"content": "re: 안녕"}
        message = list_messages(client, session_id).json["messages"][-1]
        assert last == {"done": True, "message_id": message["message_id"], "token_usage": TOKENS}

    def test_its_frames_have_no_name_and_number_the_characters(self, client: FlaskClient, session_id: str) -> None:
        replies = b"".join(stream(client, session_id, "안녕").iter_encoded()).decode()
        assert re.findall("^id: (.*)$", replies, re.MULTILINE) == ["0", "6", "6"]
        assert "event:" not in replies
        assert "안녕" in replies

    def test_a_failure_is_its_last_frame(self, client: FlaskClient, session_id: str, replies: ScriptedReplies) -> None:
        replies.say("slow", "half")
        replies.fail("slow", errors.UpstreamCut())
        sentence = errors.UpstreamCut.sentence
        assert list(frames(stream(client, session_id, "slow")))[1:] == [
            {"content": "half"},
            {"error": sentence, "code": "upstream_cut", "detail": sentence},
        ]

    def test_silence_is_broken_by_a_comment(
        self, client: FlaskClient, session_id: str, replies: ScriptedReplies, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(live, "KEEPALIVE_SECONDS", 0.0)
        told_frames = stream(client, session_id, "slow").iter_encoded()
        next(told_frames)
        assert next(told_frames) == sse.KEEPALIVE
        replies.end("slow", "ok")

    @pytest.mark.parametrize("position", ["0", "3", "x"])
    def test_a_question_that_would_resume_is_refused_and_told_where(
        self, client: FlaskClient, session_id: str, replies: ScriptedReplies, position: str
    ) -> None:
        answer = stream(client, session_id, headers={"Last-Event-ID": position})
        assert (answer.status_code, answer.json["code"]) == (400, "invalid_position")
        assert "/chat/stream/" in answer.json["error"]
        assert replies.calls == []

    def test_a_failure_before_it_begins_is_an_ordinary_answer(self, client: FlaskClient, session_id: str) -> None:
        chat(client, session_id, request_id="1")
        answer = stream(client, session_id, "ho", request_id="1")
        assert (answer.status_code, answer.json["code"]) == (409, "request_id_conflict")


class TestHealth:
    def test_it_is_healthy_where_all_is_well(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
        replies = client.get("/api/health").json
        assert re.fullmatch(RFC3339, replies.pop("timestamp"))
        assert replies == {"status": "healthy", "llm_server": "connected", "database": "available"}
        assert not upstream.requests

    @pytest.mark.parametrize("found", ["unreachable", "not_configured"])
    def test_it_is_degraded_without_a_model(self, client: FlaskClient, upstream: Any, found: str) -> None:
        upstream.check_health = lambda: found
        replies = client.get("/api/health").json
        assert (replies["status"], replies["llm_server"], replies["database"]) == ("degraded", found, "available")

    def test_it_is_unhealthy_where_the_store_fails(
        self, client: FlaskClient, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail() -> None:
            raise errors.StoreUnavailable

        monkeypatch.setattr(store, "ping", fail)
        answer = client.get("/api/health")
        assert (answer.status_code, answer.json["status"], answer.json["database"]) == (200, "unhealthy", "unavailable")

    def test_it_is_unhealthy_while_the_process_ends(self, app: Flask, client: FlaskClient) -> None:
        app.extensions["runner"].shut_down(0)
        replies = client.get("/api/health").json
        assert (replies["status"], replies["database"]) == ("unhealthy", "closing")

    def test_both_are_asked_at_once(
        self, client: FlaskClient, store: MemoryStore, upstream: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        both = threading.Barrier(2, timeout=PATIENCE_SECONDS)
        monkeypatch.setattr(store, "ping", lambda: both.wait())
        upstream.check_health = lambda: (both.wait(), "connected")[1]
        assert client.get("/api/health").json["status"] == "healthy"


class TestTheModelsServer:
    @pytest.mark.parametrize(
        "env",
        [
            {"LLM_SERVER_URL": "HERE"},
            {"OPENAI_BASE_URL": "HERE"},
            {"OPENAI_BASE_URL": "HERE", "LLM_SERVER_URL": "http://127.0.0.1:9/v1"},
        ],
        ids=["by its other name", "by its name", "by both"],
    )
    def test_it_is_found_where_the_operator_says(self, env: dict[str, str]) -> None:
        with serve_replies(ScriptedReplies()) as url:
            app = create_app(Settings.from_env({name: value.replace("HERE", url) for name, value in env.items()}))
            app.testing = True
            validate_responses(app)
            client = app.test_client()
            assert client.get("/api/health").json["llm_server"] == "connected"
            session = client.post("/api/sessions").json["session_id"]
            answer = chat(client, session).json
            assert (answer["content"], answer["token_usage"]) == ("re: hi", None)
            app.extensions["runner"].shut_down(0)

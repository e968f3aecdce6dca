"""Caps: how much a client may keep, and do at once."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from flask import Flask
from flask.testing import FlaskClient

from server.access import caps
from server.app import create_app
from server.settings import Settings
from server.store.memory import MemoryStore
from tests.access.people import ADMIN_KEY, create_key, send
from tests.conftest import validate_responses
from tests.support.replies import ScriptedReplies, SteeredUpstream

Serve = Callable[..., FlaskClient]


@pytest.fixture
def replies() -> ScriptedReplies:
    return ScriptedReplies("slow", "slower")


@pytest.fixture
def serve(replies: ScriptedReplies, store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Gives a client of a protected server with these settings, which measures anew at every question."""
    monkeypatch.setattr(caps, "MEASURED_SECONDS", 0.0)
    apps: list[Flask] = []

    def serve(**settings: Any) -> FlaskClient:
        app = create_app(Settings(admin_key=ADMIN_KEY, **settings), store=store, upstream=SteeredUpstream(replies))
        app.testing = True
        validate_responses(app)
        apps.append(app)
        return app.test_client()

    yield serve
    replies.release()
    for app in apps:
        app.extensions["runner"].shut_down(0)


def ask(client: FlaskClient, key: str, name: str, question: str = "hello", **more: Any) -> tuple[int, str | None]:
    answer = send(client, "POST", "/query", key, json={"client_name": name, "input": question}, **more)
    return answer.status_code, answer.json.get("code")


def test_a_client_has_no_more_conversations_than_it_may(serve: Serve) -> None:
    client = serve(max_client_conversations=2)
    key, other = create_key(client, "team-*")["key"], create_key(client, "eve*")["key"]
    assert [ask(client, key, f"team-{each}")[0] for each in "abab"] == [200] * 4
    assert ask(client, key, "team-c") == (403, "client_full")
    for path, body in (("/api/sessions", {}), ("/api/v1/threads", {}), ("/chat", {"message": "hello"})):
        assert send(client, "POST", path, key, json=body).status_code == 403
    file = {"data": b'[{"role": "user", "content": "hello"}]', "content_type": "application/json"}
    assert send(client, "POST", "/conversations/import?client_name=team-d", key, **file).status_code == 403
    assert ask(client, other, "eve")[0] == ask(client, ADMIN_KEY, "team-c")[0] == 200
    assert send(client, "DELETE", "/conversations/details?client_name=team-a", key).status_code == 200
    assert ask(client, key, "team-d")[0] == 200


def test_a_full_client_does_not_learn_by_an_import_which_names_exist(serve: Serve) -> None:
    client = serve(max_client_conversations=1)
    key = create_key(client, "kim")["key"]
    assert ask(client, key, "kim")[0] == ask(client, ADMIN_KEY, "ada")[0] == 200
    for name in ("ada", "nobody"):
        file = {"json": [{"role": "user", "content": "hello"}]}
        answer = send(client, "POST", f"/conversations/import?client_name={name}", key, **file)
        assert (answer.status_code, answer.json["code"]) == (403, "not_allowed")


@pytest.mark.parametrize("settings", [{"max_client_messages": 4}, {"max_client_bytes": 1_100}])
def test_a_client_keeps_no_more_than_it_may(serve: Serve, settings: dict[str, int]) -> None:
    client = serve(**settings)
    key = create_key(client, "ada")["key"]
    assert [ask(client, key, "ada", f"{number}" * 260)[0] for number in range(2)] == [200] * 2
    assert ask(client, key, "ada", "more") == (403, "client_full")
    thread = send(client, "POST", "/api/v1/threads", key, json={"messages": [{"role": "user", "content": "hello"}]})
    assert thread.status_code == 403
    assert send(client, "DELETE", "/history?client_name=ada", key).status_code == 200
    assert ask(client, key, "ada", "more")[0] == 200


def test_a_client_has_no_more_open_questions_than_it_may_but_may_repeat_them(
    serve: Serve, replies: ScriptedReplies
) -> None:
    client = serve(max_client_open_runs=1)
    key = create_key(client, "team-*")["key"]
    assert ask(client, key, "team-a", "slow", headers={"Prefer": "wait=0"})[0] == 202
    replies.await_call("slow")
    assert ask(client, key, "team-b") == (429, "too_many_open_runs")
    assert ask(client, key, "team-a", "slow", headers={"Prefer": "wait=0"})[0] == 202
    replies.end("slow", "at last")
    assert ask(client, key, "team-a", "slow")[0] == 200
    assert ask(client, key, "team-b")[0] == 200


def test_a_client_reads_no_more_streams_at_once_than_it_may(serve: Serve, replies: ScriptedReplies) -> None:
    client = serve(max_client_streams=1)
    key = create_key(client, "ada")["key"]
    stream_id = send(client, "POST", "/chat/stream", key, json={"client_name": "ada", "message": "slow"}).json[
        "stream_id"
    ]
    path = f"/chat/stream/{stream_id}"
    first = send(client, "GET", path, key)
    question = {"json": {"client_name": "ada", "input": "x"}, "headers": {"Accept": "text/event-stream"}}
    for answer in (send(client, "GET", path, key), send(client, "POST", "/query", key, **question)):
        assert (answer.status_code, answer.json["code"]) == (429, "too_many_streams")
    assert send(client, "GET", "/history?client_name=ada", key).status_code == 200
    first.close()  # Nobody has read it.
    second = send(client, "GET", path, key)
    replies.end("slow", "at last")
    assert b"at last" in second.data
    second.close()
    third = send(client, "GET", path, key)
    assert third.status_code == 200
    third.close()
    assert send(client, "GET", "/chat/stream/run_unknown", key).status_code == 404
    send(client, "GET", path, key).close()


def said(count: int, size: int = 1) -> list[dict[str, str]]:
    return [{"role": "user" if n % 2 == 0 else "assistant", "content": "x" * size} for n in range(count)]


def import_file(client: FlaskClient, key: str, *conversations: list[dict[str, str]]) -> int:
    lines = b"\n".join(orjson.dumps({"messages": messages}) for messages in conversations)
    answer = send(client, "POST", "/conversations/import", key, data=lines, content_type="application/jsonl")
    return answer.status_code


def add(client: FlaskClient, key: str, path: str, field: str, messages: list[dict[str, str]], **more: Any) -> int:
    return send(client, "POST", path, key, json={field: messages, **more}).status_code


@pytest.mark.parametrize(
    ("settings", "fitting", "larger"),
    [
        ({"max_client_messages": 10}, said(9), said(11)),
        ({"max_client_bytes": 5_000}, said(2, 2_000), said(2, 2_600)),
    ],
)
def test_what_is_added_at_once_counts_before_it_is_stored(
    serve: Serve, store: MemoryStore, settings: dict[str, int], fitting: Any, larger: Any
) -> None:
    client = serve(**settings)
    key = create_key(client, "ada")["key"]
    thread_id = send(client, "POST", "/api/v1/threads", key, json={}).json["id"]
    run = {"assistant_id": "asst_default"}
    before = store.measure_owner("ada")
    assert import_file(client, key, larger) == 403
    assert add(client, key, "/api/v1/threads", "messages", larger) == 403
    assert add(client, key, "/chat", "conversation_history", larger, message="hello") == 403
    assert add(client, key, f"/api/v1/threads/{thread_id}/runs", "additional_messages", larger, **run) == 403
    assert store.measure_owner("ada") == before
    assert add(client, key, "/api/v1/threads", "messages", fitting) == 200
    assert import_file(client, key, fitting) == 403


def test_one_file_brings_no_more_conversations_than_the_client_may_have(serve: Serve, store: MemoryStore) -> None:
    client = serve(max_client_conversations=3)
    key = create_key(client, "ada*")["key"]
    assert import_file(client, key, *[said(1)] * 4) == 403
    assert list(store.list_owned("ada*")) == []
    assert import_file(client, key, *[said(1)] * 3) == 200


def test_a_question_counts_with_its_reply(serve: Serve) -> None:
    client = serve(max_client_messages=3)
    key = create_key(client, "ada")["key"]
    assert ask(client, key, "ada")[0] == 200
    assert ask(client, key, "ada", "more") == (403, "client_full")


def test_a_repeated_question_of_a_full_client_is_answered(serve: Serve) -> None:
    client = serve(max_client_messages=4)
    key = create_key(client, "ada")["key"]
    question: dict[str, Any] = {"json": {"message": "hello", "conversation_history": said(2)}}
    question["headers"] = {"Idempotency-Key": "a key of sixteen or more"}
    first = send(client, "POST", "/chat", key, **question)
    assert first.status_code == 200
    assert send(client, "POST", "/chat", key, **question).json == first.json
    assert ask(client, key, "ada") == (403, "client_full")


def test_what_others_made_under_the_name_of_a_client_counts_for_the_client(serve: Serve) -> None:
    client = serve(max_client_messages=2)
    key = create_key(client, "ada")["key"]
    assert ask(client, ADMIN_KEY, "ada")[0] == 200
    assert ask(client, key, "ada", "more") == (403, "client_full")

"""A protected server with the belongings of two clients."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.support.process import eventually

ADMIN_KEY = "an administrator's long key"

TOOLS = [{"type": "function", "function": {"name": "look"}}]


@dataclass(frozen=True)
class Person:
    """A client with a key, and the ids of what it has, by the names that the documents give them."""

    key: str
    key_id: str
    mark: str
    """In every text of the client's, and in no other."""
    ids: Mapping[str, str]


def send(client: FlaskClient, method: str, path: str, key: str | None, **more: Any) -> TestResponse:
    headers = {**more.pop("headers", {}), **({} if key is None else {"Authorization": f"Bearer {key}"})}
    return client.open(path, method=method, headers=headers, **more)


def create_key(client: FlaskClient, client_name: str, **fields: Any) -> dict[str, Any]:
    answer = send(client, "POST", "/api-keys", ADMIN_KEY, json={"client_name": client_name, **fields})
    assert answer.status_code == 200, answer.text
    created: dict[str, Any] = answer.json
    return created


def settle(client: FlaskClient, name: str) -> Person:
    """A client that has something of every kind. Its replies have its mark, since the upstream repeats the question."""
    created = create_key(client, name)
    key, mark = created["key"], f"secret of {name}"

    def post(path: str, **body: Any) -> Any:
        answer = send(client, "POST", path, key, json=body)
        assert answer.status_code in (200, 202), answer.text
        return answer.json

    def get(path: str) -> Any:
        answer = send(client, "GET", path, key)
        assert answer.status_code == 200, answer.text
        return answer.json

    post("/query", client_name=name, input=f"{mark}?")
    stream_id = post("/chat/stream", message=f"{mark} aloud")["stream_id"]
    assert mark in send(client, "GET", f"/chat/stream/{stream_id}", key).text
    session_id = post("/api/sessions", metadata={"about": mark})["session_id"]
    post("/api/chat", session_id=session_id, message=f"{mark} in a session")
    assistant_id = post("/api/v1/assistants", model="scripted-demo", name=mark, instructions=mark)["id"]
    thread_id = post("/api/v1/threads", messages=[{"role": "user", "content": f"look for {mark}"}])["id"]
    run_id = post(f"/api/v1/threads/{thread_id}/runs", assistant_id=assistant_id, tools=TOOLS)["id"]
    path = f"/api/v1/threads/{thread_id}/runs/{run_id}"
    assert eventually(lambda: get(path)["status"] == "requires_action")
    message_id = get(f"/api/v1/threads/{thread_id}/messages")["data"][0]["id"]
    step_id = get(f"{path}/steps")["data"][0]["id"]
    ids = {
        "client_name": name,
        "stream_id": stream_id,
        "session_id": session_id,
        "assistant_id": assistant_id,
        "thread_id": thread_id,
        "run_id": run_id,
        "message_id": message_id,
        "step_id": step_id,
        "key_id": created["id"],
    }
    return Person(key, created["id"], mark, ids)

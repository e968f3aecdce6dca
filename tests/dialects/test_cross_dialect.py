"""One conversation in all dialects: what is said through one is seen, and sent upstream, through the others."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from flask.testing import FlaskClient

from server.store import open_store
from server.store.protocol import Store
from tests.support.replies import SteeredUpstream

NewMessages = list[tuple[str, str]]
"""Role and content of each message, oldest first."""


def by_client_name(client: FlaskClient) -> str:
    return "에이다 Lovelace"


def by_session(client: FlaskClient) -> str:
    name: str = client.post("/api/sessions", json={}).json["session_id"]
    return name


def by_thread(client: FlaskClient) -> str:
    name: str = client.post("/api/v1/threads", json={}).json["id"]
    return name


MAKERS = {"a client's name": by_client_name, "a session": by_session, "a thread": by_thread}
"""Each creates a conversation, or names one that the first question creates."""


def read_to_its_end(client: FlaskClient, stream_id: str) -> None:
    assert '"type":"END"' in client.get(f"/chat/stream/{stream_id}").text


def query(client: FlaskClient, name: str, question: str) -> None:
    assert client.post("/query", json={"client_name": name, "input": question}).status_code == 200


def streamed_query(client: FlaskClient, name: str, question: str) -> None:
    accept = {"Accept": "text/event-stream"}
    answer = client.post("/query", json={"client_name": name, "input": question}, headers=accept)
    assert '"type":"END"' in answer.text


def chat(client: FlaskClient, name: str, question: str) -> None:
    assert client.post("/chat", json={"client_name": name, "message": question}).status_code == 200


def streamed_chat(client: FlaskClient, name: str, question: str) -> None:
    answer = client.post("/chat/stream", json={"client_name": name, "message": question})
    read_to_its_end(client, answer.json["stream_id"])


def session_chat(client: FlaskClient, name: str, question: str) -> None:
    assert client.post("/api/chat", json={"session_id": name, "message": question}).status_code == 200


def session_stream(client: FlaskClient, name: str, question: str) -> None:
    answer = client.post("/api/chat/stream", json={"session_id": name, "message": question})
    assert '"done":true' in answer.text


def thread_chat(client: FlaskClient, name: str, question: str) -> None:
    assert client.post("/api/v1/chat", json={"thread_id": name, "message": question}).status_code == 200


def thread_run(client: FlaskClient, name: str, question: str) -> None:
    message = client.post(f"/api/v1/threads/{name}/messages", json={"role": "user", "content": question})
    assert message.status_code == 200
    run = client.post(f"/api/v1/threads/{name}/runs", json={"assistant_id": "asst_default"})
    read_to_its_end(client, run.json["id"])


ASK = (query, streamed_query, chat, streamed_chat, session_chat, session_stream, thread_chat, thread_run)


def history(client: FlaskClient, name: str) -> NewMessages:
    messages = client.get("/history", query_string={"client_name": name}).json
    return [(each["role"], each["content"]) for each in messages]


def session_messages(client: FlaskClient, name: str) -> NewMessages:
    read = client.get(f"/api/sessions/{name}/messages", query_string={"limit": 100}).json
    assert read["total"] == client.get(f"/api/sessions/{name}").json["message_count"] == len(read["messages"])
    return [(each["role"], each["content"]) for each in read["messages"]]


def thread_messages(client: FlaskClient, name: str) -> NewMessages:
    read = client.get(f"/api/v1/threads/{name}/messages", query_string={"limit": 100, "order": "asc"}).json
    return [(each["role"], each["content"][0]["text"]["value"]) for each in read["data"]]


READ = (history, session_messages, thread_messages)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    urls = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/kept.db"}
    store = open_store(urls[request.param], max_conversations=100, lease_seconds=30.0)
    yield store
    store.close()


@pytest.fixture(params=MAKERS.values(), ids=MAKERS)
def name(request: pytest.FixtureRequest, client: FlaskClient) -> str:
    make: Callable[[FlaskClient], str] = request.param
    return make(client)


def test_what_is_said_through_one_dialect_is_seen_through_the_others(
    client: FlaskClient, upstream: SteeredUpstream, name: str
) -> None:
    said: NewMessages = []
    for ask in ASK:
        question = f"Who comes through the door of {ask.__name__}?"
        ask(client, name, question)
        sent = [(each["role"], each["content"]) for each in orjson.loads(upstream.requests[-1].messages)]
        assert sent == [*said, ("user", question)], ask.__name__
        said += [("user", question), ("assistant", f"re: {question}")]
        for read in READ:
            assert read(client, name) == said, (ask.__name__, read.__name__)


def test_a_message_has_the_same_id_and_every_reply_the_same_run_at_each_dialect(client: FlaskClient, name: str) -> None:
    query(client, name, "hi")
    sessions = client.get(f"/api/sessions/{name}/messages").json["messages"]
    threads = client.get(f"/api/v1/threads/{name}/messages", query_string={"order": "asc"}).json["data"]
    assert [each["message_id"] for each in sessions] == [each["id"] for each in threads]
    read_to_its_end(client, threads[1]["run_id"])


def test_a_model_that_is_chosen_at_one_dialect_answers_at_the_others(
    client: FlaskClient, upstream: Any, name: str
) -> None:
    upstream.list_models = lambda: [{"id": "m1"}]
    client.post("/model", json={"client_name": name, "model": "m1"})
    for ask in (query, chat, session_chat):
        ask(client, name, ask.__name__)
        assert upstream.requests[-1].model == "m1"


@pytest.mark.parametrize(
    "forget",
    [
        lambda client, name: client.delete(f"/api/sessions/{name}"),
        lambda client, name: client.delete(f"/api/v1/threads/{name}"),
    ],
    ids=["as a session", "as a thread"],
)
def test_what_is_deleted_through_one_dialect_is_gone_from_the_others(
    client: FlaskClient, name: str, forget: Callable[[FlaskClient, str], Any]
) -> None:
    query(client, name, "hi")
    assert forget(client, name).status_code == 200
    assert history(client, name) == []
    for path in (f"/api/sessions/{name}", f"/api/sessions/{name}/messages", f"/api/v1/threads/{name}"):
        assert client.get(path).status_code == 404


def test_a_history_that_is_cleared_is_empty_at_every_dialect(client: FlaskClient, name: str) -> None:
    query(client, name, "hi")
    client.delete("/history", query_string={"client_name": name})
    assert [read(client, name) for read in READ] == [[], [], []]


def test_a_chat_without_a_name_is_read_by_its_stream_alone(client: FlaskClient, upstream: SteeredUpstream) -> None:
    said = [{"role": "user", "content": "first"}, {"role": "assistant", "content": "re: first"}]
    answer = client.post("/chat/stream", json={"message": "second", "conversation_history": said})
    read_to_its_end(client, answer.json["stream_id"])
    assert [each["content"] for each in orjson.loads(upstream.requests[-1].messages)] == [
        "first",
        "re: first",
        "second",
    ]


def test_only_a_clients_name_makes_a_conversation(client: FlaskClient, upstream: SteeredUpstream) -> None:
    assert client.post("/api/chat", json={"session_id": "nobody", "message": "hi"}).status_code == 404
    assert client.post("/api/v1/chat", json={"thread_id": "nobody", "message": "hi"}).status_code == 404
    assert not upstream.requests
    query(client, "nobody", "hi")
    session_chat(client, "nobody", "ho")
    thread_chat(client, "nobody", "ha")
    assert len(history(client, "nobody")) == 6

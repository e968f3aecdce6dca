"""What callers write in more than one way means the same in every dialect."""

from codecs import BOM_UTF8
from typing import Any

import orjson
import pytest
from flask.testing import FlaskClient

QUESTION = "My cat is called Grace."


@pytest.fixture
def bodies(client: FlaskClient) -> dict[str, dict[str, Any]]:
    """A valid body for each address that takes a question."""
    session_id = client.post("/api/sessions", json={}).json["session_id"]
    thread_id = client.post("/api/v1/threads", json={}).json["id"]
    return {
        "/query": {"client_name": "ada", "input": QUESTION},
        "/chat": {"client_name": "ada", "message": QUESTION},
        "/chat/stream": {"client_name": "ada", "message": QUESTION},
        "/api/chat": {"session_id": session_id, "message": QUESTION},
        "/api/chat/stream": {"session_id": session_id, "message": QUESTION},
        "/api/v1/chat": {"thread_id": thread_id, "message": QUESTION},
        f"/api/v1/threads/{thread_id}/messages": {"role": "user", "content": QUESTION},
        f"/api/v1/threads/{thread_id}/runs": {},
        "/model": {"client_name": "ada", "model": "scripted-demo"},
        "/api/sessions": {},
        "/api/v1/threads": {},
    }


def test_a_request_id_that_is_null_is_none(client: FlaskClient, bodies: dict[str, dict[str, Any]]) -> None:
    for path, body in bodies.items():
        assert client.post(path, json={**body, "request_id": None}, buffered=True).status_code == 200, path


def test_the_header_counts_where_the_request_id_is_null(client: FlaskClient) -> None:
    sent = {"client_name": "ada", "input": QUESTION, "request_id": None}
    headers = {"Idempotency-Key": "monday-1"}
    assert client.post("/query", json=sent, headers=headers).status_code == 200
    other = client.post("/query", json={**sent, "input": "Another."}, headers=headers)
    assert (other.status_code, other.json["code"]) == (409, "request_id_conflict")


@pytest.mark.parametrize("request_id", [7, True, [], {}, "", "a\nb", "x" * 201])
def test_a_request_id_is_nothing_else(client: FlaskClient, request_id: Any) -> None:
    answer = client.post("/query", json={"client_name": "ada", "input": QUESTION, "request_id": request_id})
    assert (answer.status_code, answer.json["code"]) == (400, "invalid_request")
    assert "request_id" in answer.json["error"]


@pytest.mark.parametrize(
    ("accept", "is_streamed"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream", True),
        ("TEXT/EVENT-STREAM; q=1", True),
        ("Application/JSON;q=0.5, Text/Event-Stream", True),
        ("Application/JSON, Text/Event-Stream;q=0.5", False),
        ("APPLICATION/JSON", False),
        ("*/*", False),
    ],
)
def test_what_is_accepted_is_compared_without_case(client: FlaskClient, accept: str, is_streamed: bool) -> None:
    asked = {"client_name": "ada", "input": QUESTION}
    answer = client.post("/query", json=asked, headers={"Accept": accept}, buffered=True)
    assert (answer.mimetype == "text/event-stream") is is_streamed


def test_a_byte_order_mark_before_a_body_does_not_count(client: FlaskClient, bodies: dict[str, dict[str, Any]]) -> None:
    for path, body in bodies.items():
        marked = BOM_UTF8 + orjson.dumps(body)
        answer = client.post(path, data=marked, content_type="application/json", buffered=True)
        assert answer.status_code == 200, path
    said = client.get("/history?client_name=ada").json
    assert said[0]["content"] == QUESTION


@pytest.mark.parametrize("body", [BOM_UTF8, BOM_UTF8 * 2 + b"{}", b"{}" + BOM_UTF8, "{}".encode("utf-16")])
def test_a_mark_alone_twice_or_elsewhere_is_no_json(client: FlaskClient, body: bytes) -> None:
    answer = client.post("/query", data=body, content_type="application/json")
    assert (answer.status_code, answer.json["code"]) == (400, "invalid_request")


def test_a_body_that_may_be_missing_may_be_a_mark_alone(client: FlaskClient) -> None:
    answer = client.post("/api/sessions", data=BOM_UTF8, content_type="application/json")
    assert answer.status_code in (200, 400)

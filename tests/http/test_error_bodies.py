"""The shape of a failure belongs to the path, also where nothing is found there."""

import pytest
from flask import Flask
from flask.testing import FlaskClient

from server.errors import BodyTooLarge, InvalidRequest
from tests.support.openapi import validate_response

OPENAI = ["/api/v1", "/api/v1/", "/api/v1/nowhere", "/api/v1/threads/a/b/c", "/api/v1/models", "/api%2Fv1/nowhere"]
DETAILED = [
    "/api",
    "/api/",
    "/api/nowhere",
    "/api/v1x",
    "/api/v2/threads",
    "/chat/",
    "/chat/nowhere",
    "/chat/stream/a/b",
]
PLAIN_PATHS = [
    "/nowhere",
    "/apis",
    "/chats",
    "/v1/threads",
    "/nowhere//api/v1",
    "/query/",
    "/API/v1",
    "/sessions",
    "/docs/",
]

WRONG_METHODS = [
    ("PUT", "/api/v1/assistants", "openai"),
    ("GET", "/api/v1/chat", "openai"),
    ("PATCH", "/api/v1/threads/a", "openai"),
    ("GET", "/chat", "detailed"),
    ("PUT", "/chat/stream/a", "detailed"),
    ("GET", "/api/chat", "detailed"),
    ("DELETE", "/api/sessions", "detailed"),
    ("PUT", "/query", "plain"),
    ("POST", "/history", "plain"),
    ("POST", "/docs", "plain"),
]


def shape(body: dict[str, object], code: str) -> str:
    """Which one it is; it must be whole."""
    error = body["error"]
    if isinstance(error, dict):
        assert set(body) == {"error"}
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, code)
        return "openai"
    assert body["code"] == code
    assert set(body) in ({"error", "code"}, {"error", "code", "detail"})
    return "detailed" if "detail" in body else "plain"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        *((path, "openai") for path in OPENAI),
        *((path, "detailed") for path in DETAILED),
        *((path, "plain") for path in PLAIN_PATHS),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_an_unknown_address_is_told_as_failures_beneath_its_path_are(
    client: FlaskClient, path: str, expected: str, method: str
) -> None:
    answer = client.open(path, method=method)
    assert answer.status_code == 404
    assert shape(answer.json, "not_found") == expected
    assert client.head(path).status_code == 404


@pytest.mark.parametrize(("method", "path", "expected"), WRONG_METHODS)
def test_an_unknown_method_is_told_in_the_same_way_with_those_that_there_are(
    client: FlaskClient, method: str, path: str, expected: str
) -> None:
    answer = client.open(path, method=method)
    assert answer.status_code == 405
    assert shape(answer.json, "method_not_allowed") == expected
    assert answer.headers["Allow"]


@pytest.mark.parametrize(
    ("failure", "status"), [(InvalidRequest, 400), (BodyTooLarge, 413)], ids=["a bad request", "a large body"]
)
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/v1/nowhere", "openai"),
        ("/api/v1/chat", "openai"),
        ("/api/chat", "detailed"),
        ("/chat", "detailed"),
        ("/chat/nowhere", "detailed"),
        ("/query", "plain"),
        ("/nowhere", "plain"),
    ],
)
def test_so_is_what_fails_before_any_view(
    app: Flask, path: str, expected: str, failure: type[InvalidRequest], status: int
) -> None:
    def fail() -> None:
        raise failure

    app.before_request_funcs.setdefault(None, []).append(fail)
    app.after_request_funcs[None] = []  # Unknown addresses have no document that knows of these.
    answer = app.test_client().post(path, json={})
    assert answer.status_code == status
    assert shape(answer.json, failure.code) == expected


def test_an_answer_beneath_a_path_is_held_to_its_shape() -> None:
    with pytest.raises(AssertionError):
        validate_response("GET", "/api/v1/nowhere", 404, b'{"error": "Nothing.", "code": "not_found"}')

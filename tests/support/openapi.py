"""Holds JSON answers to the documents, whether they come from the test client or from a server process."""

from functools import cache
from typing import Any
from urllib.parse import urlsplit

import orjson
from openapi_core import OpenAPI
from openapi_core.templating.paths.exceptions import PathError
from openapi_core.testing import MockRequest, MockResponse

from server.dialects.documents import DOCUMENTS


@cache
def _dialects() -> list[OpenAPI]:
    documents = [orjson.loads(path.read_bytes()) for path in DOCUMENTS.values()]
    return [OpenAPI.from_dict({**document, "servers": [{"url": "/"}]}) for document in documents]


def hold_to_document(method: str, address: str, status: int, body: bytes) -> None:
    """Raises what openapi-core finds wrong with a JSON answer.

    An address that no document has must be answered with a failure of the shape that others beneath the same path have.
    """
    request = MockRequest("", method.lower(), urlsplit(address).path)
    response: Any = MockResponse(body, status, content_type="application/json")
    for dialect in _dialects():
        try:
            dialect.validate_response(request, response)
            return
        except PathError:
            continue
    assert shape_of(orjson.loads(body)) == expected_shape(request.path)
    assert status in (404, 405, 421)


def shape_of(failure: dict[str, Any]) -> set[str]:
    """The names in the body of a failure, of OpenAI's those in its `error`."""
    return set(failure["error"]) if isinstance(failure["error"], dict) else set(failure)


def expected_shape(path: str) -> set[str]:
    if f"{path}/".startswith("/api/v1/"):
        return {"message", "type", "param", "code"}
    is_detailed = f"{path}/".startswith(("/api/", "/chat/"))
    return {"error", "code", "detail"} if is_detailed else {"error", "code"}

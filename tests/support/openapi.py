"""Validates JSON responses against the OpenAPI documents, from the test client and from server processes alike."""

from functools import cache
from typing import Any
from urllib.parse import urlsplit

import orjson
from openapi_core import OpenAPI
from openapi_core.templating.paths.exceptions import PathError
from openapi_core.testing import MockRequest, MockResponse

from server.dialects.documents import DOCUMENTS


@cache
def _load_documents() -> list[OpenAPI]:
    documents = [orjson.loads(path.read_bytes()) for path in DOCUMENTS.values()]
    return [OpenAPI.from_dict({**document, "servers": [{"url": "/"}]}) for document in documents]


def validate_response(method: str, address: str, status: int, body: bytes) -> None:
    """Raise an exception of openapi-core if a JSON response does not fit its document.

    If no document has the address, the response must be an error with the fields of the other errors under that path.
    """
    request = MockRequest("", method.lower(), urlsplit(address).path)
    response: Any = MockResponse(body, status, content_type="application/json")
    for document in _load_documents():
        try:
            document.validate_response(request, response)
            return
        except PathError:
            continue
    assert field_names(orjson.loads(body)) == expected_field_names(request.path)
    assert status in (404, 405, 421)


def field_names(body: dict[str, Any]) -> set[str]:
    """The names of the fields of an error; of OpenAI's format, those in `error`."""
    return set(body["error"]) if isinstance(body["error"], dict) else set(body)


def expected_field_names(path: str) -> set[str]:
    if f"{path}/".startswith("/api/v1/"):
        return {"message", "type", "param", "code"}
    is_detailed = f"{path}/".startswith(("/api/", "/chat/"))
    return {"error", "code", "detail"} if is_detailed else {"error", "code"}

"""Reading the body of a request: all of it, as JSON."""

from codecs import BOM_UTF8
from typing import Any

import orjson
from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge

from server.errors import BodyTooLarge, InvalidRequest

INCOMPLETE_BODY = "The body broke off before its end; send it again."

MAX_DEPTH = 100
"""How deeply a body may be nested: below what orjson can write, with room for the levels that the server adds."""


def strip_bom(body: bytes) -> bytes:
    """Remove a byte order mark, which Windows programs write and a JSON parser may ignore (RFC 8259, 8.1)."""
    return body.removeprefix(BOM_UTF8)


def parse_json(body: bytes) -> Any:
    """Raises ValueError if it is not JSON, and InvalidRequest if it is nested deeper than MAX_DEPTH."""
    value = orjson.loads(body)
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _is_deeper_than(value, MAX_DEPTH):
        raise InvalidRequest("The body is nested too deeply.")
    return value


def _is_deeper_than(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    return not levels or any(
        _is_deeper_than(each, levels - 1) for each in (value.values() if isinstance(value, dict) else value)
    )


def read_body(received: Request) -> bytes:
    """The whole body of a request. Raises BodyTooLarge, and InvalidRequest if it is incomplete.

    Werkzeug does not see either fault: it cuts a chunked body at the limit, and takes a body for whole although fewer
    bytes came than its Content-Length says.
    """
    length, limit = received.content_length, received.max_content_length
    try:
        body = received.get_data()
        goes_on = length is None and len(body) == limit and received.environ["wsgi.input"].read(1)
    except RequestEntityTooLarge:
        raise BodyTooLarge from None
    except Exception as error:  # Of any kind from the HTTP server: malformed chunks, a closed connection.
        raise InvalidRequest(INCOMPLETE_BODY) from error
    if goes_on:
        raise BodyTooLarge
    if length is not None and len(body) < length:
        raise InvalidRequest(INCOMPLETE_BODY)
    return body

"""The JSON answer to bytes that are no HTTP request."""

# mypy: disable-error-code="import-untyped"

import secrets
from contextlib import suppress
from typing import Any

from gunicorn import util
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, ParseException

from server.serving.request import linger

ANSWERS: dict[type[Exception], tuple[int, str, str]] = {
    LimitRequestLine: (414, "URI Too Long", "The address is too long; send less in the query string."),
    LimitRequestHeaders: (431, "Request Header Fields Too Large", "The headers are too large; send less."),
    ParseException: (400, "Bad Request", "This is no valid HTTP request; percent-encode the address."),
}
"""Status, reason phrase and sentence for each class of gunicorn's parse errors, subclasses first.

gunicorn's own sentences repeat what the caller sent.
"""

HEADERS = (
    "Connection: close\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n"
    "X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n"
    "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n"
)

HSTS = "Strict-Transport-Security: max-age=31536000\r\n"
"""These and the last three of HEADERS are those of `server/http/security.py`."""


def answer_unreadable(sock: Any, error: Exception, log: Any, *, is_https: bool) -> bool:
    """Answer a request that gunicorn could not parse, and drain the connection. False if `error` is of another kind.

    `is_https` tells whether callers use https. The log line has the answer's X-Request-ID and the class of `error`, and
    nothing of what the caller sent.
    """
    answer = next((each for kind, each in ANSWERS.items() if isinstance(error, kind)), None)
    if answer is None:
        return False
    status, reason, sentence = answer
    request_id = secrets.token_hex(8)
    log.warning("request %s could not be read: %s", request_id, type(error).__name__)
    body = f'{{"error":"{sentence}","code":"invalid_request"}}'
    head = (
        f"HTTP/1.1 {status} {reason}\r\n{HEADERS}{HSTS if is_https else ''}"
        f"X-Request-ID: {request_id}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with suppress(OSError):  # A caller who sends such bytes often does not wait for an answer.
        util.write_nonblock(sock, (head + body).encode("ascii"))
    linger(sock)
    return True

"""An id for every request, and one log line as JSON for each: no content, no key, no client's name."""

import logging
import re
import secrets
import time
from functools import partial
from typing import Any

import orjson
from flask import Flask, Response, g, has_request_context, request

from server.domain import rfc3339

log = logging.getLogger("server.requests")

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""The form in which a caller's `X-Request-ID` is taken over; any other is replaced."""


def log_requests(app: Flask) -> None:
    """Give each request an id, sent as `X-Request-ID`, and log it.

    The line is written after the answer was sent, or when a stream begins.
    """

    @app.before_request
    def assign_id() -> None:
        g.started = time.perf_counter()
        given = request.headers.get("X-Request-ID", "")
        g.request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)

    @app.after_request
    def log_response(response: Response) -> Response:
        response.headers["X-Request-ID"] = g.request_id
        if log.isEnabledFor(logging.INFO):
            get = g.get  # Each look through the proxy costs a microsecond.
            line = {
                "request_id": g.request_id,
                "method": request.method,
                "route": None if request.url_rule is None else request.url_rule.rule,
                "status": response.status_code,
                "ms": round((time.perf_counter() - g.started) * 1000, 2),
                "code": get("error_code"),
                "key_id": getattr(get("caller"), "key_id", None) or None,
                "run_id": get("run_id"),
            }
            write = partial(_write_line, time.time(), line)
            if response.is_streamed or request.method == "HEAD" or response.status_code in (204, 304):
                write()  # A stream may last for minutes, and close() is never called on an answer without a body.
            else:
                response.call_on_close(write)  # After the answer was sent, so that the caller does not wait for it.
        return response


def log_run(run_id: str) -> None:
    """Have the line of the current request, if there is one, name the run that it created or read."""
    if has_request_context():
        g.run_id = run_id


def _write_line(seconds: float, line: dict[str, Any]) -> None:
    log.info(orjson.dumps({"time": rfc3339(seconds), **line}).decode())

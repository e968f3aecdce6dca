"""A name for every request, and a line in the log for each: no content, no key, no name of a client."""

import logging
import re
import secrets
import time
from functools import partial
from typing import Any

import orjson
from flask import Flask, Response, g, request

from server.domain import rfc3339

log = logging.getLogger("server.requests")

SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def log_requests(app: Flask) -> None:
    """Give each request its id, in `X-Request-ID`, and write its line: when its answer was sent, or a stream begins."""

    @app.before_request
    def name() -> None:
        g.began = time.perf_counter()
        given = request.headers.get("X-Request-ID", "")
        g.request_id = given if SANE_ID.fullmatch(given) else secrets.token_hex(8)

    @app.after_request
    def tell(response: Response) -> Response:
        response.headers["X-Request-ID"] = g.request_id
        if log.isEnabledFor(logging.INFO):
            line = {
                "request_id": g.request_id,
                "method": request.method,
                "route": None if request.url_rule is None else request.url_rule.rule,
                "status": response.status_code,
                "ms": round((time.perf_counter() - g.began) * 1000, 2),
                "code": g.get("failure_code"),
            }
            write = partial(_write, time.time(), line)
            if response.is_streamed or request.method == "HEAD" or response.status_code in (204, 304):
                write()  # A stream may go on for long, and an answer without a body is never closed.
            else:
                response.call_on_close(write)  # The caller does not wait for it.
        return response


def _write(seconds: float, line: dict[str, Any]) -> None:
    log.info(orjson.dumps({"time": rfc3339(seconds), **line}).decode())

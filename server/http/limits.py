"""Who asks, as limits see it, and the headers that tell what is left."""

import math
from dataclasses import replace

from flask import Flask, Response, g, has_request_context, request

from server.access.caller import OPEN, Caller
from server.errors import AppError, RateLimited
from server.rates import RateState


def find_caller() -> Caller:
    """The caller of the current request, with its address."""
    if not has_request_context():
        return OPEN
    caller: Caller = g.get("caller", OPEN)
    return caller if caller.address else replace(caller, address=request.remote_addr or "")


def keep_quota(state: RateState) -> None:
    """Have the answer to the current request tell the rate limit."""
    if has_request_context():
        g.rate_state = state


def keep_refusal(error: AppError) -> None:
    """Have the answer tell when to try again."""
    if isinstance(error, RateLimited):
        g.rate_state = error.state
    if error.retry_seconds is not None:
        g.retry_seconds = error.retry_seconds


def tell_limits(app: Flask) -> None:
    """Add `RateLimit-*` and `Retry-After` to every answer that has them; both count whole seconds, rounded up."""

    @app.after_request
    def add_headers(response: Response) -> Response:
        state: RateState | None = g.get("rate_state")
        if state is not None:
            response.headers["RateLimit-Limit"] = str(state.limit)
            response.headers["RateLimit-Remaining"] = str(state.remaining)
            response.headers["RateLimit-Reset"] = str(math.ceil(max(0.0, state.reset_seconds)))
        retry_seconds: float | None = g.get("retry_seconds")
        if retry_seconds is not None:
            response.headers["Retry-After"] = str(max(1, math.ceil(retry_seconds)))
        return response

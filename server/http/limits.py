"""Who asks, as limits see it, and the headers that tell what is left."""

import math
from dataclasses import replace

from flask import Flask, Response, g, has_request_context, request

from server.access.caller import OPEN, Caller
from server.errors import AppError, RateLimited
from server.rates import RateState


def find_caller() -> Caller:
    """The caller of the current request, with its address if it has no key."""
    if not has_request_context():
        return OPEN
    caller: Caller = g.get("caller", OPEN)
    return caller if caller.key_id else replace(caller, address=request.remote_addr or "")


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
            # Not set: that would look for one to replace.
            response.headers.add("RateLimit-Limit", str(state.limit))
            response.headers.add("RateLimit-Remaining", str(state.remaining))
            response.headers.add("RateLimit-Reset", str(math.ceil(max(0.0, state.reset_seconds))))
        retry_seconds: float | None = g.get("retry_seconds")
        if retry_seconds is not None:
            response.headers["Retry-After"] = str(max(1, math.ceil(retry_seconds)))
        return response

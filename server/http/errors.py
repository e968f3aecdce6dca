"""The HTTP status of each AppError, and the handlers that answer errors."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from flask import Blueprint, Flask, Response, g, make_response, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge

from server import errors
from server.errors import AppError
from server.http.limits import keep_refusal

log = logging.getLogger("server.errors")

STATUS: dict[type[AppError], int] = {
    errors.AppError: 500,
    errors.Refused: 400,
    errors.NotAuthorized: 401,
    errors.NotAllowed: 403,
    errors.ClientFull: 403,
    errors.NotFound: 404,
    errors.MethodNotAllowed: 405,
    errors.RunConflict: 409,
    errors.BodyTooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.MisdirectedRequest: 421,
    errors.ConversationBusy: 429,
    errors.TooManyAttempts: 429,
    errors.RateLimited: 429,
    errors.TooManyOpenRuns: 429,
    errors.TooManyStreams: 429,
    errors.BudgetExhausted: 429,
    errors.Unavailable: 503,
    errors.InternalError: 500,
    errors.NotConfigured: 503,
    errors.ShuttingDown: 503,
    errors.StoreUnavailable: 503,
    errors.RunInterrupted: 503,
    errors.RunTimedOut: 504,
    errors.RunExpired: 504,
    errors.UpstreamFailed: 502,
    errors.UpstreamTimedOut: 504,
}
"""A class that is not named has the status of its nearest base class here."""

_HTTP: dict[type[HTTPException], Callable[[], AppError]] = {
    NotFound: lambda: errors.NotFound(errors.NO_ADDRESS),
    MethodNotAllowed: errors.MethodNotAllowed,
    RequestEntityTooLarge: errors.BodyTooLarge,
}
"""What is answered for Werkzeug's exceptions that have a code of their own here."""

Body = Callable[[AppError], dict[str, Any]]
"""Gives the JSON body of an error."""


def status_of(error: AppError) -> int:
    """The status of the nearest class above `error` that the table names."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def plain_body(error: AppError) -> dict[str, Any]:
    """`{"error", "code"}`: the shape of the published API and of every path that no dialect serves."""
    return {"error": str(error), "code": error.code}


def detailed_body(error: AppError) -> dict[str, Any]:
    """`{"error", "code", "detail"}`: the shape of the chat and session dialects."""
    return {**plain_body(error), "detail": str(error)}


def select_body(bodies: Mapping[str, Body]) -> Body:
    """A body whose shape depends on the request's path: that of the longest prefix in `bodies`, else `plain_body`."""
    longest_first = sorted(bodies.items(), key=lambda each: -len(each[0]))

    def body(error: AppError) -> dict[str, Any]:
        requested = f"{request.path}/"
        return next((shape for path, shape in longest_first if requested.startswith(f"{path}/")), plain_body)(error)

    return body


def register_error_handlers(
    app: Blueprint | Flask,
    body: Body = plain_body,
    status: Callable[[AppError], int] = status_of,
) -> None:
    """Answer every exception raised in `app` in one shape: an AppError, Werkzeug's HTTPException, and any other.

    An unforeseen exception is logged with its traceback and answered as InternalError.
    """

    def answer(error: AppError) -> tuple[dict[str, Any], int, dict[str, str]]:
        g.error_code = error.code
        keep_refusal(error)
        headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, errors.NotAuthorized) else {}
        return body(error), status(error), headers

    def answer_http(error: HTTPException) -> Response:
        fallback = errors.InternalError if (error.code or 500) >= 500 else errors.InvalidRequest
        make_error = next((ours for theirs, ours in _HTTP.items() if isinstance(error, theirs)), fallback)
        response = make_response(answer(make_error()))
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
        return response

    def answer_unhandled(_: Exception) -> tuple[dict[str, Any], int, dict[str, str]]:
        log.exception("unhandled exception in request %s", g.get("request_id", "-"))
        return answer(errors.InternalError())

    app.register_error_handler(AppError, answer)
    app.register_error_handler(HTTPException, answer_http)
    app.register_error_handler(Exception, answer_unhandled)

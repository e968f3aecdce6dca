"""The one table from our failures to HTTP."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from flask import Blueprint, Flask, Response, g, make_response, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge

from server import errors
from server.errors import AppError

log = logging.getLogger("server.failures")

STATUS: dict[type[AppError], int] = {
    errors.AppError: 500,
    errors.Refused: 400,
    errors.NotFound: 404,
    errors.MethodNotAllowed: 405,
    errors.RunConflict: 409,
    errors.BodyTooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.MisdirectedRequest: 421,
    errors.ConversationBusy: 429,
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

_HTTP: dict[type[HTTPException], type[AppError]] = {
    NotFound: errors.NotFound,
    MethodNotAllowed: errors.MethodNotAllowed,
    RequestEntityTooLarge: errors.BodyTooLarge,
}


Body = Callable[[AppError], dict[str, Any]]
"""Gives the body that tells a failure."""


def status_of(failure: AppError) -> int:
    """The status of the nearest class above `failure` that the table names."""
    return next(STATUS[kind] for kind in type(failure).__mro__ if kind in STATUS)


def plain_body(failure: AppError) -> dict[str, Any]:
    """`{"error", "code"}`: the published shape, and that of every address which no dialect serves."""
    return {"error": str(failure), "code": failure.code}


def detailed_body(failure: AppError) -> dict[str, Any]:
    """`{"error", "code", "detail"}`, the shape of the chat and session dialects."""
    return {**plain_body(failure), "detail": str(failure)}


def body_beneath(bodies: Mapping[str, Body]) -> Body:
    """The body that `bodies` has for the nearest path at or above the request's; `plain_body` for any other."""
    nearest = sorted(bodies.items(), key=lambda each: -len(each[0]))

    def body(failure: AppError) -> dict[str, Any]:
        asked = f"{request.path}/"
        return next((made for path, made in nearest if asked.startswith(f"{path}/")), plain_body)(failure)

    return body


def register_error_handlers(
    place: Blueprint | Flask,
    body: Body = plain_body,
    status: Callable[[AppError], int] = status_of,
) -> None:
    """Answer every failure out of `place` in one shape: ours, routing's own, and those that have no name yet."""

    def answer(failure: AppError) -> tuple[dict[str, Any], int]:
        g.failure_code = failure.code
        return body(failure), status(failure)

    def answer_http(problem: HTTPException) -> Response:
        other = errors.InternalError if (problem.code or 500) >= 500 else errors.InvalidRequest
        known = next((ours for theirs, ours in _HTTP.items() if isinstance(problem, theirs)), other)
        response = make_response(answer(known()))
        if isinstance(problem, MethodNotAllowed) and problem.valid_methods:
            response.headers["Allow"] = ", ".join(sorted(problem.valid_methods))
        return response

    def answer_nameless(_: Exception) -> tuple[dict[str, Any], int]:
        log.exception("a request failed for a reason that has no name")
        return answer(errors.InternalError())

    place.register_error_handler(AppError, answer)
    place.register_error_handler(HTTPException, answer_http)
    place.register_error_handler(Exception, answer_nameless)

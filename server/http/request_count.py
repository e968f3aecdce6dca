"""Counts the requests by API, route and status."""

from flask import Flask, Request, Response, request

from server.metrics import Metrics

NO_DOOR = "none"
"""The door of requests that no route takes."""

NO_ROUTE = "unknown"
"""The route of those, whatever address they name."""


def count_requests(app: Flask, metrics: Metrics) -> None:
    """Count each request when its response is ready; that of a stream, when it begins."""
    known: dict[tuple[str | None, str, int], tuple[str, str, str]] = {}

    @app.after_request
    def count(response: Response) -> Response:
        # Each look through the proxy costs a microsecond.
        received: Request = request._get_current_object()  # type: ignore[attr-defined]
        # Methods are bounded only if there is a route, which takes no method that it does not have.
        rule = received.url_rule
        key = (
            (None, "", response.status_code) if rule is None else (rule.endpoint, received.method, response.status_code)
        )
        labels = known.get(key)
        if labels is None:
            labels = known[key] = _labels_of(received, response.status_code)
        metrics.requests.add(*labels)
        return response


def _labels_of(received: Request, status: int) -> tuple[str, str, str]:
    """Door, route and status."""
    rule = received.url_rule
    if rule is None:
        return NO_DOOR, NO_ROUTE, str(status)
    return rule.endpoint.partition(".")[0], f"{received.method} {rule.rule}", str(status)

"""Operations: health, readiness and metrics of the server, and the OpenAPI documents."""

import time
from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, g, jsonify

from server.core import Core
from server.domain import rfc3339
from server.errors import NO_ADDRESS, NotFound
from server.http.caching import NO_CACHE, ONE_MINUTE, add_validators
from server.http.contract import Contract
from server.http.errors import register_error_handlers
from server.http.headers import public_address
from server.http.metrics_port import is_on_metrics_port
from server.metrics import Metrics

PROBES = ("operators.getAlive", "operators.getReady")
"""Endpoints of process supervisors, which address the server by any host name."""


METRICS = "operators.getMetrics"
"""The endpoint of the metrics. Prometheus, too, addresses the server by any host name."""


def blueprint(
    contract: Contract, core: Core, documents: Mapping[str, dict[str, Any]], address: str, metrics: Metrics
) -> Blueprint:
    """`documents` are by the name of their dialect. `address` is the public address of the server, or empty."""
    bp = Blueprint("operators", __name__)
    register_error_handlers(bp)
    version = documents["published"]["info"]["version"]

    @contract.serves(bp, "getHealth")
    def get_health() -> dict[str, Any]:
        health = core.health.check()
        return {
            "status": health.status,
            "openai_api": health.upstream,
            "store": health.store,
            "timestamp": rfc3339(time.time()),
            "version": version,
        }

    @contract.serves(bp, "getAlive")
    def get_alive() -> dict[str, Any]:
        return {"status": "alive"}

    @contract.serves(bp, "getReady")
    def get_ready() -> dict[str, Any]:
        core.health.check_ready()
        return {"status": "ready"}

    @contract.serves(bp, "getMetrics")
    def get_metrics() -> Response:
        _require_operator()
        return Response(metrics.render(), content_type="text/plain; version=0.0.4; charset=utf-8")

    @contract.serves(bp, "getPublishedDocument")
    def get_published_document() -> Response:
        return get_document("published")

    @contract.serves(bp, "getDocument")
    def get_document(dialect: str) -> Response:
        if dialect not in documents:
            raise NotFound(NO_ADDRESS)
        response = jsonify({**documents[dialect], "servers": [{"url": public_address(address)}]})
        # Without a configured address the document depends on headers, which any caller can send through a cache.
        return add_validators(response, ONE_MINUTE if address else NO_CACHE)

    return bp


def _require_operator() -> None:
    """Raises NotFound unless the request arrived on METRICS_PORT, or its caller is the administrator."""
    if not (is_on_metrics_port() or getattr(g.get("caller"), "is_admin", False)):
        raise NotFound(NO_ADDRESS)

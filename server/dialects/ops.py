"""For those who run the server: is it alive, is it ready, what does it offer."""

import time
from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, jsonify

from server.core import Core
from server.domain import rfc3339
from server.errors import NotFound
from server.http.caching import NO_CACHE, ONE_MINUTE, add_validators
from server.http.contract import Contract
from server.http.errors import register_error_handlers
from server.http.headers import prefix, public_address

PROBES = ("operators.getAlive", "operators.getReady")
"""Endpoints for those who look after processes, and name them by whatever address they have."""


def blueprint(contract: Contract, core: Core, documents: Mapping[str, dict[str, Any]], address: str) -> Blueprint:
    """`documents` by the name of their dialect; `address` is the public one, or empty."""
    bp = Blueprint("operators", __name__)
    register_error_handlers(bp)
    version = documents["published"]["info"]["version"]

    @contract.serves(bp, "getService")
    def service() -> dict[str, Any]:
        return {
            "service": "conversation server",
            "status": "running",
            "version": version,
            "timestamp": rfc3339(time.time()),
            "openapi": f"{prefix()}/openapi.json",
            "documents": [f"{prefix()}/{name}/openapi.json" for name in documents],
            "docs": f"{prefix()}/docs",
            "redoc": f"{prefix()}/redoc",
            "health": f"{prefix()}/health",
        }

    @contract.serves(bp, "getHealth")
    def health() -> dict[str, Any]:
        found = core.health.check()
        known = {"status": found.status, "openai_api": found.upstream, "store": found.store}
        return {**known, "timestamp": rfc3339(time.time()), "version": version}

    @contract.serves(bp, "getAlive")
    def alive() -> dict[str, Any]:
        return {"status": "alive"}

    @contract.serves(bp, "getReady")
    def ready() -> dict[str, Any]:
        core.health.check_ready()
        return {"status": "ready"}

    @contract.serves(bp, "getPublishedDocument")
    def published() -> Response:
        return document("published")

    @contract.serves(bp, "getDocument")
    def document(dialect: str) -> Response:
        if dialect not in documents:
            raise NotFound
        served = jsonify({**documents[dialect], "servers": [{"url": public_address(address)}]})
        # Without a configured address it depends on headers, which anybody can send through a cache.
        return add_validators(served, ONE_MINUTE if address else NO_CACHE)

    return bp

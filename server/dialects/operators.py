"""For those who run the server: is it alive, is it ready, what does it offer."""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flask import Blueprint

from server.conversations import Conversations
from server.errors import NotFound, StoreUnavailable, Unavailable
from server.model import rfc3339
from server.wire.caller import public_address
from server.wire.contract import Contract
from server.wire.failures import answer_failures


def blueprint(
    contract: Contract, conversations: Conversations, documents: Mapping[str, dict[str, Any]], address: str
) -> Blueprint:
    """`documents` by the name of their dialect; `address` is the public one, or empty."""
    bp = Blueprint("operators", __name__)
    answer_failures(bp)
    version = documents["published"]["info"]["version"]

    @contract.serves(bp, "getService")
    def service() -> dict[str, Any]:
        return {
            "service": "conversation server",
            "status": "running",
            "version": version,
            "timestamp": rfc3339(time.time()),
            "openapi": "/openapi.json",
            "documents": [f"/{name}/openapi.json" for name in documents],
            "health": "/health",
        }

    @contract.serves(bp, "getHealth")
    def health() -> dict[str, Any]:
        return {**_health(conversations), "timestamp": rfc3339(time.time()), "version": version}

    @contract.serves(bp, "getAlive")
    def alive() -> dict[str, Any]:
        return {"status": "alive"}

    @contract.serves(bp, "getReady")
    def ready() -> dict[str, Any]:
        conversations.check_ready()
        return {"status": "ready"}

    @contract.serves(bp, "getPublishedDocument")
    def published() -> dict[str, Any]:
        return document("published")

    @contract.serves(bp, "getDocument")
    def document(dialect: str) -> dict[str, Any]:
        if dialect not in documents:
            raise NotFound
        return {**documents[dialect], "servers": [{"url": public_address(address)}]}

    return bp


def _health(conversations: Conversations) -> dict[str, Any]:
    with ThreadPoolExecutor(1) as beside:  # Each may take nearly two seconds, and so may both.
        asked = beside.submit(conversations.upstream_health)
        store = _store_health(conversations)
        upstream = asked.result()
    good = "healthy" if upstream == "connected" else "degraded"
    return {"status": good if store == "available" else "unhealthy", "openai_api": upstream, "store": store}


def _store_health(conversations: Conversations) -> str:
    try:
        conversations.check_ready()
    except StoreUnavailable:
        return "unavailable"
    except Unavailable:
        return "closing"
    return "available"

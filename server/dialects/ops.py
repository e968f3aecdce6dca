"""For those who run the server: is it alive, is it ready, what does it offer."""

import hashlib
import secrets
import time
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from typing import Any

from flask import Blueprint, Response, jsonify

from server.core.conversations import Conversations
from server.domain import rfc3339
from server.errors import NotFound
from server.http.caching import BRIEFLY, REVALIDATED, validated
from server.http.contract import Contract
from server.http.errors import register_error_handlers
from server.http.headers import prefix, public_address
from server.web import pages

PROBES = ("operators.getAlive", "operators.getReady")
"""Endpoints for those who look after processes, and name them by whatever address they have."""

SWAGGER_UI_LOGO = "'sha256-RL3ie0nH+Lzz2YNqQN83mnU0J1ot4QL7b99vMdIX99w='"
"""The style within its logo, in this one version."""

REDOC_COLOURS = (
    "attr-name boolean class-name comment default deleted function inserted keyword link number operator "
    "property-string selector string tag variable"
)
"""What the examples of streams are coloured with, each by an attribute of its own."""


def blueprint(
    contract: Contract, conversations: Conversations, documents: Mapping[str, dict[str, Any]], address: str
) -> Blueprint:
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
        found = conversations.health()
        known = {"status": found.status, "openai_api": found.upstream, "store": found.store}
        return {**known, "timestamp": rfc3339(time.time()), "version": version}

    @contract.serves(bp, "getAlive")
    def alive() -> dict[str, Any]:
        return {"status": "alive"}

    @contract.serves(bp, "getReady")
    def ready() -> dict[str, Any]:
        conversations.check_ready()
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
        return validated(served, BRIEFLY if address else REVALIDATED)

    @contract.serves(bp, "getDocs")
    def docs() -> Response:
        return pages.page("docs.html", {"style-src": SWAGGER_UI_LOGO}, documents=_links(documents))

    @contract.serves(bp, "getRedoc")
    def redoc(document: str | None) -> Response:
        chosen = "published" if document is None else document
        if chosen not in documents:
            raise NotFound
        nonce = secrets.token_urlsafe(16)
        allowed = {"style-src": f"'nonce-{nonce}'", "style-src-attr": _colours(), "font-src": "data:"}
        return pages.page("redoc.html", allowed, documents=_links(documents), chosen=chosen, nonce=nonce)

    @contract.serves(bp, "getWebFile")
    def web_file(file: str, v: str | None) -> Response:
        return pages.file(file, v)

    return bp


def _links(documents: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Title and address of each document by its dialect, for a page at the root of the site."""
    return {
        name: {"name": document["info"]["title"], "url": f"{name}/openapi.json"} for name, document in documents.items()
    }


@cache
def _colours() -> str:
    styles = [f"color: var(--code-block-tokens-{name}-color)".encode() for name in REDOC_COLOURS.split()]
    hashes = [b64encode(hashlib.sha256(style).digest()).decode() for style in styles]
    return " ".join(["'unsafe-hashes'", *(f"'sha256-{each}'" for each in hashes)])

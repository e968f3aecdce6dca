"""The chat page, the pages over the OpenAPI documents, and their files. The operators' document describes them."""

import hashlib
import secrets
import time
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from typing import Any

from flask import Blueprint, Response, jsonify, request

from server.domain import rfc3339
from server.errors import NO_ADDRESS, NotFound
from server.http.contract import Contract
from server.http.errors import register_error_handlers
from server.http.headers import prefix
from server.web import pages

SWAGGER_UI_LOGO = "'sha256-RL3ie0nH+Lzz2YNqQN83mnU0J1ot4QL7b99vMdIX99w='"
"""The hash of the inline style in Swagger UI's logo, in the version that `vendor/versions.json` names."""

REDOC_TOKENS = (
    "attr-name boolean class-name comment default deleted function inserted keyword link number operator "
    "property-string selector string tag variable"
)
"""The kinds of tokens that Redoc colours in examples, each with a style attribute of its own."""

CHAT_POLICY = {"manifest-src": "'self'", "require-trusted-types-for": "'script'", "trusted-types": "dompurify"}
"""What the chat page's policy has besides: text becomes HTML through DOMPurify or not at all."""


def blueprint(contract: Contract, documents: Mapping[str, dict[str, Any]]) -> Blueprint:
    """Serves the operations of `contract` whose answers are pages or their files.

    `documents` are all OpenAPI documents by the name of their dialect.
    """
    bp = Blueprint("web", __name__)
    register_error_handlers(bp)

    version = documents["published"]["info"]["version"]

    @contract.serves(bp, "getService")
    def get_service() -> Response:
        is_browser = request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html"
        response = pages.render_chat(CHAT_POLICY, prefix()) if is_browser else jsonify(_service(version, documents))
        response.vary.add("Accept")
        return response

    @contract.serves(bp, "getDocs")
    def docs() -> Response:
        return pages.render_page("docs.html", {"style-src": SWAGGER_UI_LOGO}, documents=_list_links(documents))

    @contract.serves(bp, "getRedoc")
    def redoc(document: str | None) -> Response:
        chosen = "published" if document is None else document
        if chosen not in documents:
            raise NotFound(NO_ADDRESS)
        nonce = secrets.token_urlsafe(16)
        allowed = {"style-src": f"'nonce-{nonce}'", "style-src-attr": _hash_token_styles(), "font-src": "data:"}
        links = _list_links(documents)
        return pages.render_page("redoc.html", allowed, documents=links, chosen=chosen, nonce=nonce)

    @contract.serves(bp, "getWebFile")
    def web_file(version: str, file: str) -> Response:
        return pages.send_file(version, file)

    return bp


def _service(version: str, documents: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What a program gets at the root of the site."""
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


def _list_links(documents: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Title and address of each document by its dialect, relative to a page at the root of the site."""
    return {
        name: {"name": document["info"]["title"], "url": f"{name}/openapi.json"} for name, document in documents.items()
    }


@cache
def _hash_token_styles() -> str:
    """The sources for `style-src-attr` that allow the style of each token and no other."""
    styles = [f"color: var(--code-block-tokens-{name}-color)".encode() for name in REDOC_TOKENS.split()]
    hashes = [b64encode(hashlib.sha256(style).digest()).decode() for style in styles]
    return " ".join(["'unsafe-hashes'", *(f"'sha256-{each}'" for each in hashes)])

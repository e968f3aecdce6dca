"""What callers and caches may store (RFC 9111): nothing, unless an answer says so itself."""

import hashlib

from flask import Flask, Response, request

NO_CACHE = "no-cache"
"""Stored, but revalidated at every use."""

ONE_MINUTE = "public, max-age=60, must-revalidate"
"""For what changes only when the server is started with other settings."""

IMMUTABLE = "public, max-age=31536000, immutable"
"""For an address whose content never changes."""


def forbid_storing(app: Flask, *, varies: bool) -> None:
    """Send `Cache-Control: no-store` with every answer that has no `Cache-Control` of its own.

    If `varies` is true, answers that may be stored get `Vary: Origin`, since their CORS headers depend on the page that
    asks. Call this before other after-request hooks are added: Flask runs the first one last.
    """

    @app.after_request
    def add_cache_headers(response: Response) -> Response:
        if "Cache-Control" not in response.headers:
            response.headers["Cache-Control"] = "no-store"
        elif varies and "no-store" not in response.headers["Cache-Control"]:
            response.vary.add("Origin")
        return response


def add_validators(response: Response, lifetime: str, *, ignored: str = "") -> Response:
    """Add an ETag and the `Cache-Control` value `lifetime`; turn it into 304 if `If-None-Match` names that ETag.

    `ignored` is a text in the body that differs from answer to answer without meaning, such as a nonce. It is left out
    of the hash, and the ETag is then a weak one.
    """
    content = response.get_data()
    if ignored:
        content = content.replace(ignored.encode(), b"")
    response.set_etag(hashlib.sha256(content).hexdigest(), weak=bool(ignored))
    response.headers["Cache-Control"] = lifetime
    response.make_conditional(request)
    # The HTTP server adds a Date to each answer; Werkzeug's would be a second one.
    response.headers.pop("Date", None)
    return response

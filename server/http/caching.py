"""What callers and the caches between may keep (RFC 9111): nothing, but for what is the same for everybody."""

import hashlib

from flask import Flask, Response, request

REVALIDATED = "no-cache"
"""Kept, and asked about each time."""

BRIEFLY = "public, max-age=60, must-revalidate"
"""For what may change with the next start of the server."""

FOR_EVER = "public, max-age=31536000, immutable"
"""For an address whose content never changes."""


def forbid_storing(app: Flask, *, varies: bool) -> None:
    """Let nobody keep an answer that does not say itself how long it holds.

    `varies` is whether what may be kept has headers that depend on the page that asks. To be called before other hooks
    are added that run after requests: this one runs last.
    """

    @app.after_request
    def judge(response: Response) -> Response:
        if "Cache-Control" not in response.headers:
            response.headers["Cache-Control"] = "no-store"
        elif varies and "no-store" not in response.headers["Cache-Control"]:
            response.vary.add("Origin")
        return response


def validated(response: Response, lifetime: str, *, unlike: str = "") -> Response:
    """`response` with an ETag, or 304 if the caller names it in `If-None-Match`.

    `unlike` is a text in it that differs from answer to answer and means nothing: the ETag is a weak one then.
    """
    content = response.get_data()
    if unlike:
        content = content.replace(unlike.encode(), b"")
    response.set_etag(hashlib.sha256(content).hexdigest(), weak=bool(unlike))
    response.headers["Cache-Control"] = lifetime
    response.make_conditional(request)
    # Whatever serves the app writes the date of each answer, and this one would stand beside it.
    response.headers.pop("Date", None)
    return response

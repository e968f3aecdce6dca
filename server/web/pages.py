"""Pages for a browser and the files that they load, under a policy that keeps them on this server.

A page loads nothing from other sites and sends nothing to them.
"""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from flask import Response, make_response, render_template

from server.errors import NotFound
from server.http.caching import IMMUTABLE, NO_CACHE, add_validators

MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript"}

FILES = {path.name: path for path in Path(__file__).parent.rglob("*") if path.suffix in MEDIA_TYPES}
"""The files that can be fetched, by their plain names. Third-party files lie in folders of their own below."""

POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "font-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
}
"""The Content-Security-Policy of every page."""


def render_page(template: str, additions: dict[str, str], *, nonce: str = "", **values: Any) -> Response:
    """Render a page from `server/web/templates`; 304 if the browser's copy is current.

    `additions` are further sources by directive, added to those of POLICY. `nonce` is the one that `additions` allow;
    it is left out of the ETag, since it differs in every answer.
    """
    policy = [f"{name} {POLICY.get(name, '')} {additions.get(name, '')}".strip() for name in POLICY | additions]
    response = make_response(render_template(template, address_of=address_of, nonce=nonce, **values))
    add_validators(_add_security_headers(response), NO_CACHE, ignored=nonce)
    if response.status_code != 304:
        # A 304 would replace the policy of the page in the browser's cache, whose nonce is another one.
        response.headers["Content-Security-Policy"] = "; ".join(policy)
    return response


def address_of(name: str) -> str:
    """The address of a file's current version, relative to a page at the root of the site."""
    return f"web/{name}?v={_read_file(FILES[name])[1]}"


def send_file(name: str, version: str | None = None) -> Response:
    """A file that pages load; 304 if the browser's copy is current. Raises NotFound.

    With the current `version`, browsers keep it for ever. Without it, or with an old one, they revalidate each time.
    """
    if name not in FILES:
        raise NotFound
    content, current = _read_file(FILES[name])
    response = Response(content, mimetype=MEDIA_TYPES[FILES[name].suffix])
    return add_validators(_add_security_headers(response), IMMUTABLE if version == current else NO_CACHE)


def _add_security_headers(response: Response) -> Response:
    response.headers.update({"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"})
    return response


@cache
def _read_file(path: Path) -> tuple[bytes, str]:
    """The content of a file, and its version: the first 16 hexadecimal digits of its SHA-256."""
    content = path.read_bytes()
    return content, hashlib.sha256(content).hexdigest()[:16]

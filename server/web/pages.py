"""Pages for a browser, and the files that they load: nothing comes from elsewhere, and nothing goes there."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from flask import Response, make_response, render_template

from server.errors import NotFound
from server.http.caching import FOR_EVER, REVALIDATED, validated

KINDS = {".css": "text/css", ".js": "text/javascript"}

FILES = {path.name: path for path in Path(__file__).parent.rglob("*") if path.suffix in KINDS}
"""What may be had, each by its plain name: others' files lie deeper, in folders of their own."""

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
"""What every page may load and do."""


def page(template: str, more: dict[str, str], *, nonce: str = "", **values: Any) -> Response:
    """A page out of `server/web`, or 304 where the browser has it already.

    `more` is what it needs besides POLICY, added to the directives that it names. `nonce` is one that `more` names.
    """
    policy = [f"{name} {POLICY.get(name, '')} {more.get(name, '')}".strip() for name in POLICY | more]
    response = make_response(render_template(template, address_of=address_of, nonce=nonce, **values))
    validated(_kept_to_itself(response), REVALIDATED, unlike=nonce)
    if response.status_code != 304:
        # Of 304, it would take the place of that which the browser has, and does not fit the nonce of that page.
        response.headers["Content-Security-Policy"] = "; ".join(policy)
    return response


def address_of(name: str) -> str:
    """Where a page at the root of the site finds a file, in the version that it has now."""
    return f"web/{name}?v={_read(FILES[name])[1]}"


def file(name: str, version: str | None = None) -> Response:
    """A file that pages load, or 304 where the browser has it already. Raises NotFound.

    Its `version` is that of its address. Without it, a browser asks each time whether what it has still holds.
    """
    if name not in FILES:
        raise NotFound
    content, current = _read(FILES[name])
    response = Response(content, mimetype=KINDS[FILES[name].suffix])
    return validated(_kept_to_itself(response), FOR_EVER if version == current else REVALIDATED)


def _kept_to_itself(response: Response) -> Response:
    response.headers.update({"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"})
    return response


@cache
def _read(path: Path) -> tuple[bytes, str]:
    """The content of a file, and its version."""
    content = path.read_bytes()
    return content, hashlib.sha256(content).hexdigest()[:16]

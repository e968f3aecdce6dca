"""Pages for a browser, and the files that they load: nothing comes from elsewhere, and nothing goes there."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from flask import Response, make_response, render_template, request

from server.errors import NotFound

KINDS = {".css": "text/css", ".js": "text/javascript"}

FILES = {path.name: path for path in (Path(__file__).parent.parent / "web").rglob("*") if path.suffix in KINDS}
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


def page(template: str, more: dict[str, str], **values: Any) -> Response:
    """A page out of `server/web`; `more` is what it needs besides POLICY, added to the directives that it names."""
    policy = [f"{name} {POLICY.get(name, '')} {more.get(name, '')}".strip() for name in POLICY | more]
    response = make_response(render_template(template, **values))
    response.headers["Content-Security-Policy"] = "; ".join(policy)
    return _kept_to_itself(response)


def file(name: str) -> Response:
    """A file that pages load, or 304 where the browser has it already. Raises NotFound."""
    if name not in FILES:
        raise NotFound
    content, etag = _read(FILES[name])
    response = Response(content, mimetype=KINDS[FILES[name].suffix])
    response.set_etag(etag)
    response.make_conditional(request)
    return _kept_to_itself(response)


def _kept_to_itself(response: Response) -> Response:
    # A browser asks each time whether what it has still holds, so that a page and its files are of one version.
    response.headers.update(
        {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
    )
    return response


@cache
def _read(path: Path) -> tuple[bytes, str]:
    content = path.read_bytes()
    return content, hashlib.sha256(content).hexdigest()

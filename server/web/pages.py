"""Pages for a browser and the files that they load, under a policy that keeps them on this server.

A page loads nothing from other sites and sends nothing to them.
"""

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from flask import Response, make_response, render_template

from server.errors import NO_ADDRESS, NotFound
from server.http.caching import IMMUTABLE, NO_CACHE, add_validators
from server.http.compression import compress, compress_gzip

MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript"}

FILES = {path.name: path for path in Path(__file__).parent.rglob("*") if path.suffix in MEDIA_TYPES and path.is_file()}
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


def render_page(template: str, additions: Mapping[str, str], *, nonce: str = "", **values: Any) -> Response:
    """Render a page from `server/web/templates`; 304 if the browser's copy is current.

    `additions` are further sources by directive, added to those of POLICY. `nonce` is the one that `additions` allow;
    it is left out of the ETag, since it differs in every answer.
    """
    sources = {name: (POLICY.get(name), additions.get(name)) for name in {**POLICY, **additions}}
    policy = [" ".join([name, *filter(None, found)]) for name, found in sources.items()]
    response = make_response(render_template(template, address_of=address_of, nonce=nonce, **values))
    add_validators(response, NO_CACHE, ignored=nonce)
    if response.status_code != 304:
        # A 304 would replace the policy of the page in the browser's cache, whose nonce is another one.
        response.headers["Content-Security-Policy"] = "; ".join(policy)
    return compress(response)


def render_chat(additions: Mapping[str, str], prefix: str) -> Response:
    """The chat page. It names the modules that its first one imports, so that all are fetched at once.

    `prefix` is the path under which callers reach the server. With one, the page's addresses are absolute, since its
    own may lack the slash at the end. With none they are relative, since a proxy may strip a path and not tell it.
    """
    return render_page("chat.html", additions, modules=list_imports("main.js"), root=f"{prefix}/" if prefix else "")


@cache
def list_imports(name: str) -> list[str]:
    """The modules that a module loads, directly or not, without those that wait for an `import()`."""
    found: list[str] = []
    waiting = [name]
    while waiting:
        text = _read_file(FILES[waiting.pop()]).decode()
        new = [each for each in re.findall(r'^(?:import|export)\b[^;"]*"\./([^"]+)"', text, re.M) if each not in found]
        found += new
        waiting += new
    return found


def address_of(name: str) -> str:
    """The address of a file, relative to a page at the root of the site. Raises KeyError if there is no such file."""
    return f"web/{hash_release()}/{FILES[name].name}"


def send_file(version: str, name: str) -> Response:
    """A file that pages load; 304 if the browser's copy is current. Raises NotFound.

    With the current `version`, browsers keep it for ever. With another, as a page has that was opened before the
    server was replaced, they revalidate each time.
    """
    if name not in FILES:
        raise NotFound(NO_ADDRESS)
    path = FILES[name]
    response = Response(_read_file(path), mimetype=MEDIA_TYPES[path.suffix])
    add_validators(response, IMMUTABLE if version == hash_release() else NO_CACHE)
    return compress(response, lambda _: _read_compressed(path))


@cache
def hash_release() -> str:
    """The version of all files together: one for all, because modules import each other by relative addresses."""
    digest = hashlib.sha256()
    for name in sorted(FILES):
        digest.update(f"{name}\0".encode() + hashlib.sha256(_read_file(FILES[name])).digest())
    return digest.hexdigest()[:16]


@cache
def _read_file(path: Path) -> bytes:
    return path.read_bytes()


@cache
def _read_compressed(path: Path) -> bytes:
    return compress_gzip(_read_file(path))

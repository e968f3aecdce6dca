"""Which names the server answers to, so that no page elsewhere reads it by pointing a name of its own at it."""

import re
from collections.abc import Collection
from functools import lru_cache
from ipaddress import ip_address

from flask import Flask, request

from server.addresses import LOOPBACK, is_loopback
from server.errors import MisdirectedRequest

# By DNS rebinding a page of any site becomes one of the same origin as a server on this machine or in this network.
# All that gives it away is the header Host.

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\s:/?#@\[\]]+?)\.?)(?::[0-9]*)?", re.IGNORECASE)
"""The header of RFC 9110, 7.2."""


class Hosts:
    """Names that requests may use for the server."""

    def __init__(self, patterns: Collection[str]) -> None:
        """`patterns` are as `addresses.host_pattern` gives them."""
        self._are_all = "*" in patterns
        self._names = {*LOOPBACK, *patterns}
        self._endings = tuple(each[1:] for each in patterns if each.startswith("*."))

    def __contains__(self, name: str) -> bool:
        return self._are_all or name in self._names or name.endswith(self._endings)


def answer_only_to(
    app: Flask, hosts: Hosts, *, listens_on: str, is_configured: bool, exempt: Collection[str] = ()
) -> None:
    """Refuse requests that name another host, if the server listens on loopback or `is_configured`.

    `listens_on` is the host that it listens on where the server that runs `app` does not tell. `exempt` are endpoints.
    """

    @app.before_request
    def check() -> None:
        listener = _listener(listens_on)
        is_local = is_loopback(listener)
        if not (is_configured or is_local) or request.endpoint in exempt:
            return
        # Not Flask's: it takes the address that the server listens on where the header is missing.
        said = [request.environ.get("HTTP_HOST", "")]
        if is_local and "werkzeug.proxy_fix.orig" in request.environ:
            # The header itself, too: a page that comes past the proxy could claim any name in X-Forwarded-Host.
            # Elsewhere a proxy may call the server by a name of its own.
            said.append(request.environ["werkzeug.proxy_fix.orig"]["HTTP_HOST"] or "")
        if any(name not in hosts and name != listener for name in map(named_by, said)):
            raise MisdirectedRequest


def _listener(configured: str) -> str:
    """What gunicorn really listens on: its arguments may have overridden HOST."""
    environ = request.environ
    if "gunicorn.socket" not in environ:
        return configured
    # ProxyFix writes the host of its headers over that of the listener.
    name: str = environ.get("werkzeug.proxy_fix.orig", environ)["SERVER_NAME"]
    return name


@lru_cache(256)
def named_by(header: str) -> str:
    """The host that a `Host` header names, in lower case and without its port; empty for none."""
    found = _HOST.fullmatch(header)
    if found is None:
        return ""
    if found[1] is None:
        return found[2].lower()
    try:
        return ip_address(found[1]).compressed
    except ValueError:
        return ""

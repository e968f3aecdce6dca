"""The host names under which the server may be called, as a defence against DNS rebinding.

With DNS rebinding, a page of any site points a name of its own at a server on the reader's machine or network and so
shares its origin. Only the header `Host` tells such a request from others.
"""

import re
from collections.abc import Collection
from functools import lru_cache
from ipaddress import ip_address

from flask import Flask, request

from server.addresses import LOOPBACK, is_loopback
from server.errors import MisdirectedRequest

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\s:/?#@\[\]]+?)\.?)(?::[0-9]*)?", re.IGNORECASE)
"""The header `Host` (RFC 9110, 7.2)."""


class Hosts:
    """The host names that requests may use. Loopback's names are always among them."""

    def __init__(self, patterns: Collection[str]) -> None:
        """`patterns` are as `addresses.parse_host_pattern` returns them."""
        self._allows_all = "*" in patterns
        self._names = {*LOOPBACK, *patterns}
        self._suffixes = tuple(each[1:] for each in patterns if each.startswith("*."))

    def __contains__(self, name: str) -> bool:
        return self._allows_all or name in self._names or name.endswith(self._suffixes)


def restrict_hosts(
    app: Flask, hosts: Hosts, *, listens_on: str, is_configured: bool, exempt: Collection[str] = ()
) -> None:
    """Raise MisdirectedRequest for requests to other hosts, if the server listens on loopback or `is_configured`.

    `listens_on` is the host that the server listens on if the WSGI environment does not tell it. `exempt` are endpoints
    that answer to any host.
    """

    @app.before_request
    def check_host() -> None:
        listener = _listening_host(listens_on)
        is_local = is_loopback(listener)
        if not (is_configured or is_local) or request.endpoint in exempt:
            return
        # Not request.host, which is the listener's address if the header is missing.
        headers = [request.environ.get("HTTP_HOST", "")]
        if is_local and "werkzeug.proxy_fix.orig" in request.environ:
            # Also the header that ProxyFix replaced: a page that bypasses the proxy can send any X-Forwarded-Host.
            # If the server is not on loopback, a proxy may use an internal name here.
            headers.append(request.environ["werkzeug.proxy_fix.orig"]["HTTP_HOST"] or "")
        if any(name not in hosts and name != listener for name in map(parse_host_header, headers)):
            raise MisdirectedRequest


def _listening_host(configured: str) -> str:
    """The host that gunicorn listens on, whose command line may override HOST; `configured` under other servers."""
    environ = request.environ
    if "gunicorn.socket" not in environ:
        return configured
    # ProxyFix overwrites SERVER_NAME with the forwarded host.
    name: str = environ.get("werkzeug.proxy_fix.orig", environ)["SERVER_NAME"]
    return name


@lru_cache(256)
def parse_host_header(header: str) -> str:
    """The host in a `Host` header, in lower case and without its port; empty if the header is malformed."""
    found = _HOST.fullmatch(header)
    if found is None:
        return ""
    if found[1] is None:
        return found[2].lower()
    try:
        return ip_address(found[1]).compressed
    except ValueError:
        return ""

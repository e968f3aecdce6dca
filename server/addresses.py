"""Addresses that an operator writes: where to listen, where callers reach the server, and whose pages may call it."""

import re
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""What every machine calls itself."""

_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*")

_ADDRESS = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<star>\*\.)?(?:\[(?P<six>[^\[\]]+)\]|(?P<name>[^\s/?#@:\\\[\]*]+))"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<path>(?:/[a-z0-9._~!$&'()*+,;=:@%-]*)*)",
    re.IGNORECASE | re.ASCII,
)

_DEFAULT_PORTS = {"http": 80, "https": 443}

_SUBDOMAINS = r"(?:[a-z0-9_-]+\.)+"


class Site(NamedTuple):
    """Where a server for HTTP is found."""

    address: str
    """Scheme, host, port and path, without a slash at the end."""
    host: str
    """As `host` gives it."""
    path: str
    """Empty, or a path that begins with a slash and does not end with one."""


def host(text: str) -> str:
    """A host as requests name it: in lower case and ASCII (IDNA), without a dot at its end.

    `text` is a name or an address, IPv6 without brackets. Raises ValueError if it is neither.
    """
    try:
        return ip_address(text).compressed
    except ValueError:
        name = text.removesuffix(".").encode("idna").decode().lower()
    if not _NAME.fullmatch(name) or len(name) > 253 or re.fullmatch(r"[0-9.]+", name):
        raise ValueError("no host")
    return name


def host_pattern(text: str) -> str:
    """`text` as `host` gives it, with `*.` before it where it means the subdomains, or `*` alone.

    An IPv6 address may stand in brackets. Raises ValueError.
    """
    if text == "*":
        return text
    if text.startswith("*."):
        return f"*.{host(text[2:])}"
    return host(text[1:-1] if re.fullmatch(r"\[.*:.*\]", text) else text)


@lru_cache(16)
def is_loopback(text: str) -> bool:
    """Whether a host that `host` has given leads nowhere but to this machine."""
    try:
        address = ip_address(text)
        # Python before 3.13 does not look into an IPv4 address that is written as one of IPv6.
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback
    except ValueError:
        return text == "localhost" or text.endswith(".localhost")


def site(text: str) -> Site:
    """Raises ValueError unless `text` is an address of HTTP without a user, a query and a fragment."""
    found = _parts(text)
    if found["star"] or found["scheme"].lower() not in _DEFAULT_PORTS:
        raise ValueError("no address of HTTP")
    name, port = _host(found), "" if found["port"] is None else f":{int(found['port'])}"
    path = found["path"].rstrip("/")
    return Site(f"{found['scheme'].lower()}://{_bracketed(name)}{port}{path}", name, path)


def origin(text: str) -> re.Pattern[str]:
    """What matches the header `Origin` (RFC 6454) of the pages that `text` names, and of no others.

    `https://*.a.example` names the subdomains of `a.example`, at any depth. Raises ValueError if there is no scheme, a
    path, or a star in another place.
    """
    found = _parts(text)
    scheme = found["scheme"].lower()
    if found["path"] not in ("", "/") or (found["star"] and scheme not in _DEFAULT_PORTS):
        raise ValueError("no origin")
    port = "" if found["port"] is None or int(found["port"]) == _DEFAULT_PORTS.get(scheme) else f":{int(found['port'])}"
    subdomains = _SUBDOMAINS if found["star"] else ""
    place = re.escape(f"{_bracketed(_host(found))}{port}")
    return re.compile(rf"{re.escape(scheme)}://{subdomains}{place}\Z", re.IGNORECASE | re.ASCII)


def _parts(text: str) -> re.Match[str]:
    found = _ADDRESS.fullmatch(text)
    if found is None or (found["port"] is not None and not 1 <= int(found["port"]) <= 65535):
        raise ValueError("no address")
    return found


def _host(found: re.Match[str]) -> str:
    if found["six"] is None:
        return host(found["name"])
    if ":" not in found["six"] or found["star"]:
        raise ValueError("no IPv6 address")
    return host(found["six"])


def _bracketed(name: str) -> str:
    return f"[{name}]" if ":" in name else name

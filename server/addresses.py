"""Parses the addresses in settings: hosts to listen on, the public address, origins whose pages may call."""

import re
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""The names under which every machine reaches itself."""

_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*")

_ADDRESS = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<star>\*\.)?(?:\[(?P<six>[^\[\]]+)\]|(?P<name>[^\s/?#@:\\\[\]*]+))"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<path>(?:/[a-z0-9._~!$&'()*+,;=:@%-]*)*)",
    re.IGNORECASE | re.ASCII,
)

_DEFAULT_PORTS = {"http": 80, "https": 443}

_SUBDOMAINS = r"(?:[a-z0-9_-]+\.)+"


class Site(NamedTuple):
    """The address of an HTTP server."""

    address: str
    """Scheme, host, port and path, without a slash at the end."""
    host: str
    """As `parse_host` returns it."""
    path: str
    """Empty, or a path that begins with a slash and does not end with one."""


def parse_host(text: str) -> str:
    """Normalize a host: lower case, ASCII (IDNA), without a trailing dot; IPv6 compressed.

    `text` is a name or an IP address, IPv6 without brackets. Raises ValueError if it is neither.
    """
    try:
        return ip_address(text).compressed
    except ValueError:
        name = text.removesuffix(".").encode("idna").decode().lower()
    if not _NAME.fullmatch(name) or len(name) > 253 or re.fullmatch(r"[0-9.]+", name):
        raise ValueError("no host")
    return name


def parse_host_pattern(text: str) -> str:
    """Normalize a host as `parse_host` does, with `*.` before it if it means the subdomains; `*` alone means any.

    An IPv6 address may stand in brackets. Raises ValueError.
    """
    if text == "*":
        return text
    if text.startswith("*."):
        return f"*.{parse_host(text[2:])}"
    return parse_host(text[1:-1] if re.fullmatch(r"\[.*:.*\]", text) else text)


@lru_cache(16)
def is_loopback(text: str) -> bool:
    """Whether a host, as `parse_host` returns it, always leads to this machine."""
    try:
        address = ip_address(text)
        # Python before 3.13 says False for IPv4-mapped IPv6 addresses such as ::ffff:127.0.0.1.
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback
    except ValueError:
        return text == "localhost" or text.endswith(".localhost")


def parse_site(text: str) -> Site:
    """Parse an address of HTTP. Raises ValueError if it has a user, a query or a fragment, or is none."""
    found = _match_address(text)
    if found["star"] or found["scheme"].lower() not in _DEFAULT_PORTS:
        raise ValueError("no address of HTTP")
    name, port = _host(found), "" if found["port"] is None else f":{int(found['port'])}"
    path = found["path"].rstrip("/")
    return Site(f"{found['scheme'].lower()}://{_bracket(name)}{port}{path}", name, path)


def compile_origin(text: str) -> re.Pattern[str]:
    """An expression that matches the header `Origin` (RFC 6454) of the pages that `text` names, and no other.

    `https://*.a.example` names the subdomains of `a.example`, at any depth. Raises ValueError if there is no scheme, a
    path, or a star in another place.
    """
    found = _match_address(text)
    scheme = found["scheme"].lower()
    if found["path"] not in ("", "/") or (found["star"] and scheme not in _DEFAULT_PORTS):
        raise ValueError("no origin")
    port = "" if found["port"] is None or int(found["port"]) == _DEFAULT_PORTS.get(scheme) else f":{int(found['port'])}"
    subdomains = _SUBDOMAINS if found["star"] else ""
    address = re.escape(f"{_bracket(_host(found))}{port}")
    return re.compile(rf"{re.escape(scheme)}://{subdomains}{address}\Z", re.IGNORECASE | re.ASCII)


def _match_address(text: str) -> re.Match[str]:
    found = _ADDRESS.fullmatch(text)
    if found is None or (found["port"] is not None and not 1 <= int(found["port"]) <= 65535):
        raise ValueError("no address")
    return found


def _host(found: re.Match[str]) -> str:
    if found["six"] is None:
        return parse_host(found["name"])
    if ":" not in found["six"] or found["star"]:
        raise ValueError("no IPv6 address")
    return parse_host(found["six"])


def _bracket(name: str) -> str:
    return f"[{name}]" if ":" in name else name

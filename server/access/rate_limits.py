"""Rate limits: how many runs a key may begin in a time, or, without a key, an address."""

from ipaddress import IPv6Address, ip_network

from server.access.caller import Caller
from server.rates import parse_rate
from server.store.limits import RateLimit

SUBNET_BITS = 64
"""An IPv6 address counts as its network of this size: its holder has all addresses in it."""


class RateLimits:
    """Safe from any thread."""

    def __init__(self, rate_limit: str = "") -> None:
        """`rate_limit` is that of callers without one of their own; empty for none."""
        self._rate_limit = rate_limit

    def find(self, caller: Caller) -> RateLimit | None:
        """What holds for a caller; None if nothing does."""
        text = caller.rate_limit or self._rate_limit
        return RateLimit(_rate_key(caller), *parse_rate(text)) if text else None


def _rate_key(caller: Caller) -> str:
    return f"key:{caller.key_id}" if caller.key_id else f"address:{network_of(caller.address)}"


def network_of(address: str) -> str:
    """Whose address this is: itself, also if it is IPv4 written as IPv6; of another IPv6 address, its network."""
    if ":" not in address:
        return address
    try:
        parsed = IPv6Address(address)
    except ValueError:  # Whatever a proxy says.
        return address
    return str(parsed.ipv4_mapped or ip_network((int(parsed), SUBNET_BITS), strict=False))

"""How what stands behind the server is: asked for real, both at once, since each may take nearly two seconds."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from server.errors import StoreUnavailable, Unavailable
from server.upstream.protocol import Health


@dataclass(frozen=True, slots=True)
class Standing:
    upstream: Health
    store: Literal["available", "unavailable", "closing"]
    """`closing` where the process is about to end."""

    @property
    def status(self) -> Literal["healthy", "degraded", "unhealthy"]:
        if self.store != "available":
            return "unhealthy"
        return "healthy" if self.upstream == "connected" else "degraded"


def standing(ask_upstream: Callable[[], Health], check_store: Callable[[], None]) -> Standing:
    """`check_store` raises StoreUnavailable, or another Unavailable where it is the process that is not ready."""
    with ThreadPoolExecutor(1) as beside:
        asked = beside.submit(ask_upstream)
        try:
            check_store()
        except StoreUnavailable:
            return Standing(asked.result(), "unavailable")
        except Unavailable:
            return Standing(asked.result(), "closing")
        return Standing(asked.result(), "available")

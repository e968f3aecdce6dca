"""How what stands behind the server is: asked for real, both at once, since each may take nearly two seconds."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from server.errors import StoreUnavailable, Unavailable
from server.upstream.protocol import UpstreamStatus


@dataclass(frozen=True, slots=True)
class Health:
    upstream: UpstreamStatus
    store: Literal["available", "unavailable", "closing"]
    """`closing` where the process is about to end."""

    @property
    def status(self) -> Literal["healthy", "degraded", "unhealthy"]:
        if self.store != "available":
            return "unhealthy"
        return "healthy" if self.upstream == "connected" else "degraded"


def check_health(ask_upstream: Callable[[], UpstreamStatus], check_store: Callable[[], None]) -> Health:
    """`check_store` raises StoreUnavailable, or another Unavailable where it is the process that is not ready."""
    with ThreadPoolExecutor(1) as beside:
        asked = beside.submit(ask_upstream)
        try:
            check_store()
        except StoreUnavailable:
            return Health(asked.result(), "unavailable")
        except Unavailable:
            return Health(asked.result(), "closing")
        return Health(asked.result(), "available")

"""The health of the store and the upstream."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from server.errors import ShuttingDown, StoreUnavailable, Unavailable
from server.runs.runner import Runner
from server.store.protocol import Store
from server.upstream.protocol import Upstream, UpstreamStatus


@dataclass(frozen=True, slots=True)
class Health:
    upstream: UpstreamStatus
    store: Literal["available", "unavailable", "closing"]
    """`closing` if the process is shutting down."""

    @property
    def status(self) -> Literal["healthy", "degraded", "unhealthy"]:
        if self.store != "available":
            return "unhealthy"
        return "healthy" if self.upstream == "connected" else "degraded"


class HealthCheck:
    """Probes what the server depends on. Safe from any thread."""

    def __init__(self, store: Store, upstream: Upstream, runner: Runner) -> None:
        self._store = store
        self._upstream = upstream
        self._runner = runner

    def check(self) -> Health:
        """Probe both, in less than two seconds and without spending tokens."""
        # At the same time, since each may take nearly two seconds.
        with ThreadPoolExecutor(1) as pool:
            upstream = pool.submit(self._upstream.check_health)
            try:
                self.check_ready()
            except StoreUnavailable:
                return Health(upstream.result(), "unavailable")
            except Unavailable:
                return Health(upstream.result(), "closing")
            return Health(upstream.result(), "available")

    def check_ready(self) -> None:
        """Raises StoreUnavailable or ShuttingDown if questions would be refused."""
        if self._runner.is_closing:
            raise ShuttingDown
        self._store.ping()

"""The models that the upstream offers, and whether calls to it can work."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from server import errors
from server.upstream.lenient_json import loads
from server.upstream.protocol import UpstreamStatus

log = logging.getLogger("server.upstream")

MODELS_SECONDS = 10.0
HEALTH_SECONDS = 1.8
HEALTH_TTL_SECONDS = 10.0
PROVEN_SECONDS = 60.0
"""How long a reply proves that calls work, whatever the list of models says."""
GLANCE_SECONDS = 0.5
"""How long a question waits for a list that is not known."""
NO_LIST = "The model's server has no list of models; the operator must set DEFAULT_MODEL."
ODD = (errors.UpstreamRefused, errors.UpstreamBadReply, errors.UpstreamRateLimited)
"""What the list fails with at a server that answers, and has no list for us."""

Fetch = Callable[[float], list[dict[str, Any]]]


class ModelList:
    """Kept for a while, and served stale while the upstream fails or another caller asks. Safe from any thread."""

    def __init__(self, fetch: Fetch, ttl_seconds: float, clock: Callable[[], float]) -> None:
        """`fetch` asks the upstream within so many seconds; it raises UpstreamFailed."""
        self._fetch = fetch
        self._ttl = ttl_seconds
        self._clock = clock
        self._models: list[dict[str, Any]] = []
        self._until = 0.0
        self._glance_due = 0.0
        self._failures = 0
        self._failure: errors.AppError = errors.UpstreamFailed()
        """How the list could not be had the last time."""
        self._lock = threading.Lock()
        self._proven_until = 0.0
        self._has_failed = False
        """Whether the last call failed."""
        self._health: UpstreamStatus = "unreachable"
        self._health_until = 0.0
        self._health_lock = threading.Lock()

    def get(self) -> list[dict[str, Any]]:
        """Each model as the upstream describes it, with at least `id`. Raises UpstreamFailed if it was never had."""
        failures = self._failures
        if not self._lock.acquire(blocking=not self._models):
            return self._models
        try:
            if not self._models and self._failures > failures:
                raise self._failed()  # Who waited while another asked in vain does not ask in vain too.
            if self._clock() >= self._until:
                self._renew()
            return self._models
        finally:
            self._lock.release()

    def glance(self) -> Sequence[dict[str, Any]]:
        """The models as far as they are known: a stale list is renewed beside, an unknown one waited for a moment."""
        if self._clock() >= max(self._until, self._glance_due):
            self._glance_due = self._clock() + HEALTH_TTL_SECONDS
            asking = threading.Thread(target=self._try, daemon=True)
            asking.start()
            if not self._models:
                asking.join(GLANCE_SECONDS)
        return self._models

    def note(self, *, has_failed: bool) -> None:
        """Whether a call has worked, which says more of the upstream than its list."""
        self._has_failed = has_failed
        self._proven_until = 0.0 if has_failed else self._clock() + PROVEN_SECONDS

    def health(self) -> UpstreamStatus:
        """Looked up in a thread, since a name server may be slower than any timeout of ours."""
        if self._clock() < self._proven_until:
            return "connected"
        if not self._health_lock.acquire(timeout=HEALTH_SECONDS):
            return "unreachable"
        try:
            if self._clock() >= self._health_until:
                self._health = "unreachable"
                asking = threading.Thread(target=self._ask_health, daemon=True)
                asking.start()
                asking.join(HEALTH_SECONDS)
                self._health_until = self._clock() + HEALTH_TTL_SECONDS
            return self._health
        finally:
            self._health_lock.release()

    def _ask_health(self) -> None:
        try:
            self._fetch(HEALTH_SECONDS)
        except errors.UpstreamFailed as problem:
            if self._has_failed or not isinstance(problem, ODD):
                return
        self._health = "connected"

    def _try(self) -> None:
        try:
            self.get()
        except errors.UpstreamFailed as problem:
            log.info("the list of models cannot be had: %s", problem.code)

    def _renew(self) -> None:
        try:
            self._models = self._fetch(MODELS_SECONDS)
        except errors.UpstreamFailed as problem:
            self._failure = problem
            self._failures += 1
            if not self._models:
                raise
        self._until = self._clock() + self._ttl

    def _failed(self) -> errors.AppError:
        return type(self._failure)(str(self._failure))


def parse_models(body: bytes) -> list[dict[str, Any]]:
    """The models in an answer: in `data` or `models`, or bare; empty for null. Raises ValueError for anything else."""
    listed = loads(body)
    if isinstance(listed, dict):
        listed = listed["data"] if "data" in listed else listed.get("models", listed)
    if listed is None:
        return []
    if not isinstance(listed, list):
        raise ValueError
    named = [{"id": each} if isinstance(each, str) else each for each in listed]
    return [each for each in named if isinstance(each, dict) and isinstance(each.get("id"), str) and each["id"]]

"""The upstream's cached list of models, and its health."""

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
"""How long a successful completion counts as health, whatever the list of models says."""
PEEK_SECONDS = 0.5
"""How long a question waits for a list that was never loaded."""
NO_LIST = "The model's server has no list of models; the operator must set DEFAULT_MODEL."
NO_LIST_ERRORS = (errors.UpstreamRefused, errors.UpstreamBadReply, errors.UpstreamRateLimited)
"""What `GET /models` fails with at a server that works, but offers no list."""

Fetch = Callable[[float], list[dict[str, Any]]]


class ModelList:
    """A cache of the list. It serves stale entries while the upstream fails or another thread reloads. Thread-safe."""

    def __init__(self, fetch: Fetch, ttl_seconds: float, clock: Callable[[], float]) -> None:
        """`fetch` loads the list, with a timeout in seconds; it raises UpstreamFailed. `clock` gives Unix seconds."""
        self._fetch = fetch
        self._ttl = ttl_seconds
        self._clock = clock
        self._models: list[dict[str, Any]] = []
        self._ids: frozenset[str] = frozenset()
        self._until = 0.0
        self._peek_due = 0.0
        self._error_count = 0
        self._error: errors.AppError = errors.UpstreamFailed()
        """Why the list could not be loaded the last time."""
        self._lock = threading.Lock()
        self._proven_until = 0.0
        self._has_failed = False
        """Whether the last completion failed in a way that others will, too."""
        self._health: UpstreamStatus = "unreachable"
        self._health_until = 0.0
        self._health_lock = threading.Lock()

    def get(self) -> list[dict[str, Any]]:
        """Each model as the upstream describes it, with at least `id`. Raises UpstreamFailed if there is none yet."""
        error_count = self._error_count
        if not self._lock.acquire(blocking=not self._models):
            return self._models
        try:
            if not self._models and self._error_count > error_count:
                raise self._copy_error()  # Another thread failed while this one waited; another try would fail too.
            if self._clock() >= self._until:
                self._refresh()
            return self._models
        finally:
            self._lock.release()

    def peek(self) -> Sequence[dict[str, Any]]:
        """The models as far as they are known, within PEEK_SECONDS. A stale list is reloaded in the background."""
        thread = self._start_refresh()
        if thread is not None and not self._models:
            thread.join(PEEK_SECONDS)
        return self._models

    def has(self, model: str) -> bool:
        """Whether the list, as far as it is known, has the model. Waits for nothing; reloads as `peek`."""
        self._start_refresh()
        return model in self._ids

    def record_call(self, *, has_failed: bool) -> None:
        """Record whether a completion failed, which says more about the upstream's health than its list of models."""
        self._has_failed = has_failed
        self._proven_until = 0.0 if has_failed else self._clock() + PROVEN_SECONDS

    def check_health(self) -> UpstreamStatus:
        """Whether completions can work, in less than two seconds, without requesting one; cached for ten seconds.

        It runs in a thread, since no timeout applies to the resolution of host names.
        """
        if self._clock() < self._proven_until:
            return "connected"
        if not self._health_lock.acquire(timeout=HEALTH_SECONDS):
            return "unreachable"
        try:
            if self._clock() >= self._health_until:
                self._health = "unreachable"
                thread = threading.Thread(target=self._probe_health, daemon=True)
                thread.start()
                thread.join(HEALTH_SECONDS)
                self._health_until = self._clock() + HEALTH_TTL_SECONDS
            return self._health
        finally:
            self._health_lock.release()

    def _probe_health(self) -> None:
        try:
            self._fetch(HEALTH_SECONDS)
        except errors.UpstreamFailed as error:
            if self._has_failed or not isinstance(error, NO_LIST_ERRORS):
                return
        self._health = "connected"

    def _start_refresh(self) -> threading.Thread | None:
        """Reload the list in a thread if it is stale; None if it is not, or was tried a moment ago."""
        if self._clock() < max(self._until, self._peek_due):
            return None
        self._peek_due = self._clock() + HEALTH_TTL_SECONDS
        thread = threading.Thread(target=self._refresh_in_background, daemon=True)
        thread.start()
        return thread

    def _refresh_in_background(self) -> None:
        try:
            self.get()
        except errors.UpstreamFailed as error:
            log.info("the list of models cannot be loaded: %s", error.code)

    def _refresh(self) -> None:
        try:
            self._models = self._fetch(MODELS_SECONDS)
            self._ids = frozenset(each["id"] for each in self._models)
        except errors.UpstreamFailed as error:
            self._error = error
            self._error_count += 1
            if not self._models:
                raise
        self._until = self._clock() + self._ttl

    def _copy_error(self) -> errors.AppError:
        return type(self._error)(str(self._error))


def parse_models(body: bytes) -> list[dict[str, Any]]:
    """The models in a response: in `data` or `models`, or a bare list; empty for null. Raises ValueError otherwise."""
    models = loads(body)
    if isinstance(models, dict):
        models = models["data"] if "data" in models else models.get("models", models)
    if models is None:
        return []
    if not isinstance(models, list):
        raise ValueError
    entries = [{"id": each} if isinstance(each, str) else each for each in models]
    return [each for each in entries if isinstance(each, dict) and isinstance(each.get("id"), str) and each["id"]]

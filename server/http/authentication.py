"""Who asks: finds the caller of each request by its key, and refuses requests without a valid one."""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from flask import Flask, g, request

from server.access.caller import OPEN, Caller
from server.access.keys import Keys
from server.access.rate_limits import network_of
from server.errors import NotAuthorized, TooManyAttempts
from server.http.metrics_port import is_on_metrics_port

ATTEMPTS = 10
ATTEMPT_SECONDS = 60.0
"""An address may send ATTEMPTS wrong keys within ATTEMPT_SECONDS."""

MAX_ADDRESSES = 10_000
"""Of so many addresses wrong keys are counted; of others that are counted, the one that tried least recently goes."""


def identify_callers(app: Flask, keys: Keys | None) -> None:
    """Set `g.caller` before each request.

    Without `keys`, anybody is `OPEN`. Otherwise a request needs a key, but for operations with `security: []` in their
    document, unknown addresses, what browsers ask before a request (OPTIONS) and the port of the metrics.
    """
    attempts = Attempts()

    @app.before_request
    def identify() -> None:
        g.caller = OPEN
        view = app.view_functions.get(request.endpoint or "")
        if keys is None or view is None or getattr(view, "is_public", False) or request.method == "OPTIONS":
            return
        if is_on_metrics_port():
            return
        text = read_key()
        caller = None if text is None else find_caller(keys, attempts, text)
        if caller is None:
            raise NotAuthorized
        g.caller = caller


def read_key() -> str | None:
    """The key of the request, from `Authorization: Bearer KEY` or `X-API-Key: KEY`."""
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and text.strip():
        return text.strip()
    return request.headers.get("X-API-Key", "").strip() or None


def find_caller(keys: Keys, attempts: "Attempts", text: str) -> Caller | None:
    """None if the key opens nothing. Raises TooManyAttempts if its address has sent too many of those."""
    caller = keys.find_caller(text)
    if caller is None and not attempts.take(request.remote_addr or ""):
        raise TooManyAttempts
    return caller


class Attempts:
    """The wrong keys of the last minute, by address. Each process counts its own. Safe from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def take(self, address: str) -> bool:
        """Count a wrong key. False if there were too many before it."""
        network = network_of(address)
        now = self._clock()
        with self._lock:
            times = self._times.setdefault(network, deque(maxlen=ATTEMPTS))
            self._times.move_to_end(network)
            if len(times) == ATTEMPTS and now - times[0] < ATTEMPT_SECONDS:
                return False
            times.append(now)
            while len(self._times) > MAX_ADDRESSES:
                self._times.popitem(last=False)
            return True

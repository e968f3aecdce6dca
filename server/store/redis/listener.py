"""Change notifications between workers, over one pub/sub connection."""

import threading
import time
from collections.abc import Collection
from typing import Any

from redis import exceptions

from server.store.redis.client import CALL_SECONDS, RedisClient


class RedisListener:
    """Implements `Store.listen`.

    Scripts publish the ids of a worker's runs on `worker:TOKEN`, and an empty message on `run:ID` if a run has changed.
    """

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._pubsub: Any = None
        """The connection. Messages on its channels wait in it until they are read."""
        self._followed: set[str] = set()
        self._was_open = False

    def open(self, worker: str) -> None:
        """Receive notifications about the runs of `worker` from now on. After a failure, only `listen` reconnects."""
        if not self._was_open:
            self._client.attempt(lambda client: self._connect(client, worker))
            self._was_open = True

    def listen(self, worker: str, followed: Collection[str], seconds: float) -> Collection[str]:
        """As `Store.listen`. If the connection broke, all `followed` runs count as newly followed."""
        end = time.monotonic() + seconds
        return self._client.attempt(lambda client: self._receive(client, worker, set(followed), end))

    def close(self) -> None:
        with self._lock:
            pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            pubsub.close()

    def _connect(self, client: Any, worker: str) -> Any:
        with self._lock:
            if self._pubsub is None:
                pubsub = client.pubsub()
                pubsub.subscribe(f"worker:{worker}")
                _read_messages(pubsub)
                self._pubsub, self._followed = pubsub, set()
            return self._pubsub

    def _receive(self, client: Any, worker: str, followed: set[str], end: float) -> Collection[str]:
        pubsub = self._connect(client, worker)
        try:
            self._follow(pubsub, followed)
            messages = _read_messages(pubsub)
            seconds = end - time.monotonic()
            if not messages and seconds > 0:
                first = pubsub.get_message(timeout=seconds)
                messages = [first, *_read_messages(pubsub)] if first else []
        except BaseException:
            self.close()
            raise
        return {run_id for each in messages if (run_id := _run_id(each, followed))}

    def _follow(self, pubsub: Any, followed: set[str]) -> None:
        for change, run_ids in (
            (pubsub.subscribe, followed - self._followed),
            (pubsub.unsubscribe, self._followed - followed),
        ):
            if run_ids:
                change(*(f"run:{each}" for each in run_ids))
        self._followed = followed


def _run_id(message: dict[str, Any], followed: set[str]) -> str | None:
    """The id of the run that a message is about; None if this worker need not know it."""
    kind, _, name = message["channel"].decode().partition(":")
    if kind == "run":
        return name if name in followed else None
    return message["data"].decode() if message["type"] == "message" else None


def _read_messages(pubsub: Any) -> list[dict[str, Any]]:
    """All messages published until now. Redis answers in order: its answer to a PING comes after them."""
    pubsub.ping()
    messages: list[dict[str, Any]] = []
    while True:
        message = pubsub.get_message(timeout=CALL_SECONDS)
        if message is None:
            raise exceptions.TimeoutError("no answer to a PING")
        if message["type"] == "pong":
            return messages
        if message["type"] in ("message", "subscribe"):
            messages.append(message)

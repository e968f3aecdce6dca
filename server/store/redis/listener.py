"""Hears what other writers do to the runs that matter here, on one connection."""

import threading
import time
from collections.abc import Collection
from typing import Any

from redis import exceptions

from server.store.redis.client import CALL_SECONDS, RedisClient


class RedisListener:
    """Scripts publish on `writer:TOKEN` the ids of that writer's runs, and on `run:ID` that a run has changed."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._channels: Any = None
        """The connection. What is published on the channels that it has subscribed to waits there until it is read."""
        self._followed: set[str] = set()
        self._was_open = False

    def open(self, writer: str) -> None:
        """Hear from now on what is done to the runs of `writer`. Once open, only `listen` opens it again."""
        if not self._was_open:
            self._client.attempt(lambda client: self._opened(client, writer))
            self._was_open = True

    def listen(self, writer: str, followed: Collection[str], seconds: float) -> Collection[str]:
        """As `Store.listen`. Where the connection broke, all `followed` runs are followed anew."""
        end = time.monotonic() + seconds
        return self._client.attempt(lambda client: self._heard(client, writer, set(followed), end))

    def close(self) -> None:
        with self._lock:
            channels, self._channels = self._channels, None
        if channels is not None:
            channels.close()

    def _opened(self, client: Any, writer: str) -> Any:
        with self._lock:
            if self._channels is None:
                channels = client.pubsub()
                channels.subscribe(f"writer:{writer}")
                _read(channels)
                self._channels, self._followed = channels, set()
            return self._channels

    def _heard(self, client: Any, writer: str, followed: set[str], end: float) -> Collection[str]:
        channels = self._opened(client, writer)
        try:
            self._follow(channels, followed)
            messages = _read(channels)
            seconds = end - time.monotonic()
            if not messages and seconds > 0:
                first = channels.get_message(timeout=seconds)
                messages = [first, *_read(channels)] if first else []
        except BaseException:
            self.close()
            raise
        return {run_id for each in messages if (run_id := _run_id(each, followed))}

    def _follow(self, channels: Any, followed: set[str]) -> None:
        for change, run_ids in (
            (channels.subscribe, followed - self._followed),
            (channels.unsubscribe, self._followed - followed),
        ):
            if run_ids:
                change(*(f"run:{each}" for each in run_ids))
        self._followed = followed


def _run_id(message: dict[str, Any], followed: set[str]) -> str | None:
    """The run of which a message tells, if that matters here."""
    kind, _, name = message["channel"].decode().partition(":")
    if kind == "run":
        return name if name in followed else None
    return message["data"].decode() if message["type"] == "message" else None


def _read(channels: Any) -> list[dict[str, Any]]:
    """All that was published until now: Redis answers in order, so that its answer to a PING comes after it."""
    channels.ping()
    messages: list[dict[str, Any]] = []
    while True:
        message = channels.get_message(timeout=CALL_SECONDS)
        if message is None:
            raise exceptions.TimeoutError("no answer to a PING")
        if message["type"] == "pong":
            return messages
        if message["type"] in ("message", "subscribe"):
            messages.append(message)

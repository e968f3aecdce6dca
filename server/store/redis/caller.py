"""Runs scripts on conversations."""

import secrets
import threading
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

from server.store.redis.client import RedisClient
from server.store.redis.commands import Argument, Command, evalsha

BATCH = 100
"""How many commands are sent at once; between batches, Redis serves other calls."""


class ScriptCaller:
    """The scripts as one worker of the store runs them."""

    def __init__(self, redis: RedisClient, clock: Callable[[], float], lease_seconds: float) -> None:
        self._redis = redis
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._lock = threading.Lock()
        self._token = ""

    @property
    def worker(self) -> str:
        """The name of this worker."""
        if not self._token:
            with self._lock:  # Not chosen in the constructor: after a fork, each process is a worker of its own.
                self._token = self._token or secrets.token_hex(16)
        return self._token

    def command(
        self, script: str, tag: str, *arguments: Argument, now: float | None = None, more_keys: Sequence[str] = ()
    ) -> Command:
        """The command that runs a script on a conversation at `now`, which is the present if it is not given."""
        now = self._clock() if now is None else now
        return evalsha(script, tag, now, now + self._lease_seconds, self.worker, *arguments, more_keys=more_keys)

    def ask(self, script: str, name: str, *arguments: Argument) -> Any:
        """The answer of a script that is run on the conversation of that name."""
        return self._redis.ask(self.command(script, tag_of(name), *arguments))[0]

    def ask_all(self, commands: Sequence[Command]) -> list[Any]:
        """The answer to each of any number of commands."""
        return [
            answer for at in range(0, len(commands), BATCH) for answer in self._redis.ask(*commands[at : at + BATCH])
        ]


def tag_of(name: str) -> str:
    """The key of a conversation, with which its other keys begin."""
    return "{" + sha256(name.encode()).hexdigest() + "}"

"""How conversations are forgotten in Redis, where a run is found by a key on another node than its conversation's.

In this order, each step of which may be made again: the tag is listed in `expiring`; a script deletes the conversation
and keeps its runs in `TAG:gone`; their `run:ID` are deleted; `TAG:gone` is emptied; the tag is unlisted. Wherever that
ends early, the next `clear` or `delete` goes on with it, or the next sweep.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from server.store.redis.client import RedisClient
from server.store.redis.commands import Command, evalsha

BATCH = 100
"""How much is asked of Redis in one go, so that other calls come in between."""


class Expiry:
    def __init__(self, redis: RedisClient, clock: Callable[[], float], script: Callable[..., Command]) -> None:
        """`script` makes the command that runs a script on a tag."""
        self._redis = redis
        self._clock = clock
        self._script = script

    def ask_all(self, commands: Sequence[Command]) -> list[Any]:
        return [
            answer for at in range(0, len(commands), BATCH) for answer in self._redis.ask(*commands[at : at + BATCH])
        ]

    def clear(self, tag: str) -> Sequence[str]:
        """The ids of the runs that were open."""
        return self._forget(tag, "clear")

    def delete(self, tag: str) -> Sequence[str]:
        """The ids of the runs that were open."""
        return self._forget(tag, "delete")

    def expire(self, *tags: str) -> None:
        """Forget those of the conversations that have expired, and list when to look again at the others."""
        now = self._clock()
        answers = self.ask_all([self._script("expire", tag) for tag in tags])
        self.ask_all([each for tag, told in zip(tags, answers, strict=True) for each in self._settling(tag, now, told)])

    def sweep(self, seconds: float, rest: Callable[[], None]) -> bool:
        """As `Store.sweep`, with `rest` between the steps. Request ids Redis forgets by itself."""
        until = time.monotonic() + seconds
        # Those that do not expire yet are listed for now or later.
        earlier = f"({self._clock()!r}"
        while True:
            (due,) = self._redis.ask(("ZRANGE", "expiring", "-inf", earlier, "BYSCORE", "LIMIT", 0, BATCH))
            self.expire(*(tag.decode() for tag in due))
            if len(due) < BATCH:
                return False
            if time.monotonic() > until:
                return True
            rest()

    def _forget(self, tag: str, script: str) -> Sequence[str]:
        now = self._clock()
        listed = evalsha("list", "expiring", tag, "LT", now)
        _, told = self._redis.ask(listed, self._script(script, tag, secrets.token_hex(8)))
        self.ask_all(self._settling(tag, now, told))
        return [entry[1:].decode() for entry in told[0] if entry.startswith(b"+")]

    def _settling(self, tag: str, now: float, told: tuple[Sequence[bytes], bytes | None]) -> list[Command]:
        """What is left to do after a script told what is in `gone`, and when to look at the conversation again."""
        gone, again = told
        commands: list[Command] = [("UNLINK", b"run:" + entry[1:]) for entry in gone if not entry.startswith(b"=")]
        if gone:
            commands.append(self._script("settle", tag, *gone))
        look = (
            evalsha("unlist", "expiring", tag, now) if again is None else evalsha("list", "expiring", tag, "XX", again)
        )
        return [*commands, look]

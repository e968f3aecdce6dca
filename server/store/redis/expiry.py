"""Deletes conversations in Redis, in steps, since the key `run:ID` of a run may be on another node than the run itself.

Each step may be repeated. In this order: the tag is scheduled in `expiring`; a script deletes the conversation's keys
and lists its runs in `TAG:deleted_runs`; their keys `run:ID` are deleted; `TAG:deleted_runs` is emptied; the tag is
unscheduled. If a process ends in between, the next `clear_conversation`, `delete_conversation` or sweep goes on.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from server.store.redis.client import RedisClient
from server.store.redis.commands import Command, evalsha

BATCH = 100
"""How many commands are sent at once; between batches, Redis serves other calls."""


class Expiry:
    """Clears, deletes and expires conversations by their tags."""

    def __init__(self, redis: RedisClient, clock: Callable[[], float], run_script: Callable[..., Command]) -> None:
        """`run_script` returns the command that runs a script on a tag."""
        self._redis = redis
        self._clock = clock
        self._run_script = run_script

    def ask_all(self, commands: Sequence[Command]) -> list[Any]:
        """The answer to each command."""
        return [
            answer for at in range(0, len(commands), BATCH) for answer in self._redis.ask(*commands[at : at + BATCH])
        ]

    def clear(self, tag: str) -> Sequence[str]:
        """Returns the ids of the runs that were open."""
        return self._delete(tag, "clear_conversation")

    def delete(self, tag: str) -> Sequence[str]:
        """Returns the ids of the runs that were open."""
        return self._delete(tag, "delete_conversation")

    def expire(self, *tags: str) -> None:
        """Delete those of the conversations that have expired, and schedule the others for a later sweep."""
        now = self._clock()
        answers = self.ask_all([self._run_script("expire_conversation", tag) for tag in tags])
        self.ask_all(
            [each for tag, answer in zip(tags, answers, strict=True) for each in self._complete(tag, now, answer)]
        )

    def sweep(self, seconds: float, rest: Callable[[], None]) -> bool:
        """As `Store.sweep`, with `rest` between the steps. Redis itself deletes old request ids."""
        until = time.monotonic() + seconds
        # Those that have not expired are scheduled anew, for now or later, and so not found again.
        earlier = f"({self._clock()!r}"
        while True:
            (due,) = self._redis.ask(("ZRANGE", "expiring", "-inf", earlier, "BYSCORE", "LIMIT", 0, BATCH))
            self.expire(*(tag.decode() for tag in due))
            if len(due) < BATCH:
                return False
            if time.monotonic() > until:
                return True
            rest()

    def _delete(self, tag: str, script: str) -> Sequence[str]:
        now = self._clock()
        schedule = evalsha("schedule_expiry", "expiring", tag, "LT", now)
        _, answer = self._redis.ask(schedule, self._run_script(script, tag, secrets.token_hex(8)))
        self.ask_all(self._complete(tag, now, answer))
        return [entry[1:].decode() for entry in answer[0] if entry.startswith(b"+")]

    def _complete(self, tag: str, now: float, answer: tuple[Sequence[bytes], bytes | None]) -> list[Command]:
        """The remaining steps after a script's answer: the entries of `deleted_runs`, and when the tag is due again."""
        entries, due = answer
        commands: list[Command] = [("UNLINK", b"run:" + entry[1:]) for entry in entries if not entry.startswith(b"=")]
        if entries:
            commands.append(self._run_script("forget_runs", tag, *entries))
        if due is None:
            commands.append(evalsha("unschedule_expiry", "expiring", tag, now))
        else:
            commands.append(evalsha("schedule_expiry", "expiring", tag, "XX", due))
        return commands

"""Deletes conversations in Redis, in steps, since some of what belongs to them may be on other nodes.

Each step may be repeated. In this order: the tag is scheduled in `expiring`; a script deletes the conversation's keys
and writes in `TAG:outbox` what is left to do; that is done: the keys `run:ID` of its runs and its entries in the
indexes are deleted, its usage is added to that of the unlisted conversations, and the budgets of its open runs are
settled; `TAG:outbox` is emptied; the tag is unscheduled. If a process ends in between, the next `clear_conversation`,
`delete_conversation` or sweep goes on.
"""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence

from server.store.redis.caller import BATCH, ScriptCaller, tag_of
from server.store.redis.client import RedisClient
from server.store.redis.commands import Argument, Command, evalsha
from server.store.redis.limits import settle_cleared
from server.store.redis.owners import Owners
from server.store.redis.usage import add_to_unlisted
from server.store.redis.use_order import UseOrder

Answer = tuple[Sequence[bytes], bytes | None]
"""Of a script: the entries of `outbox`, and when the tag is due again."""


class Expiry:
    """Clears, deletes and expires conversations."""

    def __init__(
        self,
        redis: RedisClient,
        clock: Callable[[], float],
        scripts: ScriptCaller,
        use_order: UseOrder,
        owners: Owners,
    ) -> None:
        self._redis = redis
        self._clock = clock
        self._scripts = scripts
        self._use_order = use_order
        self._owners = owners

    def clear(self, name: str) -> Sequence[str]:
        """Returns the ids of the runs that were open."""
        now = self._clock()
        return self._delete(name, "clear_conversation", now, after=[self._use_order.move(name, now)])

    def delete(self, name: str, unused_since: float | None) -> Sequence[str]:
        """As `Store.delete_conversation`."""
        condition = "" if unused_since is None else unused_since
        return self._delete(name, "delete_conversation", self._clock(), condition)

    def expire(self, *tags: str) -> None:
        """Delete those of the conversations that have expired, and schedule the others for a later sweep."""
        now = self._clock()
        answers = self._scripts.ask_all([self._scripts.command("expire_conversation", tag) for tag in tags])
        self._complete(now, dict(zip(tags, answers, strict=True)))

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

    def add_usage(self, tag: str, entries: Sequence[bytes]) -> None:
        """Add what these entries of `outbox` say to the usage of the unlisted conversations, and delete them."""
        if entries:
            empty = self._scripts.command("empty_outbox", tag, *entries)
            self._scripts.ask_all([*map(add_to_unlisted, entries), empty])

    def _delete(
        self, name: str, script: str, now: float, *given: Argument, after: Sequence[Command] = ()
    ) -> Sequence[str]:
        tag = tag_of(name)
        schedule = evalsha("schedule_expiry", "expiring", tag, "LT", now)
        command = self._scripts.command(script, tag, secrets.token_hex(8), *given, now=now)
        answer: Answer = self._redis.ask(schedule, command, *after)[1]
        self._complete(now, {tag: answer})
        return [entry[1:].decode() for entry in answer[0] if entry.startswith(b"+")]

    def _complete(self, now: float, answers: Mapping[str, Answer]) -> None:
        """The remaining steps after a script's answer for each tag."""
        entries = [entry for listed, _ in answers.values() for entry in listed]
        commands: list[Command] = [("UNLINK", b"run:" + entry[1:]) for entry in entries if entry[:1] in b"+-"]
        commands += [add_to_unlisted(entry) for entry in entries if entry.startswith(b"$")]
        commands += [each for entry in entries if entry.startswith(b"~") for each in settle_cleared(entry)]
        names = [entry[1:].decode() for entry in entries if entry.startswith(b"@")]
        if names:
            self._scripts.ask_all(commands)
            self._use_order.settle(*names)
            commands = []
        self._owners.remove([entry[1:] for entry in entries if entry.startswith(b"%")])
        for tag, (listed, due) in answers.items():
            if listed:
                commands.append(self._scripts.command("empty_outbox", tag, *listed))
            if due is None:
                commands.append(evalsha("unschedule_expiry", "expiring", tag, now))
            else:
                commands.append(evalsha("schedule_expiry", "expiring", tag, "XX", due))
        self._scripts.ask_all(commands)

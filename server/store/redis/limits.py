"""Rate limits and budgets: a sorted set `rate:KEY`, and a hash `budget:KEY:DAY`, each on any node.

Since a run may be on another node, it is counted, and its tokens are reserved, before it is created, and both are given
back if it was not created. What it has spent is settled in the same round trip as its end. If a process ends in
between, the tokens stay reserved until nothing else is left: then all runs that have reserved them are looked at.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from server.charges import Charge
from server.domain import Run
from server.errors import BudgetExhausted, Refused
from server.rates import RateState
from server.store.limits import BUDGET_SECONDS, RateLimit, RunLimits, budget_exhausted, rate_limited
from server.store.redis.caller import ScriptCaller
from server.store.redis.client import RedisClient
from server.store.redis.commands import Command, evalsha
from server.store.redis.serializers import load_run

MOST_TOKENS = 1 << 50
"""Stands for no budget; Lua counts exactly up to there."""

CREATION_SECONDS = 10.0
"""After this time, a run that has reserved tokens and is not there was not created."""

RECLAIM_SECONDS = 1.0
"""How often at most a process looks at the runs that have reserved tokens of one key."""


class RunLimiter:
    """Safe from any thread."""

    def __init__(
        self, redis: RedisClient, clock: Callable[[], float], scripts: ScriptCaller, lease_seconds: float
    ) -> None:
        self._redis = redis
        self._clock = clock
        self._scripts = scripts
        self._lease_seconds = lease_seconds
        self._reclaimed: dict[str, float] = {}
        """When this process last looked at the runs of each key."""

    def take(self, run: Run, limits: RunLimits) -> tuple[RateState | None, Refused | None]:
        """Count a run that is about to be created, and reserve its tokens; or give the reason why it may not begin."""
        rate, charge = limits.rate, run.charge
        commands = [] if rate is None else [self._take_rate(rate, run.id)]
        commands += [] if charge is None else [self._reserve(charge, run.id, limits)]
        if not commands:
            return None, None
        answers = self._redis.ask(*commands)
        is_taken, state = (True, None) if rate is None else self._read_rate(rate, answers[0])
        is_reserved = charge is None or bool(answers[-1]) or (is_taken and self._reclaim(charge, run.id, limits))
        if not (is_taken and is_reserved):
            self.give_back(run, limits)
        if state is not None and not is_taken:
            return None, rate_limited(state)
        return state, None if charge is None or is_reserved else self._exhausted(charge, limits)

    def give_back(self, run: Run, limits: RunLimits) -> None:
        """Undo `take` for a run that was not created."""
        commands: list[Command] = [] if limits.rate is None else [("ZREM", _rate_key(limits.rate), run.id)]
        commands += settle(run, 0)
        if commands:
            self._redis.ask(*commands)

    def reserve_more(self, run: Run, limits: RunLimits) -> None:
        """Reserve what a run needs that goes on, in place of what it has reserved. Raises BudgetExhausted."""
        charge = run.charge
        if charge is None:
            return
        (is_reserved,) = self._redis.ask(self._reserve(charge, run.id, limits, replaces=True))
        if not is_reserved and not self._reclaim(charge, run.id, limits):
            raise self._exhausted(charge, limits)

    def _reclaim(self, charge: Charge, run_id: str, limits: RunLimits) -> bool:
        """Settle what ended and abandoned runs have reserved, and try again. Whether it is reserved now."""
        now = self._clock()
        if 0 <= now - self._reclaimed.get(charge.key, -math.inf) < RECLAIM_SECONDS:
            return False
        self._reclaimed[charge.key] = now
        self._scripts.ask_all([each for run in self._list_ended(charge, now) for each in settle(run)])
        return bool(self._redis.ask(self._reserve(charge, run_id, limits))[0])

    def _list_ended(self, charge: Charge, now: float) -> Iterator[Run]:
        """The runs that have reserved tokens and have ended; those not created have spent nothing."""
        (flat,) = self._redis.ask(evalsha("list_reservations", _budget_key(charge)))
        reservations = dict(zip(flat[::2], flat[1::2], strict=True))
        ages = {name.decode(): now - float(value.split()[1]) for name, value in reservations.items() if b" " in value}
        # No run is abandoned before its first lease has passed.
        ages = {run_id: age for run_id, age in ages.items() if age > self._lease_seconds}
        tags = self._scripts.ask_all([("GET", f"run:{run_id}") for run_id in ages])
        for (run_id, age), tag in zip(ages.items(), tags, strict=True):
            values = None if tag is None else self._end(tag.decode(), run_id)
            if values is not None:
                run = load_run(values)
                if not run.is_open:
                    yield run
            elif age > CREATION_SECONDS:
                yield Run("", id=run_id, charge=charge)

    def _end(self, tag: str, run_id: str) -> Any:
        """A run after the ends of abandoned runs of its conversation were written, so that it cannot go on."""
        # No run has an empty id, so none is started.
        return self._redis.ask(
            self._scripts.command("start_run", tag, "", ""), self._scripts.command("get_run", tag, run_id)
        )[1]

    def _take_rate(self, rate: RateLimit, run_id: str) -> Command:
        now = self._clock()
        expiry = math.ceil(rate.seconds) + 1
        return evalsha("take_rate", _rate_key(rate), run_id, now, now - rate.seconds, rate.runs, expiry)

    def _read_rate(self, rate: RateLimit, answer: list[Any]) -> tuple[bool, RateState]:
        is_taken, count, next_to_leave = answer
        reset = float(next_to_leave) + rate.seconds - self._clock()
        return bool(is_taken), RateState(rate.runs, max(0, rate.runs - count), reset)

    def _reserve(self, charge: Charge, run_id: str, limits: RunLimits, *, replaces: bool = False) -> Command:
        fields = run_id, self._clock(), charge.reserved, _daily_tokens(limits), int(BUDGET_SECONDS), int(replaces)
        return evalsha("reserve_tokens", _budget_key(charge), *fields)

    def _exhausted(self, charge: Charge, limits: RunLimits) -> BudgetExhausted:
        return budget_exhausted(charge, _daily_tokens(limits), self._clock())


def settle(ended: Run, spent: int | None = None) -> list[Command]:
    """The command that charges what a run has spent, or `spent`; none if no budget holds for it."""
    if ended.charge is None:
        return []
    tokens = ended.charge.spent or 0 if spent is None else spent
    return [evalsha("settle_tokens", _budget_key(ended.charge), ended.id, tokens)]


def settle_cleared(entry: bytes) -> list[Command]:
    """As `settle`, for an entry of `outbox`: a run that was open when its conversation was cleared, as JSON."""
    run_json, delivered, details, status, text, abandoned = orjson.loads(entry[1:])
    run = load_run([run_json, delivered, details or None, status.encode(), text.encode(), abandoned or None])
    return settle(run.ended_as("cancelled", run.created) if run.is_open else run)


def _daily_tokens(limits: RunLimits) -> int:
    return MOST_TOKENS if limits.daily_tokens is None else limits.daily_tokens


def _rate_key(rate: RateLimit) -> str:
    return f"rate:{rate.key}"


def _budget_key(charge: Charge) -> str:
    return f"budget:{charge.key}:{charge.day}"

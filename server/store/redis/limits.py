"""Rate limits and budgets: a sorted set `rate:KEY`, and a hash `budget:KEY:DAY`, each on any node.

A run is counted, and its tokens are reserved, before it is created, in the same round trip. The script that creates it
looks whether both succeeded; on a Cluster, where it cannot see the keys, this worker does. Both are given back if the
run was not created. What it has spent is settled in the round trip of its end. If a process ends in between, the tokens
stay reserved until nothing else is left: then the runs that have reserved them are looked at.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
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


@dataclass(slots=True)
class Attempt:
    """A run that is about to be created."""

    commands: list[Command] = field(default_factory=list)
    """To be sent before the script that creates it."""
    keys: list[str] = field(default_factory=list)
    """Those that the script has to look at."""
    refusal: Refused | None = None
    """Why it may not begin, once that is known."""
    state: RateState | None = None

    def add(self, key: str, command: Command) -> None:
        self.keys.append(key)
        self.commands.append(command)


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

    def begin(self, run: Run, limits: RunLimits) -> Attempt:
        """What has to be done before a run is created."""
        attempt = Attempt(refusal=limits.refusal)
        if limits.refusal is not None:
            return attempt
        if limits.rate is not None:
            attempt.add(_rate_key(limits.rate), self._take_rate(limits.rate, run.id))
        if run.charge is not None:
            attempt.add(_budget_key(run.charge), self._reserve(run.charge, run.id, limits))
        if attempt.commands and self._redis.is_cluster():  # The keys may be on other nodes than the conversation.
            answers = self._redis.ask(*attempt.commands)
            attempt = Attempt()
            self.read(attempt, run, limits, answers)
        return attempt

    def read(self, attempt: Attempt, run: Run, limits: RunLimits, answers: Sequence[Any]) -> None:
        """Take in the answers to the commands of an attempt."""
        if answers and limits.rate is not None:
            is_taken, count, next_to_leave = answers[0]
            reset = float(next_to_leave) + limits.rate.seconds - self._clock()
            attempt.state = RateState(limits.rate.runs, max(0, limits.rate.runs - count), reset)
            attempt.refusal = None if is_taken else rate_limited(attempt.state)
        if answers and run.charge is not None and answers[-1] is not None:
            attempt.refusal = attempt.refusal or self._exhausted(run.charge, limits, spent=answers[-1])

    def may_try_again(self, attempt: Attempt, run: Run) -> bool:
        """Whether a run that could not be created can be now, since tokens were reclaimed.

        Without a refusal, Redis did not know a script and ran it only after the one that creates the run.
        """
        if attempt.refusal is None:
            return True
        return isinstance(attempt.refusal, BudgetExhausted) and run.charge is not None and self.reclaim(run.charge)

    def give_back(self, run: Run, limits: RunLimits) -> None:
        """Undo what was done for a run that was not created."""
        commands: list[Command] = [] if limits.rate is None else [("ZREM", _rate_key(limits.rate), run.id)]
        commands += settle(run, 0)
        if commands:
            self._redis.ask(*commands)

    def reserve_more(self, run: Run, limits: RunLimits) -> None:
        """Reserve what a run needs that goes on, in place of what it has reserved. Raises BudgetExhausted."""
        charge = run.charge
        if charge is None:
            return
        reserve = self._reserve(charge, run.id, limits, replaces=True)
        (spent,) = self._redis.ask(reserve)
        if spent is not None and self.reclaim(charge):
            (spent,) = self._redis.ask(reserve)
        if spent is not None:
            raise self._exhausted(charge, limits, spent)

    def reclaim(self, charge: Charge) -> bool:
        """Settle what ended and abandoned runs have reserved of a budget. False if that was done just now."""
        now = self._clock()
        if 0 <= now - self._reclaimed.get(charge.key, -math.inf) < RECLAIM_SECONDS:
            return False
        self._reclaimed[charge.key] = now
        self._scripts.ask_all([each for run in self._list_ended(charge, now) for each in settle(run)])
        return True

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

    def _reserve(self, charge: Charge, run_id: str, limits: RunLimits, *, replaces: bool = False) -> Command:
        fields = run_id, self._clock(), charge.reserved, _daily_tokens(limits), int(BUDGET_SECONDS), int(replaces)
        return evalsha("reserve_tokens", _budget_key(charge), *fields)

    def _exhausted(self, charge: Charge, limits: RunLimits, spent: int) -> BudgetExhausted:
        return budget_exhausted(charge, _daily_tokens(limits), spent, self._clock())


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

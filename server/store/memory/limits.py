"""Rate limits and budgets in memory."""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from server.charges import Charge
from server.domain import Run
from server.rates import RateState
from server.store.limits import BUDGET_SECONDS, RateLimit, RunLimits, budget_exhausted, rate_limited


@dataclass(slots=True)
class Hits:
    """When the runs that one rate limit counts have begun, oldest first."""

    seconds: float = 0.0
    times: deque[float] = field(default_factory=deque)


@dataclass(slots=True)
class Budget:
    """The tokens of one key and day."""

    created: float
    spent: int = 0
    reserved: int = 0
    reservations: dict[str, int] = field(default_factory=dict)
    """By the run's id."""

    def reserve(self, run_id: str, tokens: int) -> None:
        self.reserved += tokens - self.reservations.get(run_id, 0)
        self.reservations[run_id] = tokens


class LimitTable:
    """To be used by one thread at a time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._hits: OrderedDict[str, Hits] = OrderedDict()
        """By key, least recently used first."""
        self._budgets: OrderedDict[tuple[str, str], Budget] = OrderedDict()
        """By key and day, oldest first."""

    def take(self, run: Run, limits: RunLimits) -> RateState | None:
        """Count a run that begins, and reserve what it may spend. Raises what refuses it."""
        if limits.refusal is not None:
            raise limits.refusal
        hits = None if limits.rate is None else self._require_rate(limits.rate)
        self.reserve(run, limits.daily_tokens)
        if limits.rate is None or hits is None:
            return None
        hits.times.append(self._clock())
        return self._state(limits.rate, hits)

    def reserve(self, run: Run, daily_tokens: int | None) -> None:
        """Reserve what a run may spend, instead of what it has reserved. Raises BudgetExhausted."""
        if run.charge is None:
            return
        budget = self._budget(run.charge)
        others = budget.spent + budget.reserved - budget.reservations.get(run.id, 0)
        if daily_tokens is not None and others + run.charge.reserved > daily_tokens:
            raise budget_exhausted(run.charge, daily_tokens, budget.spent, self._clock())
        budget.reserve(run.id, run.charge.reserved)

    def settle(self, ended: Run) -> None:
        """Charge what a run has spent that has just ended."""
        if ended.charge is not None:
            budget = self._budget(ended.charge)
            budget.reserve(ended.id, 0)
            del budget.reservations[ended.id]
            budget.spent += ended.charge.spent or 0

    def sweep(self) -> None:
        """Delete what limits nobody any more."""
        now = self._clock()
        while self._hits:
            key, hits = next(iter(self._hits.items()))
            if hits.times and now - hits.times[-1] < hits.seconds:
                break
            del self._hits[key]
        while self._budgets:
            key_and_day, budget = next(iter(self._budgets.items()))
            if now - budget.created < BUDGET_SECONDS:
                break
            del self._budgets[key_and_day]

    def _require_rate(self, rate: RateLimit) -> Hits:
        """The hits that count now. Raises RateLimited."""
        hits = self._hits.setdefault(rate.key, Hits())
        self._hits.move_to_end(rate.key)
        hits.seconds = rate.seconds
        while hits.times and self._clock() - hits.times[0] >= rate.seconds:
            hits.times.popleft()
        if len(hits.times) >= rate.runs:
            raise rate_limited(self._state(rate, hits))
        return hits

    def _state(self, rate: RateLimit, hits: Hits) -> RateState:
        count = len(hits.times)
        next_to_leave = hits.times[max(0, count - rate.runs)]
        return RateState(rate.runs, max(0, rate.runs - count), next_to_leave + rate.seconds - self._clock())

    def _budget(self, charge: Charge) -> Budget:
        return self._budgets.setdefault((charge.key, charge.day), Budget(self._clock()))

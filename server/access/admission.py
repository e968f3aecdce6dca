"""Which limits hold for a run that is about to begin. The store applies them when it creates the run."""

from collections.abc import Callable, Collection

from server.access.budgets import Budgets
from server.access.caller import OPEN, Caller
from server.access.caps import ClientCaps
from server.access.rate_limits import RateLimits
from server.domain import Message, Run
from server.rates import RateState
from server.store.limits import NO_LIMITS, RunLimits, ignore


class Admission:
    """Safe from any thread."""

    def __init__(
        self,
        rate_limits: RateLimits,
        budgets: Budgets,
        caps: ClientCaps,
        find_caller: Callable[[], Caller] = lambda: OPEN,
        report: Callable[[RateState], None] = ignore,
    ) -> None:
        """`find_caller` tells who asks at the moment. `report` gets the rate limit of each run that has begun."""
        self._rate_limits = rate_limits
        self._budgets = budgets
        self.caps = caps
        self._find_caller = find_caller
        self._report = report

    def limit(self, draft: Run, messages: Collection[Message] = ()) -> RunLimits:
        """The limits that a run begins under, and its charge. Raises StoreUnavailable."""
        caller = self._find_caller()
        rate, daily_tokens = self._rate_limits.find(caller), self._budgets.daily_tokens(caller)
        refusal = self.caps.find_refusal(caller.owner, draft, messages)
        if rate is None and daily_tokens is None and refusal is None:
            return NO_LIMITS
        charge = None if daily_tokens is None else self._budgets.charge(caller, draft, messages)
        return RunLimits(rate, daily_tokens, charge, refusal, self._report)

    def limit_again(self, run: Run) -> RunLimits:
        """As `limit`, for a run that goes on with the outputs of tools. It was counted when it began."""
        charge = self._budgets.recharge(run)
        if charge is None:
            return NO_LIMITS
        return RunLimits(None, self._budgets.daily_tokens(self._find_caller()), charge)

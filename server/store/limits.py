"""What limits how many runs begin, as the store that creates them decides it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from server.charges import Charge
from server.errors import BudgetExhausted, RateLimited, Refused
from server.rates import RateState

DAY_SECONDS = 86_400.0

MAX_RATE_SECONDS = DAY_SECONDS
"""The longest time that a rate limit counts runs in."""

BUDGET_SECONDS = 2 * DAY_SECONDS
"""How long the budget of a day is kept. A run that is open at midnight is charged to the day on which it began."""

RESERVED_SECONDS = 5.0
"""When to ask again if only replies being written stand in the way. Nobody knows when the next one ends."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `runs` begin in any `seconds`, counted over all workers that share the store."""

    key: str
    """Whom the runs are counted for."""
    runs: int
    seconds: float


def ignore(_: RateState) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the conversations of one client have."""

    conversations: int
    messages: int
    bytes: int
    """Of the messages, about."""
    open_runs: int
    """Those that a worker executes or will execute, or that wait for the outputs of tools: not those that are abandoned
    or have expired, whether or not their end is written."""


@dataclass(frozen=True, slots=True)
class RunLimits:
    """What holds for one run."""

    rate: RateLimit | None = None
    daily_tokens: int | None = None
    """The budget that the charge is a part of."""
    charge: Charge | None = None
    """The run's."""
    refusal: Refused | None = None
    """Why no run may be created, for another reason; None if one may. A run that is joined is found all the same."""
    report: Callable[[RateState], None] = ignore
    """Called with the state of the rate limit once the run has begun."""


NO_LIMITS = RunLimits()


def rate_limited(state: RateState) -> RateLimited:
    error = RateLimited(
        f"You have asked as often as this server allows; try again in {_in_words(state.reset_seconds)}."
    )
    error.retry_seconds = state.reset_seconds
    error.state = state
    return error


def budget_exhausted(charge: Charge, daily_tokens: int, spent: int, now: float) -> BudgetExhausted:
    """Why a charge is refused on a day that has `spent` tokens of its budget. `now` is in Unix seconds."""
    if charge.reserved > daily_tokens:
        return BudgetExhausted(_describe_excess(charge, daily_tokens))
    if spent + charge.reserved <= daily_tokens:
        error = BudgetExhausted(
            "What is left of the tokens of this day is reserved by replies being written; ask again when one has ended."
        )
        error.retry_seconds = RESERVED_SECONDS
        return error
    seconds = DAY_SECONDS - now % DAY_SECONDS
    error = BudgetExhausted(
        "Too few of the tokens of this day are left for this question and its reply; "
        f"there are more in {_in_words(seconds)}, at midnight UTC."
    )
    error.retry_seconds = seconds
    return error


def _describe_excess(charge: Charge, daily_tokens: int) -> str:
    if charge.prompt_tokens >= daily_tokens:
        return (
            f"The prompt alone, with what was said before, may take {charge.prompt_tokens} tokens, and a day has "
            f"{daily_tokens}; ask something shorter, or in a new conversation."
        )
    return (
        f"This question and its reply may take {charge.reserved} tokens, and a day has {daily_tokens}; set a lower "
        "max_tokens or max_completion_tokens, as this API calls it, or let the operator set a lower DEFAULT_MAX_TOKENS."
    )


def _in_words(seconds: float) -> str:
    whole = max(1, math.ceil(seconds))
    if whole < 120:
        return "1 second" if whole == 1 else f"{whole} seconds"
    return f"{-(-whole // 60)} minutes" if whole < 7200 else f"{-(-whole // 3600)} hours"

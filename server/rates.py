"""Rate limits: how one is written, such as `60/minute`, and how it stands."""

import re
from dataclasses import dataclass
from functools import lru_cache

UNITS = {"second": 1.0, "minute": 60.0, "hour": 3_600.0, "day": 86_400.0}

FORM = "a number of at most 100000 and a time, such as 10/second, 60/minute, 1000/hour or 5000/day"

MAX_RUNS = 100_000


@lru_cache(1_024)
def parse_rate(text: str) -> tuple[int, float]:
    """How many runs may begin in how many seconds. Raises ValueError."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})\s*/\s*(second|minute|hour|day)", text, re.ASCII)
    if found is None or int(found[1]) > MAX_RUNS:
        raise ValueError("no rate")
    return int(found[1]), UNITS[found[2]]


@dataclass(frozen=True, slots=True)
class RateState:
    """A rate limit after a run has begun or was refused."""

    limit: int
    remaining: int
    """How many runs may begin at once now."""
    reset_seconds: float
    """In how long there is one more."""

"""Rate limits and budgets: the hits of a key, the tokens that a day has spent, and what open runs have reserved."""

from collections.abc import Callable

from server.charges import Charge
from server.domain import Run
from server.rates import RateState
from server.store.limits import (
    BUDGET_SECONDS,
    MAX_RATE_SECONDS,
    RateLimit,
    RunLimits,
    budget_exhausted,
    rate_limited,
)
from server.store.sqlite.transaction import Transaction

DELETE_HITS = "DELETE FROM rate_hits WHERE key = ? AND time <= ?"
COUNT_HITS = "SELECT count(*), min(time) FROM rate_hits WHERE key = ?"
FIND_HIT = "SELECT time FROM rate_hits WHERE key = ? ORDER BY time LIMIT 1 OFFSET ?"
ADD_HIT = "INSERT INTO rate_hits (key, time, run_id) VALUES (?, ?, ?)"
TAKEN = """
SELECT ifnull((SELECT spent FROM budgets WHERE key = ? AND day = ?), 0),
    ifnull((SELECT sum(reserved) FROM open_runs WHERE budget_key = ? AND budget_day = ?), 0)
"""
RESERVING_RUNS = "SELECT row_key, worker, lease FROM open_runs WHERE budget_key = ? AND budget_day = ?"
SPEND = """
INSERT INTO budgets (key, day, spent, created) VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET spent = spent + excluded.spent
"""
NEXT_KEY = "SELECT min(key) FROM rate_hits WHERE key > ?"
OLD_BUDGETS = "DELETE FROM budgets WHERE created < ?"


def take(tx: Transaction, run: Run, limits: RunLimits, end_abandoned: Callable[[int], object]) -> RateState | None:
    """Count a run that begins, and see that what it reserves is left. Raises what refuses it.

    `end_abandoned` writes the ends of the abandoned runs of a conversation, given its id.
    """
    if limits.refusal is not None:
        raise limits.refusal
    rate = limits.rate
    count, oldest = (0, tx.now) if rate is None else _require_rate(tx, rate)
    require_budget(tx, run.charge, 0, limits.daily_tokens, end_abandoned)
    if rate is None:
        return None
    tx.db.execute(ADD_HIT, (rate.key, tx.now, run.id))
    return RateState(rate.runs, rate.runs - count - 1, oldest + rate.seconds - tx.now)


def require_budget(
    tx: Transaction,
    charge: Charge | None,
    reserved: int,
    daily_tokens: int | None,
    end_abandoned: Callable[[int], object],
) -> None:
    """Raises BudgetExhausted if what the charge reserves is not left; `reserved` is what its run has reserved yet."""
    if charge is None or daily_tokens is None:
        return
    room = daily_tokens - charge.reserved + reserved
    if sum(_read_taken(tx, charge)) <= room:
        return
    rows = tx.db.execute(RESERVING_RUNS, (charge.key, charge.day)).fetchall()
    for conversation_id in {row_key >> 32 for row_key, worker, lease in rows if not tx.is_leased(worker, lease)}:
        end_abandoned(conversation_id)
    spent, reserved_by_all = _read_taken(tx, charge)
    if spent + reserved_by_all > room:
        raise budget_exhausted(charge, daily_tokens, spent, tx.now)


def settle(tx: Transaction, ended: Run) -> None:
    """Charge what a run has spent that ends now. What it has reserved is in its row of `open_runs`."""
    charge = ended.charge
    if charge is not None and charge.spent:
        tx.db.execute(SPEND, (charge.key, charge.day, charge.spent, tx.now))


def sweep(tx: Transaction, after: str, most: int) -> str | None:
    """Delete what limits nobody any more: of at most `most` keys that come after `after`.

    Returns the last of these keys; None if there are no more. An index by time would be one more page of each write.
    """
    tx.db.execute(OLD_BUDGETS, (tx.now - BUDGET_SECONDS,))
    for _ in range(most):
        (key,) = tx.db.execute(NEXT_KEY, (after,)).fetchone()
        if key is None:
            return None
        tx.db.execute(DELETE_HITS, (key, tx.now - MAX_RATE_SECONDS))
        after = key
    return after


def _require_rate(tx: Transaction, rate: RateLimit) -> tuple[int, float]:
    """How many runs count now, and since when the oldest. Raises RateLimited."""
    tx.db.execute(DELETE_HITS, (rate.key, tx.now - rate.seconds))
    count, oldest = tx.db.execute(COUNT_HITS, (rate.key,)).fetchone()
    if count < rate.runs:
        return count, tx.now if oldest is None else oldest
    (next_to_leave,) = tx.db.execute(FIND_HIT, (rate.key, count - rate.runs)).fetchone()
    raise rate_limited(RateState(rate.runs, 0, next_to_leave + rate.seconds - tx.now))


def _read_taken(tx: Transaction, charge: Charge) -> tuple[int, int]:
    """The tokens of the charge's key and day that are spent, and those that are reserved."""
    spent, reserved = tx.db.execute(TAKEN, 2 * (charge.key, charge.day)).fetchone()
    return int(spent), int(reserved)

"""The tokens that were used, as a report of some days."""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from typing import Any

from server.core.scope import Scope
from server.domain import DailyUsage
from server.errors import InvalidRequest
from server.store.protocol import Store

DAYS = 30
"""How many days a report has unless the caller says."""

COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


ListUsage = Callable[[str | None, str, str], Sequence[DailyUsage]]
"""Lists usage, given a name or None, the first day and the last."""


def report_usage(list_usage: ListUsage, name: str | None, since: str | None, until: str | None) -> dict[str, Any]:
    """The usage of each day, client and model, newest day first, and what it adds up to.

    Days are such as `2026-11-20`; the report ends today, and has 30 of them, unless they are given. Raises
    InvalidRequest for what is no day.
    """
    last = datetime.now(UTC).date() if until is None else _parse_day("until", until)
    first = date.fromordinal(max(1, last.toordinal() - DAYS + 1)) if since is None else _parse_day("since", since)
    usage = list_usage(name, first.isoformat(), last.isoformat())
    return {"usage": [_dump_usage(each) for each in usage], "total": _add_up(usage)}


def list_usage_of(store: Store, scope: Scope, since: str, until: str) -> Sequence[DailyUsage]:
    """The usage of the conversations that a limited caller opens, newest day first.

    Usage without a name is not among it, since that is of all clients together.
    """
    names = scope.list_names()
    if names is None:
        owned = set(store.list_owned(scope.caller.owner))
        usage = store.list_usage(None, since, until)
        return [each for each in usage if each.name in owned or (each.name and scope.opens_name(each.name))]
    usage = [each for name in names for each in store.list_usage(name, since, until)]
    return sorted(usage, key=lambda each: each.day, reverse=True)


def _dump_usage(usage: DailyUsage) -> dict[str, Any]:
    counts = {name: getattr(usage, name) for name in COUNTS}
    return {"date": usage.day, "client_name": usage.name, "model": usage.model, "questions": usage.runs, **counts}


def _add_up(usage: Sequence[DailyUsage]) -> dict[str, int]:
    counts = {name: sum(getattr(each, name) for each in usage) for name in COUNTS}
    return {"questions": sum(each.runs for each in usage), **counts}


def _parse_day(name: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"{name} must be a day, such as 2026-11-20.") from None

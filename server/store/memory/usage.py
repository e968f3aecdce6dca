"""The tokens that were used, by day, client and model."""

from collections import Counter
from collections.abc import Iterator

from server.domain import DailyUsage, Run, rfc3339


class UsageTable:
    """To be used by one thread at a time."""

    def __init__(self) -> None:
        self._totals: dict[str, dict[tuple[str, str], Counter[str]]] = {}
        """By name, then by day and model; unlisted conversations have an empty name."""

    def add(self, name: str, ended: Run) -> None:
        """Add the usage of a run that has ended, if it is known."""
        if ended.usage is None or ended.ended is None:
            return
        key = rfc3339(ended.ended)[:10], ended.model or ""
        total = self._totals.setdefault(name, {}).setdefault(key, Counter())
        total["runs"] += 1
        for field in ("prompt_tokens", "completion_tokens", "total_tokens"):
            total[field] += getattr(ended.usage, field)

    def list(self, name: str | None, since: str, until: str) -> list[DailyUsage]:
        """As `Store.list_usage`."""
        found = [each for name in (self._totals if name is None else [name]) for each in self._list_one(name)]
        found = [each for each in found if since <= each.day <= until]
        found.sort(key=lambda each: (each.name, each.model))
        return sorted(found, key=lambda each: each.day, reverse=True)

    def forget(self, name: str) -> None:
        """Count the usage of `name` as that of unlisted conversations from now on."""
        for key, total in self._totals.pop(name, {}).items():
            self._totals.setdefault("", {}).setdefault(key, Counter()).update(total)

    def _list_one(self, name: str) -> Iterator[DailyUsage]:
        for (day, model), total in self._totals.get(name, {}).items():
            counts = total["runs"], total["prompt_tokens"], total["completion_tokens"], total["total_tokens"]
            yield DailyUsage(day, name, model, *counts)

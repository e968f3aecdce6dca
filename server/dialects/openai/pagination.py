"""Lists in pages, as OpenAI cuts them: from a cursor on, in either order."""

from collections.abc import Callable, Sequence
from typing import Any

from server.errors import InvalidRequest, NotFound

PAGE = 20
"""How many entries a page has that asks for no number."""

Place = Callable[[str], int]
"""The place of the entry with an id, oldest first, from 0. Raises NotFound."""


def page(
    count: int, place: Place, *, limit: int | None, order: str | None, after: str | None, before: str | None
) -> tuple[range, bool]:
    """The places, oldest first, of what is on a page of `count` entries, and whether there are more beyond it.

    `after` and `before` are ids, and mean the order of the list. The page begins at `after`; it ends at `before` where
    that is given alone.
    """
    is_oldest_first = order == "asc"
    first = _cursor(place, after if is_oldest_first else before, -1) + 1
    stop = _cursor(place, before if is_oldest_first else after, count)
    most = limit or PAGE
    if is_oldest_first != (before is not None and after is None):
        found = range(first, min(stop, first + most))
    else:
        found = range(max(first, stop - most), stop)
    return found, stop - first > most


def _cursor(place: Place, entry_id: str | None, default: int) -> int:
    if entry_id is None:
        return default
    try:
        return place(entry_id)
    except NotFound:
        raise InvalidRequest("after and before must be ids of entries of this list.") from None


def listed(data: Sequence[dict[str, Any]], has_more: bool, order: str | None) -> dict[str, Any]:
    """OpenAI's list object. `data` comes oldest first."""
    data = list(data) if order == "asc" else list(reversed(data))
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, **ends, "has_more": has_more}


def cut(entries: Sequence[dict[str, Any]], *, order: str | None, **bounds: Any) -> dict[str, Any]:
    """The page, as `page` cuts it, of `entries` that are all there; oldest first."""
    places = {entry["id"]: place for place, entry in enumerate(entries)}

    def place(entry_id: str) -> int:
        if entry_id not in places:
            raise NotFound
        return places[entry_id]

    found, has_more = page(len(entries), place, order=order, **bounds)
    return listed(entries[found.start : found.stop], has_more, order)

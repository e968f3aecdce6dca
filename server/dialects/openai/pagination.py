"""Pages of a list, as OpenAI's APIs return them: by cursor, in either order."""

from collections.abc import Callable, Sequence
from typing import Any

from server.errors import InvalidRequest, NotFound

DEFAULT_LIMIT = 20
"""How many entries a page has if the request has no `limit`."""

FindIndex = Callable[[str], int]
"""Returns the index of the entry with an id, oldest first, from 0. Raises NotFound."""


def select_page(
    count: int, find_index: FindIndex, *, limit: int | None, order: str | None, after: str | None, before: str | None
) -> tuple[range, bool]:
    """The indexes, oldest first, of one page of `count` entries, and whether more entries follow the page.

    `after` and `before` are ids; they refer to the order of the list. The page begins after `after`. If only `before`
    is given, it ends before that. Raises InvalidRequest if an id is unknown.
    """
    is_oldest_first = order == "asc"
    first = _cursor_index(find_index, after if is_oldest_first else before, -1) + 1
    stop = _cursor_index(find_index, before if is_oldest_first else after, count)
    size = limit or DEFAULT_LIMIT
    if is_oldest_first != (before is not None and after is None):
        indexes = range(first, min(stop, first + size))
    else:
        indexes = range(max(first, stop - size), stop)
    return indexes, stop - first > size


def _cursor_index(find_index: FindIndex, entry_id: str | None, default: int) -> int:
    if entry_id is None:
        return default
    try:
        return find_index(entry_id)
    except NotFound:
        raise InvalidRequest("after and before must be ids of entries of this list.") from None


def dump_page(data: Sequence[dict[str, Any]], has_more: bool, order: str | None) -> dict[str, Any]:
    """OpenAI's list object. `data` is oldest first."""
    data = list(data) if order == "asc" else list(reversed(data))
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, **ends, "has_more": has_more}


def paginate(entries: Sequence[dict[str, Any]], *, order: str | None, **bounds: Any) -> dict[str, Any]:
    """The list object with one page of `entries`, which are complete and oldest first. `bounds` as in `select_page`."""
    indexes_by_id = {entry["id"]: index for index, entry in enumerate(entries)}

    def find_index(entry_id: str) -> int:
        if entry_id not in indexes_by_id:
            raise NotFound
        return indexes_by_id[entry_id]

    indexes, has_more = select_page(len(entries), find_index, order=order, **bounds)
    return dump_page(entries[indexes.start : indexes.stop], has_more, order)

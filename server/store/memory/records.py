"""Small named things in memory."""

from collections.abc import Sequence

from server.errors import NotFound, TooManyRecords


class Records:
    """To be used by one thread at a time."""

    def __init__(self, most: int) -> None:
        """`most` is how many of each kind there may be."""
        self._most = most
        self._kinds: dict[str, dict[str, bytes]] = {}

    def put(self, kind: str, record_id: str, record: bytes) -> None:
        """Raises TooManyRecords."""
        records = self._kinds.setdefault(kind, {})
        if record_id not in records and len(records) >= self._most:
            raise TooManyRecords
        records[record_id] = record

    def get(self, kind: str, record_id: str) -> bytes:
        """Raises NotFound."""
        record = self._kinds.get(kind, {}).get(record_id)
        if record is None:
            raise NotFound
        return record

    def all(self, kind: str) -> Sequence[bytes]:
        return list(self._kinds.get(kind, {}).values())

    def delete(self, kind: str, record_id: str) -> None:
        """Raises NotFound."""
        if self._kinds.get(kind, {}).pop(record_id, None) is None:
            raise NotFound

"""Small named records in memory."""

from collections.abc import Sequence

from server.errors import NotFound, TooManyRecords


class Records:
    """Records by kind and id. To be used by one thread at a time."""

    def __init__(self, max_records: int) -> None:
        """There may be `max_records` of each kind."""
        self._max_records = max_records
        self._kinds: dict[str, dict[str, bytes]] = {}

    def put(self, kind: str, record_id: str, record: bytes) -> None:
        """Raises TooManyRecords."""
        records = self._kinds.setdefault(kind, {})
        if record_id not in records and len(records) >= self._max_records:
            raise TooManyRecords
        records[record_id] = record

    def get(self, kind: str, record_id: str) -> bytes:
        """Raises NotFound."""
        record = self._kinds.get(kind, {}).get(record_id)
        if record is None:
            raise NotFound
        return record

    def list_all(self, kind: str) -> Sequence[bytes]:
        return list(self._kinds.get(kind, {}).values())

    def delete(self, kind: str, record_id: str) -> None:
        """Raises NotFound."""
        if self._kinds.get(kind, {}).pop(record_id, None) is None:
            raise NotFound

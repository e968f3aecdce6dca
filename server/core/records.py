"""Records: small named JSON objects of a dialect, such as assistants."""

from collections.abc import Mapping
from typing import Any

import orjson

from server.store.protocol import Store


class Records:
    """Records by kind and id. Safe from any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def put(self, kind: str, record_id: str, record: Mapping[str, Any]) -> None:
        """Create or replace a record. Raises TooManyRecords for a new one if there are MAX_RECORDS of its kind."""
        self._store.put_record(kind, record_id, orjson.dumps(record))

    def get(self, kind: str, record_id: str) -> dict[str, Any]:
        """Raises NotFound."""
        record: dict[str, Any] = orjson.loads(self._store.get_record(kind, record_id))
        return record

    def list(self, kind: str) -> list[dict[str, Any]]:
        """In no order."""
        return [orjson.loads(record) for record in self._store.list_records(kind)]

    def delete(self, kind: str, record_id: str) -> None:
        """Raises NotFound."""
        self._store.delete_record(kind, record_id)

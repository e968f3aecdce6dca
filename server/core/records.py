"""Records: small named JSON objects of a dialect, such as assistants."""

from collections.abc import Mapping
from typing import Any

import orjson

from server.core.scope import Scope
from server.store.protocol import Store


class Records:
    """Records of one caller by kind and id. Safe from any thread."""

    def __init__(self, store: Store, scope: Scope) -> None:
        self._store = store
        self._scope = scope

    def put(self, kind: str, record_id: str, record: Mapping[str, Any]) -> None:
        """Create or replace a record. Raises TooManyRecords for a new one if there are MAX_RECORDS of its kind."""
        self._scope.require_key()
        self._store.put_record(self._kind(kind), record_id, orjson.dumps(record))

    def get(self, kind: str, record_id: str) -> dict[str, Any]:
        """Raises NotFound."""
        record: dict[str, Any] = orjson.loads(self._store.get_record(self._kind(kind), record_id))
        return record

    def list(self, kind: str) -> list[dict[str, Any]]:
        """In no order."""
        return [orjson.loads(record) for record in self._store.list_records(self._kind(kind))]

    def delete(self, kind: str, record_id: str) -> None:
        """Raises NotFound."""
        self._store.delete_record(self._kind(kind), record_id)

    def _kind(self, kind: str) -> str:
        return kind_of(kind, self._scope.caller.owner)


def kind_of(kind: str, owner: str) -> str:
    """The kind under which the store keeps the records of an owner."""
    return f"{kind} of {owner}" if owner else kind

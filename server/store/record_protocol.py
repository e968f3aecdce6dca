"""The part of every storage backend that keeps small named records, such as assistants and keys."""

from collections.abc import Sequence
from typing import Protocol


class RecordStore(Protocol):
    """Records by kind and id. What `Store` promises of its calls holds for these."""

    def put_record(self, kind: str, record_id: str, record: bytes) -> None:
        """Store a small named record, such as an assistant, in place of the one with the same kind and id.

        Raises TooManyRecords for a new one if there are `max_records` of its kind.
        """

    def get_record(self, kind: str, record_id: str) -> bytes:
        """Raises NotFound."""

    def list_records(self, kind: str) -> Sequence[bytes]:
        """In no order."""

    def delete_record(self, kind: str, record_id: str) -> None:
        """Raises NotFound, so also if repeated."""

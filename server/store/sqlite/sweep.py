"""Deletes expired data in steps. Each step is a short transaction, between which other processes write."""

import time

from server.store.protocol import REQUEST_ID_SECONDS
from server.store.sqlite import compaction, limits
from server.store.sqlite.conversations import delete_conversation
from server.store.sqlite.transaction import Transaction

STEP_SECONDS = 0.01
"""How long a step takes."""

REST_SECONDS = 0.005
"""The pause between steps. A process that waits for the file tries once a millisecond, so it gets its turn."""

BATCH = 50

EXPIRED_NAMES = "SELECT name FROM conversations WHERE expires < ? ORDER BY expires LIMIT ? OFFSET ?"
DELETE_REQUEST_IDS = """
DELETE FROM request_ids WHERE (conversation_id, request_id) IN
(SELECT conversation_id, request_id FROM request_ids WHERE created < ? ORDER BY created LIMIT ?)
"""


class Sweep:
    """One sweep. Call `run_step` until it returns False."""

    def __init__(self) -> None:
        self._skipped = 0
        """How many conversations found so far have passed their time limit but have an open run."""
        self._rate_key: str | None = ""
        """The last key whose hits were looked at; None if all were."""

    def run_step(self, tx: Transaction) -> bool:
        """Delete some data, or free some pages. Whether there may be more."""
        until = time.monotonic() + STEP_SECONDS
        has_more = self._delete_conversations(tx, until) or self._delete_request_ids(tx, until)
        has_more = has_more or self._delete_limits(tx)
        return has_more or compaction.free_pages(tx.db, until)

    def _delete_conversations(self, tx: Transaction, until: float) -> bool:
        while True:
            names = tx.db.execute(EXPIRED_NAMES, (tx.now, BATCH, self._skipped)).fetchall()
            for (name,) in names:
                if tx.find_conversation(name) is None:
                    delete_conversation(tx, name)
                else:
                    self._skipped += 1
                if time.monotonic() > until:
                    return True
            if len(names) < BATCH:
                return False

    def _delete_limits(self, tx: Transaction) -> bool:
        if self._rate_key is not None:
            self._rate_key = limits.sweep(tx, self._rate_key, BATCH)
        return self._rate_key is not None

    def _delete_request_ids(self, tx: Transaction, until: float) -> bool:
        while tx.db.execute(DELETE_REQUEST_IDS, (tx.now - REQUEST_ID_SECONDS, BATCH)).rowcount == BATCH:
            if time.monotonic() > until:
                return True
        return False

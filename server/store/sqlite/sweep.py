"""What is forgotten by itself, in steps: each is a short transaction, between which others write."""

import time

from server.store.protocol import REQUEST_ID_SECONDS
from server.store.sqlite import compaction
from server.store.sqlite.transaction import Transaction

STEP_SECONDS = 0.01
"""How long a step takes, and REST_SECONDS how long others may write before the next: processes look once a ms."""
REST_SECONDS = 0.005

AT_ONCE = 50

EXPIRED = "SELECT name FROM conversations WHERE expires < ? ORDER BY expires LIMIT ? OFFSET ?"
FORGET_REQUEST_IDS = """
DELETE FROM request_ids WHERE (conversation, request_id) IN
(SELECT conversation, request_id FROM request_ids WHERE begun < ? ORDER BY begun LIMIT ?)
"""


class Sweep:
    """One sweep. `step` is to be called until there is no more."""

    def __init__(self) -> None:
        self._passed = 0
        """How many conversations would have expired if no run of theirs were open."""

    def step(self, tx: Transaction) -> bool:
        """Forget some, or give back some room. Whether there may be more."""
        until = time.monotonic() + STEP_SECONDS
        is_more = self._forget_conversations(tx, until) or self._forget_request_ids(tx, until)
        return is_more or compaction.give_back(tx.db, until)

    def _forget_conversations(self, tx: Transaction, until: float) -> bool:
        while True:
            names = tx.db.execute(EXPIRED, (tx.now, AT_ONCE, self._passed)).fetchall()
            for (name,) in names:
                if tx.find(name) is None:
                    tx.delete(name)
                else:
                    self._passed += 1
                if time.monotonic() > until:
                    return True
            if len(names) < AT_ONCE:
                return False

    def _forget_request_ids(self, tx: Transaction, until: float) -> bool:
        while tx.db.execute(FORGET_REQUEST_IDS, (tx.now - REQUEST_ID_SECONDS, AT_ONCE)).rowcount == AT_ONCE:
            if time.monotonic() > until:
                return True
        return False

"""Clients and their keys, for the administrator."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import orjson

from server.access.caller import SERVER_NAME, Caller
from server.access.keys import ApiKey, Keys
from server.core.records import kind_of
from server.core.scope import Scope
from server.core.usage import list_usage_of
from server.domain import DailyUsage
from server.errors import InvalidRequest, NotAllowed, NotFound
from server.runs.runner import Runner
from server.store.protocol import Store

BATCH = 100

OWNED_KINDS = ("assistant",)
"""The kinds of records that a client may have."""

RESERVED = "The server gives names of that form to chats and threads; choose another client_name for the key."

OPEN_SERVER = "This server has no keys, because it is open to anybody; set ADMIN_KEY to protect it."


@dataclass
class Receipt:
    """How much of each kind was deleted with a client."""

    keys: int = 0
    conversations: int = 0
    messages: int = 0
    runs: int = 0
    assistants: int = 0


class Clients:
    """Every call raises NotAllowed unless the caller is the administrator. Safe from any thread."""

    def __init__(self, store: Store, runner: Runner, scope: Scope, keys: Keys | None) -> None:
        self._store = store
        self._runner = runner
        self._scope = scope
        self._keys = keys

    def create_key(
        self, client_name: str, expires_in_days: int | None, rate_limit: str | None, daily_token_budget: int | None
    ) -> tuple[ApiKey, str]:
        """A new key, and its text, which is shown this once.

        Raises TooManyRecords, and InvalidRequest for a `client_name` of a form that the server alone gives.
        """
        keys = self._require_keys()
        if SERVER_NAME.fullmatch(client_name):
            raise InvalidRequest(RESERVED)
        return keys.create(client_name, expires_in_days, rate_limit, daily_token_budget)

    def list_keys(self) -> Sequence[ApiKey]:
        """Oldest first."""
        return self._require_keys().list()

    def delete_key(self, key_id: str) -> None:
        """Raises NotFound."""
        self._require_keys().delete(key_id)

    def list_usage(self, client_name: str | None, since: str, until: str) -> Sequence[DailyUsage]:
        """As `Conversations.list_usage`; of a client, that of all that its keys open."""
        self._require_keys()
        if client_name is None:
            return self._store.list_usage(None, since, until)
        return list_usage_of(self._store, Scope(self._store, Caller(client_name, client_name)), since, until)

    def delete(self, client_name: str) -> Receipt:
        """Delete all that a client has: its keys, its conversations by that name, and what its keys created.

        Its tokens stay counted, without a name. The keys go first, and nothing is written for them any more when the
        rest is looked for. If the store fails in between, the rest is deleted by the next call.
        """
        receipt = Receipt(keys=self._require_keys().delete_of(client_name))
        for name in self._find_names(client_name):
            conversation = self._store.get_conversation(name)
            if conversation is not None:
                receipt.conversations += 1
                receipt.messages += conversation.message_count
                receipt.runs += self._count_runs(name)
                self._runner.delete(name)
        for kind in OWNED_KINDS:
            receipt.assistants += self._delete_records(kind_of(kind, client_name))
        self._store.sweep()  # Overwrites what was deleted, as far as the store does that.
        return receipt

    def _require_keys(self) -> Keys:
        if self._keys is None:
            raise NotAllowed(OPEN_SERVER)
        if not self._scope.caller.is_admin:
            raise NotAllowed
        return self._keys

    def _find_names(self, client_name: str) -> list[str]:
        client = Caller(client_name, client_name)
        names = {client_name, *self._store.list_owned(client_name)}
        before = None
        while client_name.endswith("*") and (entries := self._store.list_conversations(before, BATCH)):
            found = [each.conversation for each in entries]
            names |= {each.name for each in found if client.opens(each.name, each.owner)}
            before = found[-1].touched, found[-1].name
        return sorted(names)

    def _count_runs(self, name: str) -> int:
        count, before = 0, None
        with suppress(NotFound):  # The history is being cleared.
            while runs := self._store.list_runs(name, None, BATCH, before):
                count, before = count + len(runs), runs[-1].id
        return count

    def _delete_records(self, kind: str) -> int:
        records = self._store.list_records(kind)
        for record in records:
            with suppress(NotFound):
                self._store.delete_record(kind, orjson.loads(record)["id"])
        return len(records)

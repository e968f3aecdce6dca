"""Conversations: their settings, their messages, and how long they are kept."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from types import MappingProxyType
from typing import Any

from server.access.caps import ClientCaps
from server.core.history import Page, read_newest, read_page
from server.core.scope import Scope
from server.core.usage import list_usage_of
from server.domain import Conversation, DailyUsage, Message
from server.errors import ClientFull, NotFound, StoreUnavailable
from server.runs.runner import Runner
from server.store.protocol import Store

RENEWAL_SECONDS = 1.0
"""A read renews a conversation that was last used longer ago: many reads at once cost one write."""

NewMessages = Sequence[Mapping[str, Any]]
"""Messages without a run: `role`, `content`, and optionally `metadata`."""

EMPTY: Mapping[str, Any] = MappingProxyType({})


class Conversations:
    """A caller's conversations by name. Safe from any thread.

    Each call raises NotAllowed for a `client_name` that is not the caller's, and NotFound for what is others'.
    """

    def __init__(self, store: Store, runner: Runner, scope: Scope, caps: ClientCaps) -> None:
        self._store = store
        self._runner = runner
        self._scope = scope
        self._caps = caps

    def derive_name(self, kind: str, purpose: str, key: str | None) -> str:
        """The name of a chat or a thread that belongs to the caller's idempotency key; without a key, a new one.

        Raises RequestIdConflict if it is the name of another's conversation.
        """
        return self._scope.derive_name(kind, purpose, key)

    def new_name(self, kind: str) -> str:
        """A name that nobody can guess, of a `thread` or a `session`."""
        return self._scope.new_name(kind)

    def create(
        self,
        name: str,
        *,
        seconds: float | None = None,
        metadata: Mapping[str, Any] = EMPTY,
        messages: NewMessages = (),
        is_unlisted: bool = False,
    ) -> Conversation:
        """A new conversation, or the existing one of that name. It expires `seconds` after its last use, or never.

        If `is_unlisted`, a full store may delete it to make room for another. Raises StoreFull, ClientFull.
        """
        self._scope.require(name)
        owner, added = self._scope.caller.owner, to_messages(messages)
        try:
            self._caps.require_room(owner, name, added)
        except ClientFull:  # To an existing conversation, nothing is added.
            if self._store.get_conversation(name) is None:
                raise
        self._scope.require_key()
        return self._store.create_conversation(
            name, seconds, dict(metadata), added, owner=owner, is_unlisted=is_unlisted
        )

    @contextmanager
    def create_to_ask(self, name: str, **options: Any) -> Iterator[Conversation]:
        """As `create`, for the question that the block asks: if that is refused, what was created is deleted again."""
        is_new = self._store.get_conversation(name) is None
        created = self.create(name, **options)
        try:
            yield created
        except Exception:
            if is_new:
                with suppress(StoreUnavailable):
                    self._delete_unasked(created)
            raise

    def _delete_unasked(self, created: Conversation) -> None:
        """Delete a conversation unless somebody has asked in it or used it since."""
        if not self._store.list_runs(created.name, None, 1):
            self._store.delete_conversation(created.name, unused_since=math.nextafter(created.touched, math.inf))

    def get(self, name: str) -> Conversation:
        """The conversation; its time until expiry starts again. Raises NotFound."""
        conversation = self.find(name)
        if conversation is None:
            raise NotFound
        return conversation

    def find(self, name: str) -> Conversation | None:
        """As `get`, but None if there is none."""
        self._scope.require(name)
        conversation = self._store.get_conversation(name)
        if conversation is None or time.time() - conversation.touched <= RENEWAL_SECONDS:
            return conversation
        with suppress(StoreUnavailable):  # What was read is still true.
            self._store.touch(name)
            return self._store.get_conversation(name)
        return conversation

    def update(self, name: str, changes: Mapping[str, Any], *, create: bool = True) -> Conversation:
        """Set `model`, `metadata` and settings (`domain.SETTINGS`); None takes one back. The others stay.

        A missing conversation is created, or, without `create`, raises NotFound. Raises StoreFull, ClientFull.
        """
        self._scope.require(name)
        if create:
            self._caps.require_room(self._scope.caller.owner, name)
            self._scope.require_key()
        return self._store.update_conversation(name, changes, create=create, owner=self._scope.caller.owner)

    def history(self, name: str, limit: int | None, before: int | None, max_characters: int | None) -> Page:
        """The newest messages below index `before`: at most `limit`, in at most `max_characters` of JSON.

        A long history is read in parts while the page is consumed; StoreUnavailable may be raised in the middle.
        """
        conversation = self.find(name)
        count = 0 if conversation is None else conversation.message_count
        stop = count if before is None else min(before, count)
        start = 0 if limit is None else max(0, stop - limit)
        read = partial(self._store.list_messages, name)
        if max_characters is not None:
            return read_newest(read, start, stop, max_characters)
        history_id = "" if conversation is None else conversation.history_id

        def find_next(last: Message, index: int) -> int | None:
            now = self._store.get_conversation(name)
            if now is None or now.history_id == history_id:
                return None if now is None else index
            try:
                return self._store.message_index(name, last.id) + 1
            except NotFound:
                return None

        return read_page(read, find_next, start, stop)

    def list_messages(self, name: str, start: int, stop: int) -> Sequence[Message]:
        """The messages from index `start` up to, not including, `stop`, oldest first. Indexes begin at 0."""
        self._scope.require(name)
        return self._store.list_messages(name, start, stop)

    def message_index(self, name: str, message_id: str) -> int:
        """Raises NotFound."""
        self._scope.require(name)
        return self._store.message_index(name, message_id)

    def list_usage(self, name: str | None, since: str, until: str) -> Sequence[DailyUsage]:
        """The tokens of each day from `since` to `until`, such as `2026-11-20`, by client and model; newest day first.

        Of one client if `name` is given. Usage without a name is that of chats without a client, and of conversations
        that are gone; only a caller that may open all is told of it.
        """
        if name is not None:
            self._scope.require(name)
        if name is not None or not self._scope.is_limited:
            return self._store.list_usage(name, since, until)
        return list_usage_of(self._store, self._scope, since, until)

    def add_messages(self, name: str, messages: NewMessages) -> Sequence[Message]:
        """Append messages that no run wrote. Raises NotFound, ClientFull, and ConversationBusy while a run is open."""
        self._scope.require(name)
        added = to_messages(messages)
        self._caps.require_room(self._scope.caller.owner, name, added)
        self._store.add_messages(name, added)
        return added

    def set_message_metadata(self, name: str, message_id: str, metadata: Mapping[str, Any]) -> Message:
        """Replace a message's metadata. Raises NotFound."""
        self._scope.require(name)
        return self._store.set_message_metadata(name, message_id, metadata)

    def delete_message(self, name: str, message_id: str) -> None:
        """Raises NotFound."""
        self._scope.require(name)
        self._store.delete_message(name, message_id)

    def clear(self, name: str) -> None:
        """Delete the history, the runs and the request ids; the model stays. Open runs are cancelled."""
        self._scope.require(name)
        self._runner.clear(name)

    def delete(self, name: str) -> None:
        """Delete everything of the conversation. Open runs are cancelled."""
        self._scope.require(name)
        self._runner.delete(name)


def to_messages(messages: NewMessages) -> list[Message]:
    """New messages with the current time."""
    return [
        Message.of(each["role"], each["content"], None, time.time(), metadata=each.get("metadata") or {})
        for each in messages
    ]

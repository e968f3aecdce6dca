"""The list of conversations, and the search in it."""

import math
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, islice
from unicodedata import normalize

from server.core.scope import Scope
from server.domain import Conversation, ConversationEntry
from server.errors import InvalidRequest
from server.store.protocol import Store

SEARCH_BATCH = 100
SEARCH_SECONDS = 2.0
"""A search begins no further conversation after this time, and its page ends there."""

READ_MESSAGES = 50
"""How many messages a search reads at a time; after these, other callers get their turn."""

PASSAGE_BEFORE, PASSAGE_CHARACTERS = 24, 120
"""How much of a message is shown before the text that was found, and in all."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """A conversation in a list."""

    entry: ConversationEntry
    passage: str | None
    """The part of a message that has the text that was looked for; None if the title or the name has it."""


@dataclass(frozen=True, slots=True)
class ConversationPage:
    found: list[SearchResult]
    next_cursor: str | None
    """The `cursor` of the next page; None if there is none."""


class Search:
    """Safe from any thread."""

    def __init__(self, store: Store, scope: Scope) -> None:
        self._store = store
        self._scope = scope

    def list(self, text: str | None, cursor: str | None, limit: int) -> ConversationPage:
        """The `limit` conversations that were used last, or those that have `text`, newest first.

        The text is looked for in title, name and messages, without regard to case. A search that takes too long ends
        with a page that is short, or empty, and has a cursor. Raises InvalidRequest for a cursor that no page gave.
        """
        before = None if cursor is None else _parse_cursor(cursor)
        if text is None:
            entries = list(islice(self._read_entries(before, limit + 1), limit + 1))
            found = [SearchResult(each, None) for each in entries[:limit]]
            return ConversationPage(found, _cursor(entries[limit - 1]) if len(entries) > limit else None)
        found = []
        until = time.monotonic() + SEARCH_SECONDS
        for entry in self._read_entries(before, SEARCH_BATCH):
            match = self._match(entry.conversation, _fold(text))
            if match is not None:
                found.append(SearchResult(entry, match or None))
            if len(found) == limit or time.monotonic() > until:
                return ConversationPage(found, _cursor(entry))
            time.sleep(0)  # Under gevent, this lets other greenlets run.
        return ConversationPage(found, None)

    def _read_entries(self, before: tuple[float, str] | None, batch: int) -> Iterator[ConversationEntry]:
        """Those that the caller may open, newest first, read in batches.

        A key for every name with some beginning costs a walk over what all clients have; any other, what its own has.
        """
        own = self._scope.list_names() if self._scope.is_limited else None
        if own is not None:
            entries = [each for each in self._store.read_entries(own) if self._scope.opens(each.conversation)]
            newest_first = sorted(entries, key=_position, reverse=True)
            yield from (each for each in newest_first if before is None or _position(each) < before)
            return
        while found := self._store.list_conversations(before, batch):
            yield from (each for each in found if self._scope.opens(each.conversation))
            before = _position(found[-1])

    def _match(self, conversation: Conversation, text: str) -> str | None:
        """The passage of the newest message that has `text`; empty if title or name have it; None if nothing does."""
        if any(text in _fold(each) for each in (conversation.settings.get("title", ""), conversation.name)):
            return ""
        stop = conversation.message_count
        while stop > 0:
            start = max(0, stop - READ_MESSAGES)
            for message in reversed(self._store.list_messages(conversation.name, start, stop)):
                content = normalize("NFC", message.content)
                at = content.casefold().find(text)
                if at >= 0:
                    return _passage(content, _find_offset(content, at))
            stop = start
            time.sleep(0)  # Under gevent, this lets other greenlets run.
        return None


def _fold(text: str) -> str:
    # Composed, since some systems write a Korean syllable as its letters.
    return normalize("NFC", text).casefold()


def _find_offset(content: str, at: int) -> int:
    """The offset in `content` of what has the offset `at` once it is folded, which makes some characters longer."""
    ends = accumulate(len(each.casefold()) for each in content)
    return next(offset for offset, end in enumerate(ends) if end > at)


def _passage(content: str, at: int) -> str:
    start = max(0, at - PASSAGE_BEFORE)
    passage = " ".join(content[start : start + PASSAGE_CHARACTERS].split())
    return f"…{passage}" if start else passage


def _position(entry: ConversationEntry) -> tuple[float, str]:
    return entry.conversation.touched, entry.conversation.name


def _cursor(entry: ConversationEntry) -> str:
    return f"{entry.conversation.touched.hex()}/{entry.conversation.name}"


def _parse_cursor(cursor: str) -> tuple[float, str]:
    touched, _, name = cursor.partition("/")
    with suppress(ValueError, OverflowError):
        if name and math.isfinite(float.fromhex(touched)):
            return float.fromhex(touched), name
    raise InvalidRequest("before must be the `next` of an earlier page; leave it out for the first page.")

"""The transcripts of long conversations, kept from turn to turn: a replay needs bytes, and not a thousand rows.

One is valid only as long as the conversation's own row says so: its `history_id` changes as soon as the history changes
other than by growing.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from server.domain import Conversation
from server.runs.context import Transcript, drop_orphan_replies
from server.store.protocol import Store

MAX_BYTES = 64 * 1_048_576  # Of all of them.
KEPT_SECONDS = 600.0  # Of one that nobody asks for.
KEPT_FROM = 16
"""How many messages a transcript has at least that is worth to be kept."""


@dataclass(frozen=True, slots=True)
class CachedTranscript:
    history_id: str
    start: int
    """The place from which it was asked for."""
    first: int
    """The place of its first message: replies without their questions are left out."""
    stop: int
    """The place behind its last message."""
    transcript: Transcript
    used: float = 0.0

    @property
    def count(self) -> int:
        """How many messages it is made of."""
        return self.stop - self.first

    @property
    def size(self) -> int:
        return len(self.transcript.joined) + sum(map(len, self.transcript.last))


class Transcripts:
    """Safe from any thread."""

    def __init__(self, store: Store, clock: Callable[[], float], max_bytes: int = MAX_BYTES) -> None:
        self._store = store
        self._clock = clock
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, CachedTranscript] = OrderedDict()
        """By the conversation's name, the one asked for last at the end."""
        self._bytes = 0

    def get(self, conversation: Conversation, start: int, *, keep: bool = True) -> CachedTranscript:
        """The conversation's messages from place `start` on, as they stood when its row was read."""
        kept = self._valid(conversation, start)
        stop = conversation.message_count
        messages = self._store.list_messages(conversation.name, kept.stop, stop) if kept.stop < stop else ()
        if kept.count and len(messages) < stop - kept.stop:  # One was deleted meanwhile.
            kept = CachedTranscript(conversation.history_id, start, start, start, Transcript())
            messages = self._store.list_messages(conversation.name, start, stop)
        first = kept.first
        if start and not kept.count:  # Else nothing was left out, and a reply without its question was said so.
            first = start + len(messages) - len(messages := drop_orphan_replies(messages))
        transcript = kept.transcript.extended([each.fragment for each in messages])
        found = CachedTranscript(conversation.history_id, start, first, stop, transcript, self._clock())
        if keep and conversation.history_id and found.count >= KEPT_FROM:
            self._keep(conversation.name, found)
        return found

    def forget(self, name: str) -> None:
        with self._lock:
            self._drop(name)

    def forget_unused(self) -> None:
        """To be called now and then."""
        with self._lock:
            while self._kept and next(iter(self._kept.values())).used < self._clock() - KEPT_SECONDS:
                self._drop(next(iter(self._kept)))

    def _valid(self, conversation: Conversation, start: int) -> CachedTranscript:
        """What is kept and still right; empty if nothing is."""
        kept = self._kept.get(conversation.name)
        is_valid = kept is not None and (kept.history_id, kept.start) == (conversation.history_id, start)
        if kept is not None and is_valid and kept.stop <= conversation.message_count:
            return kept
        return CachedTranscript(conversation.history_id, start, start, start, Transcript())

    def _keep(self, name: str, found: CachedTranscript) -> None:
        with self._lock:
            self._drop(name)
            self._kept[name] = found
            self._bytes += found.size
            while self._bytes > self._max_bytes:
                self._drop(next(iter(self._kept)))

    def _drop(self, name: str) -> None:
        kept = self._kept.pop(name, None)
        if kept is not None:
            self._bytes -= kept.size

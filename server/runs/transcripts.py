"""A cache of the transcripts of long conversations, so that a turn does not read a thousand rows to send their bytes.

A cached transcript is valid as long as `history_id` in the conversation's row is the same. The store changes it
whenever the history changes other than by growing.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from server.domain import Conversation
from server.runs.context import Transcript, drop_orphan_replies
from server.store.protocol import Store

MAX_BYTES = 64 * 1_048_576
"""The size of all cached transcripts together."""
IDLE_SECONDS = 600.0
"""How long a transcript that nobody uses stays cached."""
MIN_MESSAGES = 16
"""A shorter transcript is not cached, since it is cheap to read."""


@dataclass(frozen=True, slots=True)
class CachedTranscript:
    history_id: str
    start: int
    """The index that was asked for."""
    first: int
    """The index of its first message: replies at `start` whose questions are left out are left out too."""
    stop: int
    """The index after its last message."""
    transcript: Transcript
    used: float = 0.0

    @property
    def count(self) -> int:
        """How many messages it consists of."""
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
        self._cache: OrderedDict[str, CachedTranscript] = OrderedDict()
        """By the conversation's name, least recently used first."""
        self._bytes = 0

    def get(self, conversation: Conversation, start: int, *, keep: bool = True) -> CachedTranscript:
        """The conversation's messages from index `start` on, as they stood when its row was read.

        Only messages that the cache does not have are read from the store. With `keep`, the result is cached.
        """
        cached = self._find_valid(conversation, start)
        stop = conversation.message_count
        messages = self._store.list_messages(conversation.name, cached.stop, stop) if cached.stop < stop else ()
        if cached.count and len(messages) < stop - cached.stop:  # A message was deleted after the row was read.
            cached = CachedTranscript(conversation.history_id, start, start, start, Transcript())
            messages = self._store.list_messages(conversation.name, start, stop)
        first = cached.first
        # If `start` is 0, nothing is left out, and a reply without a question was added like that.
        if start and not cached.count:
            first = start + len(messages) - len(messages := drop_orphan_replies(messages))
        transcript = cached.transcript.extend([each.fragment for each in messages])
        result = CachedTranscript(conversation.history_id, start, first, stop, transcript, self._clock())
        if keep and conversation.history_id and result.count >= MIN_MESSAGES:
            self._put(conversation.name, result)
        return result

    def forget(self, name: str) -> None:
        with self._lock:
            self._remove(name)

    def forget_unused(self) -> None:
        """Drop what was not used for `IDLE_SECONDS`. The maintenance thread calls this."""
        with self._lock:
            while self._cache and next(iter(self._cache.values())).used < self._clock() - IDLE_SECONDS:
                self._remove(next(iter(self._cache)))

    def _find_valid(self, conversation: Conversation, start: int) -> CachedTranscript:
        """The cached transcript; an empty one if there is none or it is not valid."""
        cached = self._cache.get(conversation.name)
        is_valid = cached is not None and (cached.history_id, cached.start) == (conversation.history_id, start)
        if cached is not None and is_valid and cached.stop <= conversation.message_count:
            return cached
        return CachedTranscript(conversation.history_id, start, start, start, Transcript())

    def _put(self, name: str, transcript: CachedTranscript) -> None:
        with self._lock:
            self._remove(name)
            self._cache[name] = transcript
            self._bytes += transcript.size
            while self._bytes > self._max_bytes:
                self._remove(next(iter(self._cache)))

    def _remove(self, name: str) -> None:
        cached = self._cache.pop(name, None)
        if cached is not None:
            self._bytes -= cached.size

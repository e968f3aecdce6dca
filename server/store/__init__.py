"""Where conversations live. One protocol, one shared test class, a backend for each reach."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from server.model import Conversation, Message, Run


@dataclass(frozen=True, slots=True)
class Begun:
    """What `Store.begin` decided."""

    run: Run
    """The run that answers the question: the new one, or the one that it joins."""
    conversation: Conversation
    fresh: bool
    """False where the question joined a run that was there before."""


class Store(Protocol):
    """Conversations by name, each with its messages and its runs.

    Every call is atomic, and safe from any thread. Any call may raise StoreUnavailable; what it was to write is then
    not written. A conversation comes to be with the first `begin` or `set_model` that names it.
    """

    def conversation(self, name: str) -> Conversation | None: ...

    def set_model(self, name: str, model: str) -> None: ...

    def begin(self, name: str, run: Run, *, waiting: int, start: bool) -> Begun:
        """Write `run` down as the newest of its conversation, or find the run that it joins.

        `run` comes as queued. It becomes `running` at once where `start` is true and no other run of the conversation
        is open. In this order:

        - A `request_id` seen within 24 hours decides alone. With another question: RequestIdConflict. Otherwise its
          run answers, open or ended; only after a failed or an interrupted one is `run` begun in its place.
        - A run without `request_id` joins an open run with the same question, or the newest run with it if that was
          completed within the last 10 minutes and not collected.
        - Where `waiting` runs are queued behind an open one, ConversationBusy.

        A refused call changes nothing. Raises StoreFull where there is no room for another conversation.
        """

    def start(self, name: str, run_id: str) -> Conversation | None:
        """Make a queued run `running` if it is the oldest open run of its conversation; None if it is not."""

    def append(self, name: str, run_id: str, text: str) -> bool:
        """Add to the text of a running run. False, and nothing added, where it has ended or is gone."""

    def finish(self, name: str, ended: Run, replay_from: int | None) -> Run | None:
        """Write a run's end, and `ended.exchange()` at the end of the history, together.

        The first end stands: where the run had one, that is what comes back, and nothing is written. None where the
        run is gone. `replay_from`, where given, is remembered in the conversation.
        """

    def run(self, run_id: str) -> Run:
        """Raises NotFound."""

    def messages(self, name: str, start: int, stop: int) -> Sequence[Message]:
        """The history's messages from place `start` to before place `stop`, oldest first; places begin at 0."""

    def clear(self, name: str) -> Sequence[str]:
        """Forget messages, runs and request ids, and keep the model. Gives the ids of the runs that were open."""

    def ping(self) -> None:
        """Raises StoreUnavailable where the store could not take a write."""

    def close(self) -> None: ...


REQUEST_ID_SECONDS = 24 * 3600.0
"""How long a request id is exact."""

COLLECT_SECONDS = 600.0
"""How long a completed reply that nobody collected waits for the same question."""


def open_store(url: str, *, max_conversations: int) -> Store:
    """The backend that `url`'s scheme names. Raises ValueError for any other."""
    scheme = url.partition(":")[0]
    if scheme == "memory":
        from server.store.memory import MemoryStore

        return MemoryStore(max_conversations)
    raise ValueError("STORE_URL: no such store; say memory://")

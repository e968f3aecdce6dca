"""The messages of a conversation, each with the run that it belongs to, and what both add up to."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass

from server.core.conversations import Conversations
from server.domain import Conversation, Message, Run, Usage
from server.errors import NotFound
from server.store.protocol import Store

READ_RUNS = 100
READ_MESSAGES = 500


@dataclass(frozen=True, slots=True)
class MessagePage:
    messages: list[tuple[Message, Run | None]]
    """Oldest first; a run is None if the message was added without one."""
    start: int
    """The index of the first message, which is also how many older ones there are."""
    message_count: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a conversation has at the moment."""

    conversation: Conversation
    question_count: int
    reply_count: int
    runs: Counter[str]
    """How many runs have each status."""
    usage: Usage
    """Of all these runs."""
    reply_seconds: float | None
    """The mean time from question to reply; None if no run has completed."""


class Messages:
    """Safe from any thread."""

    def __init__(self, store: Store, conversations: Conversations) -> None:
        self._store = store
        self._conversations = conversations

    def list(self, name: str, before: int | None, limit: int) -> MessagePage:
        """The newest `limit` messages below index `before`. Raises NotFound."""
        count = self._conversations.get(name).message_count
        stop = count if before is None else min(before, count)
        start = max(0, stop - limit)
        # One more: all that are looked for are its run or older ones.
        messages = self._store.list_messages(name, start, stop + 1)
        following = next((each.run_id for each in messages[stop - start :]), None)
        page = messages[: stop - start]
        runs = self._find_runs(name, page, following)
        return MessagePage([(each, runs.get(each.run_id or "")) for each in page], start, count)

    def count(self, name: str) -> Statistics:
        """Raises NotFound."""
        conversation = self._conversations.get(name)
        questions, replies = self._count_roles(conversation)
        statuses: Counter[str] = Counter()
        usage, seconds = Usage(0, 0, 0), 0.0
        for run in self._read_runs(name, None):
            statuses[run.status] += 1
            if run.usage is not None:
                usage = Usage(*map(sum, zip(astuple(usage), astuple(run.usage), strict=True)))
            if run.status == "completed" and run.ended is not None:
                seconds += run.ended - run.created
        completed = statuses["completed"]
        return Statistics(conversation, questions, replies, statuses, usage, seconds / completed if completed else None)

    def _count_roles(self, conversation: Conversation) -> tuple[int, int]:
        questions = replies = 0
        for start in range(0, conversation.message_count, READ_MESSAGES):
            for message in self._store.list_messages(conversation.name, start, start + READ_MESSAGES):
                is_question = message.role == "user"
                questions, replies = questions + is_question, replies + (not is_question)
            time.sleep(0)  # Under gevent, this lets other greenlets run.
        return questions, replies

    def _find_runs(self, name: str, messages: Sequence[Message], following: str | None) -> dict[str, Run]:
        """The runs of messages, by id. `following` is the id of a run that is not older than all of them, if known."""
        missing = {each.run_id for each in messages if each.run_id is not None}
        found: dict[str, Run] = {}
        if following is not None and following in missing:
            missing.discard(following)
            with suppress(NotFound):  # The history was cleared since.
                found[following] = self._store.get_run(following)
        for run in self._read_runs(name, following) if missing else ():
            if run.id in missing:
                missing.discard(run.id)
                found[run.id] = run
            if not missing:
                break
        return found

    def _read_runs(self, name: str, before: str | None) -> Iterator[Run]:
        """The runs of a conversation, newest first. If the history is cleared meanwhile, they end there."""
        with suppress(NotFound):
            while runs := self._store.list_runs(name, None, READ_RUNS, before):
                yield from runs
                before = runs[-1].id
                time.sleep(0)

"""Titles that the model writes."""

from collections.abc import Callable

from server.core.conversations import Conversations
from server.core.replies import Replies
from server.domain import Run, RunOptions
from server.errors import AppError, InvalidRequest, NotFound, RunCancelled, UpstreamEmptyReply

INSTRUCTIONS = (
    "Write a title for the conversation that follows, in the language that it is held in, of at most six words. "
    "Answer with the title alone, without quotation marks and without a full stop."
)

READ_MESSAGES = 6
READ_CHARACTERS = 1_000
"""How much of the conversation the model reads: its first messages, and the beginning of each."""

TITLE_CHARACTERS = 100
KEPT_SECONDS = 600.0
"""How long the run that writes a title is kept if it is not read."""


class Titles:
    """Safe from any thread."""

    def __init__(self, conversations: Conversations, replies: Replies) -> None:
        self._conversations = conversations
        self._replies = replies

    def generate(self, name: str, is_connected: Callable[[], bool]) -> str:
        """Have the conversation's model write a title, and keep it as the conversation's title.

        Raises NotFound, InvalidRequest if there is nothing to read yet, and what `Replies.answer` raises.
        """
        conversation = self._conversations.get(name)
        messages = self._conversations.list_messages(name, 0, READ_MESSAGES)
        if not messages:
            raise InvalidRequest("There is no message to take a title from yet; ask something first.")
        text = "\n\n".join(f"{each.role}: {each.content[:READ_CHARACTERS]}" for each in messages)
        # A chat of its own, so that neither this question nor its reply is in the history. The same text finds the same
        # reply, if the title is asked for again meanwhile.
        chat = self._conversations.derive_name("title", name, f"{conversation.history_id} {text}")
        self._conversations.create(chat, seconds=KEPT_SECONDS, is_unlisted=True)
        draft = Run(text, conversation=chat, options=RunOptions(conversation.model, INSTRUCTIONS))
        try:
            title = _clean(self._replies.answer(draft, is_connected, create_conversation=False).text)
        except (NotFound, RunCancelled):  # A request in another process had the title first, and has deleted the chat.
            written: str | None = self._conversations.get(name).settings.get("title")
            if written is None:
                raise
            return written
        except AppError:  # What was said must not outlive its conversation here.
            self._conversations.delete(chat)
            raise
        try:
            if not title:
                raise UpstreamEmptyReply
            self._conversations.update(name, {"title": title}, create=False)
            return title
        finally:
            self._conversations.delete(chat)


def _clean(reply: str) -> str:
    """The first line with text, without marks around it and without control characters."""
    line = next((each for each in reply.splitlines() if each.strip(" #*_`\"'“”‘’")), reply)
    printable = "".join(each if each.isprintable() else " " for each in line)
    return " ".join(printable.strip(" #*_`\"'“”‘’.").split())[:TITLE_CHARACTERS]

"""Which messages a run sends upstream, and as what bytes. Pure functions. Message indexes count from 0.

Providers' prompt caches match exact prefixes, so as little as possible changes from one request of a conversation to
the next: the history is cut in blocks, and the time of day is not sent.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from server.domain import Message, Step

ROLE_OFFSET = len('{"role":"')
"""The offset of the role in a fragment. Its first letter tells the roles apart."""
ASSISTANT = ord("a")


@dataclass(frozen=True, slots=True)
class Transcript:
    """A part of a history as it is sent upstream.

    Consecutive messages of one role are merged into one message, joined with a blank line, because the templates of
    many models refuse them.
    """

    joined: bytes = b""
    """All messages but the last, separated by commas."""
    last: tuple[bytes, ...] = ()
    """The fragments of the last message. The next fragment is merged with them if its role is the same."""

    def extend(self, fragments: Iterable[bytes]) -> "Transcript":
        """A new transcript with further messages, each as `{"role":…,"content":…}`."""
        parts = [self.joined] if self.joined else []
        last = list(self.last)
        for fragment in fragments:
            if last and fragment[ROLE_OFFSET] != last[0][ROLE_OFFSET]:
                parts.append(_merge_fragments(last))
                last = []
            last.append(fragment)
        return Transcript(b",".join(parts), tuple(last))


def window_start(count: int, max_messages: int | None, start: int) -> int:
    """The index of the first message to send, of a history of `count` messages that is sent from `start` on so far.

    If more than `max_messages` would be sent, half of that number is dropped at a time, so that the index then stays
    the same until the window is full again. A multiple of two messages is dropped, so that turns stay whole.
    """
    if max_messages is None or count - start <= max_messages:
        return start
    block = (max_messages + 3) // 4 * 2
    excess = count - start - max_messages
    return start + -(-excess // block) * block


def drop_oldest_half(start: int, count: int) -> int:
    """The index of the first message to send after the older half is dropped, in whole turns; `count` if none is left.

    `start` is the index before.
    """
    return min(count, start + max(2, (count - start + 3) // 4 * 2))


def drop_orphan_replies(history: Sequence[Message]) -> Sequence[Message]:
    """The history without the replies at its start whose questions are left out; unchanged if it is all replies."""
    first = 0
    while first < len(history) and history[first].fragment.startswith(b'{"role":"assistant"'):
        first += 1
    return history[first:] if 0 < first < len(history) else history


def build_messages(system_prompt: str, history: Transcript, question: str, steps: Sequence[Step] = ()) -> bytes:
    """The `messages` of the request: a JSON list of the system prompt, the history, the question and the steps.

    The stored bytes of the history are copied, not parsed. An empty system prompt or question is left out.
    """
    transcript = history.extend([_dump_message("user", question)] if question else ())
    tool_messages = [message for step in steps for message in _build_step_messages(step)]
    last = [_merge_fragments(transcript.last)] if transcript.last else []
    if tool_messages and transcript.last and transcript.last[0][ROLE_OFFSET] == ASSISTANT:
        content = orjson.loads(last.pop())["content"]
        tool_messages[0]["content"] = "\n\n".join(filter(None, (content, tool_messages[0]["content"])))
    parts = [_dump_message("system", system_prompt)] if system_prompt else []
    parts += [transcript.joined] if transcript.joined else []
    return b"[" + b",".join([*parts, *last, *map(orjson.dumps, tool_messages)]) + b"]"


def _build_step_messages(step: Step) -> Iterator[dict[str, Any]]:
    """The tool calls with the further fields that the upstream sent with them, then the output of each."""
    calls = [
        {**call.extra, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in step.calls
    ]
    yield {**step.extra, "role": "assistant", "content": step.text or None, "tool_calls": calls}
    for call in step.calls:
        yield {"role": "tool", "tool_call_id": call.id, "content": call.output or ""}


def _merge_fragments(fragments: Sequence[bytes]) -> bytes:
    """Fragments of one role as one message."""
    if len(fragments) == 1:
        return fragments[0]
    messages = [orjson.loads(fragment) for fragment in fragments]
    return _dump_message(messages[0]["role"], "\n\n".join(message["content"] for message in messages))


def _dump_message(role: str, content: str) -> bytes:
    message: dict[str, Any] = {"role": role, "content": content}
    return orjson.dumps(message)


def client_hash(name: str) -> str:
    """A stable pseudonym of a conversation's name, which does not reveal it."""
    return hashlib.sha256(b"conversation\0" + name.encode()).hexdigest()[:32]

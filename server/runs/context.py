"""What a run sends upstream. Pure functions; places count a history's messages from 0.

Nothing here changes from turn to turn but what must: providers' prompt caches match exact prefixes, so a history is cut
in blocks, and no time of day goes in.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from server.domain import Message, Step

ROLE = len('{"role":"')
"""Where the role begins in a fragment: its first letter tells it."""
ASSISTANT = ord("a")


@dataclass(frozen=True, slots=True)
class Transcript:
    """A part of a history as it is sent.

    Consecutive messages of one role are one, joined with a blank line, since many models' templates refuse them.
    """

    joined: bytes = b""
    """All but the last message, separated by commas."""
    last: tuple[bytes, ...] = ()
    """The fragments of the last message: what comes next may belong to it."""

    def extended(self, fragments: Iterable[bytes]) -> "Transcript":
        """With further messages, each `{"role":…,"content":…}`."""
        parts = [self.joined] if self.joined else []
        last = list(self.last)
        for fragment in fragments:
            if last and fragment[ROLE] != last[0][ROLE]:
                parts.append(_merged(last))
                last = []
            last.append(fragment)
        return Transcript(b",".join(parts), tuple(last))


def window_start(count: int, most: int | None, start: int) -> int:
    """Where the replay of a history of `count` messages begins.

    With at most `most` messages to send, half of them are dropped at a time: the same place then holds until the
    replay is full again. Places are even, so that turns stay whole.
    """
    if most is None or count - start <= most:
        return start
    block = (most + 3) // 4 * 2
    over = count - start - most
    return start + -(-over // block) * block


def drop_oldest_half(start: int, count: int) -> int:
    """Where the replay begins after its older half was dropped, in whole turns; `count` where none is left."""
    return min(count, start + max(2, (count - start + 3) // 4 * 2))


def drop_orphan_replies(history: Sequence[Message]) -> Sequence[Message]:
    """The history without replies at its beginning, whose questions were left out; whole where it has nothing else."""
    first = 0
    while first < len(history) and history[first].fragment.startswith(b'{"role":"assistant"'):
        first += 1
    return history[first:] if 0 < first < len(history) else history


def build_messages(system_prompt: str, history: Transcript, question: str, steps: Sequence[Step] = ()) -> bytes:
    """The request's `messages`: a JSON list of the system prompt, the history, the question and the tools' outputs.

    The history's own bytes go in as they were kept. An empty question is none.
    """
    asked = history.extended([_encoded("user", question)] if question else ())
    exchanged = [each for step in steps for each in _exchanged(step)]
    last = [_merged(asked.last)] if asked.last else []
    if exchanged and asked.last and asked.last[0][ROLE] == ASSISTANT:
        said = orjson.loads(last.pop())["content"]
        exchanged[0]["content"] = "\n\n".join(filter(None, (said, exchanged[0]["content"])))
    parts = [_encoded("system", system_prompt)] if system_prompt else []
    parts += [asked.joined] if asked.joined else []
    return b"[" + b",".join([*parts, *last, *map(orjson.dumps, exchanged)]) + b"]"


def _exchanged(step: Step) -> Iterator[dict[str, Any]]:
    """The calls and their outputs, with what the upstream had sent along with them."""
    calls = [
        {**call.extra, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in step.calls
    ]
    yield {**step.extra, "role": "assistant", "content": step.text or None, "tool_calls": calls}
    for call in step.calls:
        yield {"role": "tool", "tool_call_id": call.id, "content": call.output or ""}


def _merged(fragments: Sequence[bytes]) -> bytes:
    """One message of several fragments of one role."""
    if len(fragments) == 1:
        return fragments[0]
    said = [orjson.loads(fragment) for fragment in fragments]
    return _encoded(said[0]["role"], "\n\n".join(each["content"] for each in said))


def _encoded(role: str, content: str) -> bytes:
    fragment: dict[str, Any] = {"role": role, "content": content}
    return orjson.dumps(fragment)


def client_hash(name: str) -> str:
    """A stable name for a client that tells nobody who it is."""
    return hashlib.sha256(b"conversation\0" + name.encode()).hexdigest()[:32]

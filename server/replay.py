"""What a run sends upstream. Pure functions; places count a history's messages from 0.

Nothing here changes from turn to turn but what must: providers' prompt caches match exact prefixes, so a history is cut
in blocks, and no time of day goes in.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from server.model import Message, Step


def first_place(count: int, most: int | None, replay_from: int) -> int:
    """Where the replay of a history of `count` messages begins.

    With at most `most` messages to send, half of them are dropped at a time: the same place then holds until the
    replay is full again. Places are even, so that turns stay whole.
    """
    if most is None or count - replay_from <= most:
        return replay_from
    block = (most + 3) // 4 * 2
    over = count - replay_from - most
    return replay_from + -(-over // block) * block


def halved(start: int, count: int) -> int:
    """Where the replay begins after its older half was dropped, in whole turns; `count` where none is left."""
    return min(count, start + max(2, (count - start + 3) // 4 * 2))


def whole_turns(history: Sequence[Message]) -> Sequence[Message]:
    """The history without replies at its beginning, whose questions were left out; whole where it has nothing else."""
    first = 0
    while first < len(history) and history[first].fragment.startswith(b'{"role":"assistant"'):
        first += 1
    return history[first:] if 0 < first < len(history) else history


def messages(system_prompt: str, history: Sequence[Message], question: str, steps: Sequence[Step] = ()) -> bytes:
    """The request's `messages`: a JSON list of the system prompt, the history, the question and the tools' outputs.

    The history's own bytes go in as they were kept. An empty question is none.
    """
    parts = [_encoded("system", system_prompt)] if system_prompt else []
    parts.extend([message.fragment for message in history])
    if question:
        parts.append(_encoded("user", question))
    for step in steps:
        parts.extend(orjson.dumps(each) for each in _exchanged(step))
    return b"[" + b",".join(parts) + b"]"


def _exchanged(step: Step) -> Iterator[dict[str, Any]]:
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in step.calls
    ]
    yield {"role": "assistant", "content": step.text or None, "tool_calls": calls}
    for call in step.calls:
        yield {"role": "tool", "tool_call_id": call.id, "content": call.output or ""}


def _encoded(role: str, content: str) -> bytes:
    fragment: dict[str, Any] = {"role": role, "content": content}
    return orjson.dumps(fragment)


def fingerprint(name: str) -> str:
    """A stable name for a client that tells nobody who it is."""
    return hashlib.sha256(b"conversation\0" + name.encode()).hexdigest()[:32]

"""An upstream that calls nobody: a demonstration, and the means by which tests steer replies."""

import threading
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from typing import Any

import orjson

from server.errors import UpstreamCut
from server.model import Usage
from server.upstream import Call, Health, Reply

MODEL = "scripted-demo"


def demo(call: Call) -> Iterator[str]:
    """A reply that says that it is the demo, and shows which history came with the question."""
    sent = [each for each in orjson.loads(call.messages) if each["role"] != "system"]
    *history, question = sent or [{"content": "nothing"}]
    yield f"[demo, no model was asked] You said: {question['content']}"
    if history:
        yield f" — {len(history)} earlier messages came with it, the first of them: {history[0]['content']}"
    else:
        yield " — nothing came with it, so this is the beginning of the conversation."


class ScriptedUpstream:
    """Answers each call with the pieces that `answer` gives; an exception out of it is the upstream's failure.

    Where `answer` gives a Reply, that is the last of it: so it can want functions called.
    """

    def __init__(self, answer: Callable[[Call], Iterable[str | Reply]] = demo) -> None:
        self.answer = answer
        self.heard: deque[Call] = deque(maxlen=1000)
        """The newest calls, oldest first."""
        self.open_now = 0
        """Calls that have begun and not ended."""
        self._lock = threading.Lock()

    def open(self, call: Call) -> "_ScriptedWriting":
        return _ScriptedWriting(self, call)

    def models(self) -> list[dict[str, Any]]:
        return [{"id": MODEL, "object": "model", "created": 0, "owned_by": "this server"}]

    def offered_models(self) -> Collection[str]:
        return {each["id"] for each in self.models()}

    def default_model(self) -> str:
        return MODEL

    def health(self) -> Health:
        return "connected"

    def close_idle(self) -> None:
        """There are none."""

    def count(self, change: int) -> None:
        with self._lock:
            self.open_now += change


class _ScriptedWriting:
    def __init__(self, upstream: ScriptedUpstream, call: Call) -> None:
        self._upstream = upstream
        self._call = call
        self._cut = False

    def __iter__(self) -> Generator[str | Reply, None, None]:
        self._upstream.heard.append(self._call)
        self._upstream.count(+1)
        try:
            words = 0
            for piece in self._upstream.answer(self._call):
                if self._cut:
                    raise UpstreamCut
                if isinstance(piece, Reply):
                    yield piece
                    return
                if piece:
                    words += len(piece.split())
                    yield piece
            asked = len(self._call.messages.split())
            yield Reply(self._call.model, Usage(asked, words, asked + words), "stop")
        finally:
            self._upstream.count(-1)

    def cut(self) -> None:
        self._cut = True

"""An upstream that calls nobody: the demonstration. It keeps nothing of what it was asked."""

from collections.abc import Collection, Generator, Iterable, Iterator
from typing import Any

import orjson

from server.domain import Usage
from server.errors import UpstreamCut
from server.upstream.protocol import Completion, CompletionRequest, UpstreamStatus

MODEL = "scripted-demo"


def demo(call: CompletionRequest) -> Iterator[str]:
    """A reply that says that it is the demo, and shows which history came with the question."""
    sent = [each for each in orjson.loads(call.messages) if each["role"] != "system"]
    *history, question = sent or [{"content": "nothing"}]
    yield f"[demo, no model was asked] You said: {question['content']}"
    if history:
        yield f" — {len(history)} earlier messages came with it, the first of them: {history[0]['content']}"
    else:
        yield " — nothing came with it, so this is the beginning of the conversation."


class ScriptedUpstream:
    def open_stream(self, call: CompletionRequest) -> "ScriptedStream":
        return ScriptedStream(call, demo(call))

    def list_models(self) -> list[dict[str, Any]]:
        return [{"id": MODEL, "object": "model", "created": 0, "owned_by": "this server"}]

    def offered_models(self) -> Collection[str]:
        return {each["id"] for each in self.list_models()}

    def default_model(self) -> str:
        return MODEL

    def check_health(self) -> UpstreamStatus:
        return "connected"

    def close_idle(self) -> None:
        """There are none."""


class ScriptedStream:
    """Gives the pieces that it was made with; a Reply among them is the last."""

    def __init__(self, call: CompletionRequest, pieces: Iterable[str | Completion]) -> None:
        self._call = call
        self._pieces = pieces
        self._cut = False

    def __iter__(self) -> Generator[str | Completion, None, None]:
        words = 0
        for piece in self._pieces:
            if self._cut:
                raise UpstreamCut
            if isinstance(piece, Completion):
                yield piece
                return
            if piece:
                words += len(piece.split())
                yield piece
        asked = len(self._call.messages.split())
        yield Completion(self._call.model, Usage(asked, words, asked + words), "stop")

    def abort(self) -> None:
        self._cut = True

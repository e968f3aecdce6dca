"""The demonstration upstream: it sends no request and stores nothing of what it receives."""

from collections.abc import Collection, Generator, Iterable, Iterator
from typing import Any

import orjson

from server.domain import Usage
from server.errors import UpstreamCut
from server.upstream.protocol import Completion, CompletionRequest, UpstreamStatus

MODEL = "scripted-demo"


def write_demo(request: CompletionRequest) -> Iterator[str]:
    """A reply that names itself a demo and shows which history came with the question."""
    sent = [each for each in orjson.loads(request.messages) if each["role"] != "system"]
    *history, question = sent or [{"content": "nothing"}]
    yield f"[demo, no model was asked] You said: {question['content']}"
    if history:
        yield f" — {len(history)} earlier messages came with it, the first of them: {history[0]['content']}"
    else:
        yield " — nothing came with it, so this is the beginning of the conversation."


class ScriptedUpstream:
    def open_stream(self, request: CompletionRequest) -> "ScriptedStream":
        return ScriptedStream(request, write_demo(request))

    def list_models(self) -> list[dict[str, Any]]:
        return [{"id": MODEL, "object": "model", "created": 0, "owned_by": "this server"}]

    def offered_models(self) -> Collection[str]:
        return {each["id"] for each in self.list_models()}

    def knows_model(self, model: str) -> bool:
        return model == MODEL

    def default_model(self) -> str:
        return MODEL

    def check_health(self) -> UpstreamStatus:
        return "connected"

    def close_idle(self) -> None:
        """It has no connections."""


class ScriptedStream:
    """Yields the given pieces; a Completion among them ends it, else one is made up from the number of words."""

    def __init__(self, request: CompletionRequest, pieces: Iterable[str | Completion]) -> None:
        self._request = request
        self._pieces = pieces
        self._is_aborted = False

    def __iter__(self) -> Generator[str | Completion, None, None]:
        words = 0
        for piece in self._pieces:
            if self._is_aborted:
                raise UpstreamCut
            if isinstance(piece, Completion):
                yield piece
                return
            if piece:
                words += len(piece.split())
                yield piece
        prompt_words = len(self._request.messages.split())
        yield Completion(self._request.model, Usage(prompt_words, words, prompt_words + words), "stop")

    def abort(self) -> None:
        self._is_aborted = True

"""The model's server of the pictures. It takes as long as one does, so that the seconds and rates are sensible."""

import json
import math
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

from scripts.screenshots import texts
from scripts.screenshots.samples import MODEL
from server.domain import Usage
from server.upstream.protocol import Completion, CompletionRequest

TOKENS_PER_SECOND = 88

TOKENS = {
    texts.SQL_SECOND: (388, 176),
    texts.STEW_SECOND: (731, 194),
    texts.QUEUE: (118, 214),
    texts.BRIEF: (352, 18),
    texts.TERMINAL_QUESTION: (64, 112),
    texts.TERMINAL_SECOND: (201, 124),
}
"""Sent and received, by the question."""

REPLIES = {
    texts.SQL_SECOND: (texts.SQL_SECOND_REPLY,),
    texts.STEW_SECOND: (texts.STEW_SECOND_REPLY,),
    texts.QUEUE: (texts.QUEUE_REPLY, texts.QUEUE_END),
    texts.BRIEF: (texts.BRIEF_REPLY,),
    texts.TERMINAL_QUESTION: (texts.TERMINAL_REPLY,),
    texts.TERMINAL_SECOND: (texts.TERMINAL_SECOND_REPLY, texts.TERMINAL_END),
}
"""By the question. Before a second part the reply waits for `go_on`."""


class PacedReplies:
    """Replies by the question, word by word."""

    def __init__(self) -> None:
        self._going_on = threading.Event()

    def __call__(self, call: CompletionRequest) -> Iterator[str | Completion]:
        question = json.loads(call.messages)[-1]["content"]
        sent, received = TOKENS[question]
        first, *rest = REPLIES[question]
        words = re.findall(r"\S+\s*|\s+", first)
        for word in words:
            time.sleep(received / TOKENS_PER_SECOND / len(words))  # A model takes this long.
            yield word
        for part in rest:
            self._going_on.wait()
            self._going_on.clear()
            yield part
        logprobs = list_logprobs(first) if question == texts.BRIEF else None
        yield Completion(MODEL, Usage(sent, received, sent + received), "stop", logprobs=logprobs)

    def go_on(self) -> None:
        """Write the rest of the reply that waits."""
        self._going_on.set()

    def release(self) -> None:
        self._going_on.set()


def list_logprobs(text: str) -> list[dict[str, Any]]:
    """The tokens of a text as OpenAI tells them: with up to five that could have stood in each place."""
    found = []
    for token in re.findall(r" ?\w+|[^\w\s]", text):
        options = [_logprob_of(*option) for option in texts.ALTERNATIVES.get(token, [(token, 0.98)])]
        (chosen,) = [option for option in options if option["token"] == token]
        found.append({**chosen, "top_logprobs": options})
    return found


def _logprob_of(token: str, probability: float) -> dict[str, Any]:
    return {"token": token, "logprob": math.log(probability), "bytes": list(token.encode())}

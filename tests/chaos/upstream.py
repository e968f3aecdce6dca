"""An upstream that outlives the servers: it remembers every question with all that was sent along."""

import random
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from sys import intern

from tests.support.openai_server import DONE, FINISH, Exchange, OpenAIServer, completion, piece

SAMPLES = ("so", "그래서", "weil", "потому что", "🙂", "naïve", "\n", "“quoted”")


@dataclass(frozen=True)
class Call:
    """One request of a server."""

    life: str
    """Of the server that sent it: a part of the address that this life was given."""
    messages: list[tuple[str, str]]
    """Role and content of each, the question last."""
    reply: str
    """What it was to be answered: no two calls have the same."""
    heard: float
    """Unix seconds, after it arrived."""
    ended: float | None = None
    """Before the last piece left, or after it was found to reach nobody; None until then."""

    @property
    def question(self) -> str:
        return self.messages[-1][1]


class Upstream:
    """Answers in pieces, over 50 to 400 ms."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._server = OpenAIServer()
        self._server.follow(self._answer)
        self._lock = threading.Lock()
        self._calls: list[Call] = []
        self.ended_as = threading.Event()
        """Set whenever the last piece of a reply is about to leave."""

    def url(self, life: str) -> str:
        """The base URL for one life of a server, by which it is known again."""
        return f"http://127.0.0.1:{self._server.port}/{life}/v1"

    def calls(self) -> list[Call]:
        """In the order in which they were noted."""
        with self._lock:
            return list(self._calls)

    def is_writing(self, lives: Collection[str]) -> bool:
        """Whether a reply to one of these has pieces left that were not sent."""
        with self._lock:
            return any(each.ended is None and each.life in lives for each in self._calls[-64:])

    def close(self) -> None:
        self._server.close()

    def _answer(self, exchange: Exchange) -> None:
        request = exchange.request
        if len(request.content) < int(request.headers["content-length"]):
            return  # Killed in the middle of a request: nothing was asked.
        body = request.body
        # Shared, since each call has the whole history again: a long round would need gigabytes.
        messages = [(intern(each["role"]), intern(each["content"])) for each in body["messages"]]
        self._server.requests.clear()
        with self._lock:
            number = len(self._calls)
            chance = random.Random(f"{self._seed} {number}")
            words = chance.choices(SAMPLES, k=chance.randint(2, 8))
            texts = [f"Answer {number} to {messages[-1][1]}:", *(f" {word}" for word in words)]
            life = request.path.split("/")[1]
            self._calls.append(Call(life, messages, "".join(texts), time.time()))
        is_streamed = body.get("stream", False)
        parts = _streamed(texts) if is_streamed else _plain("".join(texts), chance)
        kind = "text/event-stream" if is_streamed else "application/json"
        pause = chance.uniform(0.05, 0.4) / len(parts)
        try:
            exchange.begin(200, Content_Type=kind, Content_Length=str(sum(map(len, parts))))
            for part in parts[:-1]:
                time.sleep(pause)
                exchange.send(part)
            time.sleep(pause)
        finally:
            with self._lock:
                self._calls[number] = replace(self._calls[number], ended=time.time())
        self.ended_as.set()
        exchange.send(parts[-1])
        exchange.is_whole = True


def _streamed(texts: list[str]) -> list[bytes]:
    return [*(piece(text) for text in texts), FINISH + DONE]


def _plain(text: str, chance: random.Random) -> list[bytes]:
    """Cut anywhere, also within a character."""
    whole = completion(text)
    cuts = sorted(chance.sample(range(1, len(whole)), 3))
    return [whole[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True)]

"""An upstream that outlives the servers, and records every request with all its messages."""

import random
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from sys import intern

from tests.support.openai_server import DONE, FINISH, Exchange, OpenAIServer, completion, piece

SNIPPETS = ("so", "그래서", "weil", "потому что", "🙂", "naïve", "\n", "“quoted”")


@dataclass(frozen=True)
class Call:
    """One request of a server."""

    life: str
    """The life of the server that sent it, from the path of the URL that this life was given."""
    messages: list[tuple[str, str]]
    """Role and content of each message, the question last."""
    reply: str
    """The reply, which is different for each call."""
    received: float
    """Unix seconds, after it was received."""
    ended: float | None = None
    """Unix seconds, before the last chunk was sent, or after the connection was found broken; None until then."""

    @property
    def question(self) -> str:
        return self.messages[-1][1]


class Upstream:
    """Answers in chunks, over 50 to 400 ms."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._server = OpenAIServer()
        self._server.follow(self._answer)
        self._lock = threading.Lock()
        self._calls: list[Call] = []
        self.reply_ended = threading.Event()
        """Set whenever the last chunk of a reply is about to be sent."""

    def url(self, life: str) -> str:
        """The base URL for one life of a server, which identifies it."""
        return f"http://127.0.0.1:{self._server.port}/{life}/v1"

    def calls(self) -> list[Call]:
        """In the order in which they were recorded."""
        with self._lock:
            return list(self._calls)

    def is_running(self, lives: Collection[str]) -> bool:
        """Whether chunks of a reply to one of these lives are still to be sent."""
        with self._lock:
            return any(each.ended is None and each.life in lives for each in self._calls[-64:])

    def close(self) -> None:
        self._server.close()

    def _answer(self, exchange: Exchange) -> None:
        request = exchange.request
        if len(request.content) < int(request.headers["content-length"]):
            return  # The server was killed while it sent the request.
        body = request.body
        # Interned, because each call repeats the whole history: a long round would need gigabytes.
        messages = [(intern(each["role"]), intern(each["content"])) for each in body["messages"]]
        self._server.requests.clear()
        with self._lock:
            number = len(self._calls)
            chance = random.Random(f"{self._seed} {number}")
            snippets = chance.choices(SNIPPETS, k=chance.randint(2, 8))
            texts = [f"Answer {number} to {messages[-1][1]}:", *(f" {snippet}" for snippet in snippets)]
            life = request.path.split("/")[1]
            self._calls.append(Call(life, messages, "".join(texts), time.time()))
        is_streamed = body.get("stream", False)
        parts = _build_stream(texts) if is_streamed else _build_plain("".join(texts), chance)
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
        self.reply_ended.set()
        exchange.send(parts[-1])
        exchange.is_whole = True


def _build_stream(texts: list[str]) -> list[bytes]:
    return [*(piece(text) for text in texts), FINISH + DONE]


def _build_plain(text: str, chance: random.Random) -> list[bytes]:
    """The body in parts that are cut anywhere, also within a character."""
    body = completion(text)
    cuts = sorted(chance.sample(range(1, len(body)), 3))
    return [body[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(body)], strict=True)]

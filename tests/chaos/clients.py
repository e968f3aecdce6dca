"""Clients that write down every question they send and every answer they are given."""

import http.client
import json
import math
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.servers import Server

PATIENCE_SECONDS = 30.0
"""Longer than any answer may take, also where a lease has to pass first."""


@dataclass
class Ask:
    """One `POST /query`, and what came of it."""

    name: str
    """The conversation's."""
    question: str
    request_id: str | None
    life: str
    """Of the server that it was sent to."""
    sent: float
    """Unix seconds, before it left."""
    known: float = math.inf
    """After the client learned that its question was accepted: by a 200 or a 202."""
    done: float = math.inf
    """After it was over, in whichever way."""
    status: int | None = None
    run_id: str | None = None
    """As told by a 202 or by a stream; None also where the connection died before it was."""
    answer: str | None = None
    failure: str | None = None
    """The code that was told; or `cut` where the connection died, `left` where the client hung up, `hung` where nothing
    came for too long, `unreadable` where it was no JSON."""

    @property
    def accepted(self) -> bool:
        return self.known < math.inf


class Client:
    """Asks, and keeps the record."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self._servers = servers
        self._lock = threading.Lock()
        self.asks: list[Ask] = []
        self.asked = threading.Event()
        """Set whenever a question leaves."""
        self.answered = threading.Event()
        """Set whenever an answer has come."""
        self.is_over = threading.Event()
        """Once set, nobody asks any more."""

    def ask(
        self, chance: random.Random, name: str, question: str, request_id: str | None, manner: str = "plain"
    ) -> Ask | None:
        """One question to one of the servers that are up; None where it is over before there is one.

        `manner` is `plain`, `streamed`, `impatient` (content with a 202) or `leaving` (hangs up once it is accepted).
        """
        while not (up := [life for each in self._servers if (life := each.life) is not None]):
            if self.is_over.wait(0.02):
                return None
        life = chance.choice(up)
        ask = Ask(name, question, request_id, life.name, time.time())
        with self._lock:
            self.asks.append(ask)
        self.asked.set()
        connection = http.client.HTTPConnection("127.0.0.1", life.port, timeout=PATIENCE_SECONDS)
        try:
            _exchange(connection, ask, manner)
        except TimeoutError:
            ask.failure = "hung"
        except (OSError, http.client.HTTPException):
            ask.failure = "cut"
        except ValueError:
            ask.failure = "unreadable"
        finally:
            ask.done = time.time()
            connection.close()
        if ask.answer is not None:
            self.answered.set()
        return ask


def _exchange(connection: http.client.HTTPConnection, ask: Ask, manner: str) -> None:
    body = {"client_name": ask.name, "input": ask.question}
    headers = {"Content-Type": "application/json"}
    if ask.request_id is not None:
        body["request_id"] = ask.request_id
    if manner in ("streamed", "leaving"):
        headers["Accept"] = "text/event-stream"
    if manner == "impatient":
        headers["Prefer"] = "wait=0"
    connection.request("POST", "/query", json.dumps(body).encode(), headers)
    response = connection.getresponse()
    ask.status = response.status
    if response.status in (200, 202):
        ask.known = time.time()
        ask.run_id = response.headers.get("X-Stream-ID")
    if response.headers.get_content_type() == "text/event-stream":
        _follow(response, ask, manner == "leaving")
        return
    answer = json.loads(response.read())
    ask.run_id = answer.get("run_id")
    ask.answer = answer.get("response")
    ask.failure = answer.get("code")


def _follow(response: http.client.HTTPResponse, ask: Ask, leaves: bool) -> None:
    text = ""
    while (line := response.readline()).endswith(b"\n"):
        if not line.startswith(b"data:"):
            continue
        frame = json.loads(line[5:])
        if frame["type"] == "START" and leaves:
            ask.failure = "left"
            return
        if frame["type"] == "CHUNK":
            text += frame["content"]
        if frame["type"] == "ERROR":
            ask.failure = frame["code"]
            return
        if frame["type"] in ("END", "STOPPED"):
            # The judge finds no such answer where the pieces are not the whole.
            ask.answer = text if text == frame["full_content"] else f"{text!r} in pieces, {frame['full_content']!r}"
            return
    ask.failure = "cut"


class Asker(threading.Thread):
    """One who asks one question after another in a conversation; what fails is mostly asked again."""

    def __init__(self, client: Client, name: str, number: int, is_alone: bool, seed: int) -> None:
        super().__init__(name=f"asker {number} of {name}", daemon=True)
        self._client = client
        self._conversation = name
        self._number = number
        self._is_alone = is_alone
        self._chance = random.Random(f"{seed} {name} {number}")
        self._count = 0
        self._answered: list[tuple[str, str]] = []
        """Questions that had a request id, and that id."""

    def run(self) -> None:
        while not self._client.is_over.is_set():
            self._ask_until_answered()
            if self._answered and self._chance.random() < 0.15:
                self._client.ask(self._chance, self._conversation, *self._chance.choice(self._answered))

    def _ask_until_answered(self) -> None:
        self._count += 1
        question = f"Question {self._count} of {self._number} in {self._conversation}: 왜?"
        request_id = f"id of {question}" if self._chance.random() < 0.5 else None
        while not self._client.is_over.is_set():
            ask = self._client.ask(self._chance, self._conversation, question, request_id, self._manner(request_id))
            if ask is None:
                return
            if ask.answer is not None:
                if request_id is not None:
                    self._answered.append((question, request_id))
                return
            if not ask.accepted:
                if self._chance.random() < 0.25:
                    return  # Whoever asked has given up.
                time.sleep(self._chance.uniform(0.0, 0.1))

    def _manner(self, request_id: str | None) -> str:
        # Without an id, and with others in the conversation, a reply that nobody waited for may have to be asked anew.
        manners = ["plain", "streamed"] * 3
        return self._chance.choice([*manners, "impatient", "leaving"] if request_id or self._is_alone else manners)

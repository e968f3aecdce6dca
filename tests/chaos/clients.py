"""Clients that record every question that they send and every answer that they receive."""

import http.client
import json
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.chaos.servers import Life, Server

PATIENCE_SECONDS = 30.0
"""Longer than any answer may take, also if a lease has to pass first."""


@dataclass
class Ask:
    """One `POST /query` and its answer."""

    name: str
    """The conversation's name."""
    question: str
    request_id: str | None
    life: str
    """The life of the server that it was sent to."""
    sent: float
    """Unix seconds, before it was sent."""
    known: float = math.inf
    """Unix seconds, after the client received a 200 or a 202, which says that the question was accepted."""
    done: float = math.inf
    """Unix seconds, after it was answered or failed."""
    status: int | None = None
    run_id: str | None = None
    """From a 202 or from a stream; None also if the connection broke before that."""
    answer: str | None = None
    error: str | None = None
    """The code of the answer; or `broken` if the connection broke, `left` if the client closed it, `timeout` if nothing
    came for too long, `unreadable` if the answer was no JSON."""

    @property
    def accepted(self) -> bool:
        return self.known < math.inf


class Client:
    """Sends questions and records the answers."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self._servers = servers
        self._lock = threading.Lock()
        self.asks: list[Ask] = []
        self.question_sent = threading.Event()
        """Set whenever a question is sent."""
        self.answer_received = threading.Event()
        """Set whenever an answer is received."""
        self.is_over = threading.Event()
        """While it is set, no more questions are sent."""

    def ask(
        self, chance: random.Random, name: str, question: str, request_id: str | None, manner: str = "plain"
    ) -> Ask | None:
        """One question to one of the servers that are up; None if `is_over` was set before a server was up.

        `manner` is `plain`, `streamed`, `impatient` (accepts a 202) or `leaving` (disconnects once it is accepted).
        """
        life = self.choose_life(chance)
        if life is None:
            return None
        ask = Ask(name, question, request_id, life.name, time.time())
        with self._lock:
            self.asks.append(ask)
        self.question_sent.set()
        ask.error = attempt(life, partial(_send, ask=ask, manner=manner)) or ask.error
        ask.done = time.time()
        if ask.answer is not None:
            self.answer_received.set()
        return ask

    def choose_life(self, chance: random.Random) -> Life | None:
        """One of the servers, once any is up; None if `is_over` was set before."""
        while not (up := [life for each in self._servers if (life := each.life) is not None]):
            if self.is_over.wait(0.02):
                return None
        return chance.choice(up)


def attempt(life: Life, send: Callable[[http.client.HTTPConnection], None]) -> str | None:
    """Call `send` with a connection. Returns `broken`, `timeout` or `unreadable` if no answer could be read."""
    connection = http.client.HTTPConnection("127.0.0.1", life.port, timeout=PATIENCE_SECONDS)
    try:
        send(connection)
    except TimeoutError:
        return "timeout"
    except (OSError, http.client.HTTPException):
        return "broken"
    except ValueError:
        return "unreadable"
    finally:
        connection.close()
    return None


def read_frames(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The events of a stream. The iteration raises ConnectionError if the stream ends."""
    while (line := response.readline()).endswith(b"\n"):
        if line.startswith(b"data:"):
            yield json.loads(line[5:])
    raise ConnectionError


def _send(connection: http.client.HTTPConnection, ask: Ask, manner: str) -> None:
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
        _read_stream(response, ask, manner == "leaving")
        return
    answer = json.loads(response.read())
    ask.run_id = answer.get("run_id")
    ask.answer = answer.get("response")
    ask.error = answer.get("code")


def _read_stream(response: http.client.HTTPResponse, ask: Ask, leaves: bool) -> None:
    text = ""
    for frame in read_frames(response):
        if frame["type"] == "START" and leaves:
            ask.error = "left"
            return
        if frame["type"] == "CHUNK":
            text += frame["content"]
        if frame["type"] == "ERROR":
            ask.error = frame["code"]
            return
        if frame["type"] in ("END", "STOPPED"):
            # If the chunks do not add up to the whole, the checks find no such answer.
            ask.answer = text if text == frame["full_content"] else f"{text!r} in chunks, {frame['full_content']!r}"
            return


class ClientThread(threading.Thread):
    """A thread that asks one question after another in a conversation. It repeats most questions that fail."""

    def __init__(self, client: Client, name: str, number: int, is_alone: bool, seed: int) -> None:
        super().__init__(name=f"asker {number} of {name}", daemon=True)
        self._client = client
        self._conversation = name
        self._number = number
        self._is_alone = is_alone
        self._chance = random.Random(f"{seed} {name} {number}")
        self._count = 0
        self._answered: list[tuple[str, str]] = []
        """The answered questions that had a request id, with that id."""

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
            ask = self._client.ask(
                self._chance, self._conversation, question, request_id, self._choose_manner(request_id)
            )
            if ask is None:
                return
            if ask.answer is not None:
                if request_id is not None:
                    self._answered.append((question, request_id))
                return
            if not ask.accepted:
                if self._chance.random() < 0.25:
                    return  # The client gives up.
                time.sleep(self._chance.uniform(0.0, 0.1))

    def _choose_manner(self, request_id: str | None) -> str:
        # Without an id, and with other clients in the conversation, an undelivered reply may be asked for again.
        manners = ["plain", "streamed"] * 3
        return self._chance.choice([*manners, "impatient", "leaving"] if request_id or self._is_alone else manners)

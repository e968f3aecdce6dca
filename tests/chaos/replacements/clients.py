"""Clients that ask, and then have the last turn replaced. They record every request and every answer."""

import http.client
import json
import math
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal
from urllib.parse import quote

from tests.chaos.clients import Client, attempt, read_frames

Kind = Literal["ask", "regenerate", "edit", "messages", "read", "leave", "stop"]
"""`leave` reads a stream and disconnects at its first event."""
CREATING = ("ask", "regenerate", "edit")
MOST_READS = 3
"""How often a stream that breaks is read again."""


@dataclass(frozen=True)
class ShownMessage:
    """A message as `GET /conversations/messages` shows it."""

    role: str
    content: str
    run_id: str | None


@dataclass
class Request:
    """One request and its answer."""

    kind: Kind
    name: str
    """The conversation's name."""
    life: str
    """The life of the server that it was sent to."""
    sent: float
    """Unix seconds, before it was sent."""
    question: str | None = None
    """What is asked, or asked instead."""
    run_id: str | None = None
    """The run that it names: whose turn is to be replaced, or which is read or stopped."""
    done: float = math.inf
    """Unix seconds, after it was answered or failed."""
    told: str | None = None
    """The id of the run that it was answered with."""
    shown: Sequence[ShownMessage] = ()
    """The last turn."""
    end: str | None = None
    """`END` or `STOPPED`, the last event of a stream that brought a text."""
    text: str | None = None
    """The text that came with it."""
    error: str | None = None
    """The code of the answer; or `broken`, `timeout` or `unreadable`, as of an `Ask`."""


class Recorder:
    """Sends requests to the servers that are up, and records them."""

    def __init__(self, client: Client) -> None:
        self.client = client
        """Knows the servers, and whether the round is over."""
        self.requests: list[Request] = []
        self._lock = threading.Lock()

    def send(self, chance: random.Random, kind: Kind, name: str, **fields: str | None) -> Request | None:
        """`fields` are `question` and `run_id`. None if the round was over before a server was up."""
        life = self.client.choose_life(chance)
        if life is None:
            return None
        request = Request(kind, name, life.name, time.time(), **fields)  # type: ignore[arg-type]
        with self._lock:
            self.requests.append(request)
        if kind in CREATING:
            self.client.question_sent.set()
        request.error = attempt(life, partial(_exchange, request=request)) or request.error
        request.done = time.time()
        if request.end is not None:
            self.client.answer_received.set()
        return request

    def read(self, chance: random.Random, name: str, run_id: str) -> Request | None:
        """Read a run to its end; again if the connection breaks."""
        request = None
        for _ in range(MOST_READS):
            request = self.send(chance, "read", name, run_id=run_id)
            if request is None or request.error not in ("broken", "store_unavailable"):
                break
        return request


def _exchange(connection: http.client.HTTPConnection, request: Request) -> None:
    method, path, body = _address(request)
    data = None if body is None else json.dumps({key: body[key] for key in body if body[key] is not None}).encode()
    connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
    response = connection.getresponse()
    if response.headers.get_content_type() == "text/event-stream":
        _read_stream(response, request)
        return
    answer = json.loads(response.read())
    request.error = answer.get("code")
    if request.error is None and request.kind in CREATING:
        request.told = answer["stream_id" if request.kind == "ask" else "id"]
    if request.error is None and request.kind == "messages":
        request.shown = [ShownMessage(each["role"], each["content"], each.get("run_id")) for each in answer["messages"]]


def _address(request: Request) -> tuple[str, str, dict[str, Any] | None]:
    """Method, path and body."""
    name, question, run_id = request.name, request.question, request.run_id
    if request.kind == "ask":
        return "POST", "/chat/stream", {"client_name": name, "message": question}
    if request.kind == "regenerate":
        return "POST", "/conversations/regenerate", {"client_name": name, "run_id": run_id}
    if request.kind == "edit":
        return "POST", "/conversations/edit", {"client_name": name, "run_id": run_id, "input": question}
    if request.kind == "messages":
        return "GET", f"/conversations/messages?limit=2&client_name={quote(name)}", None
    return "DELETE" if request.kind == "stop" else "GET", f"/chat/stream/{run_id}", None


def _read_stream(response: http.client.HTTPResponse, request: Request) -> None:
    text = ""
    for frame in read_frames(response):
        if request.kind == "leave":
            return
        if frame["type"] == "CHUNK":
            text += frame["content"]
        if frame["type"] == "ERROR":
            request.error = frame["code"]
            return
        if frame["type"] in ("END", "STOPPED"):
            whole = frame["full_content"]
            # A run that another process stops keeps less than its readers have seen.
            is_whole = text == whole or frame["type"] == "STOPPED"
            request.end, request.text = frame["type"], whole if is_whole else f"{text!r} in chunks, {whole!r}"
            return


class ReplacingThread(threading.Thread):
    """A thread that asks a question until it is answered, has the last turn replaced a few times, and so on."""

    def __init__(self, recorder: Recorder, name: str, number: int, seed: int) -> None:
        super().__init__(name=f"replacer {number} of {name}", daemon=True)
        self._recorder = recorder
        self._is_over = recorder.client.is_over
        self._conversation = name
        self._number = number
        self._chance = random.Random(f"{seed} {name} {number}")
        self._count = 0

    def run(self) -> None:
        while not self._is_over.is_set():
            question = self._word_question("Question")
            while not self._is_over.is_set() and not self._create(self._chance, "ask", question=question):
                time.sleep(self._chance.uniform(0.0, 0.1))
            for _ in range(self._chance.randint(1, 4)):
                self._replace_last_turn()

    def _word_question(self, word: str) -> str:
        self._count += 1
        return f"{word} {self._count} of {self._number} in {self._conversation}: 왜?"

    def _replace_last_turn(self) -> None:
        chance = self._chance
        messages = self._recorder.send(chance, "messages", self._conversation)
        if messages is None or not messages.shown:
            time.sleep(chance.uniform(0.0, 0.05))
            return
        kind: Kind = chance.choice(("regenerate", "regenerate", "edit"))
        question = self._word_question("Other words") if kind == "edit" else None
        run_id = messages.shown[-1].run_id if chance.random() < 0.7 else None
        threads = [
            threading.Thread(
                target=self._create,
                args=(random.Random(chance.random()), kind),
                kwargs={"question": question, "run_id": run_id},
                daemon=True,
            )
            for _ in range(chance.choice((1, 1, 1, 2)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _create(self, chance: random.Random, kind: Kind, **fields: str | None) -> bool:
        """Have a run created, and then read it, stop it or leave. Returns whether its text, or a part of it, came."""
        created = self._recorder.send(chance, kind, self._conversation, **fields)
        if created is None or created.told is None:
            return False
        action: Kind = chance.choice(("read", "read", "read", "stop", "leave"))
        if action != "read":
            time.sleep(chance.uniform(0.0, 0.3))
            self._recorder.send(chance, action, self._conversation, run_id=created.told)
        if action == "leave":
            return False
        read = self._recorder.read(chance, self._conversation, created.told)
        return read is not None and read.end is not None

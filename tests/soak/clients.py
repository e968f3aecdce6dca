"""The clients: each asks at its own times, and repeats a question until it is answered."""

import http.client
import json
import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any

PATIENCE_SECONDS = 60.0
"""How long an answer may take. A lease may have to pass first."""

ATTEMPTS = 40


@dataclass
class Turn:
    question: str
    is_disturbed: bool
    """Whether it was asked while workers were being killed and somebody flooded."""
    seconds: float = 0.0
    """From the first attempt to the answer."""
    answer: str | None = None
    failures: list[str] = field(default_factory=list)
    """What each attempt before the answer ended with: `broken`, or status and code."""


class Client(threading.Thread):
    """Asks one question in each interval, at a random time of it."""

    def __init__(self, number: int, port: int, key: str, begin: float, interval: float, turns: tuple[int, int]) -> None:
        """`begin` is on the monotonic clock; `turns` are how many are asked undisturbed, and then disturbed."""
        super().__init__(name=f"client {number}", daemon=True)
        self.client_name = f"client {number}"
        self.key = key
        self.turns: list[Turn] = []
        self._port = port
        self._begin = begin
        self._interval = interval
        self._counts = turns
        self._chance = random.Random(number)

    def run(self) -> None:
        for number in range(sum(self._counts)):
            at = self._begin + self._interval * (number + self._chance.random())
            time.sleep(max(0.0, at - time.monotonic()))
            turn = Turn(f"Question {number} of {self.client_name}", number >= self._counts[0])
            self.turns.append(turn)
            self._ask_until_answered(turn)

    def read_history(self) -> list[tuple[str, str]]:
        """The turns that the server has."""
        _, messages = send(self._port, self.key, "GET", f"/history?client_name={self.client_name.replace(' ', '+')}")
        contents = [each["content"] for each in messages]
        assert [each["role"] for each in messages] == ["user", "assistant"] * (len(contents) // 2)
        return list(zip(contents[::2], contents[1::2], strict=True))

    def _ask_until_answered(self, turn: Turn) -> None:
        body = {"client_name": self.client_name, "input": turn.question, "request_id": turn.question}
        is_streamed = self._chance.random() < 0.5
        began = time.monotonic()
        for _ in range(ATTEMPTS):
            try:
                status, answer = send(self._port, self.key, "POST", "/query", body, is_streamed)
            except (OSError, http.client.HTTPException, ValueError):
                turn.failures.append("broken")
            else:
                turn.answer = answer.get("response")
                if turn.answer is not None:
                    break
                turn.failures.append(f"{status} {answer.get('code')}")
            time.sleep(0.25)
        turn.seconds = time.monotonic() - began


def send(port: int, key: str, method: str, path: str, body: Any = None, is_streamed: bool = False) -> tuple[int, Any]:
    """Status and JSON of one request; the last event of a stream, with its `full_content` also as `response`.

    Raises OSError, HTTPException or ValueError if the answer does not arrive whole.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    headers["Accept"] = "text/event-stream" if is_streamed else "application/json"
    try:
        connection.request(method, path, None if body is None else json.dumps(body).encode(), headers)
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    if response.headers.get_content_type() != "text/event-stream":
        return response.status, json.loads(content)
    frames = [json.loads(line[5:]) for line in content.splitlines() if line.startswith(b"data:")]
    if not frames or frames[-1]["type"] not in ("END", "ERROR"):
        raise ConnectionError
    last = frames[-1]
    if last["type"] == "END":
        assert last["full_content"] == "".join(each["content"] for each in frames if each["type"] == "CHUNK")
        last["response"] = last["full_content"]
    return response.status, last

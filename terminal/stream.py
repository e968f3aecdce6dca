"""Reads a reply while it is written, and goes on where it was if the connection breaks."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from terminal.client import Client, Refused, ServerDown

RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 5.0, 5.0, 5.0, 5.0)
"""The pauses before each attempt to find the line again; without a character for all of them, the reply is lost."""
LOST = "The connection was lost and did not come back. The reply is finished without you; /open shows it."


@dataclass(frozen=True, slots=True)
class Delta:
    """The next characters of the text."""

    text: str


@dataclass(frozen=True, slots=True)
class LineLost:
    """The connection broke; it is tried again after `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class End:
    """How the reply ended: completed, cancelled, failed, or interrupted by the server's end."""

    status: str
    error: str = ""
    code: str = ""
    usage: dict[str, int] | None = None


Event = Delta | LineLost | End

_STATUS = {"END": "completed", "STOPPED": "cancelled", "ERROR": "failed"}
_INTERRUPTED = {"run_interrupted", "upstream_cut", "run_expired"}


def follow(client: Client, stream_id: str, wait: Callable[[float], object] = time.sleep) -> Iterator[Event]:
    """The events of a stream, from its first character to its end. Every character comes once.

    `wait` takes the seconds before the line is tried again.
    """
    position, attempts = 0, 0
    while True:
        try:
            with client.stream(f"/chat/stream/{stream_id}", {"Last-Event-ID": str(position)}) as response:
                for offset, data in _frames(response):
                    if data["type"] == "CHUNK":
                        position, attempts = offset, 0
                        yield Delta(data["content"])
                    elif data["type"] in _STATUS:
                        yield _end(data)
                        return
        except Refused as error:
            if error.status < 500:
                yield End("failed", error.sentence, error.code)
                return
        except (ServerDown, httpx.HTTPError):
            pass
        if attempts == len(RETRY_SECONDS):
            yield End("interrupted", LOST, "connection_lost")
            return
        yield LineLost(RETRY_SECONDS[attempts])
        wait(RETRY_SECONDS[attempts])
        attempts += 1


def _frames(response: httpx.Response) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each event's id, which is the number of characters so far, and its data."""
    rest = b""
    for received in response.iter_bytes():
        # At newlines only: a reply may hold other characters at which `iter_lines` breaks lines.
        *frames, rest = (rest + received).split(b"\n\n")
        for frame in frames:
            fields = dict(line.split(b": ", 1) for line in frame.split(b"\n") if b": " in line)
            if b"data" in fields:  # Else it is a comment, which says that the reply is still being written.
                yield int(fields.get(b"id", b"0")), json.loads(fields[b"data"])


def _end(data: dict[str, Any]) -> End:
    status, code = _STATUS[data["type"]], data.get("code", "")
    if code in _INTERRUPTED:
        status = "interrupted"
    return End(status, data.get("error", ""), code, data.get("usage"))

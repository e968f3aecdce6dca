"""Reads a reply while it is written. When the line breaks, it goes on where it was: no character is lost or read twice.

pip install httpx
python examples/streaming.py "Tell me a story."
BASE_URL=https://chat.example.com python examples/streaming.py

CONVERSATION_KEY is the key of a protected server.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx

BASE_URL = os.environ.get("BASE_URL", "http://localhost:10000")
KEY = os.environ.get("CONVERSATION_KEY")
ENDS = ("END", "STOPPED", "ERROR")


def ask(client: httpx.Client, message: str) -> Iterator[dict[str, Any]]:
    """The events of a reply: CHUNKs with its pieces, then one of END, STOPPED and ERROR."""
    started = client.post("/chat/stream", json={"message": message}).raise_for_status().json()
    position = 0
    while True:
        try:
            headers = {"Last-Event-ID": str(position)}
            with client.stream("GET", f"/chat/stream/{started['stream_id']}", headers=headers) as response:
                response.raise_for_status()
                for number, event in events(response):
                    position = number
                    yield event
                    if event["type"] in ENDS:
                        return
        except httpx.TransportError as problem:
            print(f"[{type(problem).__name__} after {position} characters]", file=sys.stderr)
        time.sleep(0.2)


def events(response: httpx.Response) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each event's id, which is the number of characters so far, and its data."""
    rest = b""
    for received in response.iter_bytes():
        # At newlines only: a reply may hold other characters at which `iter_lines` breaks lines.
        *frames, rest = (rest + received).split(b"\n\n")
        for frame in frames:
            fields = dict(line.split(b": ", 1) for line in frame.split(b"\n"))
            if b"data" in fields:  # Else it is a comment, which says that the reply is still being written.
                yield int(fields[b"id"]), json.loads(fields[b"data"])


def main() -> None:
    headers = {"Authorization": f"Bearer {KEY}"} if KEY else {}
    with httpx.Client(base_url=BASE_URL, headers=headers, timeout=60) as client:
        for event in ask(client, sys.argv[1] if len(sys.argv) > 1 else "Tell me a story."):
            if event["type"] == "CHUNK":
                print(event["content"], end="", flush=True)
            elif event["type"] == "END":
                print()
            elif event["type"] == "ERROR":
                sys.exit(f"\n{event['error']}")


if __name__ == "__main__":
    main()

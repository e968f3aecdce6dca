"""A stub of an OpenAI-compatible server, fast enough to stay out of the way.

`python bench/stub_upstream.py PORT` answers `POST …/chat/completions` after `delay` seconds, plain or as a stream of
`chunks` pieces spread evenly over `stream_seconds`; `GET /counts` tells how many calls were made, and
`POST /behaviour` with `{"delay": …, "stream_seconds": …, "chunks": …}` changes the pace and sets the count to zero.
"""

import asyncio
import json
import sys
from functools import cache
from typing import Any

REPLY = "A reply of a usual length, so that a turn weighs what a turn weighs: about a hundred and twenty characters."
MODELS = {"object": "list", "data": [{"id": "stub", "object": "model", "created": 1, "owned_by": "bench"}]}
USAGE = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
COMPLETION = {
    "id": "chatcmpl-stub",
    "object": "chat.completion",
    "created": 1,
    "model": "stub",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": REPLY, "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": USAGE,
}

behaviour: dict[str, Any] = {"delay": 0.0, "stream_seconds": 2.0, "chunks": 20}
counts = {"calls": 0}


def answer(body: bytes, kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


PLAIN = answer(json.dumps(COMPLETION).encode())


class Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.received = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, rest = self.received.partition(b"\r\n\r\n")
        if not found:
            return
        length = 0
        for line in head.split(b"\r\n"):
            if line[:15].lower() == b"content-length:":
                length = int(line[15:])
        if len(rest) < length:
            return
        self.received = rest[length:]
        self.serve(head, rest[:length])

    def serve(self, head: bytes, body: bytes) -> None:
        line = head.split(b"\r\n", 1)[0]
        if b"/chat/completions" in line:
            counts["calls"] += 1
            if b'"stream":true' in body or b'"stream": true' in body:
                self.stream()
            elif behaviour["delay"]:
                asyncio.get_running_loop().call_later(behaviour["delay"], self.transport.write, PLAIN)
            else:
                self.transport.write(PLAIN)
        elif b"/counts" in line:
            self.transport.write(answer(json.dumps(counts).encode()))
        elif b"/behaviour" in line:
            behaviour.update(json.loads(body))
            counts["calls"] = 0
            self.transport.write(answer(b"{}"))
        else:
            self.transport.write(answer(json.dumps(MODELS).encode()))

    def stream(self) -> None:
        self.transport.write(STREAM)
        loop, chunks = asyncio.get_running_loop(), behaviour["chunks"]
        began = loop.time()
        for n in range(chunks):
            last = END if n == chunks - 1 else b""
            loop.call_at(began + behaviour["stream_seconds"] * (n + 1) / chunks, self.transport.write, piece(n) + last)


def frame(fields: dict[str, Any]) -> bytes:
    whole = {"id": "chatcmpl-stub", "object": "chat.completion.chunk", "created": 1, "model": "stub", **fields}
    return chunk(b"data: " + json.dumps(whole).encode() + b"\n\n")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@cache
def piece(n: int) -> bytes:
    return frame({"choices": [{"index": 0, "delta": {"content": f"piece {n} "}, "finish_reason": None}]})


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = (
    frame({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    + frame({"choices": [], "usage": USAGE})
    + chunk(b"data: [DONE]\n\n")
    + chunk(b"")
)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))

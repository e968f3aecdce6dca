"""A stub of an OpenAI-compatible server, so fast that it does not limit what is measured.

`python bench/stub_upstream.py PORT` answers `POST …/chat/completions` after `delay` seconds, plain or as a stream of
`chunks` chunks spread evenly over `stream_seconds`. `GET /counts` returns how many calls were made.
`POST /behaviour` with `{"delay": …, "stream_seconds": …, "chunks": …}` sets these and resets the count.
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


def build_response(body: bytes, kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


PLAIN_RESPONSE = build_response(json.dumps(COMPLETION).encode())


class Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.received = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, separator, rest = self.received.partition(b"\r\n\r\n")
        if not separator:
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
                self.send_stream()
            elif behaviour["delay"]:
                asyncio.get_running_loop().call_later(behaviour["delay"], self.transport.write, PLAIN_RESPONSE)
            else:
                self.transport.write(PLAIN_RESPONSE)
        elif b"/counts" in line:
            self.transport.write(build_response(json.dumps(counts).encode()))
        elif b"/behaviour" in line:
            behaviour.update(json.loads(body))
            counts["calls"] = 0
            self.transport.write(build_response(b"{}"))
        else:
            self.transport.write(build_response(json.dumps(MODELS).encode()))

    def send_stream(self) -> None:
        self.transport.write(STREAM)
        loop, chunks = asyncio.get_running_loop(), behaviour["chunks"]
        start = loop.time()
        for n in range(chunks):
            last = END if n == chunks - 1 else b""
            loop.call_at(
                start + behaviour["stream_seconds"] * (n + 1) / chunks, self.transport.write, build_piece(n) + last
            )


def build_event(fields: dict[str, Any]) -> bytes:
    body = {"id": "chatcmpl-stub", "object": "chat.completion.chunk", "created": 1, "model": "stub", **fields}
    return build_chunk(b"data: " + json.dumps(body).encode() + b"\n\n")


def build_chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@cache
def build_piece(n: int) -> bytes:
    return build_event({"choices": [{"index": 0, "delta": {"content": f"piece {n} "}, "finish_reason": None}]})


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = (
    build_event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    + build_event({"choices": [], "usage": USAGE})
    + build_chunk(b"data: [DONE]\n\n")
    + build_chunk(b"")
)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))

"""Load from a process of its own: `python -m bench.load '{"port": …, "concurrency": …, "requests": …}'`.

Keeps `concurrency` connections busy until `requests` were answered, each with an input and a client of its own, and
prints one line of JSON: requests a second, the latency's median and 99th percentile in milliseconds, how many answers
were whole, and how many were not. With `"stream": true` each reply is read as an event stream to its END. With
`"client": "name"` all go to one conversation.
"""

import asyncio
import json
import statistics
import sys
import time
from typing import Any


class Worker:
    def __init__(self, plan: dict[str, Any], number: int) -> None:
        self.plan = plan
        self.number = number
        self.times: list[float] = []
        self.faults = 0

    async def run(self, share: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.plan["port"])
        for n in range(share):
            began = time.perf_counter()
            writer.write(self.request(n))
            good = await (self.read_stream(reader) if self.plan.get("stream") else self.read_reply(reader))
            self.times.append(time.perf_counter() - began)
            self.faults += not good
        writer.close()

    def request(self, n: int) -> bytes:
        tag = f"{self.plan.get('tag', '')}-{self.number}-{n}"
        body = json.dumps(
            {"input": f"question {tag}", "client_name": self.plan.get("client", f"client {tag}")}
        ).encode()
        accept = "text/event-stream" if self.plan.get("stream") else "application/json"
        head = (
            f"POST /query HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nAccept: {accept}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    async def read_reply(self, reader: asyncio.StreamReader) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        return head.startswith(b"HTTP/1.1 200") and b'"response"' in body

    async def read_stream(self, reader: asyncio.StreamReader) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        has_end = False
        while True:
            size = int(await reader.readline(), 16)
            data = await reader.readexactly(size + 2)
            has_end = has_end or b'"END"' in data or b"[DONE]" in data
            if not size:
                return has_end and head.startswith(b"HTTP/1.1 200")


async def main(plan: dict[str, Any]) -> dict[str, Any]:
    share, rest = divmod(plan["requests"], plan["concurrency"])
    workers = [Worker(plan, number) for number in range(plan["concurrency"])]
    began = time.perf_counter()
    await asyncio.gather(*(each.run(share + (each.number < rest)) for each in workers))
    seconds = time.perf_counter() - began
    times = sorted(time for each in workers for time in each.times)
    return {
        "per_second": len(times) / seconds,
        "p50_ms": statistics.median(times) * 1000,
        "p99_ms": times[int(len(times) * 0.99)] * 1000,
        "answered": len(times) - sum(each.faults for each in workers),
        "faults": sum(each.faults for each in workers),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(json.loads(sys.argv[1])))))

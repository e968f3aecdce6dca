"""A load generator: `python -m bench.load '{"port": …, "concurrency": …, "requests": …}'`.

Keeps `concurrency` connections busy until `requests` are answered, each with its own question and client. Prints one
line of JSON: requests a second, the median and the 99th percentile of the latency in milliseconds, and how many
responses were complete and how many were not. With `"stream": true` each reply is read as an event stream up to its
END. With `"client": "name"` all questions go to one conversation. With `"key": "ck_…"` each request carries it. With
`"completions": true` the requests are those of OpenAI's chat completions, for a proxy.
"""

import json
import selectors
import socket
import statistics
import sys
import time
from typing import Any


class Caller:
    """One connection, which sends its share of the questions one after another."""

    def __init__(self, plan: dict[str, Any], number: int, share: int) -> None:
        self.plan = plan
        self.number = number
        self.share = share
        self.times: list[float] = []
        self.complete = 0
        self.received = bytearray()
        self.start = 0.0
        self.socket = socket.create_connection(("127.0.0.1", plan["port"]))

    def ask(self) -> None:
        question = self.build_request(len(self.times))
        self.received.clear()
        self.start = time.perf_counter()
        self.socket.sendall(question)

    def receive(self) -> None:
        """Receive what has arrived. If the response is complete, send the next question."""
        data = self.socket.recv(65_536)
        if not data:
            raise ConnectionResetError
        self.received += data
        is_complete = self.check_stream() if self.plan.get("stream") else self.check_reply()
        if is_complete is None:
            return
        self.times.append(time.perf_counter() - self.start)
        self.complete += is_complete
        if len(self.times) < self.share:
            self.ask()
        else:
            self.socket.close()

    def build_request(self, n: int) -> bytes:
        tag = f"{self.plan.get('tag', '')}-{self.number}-{n}"
        path, fields = "/query", {"input": f"question {tag}", "client_name": self.plan.get("client", f"client {tag}")}
        if self.plan.get("completions"):
            messages = [{"role": "user", "content": f"question {tag}"}]
            path, fields = "/v1/chat/completions", {"model": "stub", "messages": messages}
        body = json.dumps(fields).encode()
        accept = "text/event-stream" if self.plan.get("stream") else "application/json"
        key = f"Authorization: Bearer {self.plan['key']}\r\n" if "key" in self.plan else ""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nAccept: {accept}\r\n"
            f"{key}Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def check_reply(self) -> bool | None:
        """Whether the response is complete and successful; None while more is to come."""
        head, has_head, body = self.received.partition(b"\r\n\r\n")
        if not has_head or len(body) < int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]):
            return None
        return head.startswith(b"HTTP/1.1 200") and (b'"response"' in body or b'"choices"' in body)

    def check_stream(self) -> bool | None:
        """Whether the response is complete and successful; None while more is to come."""
        if not self.received.endswith(b"\r\n0\r\n\r\n"):
            return None
        has_end = b'"END"' in self.received or b"[DONE]" in self.received
        return has_end and self.received.startswith(b"HTTP/1.1 200")


def run(plan: dict[str, Any]) -> dict[str, Any]:
    share, rest = divmod(plan["requests"], plan["concurrency"])
    callers = [Caller(plan, number, share + (number < rest)) for number in range(plan["concurrency"])]
    start = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        for caller in callers:
            selector.register(caller.socket, selectors.EVENT_READ, caller)
            caller.ask()
        while selector.get_map():
            for key, _ in selector.select():
                try:
                    key.data.receive()
                except ConnectionError:  # Its remaining questions count as faults.
                    key.data.socket.close()
                if key.data.socket.fileno() < 0:
                    selector.unregister(key.fileobj)
    seconds = time.perf_counter() - start
    times = sorted(time for caller in callers for time in caller.times)
    if not times:
        raise SystemExit("nothing was answered")
    answered = sum(caller.complete for caller in callers)
    return {
        "per_second": len(times) / seconds,
        "p50_ms": statistics.median(times) * 1000,
        "p99_ms": times[int(len(times) * 0.99)] * 1000,
        "answered": answered,
        "faults": plan["requests"] - answered,
    }


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))

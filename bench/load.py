"""Load from a process of its own: `python -m bench.load '{"port": …, "concurrency": …, "requests": …}'`.

Keeps `concurrency` connections busy until `requests` were answered, each with an input and a client of its own, and
prints one line of JSON: requests a second, the latency's median and 99th percentile in milliseconds, how many answers
were whole, and how many were not. With `"stream": true` each reply is read as an event stream to its END. With
`"client": "name"` all go to one conversation. With `"completions": true` the server is a proxy, which is
asked as OpenAI would be.
"""

import json
import selectors
import socket
import statistics
import sys
import time
from typing import Any


class Caller:
    """One connection, which asks its share of the questions one after another."""

    def __init__(self, plan: dict[str, Any], number: int, share: int) -> None:
        self.plan = plan
        self.number = number
        self.share = share
        self.times: list[float] = []
        self.good = 0
        self.received = bytearray()
        self.began = 0.0
        self.socket = socket.create_connection(("127.0.0.1", plan["port"]))

    def ask(self) -> None:
        question = self.request(len(self.times))
        self.received.clear()
        self.began = time.perf_counter()
        self.socket.sendall(question)

    def hear(self) -> None:
        """Take in what has come, and ask the next question where that was the answer's end."""
        data = self.socket.recv(65_536)
        if not data:
            raise ConnectionResetError
        self.received += data
        is_good = self.is_good_stream() if self.plan.get("stream") else self.is_good_reply()
        if is_good is None:
            return
        self.times.append(time.perf_counter() - self.began)
        self.good += is_good
        if len(self.times) < self.share:
            self.ask()
        else:
            self.socket.close()

    def request(self, n: int) -> bytes:
        tag = f"{self.plan.get('tag', '')}-{self.number}-{n}"
        path, asked = "/query", {"input": f"question {tag}", "client_name": self.plan.get("client", f"client {tag}")}
        if self.plan.get("completions"):
            messages = [{"role": "user", "content": f"question {tag}"}]
            path, asked = "/v1/chat/completions", {"model": "stub", "messages": messages}
        body = json.dumps(asked).encode()
        accept = "text/event-stream" if self.plan.get("stream") else "application/json"
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nAccept: {accept}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def is_good_reply(self) -> bool | None:
        """None while more is to come."""
        head, has_head, body = self.received.partition(b"\r\n\r\n")
        if not has_head or len(body) < int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]):
            return None
        return head.startswith(b"HTTP/1.1 200") and (b'"response"' in body or b'"choices"' in body)

    def is_good_stream(self) -> bool | None:
        """None while more is to come."""
        if not self.received.endswith(b"\r\n0\r\n\r\n"):
            return None
        has_end = b'"END"' in self.received or b"[DONE]" in self.received
        return has_end and self.received.startswith(b"HTTP/1.1 200")


def main(plan: dict[str, Any]) -> dict[str, Any]:
    share, rest = divmod(plan["requests"], plan["concurrency"])
    callers = [Caller(plan, number, share + (number < rest)) for number in range(plan["concurrency"])]
    began = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        for caller in callers:
            selector.register(caller.socket, selectors.EVENT_READ, caller)
            caller.ask()
        while selector.get_map():
            for key, _ in selector.select():
                try:
                    key.data.hear()
                except ConnectionError:  # What it was still to ask remains without an answer.
                    key.data.socket.close()
                if key.data.socket.fileno() < 0:
                    selector.unregister(key.fileobj)
    seconds = time.perf_counter() - began
    times = sorted(time for caller in callers for time in caller.times)
    if not times:
        raise SystemExit("nothing was answered")
    answered = sum(caller.good for caller in callers)
    return {
        "per_second": len(times) / seconds,
        "p50_ms": statistics.median(times) * 1000,
        "p99_ms": times[int(len(times) * 0.99)] * 1000,
        "answered": answered,
        "faults": plan["requests"] - answered,
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))

"""Somebody hostile, in a process of its own: `python -m tests.soak.flood PORT KEY`, until its input ends.

Every connection sends one request after another as fast as it is answered: too many questions, questions in the names
of others, wrong keys, and what is no request at all. Prints one line of JSON: how often each status came, and answers
that nobody may get.
"""

import http.client
import json
import random
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable

CONNECTIONS = 16
HALF_REQUESTS = 64
"""How many requests of which only the half was sent are held open."""


class Flood:
    def __init__(self, port: int, key: str) -> None:
        self.statuses: Counter[str] = Counter()
        self.leaks: list[str] = []
        self.is_over = threading.Event()
        self._port = port
        self._key = key
        self._halves: list[socket.socket] = []

    def run(self, seed: int) -> None:
        chance = random.Random(seed)
        shapes: list[Callable[[random.Random], None]] = [
            self._ask_too_much,
            self._ask_too_much,
            self._read_of_others,
            self._guess_a_key,
            self._send_half,
            self._send_nonsense,
        ]
        while not self.is_over.is_set():
            try:
                chance.choice(shapes)(chance)
            except (OSError, http.client.HTTPException):
                self.statuses["broken"] += 1  # The worker was killed, or the server hung up.

    def _ask_too_much(self, chance: random.Random) -> None:
        name = f"hostile {chance.random()}"
        self._send("POST", "/query", self._key, {"client_name": name, "input": "?"}, Prefer="wait=0")

    def _read_of_others(self, chance: random.Random) -> None:
        name = f"client+{chance.randrange(1000)}"
        path = chance.choice(["/history", "/conversations/messages", "/conversations/export", "/conversations/details"])
        self._send("GET", f"{path}?client_name={name}", self._key)

    def _guess_a_key(self, chance: random.Random) -> None:
        self._send("POST", "/query", f"ck_{chance.getrandbits(256):x}", {"client_name": "client 1", "input": "?"})

    def _send_half(self, chance: random.Random) -> None:
        if len(self._halves) >= HALF_REQUESTS:
            self._halves.pop(0).close()
        half = socket.create_connection(("127.0.0.1", self._port), 10)
        half.sendall(b"POST /query HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n"[: chance.randint(5, 60)])
        self._halves.append(half)

    def _send_nonsense(self, chance: random.Random) -> None:
        with socket.create_connection(("127.0.0.1", self._port), 10) as wire:
            wire.sendall(chance.randbytes(200) + b"\r\n\r\n")
            wire.shutdown(socket.SHUT_WR)
            self._note("nonsense", wire.makefile("rb").read())

    def _send(self, method: str, path: str, key: str, body: dict[str, str] | None = None, **headers: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        headers |= {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body).encode(), headers)
            response = connection.getresponse()
            self._note(str(response.status), response.read())
        finally:
            connection.close()

    def _note(self, status: str, content: bytes) -> None:
        self.statuses[status] += 1
        if b"of client " in content or b" 500 " in content[:20]:
            self.leaks.append(content.decode(errors="replace")[:200])


def main() -> None:
    flood = Flood(int(sys.argv[1]), sys.argv[2])
    threads = [threading.Thread(target=flood.run, args=(number,)) for number in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    flood.is_over.set()
    for thread in threads:
        thread.join()
    print(json.dumps({"statuses": flood.statuses, "leaks": flood.leaks[:5]}))


if __name__ == "__main__":
    main()

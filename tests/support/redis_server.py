"""Redis server processes, each on a free port and in a temporary folder."""

import atexit
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from redis import Redis, exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.process import eventually, free_port

PROGRAM = shutil.which("redis-server") or shutil.which("valkey-server")

needs_redis = pytest.mark.skipif(
    PROGRAM is None and os.environ.get("CI") != "true",
    reason="there is no redis-server here; `make test` installs it where it may, or: apt-get install redis-server",
)


class RedisServer:
    """Saves nothing to disk, unless `options` such as `appendonly="yes"` say otherwise."""

    def __init__(self, **options: str) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.port = free_port()
        self.options = {"bind": "127.0.0.1", "dir": self.folder.name, "save": "", "appendonly": "no", **options}
        self._client = Redis(
            port=self.port, password=options.get("requirepass"), decode_responses=True, retry=Retry(NoBackoff(), 0)
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return Path(self.folder.name) / "log"

    def ask(self, *command: str | int) -> Any:
        """The response to a command."""
        client: Any = self._client  # The method has no types.
        return client.execute_command(*command)

    def all_keys(self) -> list[str]:
        return sorted(self.ask("KEYS", "*"))

    def start(self) -> None:
        """Start it, or start it again on the same port with the same data."""
        assert PROGRAM is not None, "install redis-server; the tests bring no program of their own"
        options = [part for name, value in self.options.items() for part in (f"--{name.replace('_', '-')}", value)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([PROGRAM, "--port", str(self.port), *options], stdout=log, stderr=log)
        assert eventually(self._answers)

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self.send_signal(number)
            self._process.wait(30)
            self._process = None

    def send_signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        try:
            self.ask("PING")
        except exceptions.ConnectionError:
            return False
        return True


@contextmanager
def redis_server(**options: str) -> Iterator[RedisServer]:
    server = RedisServer(**options)
    try:
        yield server
    finally:
        server.send_signal(signal.SIGCONT)
        server.stop(signal.SIGKILL)
        server.folder.cleanup()


@cache
def shared_redis() -> RedisServer:
    """One Redis for all tests that need no own one. Each test empties it first."""
    server = redis_server()
    atexit.register(server.__exit__, None, None, None)
    return server.__enter__()


@cache
def shared_cluster() -> list[RedisServer]:
    """The nodes of a Cluster of three primaries with a third of the slots each."""
    servers = [
        redis_server(cluster_enabled="yes", cluster_port=str(free_port()), cluster_node_timeout="1000")
        for _ in range(3)
    ]
    for each in servers:
        atexit.register(each.__exit__, None, None, None)
    nodes = [each.__enter__() for each in servers]
    for index, node in enumerate(nodes):
        node.ask("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
        node.ask("CLUSTER", "ADDSLOTSRANGE", 16384 * index // 3, 16384 * (index + 1) // 3 - 1)
    for node in nodes:
        for other in nodes:
            node.ask("CLUSTER", "MEET", "127.0.0.1", other.port, other.options["cluster_port"])
    assert eventually(lambda: all("cluster_state:ok" in node.ask("CLUSTER", "INFO") for node in nodes))
    return nodes


class LosingProxy:
    """A proxy before a Redis. It forwards every request, and drops the responses to the requests in `lost`."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.requests = 0
        """How many requests came since `count`."""
        self.lost: set[int] = set()
        """The requests whose responses are dropped, counted from 0."""
        self._is_counting = False
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def count(self, *lost: int) -> None:
        self.requests, self.lost, self._is_counting = 0, set(lost), True

    def stop_counting(self) -> None:
        self._is_counting = False

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        """Assumes that a client sends each request in one piece, and the next one after the response."""
        with client, socket.create_connection(("127.0.0.1", self._target)) as server, suppress(OSError):
            is_lost = False
            while True:
                ready, _, _ = select.select([client, server], [], [])
                if server in ready:
                    answer = server.recv(1 << 20)
                    if is_lost or not answer:
                        return
                    client.sendall(answer)
                elif request := client.recv(1 << 20):
                    with self._lock:
                        is_lost = self._is_counting and self.requests in self.lost
                        self.requests += self._is_counting
                    server.sendall(request)
                else:
                    return

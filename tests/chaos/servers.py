"""Servers that are killed and started again."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tests.support.process import SETTINGS, ServerProcess, await_answer, eventually, free_port, start_process


@dataclass(frozen=True)
class Life:
    """A server from its start to its end. No two have the same port, so that nobody takes one for another."""

    name: str
    """The server's, and how often it was started, such as `a.3`."""
    port: int


class Server:
    """`python run.py` in a process group of its own, each time on another port and with another upstream's address."""

    def __init__(self, name: str, folder: Path, upstream_url: Callable[[str], str], **env: str) -> None:
        """`upstream_url` gives the address that a life, by its name, finds the upstream at."""
        self.life: Life | None = None
        """Of the server as long as it is up."""
        self._name = name
        self._folder = folder
        self._upstream_url = upstream_url
        self._env = {**dict.fromkeys(SETTINGS, ""), **env}
        self._lives: list[Life] = []
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self, workers: int) -> None:
        life = Life(f"{self._name}.{len(self._lives) + 1}", _port())
        self._lives.append(life)
        env = {
            "PORT": str(life.port),
            "OPENAI_BASE_URL": self._upstream_url(life.name),
            "WEB_CONCURRENCY": str(workers),
        }
        self._process = start_process([sys.executable, "run.py"], self._log(life), **self._env | env)

    def await_answer(self) -> None:
        assert self._process is not None
        life = self._lives[-1]
        await_answer(ServerProcess(life.port, self._process, self._log(life)))
        self.life = life

    def kill(self) -> None:
        """All of its processes, at once and at this instant."""
        self.life = None
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def bury(self) -> None:
        """Until nothing is left of it: each of its processes has the port open as long as it can do anything."""
        if self._process is not None:
            self._process.wait(10)
            self._process = None
            assert eventually(lambda: _is_free(self._lives[-1].port))

    def history(self, name: str) -> list[tuple[str, str]]:
        """Role and content of each message, as `GET /history` shows them."""
        address = f"http://127.0.0.1:{self._lives[-1].port}/history?client_name={quote(name)}"
        with urllib.request.urlopen(address) as response:
            return [(each["role"], each["content"]) for each in json.load(response)]

    def failures_without_a_name(self) -> list[Path]:
        """The logs that tell of any."""
        logs = map(self._log, self._lives)
        return [log for log in logs if "Traceback" in log.read_text(errors="replace")]

    def _log(self, life: Life) -> Path:
        return self._folder / f"{life.name}.log"


_ports: set[int] = set()
"""All that any life ever had."""


def _port() -> int:
    while (port := free_port()) in _ports:
        pass
    _ports.add(port)
    return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True

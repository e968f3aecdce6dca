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
    """A server process from start to end. Each has a port of its own, so that no request reaches another life."""

    name: str
    """The name of the server and the number of its starts, such as `a.3`."""
    port: int


class Server:
    """`python run.py` in a process group of its own, each time on another port and with another upstream's address."""

    def __init__(self, name: str, folder: Path, upstream_url: Callable[[str], str], **env: str) -> None:
        """`upstream_url` returns the upstream's base URL for a life, by its name."""
        self.life: Life | None = None
        """The current life; None while the server is not up."""
        self._name = name
        self._folder = folder
        self._upstream_url = upstream_url
        self._env = {**dict.fromkeys(SETTINGS, ""), **env}
        self._lives: list[Life] = []
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self, workers: int) -> None:
        life = Life(f"{self._name}.{len(self._lives) + 1}", _choose_port())
        self._lives.append(life)
        env = {
            "PORT": str(life.port),
            "OPENAI_BASE_URL": self._upstream_url(life.name),
            "WEB_CONCURRENCY": str(workers),
        }
        self._process = start_process([sys.executable, "run.py"], self._log_path(life), **self._env | env)

    def await_answer(self) -> None:
        assert self._process is not None
        life = self._lives[-1]
        await_answer(ServerProcess(life.port, self._process, self._log_path(life)))
        self.life = life

    def kill(self) -> None:
        """Kill all of its processes at once."""
        self.life = None
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def await_exit(self) -> None:
        """Wait until all its processes are gone. Each holds the port open while it can still act."""
        if self._process is not None:
            self._process.wait(10)
            self._process = None
            assert eventually(lambda: _is_free(self._lives[-1].port))

    def history(self, name: str) -> list[tuple[str, str]]:
        """Role and content of each message, as `GET /history` shows them."""
        address = f"http://127.0.0.1:{self._lives[-1].port}/history?client_name={quote(name)}"
        with urllib.request.urlopen(address) as response:
            return [(each["role"], each["content"]) for each in json.load(response)]

    def logs_with_tracebacks(self) -> list[Path]:
        logs = map(self._log_path, self._lives)
        return [log for log in logs if "Traceback" in log.read_text(errors="replace")]

    def _log_path(self, life: Life) -> Path:
        return self._folder / f"{life.name}.log"


_ports: set[int] = set()
"""The ports of all lives so far."""


def _choose_port() -> int:
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

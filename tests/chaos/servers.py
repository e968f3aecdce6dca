"""Servers that are killed and started again."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from urllib.parse import quote

from tests.serving import OURS, Served, await_answer, eventually, free_port, started


class Server:
    """`python run.py` in a process group of its own, each time on the same port."""

    def __init__(self, name: str, folder: Path, **env: str) -> None:
        self.name = name
        self.port = free_port()
        self.is_up = threading.Event()
        self._folder = folder
        self._env = {**dict.fromkeys(OURS, ""), "PORT": str(self.port), **env}
        self._starts = 0
        self._log = folder / f"{name}.0.log"
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self, workers: int) -> None:
        self._starts += 1
        self._log = self._folder / f"{self.name}.{self._starts}.log"
        env = {**self._env, "WEB_CONCURRENCY": str(workers)}
        self._process = started([sys.executable, "run.py"], self._log, **env)

    def await_answer(self) -> None:
        assert self._process is not None
        await_answer(Served(self.port, self._process, self._log))
        self.is_up.set()

    def kill(self) -> None:
        """All of its processes, at once and at this instant."""
        self.is_up.clear()
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def bury(self) -> None:
        """Until nothing is left of it."""
        if self._process is not None:
            self._process.wait(10)
            self._process = None
            assert eventually(lambda: _is_free(self.port))

    def history(self, name: str) -> list[tuple[str, str]]:
        """Role and content of each message, as `GET /history` shows them."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/history?client_name={quote(name)}") as response:
            return [(each["role"], each["content"]) for each in json.load(response)]

    def failures_without_a_name(self) -> list[Path]:
        """The logs that tell of any."""
        logs = sorted(self._folder.glob(f"{self.name}.*.log"))
        return [log for log in logs if "Traceback" in log.read_text(errors="replace")]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True

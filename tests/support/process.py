"""Servers as processes of their own, started as README says."""

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from server.settings import Settings
from tests.support.openapi import hold_to_document

ROOT = Path(__file__).parent.parent.parent
OURS = {each.name.upper() for each in fields(Settings)}
OTHERS = {"GUNICORN_CMD_ARGS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHONDONTWRITEBYTECODE"}
"""What would change a server, or a make, that a test starts."""


class Served:
    """A running server."""

    def __init__(
        self, port: int, process: subprocess.Popen[bytes], log: Path, tls: ssl.SSLContext | None = None
    ) -> None:
        self.port = port
        self._tls = tls
        self.process = process
        self._log = log

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: Any = None, seconds: float = 30, **headers: str) -> tuple[int, Any]:
        """Status and JSON of one request; `headers` with underscores. Hangs up after `seconds` of silence."""
        connection = (
            http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
            if self._tls is None
            else http.client.HTTPSConnection("127.0.0.1", self.port, timeout=seconds, context=self._tls)
        )
        try:
            data = None if body is None else json.dumps(body).encode()
            sent = {"Content-Type": "application/json"} if data else {}
            sent |= {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, data, sent)
            response = connection.getresponse()
            answer = response.read()
            if response.headers.get_content_type() == "application/json":
                hold_to_document(method, path, response.status, answer)
            return response.status, json.loads(answer or b"null")
        finally:
            connection.close()

    def query(self, client_name: str, question: str, **headers: str) -> tuple[int, Any]:
        return self.ask("POST", "/query", {"client_name": client_name, "input": question}, **headers)

    def history(self, client_name: str) -> list[str]:
        """The contents of the history, oldest first."""
        _, messages = self.ask("GET", f"/history?client_name={client_name}")
        return [each["content"] for each in messages]

    def log(self) -> str:
        return self._log.read_text()

    def forget(self, *names: str) -> None:
        """Cancel what these clients ask, and clear their histories."""
        for name in names:
            assert self.ask("DELETE", f"/history?client_name={name}")[0] == 200

    def kill(self) -> None:
        """All of its processes at once, as a machine does that loses its power."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """The exit code, once the process has ended."""
        self.process.send_signal(number)
        return self.process.wait(90)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def started(command: list[str], log: Path, **env: str) -> subprocess.Popen[bytes]:
    """`command` in the project's folder, with none of our settings but `env`.

    In a process group of its own, so that all that it starts can be ended with it, and a Ctrl-C is left to the tests.
    """
    clean = {name: value for name, value in os.environ.items() if name not in OURS | OTHERS}
    with log.open("wb") as out:
        return subprocess.Popen(
            command, cwd=ROOT, env=clean | env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )


@contextmanager
def serve(*arguments: str, tls: ssl.SSLContext | None = None, **env: str) -> Iterator[Served]:
    """`python run.py` on a free port until the block ends; `arguments` are gunicorn's, `env` are settings.

    With `tls`, which trusts its certificate, the server is asked over TLS.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        # An empty variable hides what a developer's `.env` may have, and leaves the default.
        settings = {**dict.fromkeys(OURS, ""), "PORT": str(port), **env}
        process = started([sys.executable, "run.py", *arguments], log, **settings)
        served = Served(port, process, log, tls)
        try:
            await_answer(served)
            yield served
        finally:
            served.kill()


def await_answer(served: Served) -> None:
    """Until the server answers; its log is told where it does not."""
    for _ in range(600):
        assert served.process.poll() is None, served.log()
        try:
            assert served.ask("GET", "/healthz")[0] == 200
            return
        except OSError:
            time.sleep(0.05)  # A process has no event to wait for.
    raise AssertionError(served.log())


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether `condition` comes true in time. Another process has no event to wait for."""
    for _ in range(400):
        if condition():
            return True
        time.sleep(0.025)
    return False

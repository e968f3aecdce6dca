"""Server processes, started as README says."""

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
from tests.support.leaks import LEAKS
from tests.support.openapi import validate_response

ROOT = Path(__file__).parent.parent.parent
SETTINGS = {each.name.upper() for each in fields(Settings)}
FOREIGN_VARIABLES = {"GUNICORN_CMD_ARGS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHONDONTWRITEBYTECODE"}
"""Environment variables that would change a server, or a make, that a test starts."""


class ServerProcess:
    """A running server."""

    def __init__(
        self,
        port: int,
        process: subprocess.Popen[bytes],
        log: Path,
        tls: ssl.SSLContext | None = None,
        key: str = "",
    ) -> None:
        """`key` is sent with each request, unless it is empty."""
        self.port = port
        self._tls = tls
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.process = process
        self._log = log

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: Any = None, seconds: float = 30, **headers: str) -> tuple[int, Any]:
        """Status and JSON of one request; `headers` with underscores. Hangs up after `seconds` of silence."""
        connection = self._connect(self.port, seconds)
        try:
            data = None if body is None else json.dumps(body).encode()
            sent = self._headers | ({"Content-Type": "application/json"} if data else {})
            sent |= {name.replace("_", "-"): value for name, value in headers.items()}
            LEAKS.add_request(path, sent, data or b"")
            connection.request(method, path, data, sent)
            response = connection.getresponse()
            answer = response.read()
            LEAKS.add_answer(f"{method} {path}", response.status, answer)
            if response.headers.get_content_type() == "application/json":
                validate_response(method, path, response.status, answer)
            return response.status, json.loads(answer or b"null")
        finally:
            connection.close()

    def metrics(self, port: int | None = None) -> str:
        """The metrics, from METRICS_PORT or by the administrator's key; empty if the server does not answer."""
        connection = self._connect(port or self.port, 2)
        try:
            connection.request("GET", "/metrics", headers=self._headers)
            return connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException):
            return ""
        finally:
            connection.close()

    def query(self, client_name: str, question: str, **headers: str) -> tuple[int, Any]:
        return self.ask("POST", "/query", {"client_name": client_name, "input": question}, 30, **headers)

    def history(self, client_name: str) -> list[str]:
        """The contents of the history, oldest first."""
        _, messages = self.ask("GET", f"/history?client_name={client_name}")
        return [each["content"] for each in messages]

    def _connect(self, port: int, seconds: float) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
        return http.client.HTTPSConnection("127.0.0.1", port, timeout=seconds, context=self._tls)

    def log(self) -> str:
        return self._log.read_text()

    def forget(self, *names: str) -> None:
        """Cancel the open runs of these clients, and clear their histories."""
        for name in names:
            assert self.ask("DELETE", f"/history?client_name={name}")[0] == 200

    def kill(self) -> None:
        """Kill all of its processes at once, as a power failure does."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        LEAKS.read_log(self._log)  # Its folder may be deleted next.

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait. Returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(90)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_process(command: list[str], log: Path, **env: str) -> subprocess.Popen[bytes]:
    """Start `command` in the project's folder, with no settings but `env`.

    It has a process group of its own, so that its children can be killed with it and Ctrl-C reaches the tests alone.
    """
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS | FOREIGN_VARIABLES}
    LEAKS.add_settings(env)
    LEAKS.watch_log(log)
    with log.open("wb") as out:
        return subprocess.Popen(
            command, cwd=ROOT, env=clean | env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )


@contextmanager
def serve(*arguments: str, tls: ssl.SSLContext | None = None, **env: str) -> Iterator[ServerProcess]:
    """`python run.py` until the block ends, on a free port if `env` has no PORT.

    `arguments` are gunicorn's, `env` are settings. With `tls`, which trusts the certificate of the server, requests go
    over TLS.
    """
    port = int(env.get("PORT") or free_port())
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        # An empty variable overrides a developer's `.env` with the default.
        settings = {**dict.fromkeys(SETTINGS, ""), "PORT": str(port), **env}
        process = start_process([sys.executable, "run.py", *arguments], log, **settings)
        served = ServerProcess(port, process, log, tls, env.get("ADMIN_KEY", ""))
        try:
            await_answer(served)
            yield served
            if served.process.poll() is None and (env.get("METRICS_PORT") or env.get("ADMIN_KEY")):
                LEAKS.add_text("the metrics", served.metrics(int(env.get("METRICS_PORT") or port)))
        finally:
            served.kill()


def await_answer(served: ServerProcess) -> None:
    """Wait until the server answers. Raises AssertionError with its log if it does not."""
    for _ in range(600):
        assert served.process.poll() is None, served.log()
        try:
            assert served.ask("GET", "/healthz")[0] == 200
            return
        except OSError:
            time.sleep(0.05)  # Another process gives no event to wait for.
    raise AssertionError(served.log())


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether `condition` becomes true within 10 s. Polls, since another process gives no event to wait for."""
    for _ in range(400):
        if condition():
            return True
        time.sleep(0.025)
    return False

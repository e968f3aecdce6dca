"""The processes of a measurement: servers on one core, the stub and the load on another."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, OTHER_CORE = CORES[0], CORES[-1]
LITELLM = Path(sys.executable).parent.parent / "litellm/bin/litellm"
TICKS = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def stub() -> Iterator[int]:
    """The stub upstream's port, while it runs."""
    port = free_port()
    process = _started([sys.executable, "bench/stub_upstream.py", str(port)], OTHER_CORE, {})
    try:
        _await(port, "/counts")
        yield port
    finally:
        _ended(process)


class Server:
    def __init__(self, port: int, process: subprocess.Popen[bytes], seconds_to_first_answer: float) -> None:
        self.port = port
        self.process = process
        self.seconds_to_first_answer = seconds_to_first_answer

    def cpu_seconds(self) -> float:
        return sum(_cpu(pid) for pid in self._pids())

    def megabytes(self) -> float:
        """The most that the largest of its processes had resident."""
        return max(_peak_kilobytes(pid) for pid in self._pids()) / 1024

    def _pids(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [self.process.pid, *map(int, children)]


@contextmanager
def redis(fsync: str) -> Iterator[str]:
    """The URL of a Redis with an append-only file and that `appendfsync`, while it runs."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        durable = ["--appendonly", "yes", "--appendfsync", fsync, "--save", "", "--dir", folder]
        process = _started(["redis-server", "--bind", "127.0.0.1", "--port", str(port), *durable], OTHER_CORE, {})
        try:
            _await_port(port)
            yield f"redis://127.0.0.1:{port}"
        finally:
            _ended(process)


@contextmanager
def serving(kind: str, stub_port: int, **settings: str) -> Iterator[Server]:
    """One of `ours`, `flask`, `fastapi` and `litellm`, on its core."""
    port = free_port()
    gunicorn = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--no-control-socket"]
    commands = {
        "ours": [sys.executable, "run.py"],
        "flask": [*gunicorn, "-c", "/dev/null", "--threads", "128", "bench.naive_flask:app"],
        "fastapi": [
            sys.executable,
            "-m",
            "uvicorn",
            "bench.fastapi_openai:app",
            "--port",
            str(port),
            "--no-access-log",
        ],
        "litellm": [str(LITELLM), "--config", "bench/litellm.yaml", "--host", "127.0.0.1", "--port", str(port)],
    }
    env = {"OPENAI_BASE_URL": f"http://127.0.0.1:{stub_port}/v1", "PORT": str(port), "MAX_CONVERSATIONS": "1000000"}
    env |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", **settings}  # The proxy would ask the network for its prices.
    began = time.perf_counter()
    process = _started(commands[kind], SERVER_CORE, env)
    try:
        _await(port, "/healthz")
        yield Server(port, process, time.perf_counter() - began)
    finally:
        _ended(process)


def load(port: int, **plan: Any) -> dict[str, Any]:
    """What `bench.load` measures of the server at `port`."""
    return printed([sys.executable, "-m", "bench.load", json.dumps({"port": port, **plan})])


def printed(command: list[str]) -> dict[str, Any]:
    """The JSON that `command` prints, run beside the stub."""
    process = _started(command, OTHER_CORE, {}, stdout=subprocess.PIPE)
    out, _ = process.communicate(timeout=600)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    answer: dict[str, Any] = json.loads(out)
    return answer


def behave(stub_port: int, **behaviour: Any) -> None:
    """Set the stub's pace, and its count of calls to zero."""
    request = urllib.request.Request(f"http://127.0.0.1:{stub_port}/behaviour", json.dumps(behaviour).encode())
    urllib.request.urlopen(request, timeout=5).close()


def calls(stub_port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{stub_port}/counts", timeout=5) as answer:
        count: int = json.load(answer)["calls"]
        return count


def _started(command: list[str], core: int, env: dict[str, str], **more: Any) -> subprocess.Popen[bytes]:
    more.setdefault("stdout", subprocess.DEVNULL)
    return subprocess.Popen(
        ["taskset", "-c", str(core), *command], env={**os.environ, **env}, stderr=subprocess.DEVNULL, **more
    )


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _await(port: int, path: str) -> None:
    """Wait for the first answer, whatever it says: a yardstick has no health check."""
    for _ in range(3000):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.01)
    raise SystemExit(f"nothing answers on port {port}")


def _await_port(port: int) -> None:
    for _ in range(1000):
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
            return
        except OSError:
            time.sleep(0.01)
    raise SystemExit(f"nothing listens on port {port}")


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _peak_kilobytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])

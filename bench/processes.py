"""The processes of a measurement: the server on one core, the stub upstream and the load on another."""

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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def start_stub() -> Iterator[int]:
    """Run the stub upstream. Yields its port."""
    port = free_port()
    process = _start([sys.executable, "bench/stub_upstream.py", str(port)], OTHER_CORE, {})
    try:
        _await_answer(port, "/counts")
        yield port
    finally:
        _stop(process)


class Server:
    def __init__(self, port: int, process: subprocess.Popen[bytes], seconds_to_first_answer: float) -> None:
        self.port = port
        self.process = process
        self.seconds_to_first_answer = seconds_to_first_answer

    def cpu_seconds(self) -> float:
        return sum(_cpu_seconds(pid) for pid in self._pids())

    def megabytes(self) -> float:
        """The peak resident size of its largest process."""
        return max(_peak_kilobytes(pid) for pid in self._pids()) / 1024

    def _pids(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [self.process.pid, *map(int, children)]


@contextmanager
def start_redis(fsync: str) -> Iterator[str]:
    """Run a Redis with an append-only file and `fsync` as its `appendfsync`. Yields its URL."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        options = ["--appendonly", "yes", "--appendfsync", fsync, "--save", "", "--dir", folder]
        process = _start(["redis-server", "--bind", "127.0.0.1", "--port", str(port), *options], OTHER_CORE, {})
        try:
            _await_port(port)
            yield f"redis://127.0.0.1:{port}"
        finally:
            _stop(process)


@contextmanager
def start_server(kind: str, stub_port: int, **settings: str) -> Iterator[Server]:
    """Run a server: `kind` is `ours`, `bare`, `flask`, `fastapi` or `litellm`. `settings` are environment variables."""
    port = free_port()
    gunicorn = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--no-control-socket"]
    commands = {
        "ours": [sys.executable, "run.py"],
        "bare": [sys.executable, "-m", "gunicorn", "bench.bare:app"],
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
    env |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", **settings}  # Keeps the proxy from fetching its price list.
    began = time.perf_counter()
    process = _start(commands[kind], SERVER_CORE, env)
    try:
        _await_answer(port, "/healthz")
        yield Server(port, process, time.perf_counter() - began)
    finally:
        _stop(process)


def create_key(port: int, admin_key: str) -> str:
    """A key for all clients of the protected server at `port`."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api-keys",
        json.dumps({"client_name": "*"}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {admin_key}"},
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        key: str = json.load(answer)["key"]
        return key


def run_load(port: int, **plan: Any) -> dict[str, Any]:
    """Run `bench.load` against the server at `port`. Returns what it measured."""
    return run_json([sys.executable, "-m", "bench.load", json.dumps({"port": port, **plan})])


def run_checked_load(server: Server, stub_port: int, **plan: Any) -> dict[str, Any]:
    """Run a load. Exits if a request was not answered or did not cost exactly one upstream call."""
    before = count_calls(stub_port)
    result = run_load(server.port, **plan)
    calls = count_calls(stub_port) - before
    if calls != plan["requests"] or result["faults"]:
        raise SystemExit(f"{plan}: {calls} calls upstream, {result['faults']} faults")
    return result


def run_json(command: list[str]) -> dict[str, Any]:
    """Run `command` on the core of the stub. Returns the JSON that it prints."""
    process = _start(command, OTHER_CORE, {}, stdout=subprocess.PIPE)
    out, _ = process.communicate(timeout=600)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    answer: dict[str, Any] = json.loads(out)
    return answer


def set_behaviour(stub_port: int, **behaviour: Any) -> None:
    """Set how fast the stub answers, and reset its count of calls."""
    request = urllib.request.Request(f"http://127.0.0.1:{stub_port}/behaviour", json.dumps(behaviour).encode())
    urllib.request.urlopen(request, timeout=5).close()


def count_calls(stub_port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{stub_port}/counts", timeout=5) as answer:
        count: int = json.load(answer)["calls"]
        return count


def _start(command: list[str], core: int, env: dict[str, str], **options: Any) -> subprocess.Popen[bytes]:
    options.setdefault("stdout", subprocess.DEVNULL)
    return subprocess.Popen(
        ["taskset", "-c", str(core), *command], env={**os.environ, **env}, stderr=subprocess.DEVNULL, **options
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _await_answer(port: int, path: str) -> None:
    """Wait for the first response, whatever its status: the other servers have no health check."""
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


def _cpu_seconds(pid: int) -> float:
    """Of its threads, to the nanosecond."""
    stats = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(each.read_text().split()[0]) for each in stats) / 1e9


def _peak_kilobytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])

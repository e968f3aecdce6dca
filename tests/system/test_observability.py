"""Metrics of many workers, and what logs, metrics, errors and traces may never tell, of server processes."""

import http.client
import json
import os
import re
import signal
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server.metrics import Metrics
from tests.support.metrics import Samples, names_of, parse_metrics
from tests.support.process import ROOT, ServerProcess, eventually, free_port, serve
from tests.support.replies import ScriptedReplies
from tests.support.replies_over_http import SwitchableReplies, serve_replies

AtOnce = Callable[..., Any]
WORKERS = 3


@pytest.fixture
def replies() -> ScriptedReplies:
    return ScriptedReplies("slow")


@pytest.fixture
def metrics_port() -> int:
    return free_port()


@pytest.fixture
def many(replies: ScriptedReplies, metrics_port: int, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server of three workers, as on Render."""
    with serve_replies(replies) as url:
        env = {"OPENAI_BASE_URL": url, "STORE_URL": f"sqlite:///{tmp_path}/kept.db", "TMPDIR": str(tmp_path)}
        workers = {"WEB_CONCURRENCY": str(WORKERS), "METRICS_PORT": str(metrics_port)}
        with serve("--preload", **env, **workers) as served:
            assert eventually(lambda: len(worker_pids(served)) == WORKERS)
            yield served


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        text: str = answer.read().decode()
        return text


def read(port: int) -> Samples:
    return parse_metrics(scrape(port))


def worker_pids(served: ServerProcess) -> list[int]:
    pid = served.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_all_workers_answer_with_the_sums_of_all(many: ServerProcess, metrics_port: int, at_once: AtOnce) -> None:
    asked = [at_once(many.query, f"client{n}", "hi") for n in range(60)]
    assert {each.result()[0] for each in asked} == {200}

    def is_whole() -> bool:
        found = read(metrics_port)
        requests = found["conversation_requests_total"].get(("published", "POST /query", "200"))
        runs, calls = found["conversation_runs_total"], found["conversation_store_seconds_count"]
        counts = requests, runs[("completed",)], calls.get(("create_run",)), found["conversation_runs_open"][()]
        return counts == (60, 60, 60, 0)

    assert eventually(is_whole)
    assert all(is_whole() for _ in range(4 * WORKERS))


def test_what_a_killed_worker_counted_stays_and_no_file_of_it(
    many: ServerProcess, metrics_port: int, replies: ScriptedReplies, tmp_path: Path
) -> None:
    assert many.query("eve", "hi")[0] == 200
    assert many.query("ada", "slow", Prefer="wait=0")[0] == 202
    replies.await_call("slow")

    def is_counted() -> bool:
        found = read(metrics_port)
        return (found["conversation_runs_open"][()], found["conversation_runs_total"][("completed",)]) == (1, 1)

    assert eventually(is_counted)
    for round_ in range(1, 3):
        old = worker_pids(many)
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        assert eventually(lambda old=old: len(set(worker_pids(many)) - set(old)) == WORKERS)  # type: ignore[misc]
        found = read(metrics_port)
        ends = found["conversation_runs_total"]
        assert (ends[("completed",)], ends[("interrupted",)]) == (1, 1), round_
        assert found["conversation_runs_open"] == {(): 0}
    (folder,) = tmp_path.glob("conversation-metrics-*")
    pids = {path.stem for path in folder.glob("*.json")} - {"dead"}
    assert pids <= {str(pid) for pid in worker_pids(many)}


def test_a_worker_that_is_replaced_hands_over_all_that_it_counted(many: ServerProcess, metrics_port: int) -> None:
    assert {many.query("ada", str(n))[0] for n in range(10)} == {200}
    old = worker_pids(many)
    many.process.send_signal(signal.SIGHUP)
    assert eventually(lambda: not set(worker_pids(many)) & set(old))
    assert read(metrics_port)["conversation_runs_total"] == {
        ("completed",): 10,
        ("failed",): 0,
        ("cancelled",): 0,
        ("interrupted",): 0,
    }


def test_the_folder_of_the_numbers_is_deleted_with_the_server(many: ServerProcess, tmp_path: Path) -> None:
    assert len(list(tmp_path.glob("conversation-metrics-*"))) == 1
    assert many.stop() == 0
    assert list(tmp_path.glob("conversation-metrics-*")) == []


def test_the_port_of_the_metrics_has_nothing_else_and_the_other_port_no_metrics(
    many: ServerProcess, metrics_port: int
) -> None:
    assert many.ask("GET", "/metrics")[0] == 404
    assert many.ask("GET", "/metrics", Host=f"localhost:{metrics_port}")[0] == 404
    connection = http.client.HTTPConnection("127.0.0.1", metrics_port, timeout=20)
    for method, path in (("GET", "/healthz"), ("POST", "/query"), ("GET", "/")):
        connection.request(method, path, headers={"Host": f"localhost:{many.port}"})
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["code"]) == (404, "not_found")
    connection.close()


def test_a_caller_on_a_unix_socket_cannot_name_the_port_of_the_metrics(metrics_port: int, tmp_path: Path) -> None:
    import socket

    path = str(tmp_path / "socket")
    port = free_port()
    with (
        serve("--bind", f"unix:{path}", "--bind", f"127.0.0.1:{port}", PORT=str(port), METRICS_PORT=str(metrics_port)),
        socket.socket(socket.AF_UNIX) as line,
    ):
        line.connect(path)
        line.sendall(f"GET /metrics HTTP/1.1\r\nHost: localhost:{metrics_port}\r\nConnection: close\r\n\r\n".encode())
        assert line.makefile("rb").readline().split()[1] == b"404"


NAME = re.compile(r"\bconversation_[a-z_]+\b")


@pytest.fixture(scope="module")
def exposed() -> str:
    return Metrics().render().decode()


def test_the_dashboard_uses_every_metric_and_no_other(exposed: str) -> None:
    dashboard = json.loads((ROOT / "docs/grafana-dashboard.json").read_text())
    panels = dashboard["panels"]
    used = set(NAME.findall(json.dumps([panel["targets"] for panel in panels])))
    assert used <= names_of(exposed)
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in used} == {
        re.sub("_(bucket|sum|count)$", "", name) for name in names_of(exposed)
    }
    assert len({panel["id"] for panel in panels}) == len(panels)
    (asked,) = dashboard["__inputs"]
    assert {panel["datasource"]["uid"] for panel in panels} == {f"${{{asked['name']}}}"}


def test_the_page_lists_every_metric_and_no_other(exposed: str) -> None:
    text = (ROOT / "docs/observability.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(conversation_\w+)` \| (\w+) \|", text, re.MULTILINE)
    kinds = [tuple(line.split()[2:]) for line in exposed.splitlines() if line.startswith("# TYPE ")]
    assert sorted(listed) == sorted(kinds)


KEY, QUESTION, REPLY, CLIENT = "sk-Planted-key", "Planted question", "Planted reply", "Planted-client"
HEADERS = {"Authorization": "Bearer Planted-token", "Idempotency_Key": "Planted-idempotency-key"}


class PlantedReplies(ScriptedReplies):
    def __call__(self, call: Any) -> Iterator[str]:
        if "fail" in call.messages.decode():
            raise RuntimeError("Planted exception")
        yield REPLY


def ask_everything(served: ServerProcess) -> list[str]:
    """Questions at every dialect, and requests of every kind that is refused. Returns the bodies of the errors."""
    client = {"client_name": CLIENT}
    assert served.ask("POST", "/query", {**client, "input": QUESTION})[1]["response"] == REPLY
    assert served.ask("POST", "/chat", {"message": QUESTION}, **HEADERS)[1]["response"] == REPLY
    session = {"session_id": served.ask("POST", "/api/sessions", {})[1]["session_id"]}
    assert served.ask("POST", "/api/chat", {**session, "message": QUESTION})[0] == 200
    assert served.ask("POST", "/api/v1/chat", {"message": QUESTION})[1]["message"] == REPLY
    refused = [
        served.ask("POST", "/query", {**client, "input": f"{QUESTION} fail"}),
        served.ask("POST", "/query", {**client, "input": [QUESTION]}),
        served.ask("POST", "/query", {QUESTION: REPLY}, **HEADERS),
        served.ask("POST", "/model", {**client, "model": "Planted-model"}),
        served.ask("POST", "/chat", {**client, "message": QUESTION, "model": "Planted-model"}),
        served.ask("GET", f"/{CLIENT}?{CLIENT}", **HEADERS),
        served.ask("GET", f"/chat/stream/{CLIENT}", Last_Event_ID="Planted"),
        served.ask("GET", f"/history?client_name={CLIENT}&limit=Planted"),
        served.ask("POST", f"/api/v1/threads/{CLIENT}/runs", {"assistant_id": CLIENT}),
    ]
    assert all(status >= 400 for status, _ in refused)
    return [json.dumps(body) for _, body in refused]


def test_no_key_question_reply_or_name_is_in_logs_metrics_errors_or_traces(metrics_port: int, tmp_path: Path) -> None:
    planted = SwitchableReplies()
    planted.current = PlantedReplies()
    with serve_replies(planted) as url:
        env = {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": KEY, "METRICS_PORT": str(metrics_port)}
        with serve(**env, OTEL_TRACES_EXPORTER="console", STORE_URL=f"sqlite:///{tmp_path}/kept.db") as served:
            told = [*ask_everything(served), scrape(metrics_port)]
            assert served.stop() == 0
            log = served.log()
    assert '"gen_ai.operation.name": "chat"' in log
    lines = [json.loads(line) for line in log.splitlines() if line.startswith('{"time"')]
    assert any(line.get("run_id") for line in lines if line.get("route") == "/query")
    for text in [log, *told]:
        assert "planted" not in text.lower()

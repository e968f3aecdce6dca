"""Schemathesis' command line against a running server: what the documents promise, tried with thousands of requests."""

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.dialects import DOCUMENTS
from tests.open_runs import served_with_open_runs
from tests.serving import ROOT, Served, serve

COMMAND = str(Path(sys.executable).parent / "schemathesis")

EXAMPLES = 100
"""Tried per operation, besides what covers each rule of its schemas."""

OPTIONS = [
    *("--phases", "examples,coverage,fuzzing,stateful", "--max-examples", str(EXAMPLES)),
    *("--report", "json", "--report-json-path", "report.json", "--no-color"),
]

PATIENCE_SECONDS = 300.0

LONGEST = "assistants"
"""The document that takes as long as all the others together."""

MOST_CHARACTERS = "1000"
"""The servers' bound on questions. With the default, two thirds of the time go into the compiling of patterns."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, "Run"]]:
    """A run for each document: the longest from the start, and the others one after another beside it."""
    bound = {"MAX_INPUT_CHARS": MOST_CHARACTERS}
    with serve(UPSTREAM="scripted", **bound) as served, served_with_open_runs(**bound) as (other, ids):
        stream_id = begun_stream(served)
        config = (ROOT / "schemathesis.toml").read_text()
        assert "STREAM_ID" in config
        assert "DOOMED" in config
        config = config.replace("DOOMED", '", "'.join(doomed_conversations(served)))
        for word, found in ids.items():
            assert f'["{word}"]' in config
            config = config.replace(f'["{word}"]', json.dumps(found))
        folders = {name: tmp_path_factory.mktemp(name) for name in DOCUMENTS}
        servers = dict.fromkeys(DOCUMENTS, served) | {"assistants": other}
        for folder in folders.values():
            (folder / "schemathesis.toml").write_text(config.replace("STREAM_ID", stream_id))
        runs = {name: Run(folder, name, servers[name]) for name, folder in folders.items()}
        runs[LONGEST].start()
        yield runs
        for run in runs.values():
            run.stop()


class Run:
    """One `schemathesis run`, of a document as its server tells it."""

    def __init__(self, folder: Path, name: str, served: Served) -> None:
        document = folder / "openapi.json"
        _, told = served.ask("GET", "/openapi.json" if name == "published" else f"/{name}/openapi.json")
        document.write_text(json.dumps(told))
        self._command = [COMMAND, "run", str(document), "--url", served.url, *OPTIONS]
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> subprocess.Popen[str]:
        """Begin, unless it has begun."""
        if self._process is None:
            pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            self._process = subprocess.Popen(self._command, cwd=self._folder, **pipes)
        return self._process

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()

    def report(self) -> dict[str, Any]:
        """Schemathesis' own report of a run that found nothing."""
        process = self.start()
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0, output
        report: dict[str, Any] = json.loads((self._folder / "report.json").read_text())
        return report


def begun_stream(served: Served) -> str:
    """The id of a stream that can be read."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    body = json.dumps({"client_name": "schemathesis", "input": "hi"})
    connection.request("POST", "/query", body, {"Content-Type": "application/json", "Accept": "text/event-stream"})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    stream_id = answer.getheader("X-Stream-ID")
    assert stream_id is not None
    return stream_id


def doomed_conversations(served: Served) -> list[str]:
    """The names of conversations that may be deleted."""
    names = [f"doomed {number}" for number in range(200)]
    for name in names:
        status, _ = served.ask("POST", "/model", {"client_name": name, "model": "scripted-demo"})
        assert status == 200
    return names


@pytest.mark.parametrize("name", [*(name for name in DOCUMENTS if name != LONGEST), LONGEST])
def test_every_operation_does_what_its_document_promises(runs: dict[str, Run], name: str) -> None:
    promised = {
        f"{method.upper()} {path}"
        for path, item in json.loads(DOCUMENTS[name].read_text())["paths"].items()
        for method in item
    }
    report = runs[name].report()
    assert report["complete"]
    tested = {count: report["operations"][count] for count in ("total", "tested", "errored", "skipped")}
    assert tested == {"total": len(promised), "tested": len(promised), "errored": 0, "skipped": 0}
    phases = {phase: outcome["status"] for phase, outcome in report["phases"].items()}
    assert (phases["coverage"], phases["fuzzing"]) == ("success", "success")
    assert report["test_cases"]["generated"] > EXAMPLES
    # Each was not only tried, but answered with what its caller wants.
    answered = {
        each: sum(phase["accepted"] for phase in rates.values()) for each, rates in report["valid_rates"].items()
    }
    assert {each for each, count in answered.items() if count} == promised

"""Schemathesis' command line against server processes: thousands of requests check what the documents promise."""

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from server.dialects.documents import DOCUMENTS
from tests.access.people import ADMIN_KEY
from tests.support.open_runs import serve_open_runs, serve_turns
from tests.support.process import ROOT, ServerProcess, serve

COMMAND = str(Path(sys.executable).parent / "schemathesis")

EXAMPLES = 100
"""Random requests per operation, besides those that cover each rule of its schemas."""

OPTIONS = [
    *("--phases", "examples,coverage,fuzzing,stateful", "--max-examples", str(EXAMPLES)),
    *("--report", "json", "--report-json-path", "report.json", "--no-color"),
    *("--header", f"Authorization: Bearer {ADMIN_KEY}"),
]

PATIENCE_SECONDS = 300.0

LONGEST = "assistants"
"""The document that takes as long as all others together."""

MOST_CHARACTERS = "1000"
"""The servers' bound on questions. With the default, two thirds of the time go into the compiling of patterns."""


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, "Run"]]:
    """A run for each document that is asked for, concurrently.

    Each has its own server, since one run may clear what another needs.
    """
    runs: dict[str, Run] = {}
    asked = {
        each.callspec.params["name"]
        for each in request.session.items
        if isinstance(each, pytest.Function) and each.function is test_every_operation_does_what_its_document_promises
    }
    with ExitStack() as stack:
        for name in sorted(asked, key=LONGEST.__ne__):
            served, ids = prepared(name, stack)
            config = (ROOT / "schemathesis.toml").read_text()
            for variable, values in ids.items():
                assert f'["{variable}"]' in config
                config = config.replace(f'["{variable}"]', json.dumps(values))
            folder = tmp_path_factory.mktemp(name)
            (folder / "schemathesis.toml").write_text(config)
            runs[name] = Run(folder, name, served)
            stack.callback(runs[name].stop)
        yield runs


def prepared(name: str, stack: ExitStack) -> tuple[ServerProcess, dict[str, list[str]]]:
    """A server for the document of that name, and the ids for the variables of `schemathesis.toml`."""
    bound = {"MAX_INPUT_CHARS": MOST_CHARACTERS, "ADMIN_KEY": ADMIN_KEY}
    if name == "assistants":
        return stack.enter_context(serve_open_runs(**bound))
    if name == "conversations":
        served, ids = stack.enter_context(serve_turns("schemathesis", **bound))
        return served, {**ids, "DOOMED": doomed_conversations(served, "told")}
    served = stack.enter_context(serve(UPSTREAM="scripted", **bound))
    ids = {"STREAM_ID": [create_stream(served)]}
    if name == "access":
        ids["KEY_IDS"] = [str(served.ask("POST", "/api-keys", {"client_name": "ada"})[1]["id"]) for _ in range(200)]
    if name == "sessions":
        ids["DOOMED"] = doomed_conversations(served, "scripted-demo")
    return served, ids


class Run:
    """Start `schemathesis run` with the document that the server serves."""

    def __init__(self, folder: Path, name: str, served: ServerProcess) -> None:
        document = folder / "openapi.json"
        _, told = served.ask("GET", "/openapi.json" if name == "published" else f"/{name}/openapi.json")
        document.write_text(json.dumps(told))
        self._folder = folder
        self._process = subprocess.Popen(
            [COMMAND, "run", str(document), "--url", served.url, *OPTIONS],
            cwd=folder,
            # Hypothesis builds its Unicode tables in more than a second, and caches them there.
            env={**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(ROOT / ".hypothesis")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def stop(self) -> None:
        self._process.kill()

    def report(self) -> dict[str, Any]:
        """The report of a run. Fails if it found a fault."""
        output, _ = self._process.communicate(timeout=PATIENCE_SECONDS)
        assert self._process.returncode == 0, output
        report: dict[str, Any] = json.loads((self._folder / "report.json").read_text())
        return report


def create_stream(served: ServerProcess) -> str:
    """The id of a stream that can be read."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    body = json.dumps({"client_name": "schemathesis", "input": "hi"})
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream", "X-API-Key": ADMIN_KEY}
    connection.request("POST", "/query", body, headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    stream_id = answer.getheader("X-Stream-ID")
    assert stream_id is not None
    return stream_id


def doomed_conversations(served: ServerProcess, model: str) -> list[str]:
    """The names of conversations that may be deleted."""
    names = [f"doomed {number}" for number in range(200)]
    for name in names:
        status, _ = served.ask("POST", "/model", {"client_name": name, "model": model})
        assert status == 200
    return names


@pytest.mark.parametrize("name", DOCUMENTS)
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
    # Each operation was not only tried, but also succeeded.
    answered = {
        each: sum(phase["accepted"] for phase in rates.values()) for each, rates in report["valid_rates"].items()
    }
    assert {each for each, count in answered.items() if count} == promised

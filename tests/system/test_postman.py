"""The Postman collection: current, complete, and run from top to bottom by Postman's command line against a server."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from scripts import generate_postman
from scripts.generate_postman import COLLECTION, TOOLS, make_collection
from server.dialects.documents import DOCUMENTS
from tests.support.openapi import validate_response
from tests.support.process import ServerProcess
from tests.support.requirements import find_command, skip_or_fail

REFUSED = {
    "POST /conversations/runs/retry": 409,
    "POST /api/v1/threads/{thread_id}/runs/{run_id}/cancel": 400,
    "POST /api/v1/threads/{thread_id}/runs/{run_id}/submit_tool_outputs": 400,
    "GET /metrics": 404,
    "POST /api-keys": 403,
    "GET /api-keys": 403,
    "DELETE /api-keys/{key_id}": 403,
    "GET /usage": 403,
    "DELETE /clients": 403,
}
"""What the demonstration refuses: its runs never fail, call no function, and end before the next request; it is open,
and so has no keys, and no administrator whom it would show the metrics."""

OPERATIONS: dict[str, dict[str, Any]] = {
    f"{method.upper()} {path}": operation
    for document in DOCUMENTS.values()
    for path, item in json.loads(document.read_text(encoding="utf-8"))["paths"].items()
    for method, operation in item.items()
}


@pytest.fixture(scope="module")
def node() -> str:
    if not (TOOLS / "node_modules" / "newman").is_dir():
        skip_or_fail("Postman's converter and newman are missing: npm ci --prefix scripts/postman")
    return find_command("node", "nodejs npm")


def operation_of(request: dict[str, Any]) -> str:
    """Method and path as in the documents."""
    steps = [f"{{{step[1:]}}}" if step.startswith(":") else step for step in request["url"].get("path", [])]
    return f"{request['method']} /{'/'.join(steps)}"


@pytest.mark.usefixtures("node")
def test_the_collection_is_the_one_that_the_documents_give() -> None:
    assert COLLECTION.read_text(encoding="utf-8") == make_collection(), "It is out of date. Run: make postman"


def test_every_operation_has_one_request_in_the_folder_of_its_document() -> None:
    folders = json.loads(COLLECTION.read_text(encoding="utf-8"))["item"]
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in DOCUMENTS.values()]
    assert [each["name"] for each in folders] == [each["info"]["title"] for each in documents]
    for folder, document in zip(folders, documents, strict=True):
        expected = [f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item]
        assert sorted(operation_of(each["request"]) for each in folder["item"]) == sorted(expected)


@pytest.mark.usefixtures("node")
def test_a_required_value_without_an_example_is_told_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameter = {"name": "colour", "in": "query", "required": True, "schema": {"type": "string"}}
    operation = {"operationId": "paint", "parameters": [parameter], "responses": {"200": {"description": "Done."}}}
    document = {"openapi": "3.1.0", "info": {"title": "Paint", "version": "1"}, "paths": {"/paint": {"get": operation}}}
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    monkeypatch.setattr(generate_postman, "DOCUMENTS", {"paint": tmp_path / "openapi.json"})
    with pytest.raises(SystemExit, match="colour needs an example"):
        make_collection()


def test_every_request_is_answered_as_its_document_says(node: str, demo: ServerProcess, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [node, TOOLS / "node_modules/newman/bin/newman.js", "run", COLLECTION]
    options = ["--env-var", f"baseUrl={demo.url}", "--reporters", "json", "--reporter-json-export", report]
    ran = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    run = json.loads(report.read_text(encoding="utf-8"))["run"]
    assert run["failures"] == []
    answered: dict[str, int] = {}
    for each in run["executions"]:
        name, status = operation_of(each["item"]["request"]), each["response"]["code"]
        answered[name] = status
        assert str(status) in OPERATIONS[name]["responses"]
        path = "/" + "/".join(each["request"]["url"]["path"])
        headers = {header["key"].lower(): header["value"] for header in each["response"]["header"]}
        if headers["content-type"] == "application/json":
            validate_response(each["request"]["method"], path, status, bytes(each["response"]["stream"]["data"]))
    assert answered.keys() == OPERATIONS.keys()
    assert {name: status for name, status in answered.items() if status >= 300} == REFUSED

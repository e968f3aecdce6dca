"""What caches may keep: nothing that belongs to a client; documents, pages and files as long as fits them."""

import http.client
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from httplint import HttpRequestLinter, HttpResponseLinter
from httplint.note import levels

from server.app import create_app
from server.dialects.documents import DOCUMENTS
from server.settings import Settings
from server.web.pages import FILES
from tests.support.process import ServerProcess, serve

KEPT = {"getPublishedDocument", "getDocument", "getDocs", "getRedoc", "getWebFile"}
"""Operations whose answers are the same for everybody; all others are a client's own, or of this moment."""

EXCEPTIONS = {"STATUS_BAD_REQUEST": "It says of every 400 that it is one."}
"""Notes of httplint that are no faults here, each with the reason."""

OPERATIONS = [
    (method, path, operation)
    for document in DOCUMENTS.values()
    for path, item in json.loads(document.read_text())["paths"].items()
    for method, operation in item.items()
]

QUESTION = {"client_name": "cache", "input": "hi", "message": "hi", "model": "scripted-demo"}

BODIES: dict[str, dict[str, Any]] = {
    "chatInSession": {"message": "hi", "session_id": "{session_id}"},
    "streamInSession": {"message": "hi", "session_id": "{session_id}"},
    "chatOnThread": {"message": "hi", "thread_id": "{thread_id}"},
    "createMessage": {"role": "user", "content": "hi"},
    "createSession": {},
    "createAssistant": {"model": "scripted-demo"},
    "submitToolOutputs": {"tool_outputs": []},
    "chat": {"client_name": "cache", "message": "hi"},
    "startStream": {"client_name": "cache", "message": "hi"},
}
"""For operations that take no QUESTION."""


class Answer:
    """One that came over the wire, and what httplint finds in it."""

    def __init__(self, served: ServerProcess, method: str, path: str, body: Any = None, **headers: str) -> None:
        sent = {"Host": f"localhost:{served.port}", "User-Agent": "test", **headers}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            sent |= {"Content-Type": "application/json", "Content-Length": str(len(data))}
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
        try:
            connection.request(method, path, data, sent)
            response = connection.getresponse()
            self.status = response.status
            self.headers = response.getheaders()
            self.body = response.read()
        finally:
            connection.close()
        self.found = self._linted(method, f"{served.url}{path}", sent, response.reason)

    def header(self, name: str) -> str:
        (value,) = [value for each, value in self.headers if each.lower() == name.lower()]
        return value

    def _linted(self, method: str, address: str, sent: dict[str, str], reason: str) -> list[str]:
        asked = HttpRequestLinter()
        asked.process_request_topline(method.encode(), address.encode(), b"HTTP/1.1")
        asked.process_headers([(name.encode(), value.encode()) for name, value in sent.items()])
        asked.finish_content(True)
        linter = HttpResponseLinter(no_content=method == "HEAD")
        linter.request = asked
        linter.is_head_response = method == "HEAD"
        linter.process_response_topline(b"HTTP/1.1", str(self.status).encode(), reason.encode())
        linter.process_headers([(name.encode(), value.encode()) for name, value in self.headers])
        linter.feed_content(self.body)
        linter.finish_content(True)
        bad = [note for note in linter.notes if note.level in (levels.BAD, levels.WARN)]
        return [f"{type(note).__name__}: {note.summary}" for note in bad if type(note).__name__ not in EXCEPTIONS]


@pytest.fixture(scope="module")
def ids(demo: ServerProcess) -> dict[str, str]:
    """What the parameters of paths name."""
    session_id = demo.ask("POST", "/api/sessions", {})[1]["session_id"]
    thread_id = demo.ask("POST", "/api/v1/threads", {})[1]["id"]
    message_id = demo.ask("POST", f"/api/v1/threads/{thread_id}/messages", {"role": "user", "content": "hi"})[1]["id"]
    run_id = demo.ask("POST", f"/api/v1/threads/{thread_id}/runs", {})[1]["id"]
    assistant_id = demo.ask("POST", "/api/v1/assistants", {"model": "scripted-demo"})[1]["id"]
    return {
        "session_id": session_id,
        "thread_id": thread_id,
        "message_id": message_id,
        "run_id": run_id,
        "assistant_id": assistant_id,
        "stream_id": run_id,
        "step_id": run_id.replace("run_", "step_"),
        "dialect": "chat",
        "version": "0",
        "file": "docs.js",
    }


def asked(served: ServerProcess, method: str, path: str, operation: dict[str, Any], ids: dict[str, str]) -> Answer:
    for name, value in ids.items():
        path = path.replace(f"{{{name}}}", value)
    if any(each["name"] == "client_name" for each in operation.get("parameters", [])):
        path += "?client_name=cache"
    body = BODIES.get(operation["operationId"], QUESTION if "/api" not in path else {"metadata": {}})
    body = {name: ids.get(str(value).strip("{}"), value) for name, value in body.items()}
    return Answer(served, method.upper(), path, body if "requestBody" in operation else None)


def test_every_operation_says_what_caches_may_do_and_httplint_finds_nothing(
    demo: ServerProcess, ids: dict[str, str]
) -> None:
    found: dict[str, Any] = {}
    # What ends or deletes comes last.
    for method, path, operation in sorted(OPERATIONS, key=lambda each: (each[0] == "delete", "cancel" in each[1])):
        name = operation["operationId"]
        answer = asked(demo, method, path, operation, ids)
        is_kept = name in KEPT
        assert (answer.header("Cache-Control") == "no-store") is not is_kept, name
        assert ("ETag" in dict(answer.headers)) is is_kept, name
        if answer.found:
            found[f"{name} {answer.status}"] = answer.found
    assert found == {}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/api/v1/nowhere", 404),
        ("PUT", "/query", 405),
        ("GET", "/history", 400),
        ("GET", "/web/0/nothing.js", 404),
        ("GET", "/nothing/openapi.json", 404),
        ("OPTIONS", "/query", 200),
        ("HEAD", "/history?client_name=cache", 200),
    ],
)
def test_no_failure_is_kept_nor_what_has_no_body(demo: ServerProcess, method: str, path: str, status: int) -> None:
    answer = Answer(demo, method, path)
    assert (answer.status, answer.header("Cache-Control"), answer.found) == (status, "no-store", [])


def test_a_request_to_another_host_is_answered_with_nothing_to_keep(demo: ServerProcess) -> None:
    answer = Answer(demo, "GET", "/openapi.json", Host="stranger.org")
    assert (answer.status, answer.header("Cache-Control"), answer.found) == (421, "no-store", [])


def test_a_stream_is_not_kept(demo: ServerProcess) -> None:
    answer = Answer(demo, "POST", "/query", QUESTION, Accept="text/event-stream")
    assert (answer.header("Content-Type").partition(";")[0], answer.header("Cache-Control")) == (
        "text/event-stream",
        "no-store",
    )
    assert answer.found == []


SAME = ["/openapi.json", "/chat/openapi.json", "/docs", "/redoc", "/redoc?document=chat", "/web/0/docs.js"]


@pytest.mark.parametrize("path", SAME)
def test_who_has_a_document_a_page_or_a_file_is_told_so(demo: ServerProcess, path: str) -> None:
    first = Answer(demo, "GET", path)
    again = Answer(demo, "GET", path, **{"If-None-Match": first.header("ETag")})
    assert (again.status, again.body, again.found) == (304, b"", [])
    assert again.header("ETag") == first.header("ETag")
    assert again.header("Cache-Control") == first.header("Cache-Control") == "no-cache"
    assert Answer(demo, "GET", path, **{"If-None-Match": '"another"'}).status == 200


def test_a_page_that_the_browser_has_keeps_the_policy_that_fits_it(client: FlaskClient) -> None:
    first = client.get("/redoc")
    again = client.get("/redoc", headers={"If-None-Match": first.headers["ETag"]})
    assert again.status_code == 304
    assert "Content-Security-Policy" not in again.headers
    assert client.get("/redoc?document=chat").headers["ETag"] != first.headers["ETag"]


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_files_that_a_page_names_by_their_version_are_kept_for_a_year(client: FlaskClient, page: str) -> None:
    found = re.findall(r'(?:src|href)="(web/[^"]+)"', client.get(page).text)
    assert found
    for address in found:
        answer = client.get(f"/{address}")
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert answer.headers["ETag"]
        for version in ("0", "another"):
            other = f"/web/{version}/{address.rpartition('/')[2]}"
            assert client.get(other).headers["Cache-Control"] == "no-cache"


def test_no_two_files_have_the_same_etag(client: FlaskClient) -> None:
    assert len({client.get(f"/web/0/{name}").headers["ETag"] for name in FILES}) == len(FILES)


@pytest.mark.parametrize("env", [{"PUBLIC_URL": "https://bot.example"}, {"RENDER_EXTERNAL_URL": "https://a.example"}])
def test_a_document_whose_address_is_configured_may_be_kept_for_a_minute(env: dict[str, str]) -> None:
    client = create_app(Settings.from_env(env)).test_client()
    for path in ("/openapi.json", "/chat/openapi.json"):
        assert client.get(path).headers["Cache-Control"] == "public, max-age=60, must-revalidate"


def test_a_document_changes_its_etag_with_the_address_that_it_tells() -> None:
    client = create_app(Settings.from_env({"HOST": "0.0.0.0"})).test_client()
    etags = {
        client.get("/openapi.json", base_url=f"http://{host}").headers["ETag"] for host in ("a.example", "b.example")
    }
    assert len(etags) == 2


@pytest.fixture(scope="module")
def open_to_some() -> Iterator[ServerProcess]:
    with serve(UPSTREAM="scripted", CORS_ORIGINS="https://a.example") as served:
        yield served


class TestForPagesElsewhere:
    @pytest.mark.parametrize("origin", ["https://a.example", "https://stranger.org", ""])
    def test_what_is_kept_is_kept_for_each_origin(self, open_to_some: ServerProcess, origin: str) -> None:
        answer = Answer(open_to_some, "GET", "/openapi.json", **({"Origin": origin} if origin else {}))
        assert (answer.header("Vary"), answer.found) == ("Origin", [])

    def test_what_every_page_may_read_is_the_same_for_all(self) -> None:
        client = create_app(Settings.from_env({"CORS_ORIGINS": "*"})).test_client()
        for headers in ({"Origin": "https://a.example"}, {}):
            answer = client.get("/openapi.json", headers=headers)
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
            assert "Vary" not in answer.headers

"""Bad input: a clear 4xx that echoes nothing and changes nothing. Any other text comes back exactly as it went in."""

import http.client
import json
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from server.domain import Conversation, Run
from server.store.memory import MemoryStore
from server.store.protocol import CreatedRun
from tests.support.process import ServerProcess
from tests.support.replies import ScriptedReplies

MARK = "Xylophon"
"""A part of every bad input. No answer may contain it."""

MANY = 1_048_576
"""The default of MAX_BODY_BYTES."""

CONTROLS = [*map(chr, range(0x20)), "\x7f", *map(chr, range(0x80, 0xA0))]

NAMES = {
    "empty": "",
    "257 characters": (MARK * 40)[:257],
    "257 emoji": "😀" * 257,
    "line break at the end": f"{MARK}\n",
    "NUL": f"{MARK}\0",
}
"""Values that are neither a client_name nor a model."""

WRONG_TYPES = {
    "null": None,
    "number": 5,
    "fraction": 1.5,
    "boolean": True,
    "list": [MARK],
    "object": {MARK: MARK},
}

NO_TEXT = {
    "a byte that begins nothing": b"\xff",
    "a character cut in two": "가".encode()[:2],
    "an overlong slash": b"\xc0\xaf",
    "a lone surrogate": b"\xed\xa0\x80",
    "beyond Unicode": b"\xf5\x80\x80\x80",
    "Latin-1": "é".encode("latin-1"),
}
"""Bytes that are not UTF-8."""

NO_JSON = {
    "nothing but blanks": "  ",
    "cut off": f'{{"client_name": "{MARK}", "input": "h',
    "single quotes": f"{{'client_name': '{MARK}', 'input': 'h'}}",
    "a comma too many": f'{{"client_name": "{MARK}", "input": "h",}}',
    "two texts": f'{{"client_name": "{MARK}", "input": "h"}} {{}}',
    "a form": f"client_name={MARK}&input=h",
    "no number": f'{{"client_name": "{MARK}", "input": "h", "n": NaN}}',
    "a control character": f'{{"client_name": "{MARK}", "input": "h\n"}}',
    "a high surrogate alone": f'{{"client_name": "{MARK}", "input": "\\ud800"}}',
    "a low surrogate alone": f'{{"client_name": "{MARK}", "input": "\\udc00 x"}}',
    "surrogates the wrong way round": f'{{"client_name": "{MARK}", "input": "\\udc00\\ud83d"}}',
    "a surrogate in the name": '{"client_name": "\\ud83d", "input": "h"}',
    "a surrogate in a key": f'{{"client_name": "{MARK}", "input": "h", "\\ud800": 1}}',
    "deep lists": f'{{"client_name": "{MARK}", "input": {"[" * 100_000}{"]" * 100_000}}}',
    "deep objects": '{"input":' * 50_000 + "1" + "}" * 50_000,
    "deep where nobody looks": f'{{"client_name": "{MARK}", "input": "h", "x": {"[" * 2000}{"]" * 2000}}}',
    "deep and never closed": "[" * 100_000,
    "two byte order marks": f'\ufeff\ufeff{{"client_name": "{MARK}", "input": "h"}}',
}


class WatchedStore(MemoryStore):
    """Records the calls that would change it."""

    def __init__(self) -> None:
        super().__init__(max_conversations=1000)
        self.calls: list[str] = []

    def update_conversation(self, name: str, changes: Any, **options: Any) -> Conversation:
        self.calls.append("update_conversation")
        return super().update_conversation(name, changes, **options)

    def create_run(self, name: str, run: Run, *terms: Any, **limits: Any) -> CreatedRun:
        self.calls.append("create_run")
        return super().create_run(name, run, *terms, **limits)

    def clear_conversation(self, name: str) -> Any:
        self.calls.append("clear_conversation")
        return super().clear_conversation(name)


@pytest.fixture
def store() -> WatchedStore:
    return WatchedStore()


@pytest.fixture
def unchanged(client: FlaskClient, store: WatchedStore, replies: ScriptedReplies) -> Iterator[FlaskClient]:
    """A client of a server with a conversation, which must be unchanged when the test ends."""
    client.post("/query", json={"client_name": "ada", "input": "hi"})
    client.post("/model", json={"client_name": "ada", "model": "scripted-demo"})
    before = client.get("/history?client_name=ada").get_json()
    store.calls.clear()
    yield client
    assert store.calls == []
    assert replies.calls == ["hi"]
    assert client.get("/history?client_name=ada").get_json() == before
    assert client.get("/model?client_name=ada").get_json() == {"model": "scripted-demo"}


def sentence_of(answer: TestResponse, status: int, code: str = "invalid_request") -> str:
    """The sentence of a refusal, after checks that hold for every refusal."""
    assert (answer.status_code, answer.mimetype) == (status, "application/json")
    body = answer.get_json()
    assert set(body) == {"error", "code"}
    assert body["code"] == code
    sentence: str = body["error"]
    assert_says_nothing_of_us(answer.get_data(as_text=True))
    assert re.fullmatch(r"[A-Za-z].*\.", sentence)
    return sentence


def assert_says_nothing_of_us(text: str) -> None:
    assert MARK not in text
    # A traceback, the name of a class, a path in the file system.
    assert not re.search(
        r'Traceback|File "|\b[A-Z][a-z]+[A-Z]\w*|\w+Error\b|/work|/home|/usr|site-packages|\.py\b', text
    )


def ask(client: FlaskClient, **fields: Any) -> TestResponse:
    return client.post("/query", json={"client_name": "ada", "input": f"{MARK}?"} | fields)


def ask_with(client: FlaskClient, body: bytes | str, kind: str | None = "application/json") -> TestResponse:
    return client.post("/query", data=body, content_type=kind)


WAYS: dict[str, Callable[[FlaskClient, str], TestResponse]] = {
    "getCurrentModel": lambda client, name: client.get("/model", query_string={"client_name": name}),
    "setModel": lambda client, name: client.post("/model", json={"client_name": name, "model": "scripted-demo"}),
    "query": lambda client, name: client.post("/query", json={"client_name": name, "input": "hi"}),
    "getHistory": lambda client, name: client.get("/history", query_string={"client_name": name}),
    "clearHistory": lambda client, name: client.delete("/history", query_string={"client_name": name}),
}
"""The operations and parameters that take a client_name."""


class TestClientName:
    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("bad", NAMES)
    def test_it_has_1_to_256_characters(self, unchanged: FlaskClient, way: str, bad: str) -> None:
        assert "client_name" in sentence_of(WAYS[way](unchanged, NAMES[bad]), 400)

    @pytest.mark.parametrize("way", WAYS)
    def test_it_has_no_control_characters(self, unchanged: FlaskClient, way: str) -> None:
        for each in CONTROLS:
            assert "control character" in sentence_of(WAYS[way](unchanged, f"{MARK}{each}x"), 400), repr(each)

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize(
        "name", ["a", "a" * 256, "😀" * 256, "은빛 나비", "../a/b?c=d&e#f", " ", "\u00a0", "\u200f\u2028"]
    )
    def test_it_may_be_anything_else(self, client: FlaskClient, way: str, name: str) -> None:
        assert WAYS[way](client, name).status_code == 200

    @pytest.mark.parametrize(("method", "path"), [("GET", "/model"), ("GET", "/history"), ("DELETE", "/history")])
    def test_it_must_be_in_the_query(self, unchanged: FlaskClient, method: str, path: str) -> None:
        answer = unchanged.open(path, method=method, query_string={"name": MARK})
        assert sentence_of(answer, 400) == "Say client_name in the query."

    @pytest.mark.parametrize(("path", "rest"), [("/query", {"input": MARK}), ("/model", {"model": MARK})])
    def test_it_must_be_in_the_body(self, unchanged: FlaskClient, path: str, rest: dict[str, str]) -> None:
        assert sentence_of(unchanged.post(path, json=rest), 400) == "The body lacks client_name."

    @pytest.mark.parametrize("wrong", WRONG_TYPES)
    def test_it_is_a_string(self, unchanged: FlaskClient, wrong: str) -> None:
        answer = ask(unchanged, client_name=WRONG_TYPES[wrong])
        assert sentence_of(answer, 400) == "client_name must be a JSON string."


class TestInput:
    def test_it_must_be_there(self, unchanged: FlaskClient) -> None:
        answer = unchanged.post("/query", json={"client_name": "ada", "question": MARK})
        assert sentence_of(answer, 400) == "The body lacks input."

    @pytest.mark.parametrize(
        ("bad", "sentence"),
        [
            ("", "input must not be empty."),
            (MARK * 12_500 + "x", "input must have at most 100000 characters."),
            ("😀" * 100_001, "input must have at most 100000 characters."),
            (f"{MARK}\0", "input has a NUL character; leave it out."),
        ],
        ids=["empty", "100,001 characters", "100,001 emoji", "NUL"],
    )
    def test_it_has_1_to_100000_characters_but_nul(self, unchanged: FlaskClient, bad: str, sentence: str) -> None:
        assert sentence_of(ask(unchanged, input=bad), 400) == sentence

    @pytest.mark.parametrize("wrong", WRONG_TYPES)
    def test_it_is_a_string(self, unchanged: FlaskClient, wrong: str) -> None:
        assert sentence_of(ask(unchanged, input=WRONG_TYPES[wrong]), 400) == "input must be a JSON string."


class TestModel:
    @pytest.mark.parametrize("bad", NAMES)
    def test_it_is_a_name(self, unchanged: FlaskClient, bad: str) -> None:
        answer = unchanged.post("/model", json={"client_name": "ada", "model": NAMES[bad]})
        assert "model" in sentence_of(answer, 400)

    @pytest.mark.parametrize("wrong", WRONG_TYPES)
    def test_it_is_a_string(self, unchanged: FlaskClient, wrong: str) -> None:
        answer = unchanged.post("/model", json={"client_name": "ada", "model": WRONG_TYPES[wrong]})
        assert sentence_of(answer, 400) == "model must be a JSON string."

    def test_it_is_one_that_the_upstream_offers(self, unchanged: FlaskClient) -> None:
        answer = unchanged.post("/model", json={"client_name": "ada", "model": MARK})
        assert "GET /models" in sentence_of(answer, 400, "unknown_model")


class TestRequestId:
    @pytest.mark.parametrize("bad", [MARK * 26, "", f"{MARK}\n", 5], ids=["long", "empty", "control", "5"])
    def test_it_is_a_string_of_1_to_200_characters(self, unchanged: FlaskClient, bad: Any) -> None:
        assert "request_id" in sentence_of(ask(unchanged, request_id=bad), 400)

    @pytest.mark.parametrize("bad", [MARK * 26, ""], ids=["long", "empty"])
    def test_the_header_has_1_to_200_characters_too(self, unchanged: FlaskClient, bad: str) -> None:
        body = {"client_name": "ada", "input": MARK}
        answer = unchanged.post("/query", json=body, headers={"Idempotency-Key": bad})
        assert "Idempotency-Key" in sentence_of(answer, 400)

    def test_200_characters_are_fine(self, client: FlaskClient) -> None:
        assert ask(client, request_id="가" * 200).status_code == 200
        answer = client.post(
            "/query", json={"client_name": "ada", "input": "x"}, headers={"Idempotency-Key": "k" * 200}
        )
        assert answer.status_code == 200


class TestHistoryPages:
    @pytest.mark.parametrize(
        "bad", ["0", "-1", "10001", "5.0", "1e3", "1_0", "+5", "%205", "٣", "x", "", "true", "9" * 5000, MARK]
    )
    def test_limit_is_a_whole_number_from_1_to_10000(self, unchanged: FlaskClient, bad: str) -> None:
        answer = unchanged.get(f"/history?client_name=ada&limit={bad}")
        assert sentence_of(answer, 400).startswith("limit must be ")

    @pytest.mark.parametrize("bad", ["-1", "5.0", "1_0", "+5", "%205", "5%0a", "٣", "x", "", "9" * 16, MARK])
    def test_before_is_an_index_that_an_earlier_answer_gave(self, unchanged: FlaskClient, bad: str) -> None:
        answer = unchanged.get(f"/history?client_name=ada&before={bad}")
        assert sentence_of(answer, 400).startswith("before must ")

    @pytest.mark.parametrize("good", ["limit=1", "limit=10000", "before=0", "before=999999999999999"])
    def test_the_bounds_themselves_are_fine(self, client: FlaskClient, good: str) -> None:
        assert client.get(f"/history?client_name=ada&{good}").status_code == 200


class TestBody:
    @pytest.mark.parametrize("bad", NO_JSON)
    def test_one_that_is_no_json_is_refused(self, unchanged: FlaskClient, bad: str) -> None:
        for path in ("/query", "/model"):
            answer = unchanged.post(path, data=NO_JSON[bad].encode(), content_type="application/json")
            assert "JSON" in sentence_of(answer, 400)

    @pytest.mark.parametrize("bad", NO_TEXT)
    def test_one_that_is_no_utf8_is_refused(self, unchanged: FlaskClient, bad: str) -> None:
        body = b'{"client_name": "ada", "input": "' + MARK.encode() + NO_TEXT[bad] + b'"}'
        for kind in ("application/json", "application/json; charset=latin-1"):
            assert "UTF-8" in sentence_of(ask_with(unchanged, body, kind), 400)

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
    def test_one_in_another_encoding_is_refused(self, unchanged: FlaskClient, encoding: str) -> None:
        body = json.dumps({"client_name": "ada", "input": MARK}).encode(encoding)
        assert "UTF-8" in sentence_of(ask_with(unchanged, body), 400)

    @pytest.mark.parametrize("deep", [300, 1000])
    def test_a_deep_value_of_the_wrong_type_is_refused(self, unchanged: FlaskClient, deep: int) -> None:
        body = f'{{"client_name": "ada", "input": {"[" * deep}"{MARK}"{"]" * deep}}}'
        assert "deeply" in sentence_of(ask_with(unchanged, body), 400)

    @pytest.mark.parametrize("bad", [[MARK], MARK, 5, True, [{"client_name": "ada", "input": MARK}]])
    def test_one_that_is_no_object_is_refused(self, unchanged: FlaskClient, bad: Any) -> None:
        assert sentence_of(ask_with(unchanged, json.dumps(bad)), 400) == "The body must be a JSON object."

    @pytest.mark.parametrize("path", ["/query", "/model"])
    def test_none_at_all_is_refused(self, unchanged: FlaskClient, path: str) -> None:
        assert sentence_of(unchanged.post(path), 400) == "Send a JSON body with the request."

    @pytest.mark.parametrize(
        "kind",
        [
            None,
            "",
            ";",
            "text/plain",
            "text/json",
            "*/*",
            MARK,
            "application/jsonx",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
        ],
    )
    def test_another_content_type_is_refused_with_what_to_add(self, unchanged: FlaskClient, kind: str | None) -> None:
        body = json.dumps({"client_name": "ada", "input": "hi", "model": "scripted-demo"})
        for path in ("/query", "/model"):
            answer = unchanged.post(path, data=body, content_type=kind)
            assert "Content-Type: application/json" in sentence_of(answer, 415, "unsupported_media_type")

    def test_fields_that_the_contract_does_not_name_are_left_alone(self, client: FlaskClient) -> None:
        assert ask(client, language="ko", extra={"deep": [[]]}).status_code == 200


class TestQueryString:
    @pytest.mark.parametrize("bad", NO_TEXT)
    @pytest.mark.parametrize("way", ["percent-encoded", "raw"])
    def test_one_that_is_no_utf8_is_refused(self, unchanged: FlaskClient, way: str, bad: str) -> None:
        encoded = "".join(f"%{each:02x}" for each in NO_TEXT[bad])
        raw = encoded if way == "percent-encoded" else NO_TEXT[bad].decode("latin-1")
        environ = {"QUERY_STRING": f"client_name={MARK}{raw}"}
        for method, path in (("GET", "/model"), ("GET", "/history"), ("DELETE", "/history"), ("GET", "/models")):
            answer = unchanged.open(path, method=method, environ_overrides=environ)
            assert "UTF-8" in sentence_of(answer, 400)

    def test_one_that_is_utf8_without_percent_signs_is_understood(self, client: FlaskClient) -> None:
        ask(client, client_name="은빛")
        environ = {"QUERY_STRING": "client_name=은빛".encode().decode("latin-1")}
        assert len(client.get("/history", environ_overrides=environ).get_json()) == 2


class TestAddresses:
    @pytest.mark.parametrize(
        "path",
        [
            f"/{MARK}",
            "/models/",
            "/query/",
            "/history/",
            "/Models",
            "/chats",
            "/openapi.json/",
            "/v1/models",
            "/.env",
            "/%00",
            "/%ff",
            "/../run.py",
        ],
    )
    def test_an_unknown_one_is_not_found(self, unchanged: FlaskClient, path: str) -> None:
        for method in ("GET", "POST", "DELETE"):
            assert "/openapi.json" in sentence_of(unchanged.open(path, method=method), 404, "not_found")

    @pytest.mark.parametrize(
        ("path", "allowed"),
        [
            ("/models", {"GET", "HEAD", "OPTIONS"}),
            ("/model", {"GET", "HEAD", "OPTIONS", "POST"}),
            ("/query", {"OPTIONS", "POST"}),
            ("/history", {"DELETE", "GET", "HEAD", "OPTIONS"}),
            ("/healthz", {"GET", "HEAD", "OPTIONS"}),
        ],
    )
    def test_an_unknown_method_is_refused_with_those_that_are_known(
        self, unchanged: FlaskClient, path: str, allowed: set[str]
    ) -> None:
        for method in ("PUT", "PATCH", "TRACE", "PROPFIND", "NONSENSE"):
            answer = unchanged.open(path, method=method, json={"client_name": "ada", "input": MARK})
            assert "Allow" in sentence_of(answer, 405, "method_not_allowed")
            assert set(answer.headers["Allow"].split(", ")) == allowed

    @pytest.mark.parametrize(("method", "path"), [("DELETE", "/query"), ("POST", "/history"), ("DELETE", "/model")])
    def test_a_method_of_another_operation_is_refused(self, unchanged: FlaskClient, method: str, path: str) -> None:
        answer = unchanged.open(f"{path}?client_name=ada", method=method)
        assert method not in answer.headers["Allow"]
        sentence_of(answer, 405, "method_not_allowed")

    @pytest.mark.parametrize(
        "path", ["//", "//models", "/models/", "/models//", "//history", "/chat//stream/x", "/query/", "/health/", "/."]
    )
    def test_slashes_too_many_or_too_few_redirect_nobody(self, demo: ServerProcess, path: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", demo.port, timeout=30)
        connection.request("GET", f"{path}?client_name=ada")
        answer = connection.getresponse()
        body = json.loads(answer.read())
        connection.close()
        assert answer.getheader("Location") is None
        assert answer.status == 200 or (answer.status, body["code"]) == (404, "not_found")

    def test_an_address_without_a_path_redirects_nobody(self, client: FlaskClient) -> None:
        assert client.get("/", environ_overrides={"PATH_INFO": ""}).status_code == 200


class TestStreams:
    @pytest.mark.parametrize("position", ["0", "5", "-1", MARK])
    def test_a_question_with_last_event_id_is_refused_and_told_where_to_resume(
        self, unchanged: FlaskClient, position: str
    ) -> None:
        headers = {"Last-Event-ID": position, "Accept": "text/event-stream"}
        answer = unchanged.post("/query", json={"client_name": "ada", "input": MARK}, headers=headers)
        assert "GET /chat/stream/" in sentence_of(answer, 400, "invalid_position")

    @pytest.mark.parametrize("position", ["-1", "1.5", "x", "", "٣".encode().decode("latin-1"), "9" * 16, MARK])
    def test_a_position_that_is_no_number_is_refused(self, unchanged: FlaskClient, position: str) -> None:
        answer = unchanged.get("/chat/stream/unknown", headers={"Last-Event-ID": position})
        body = answer.get_json()
        assert (answer.status_code, body["code"], set(body)) == (400, "invalid_request", {"error", "code", "detail"})
        assert body["error"] == "Last-Event-ID must be a whole number of at most 15 digits."

    @pytest.mark.parametrize("stream_id", [MARK, "run_0", "%ff", "a%00b", "가", "x" * 2000])
    def test_an_unknown_stream_is_not_found(self, unchanged: FlaskClient, stream_id: str) -> None:
        answer = unchanged.get(f"/chat/stream/{stream_id}")
        assert (answer.status_code, answer.get_json()["code"]) == (404, "not_found")
        assert_says_nothing_of_us(answer.get_data(as_text=True))


def exchanged(port: int, sent: bytes, *, leaves: bool = False) -> tuple[int, dict[str, Any]]:
    """Send raw bytes. Returns status and body; with `leaves` the caller disconnects after sending."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(sent)
        if leaves:
            connection.shutdown(socket.SHUT_WR)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        body: dict[str, Any] = json.loads(answer.read())
        return answer.status, body


def head(*headers: str) -> bytes:
    lines = ["POST /query HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers, "", ""]
    return "\r\n".join(lines).encode()


def chunked(body: bytes, size: int = 65_536) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces) + b"0\r\n\r\n"


def body_of(length: int, name: str) -> bytes:
    """A question by `name`, padded with spaces, which JSON allows."""
    return json.dumps({"client_name": name, "input": MARK}).encode().ljust(length)


class TestOnTheWire:
    """Requests through the HTTP server, which parses bodies before the app."""

    def assert_refused(
        self, demo: ServerProcess, answer: tuple[int, dict[str, Any]], status: int, code: str, name: str
    ) -> None:
        assert (answer[0], answer[1]["code"], set(answer[1])) == (status, code, {"error", "code"})
        assert_says_nothing_of_us(json.dumps(answer[1]))
        assert demo.history(name) == []

    def test_a_body_of_the_most_bytes_is_taken(self, demo: ServerProcess) -> None:
        sent = head(f"Content-Length: {MANY}") + body_of(MANY, "most")
        assert exchanged(demo.port, sent)[0] == 200

    def test_a_body_of_more_bytes_is_too_large(self, demo: ServerProcess) -> None:
        sent = head(f"Content-Length: {MANY + 1}") + body_of(MANY + 1, "more")
        self.assert_refused(demo, exchanged(demo.port, sent), 413, "body_too_large", "more")

    def test_a_body_that_only_promises_more_bytes_is_too_large(self, demo: ServerProcess) -> None:
        answer = exchanged(demo.port, head("Content-Length: 999999999999"))
        self.assert_refused(demo, answer, 413, "body_too_large", "promise")

    def test_a_body_in_chunks_is_taken(self, demo: ServerProcess) -> None:
        sent = head("Transfer-Encoding: chunked") + chunked(body_of(100, "chunks"), 7)
        assert exchanged(demo.port, sent)[0] == 200

    def test_a_body_of_the_most_bytes_in_chunks_is_taken(self, demo: ServerProcess) -> None:
        sent = head("Transfer-Encoding: chunked") + chunked(body_of(MANY, "most chunks"))
        assert exchanged(demo.port, sent)[0] == 200

    @pytest.mark.parametrize("over", [1, 65_536])
    def test_a_body_of_more_bytes_in_chunks_is_too_large(self, demo: ServerProcess, over: int) -> None:
        sent = head("Transfer-Encoding: chunked") + chunked(body_of(MANY + over, "over"))
        self.assert_refused(demo, exchanged(demo.port, sent), 413, "body_too_large", "over")

    def test_chunks_that_are_none_are_refused(self, demo: ServerProcess) -> None:
        sent = head("Transfer-Encoding: chunked") + b"zz\r\n" + body_of(60, "zz") + b"\r\n0\r\n\r\n"
        self.assert_refused(demo, exchanged(demo.port, sent), 400, "invalid_request", "zz")

    def test_chunks_that_break_off_are_refused(self, demo: ServerProcess) -> None:
        sent = head("Transfer-Encoding: chunked") + chunked(body_of(60, "broken")).removesuffix(b"0\r\n\r\n")
        self.assert_refused(demo, exchanged(demo.port, sent, leaves=True), 400, "invalid_request", "broken")

    def test_a_body_that_breaks_off_is_refused_even_where_it_could_be_read(self, demo: ServerProcess) -> None:
        sent = head("Content-Length: 100") + body_of(80, "short")
        self.assert_refused(demo, exchanged(demo.port, sent, leaves=True), 400, "invalid_request", "short")


TEXTS = {
    "Korean": "안녕하세요, 은빛 나비는 어디로 날아가나요?",
    "Korean, decomposed": "\u1112\u1161\u11ab\u1100\u1173\u11af",
    "emoji": "😀👩‍👩‍👧‍👦🏳️‍🌈🇰🇷👍🏽",
    "combining marks": "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘",
    "right to left": "שלום עולם، مرحبا بالعالم \u202edlrow\u202c",
    "line separators": "one\u2028two\u2029three\u0085four",
    "other planes": "𝒞𝓁𝒶𝓈𝓈 𠀋 \U0010ffff",
    "no characters": "\ufeff\ufffe\uffff\ufdd0\u200b",
    "quotes and slashes": 'a "quoted" \\ back/slash </script> {{x}} %s',
    "blanks": " \t\r\n  x  \n",
    "control characters": "".join(chr(each) for each in range(1, 0x20)) + "\x7f\x80\x9f",
    "100,000 characters": "가나다라마바사아자차" * 10_000,
    "100,000 emoji": "😀" * 100_000,
}


class TestAnyOtherText:
    @pytest.mark.parametrize("kind", TEXTS)
    @pytest.mark.parametrize("escaped", [False, True], ids=["in UTF-8", "escaped"])
    def test_it_comes_back_exactly_as_it_went_in(self, client: FlaskClient, kind: str, escaped: bool) -> None:
        text = TEXTS[kind]
        body = json.dumps({"client_name": "ada", "input": text}, ensure_ascii=escaped).encode()
        if len(body) > MANY:
            body = body.replace(b"\\ud83d\\ude00", "😀".encode(), 50_000)
        answer = ask_with(client, body)
        assert answer.get_json() == {"response": f"re: {text}"}
        history = client.get("/history?client_name=ada").get_json()
        assert [each["content"] for each in history] == [text, f"re: {text}"]

    @pytest.mark.parametrize("kind", TEXTS)
    def test_it_leaves_as_utf8_and_never_as_escapes(self, client: FlaskClient, kind: str) -> None:
        text = TEXTS[kind]
        calls = json.dumps(text, ensure_ascii=False).encode()[1:-1].replace(b"\\u007f", b"\x7f")
        answer = ask(client, input=text)
        assert calls in answer.data
        assert client.get("/history?client_name=ada").data.count(calls) == 2

    @pytest.mark.parametrize("kind", ["Korean", "emoji", "right to left", "other planes"])
    def test_a_client_may_have_it_as_a_name(self, client: FlaskClient, kind: str) -> None:
        name = TEXTS[kind]
        ask(client, client_name=name, input="hi")
        assert len(client.get("/history", query_string={"client_name": name}).get_json()) == 2

    def test_names_that_only_look_alike_are_two_clients(self, client: FlaskClient) -> None:
        ask(client, client_name=TEXTS["Korean, decomposed"], input="hi")
        assert client.get("/history", query_string={"client_name": "한글"}).get_json() == []

    def test_a_failure_leaves_as_utf8_too(self, client: FlaskClient) -> None:
        assert b"\\u" not in ask(client, input="").data
        assert "대화형".encode() in client.get("/openapi.json").data

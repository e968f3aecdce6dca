"""The documents hold: what they promise is served, and what breaks them reaches no view."""

import copy
from typing import Any

import pytest
from flask import Blueprint, Flask
from flask.testing import FlaskClient

import server.app
from server.app import create_app, read_documents
from server.http.contract import Contract
from server.http.errors import register_error_handlers
from server.settings import Settings
from server.store.memory import MemoryStore
from tests.support.replies import SteeredUpstream

DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "Two operations", "version": "1"},
    "servers": [{"url": "https://elsewhere.example.com:8443/under"}],
    "paths": {
        "/shelves/{shelf}": {
            "get": {
                "operationId": "look",
                "parameters": [
                    {"name": "shelf", "in": "path", "required": True, "schema": {"type": "string", "maxLength": 5}},
                    {"name": "most", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 9}},
                    {"name": "word", "in": "query", "schema": {"type": "string", "enum": ["a", "b"]}},
                    {"name": "X-Count", "in": "header", "schema": {"type": "string", "pattern": "^[0-9]{1,15}$"}},
                ],
                "responses": {"200": {"description": "Books."}},
            }
        },
        "/books": {
            "post": {
                "operationId": "put",
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Book"}}},
                },
                "responses": {"200": {"description": "It stands."}},
            }
        },
    },
    "components": {
        "schemas": {
            "Book": {
                "type": "object",
                "required": ["title"],
                "properties": {"title": {"type": "string", "minLength": 1}, "pages": {"type": "integer"}},
            }
        }
    },
}


class Library:
    """A server of DOCUMENT whose views remember what reached them."""

    def __init__(self) -> None:
        self.reached: list[dict[str, Any]] = []
        contract = Contract(DOCUMENT)
        blueprint = Blueprint("library", __name__)
        register_error_handlers(blueprint)

        @contract.serves(blueprint, "look")
        def look(**given: Any) -> dict[str, Any]:
            self.reached.append(given)
            return {}

        @contract.serves(blueprint, "put")
        def put(**given: Any) -> dict[str, Any]:
            self.reached.append(given)
            return {}

        app = Flask(__name__)
        app.register_blueprint(blueprint)
        self.client = app.test_client()


@pytest.fixture
def library() -> Library:
    return Library()


def started_with(documents: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.app, "read_documents", lambda _: documents)
    create_app(Settings(), store=MemoryStore(10), upstream=SteeredUpstream())


class TestStart:
    def test_it_succeeds_with_the_documents_as_they_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        started_with(read_documents(Settings()), monkeypatch)

    @pytest.mark.parametrize("name", read_documents(Settings()))
    def test_an_operation_that_nobody_serves_stops_it_and_is_named(
        self, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        documents = read_documents(Settings())
        answers = {"200": {"description": "Fine."}}
        documents[name]["paths"]["/promised"] = {"get": {"operationId": "promisedByNobody", "responses": answers}}
        with pytest.raises(LookupError, match="promisedByNobody"):
            started_with(documents, monkeypatch)

    @pytest.mark.parametrize("name", read_documents(Settings()))
    def test_a_view_whose_operation_is_gone_stops_it_and_is_named(
        self, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        documents = read_documents(Settings())
        _, item = documents[name]["paths"].popitem()
        gone = next(iter(item.values()))["operationId"]
        with pytest.raises(LookupError, match=f"a view serves {gone}"):
            started_with(documents, monkeypatch)

    def test_every_unserved_operation_is_named(self) -> None:
        with pytest.raises(LookupError, match="look, put"):
            Contract(DOCUMENT).require_all_served()


class TestJudgement:
    def test_a_view_is_given_what_the_document_names_in_its_types(self, library: Library) -> None:
        assert library.client.get("/shelves/top?most=3&word=b&other=x").status_code == 200
        assert library.reached == [{"shelf": "top", "most": 3, "word": "b"}]

    def test_a_view_is_given_none_for_what_was_not_sent(self, library: Library) -> None:
        assert library.client.get("/shelves/top").status_code == 200
        assert library.reached == [{"shelf": "top", "most": None, "word": None}]

    def test_a_view_is_given_the_body(self, library: Library) -> None:
        assert library.client.post("/books", json={"title": "책", "more": [1]}).status_code == 200
        assert library.reached == [{"body": {"title": "책", "more": [1]}}]

    @pytest.mark.parametrize(
        ("target", "sentence"),
        [
            ("/shelves/toolong", "shelf must have at most 5 characters."),
            ("/shelves/top?most=0", "most must be at least 1."),
            ("/shelves/top?most=10", "most must be at most 9."),
            ("/shelves/top?most=0_3", "most must be a whole number of at most 15 digits."),
            ("/shelves/top?most=x", "most must be a whole number of at most 15 digits."),
            ("/shelves/top?word=c", "word must be one of ['a', 'b']."),
            ("/shelves/top?word=", "word must not be empty."),
            ("/shelves/top?word=%ff", "The query string is no UTF-8; percent-encode its text as UTF-8."),
        ],
    )
    def test_a_parameter_that_breaks_the_document_reaches_no_view(
        self, library: Library, target: str, sentence: str
    ) -> None:
        answer = library.client.get(target)
        assert (answer.status_code, answer.get_json()) == (400, {"error": sentence, "code": "invalid_request"})
        assert library.reached == []

    def test_a_header_that_breaks_the_document_reaches_no_view(self, library: Library) -> None:
        answer = library.client.get("/shelves/top", headers={"X-Count": "many"})
        assert answer.get_json()["error"] == "X-Count must be a whole number of at most 15 digits."
        assert library.reached == []

    @pytest.mark.parametrize(
        ("body", "sentence"),
        [
            (b"", "Send a JSON body with the request."),
            (b"{}", "The body lacks title."),
            (b"[]", "The body must be a JSON object."),
            (b'{"title": 7}', "title must be a JSON string."),
            (b'{"title": ""}', "title must not be empty."),
            (b'{"title": "x", "pages": 1.5}', "pages must be a JSON integer."),
            (b'{"title": ' + b"[" * 300 + b"]" * 300 + b"}", "The body is nested too deeply."),
        ],
        ids=["none", "no field", "no object", "wrong type", "empty", "no integer", "deep"],
    )
    def test_a_body_that_breaks_the_document_reaches_no_view(
        self, library: Library, body: bytes, sentence: str
    ) -> None:
        answer = library.client.post("/books", data=body, content_type="application/json")
        assert (answer.status_code, answer.get_json()) == (400, {"error": sentence, "code": "invalid_request"})
        assert library.reached == []

    @pytest.mark.parametrize(
        "kind",
        ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8", "application/json;"],
    )
    def test_json_may_be_sent_with_a_charset_as_many_clients_do(self, library: Library, kind: str) -> None:
        answer = library.client.post("/books", data='{"title": "책"}'.encode(), content_type=kind)
        assert answer.status_code == 200
        assert library.reached == [{"body": {"title": "책"}}]

    def test_a_body_shorter_than_its_length_reaches_no_view(self, library: Library) -> None:
        # As a server passes on what came of a caller who left.
        environ = {"CONTENT_LENGTH": "100", "wsgi.input_terminated": True}
        library.client.application.config["MAX_CONTENT_LENGTH"] = 1000
        answer = library.client.post("/books", json={"title": "x"}, environ_overrides=environ)
        assert answer.get_json()["error"] == "The body broke off before its end; send it again."
        assert library.reached == []

    def test_head_is_judged_as_get_is(self, library: Library) -> None:
        assert library.client.head("/shelves/top?most=3").status_code == 200
        assert library.client.head("/shelves/top?most=0").status_code == 400
        assert len(library.reached) == 1

    def test_the_address_that_a_request_came_to_does_not_matter(self, library: Library) -> None:
        answer = library.client.get("/shelves/top", base_url="http://127.0.0.1:10000", headers={"Host": "any.example"})
        assert answer.status_code == 200

    def test_the_document_is_left_as_it_was(self) -> None:
        before = copy.deepcopy(DOCUMENT)
        assert Contract(DOCUMENT).document == before


class TestMaxInputChars:
    def ask(self, client: FlaskClient, text: str) -> int:
        return client.post("/query", json={"client_name": "ada", "input": text}).status_code

    @pytest.fixture(params=[5, 100_001])
    def settings(self, request: pytest.FixtureRequest) -> Settings:
        return Settings(max_input_chars=request.param)

    def test_it_is_the_bound_of_what_is_accepted(self, client: FlaskClient, settings: Settings) -> None:
        most = settings.max_input_chars
        assert self.ask(client, "x" * most) == 200
        assert self.ask(client, "x" * (most + 1)) == 400

    def test_it_counts_characters_and_not_bytes(self, client: FlaskClient, settings: Settings) -> None:
        most = settings.max_input_chars
        assert self.ask(client, "😀" * most) == 200
        assert self.ask(client, "😀" * (most + 1)) == 400

    def test_it_stands_in_the_document_that_is_served(self, client: FlaskClient, settings: Settings) -> None:
        schemas = client.get("/openapi.json").get_json()["components"]["schemas"]
        assert schemas["Input"]["maxLength"] == settings.max_input_chars

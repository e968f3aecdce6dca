"""The OpenAPI documents: what was published stays, importers accept them, and every operation is served."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from flask import Flask
from openapi_spec_validator import OpenAPIV31SpecValidator

from server.app import create_app
from server.dialects.documents import DOCUMENTS
from server.settings import Settings
from server.store.memory import MemoryStore
from tests.access.people import ADMIN_KEY
from tests.support.process import ROOT
from tests.support.replies import SteeredUpstream

METHODS = {"get", "post", "put", "patch", "delete"}

PUBLISHED = json.loads((Path(__file__).parent / "published.json").read_text())
"""The contract as it was published. It must never change."""

OURS = json.loads(DOCUMENTS["published"].read_text())

OPERATIONS = [(path, method) for path, item in PUBLISHED["paths"].items() for method in item]

ALLOWED = {
    "client_name": {"minLength": 1, "maxLength": 256, "pattern": r"^[^\x00-\x1f\x7f-\x9f]+$"},
    "model": {"minLength": 1, "maxLength": 256, "pattern": r"^[^\x00-\x1f\x7f-\x9f]+$"},
    "input": {"minLength": 1, "maxLength": 100_000, "pattern": r"^[^\x00]*$"},
}
"""The bounds within which every published field of a request is accepted."""

LONGEST_LINE = int(
    re.findall(r"^limit_request_line = (\d+)$", (ROOT / "gunicorn.conf.py").read_text(), re.MULTILINE)[0]
)

CONTROL = {*range(0x20), *range(0x7F, 0xA0)}
SURROGATES = range(0xD800, 0xE000)


@cache
def characters() -> str:
    """All characters but control characters."""
    return "".join(chr(each) for each in range(0x110000) if each not in CONTROL and each not in SURROGATES)


def resolved(document: dict[str, Any], node: Any) -> Any:
    """`node` with each reference replaced by its target."""
    if isinstance(node, list):
        return [resolved(document, each) for each in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        found: Any = document
        for step in node["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        return resolved(document, found)
    return {name: resolved(document, each) for name, each in node.items()}


def everywhere(node: Any) -> Iterator[dict[str, Any]]:
    """Each object in `node`, including itself."""
    if isinstance(node, dict):
        yield node
    for each in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from everywhere(each)


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, each) for path, item in document["paths"].items() for method, each in item.items()]


def operation(document: dict[str, Any], path: str, method: str) -> dict[str, Any]:
    found: dict[str, Any] = resolved(document, document["paths"][path][method])
    return found


def json_schema(location: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = location["content"]["application/json"]["schema"]
    return schema


def assert_offers(ours: dict[str, Any], published: dict[str, Any]) -> None:
    """Assert that our schema has everything that the published one has, with the same types."""
    for word in ("type", "enum", "format", "nullable", "default", "example"):
        assert ours.get(word) == published.get(word), word
    for name, each in published.get("properties", {}).items():
        assert_offers(ours["properties"][name], each)
    if "items" in published:
        assert_offers(ours["items"], published["items"])


def as_published(schema: dict[str, Any], name: str) -> bool:
    """Whether the schema of a field is a string with no other bounds than the allowed ones."""
    said = {word: value for word, value in schema.items() if word not in ("description", "type")}
    return bool(schema["type"] == "string" and said == ALLOWED[name])


class TestPublished:
    def test_title_and_version_are_the_published_ones(self) -> None:
        assert OURS["openapi"].rpartition(".")[0] == PUBLISHED["openapi"].rpartition(".")[0]
        assert (OURS["info"]["title"], OURS["info"]["version"]) == ("대화형 API 서버", PUBLISHED["info"]["version"])

    def test_no_path_and_no_operation_is_gone(self) -> None:
        known = {(path, method) for path, method, _ in operations(OURS)}
        assert set(OPERATIONS) <= known

    @pytest.mark.parametrize(("path", "method"), OPERATIONS)
    def test_an_operation_keeps_its_id(self, path: str, method: str) -> None:
        published = PUBLISHED["paths"][path][method]["operationId"]
        assert operation(OURS, path, method)["operationId"] == published

    @pytest.mark.parametrize(("path", "method"), OPERATIONS)
    def test_parameters_are_the_published_ones_and_none_more_is_required(self, path: str, method: str) -> None:
        published, ours = (
            {(each["name"], each["in"]): each for each in operation(document, path, method).get("parameters", [])}
            for document in (PUBLISHED, OURS)
        )
        for location, each in published.items():
            assert ours[location]["required"] == each["required"]
            assert as_published(ours[location]["schema"], each["name"])
        assert {location for location, each in ours.items() if each.get("required")} <= set(published)

    @pytest.mark.parametrize(("path", "method"), OPERATIONS)
    def test_a_request_body_needs_no_more_than_was_published(self, path: str, method: str) -> None:
        published = operation(PUBLISHED, path, method).get("requestBody")
        ours = operation(OURS, path, method).get("requestBody")
        if published is None:
            assert ours is None
            return
        assert ours is not None
        assert ours["required"] == published["required"]
        assert set(json_schema(ours)["required"]) == set(json_schema(published)["required"])
        assert json_schema(ours)["type"] == json_schema(published)["type"]
        assert "additionalProperties" not in json_schema(ours)
        for name in json_schema(published)["properties"]:
            assert as_published(json_schema(ours)["properties"][name], name)

    @pytest.mark.parametrize("name", ["client_name", "model"])
    def test_a_name_of_any_character_but_the_control_characters_is_accepted(self, name: str) -> None:
        rules = jsonschema_rs.Draft202012Validator({"type": "string", **ALLOWED[name]})
        names = [characters()[start : start + 256] for start in range(0, len(characters()), 256)]
        assert [each for each in names if not rules.is_valid(each)] == []
        assert [each for each in CONTROL if rules.is_valid(f"a{chr(each)}b")] == []
        assert [each for each in ("", "a" * 257, "😀" * 257, "a\n") if rules.is_valid(each)] == []

    def test_an_input_of_any_character_but_nul_is_accepted(self) -> None:
        rules = jsonschema_rs.Draft202012Validator({"type": "string", **ALLOWED["input"]})
        text = "".join([characters(), *(chr(each) for each in CONTROL if each)])
        pieces = [text[start : start + 100_000] for start in range(0, len(text), 100_000)]
        assert [each[0] for each in pieces if not rules.is_valid(each)] == []
        assert [each for each in ("", "a\0b", "x" * 100_001) if rules.is_valid(each)] == []

    @pytest.mark.parametrize(("path", "method"), OPERATIONS)
    def test_every_published_answer_is_there_with_every_field_of_it(self, path: str, method: str) -> None:
        published = operation(PUBLISHED, path, method)["responses"]
        ours = operation(OURS, path, method)["responses"]
        assert set(published) <= set(ours)
        for status, answer in published.items():
            assert_offers(json_schema(ours[status]), json_schema(answer))

    def test_every_failure_has_the_same_body(self) -> None:
        for path, method, each in operations(OURS):
            for status, answer in each["responses"].items():
                if int(status) >= 400:
                    assert json_schema(answer) == {"$ref": "#/components/schemas/Failure"}, (path, method, status)

    def test_what_a_model_may_lack_is_not_required(self) -> None:
        model = json_schema(operation(OURS, "/models", "get")["responses"]["200"])["properties"]["data"]["items"]
        assert set(model["required"]) == set(model["properties"]) - {"parent", "shutdown_date"}


@pytest.fixture(params=["checked in", "served"])
def imported(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The published document, as an importer gets it."""
    if request.param == "checked in":
        return dict(OURS)
    app = create_app(Settings(public_url="https://chat.example.org/"))
    served: dict[str, Any] = app.test_client().get("/openapi.json").get_json()
    return served


class TestImporters:
    """The requirements of the importer of ChatGPT's Actions."""

    def test_there_is_one_absolute_https_server_in_lower_case_without_a_port(self, imported: dict[str, Any]) -> None:
        (server,) = imported["servers"]
        assert re.fullmatch(r"https://[a-z0-9-]+(\.[a-z0-9-]+)+(/[^?#]*[^/?#])?", server["url"])

    def test_operation_ids_are_unique_and_of_plain_characters(self, imported: dict[str, Any]) -> None:
        ids = [each["operationId"] for _, _, each in operations(imported)]
        assert len(set(ids)) == len(ids) <= 30
        assert [each for each in ids if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", each)] == []

    def test_every_object_has_properties(self, imported: dict[str, Any]) -> None:
        objects = [each for each in everywhere(imported) if each.get("type") == "object"]
        assert objects
        assert [each for each in objects if "properties" not in each] == []

    def test_no_parameter_is_a_reference_or_holds_one(self, imported: dict[str, Any]) -> None:
        parameters = [each["parameters"] for each in everywhere(imported) if "parameters" in each]
        assert parameters
        assert [each for each in everywhere(parameters) if "$ref" in each] == []

    def test_no_schema_has_alternatives(self, imported: dict[str, Any]) -> None:
        alternatives = {"oneOf", "anyOf", "allOf", "not", "if"}
        assert [each for each in everywhere(imported) if alternatives & set(each)] == []
        assert [each for each in everywhere(imported) if isinstance(each.get("type"), list)] == []

    def test_there_are_no_methods_but_the_usual_ones(self, imported: dict[str, Any]) -> None:
        assert {method for _, method, _ in operations(imported)} <= METHODS

    def test_every_body_is_json(self, imported: dict[str, Any]) -> None:
        bodies = [body for _, _, each in operations(imported) for body in each["responses"].values()]
        bodies += [each["requestBody"] for _, _, each in operations(imported) if "requestBody" in each]
        assert {kind for body in bodies for kind in body["content"]} == {"application/json"}

    def test_no_parameter_is_a_header(self, imported: dict[str, Any]) -> None:
        locations = [each["in"] for _, _, operation in operations(imported) for each in operation.get("parameters", [])]
        assert set(locations) == {"query"}

    def test_every_operation_is_described_in_300_characters(self, imported: dict[str, Any]) -> None:
        for _, _, each in operations(imported):
            assert each["description"]
            assert len(each["description"]) + len(each["summary"]) <= 300, each["operationId"]

    def test_every_parameter_and_field_of_a_request_is_described_in_700_characters(
        self, imported: dict[str, Any]
    ) -> None:
        for path, method, _ in operations(imported):
            each = operation(imported, path, method)
            fields = json_schema(each["requestBody"])["properties"] if "requestBody" in each else {}
            for described in [*each.get("parameters", []), *fields.values()]:
                assert 0 < len(described["description"]) <= 700, described

    def test_only_what_destroys_asks_the_user_first(self, imported: dict[str, Any]) -> None:
        asks = {each["operationId"]: each["x-openai-isConsequential"] for _, _, each in operations(imported)}
        assert asks.pop("clearHistory") is True
        assert {"query", "setModel"} <= set(asks)
        assert set(asks.values()) == {False}


class TestAll:
    @pytest.mark.parametrize("name", DOCUMENTS)
    def test_a_document_is_valid(self, name: str) -> None:
        OpenAPIV31SpecValidator(json.loads(DOCUMENTS[name].read_text())).validate()

    def test_every_document_in_the_folder_is_one_of_them(self) -> None:
        folder = next(iter(path.parent for name, path in DOCUMENTS.items() if name != "published"))
        assert set(folder.rglob("*.openapi.json")) == {path for name, path in DOCUMENTS.items() if name != "published"}

    @pytest.mark.parametrize("name", DOCUMENTS)
    def test_an_address_that_fits_is_short_enough_and_of_others_a_document_warns(self, name: str) -> None:
        document = json.loads(DOCUMENTS[name].read_text())
        for path, method, _ in operations(document):
            each = document["paths"][path][method]
            parameters = resolved(document, each.get("parameters", []))
            parts = [part for part in parameters if part["in"] in ("path", "query")]
            if parts:
                assert "414" in each["responses"], (path, method)
            # A character has up to four bytes of UTF-8, and each of these three characters in an address.
            longest = len(path) + sum(len(part["name"]) + 12 * part["schema"].get("maxLength", 16) for part in parts)
            assert longest < LONGEST_LINE, (path, method)

    @pytest.mark.parametrize("name", DOCUMENTS)
    def test_every_operation_of_a_document_is_served_where_it_says(self, app: Flask, name: str) -> None:
        rules = [(re.sub(r"<(\w+)>", r"{\1}", rule.rule), rule.methods or ()) for rule in app.url_map.iter_rules()]
        served = {(path, method.lower()) for path, methods in rules for method in methods}
        promised = {(path, method) for path, method, _ in operations(json.loads(DOCUMENTS[name].read_text()))}
        assert promised
        assert promised <= served


def given_examples(document: dict[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Each example in a document, with its schema."""
    for each in everywhere(document):
        schema = each["schema"] if isinstance(each.get("schema"), dict) else each
        schema = {**schema, "components": document["components"]}
        if "example" in each:
            yield each["example"], schema
        examples = each.get("examples", [])
        for example in examples.values() if isinstance(examples, dict) else examples:
            yield example["value"] if isinstance(examples, dict) else example, schema


class DemoUpstream(SteeredUpstream):
    """The demonstration upstream, with the models of the documents' examples."""

    def list_models(self) -> list[dict[str, Any]]:
        return [
            *super().list_models(),
            {"id": "gpt-6-luna", "object": "model", "created": 0, "owned_by": "this server"},
        ]


ID = re.compile(r"[a-z]+_[0-9A-Za-z]{16,}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z|\b1[6-9]\d{8}\b")


HIDDEN = "getMetrics"
"""The operation that is there for the administrator alone."""


class ExampleRun:
    """Sends a document's examples to one server, one after another: creating, then reading, then deleting ones.

    Ids that the server returns replace those in the later examples.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.known: dict[str, str] = {}
        settings = Settings(admin_key=ADMIN_KEY)
        self.client = create_app(settings, store=MemoryStore(100), upstream=DemoUpstream()).test_client()

    def run(self) -> int:
        """Run all operations. Returns how many had an example that could be sent."""
        methods = ("post", "put", "patch", "get", "delete")
        ordered = sorted(operations(self.document), key=lambda each: methods.index(each[1]))
        return sum(self.run_operation(path, method) for path, method, _ in ordered)

    def run_operation(self, path: str, method: str) -> bool:
        """Run an operation with its examples. Returns whether it has any; fails if the answer differs from them."""
        each = self.document["paths"][path][method]
        query = {}
        for one in each.get("parameters", []):
            if "example" in one and one["in"] == "query":
                query[one["name"]] = self.replace_ids(str(one["example"]))
            elif "example" in one:
                path = path.replace(f"{{{one['name']}}}", self.replace_ids(one["example"]))
        sent = each.get("requestBody", {"content": {"application/json": {"example": None}}})
        body = sent["content"]["application/json"]
        if "{" in path or "example" not in body or each["operationId"] == HIDDEN:
            return False
        given = None if body["example"] is None else json.loads(self.replace_ids(json.dumps(body["example"])))
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        answer = self.client.open(path, method=method.upper(), query_string=query, json=given, headers=headers)
        text = answer.text  # A stream is read to its end, so that its run has ended.
        assert answer.status_code < 300, (method, path, text)
        promised = each["responses"][str(answer.status_code)]["content"][answer.mimetype]
        if "example" in promised:
            expected = promised["example"]
            self.compare(expected if isinstance(expected, str) else json.dumps(expected), text)
        return True

    def compare(self, expected: str, actual: str) -> None:
        self.known |= dict(zip(ID.findall(expected), ID.findall(actual), strict=False))
        told, said = (TIME.sub("0", text) for text in (self.replace_ids(expected), actual))
        assert told == said if expected.startswith("id:") else json.loads(told) == json.loads(said)

    def replace_ids(self, text: str) -> str:
        return ID.sub(lambda found: self.known.get(found[0], found[0]), text)


class TestExamples:
    @pytest.mark.parametrize("name", DOCUMENTS)
    def test_every_example_fits_its_schema(self, name: str) -> None:
        examples = list(given_examples(json.loads(DOCUMENTS[name].read_text())))
        assert examples
        assert [each for each, schema in examples if not jsonschema_rs.is_valid(schema, each)] == []

    @pytest.mark.parametrize("name", DOCUMENTS)
    def test_every_example_that_can_be_asked_is_answered_as_it_says(self, name: str) -> None:
        document = json.loads(DOCUMENTS[name].read_text())
        assert ExampleRun(document).run() > 0

"""No operation of any document gives one client what is another's, whichever identifier is used.

The cases are generated from the documents: an operation without a case fails.
"""

import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from server.core.records import kind_of
from server.dialects.documents import DOCUMENTS
from server.store.protocol import Store
from tests.access.people import ADMIN_KEY, Person, create_key, send, settle
from tests.support.conversations import take

VALUES: dict[str, Any] = {
    "input": "hello",
    "message": "hello",
    "content": "hello",
    "role": "user",
    "model": "scripted-demo",
    "tool_outputs": [{"tool_call_id": "call_1", "output": "42"}],
}
"""What is sent for the other required fields."""

NOT_OTHERS = {"dialect", "document", "version", "file"}
"""Parameters of paths that name nothing of a client."""

OPTIONAL_IDS = {
    "chat": ["client_name"],
    "startStream": ["client_name"],
    "chatOnThread": ["thread_id"],
    "regenerate": ["run_id"],
    "editQuestion": ["run_id"],
    "createThreadAndRun": ["assistant_id"],
    "createRun": ["assistant_id"],
    "listMessages": ["run_id"],
    "getUsage": ["client_name"],
    "importConversations": ["client_name"],
}
"""Identifiers that an operation takes if they are sent."""

CONVERSATION_IDS = ("client_name", "session_id", "thread_id")
"""Identifiers that are names of conversations: each takes every form of a name."""

FRESH = count()


@dataclass(frozen=True)
class Operation:
    """An operation, and the names of the identifiers that it takes."""

    dialect: str
    id: str
    method: str
    path: str
    required: tuple[str, ...]
    fields: tuple[str, ...]
    """The properties of its body."""
    ids: tuple[str, ...]
    is_public: bool

    @property
    def is_for_the_administrator(self) -> bool:
        return (self.dialect == "access" and self.id != "getCaller") or self.id == "getMetrics"


def resolved(document: dict[str, Any], node: Any) -> Any:
    while "$ref" in node:
        found = document
        for step in node["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        node = found
    return node


def read_operations() -> Iterator[Operation]:
    for dialect, path in DOCUMENTS.items():
        document = json.loads(path.read_text())
        for address, item in document["paths"].items():
            for method, each in item.items():
                parameters = [resolved(document, one) for one in each.get("parameters", [])]
                content = each.get("requestBody", {}).get("content", {}).get("application/json", {"schema": {}})
                body = resolved(document, content["schema"])
                required = [one["name"] for one in parameters if one.get("required")] + body.get("required", [])
                fields = tuple(body.get("properties", {}))
                known = {*fields, *(one["name"] for one in parameters)}
                ids = [name for name in required if name == "client_name" or name.endswith("_id")]
                ids += [name for name in OPTIONAL_IDS.get(each["operationId"], []) if name in known and name not in ids]
                yield Operation(
                    *(dialect, each["operationId"], method.upper(), address, tuple(required), fields, tuple(ids)),
                    is_public=each.get("security") == [],
                )


OPERATIONS = list(read_operations())

TAKING_IDS = [(each, name) for each in OPERATIONS if not each.is_public for name in each.ids]

WITHOUT_IDS = [each for each in OPERATIONS if not (each.is_public or each.ids or each.is_for_the_administrator)]


def name_of(case: Any) -> str:
    return f"{case.dialect}-{case.id}" if isinstance(case, Operation) else str(case)


def call(client: FlaskClient, operation: Operation, ids: dict[str, str], key: str | None) -> TestResponse:
    """Call an operation with these identifiers, and with what else it needs."""
    path, body, query = operation.path, {}, {}
    for name in dict.fromkeys([*operation.required, *ids]):
        value = ids.get(name, VALUES.get(name))
        if f"{{{name}}}" in path:
            path = path.replace(f"{{{name}}}", str(value))
        elif name in operation.fields:
            body[name] = value
        else:
            query[name] = value
    more: dict[str, Any] = {"headers": {"Idempotency-Key": f"a key that is fresh {next(FRESH)}"}}
    if operation.id == "importConversations":
        more |= {"data": b'[{"role": "user", "content": "hello"}]', "content_type": "application/json"}
    elif operation.fields:
        more |= {"json": body}
    return send(client, operation.method, f"{path}?{urlencode(query)}", key, **more)


def absent(identifier: str) -> str:
    """An identifier of the same form that nothing has."""
    if re.fullmatch(r"[0-9a-f-]{36}", identifier):
        return str(uuid4())
    kind, _, rest = identifier.partition("_")
    return f"{kind}_{secrets.token_hex(16)}{rest[32:]}" if len(rest) >= 32 else "nobody"


def answered_alike(
    operation: Operation, name: str, form: str, owner: Person, caller: Person
) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Identifiers with the owner's `form` as `name`, each with what must be answered alike: others that nothing has."""
    for others in (operation.ids, [each for each in operation.ids if each in operation.required]):
        ids = {each: caller.ids[each] for each in others}
        yield {**ids, name: form}, {**ids, name: absent(form)}
    ids = {**{each: owner.ids[each] for each in operation.ids}, name: form}
    yield ids, {each: absent(value) for each, value in ids.items()}


def belongings(store: Store, owner: str) -> Any:
    """All that a client has."""
    names = sorted({owner, *store.list_owned(owner)})
    records = sorted(store.list_records(kind_of("assistant", owner)))
    return [(name, take(store, name)) for name in names], records


@pytest.fixture(scope="module")
def everybody(visitor: FlaskClient) -> Person:
    """A client whose key opens every name with some beginning: with any."""
    return settle(visitor, "*")


@pytest.fixture(scope="module")
def store(protected: Flask) -> Store:
    found: Store = protected.extensions["store"]
    return found


@pytest.fixture(scope="module")
def useless_keys(visitor: FlaskClient, protected: Flask) -> dict[str, str | None]:
    """Keys that open nothing: none, a wrong one, a deleted one and an expired one."""
    deleted = create_key(visitor, "ada")
    assert send(visitor, "DELETE", f"/api-keys/{deleted['id']}", ADMIN_KEY).status_code == 200
    expired = create_key(visitor, "ada", expires_in_days=1)
    shift_expiry(protected, expired["id"])
    return {"none": None, "deleted": deleted["key"], "expired": expired["key"]}


def shift_expiry(app: Flask, key_id: str) -> None:
    """Let a key expire, as the time of a day would."""
    store: Store = app.extensions["store"]
    for record in store.list_records("key"):
        key = json.loads(record)
        if key["id"] == key_id:
            store.put_record("key", key["digest"], json.dumps({**key, "expires": 1.0}).encode())


class TestOthers:
    def test_every_operation_has_a_case(self) -> None:
        cases = {each.id for each, _ in TAKING_IDS} | {each.id for each in WITHOUT_IDS}
        left = [each for each in OPERATIONS if each.id not in cases]
        assert {name_of(each) for each in left if not (each.is_public or each.is_for_the_administrator)} == set()
        unknown = {name for each in OPERATIONS for name in each.required if name.endswith("_id")} - NOT_OTHERS
        kinds = {"stream_id", "session_id", "assistant_id", "thread_id", "run_id", "message_id", "step_id", "key_id"}
        assert unknown == kinds

    @pytest.mark.parametrize(("operation", "name"), TAKING_IDS, ids=name_of)
    def test_another_owners_identifier_opens_nothing(
        self, visitor: FlaskClient, store: Store, ada: Person, eve: Person, operation: Operation, name: str
    ) -> None:
        before = belongings(store, "ada")
        for ids in (
            {each: ada.ids[each] for each in operation.ids},
            {each: (ada if each == name else eve).ids[each] for each in operation.ids},
        ):
            answer = call(visitor, operation, ids, eve.key)
            if operation.id == "listMessages" and ids.get("thread_id") == eve.ids["thread_id"]:
                assert answer.json["data"] == []  # Her thread has no messages of that run.
            else:
                assert answer.status_code in (403, 404), (answer.status_code, answer.text)
            assert ada.mark not in answer.text
        assert belongings(store, "ada") == before

    @pytest.mark.parametrize(("operation", "name"), TAKING_IDS, ids=name_of)
    def test_another_owners_identifier_is_answered_as_one_that_nothing_has(
        self,
        visitor: FlaskClient,
        store: Store,
        ada: Person,
        eve: Person,
        everybody: Person,
        operation: Operation,
        name: str,
    ) -> None:
        forms = [ada.ids[name]]
        if name in CONVERSATION_IDS:
            chat = next(each for each in store.list_owned("ada") if each.startswith("chat_"))
            forms = [chat, *(ada.ids[each] for each in CONVERSATION_IDS)]
        before = belongings(store, "ada")
        for person, form in ((person, form) for person in (eve, everybody) for form in forms):
            if person is everybody and form in (ada.ids["client_name"], ada.ids["session_id"]):
                continue  # It opens such names.
            for ids, other_ids in answered_alike(operation, name, form, ada, person):
                found, unknown = (call(visitor, operation, each, person.key) for each in (ids, other_ids))
                assert (found.status_code, found.data) == (unknown.status_code, unknown.data), (form, ids)
        assert belongings(store, "ada") == before

    @pytest.mark.parametrize(
        ("path", "name"),
        [
            ("/conversations/runs?client_name={client_name}&before={cursor}", "run_id"),
            ("/api/v1/assistants?after={cursor}", "assistant_id"),
            ("/api/v1/threads/{thread_id}/messages?after={cursor}", "message_id"),
            ("/api/v1/threads/{thread_id}/runs?before={cursor}", "run_id"),
            ("/api/v1/threads/{thread_id}/runs/{run_id}/steps?after={cursor}", "step_id"),
        ],
    )
    def test_another_owners_cursor_is_answered_as_one_that_nothing_has(
        self, visitor: FlaskClient, ada: Person, eve: Person, path: str, name: str
    ) -> None:
        other, never = (
            send(visitor, "GET", path.format(**eve.ids, cursor=each), eve.key)
            for each in (ada.ids[name], absent(ada.ids[name]))
        )
        assert (other.status_code, other.data) == (never.status_code, never.data)

    @pytest.mark.parametrize("operation", WITHOUT_IDS, ids=name_of)
    def test_what_takes_no_identifier_tells_nothing_of_others(
        self, visitor: FlaskClient, store: Store, ada: Person, eve: Person, operation: Operation
    ) -> None:
        before = belongings(store, "ada")
        answer = call(visitor, operation, {}, eve.key)
        assert answer.status_code == 200, answer.text
        assert ada.mark not in answer.text
        assert not [each for each in ada.ids.values() if len(each) > 8 and each in answer.text]
        assert belongings(store, "ada") == before

    @pytest.mark.parametrize("operation", [each for each in OPERATIONS if each.is_for_the_administrator], ids=name_of)
    def test_a_clients_key_manages_nothing(
        self, visitor: FlaskClient, store: Store, ada: Person, eve: Person, operation: Operation
    ) -> None:
        before = belongings(store, "ada"), store.list_records("key")
        for ids in (eve.ids, ada.ids):
            answer = call(visitor, operation, {each: ids[each] for each in operation.ids}, eve.key)
            assert answer.status_code in (403, 404)
            assert ada.mark not in answer.text
        assert (belongings(store, "ada"), store.list_records("key")) == before

    @pytest.mark.parametrize("operation", [each for each in OPERATIONS if not each.is_public], ids=name_of)
    def test_without_a_valid_key_nothing_opens(
        self,
        visitor: FlaskClient,
        store: Store,
        ada: Person,
        useless_keys: dict[str, str | None],
        operation: Operation,
    ) -> None:
        before = belongings(store, "ada")
        bodies = set()
        for number, key in enumerate(useless_keys.values()):
            # From addresses of their own, or there would soon be too many wrong keys.
            environ = {"REMOTE_ADDR": f"10.{number}.0.{next(FRESH) % 250}"}
            ids = {each: ada.ids[each] for each in operation.ids}
            visitor.environ_base.update(environ)
            answer = call(visitor, operation, ids, key)
            assert answer.status_code == 401, (operation.id, answer.text)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            bodies.add(answer.text)
        assert len(bodies) == 1
        assert belongings(store, "ada") == before

    @pytest.mark.parametrize("operation", [each for each in OPERATIONS if each.is_public], ids=name_of)
    def test_public_operations_need_no_key_and_tell_nothing(
        self, visitor: FlaskClient, ada: Person, operation: Operation
    ) -> None:
        answer = call(visitor, operation, {"dialect": "chat", "version": "v", "file": "f"}, None)
        assert answer.status_code not in (401, 403)
        assert not [each for each in ada.ids.values() if len(each) > 8 and each in answer.text]


class TestFurtherWays:
    def test_the_same_request_id_or_question_of_another_client_joins_nothing(
        self, visitor: FlaskClient, ada: Person, eve: Person
    ) -> None:
        for person, name in ((ada, "ada"), (eve, "eve")):
            body = {"client_name": name, "input": "the same", "request_id": "the same id"}
            answer = send(visitor, "POST", "/query", person.key, json=body, headers={"Prefer": "respond-async"})
            assert answer.status_code == 202
        runs = [
            send(visitor, "GET", f"/conversations/runs?client_name={name}", person.key).json["runs"][0]["id"]
            for person, name in ((ada, "ada"), (eve, "eve"))
        ]
        assert len(set(runs)) == 2

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("/chat", {"message": "the same"}),
            ("/chat/stream", {"message": "the same"}),
            ("/api/v1/chat", {"message": "the same"}),
            ("/api/v1/threads/runs", {"thread": {"messages": [{"role": "user", "content": "the same"}]}}),
        ],
    )
    def test_the_same_idempotency_key_of_another_client_finds_nothing(
        self, visitor: FlaskClient, store: Store, ada: Person, eve: Person, path: str, body: dict[str, Any]
    ) -> None:
        header = {"Idempotency-Key": f"sixteen characters at least for {path}"}
        before = set(store.list_owned("eve"))
        first = send(visitor, "POST", path, ada.key, json=body, headers=header)
        second = send(visitor, "POST", path, eve.key, json=body, headers=header)
        assert (first.status_code, second.status_code) == (200, 200)
        assert len(set(store.list_owned("eve")) - before) == 1

    def test_an_id_that_is_wrong_is_told_apart_from_an_address_that_does_not_exist(
        self, visitor: FlaskClient, ada: Person, eve: Person
    ) -> None:
        def refuse(method: str, path: str, key: str) -> str:
            answer = send(visitor, method, path, key)
            assert (answer.status_code, answer.json["code"]) == (404, "not_found")
            return str(answer.json["error"])

        absent = refuse("GET", f"/chat/stream/{'0' * len(ada.ids['stream_id'])}", eve.key)
        assert absent == refuse("GET", f"/chat/stream/{ada.ids['stream_id']}", eve.key)
        assert absent == refuse("GET", f"/conversations/runs?client_name={ada.ids['thread_id']}", eve.key)
        assert absent == refuse("DELETE", "/api-keys/key_unknown", ADMIN_KEY)
        assert "id or name" in absent
        for path in ("/nowhere", "/chat/nowhere", "/nowhere/openapi.json", "/redoc?document=nowhere"):
            assert "nothing at this address" in refuse("GET", path, eve.key)
        assert refuse("GET", "/metrics", eve.key) == refuse("GET", "/nowhere", eve.key)

    def test_reading_a_stream_from_a_position_needs_its_owner(
        self, visitor: FlaskClient, ada: Person, eve: Person
    ) -> None:
        path = f"/chat/stream/{ada.ids['stream_id']}"
        own = send(visitor, "GET", path, ada.key, headers={"Last-Event-ID": "3"})
        other = send(visitor, "GET", path, eve.key, headers={"Last-Event-ID": "3"})
        assert (own.status_code, other.status_code) == (200, 404)
        assert ada.mark not in other.text

    def test_a_search_finds_only_what_the_key_opens(self, visitor: FlaskClient, ada: Person, eve: Person) -> None:
        for key, found in ((ada.key, True), (eve.key, False), (ADMIN_KEY, True)):
            answer = send(visitor, "GET", f"/conversations?q={ada.mark}", key)
            assert (ada.mark in answer.text) == found

    def test_a_cursor_of_another_client_shows_only_own_things(
        self, visitor: FlaskClient, ada: Person, eve: Person
    ) -> None:
        cursor = send(visitor, "GET", "/conversations?limit=1", ada.key).json["next"]
        answer = send(visitor, "GET", f"/conversations?{urlencode({'before': cursor})}", eve.key)
        assert answer.status_code == 200
        assert ada.mark not in answer.text
        names = {each["client_name"] for each in answer.json["conversations"]}
        assert not names & set(ada.ids.values())

    def test_an_import_never_touches_what_others_have(
        self, visitor: FlaskClient, store: Store, ada: Person, eve: Person
    ) -> None:
        exported = send(visitor, "GET", "/conversations/export?client_name=ada", ada.key).data
        before = belongings(store, "ada")
        refused = send(visitor, "POST", "/conversations/import?client_name=ada", eve.key, data=exported)
        assert refused.status_code in (403, 415)
        file = {"data": exported, "content_type": "application/json"}
        assert send(visitor, "POST", "/conversations/import?client_name=ada", eve.key, **file).status_code == 403
        imported = send(visitor, "POST", "/conversations/import", eve.key, **file)
        assert imported.status_code == 200
        (conversation,) = imported.json["conversations"]
        assert conversation["client_name"] in store.list_owned("eve")
        assert belongings(store, "ada") == before

    @pytest.mark.parametrize("kind", ["client_name", "session_id", "thread_id"])
    def test_an_import_does_not_tell_which_names_and_runs_others_have(
        self, visitor: FlaskClient, ada: Person, eve: Person, kind: str
    ) -> None:
        exported = send(visitor, "GET", "/conversations/export?client_name=ada", ada.key).json
        (run,) = {each["id"] for each in exported["runs"]} & {each["run_id"] for each in exported["messages"][:1]}
        for name, run_id in ((ada.ids[kind], run), (absent(ada.ids[kind]), absent(run))):
            exported["conversation"]["client_name"] = name
            file = json.dumps(exported).replace(run, run_id).replace(run[4:], run_id[4:])
            sent = {"data": file, "content_type": "application/json"}
            answer = send(visitor, "POST", "/conversations/import?on_conflict=copy", eve.key, **sent)
            assert answer.status_code == 200, answer.text
            given = answer.json["conversations"][0]["client_name"]
            assert re.fullmatch("chat_[0-9a-f]{32}", given)
            runs = send(visitor, "GET", f"/conversations/runs?client_name={given}", eve.key).json["runs"]
            assert run_id not in {each["id"] for each in runs}

    def test_lists_have_what_a_key_opens_and_nothing_else(self, visitor: FlaskClient, ada: Person, eve: Person) -> None:
        def names(key: str) -> set[str]:
            listed = send(visitor, "GET", "/conversations?limit=100", key).json["conversations"]
            return {each["client_name"] for each in listed}

        assert {"ada", ada.ids["session_id"], ada.ids["thread_id"]} <= names(ada.key)
        assert not names(ada.key) & names(eve.key)
        assert names(ADMIN_KEY) >= names(ada.key) | names(eve.key)

    def test_a_key_is_told_what_it_opens(self, visitor: FlaskClient, ada: Person) -> None:
        team = create_key(visitor, "team-*")["key"]
        told = [send(visitor, "GET", "/caller", key).json for key in (ada.key, team, ADMIN_KEY)]
        assert told == [
            {"client_name": "ada", "is_admin": False},
            {"client_name": "team-*", "is_admin": False},
            {"client_name": "*", "is_admin": True},
        ]

    @pytest.mark.parametrize("scope", ["*", "thread_*", "c*", "e*"])
    def test_a_key_for_a_beginning_is_told_nothing_of_what_others_keys_created(
        self, visitor: FlaskClient, ada: Person, scope: str
    ) -> None:
        key = create_key(visitor, scope)["key"]
        session_id = send(visitor, "POST", "/api/sessions", key, json={}).json["session_id"]
        send(visitor, "POST", "/api/chat", key, json={"session_id": session_id, "message": "hello"})
        usage = send(visitor, "GET", "/conversations/usage", key).json["usage"]
        names = {each["client_name"] for each in usage}
        listed = send(visitor, "GET", "/conversations?limit=100", key).json["conversations"]
        names |= {each["client_name"] for each in listed}
        assert session_id in names
        assert not names & ({"", *ada.ids.values()} - {"ada"})

    def test_usage_is_told_of_what_a_key_opens(self, visitor: FlaskClient, ada: Person, eve: Person) -> None:
        for key, found in ((ada.key, True), (eve.key, False)):
            usage = send(visitor, "GET", "/conversations/usage", key).json["usage"]
            assert all(each["client_name"] for each in usage)
            assert (ada.ids["session_id"] in {each["client_name"] for each in usage}) == found

"""Names of the server's form: nobody takes one that the server will give to somebody else."""

from hashlib import sha256
from typing import Any

import pytest
from flask.testing import FlaskClient

from server.access.caller import Caller
from server.core.scope import Scope
from server.domain import new_id
from server.errors import NotFound
from server.store.memory import MemoryStore
from tests.access.people import ADMIN_KEY, create_key, send

KEY = "tuesday-morning-1"

UUID = "2b1c9a52-58a1-4f7e-9d0c-1f2e3d4c5b6a"


def derived(kind: str, text: str) -> str:
    return f"{kind}_{sha256(text.encode()).hexdigest()[:32]}"


CHATS = [
    ("/chat", "chat", {"message": "a secret"}),
    ("/chat/stream", "chat", {"message": "a secret"}),
    ("/api/v1/chat", "thread", {"message": "a secret"}),
    ("/api/v1/threads/runs", "thread", {"thread": {"messages": [{"role": "user", "content": "a secret"}]}}),
]
"""The operations that derive a name from an idempotency key, and the kind of name."""

PURPOSES = {"/chat": "chat", "/chat/stream": "chat", "/api/v1/chat": "message", "/api/v1/threads/runs": "run"}


def ask(client: FlaskClient, path: str, key: str, body: dict[str, Any], idempotency_key: str = KEY) -> int:
    return send(client, "POST", path, key, json=body, headers={"Idempotency-Key": idempotency_key}).status_code


class TestDerivedNames:
    @pytest.mark.parametrize(("path", "kind", "body"), CHATS)
    @pytest.mark.parametrize("scope", ["kim", "*", "chat_*", "thread_*"])
    def test_nobody_creates_the_conversation_of_anothers_idempotency_key(
        self, client: FlaskClient, store: MemoryStore, path: str, kind: str, body: dict[str, Any], scope: str
    ) -> None:
        kim, bob = create_key(client, scope)["key"], create_key(client, "bob")["key"]
        name = derived(kind, f"{PURPOSES[path]} {KEY}")
        for method, address, sent in (
            ("POST", "/query", {"json": {"client_name": name, "input": "planted"}}),
            ("POST", "/chat", {"json": {"client_name": name, "message": "planted"}}),
            ("POST", "/chat/stream", {"json": {"client_name": name, "message": "planted"}}),
            ("POST", "/model", {"json": {"client_name": name, "model": "scripted-demo"}}),
            ("PATCH", "/conversations/details", {"json": {"client_name": name, "title": "planted"}}),
            ("POST", f"/conversations/import?client_name={name}", {"json": [{"role": "user", "content": "planted"}]}),
        ):
            assert send(client, method, address, kim, **sent).status_code == 404
        assert store.get_conversation(name) is None
        assert ask(client, path, ADMIN_KEY, body) == ask(client, path, bob, body) == 200
        assert store.get_conversation(name).owner == ""  # type: ignore[union-attr]
        assert send(client, "GET", f"/history?client_name={name}", kim).status_code == 404

    @pytest.mark.parametrize(("path", "kind", "body"), CHATS)
    def test_a_name_that_another_has_already_is_not_used(
        self, client: FlaskClient, store: MemoryStore, path: str, kind: str, body: dict[str, Any]
    ) -> None:
        name = derived(kind, f"{PURPOSES[path]} {KEY}")
        store.create_conversation(name, None, {}, (), owner="kim")
        answer = send(client, "POST", path, ADMIN_KEY, json=body, headers={"Idempotency-Key": KEY})
        assert answer.status_code == 409
        assert "Idempotency-Key" in answer.text
        assert store.get_conversation(name).message_count == 0  # type: ignore[union-attr]
        assert ask(client, path, ADMIN_KEY, body, "another key of 16 or more") == 200

    def test_no_owner_and_key_have_the_name_of_another_owner_and_key(
        self, client: FlaskClient, store: MemoryStore
    ) -> None:
        kim, kim_x = create_key(client, "kim")["key"], create_key(client, "kim x")["key"]
        body = {"message": "a secret"}
        assert ask(client, "/chat", kim_x, body) == ask(client, "/chat", kim, body, f"x {KEY}") == 200
        (one,), (other,) = store.list_owned("kim"), store.list_owned("kim x")
        assert one != other

    def test_a_repeated_question_finds_its_reply(self, client: FlaskClient, store: MemoryStore) -> None:
        key = create_key(client, "kim")["key"]
        assert [ask(client, "/chat", key, {"message": "hello"}) for _ in range(2)] == [200] * 2
        (name,) = store.list_owned("kim")
        assert store.get_conversation(name).message_count == 2  # type: ignore[union-attr]

    def test_without_an_owner_a_name_is_that_of_earlier_versions(self, store: MemoryStore) -> None:
        name = Scope(store, Caller()).derive_name("chat", "chat", KEY)
        assert name == "chat_cdd288d8e436d2e43da456856acd3dce"

    def test_two_clients_of_one_conversation_have_titles_written_at_the_same_time(self, store: MemoryStore) -> None:
        callers = Caller(), Caller("team-*", "team-*"), Caller("team-a", "team-a")
        names = {Scope(store, each).derive_name("title", "team-a", "the same text") for each in callers}
        assert len(names) == 3


class TestGivenNames:
    @pytest.mark.parametrize("kind", ["chat", "thread", "session"])
    def test_a_name_is_given_for_one_request(self, store: MemoryStore, kind: str) -> None:
        caller = Caller("kim", "kim")
        scope = Scope(store, caller)
        name = scope.new_name(kind)
        scope.require(name)
        with pytest.raises(NotFound):
            Scope(store, caller).require(name)
        store.create_conversation(name, None, {}, (), owner="kim")
        Scope(store, caller).require(name)

    def test_an_open_server_keeps_no_list_of_names(self, store: MemoryStore) -> None:
        scope = Scope(store, Caller())
        scope.new_name("thread")
        assert scope._given == set()

    @pytest.mark.parametrize(("scope", "is_opened"), [("*", True), ("2b1c*", True), (UUID, True), ("kim", False)])
    def test_a_program_names_a_conversation_by_a_uuid_if_its_key_opens_that(
        self, client: FlaskClient, scope: str, is_opened: bool
    ) -> None:
        key = create_key(client, scope)["key"]
        answer = send(client, "POST", "/query", key, json={"client_name": UUID, "input": "hello"})
        assert answer.status_code == (200 if is_opened else 404)

    @pytest.mark.parametrize("kind", ["chat", "thread", "title"])
    def test_a_key_for_every_name_creates_none_of_the_servers_form(self, client: FlaskClient, kind: str) -> None:
        key = create_key(client, "*")["key"]
        body = {"client_name": new_id(kind), "input": "hello"}
        assert send(client, "POST", "/query", key, json=body).status_code == 404
        body["client_name"] = f"{kind}_of mine"
        assert send(client, "POST", "/query", key, json=body).status_code == 200


class TestKeysForUuids:
    @pytest.mark.parametrize("creator", ["administrator", "*"])
    def test_a_key_for_a_uuid_opens_it_whoever_created_it(self, client: FlaskClient, creator: str) -> None:
        creator_key = ADMIN_KEY if creator == "administrator" else create_key(client, creator)["key"]
        key = create_key(client, UUID)["key"]
        body = {"client_name": UUID, "input": "hello"}
        assert send(client, "POST", "/query", creator_key, json=body).status_code == 200
        assert len(send(client, "GET", f"/history?client_name={UUID}", key).json) == 2
        assert send(client, "POST", "/query", key, json={**body, "input": "more"}).status_code == 200
        listed = send(client, "GET", "/conversations", key).json["conversations"]
        assert [each["client_name"] for each in listed] == [UUID]

    @pytest.mark.parametrize("kind", ["chat", "thread", "title"])
    def test_a_key_for_a_name_that_the_server_alone_gives_is_refused(self, client: FlaskClient, kind: str) -> None:
        answer = send(client, "POST", "/api-keys", ADMIN_KEY, json={"client_name": new_id(kind)})
        assert (answer.status_code, answer.json["code"]) == (400, "invalid_request")
        assert "choose another client_name" in answer.json["error"]
        for client_name in (f"{new_id(kind)}*", f"{kind}_*", UUID):
            assert create_key(client, client_name)["client_name"] == client_name

"""Keys: how they are made, what they open, and when they stop."""

from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any

import orjson
import pytest
from flask.testing import FlaskClient

from server.access import keys
from server.access.caller import OPEN, Caller
from server.access.keys import Keys
from server.app import create_app
from server.domain import new_id
from server.http.authentication import ATTEMPTS, Attempts
from server.settings import Settings
from server.store.memory import MemoryStore
from server.store.protocol import Store
from tests.access.people import ADMIN_KEY, create_key, send
from tests.support.clock import Clock
from tests.support.replies import SteeredUpstream


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no other process whose requests a deletion would have to wait for."""
    monkeypatch.setattr(keys, "DELETION_SECONDS", 0.0)


@pytest.fixture
def open_client() -> FlaskClient:
    """Of a server without ADMIN_KEY."""
    return create_app(Settings(), store=MemoryStore(10), upstream=SteeredUpstream()).test_client()


def status(client: FlaskClient, key: str | None, name: str = "ada", **more: Any) -> int:
    return send(client, "GET", f"/history?client_name={name}", key, **more).status_code


class TestCreation:
    def test_a_key_has_a_prefix_and_is_shown_once(self, client: FlaskClient, store: Store) -> None:
        created = create_key(client, "ada")
        assert created["key"].startswith("ck_")
        assert len(created["key"]) == 3 + 43  # 32 random bytes.
        listed = send(client, "GET", "/api-keys", ADMIN_KEY)
        assert [each["id"] for each in listed.json["keys"]] == [created["id"]]
        assert created["key"] not in listed.text
        assert created["key"].encode() not in b"".join(store.list_records("key"))

    def test_no_two_keys_are_the_same(self, client: FlaskClient) -> None:
        assert len({create_key(client, "ada")["key"] for _ in range(20)}) == 20

    def test_a_key_tells_its_end_and_its_limits(self, client: FlaskClient) -> None:
        fields = {"expires_in_days": 2, "rate_limit": "60/minute", "daily_token_budget": 1000}
        created = create_key(client, "ada", **fields)
        assert (created["rate_limit"], created["daily_token_budget"]) == ("60/minute", 1000)
        assert created["expires_at"] > created["created_at"]
        assert "expires_at" not in create_key(client, "ada")

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"client_name": ""},
            {"client_name": "a\nb"},
            {"client_name": "x" * 257},
            {"client_name": "ada", "expires_in_days": 0},
            {"client_name": "ada", "rate_limit": "many"},
            {"client_name": "ada", "daily_token_budget": -1},
            {"client_name": "x*y"},
            {"client_name": "**"},
            {"client_name": "*x"},
            {"client_name": "ada", "budget": 3},
        ],
    )
    def test_what_is_no_key_is_refused(self, client: FlaskClient, body: dict[str, Any]) -> None:
        assert send(client, "POST", "/api-keys", ADMIN_KEY, json=body).status_code == 400
        assert send(client, "GET", "/api-keys", ADMIN_KEY).json == {"keys": []}

    @pytest.mark.parametrize(
        ("field", "value", "sentence"),
        [
            (
                "budget",
                3,
                "may have client_name, expires_in_days, rate_limit and daily_token_budget, but no other field.",
            ),
            ("rate_limit", "60/min", "10/second, 60/minute, 1000/hour or 5000/day."),
            ("rate_limit", "100001/day", "a number of at most 100000 and a time"),
            ("client_name", "a*b", "client_name has a control character, or a * that is not at its end; leave it out."),
        ],
    )
    def test_a_refusal_tells_what_to_change(self, client: FlaskClient, field: str, value: Any, sentence: str) -> None:
        refused = send(client, "POST", "/api-keys", ADMIN_KEY, json={"client_name": "ada", field: value})
        assert refused.status_code == 400
        assert sentence in refused.json["error"]

    def test_a_key_may_have_as_many_runs_as_the_server(self, client: FlaskClient) -> None:
        assert create_key(client, "ada", rate_limit="100000/day")["rate_limit"] == "100000/day"

    def test_an_open_server_has_no_keys_and_says_how_to_have_some(self, open_client: FlaskClient) -> None:
        for method, path in (("POST", "/api-keys"), ("GET", "/api-keys"), ("DELETE", "/clients?client_name=ada")):
            answer = open_client.open(path, method=method, json={"client_name": "ada"})
            assert answer.status_code == 403
            assert "ADMIN_KEY" in answer.json["error"]


class TestOpening:
    @pytest.mark.parametrize(
        ("scope", "opened", "closed"),
        [
            ("ada", ["ada"], ["ad", "adam", "ADA", "Ada", " ada", "ada*", "a", "*"]),
            ("team-*", ["team-", "team-a", "team-*"], ["team", "tea", "Team-a", "x team-a"]),
            ("*", ["ada", "*", "e"], []),
            ("고양이*", ["고양이", "고양이 둘"], ["고양", "개"]),
        ],
    )
    def test_a_key_opens_one_name_or_those_with_a_beginning(
        self, client: FlaskClient, scope: str, opened: list[str], closed: list[str]
    ) -> None:
        key = create_key(client, scope)["key"]
        assert {name: status(client, key, name) for name in opened} == dict.fromkeys(opened, 200)
        assert {name: status(client, key, name) for name in closed} == dict.fromkeys(closed, 403)

    @pytest.mark.parametrize("scope", ["*", "t*", "thread_*"])
    def test_a_beginning_does_not_open_what_the_server_named_for_others(self, scope: str) -> None:
        caller = Caller(scope, scope)
        for name in (new_id("thread"), new_id("chat"), "2b1c9a52-58a1-4f7e-9d0c-1f2e3d4c5b6a"):
            assert not caller.opens(name, "")
            assert not caller.opens(name, "ada")
            assert caller.opens(name, scope)
            assert OPEN.opens(name, "ada")

    @pytest.mark.parametrize(
        "headers",
        [
            {"Authorization": "Bearer KEY"},
            {"Authorization": "bearer  KEY "},
            {"X-API-Key": "KEY"},
            {"Authorization": "Basic abc", "X-API-Key": "KEY"},
        ],
    )
    def test_a_key_comes_in_one_of_two_headers(self, client: FlaskClient, headers: dict[str, str]) -> None:
        key = create_key(client, "ada")["key"]
        sent = {name: value.replace("KEY", key) for name, value in headers.items()}
        assert status(client, None, headers=sent) == 200

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Authorization": "KEY"},
            {"Authorization": "Basic KEY"},
            {"Authorization": "Bearer"},
            {"X-API-Key": ""},
            {"Cookie": "key=KEY"},
            {"Authorization": "Bearer KEYx"},
            {"Authorization": "Bearer k\udcffy"},
        ],
    )
    def test_nothing_else_is_a_key(self, client: FlaskClient, headers: dict[str, str]) -> None:
        key = create_key(client, "ada")["key"]
        sent = {name: value.replace("KEY", key).encode("utf-8", "surrogateescape") for name, value in headers.items()}
        decoded = {name: value.decode("latin-1") for name, value in sent.items()}
        assert status(client, None, headers=decoded) == 401

    def test_a_key_in_the_address_is_none(self, client: FlaskClient) -> None:
        key = create_key(client, "ada")["key"]
        assert client.get(f"/history?client_name=ada&key={key}&api_key={key}").status_code == 401

    def test_keys_of_one_client_share_what_it_has(self, client: FlaskClient) -> None:
        old, new = create_key(client, "ada")["key"], create_key(client, "ada")["key"]
        session_id = send(client, "POST", "/api/sessions", old, json={}).json["session_id"]
        assert send(client, "GET", f"/api/sessions/{session_id}", new).status_code == 200

    def test_the_administrator_opens_everything(self, client: FlaskClient) -> None:
        key = create_key(client, "ada")["key"]
        session_id = send(client, "POST", "/api/sessions", key, json={}).json["session_id"]
        assert status(client, ADMIN_KEY) == 200
        assert send(client, "GET", f"/api/sessions/{session_id}", ADMIN_KEY).status_code == 200

    def test_a_clients_key_does_not_open_what_the_administrator_made(self, client: FlaskClient) -> None:
        key = create_key(client, "*")["key"]
        session_id = send(client, "POST", "/api/sessions", ADMIN_KEY, json={}).json["session_id"]
        assert send(client, "GET", f"/api/sessions/{session_id}", key).status_code == 404


class TestEnd:
    def test_a_deleted_key_opens_nothing(self, client: FlaskClient) -> None:
        created = create_key(client, "ada")
        assert status(client, created["key"]) == 200
        assert send(client, "DELETE", f"/api-keys/{created['id']}", ADMIN_KEY).status_code == 200
        assert status(client, created["key"]) == 401
        assert send(client, "DELETE", f"/api-keys/{created['id']}", ADMIN_KEY).status_code == 404

    def test_a_key_that_another_process_deleted_opens_nothing_after_a_second(self, clock: Clock, store: Store) -> None:
        keys, others = Keys(store, ADMIN_KEY, clock), Keys(store, ADMIN_KEY, clock)
        key, text = keys.create("ada", None, None, None)
        assert keys.find_caller(text) is not None
        others.delete(key.id)
        clock.now += 1.0
        assert keys.find_caller(text) is None

    def test_the_keys_of_a_client_are_deleted_once_no_process_takes_them(
        self, clock: Clock, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def sleep(seconds: float) -> None:
            assert others.find_caller(text) is not None
            clock.now += seconds

        monkeypatch.undo()
        own, others = Keys(store, ADMIN_KEY, clock, sleep), Keys(store, ADMIN_KEY, clock)
        _, text = own.create("ada", None, None, None)
        assert others.find_caller(text) is not None
        assert own.delete_of("ada") == 1
        assert others.find_caller(text) is None

    def test_an_expired_key_opens_nothing(self, clock: Clock, store: Store) -> None:
        keys = Keys(store, ADMIN_KEY, clock)
        _, text = keys.create("ada", 2, None, None)
        clock.now += 2 * 86_400 - 1
        assert keys.find_caller(text) is not None
        clock.now += 1
        assert keys.find_caller(text) is None

    def test_a_client_is_deleted_with_all_that_it_has(self, client: FlaskClient, store: Store) -> None:
        key, other = create_key(client, "ada")["key"], create_key(client, "eve")["key"]
        for one, name in ((key, "ada"), (other, "eve")):
            send(client, "POST", "/query", one, json={"client_name": name, "input": "hello"})
            send(client, "POST", "/api/sessions", one, json={})
            send(client, "POST", "/api/v1/assistants", one, json={"model": "scripted-demo"})
            send(client, "POST", "/chat", one, json={"message": "hello"})
        answer = send(client, "DELETE", "/clients?client_name=ada", ADMIN_KEY)
        counts = {"keys": 1, "conversations": 3, "messages": 4, "runs": 2, "assistants": 1}
        assert answer.json == {"client_name": "ada", "deleted": counts}
        assert list(store.list_owned("ada")) == []
        assert store.get_conversation("ada") is None
        assert len(store.list_owned("eve")) == 3
        assert (status(client, key), status(client, other, "eve")) == (401, 200)
        again = send(client, "DELETE", "/clients?client_name=ada", ADMIN_KEY)
        assert again.json["deleted"] == dict.fromkeys(counts, 0)

    def test_a_client_with_a_beginning_is_deleted_with_all_of_its_names(
        self, client: FlaskClient, store: Store
    ) -> None:
        create_key(client, "team-*")
        for name in ("team-a", "team-b", "tea"):
            send(client, "POST", "/query", ADMIN_KEY, json={"client_name": name, "input": "hello"})
        answer = send(client, "DELETE", "/clients?client_name=team-*", ADMIN_KEY)
        assert answer.json["deleted"]["conversations"] == 2
        assert store.get_conversation("tea") is not None


class TestUsage:
    def spend(self, client: FlaskClient, key: str, name: str) -> list[str]:
        """Questions by name, in a session and in a chat without a name. Returns what usage calls the first two."""
        send(client, "POST", "/query", key, json={"client_name": name, "input": "hello"})
        session_id = send(client, "POST", "/api/sessions", key, json={}).json["session_id"]
        send(client, "POST", "/api/chat", key, json={"session_id": session_id, "message": "hello"})
        send(client, "POST", "/chat", key, json={"message": "hello"})
        return sorted([name, session_id])

    def usage(self, client: FlaskClient, name: str) -> tuple[list[str], int]:
        """The names that are told, and the number of questions."""
        told = send(client, "GET", f"/usage?client_name={name}", ADMIN_KEY).json
        return sorted(each["client_name"] for each in told["usage"]), told["total"]["questions"]

    def test_a_client_has_spent_what_its_keys_have(self, client: FlaskClient) -> None:
        ada, team = create_key(client, "ada")["key"], create_key(client, "team-*")["key"]
        adas, teams = self.spend(client, ada, "ada"), self.spend(client, team, "team-a")
        assert self.usage(client, "ada") == (adas, 2)
        assert self.usage(client, "team-*") == (teams, 2)
        assert self.usage(client, "team-a") == (["team-a"], 1)
        assert self.usage(client, "tea") == ([], 0)

    def test_no_question_is_counted_twice(self, client: FlaskClient) -> None:
        names = self.spend(client, create_key(client, "*")["key"], "ada")
        assert self.usage(client, "*") == (names, 2)
        assert send(client, "GET", "/usage", ADMIN_KEY).json["total"]["questions"] == 3

    def test_only_the_administrator_is_told(self, client: FlaskClient) -> None:
        key = create_key(client, "team-*")["key"]
        assert send(client, "GET", "/usage?client_name=team-*", key).status_code == 403


AtOnce = Callable[..., Any]


class SlowBody(BytesIO):
    """A body before whose end something happens."""

    def __init__(self, content: bytes, happen: Callable[[], object]) -> None:
        super().__init__(content)
        self._happen = happen

    def readinto(self, buffer: Any) -> int:
        self._happen()
        self._happen = lambda: None
        return super().readinto(buffer)


CREATE = [
    ("POST", "/query", {"client_name": "ada", "input": "hello"}),
    ("POST", "/model", {"client_name": "ada", "model": "scripted-demo"}),
    ("PATCH", "/conversations/details", {"client_name": "ada", "title": "mine"}),
    ("POST", "/conversations/import", [{"role": "user", "content": "hello"}]),
    ("POST", "/conversations/import?client_name=ada", [{"role": "user", "content": "hello"}]),
    ("POST", "/chat", {"message": "hello"}),
    ("POST", "/chat", {"message": "hello", "client_name": "ada"}),
    ("POST", "/chat/stream", {"message": "hello"}),
    ("POST", "/api/sessions", {}),
    ("POST", "/api/v1/assistants", {"model": "scripted-demo"}),
    ("POST", "/api/v1/threads", {}),
    ("POST", "/api/v1/threads/runs", {}),
    ("POST", "/api/v1/chat", {"message": "hello"}),
]
"""Requests that create something for the client ada."""


class TestRequestsDuringADeletion:
    @pytest.mark.parametrize(("method", "path", "body"), CREATE)
    def test_a_request_that_was_let_in_before_creates_nothing_afterwards(
        self, client: FlaskClient, store: Store, at_once: AtOnce, method: str, path: str, body: Any
    ) -> None:
        key = create_key(client, "ada")["key"]
        content = orjson.dumps(body)
        delete = partial(at_once, send, client, "DELETE", "/clients?client_name=ada", ADMIN_KEY)
        stream = SlowBody(content, lambda: delete().result())
        more = {"content_type": "application/json", "content_length": len(content)}
        answer = send(client, method, path, key, input_stream=stream, **more)
        assert answer.status_code == 401, answer.text
        assert list(store.list_owned("ada")) == list(store.list_records("assistant of ada")) == []
        assert store.get_conversation("ada") is None

    @pytest.mark.parametrize(("method", "path", "body"), CREATE)
    def test_with_its_key_the_same_request_creates_something(
        self, client: FlaskClient, store: Store, method: str, path: str, body: Any
    ) -> None:
        key = create_key(client, "ada")["key"]
        assert send(client, method, path, key, json=body).status_code == 200
        assert list(store.list_owned("ada")) or list(store.list_records("assistant of ada"))


class TestAttempts:
    def test_more_than_ten_wrong_keys_a_minute_are_refused_and_a_right_one_passes(self, client: FlaskClient) -> None:
        key = create_key(client, "ada")["key"]
        wrong = [status(client, f"ck_wrong{number}") for number in range(ATTEMPTS + 2)]
        assert wrong == [401] * ATTEMPTS + [429] * 2
        refused = send(client, "GET", "/history?client_name=ada", "ck_wrong")
        assert refused.json["code"] == "too_many_attempts"
        assert 0 < int(refused.headers["Retry-After"]) <= 60
        assert (status(client, key), status(client, None)) == (200, 401)
        assert status(client, "ck_wrong", environ_base={"REMOTE_ADDR": "10.0.0.9"}) == 401

    def test_a_minute_later_an_address_may_try_again(self, clock: Clock) -> None:
        attempts = Attempts(clock)
        assert [attempts.take("10.0.0.1") for _ in range(ATTEMPTS + 1)] == [True] * ATTEMPTS + [False]
        clock.now += 60
        assert attempts.take("10.0.0.1")

    def test_a_subscriber_of_ipv6_counts_as_one_address(self, clock: Clock) -> None:
        attempts = Attempts(clock)
        taken = [attempts.take(f"2001:db8:0:1::{number:x}") for number in range(ATTEMPTS + 1)]
        assert taken == [True] * ATTEMPTS + [False]
        assert attempts.take("2001:db8:0:2::1")
        assert attempts.take("unix:")

    def test_each_address_of_ipv4_counts_on_its_own_on_a_server_that_listens_on_ipv6(self, clock: Clock) -> None:
        attempts = Attempts(clock)
        taken = [attempts.take("::ffff:10.0.0.1") for _ in range(ATTEMPTS + 1)]
        assert taken == [True] * ATTEMPTS + [False]
        assert attempts.take("::ffff:10.0.0.2")
        assert not attempts.take("10.0.0.1")

    def test_so_many_addresses_are_counted_that_memory_stays_bounded(self, clock: Clock) -> None:
        attempts = Attempts(clock)
        for number in range(20_000):
            attempts.take(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
        assert len(attempts._times) <= 10_000


class TestDocuments:
    def test_the_contract_says_that_a_key_is_needed_once_the_server_is_protected(
        self, client: FlaskClient, open_client: FlaskClient
    ) -> None:
        for asked, security in ((client, [{"bearer": []}]), (open_client, [{"bearer": []}, {}])):
            document = asked.get("/openapi.json").json
            assert document["security"] == security
            assert list(document["components"]["securitySchemes"]) == ["bearer"]

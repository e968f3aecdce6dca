"""The chat dialect, as a caller sees it. What its streams share with those of other dialects is in test_streams."""

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import orjson
import pytest
from flask import Flask
from flask.testing import FlaskClient

from server import errors
from server.domain import Run, RunOptions, ToolCall, Usage
from server.runs import live
from server.runs.runner import Runner
from server.settings import Settings
from server.store.memory import MemoryStore
from server.upstream.protocol import Completion
from tests.support.clock import Clock
from tests.support.replies import PATIENCE_SECONDS, ScriptedReplies, SteeredUpstream

AtOnce = Callable[..., Any]

HISTORY = [{"role": "user", "content": "My cat is called Grace."}, {"role": "assistant", "content": "멋지네요."}]
LOGPROBS = [{"token": "ok", "logprob": -0.5, "bytes": [111, 107], "top_logprobs": []}]
SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "cat", "schema": {"type": "object", "properties": {"name": {"type": "string"}}}},
}


@pytest.fixture
def replies() -> ScriptedReplies:
    return ScriptedReplies("slow", "slower")


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(1000, clock)


def chat(client: FlaskClient, message: str = "hi", headers: Any = None, **more: Any) -> Any:
    return client.post("/chat", json={"message": message, **more}, headers=headers)


def start(client: FlaskClient, message: str = "hi", headers: Any = None, **more: Any) -> Any:
    return client.post("/chat/stream", json={"message": message, **more}, headers=headers)


def frames(client: FlaskClient, stream_id: str) -> list[dict[str, Any]]:
    answer = client.get(f"/chat/stream/{stream_id}")
    return [json.loads(each) for each in re.findall(r"^data: (.*)$", answer.get_data(as_text=True), re.MULTILINE)]


def contents(client: FlaskClient, name: str = "ada") -> list[str]:
    return [each["content"] for each in client.get("/history", query_string={"client_name": name}).json]


def sent_messages(upstream: SteeredUpstream) -> list[tuple[str, str]]:
    """Role and content of each message of the newest upstream request."""
    return [(each["role"], each["content"]) for each in orjson.loads(upstream.requests[-1].messages)]


@pytest.fixture(params=["/chat", "/chat/stream"])
def ask(request: pytest.FixtureRequest, client: FlaskClient) -> Callable[..., Any]:
    """Asks through each of the two operations."""

    def ask(message: str = "hi", headers: Any = None, **more: Any) -> Any:
        return client.post(request.param, json={"message": message, **more}, headers=headers)

    return ask


class TestAnswer:
    def test_a_question_is_answered_with_what_it_cost_and_who_answered(self, client: FlaskClient) -> None:
        answer = chat(client, "안녕")
        assert answer.status_code == 200
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", answer.json.pop("timestamp"))
        assert {**answer.json, "timestamp": None} == {
            "response": "re: 안녕",
            "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
            "model": "scripted-demo",
            "timestamp": None,
        }
        assert "re: 안녕".encode() in answer.data

    def test_an_upstream_that_counts_no_tokens_leaves_the_usage_empty(
        self, client: FlaskClient, replies: ScriptedReplies
    ) -> None:
        replies.say("slow", "ok", Completion("other-model", None))
        answer = chat(client, "slow")
        assert (answer.json["usage"], answer.json["model"]) == (None, "other-model")

    def test_what_was_said_before_is_sent_along_in_its_order(
        self, client: FlaskClient, upstream: SteeredUpstream
    ) -> None:
        chat(client, "What is my cat called?", conversation_history=HISTORY)
        assert sent_messages(upstream) == [
            ("user", "My cat is called Grace."),
            ("assistant", "멋지네요."),
            ("user", "What is my cat called?"),
        ]

    def test_a_greeting_before_the_first_question_is_sent_along(
        self, client: FlaskClient, upstream: SteeredUpstream
    ) -> None:
        chat(client, "hi", conversation_history=[{"role": "assistant", "content": "How can I help?"}, *HISTORY])
        assert sent_messages(upstream)[0] == ("assistant", "How can I help?")
        assert len(sent_messages(upstream)) == 4

    def test_a_chat_knows_nothing_of_another(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
        chat(client, "secret")
        chat(client, "hi")
        assert sent_messages(upstream) == [("user", "hi")]

    def test_a_clients_chat_belongs_to_its_conversation(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
        chat(client, "first", client_name="ada")
        chat(client, "second", client_name="ada")
        assert contents(client) == ["first", "re: first", "second", "re: second"]
        assert sent_messages(upstream)[:2] == [("user", "first"), ("assistant", "re: first")]

    def test_it_is_written_to_its_end_though_nobody_waits(self, app: Flask, replies: ScriptedReplies) -> None:
        client = app.test_client()
        stream_id = start(client, "slow", client_name="ada").json["stream_id"]
        replies.end("slow", "done")
        app.extensions["runner"].wait(stream_id, PATIENCE_SECONDS, lambda: False)
        assert contents(client) == ["slow", "done"]

    def test_null_is_as_good_as_nothing(self, ask: Any, upstream: SteeredUpstream, client: FlaskClient) -> None:
        properties = json.loads(client.get("/chat/openapi.json").data)["components"]["schemas"]["Question"][
            "properties"
        ]
        answer = ask(**dict.fromkeys(set(properties) - {"message"}))
        assert answer.status_code == 200


class TestSettingsOfOneQuestion:
    def test_they_are_sent_and_not_kept(self, client: FlaskClient, upstream: Any) -> None:
        upstream.list_models = lambda: [{"id": "m1"}]
        chat(client, "hi", client_name="ada", model="m1", system_prompt="Be brief.", temperature=0.5, max_tokens=5)
        call = upstream.requests[-1]
        assert (call.model, call.parameters) == ("m1", {"temperature": 0.5, "max_completion_tokens": 5})
        assert sent_messages(upstream)[0] == ("system", "Be brief.")
        chat(client, "ho", client_name="ada")
        call = upstream.requests[-1]
        assert (call.model, call.parameters) == ("scripted-demo", {})
        assert sent_messages(upstream)[0] == ("user", "hi")
        assert client.get("/model", query_string={"client_name": "ada"}).json == {"model": "scripted-demo"}

    def test_a_clients_model_answers_where_none_is_named(self, client: FlaskClient, upstream: Any) -> None:
        upstream.list_models = lambda: [{"id": "m1"}]
        client.post("/model", json={"client_name": "ada", "model": "m1"})
        assert chat(client, client_name="ada").json["model"] == "m1"

    class TestBesidesThoseOfTheServer:
        @pytest.fixture
        def settings(self) -> Settings:
            return Settings(system_prompt="Be kind.", default_temperature=0.1, default_max_tokens=9)

        def test_they_stand_in_for_the_servers_own(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
            chat(client, system_prompt="Be brief.", temperature=2)
            assert sent_messages(upstream) == [("system", "Be brief."), ("user", "hi")]
            assert upstream.requests[-1].parameters == {"temperature": 2, "max_completion_tokens": 9}
            chat(client)
            assert sent_messages(upstream)[0] == ("system", "Be kind.")
            assert upstream.requests[-1].parameters == {"temperature": 0.1, "max_completion_tokens": 9}

        def test_an_empty_system_prompt_is_none(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
            chat(client, system_prompt="")
            assert sent_messages(upstream) == [("user", "hi")]

    @pytest.mark.parametrize("form", [{"type": "json_object"}, {"type": "text"}, SCHEMA])
    def test_the_form_of_the_reply_is_asked_for_as_it_came(
        self, client: FlaskClient, upstream: SteeredUpstream, form: Any
    ) -> None:
        assert chat(client, response_format=form).status_code == 200
        assert upstream.requests[-1].parameters == {"response_format": form}

    def test_a_number_of_tokens_is_sent_as_a_whole_number(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
        client.post("/chat", data='{"message": "hi", "max_tokens": 5.0}', content_type="application/json")
        assert orjson.dumps(upstream.requests[-1].parameters) == b'{"max_completion_tokens":5}'

    def test_logprobs_are_told_where_they_were_asked_for(
        self, client: FlaskClient, upstream: SteeredUpstream, replies: ScriptedReplies
    ) -> None:
        replies.say("slow", "ok", Completion(None, None, logprobs=LOGPROBS))
        assert chat(client, "slow", logprobs=True).json["logprobs"] == LOGPROBS
        assert upstream.requests[-1].parameters == {"logprobs": True}
        assert chat(client, logprobs=True).json["logprobs"] is None  # This upstream tells none.
        assert "logprobs" not in chat(client).json
        assert "logprobs" not in chat(client, logprobs=False).json
        assert upstream.requests[-1].parameters == {}

    def test_asking_for_other_tokens_asks_for_logprobs(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
        assert chat(client, top_logprobs=3).json["logprobs"] is None
        assert upstream.requests[-1].parameters == {"logprobs": True, "top_logprobs": 3}

    def test_logprobs_come_with_the_end_of_a_stream(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        replies.say("slow", "ok", Completion(None, Usage(1, 2, 3), logprobs=LOGPROBS))
        stream_id = start(client, "slow", logprobs=True).json["stream_id"]
        assert frames(client, stream_id)[-1] == {
            "type": "END",
            "full_content": "ok",
            "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
            "logprobs": LOGPROBS,
        }

    def test_a_model_that_is_not_offered_is_refused_and_nothing_is_made(
        self, ask: Any, upstream: SteeredUpstream, store: MemoryStore
    ) -> None:
        for name in ({}, {"client_name": "ada"}):
            answer = ask(model="gpt-4", **name)
            assert (answer.status_code, answer.json["code"]) == (400, "unknown_model")
        assert not upstream.requests
        assert not store._table.states

    def test_any_model_is_taken_where_the_list_cannot_be_had(self, ask: Any, upstream: Any) -> None:
        def models() -> Any:
            raise errors.UpstreamUnreachable

        upstream.list_models = models
        assert ask(model="any").status_code == 200


class TestWithoutAName:
    @pytest.fixture
    def settings(self) -> Settings:
        return Settings(stream_ttl_seconds=90)

    def test_it_can_be_read_for_a_while_after_its_end_and_is_forgotten_then(
        self, client: FlaskClient, clock: Clock, store: MemoryStore
    ) -> None:
        stream_id = start(client).json["stream_id"]
        assert frames(client, stream_id)[-1]["type"] == "END"
        clock.now += 90
        assert frames(client, stream_id)[-1]["type"] == "END"
        clock.now += 91
        assert client.get(f"/chat/stream/{stream_id}").status_code == 404
        store.sweep()
        assert not store._table.states
        assert not store._table.run_names

    def test_a_reply_that_is_being_written_is_not_forgotten(
        self, client: FlaskClient, clock: Clock, replies: ScriptedReplies, store: MemoryStore
    ) -> None:
        stream_id = start(client, "slow").json["stream_id"]
        clock.now += 1000
        store.sweep()
        replies.end("slow", "at last")
        assert frames(client, stream_id)[-1]["full_content"] == "at last"

    def test_nobody_can_guess_where_it_lives(self, client: FlaskClient, store: MemoryStore) -> None:
        chat(client, conversation_history=HISTORY)
        chat(client)
        assert [bool(re.fullmatch(r"chat_[0-9a-f]{32}", name)) for name in store._table.states] == [True, True]

    def test_a_clients_conversation_is_never_forgotten(self, client: FlaskClient, clock: Clock) -> None:
        chat(client, client_name="ada")
        clock.now += 1_000_000
        assert contents(client) == ["hi", "re: hi"]

    def test_a_name_and_a_history_exclude_each_other(self, ask: Any, upstream: SteeredUpstream) -> None:
        answer = ask(client_name="ada", conversation_history=HISTORY)
        assert answer.status_code == 400
        assert answer.json["error"] == "The body must not have client_name and conversation_history together."
        assert not upstream.requests

    def test_a_name_with_a_history_of_nothing_is_a_name(self, ask: Any, client: FlaskClient) -> None:
        assert ask(client_name="ada", conversation_history=[]).status_code == 200


class TestRequestId:
    def test_it_is_exact_within_the_clients_conversation(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        for _ in range(3):
            assert chat(client, client_name="ada", request_id="1").json["response"] == "re: hi"
        assert chat(client, client_name="ada", headers={"Idempotency-Key": "1"}).status_code == 200
        first = start(client, client_name="ada", request_id="1").json["stream_id"]
        assert first == start(client, client_name="ada", headers={"Idempotency-Key": "1"}).json["stream_id"]
        assert replies.calls == ["hi"]

    def test_another_question_under_the_same_id_is_409(self, ask: Any) -> None:
        ask("hi", client_name="ada", request_id="1")
        answer = ask("ho", client_name="ada", request_id="1")
        assert (answer.status_code, answer.json["code"]) == (409, "request_id_conflict")

    @pytest.mark.parametrize(
        ("more", "headers"), [({"request_id": "1"}, {}), ({}, {"Idempotency-Key": "1"})], ids=["body", "header"]
    )
    def test_without_a_name_it_is_refused_since_nothing_would_come_of_it(
        self, ask: Any, replies: ScriptedReplies, more: Any, headers: Any
    ) -> None:
        answer = ask(headers=headers, **more)
        assert (answer.status_code, answer.json["code"]) == (400, "invalid_request")
        assert "client_name" in answer.json["error"]
        assert replies.calls == []


def test_a_chat_without_a_name_that_is_gone_before_its_question_is_not_made_to_last(
    ask: Any, store: MemoryStore, replies: ScriptedReplies, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = store.create_conversation

    def make_and_forget(name: str, *arguments: Any, **more: Any) -> Any:
        run = create(name, *arguments, **more)
        store.delete_conversation(name)
        return run

    monkeypatch.setattr(store, "create_conversation", make_and_forget)
    answer = ask()
    assert (answer.status_code, answer.json["code"]) == (503, "store_full")
    assert not store._table.states
    assert replies.calls == []


class TestKeyWithoutAName:
    KEY: ClassVar = {"Idempotency-Key": "0123456789abcdef"}

    def test_the_same_key_finds_the_same_reply(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        first, second = (chat(client, headers=self.KEY, conversation_history=HISTORY).json for _ in range(2))
        assert first == second
        assert start(client, headers=self.KEY).json == start(client, headers=self.KEY).json
        assert replies.calls == ["hi"]

    def test_what_came_with_the_question_comes_with_it_once(
        self, client: FlaskClient, replies: ScriptedReplies, upstream: SteeredUpstream
    ) -> None:
        replies.fail("slow", errors.UpstreamFailed())
        assert chat(client, "slow", headers=self.KEY, conversation_history=HISTORY).status_code == 502
        replies.end("slow", "at last")
        again = chat(client, "slow", headers=self.KEY, conversation_history=HISTORY)
        assert again.json["response"] == "at last"
        said = [(each["role"], each["content"]) for each in HISTORY]
        assert sent_messages(upstream) == [*said, ("user", "slow")]

    def test_two_requests_at_once_are_one_question(
        self, client: FlaskClient, replies: ScriptedReplies, at_once: AtOnce
    ) -> None:
        asked = [at_once(chat, client, "slow", headers=self.KEY) for _ in range(8)]
        replies.await_call("slow")
        replies.end("slow", "once")
        assert {each.result(PATIENCE_SECONDS).json["response"] for each in asked} == {"once"}
        assert replies.calls == ["slow"]

    def test_another_message_under_the_same_key_is_409(self, ask: Any, replies: ScriptedReplies) -> None:
        ask("hi", headers=self.KEY)
        answer = ask("ho", headers=self.KEY)
        assert (answer.status_code, answer.json["code"]) == (409, "request_id_conflict")
        assert "ho" not in replies.calls

    def test_another_key_is_another_question(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        for key in ("k" * 16, "j" * 16, "k" * 200):
            assert chat(client, headers={"Idempotency-Key": key}).status_code == 200
        assert replies.calls == ["hi"] * 3

    @pytest.mark.parametrize("key", ["", "k", "k" * 15, "k" * 201], ids=len)
    def test_a_key_of_another_length_is_400_and_asks_nothing(
        self, ask: Any, replies: ScriptedReplies, key: str
    ) -> None:
        answer = ask(headers={"Idempotency-Key": key})
        assert (answer.status_code, answer.json["code"]) == (400, "invalid_request")
        assert "Idempotency-Key" in answer.json["error"]
        assert replies.calls == []

    def test_without_a_key_a_second_call_is_a_second_question(
        self, client: FlaskClient, replies: ScriptedReplies
    ) -> None:
        for _ in range(2):
            assert chat(client).status_code == 200
        assert replies.calls == ["hi", "hi"]


class TestFailures:
    @pytest.mark.parametrize(
        ("kind", "status"),
        [
            (errors.UpstreamUnreachable, 502),
            (errors.UpstreamRateLimited, 502),
            (errors.UpstreamTimedOut, 504),
            (errors.NotConfigured, 503),
            (errors.ContextTooLong, 400),
            (errors.InternalError, 500),
        ],
    )
    def test_each_has_its_status_and_the_sentence_twice(
        self, client: FlaskClient, replies: ScriptedReplies, kind: type[errors.AppError], status: int
    ) -> None:
        replies.fail("slow", kind())
        answer = chat(client, "slow")
        assert answer.status_code == status
        assert answer.json == {"error": kind.sentence, "code": kind.code, "detail": kind.sentence}

    def test_a_failure_is_the_last_frame_of_a_stream(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        replies.say("slow", "half")
        replies.fail("slow", errors.UpstreamCut())
        first, chunk, last = frames(client, start(client, "slow").json["stream_id"])
        assert (first["type"], chunk["content"]) == ("START", "half")
        assert last == {"type": "ERROR", "error": errors.UpstreamCut.sentence, "code": "upstream_cut"}

    def test_a_store_that_fails_is_503(self, ask: Any, store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object, **__: object) -> None:
            raise errors.StoreUnavailable

        monkeypatch.setattr(store, "create_run", fail)
        answer = ask(client_name="ada")
        assert (answer.status_code, answer.json["code"]) == (503, "store_unavailable")

    def test_who_waits_for_a_reply_that_is_stopped_gets_409(
        self, app: Flask, replies: ScriptedReplies, at_once: AtOnce, store: MemoryStore
    ) -> None:
        client = app.test_client()
        waiting = at_once(chat, app.test_client(), "slow", client_name="ada")
        replies.await_call("slow")
        (run,) = store.list_runs("ada", None, 1)
        assert client.delete(f"/chat/stream/{run.id}").status_code == 200
        assert (waiting.result().status_code, waiting.result().json["code"]) == (409, "run_cancelled")

    def test_a_busy_conversation_refuses_one_more(self, ask: Any, app: Flask, replies: ScriptedReplies) -> None:
        runner = app.extensions["runner"]
        runner.create(Run("slow", conversation="ada"))
        for n in range(32):
            runner.create(Run(f"q{n}", conversation="ada"))
        answer = ask("one more", client_name="ada")
        assert (answer.status_code, answer.json["code"]) == (429, "conversation_busy")
        replies.end("slow", "ok")

    def test_a_reply_that_takes_too_long_is_504(
        self,
        app: Flask,
        client: FlaskClient,
        replies: ScriptedReplies,
        at_once: AtOnce,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        waiting = at_once(chat, client, "slow")
        replies.await_call("slow")
        runner = app.extensions["runner"]
        monkeypatch.setattr(runner.ticker, "_clock", lambda: time.time() + 601)
        runner.ticker.tick()
        assert (waiting.result().status_code, waiting.result().json["code"]) == (504, "run_timed_out")

    def test_it_waits_no_longer_than_a_reply_may_take(
        self, client: FlaskClient, replies: ScriptedReplies, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Runner, "max_wait_seconds", 0.0)
        answer = chat(client, "slow", client_name="ada")
        assert (answer.status_code, answer.json["code"]) == (504, "run_timed_out")
        monkeypatch.undo()
        replies.end("slow", "ok")
        assert chat(client, "slow", client_name="ada").json["response"] == "ok"
        assert replies.calls == ["slow"]

    def test_a_run_may_take_as_long_as_the_operator_says(self, app: Flask) -> None:
        assert 600 < app.extensions["runner"].max_wait_seconds < 610


BAD = {
    "no message": {},
    "an empty message": {"message": ""},
    "a message too long": {"message": "x" * 100_001},
    "NUL": {"message": "a\0b"},
    "a message of another type": {"message": 5},
    "an empty name": {"message": "hi", "client_name": ""},
    "a name with a line break": {"message": "hi", "client_name": "a\nb"},
    "a name too long": {"message": "hi", "client_name": "x" * 257},
    "a history that is no list": {"message": "hi", "conversation_history": {}},
    "a history of texts": {"message": "hi", "conversation_history": ["hi"]},
    "a message without a role": {"message": "hi", "conversation_history": [{"content": "hi"}]},
    "a message of nobody": {"message": "hi", "conversation_history": [{"role": "system", "content": "hi"}]},
    "a message of parts": {"message": "hi", "conversation_history": [{"role": "user", "content": [{"text": "hi"}]}]},
    "a NUL in the history": {"message": "hi", "conversation_history": [{"role": "user", "content": "\0"}]},
    "a NUL in the system prompt": {"message": "hi", "system_prompt": "\0"},
    "an empty model": {"message": "hi", "model": ""},
    "a temperature too low": {"message": "hi", "temperature": -0.1},
    "a temperature too high": {"message": "hi", "temperature": 2.1},
    "no tokens": {"message": "hi", "max_tokens": 0},
    "half a token": {"message": "hi", "max_tokens": 1.5},
    "logprobs in words": {"message": "hi", "logprobs": "yes"},
    "too many other tokens": {"message": "hi", "top_logprobs": 21},
    "a form that nobody knows": {"message": "hi", "response_format": {"type": "xml"}},
    "a form without a type": {"message": "hi", "response_format": {}},
    "a schema that is not there": {"message": "hi", "response_format": {"type": "json_schema"}},
    "a schema without a name": {"message": "hi", "response_format": {"type": "json_schema", "json_schema": {}}},
}


class TestBadInput:
    @pytest.mark.parametrize("body", BAD.values(), ids=BAD)
    def test_it_is_a_400_that_says_what_to_change_and_nothing_is_asked(
        self, body: Any, client: FlaskClient, replies: ScriptedReplies, store: MemoryStore
    ) -> None:
        answer = client.post("/chat", json=body)
        assert (answer.status_code, answer.json["code"]) == (400, "invalid_request")
        assert answer.json["detail"] == answer.json["error"]
        assert re.match(r"(A part of )?\w+ (must|has)|The body", answer.json["error"])
        assert replies.calls == []
        assert not store._table.states

    @pytest.mark.parametrize("levels", [150, 500, 5000])
    def test_a_schema_that_is_nested_too_deeply_is_refused(
        self, client: FlaskClient, replies: ScriptedReplies, levels: int
    ) -> None:
        deep = '{"a":' * levels + "1" + "}" * levels
        form = f'{{"type": "json_schema", "json_schema": {{"name": "a", "schema": {deep}}}}}'
        body = f'{{"message": "hi", "response_format": {form}}}'
        answer = client.post("/chat", data=body, content_type="application/json")
        assert (answer.status_code, answer.json["code"]) == (400, "invalid_request")
        assert "nested too deeply" in answer.json["error"]
        assert replies.calls == []

    def test_a_schema_as_deep_as_may_be_is_asked_for(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        deep = '{"a":' * 90 + "1" + "}" * 90
        form = f'{{"type": "json_schema", "json_schema": {{"name": "a", "schema": {deep}}}}}'
        body = f'{{"message": "hi", "client_name": "ada", "response_format": {form}}}'
        assert client.post("/chat", data=body, content_type="application/json").status_code == 200


class TestStart:
    def test_it_tells_the_streams_name_at_once(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        answer = start(client, "slow")
        stream_id = answer.headers["X-Stream-ID"]
        assert (answer.status_code, answer.json) == (200, {"stream_id": stream_id, "status": "started"})
        assert re.fullmatch(r"run_[0-9a-f]{32}", stream_id)
        replies.end("slow", "ok")
        assert [each["type"] for each in frames(client, stream_id)][0::2] == ["START", "END"]

    def test_the_text_is_asked_for_as_it_is_written(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
        frames(client, start(client).json["stream_id"])
        assert upstream.requests[-1].streamed
        chat(client)
        assert not upstream.requests[-1].streamed

    def test_a_question_that_would_resume_is_refused_and_told_where(
        self, client: FlaskClient, replies: ScriptedReplies
    ) -> None:
        answer = start(client, headers={"Last-Event-ID": "0"})
        assert (answer.status_code, answer.json["code"]) == (400, "invalid_position")
        assert "/chat/stream/" in answer.json["error"]
        assert replies.calls == []


class TestStop:
    def test_what_was_written_is_kept(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        stream_id = start(client, "slow", client_name="ada").json["stream_id"]
        replies.say("slow", "half")
        reader = client.get(f"/chat/stream/{stream_id}", buffered=False).iter_encoded()
        while b"half" not in next(reader):
            pass
        answer = client.delete(f"/chat/stream/{stream_id}")
        assert (answer.status_code, answer.json) == (200, {"stream_id": stream_id, "status": "stopped"})
        assert b'{"type":"STOPPED","full_content":"half"}' in next(reader)
        assert contents(client) == ["slow", "half"]

    def test_one_that_waits_for_its_turn_is_never_asked(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        first = start(client, "slow", client_name="ada").json["stream_id"]
        second = start(client, "slower", client_name="ada").json["stream_id"]
        assert client.delete(f"/chat/stream/{second}").status_code == 200
        replies.end("slow", "ok")
        assert frames(client, first)[-1]["type"] == "END"
        assert frames(client, second)[-1] == {"type": "STOPPED", "full_content": ""}
        assert contents(client) == ["slow", "ok"]
        assert replies.calls == ["slow"]

    def test_one_that_has_ended_stays_as_it_is(self, client: FlaskClient) -> None:
        stream_id = start(client, client_name="ada").json["stream_id"]
        before = frames(client, stream_id)
        for _ in range(2):
            assert client.delete(f"/chat/stream/{stream_id}").json == {"stream_id": stream_id, "status": "stopped"}
        assert frames(client, stream_id) == before
        assert contents(client) == ["hi", "re: hi"]

    def test_an_unknown_one_is_404(self, client: FlaskClient) -> None:
        answer = client.delete("/chat/stream/run_nobody")
        assert (answer.status_code, answer.json["code"]) == (404, "not_found")
        assert answer.json["error"] == answer.json["detail"]


class TestARunThatWaitsForTools:
    """A run that requires action is created through another dialect, and can be read here."""

    @pytest.fixture
    def run(self, app: Flask, replies: ScriptedReplies, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
        monkeypatch.setattr(live, "KEEPALIVE_SECONDS", 3600.0)  # Nobody may wait for silence to be told.
        tools = [{"type": "function", "function": {"name": "weather"}}]
        runner = app.extensions["runner"]
        options = RunOptions(parameters={"tools": tools})
        run = runner.create(Run("slow", conversation="ada", options=options))
        replies.await_call("slow")
        yield run

    @staticmethod
    def pause_run(app: Flask, replies: ScriptedReplies, run: Run) -> None:
        replies.say("slow", "Let me see.", Completion(None, None, calls=(ToolCall("call_1", "weather", "{}"),)))
        app.extensions["runner"].wait(run.id, PATIENCE_SECONDS, lambda: True)

    def test_who_reads_it_meanwhile_is_told(
        self, app: Flask, replies: ScriptedReplies, run: Run, at_once: AtOnce
    ) -> None:
        reader = at_once(frames, app.test_client(), run.id)
        self.pause_run(app, replies, run)
        assert reader.result(PATIENCE_SECONDS)[-2:] == [
            {"type": "CHUNK", "content": "Let me see."},
            {"type": "ERROR", "error": errors.ActionRequired.sentence, "code": "requires_action"},
        ]

    def test_who_reads_it_later_is_told_too(
        self, app: Flask, replies: ScriptedReplies, run: Run, at_once: AtOnce
    ) -> None:
        self.pause_run(app, replies, run)
        reader = at_once(frames, app.test_client(), run.id)
        assert reader.result(PATIENCE_SECONDS)[-1]["code"] == "requires_action"

    def test_one_whose_outputs_never_came_has_expired(
        self, app: Flask, replies: ScriptedReplies, run: Run, clock: Clock, at_once: AtOnce
    ) -> None:
        self.pause_run(app, replies, run)
        clock.now = time.time() + 601
        reader = at_once(frames, app.test_client(), run.id)
        assert reader.result(PATIENCE_SECONDS)[-1]["code"] == "run_expired"

    def test_it_can_be_stopped(self, app: Flask, client: FlaskClient, replies: ScriptedReplies, run: Run) -> None:
        self.pause_run(app, replies, run)
        assert client.delete(f"/chat/stream/{run.id}").status_code == 200
        assert frames(client, run.id)[-1] == {"type": "STOPPED", "full_content": "Let me see."}

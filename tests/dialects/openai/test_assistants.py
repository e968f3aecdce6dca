"""Edge cases of the assistants dialect, without a server process. OpenAI's packages are in the files beside this."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from server import errors
from server.app import create_app
from server.dialects.openai import pagination
from server.dialects.openai.assistants import objects
from server.domain import Run, RunError, RunOptions, ToolCall, Usage
from server.runs.local import ACTION_SECONDS
from server.settings import Settings
from server.store.memory import MemoryStore
from server.upstream.protocol import Completion
from tests.support.replies import ScriptedReplies, SteeredUpstream

AtOnce = Callable[..., Any]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
LOOK = Completion("m", Usage(5, 5, 10), "tool_calls", (ToolCall("call_1", "look", "{}"),))


class LateClock:
    """The time, which a test can advance."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def late() -> LateClock:
    return LateClock()


@pytest.fixture
def store(late: LateClock) -> MemoryStore:
    return MemoryStore(1000, late)


@pytest.fixture
def replies() -> ScriptedReplies:
    return ScriptedReplies("slow", "look", "found")


@pytest.fixture
def settings() -> Settings:
    return Settings(assistant_instructions="Be brief.")


def post(client: FlaskClient, path: str, **body: Any) -> Any:
    return client.post(f"/api/v1{path}", json=body)


def create(client: FlaskClient, path: str, **body: Any) -> Any:
    answer = post(client, path, **body)
    assert answer.status_code == 200, answer.json
    return answer.json


def get(client: FlaskClient, path: str, **query: Any) -> Any:
    answer = client.get(f"/api/v1{path}", query_string=query)
    assert answer.status_code == 200, answer.json
    return answer.json


def thread(client: FlaskClient, *said: str) -> str:
    messages = [{"role": "user", "content": each} for each in said]
    return str(create(client, "/threads", messages=messages)["id"])


def await_end(client: FlaskClient, run: Any) -> Any:
    """The run, once it has ended or requires action."""
    client.application.extensions["runner"].wait(run["id"], 20, lambda: True)
    return get(client, f"/threads/{run['thread_id']}/runs/{run['id']}")


def run_thread(client: FlaskClient, thread_id: str, **body: Any) -> Any:
    return await_end(client, create(client, f"/threads/{thread_id}/runs", **body))


def texts(client: FlaskClient, thread_id: str) -> list[str]:
    """Oldest first."""
    found = get(client, f"/threads/{thread_id}/messages", order="asc", limit=100)["data"]
    return ["".join(part["text"]["value"] for part in each["content"]) for each in found]


def refusal(answer: Any) -> str:
    """The sentence of a 400."""
    assert (answer.status_code, answer.json["error"]["type"]) == (400, "invalid_request_error")
    return str(answer.json["error"]["message"])


def sent_messages(upstream: SteeredUpstream) -> list[tuple[str, str]]:
    """Role and content of each message of the newest upstream request."""
    return [(each["role"], each["content"]) for each in json.loads(upstream.requests[-1].messages)]


def events(answer: Any) -> Iterator[tuple[str, Any]]:
    """The name and data of each event as it arrives, without comments."""
    assert answer.mimetype == "text/event-stream"
    for frame in answer.iter_encoded():
        if not frame.startswith(b":"):
            event, data, *rest = frame.decode().split("\n")
            assert rest == ["", ""]
            text = data.removeprefix("data: ")
            yield event.removeprefix("event: "), text if text == "[DONE]" else json.loads(text)


def stream(client: FlaskClient, path: str, **body: Any) -> Any:
    return client.post(f"/api/v1{path}", json={**body, "stream": True}, buffered=False)


def names(happened: Any) -> list[str]:
    return [event.removeprefix("thread.") for event, _ in happened]


class TestWhatARunIsAskedWith:
    def test_it_has_its_assistants_words(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
        format_ = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}
        assistant = create(
            client,
            "/assistants",
            model="m1",
            instructions="Explain.",
            tools=[TOOL],
            temperature=0.5,
            top_p=0.9,
            response_format=format_,
            reasoning_effort="low",
        )
        run = run_thread(client, thread(client, "Hi"), assistant_id=assistant["id"])
        assert (run["model"], run["instructions"], run["tools"]) == ("m1", "Explain.", [TOOL])
        assert (run["temperature"], run["top_p"], run["response_format"]) == (0.5, 0.9, format_)
        call = upstream.requests[-1]
        assert (call.model, sent_messages(upstream)) == ("m1", [("system", "Explain."), ("user", "Hi")])
        assert call.parameters == {
            "temperature": 0.5,
            "top_p": 0.9,
            "reasoning_effort": "low",
            "response_format": format_,
            "tools": [TOOL],
        }

    def test_its_own_words_come_before_its_assistants(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
        assistant = create(client, "/assistants", model="m1", instructions="Explain.", tools=[TOOL], temperature=0.5)
        asked: Any = {
            "model": "m2",
            "instructions": "Shout.",
            "additional_instructions": "In verse.",
            "tools": [],
            "temperature": 0,
            "top_p": 1,
            "max_completion_tokens": 99,
            "response_format": {"type": "json_object"},
            "reasoning_effort": "high",
            "truncation_strategy": {"type": "auto"},
        }
        run = run_thread(client, thread(client, "Hi"), assistant_id=assistant["id"], **asked)
        assert (run["model"], run["instructions"], run["tools"]) == ("m2", "Shout.\nIn verse.", [])
        assert (run["max_completion_tokens"], run["truncation_strategy"]) == (99, {"type": "auto"})
        assert upstream.requests[-1].model == "m2"
        assert sent_messages(upstream)[0] == ("system", "Shout.\nIn verse.")
        assert upstream.requests[-1].parameters == {
            "temperature": 0,
            "top_p": 1,
            "max_completion_tokens": 99,
            "response_format": {"type": "json_object"},
            "reasoning_effort": "high",
        }

    def test_auto_and_what_is_said_of_no_tool_is_not_sent(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
        run_thread(client, thread(client, "Hi"), response_format="auto", tool_choice="auto", parallel_tool_calls=False)
        assert upstream.requests[-1].parameters == {}

    @pytest.mark.parametrize("choice", ["required", "none", {"type": "function", "function": {"name": "look"}}])
    def test_a_choice_of_tools_is_sent_with_them(
        self, client: FlaskClient, upstream: SteeredUpstream, choice: Any
    ) -> None:
        run = run_thread(client, thread(client, "Hi"), tools=[TOOL], tool_choice=choice, parallel_tool_calls=False)
        assert (run["tool_choice"], run["parallel_tool_calls"]) == (choice, False)
        expected = {"tools": [TOOL], "tool_choice": choice, "parallel_tool_calls": False}
        assert upstream.requests[-1].parameters == expected

    @pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "other"}}])
    def test_a_choice_of_a_function_that_is_not_there_is_refused(self, client: FlaskClient, choice: Any) -> None:
        tools = [] if choice == "required" else [TOOL]
        answer = post(client, f"/threads/{thread(client, 'Hi')}/runs", tools=tools, tool_choice=choice)
        assert "tool_choice" in refusal(answer)

    def test_without_an_assistant_the_default_one_answers_with_the_threads_model(
        self, client: FlaskClient, upstream: Any
    ) -> None:
        upstream.list_models = lambda: [{"id": "m9"}]
        client.post("/query", json={"client_name": "ada", "input": "Hi"})
        client.post("/model", json={"client_name": "ada", "model": "m9"})
        create(client, "/threads/ada/messages", role="user", content="Ho")
        run = run_thread(client, "ada")
        assert (run["assistant_id"], run["model"], run["instructions"]) == ("asst_default", "m9", "Be brief.")
        assert (upstream.requests[-1].model, sent_messages(upstream)[0]) == ("m9", ("system", "Be brief."))

    def test_an_assistant_without_instructions_has_the_servers_prompt(
        self, store: MemoryStore, upstream: SteeredUpstream
    ) -> None:
        app = create_app(Settings(system_prompt="Be kind."), store=store, upstream=upstream)
        run_thread(app.test_client(), thread(app.test_client(), "Hi"))
        assert sent_messages(upstream) == [("system", "Be kind."), ("user", "Hi")]
        app.extensions["runner"].shut_down(0)

    def test_whole_numbers_may_be_written_as_decimal_ones(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
        strategy = {"type": "last_messages", "last_messages": 1.0}
        run_thread(client, thread(client, "one", "two"), truncation_strategy=strategy, max_completion_tokens=10.0)
        assert [content for role, content in sent_messages(upstream) if role == "user"] == ["two"]
        assert repr(upstream.requests[-1].parameters["max_completion_tokens"]) == "10"

    @pytest.mark.parametrize("limit", range(1, 6))
    def test_last_messages_are_exactly_so_many(
        self, client: FlaskClient, upstream: SteeredUpstream, limit: int
    ) -> None:
        said = ["one", "two", "three", "four"]
        strategy = {"type": "last_messages", "last_messages": limit}
        run = run_thread(client, thread(client, *said), truncation_strategy=strategy)
        assert run["truncation_strategy"] == strategy
        # Consecutive messages of one role are sent as one.
        assert [content for role, content in sent_messages(upstream) if role == "user"] == ["\n\n".join(said[-limit:])]

    def test_the_last_message_is_sent_also_where_it_is_a_reply(
        self, client: FlaskClient, upstream: SteeredUpstream
    ) -> None:
        thread_id = thread(client, "Hi")
        create(client, f"/threads/{thread_id}/messages", role="assistant", content="Ho")
        run_thread(client, thread_id, truncation_strategy={"type": "last_messages", "last_messages": 1})
        assert sent_messages(upstream)[1:] == [("assistant", "Ho")]

    def test_a_thread_that_the_model_cannot_read_is_not_answered_without_its_messages(
        self, client: FlaskClient, upstream: Any
    ) -> None:
        def too_long(_: Any) -> Iterator[str]:
            raise errors.ContextTooLong
            yield ""

        upstream.answer = too_long
        run = run_thread(client, thread(client, "long"))
        assert (run["status"], run["last_error"]["message"]) == ("failed", errors.ContextTooLong.sentence)
        assert len(upstream.requests) == 1

    def test_additional_messages_are_in_the_thread_before_the_reply(self, client: FlaskClient) -> None:
        thread_id = thread(client, "Hi")
        more = [{"role": "assistant", "content": "Ho"}, {"role": "user", "content": [{"type": "text", "text": "Hm"}]}]
        run_thread(client, thread_id, additional_messages=more)
        assert texts(client, thread_id) == ["Hi", "Ho", "Hm", "re: Hm"]

    def test_the_same_idempotency_key_gets_the_same_run(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
        thread_id = thread(client)
        body = {"additional_messages": [{"role": "user", "content": "Ho"}]}
        headers = {"Idempotency-Key": "1"}
        first, second = (
            await_end(client, client.post(f"/api/v1/threads/{thread_id}/runs", json=body, headers=headers).json)
            for _ in range(2)
        )
        assert first == second
        assert texts(client, thread_id) == ["Ho", "re: Ho"]
        assert len(upstream.requests) == 1

    def test_a_run_that_nobody_reads_is_streamed_from_the_upstream(
        self, client: FlaskClient, upstream: SteeredUpstream, replies: ScriptedReplies
    ) -> None:
        replies.say("look", LOOK)  # type: ignore[arg-type]
        run = run_thread(client, thread(client, "look"), tools=[TOOL])
        replies.end("found", "so it is")
        path = f"/threads/{run['thread_id']}/runs/{run['id']}/submit_tool_outputs"
        await_end(client, create(client, path, tool_outputs=[{"tool_call_id": "call_1", "output": "found"}]))
        assert [call.streamed for call in upstream.requests] == [True, True]

    def test_what_was_written_of_a_run_is_kept_when_it_is_cancelled(
        self, client: FlaskClient, replies: ScriptedReplies
    ) -> None:
        run = create(client, f"/threads/{thread(client, 'slow')}/runs")
        replies.say("slow", "So far")
        path = f"/threads/{run['thread_id']}/runs/{run['id']}"
        reader = client.get(f"/chat/stream/{run['id']}", buffered=False)
        assert any(b"So far" in frame for frame in reader.response)
        assert create(client, f"{path}/cancel")["status"] in ("cancelling", "cancelled")
        assert texts(client, run["thread_id"]) == ["slow", "So far"]

    def test_a_failed_run_leaves_no_two_questions_in_a_row(
        self, client: FlaskClient, upstream: SteeredUpstream, replies: ScriptedReplies
    ) -> None:
        thread_id = thread(client, "slow")
        replies.fail("slow", errors.UpstreamFailed())
        assert run_thread(client, thread_id)["status"] == "failed"
        create(client, f"/threads/{thread_id}/messages", role="user", content="And?")
        run_thread(client, thread_id)
        assert sent_messages(upstream)[1:] == [("user", "slow\n\nAnd?")]


class TestNotOffered:
    @pytest.mark.parametrize(
        ("path", "body", "name"),
        [
            ("/assistants", {"model": "m", "tools": [{"type": "file_search"}]}, "file_search"),
            ("/assistants", {"model": "m", "tools": [TOOL, {"type": "code_interpreter"}]}, "code_interpreter"),
            ("/assistants", {"model": "m", "tool_resources": {"file_search": {}}}, "tool_resources"),
            ("/threads", {"tool_resources": {"code_interpreter": {"file_ids": ["file_1"]}}}, "tool_resources"),
            ("/threads", {"messages": [{"role": "user", "content": "Hi", "attachments": [{}]}]}, "attachments"),
            ("/threads/runs", {"max_prompt_tokens": 500}, "max_prompt_tokens"),
            ("/threads/runs", {"tool_resources": {"file_search": {}}}, "tool_resources"),
            ("/threads/runs", {"thread": {"tool_resources": {"file_search": {}}}}, "tool_resources"),
            ("/threads/ada/runs", {"tools": [{"type": "file_search"}]}, "file_search"),
            ("/threads/ada/runs", {"tool_choice": {"type": "file_search"}}, "file_search"),
            ("/threads/ada/messages", {"role": "user", "content": [{"type": "image_url"}]}, "image_url"),
            ("/threads/ada/messages", {"role": "user", "content": [{"type": "image_file"}]}, "image_file"),
        ],
    )
    def test_it_is_refused_by_name_and_nothing_is_made(
        self, client: FlaskClient, upstream: SteeredUpstream, path: str, body: Any, name: str
    ) -> None:
        client.post("/query", json={"client_name": "ada", "input": "Hi"})
        sentence = refusal(post(client, path, **body))
        assert sentence.startswith(f"{name} is not offered: ")
        assert texts(client, "ada") == ["Hi", "re: Hi"]
        assert len(get(client, "/assistants")["data"]) == 1
        assert len(upstream.requests) == 1

    def test_what_is_empty_is_accepted(self, client: FlaskClient) -> None:
        message = {"role": "user", "content": "Hi", "attachments": []}
        create(client, "/threads", tool_resources={}, messages=[message])
        create(client, "/assistants", model="m", tool_resources=None, tools=[])
        create(client, "/threads/runs", max_prompt_tokens=None, tool_choice=None, tools=None)


class TestMetadata:
    FULL = {f"{number:02}" + "k" * 62: "v" * 512 for number in range(16)}  # noqa: RUF012

    def test_sixteen_pairs_of_64_and_512_characters_are_kept(self, client: FlaskClient) -> None:
        thread_id = create(client, "/threads", metadata=self.FULL)["id"]
        assert get(client, f"/threads/{thread_id}")["metadata"] == self.FULL
        create(client, f"/threads/{thread_id}/messages", role="user", content="Hi", metadata=self.FULL)
        run = run_thread(client, thread_id, metadata=self.FULL)
        assert run["metadata"] == self.FULL

    @pytest.mark.parametrize(
        "metadata",
        [
            {str(number): "" for number in range(17)},
            {"k" * 65: ""},
            {"k": "v" * 513},
            {"k": 1},
            {"k": None},
            [],
            "text",
        ],
    )
    def test_more_than_that_is_refused_and_changes_nothing(self, client: FlaskClient, metadata: Any) -> None:
        thread_id = create(client, "/threads", metadata={"a": "b"})["id"]
        for path in ("/threads", f"/threads/{thread_id}", f"/threads/{thread_id}/runs"):
            assert "metadata" in refusal(post(client, path, metadata=metadata))
        assert get(client, f"/threads/{thread_id}")["metadata"] == {"a": "b"}

    def test_an_update_replaces_what_it_says_and_null_takes_it_away(self, client: FlaskClient) -> None:
        thread_id = create(client, "/threads", metadata={"a": "b"})["id"]
        assert create(client, f"/threads/{thread_id}")["metadata"] == {"a": "b"}
        assert create(client, f"/threads/{thread_id}", metadata={"c": "d"})["metadata"] == {"c": "d"}
        assert create(client, f"/threads/{thread_id}", metadata=None)["metadata"] == {}

    def test_a_runs_is_kept_also_when_it_is_changed_while_the_run_is_written(
        self, client: FlaskClient, replies: ScriptedReplies
    ) -> None:
        run = create(client, f"/threads/{thread(client, 'slow')}/runs", metadata={"a": "b"})
        path = f"/threads/{run['thread_id']}/runs/{run['id']}"
        assert create(client, path, metadata={"c": "d"})["metadata"] == {"c": "d"}
        replies.end("slow", "ok")
        assert (await_end(client, run)["status"], get(client, path)["metadata"]) == ("completed", {"c": "d"})


class TestHowRunsEnd:
    def test_one_that_reached_its_longest_is_incomplete(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        run = create(client, f"/threads/{thread(client, 'slow')}/runs", max_completion_tokens=3)
        assert (run["status"], run["started_at"], run["usage"]) == ("queued", None, None)
        replies.say("slow", "one two", Completion("m", Usage(1, 3, 4), "length"))  # type: ignore[arg-type]
        run = await_end(client, run)
        assert (run["status"], run["incomplete_details"]) == ("incomplete", {"reason": "max_completion_tokens"})
        assert run["usage"] == {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
        (reply,) = get(client, f"/threads/{run['thread_id']}/messages", run_id=run["id"])["data"]
        assert (reply["status"], reply["incomplete_details"]) == ("incomplete", {"reason": "max_tokens"})
        (step,) = get(client, f"/threads/{run['thread_id']}/runs/{run['id']}/steps")["data"]
        assert (step["status"], step["usage"]) == ("completed", run["usage"])

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (errors.UpstreamRateLimited(), "rate_limit_exceeded"),
            (errors.UpstreamQuotaExhausted(), "rate_limit_exceeded"),
            (errors.UpstreamTimedOut(), "server_error"),
            (RuntimeError("boom"), "server_error"),
        ],
    )
    def test_one_that_failed_tells_why_and_leaves_no_message(
        self, client: FlaskClient, replies: ScriptedReplies, error: Exception, code: str
    ) -> None:
        run = create(client, f"/threads/{thread(client, 'slow')}/runs")
        replies.say("slow", "half")
        replies.fail("slow", error)
        run = await_end(client, run)
        assert (run["status"], run["last_error"]["code"]) == ("failed", code)
        assert "boom" not in run["last_error"]["message"]
        assert run["failed_at"] >= run["created_at"]
        (step,) = get(client, f"/threads/{run['thread_id']}/runs/{run['id']}/steps")["data"]
        assert (step["status"], step["last_error"]["code"]) == ("failed", code)
        assert texts(client, run["thread_id"]) == ["slow"]
        assert get(client, f"/threads/{run['thread_id']}/messages", run_id=run["id"])["data"] == []

    def test_one_whose_outputs_do_not_come_expires_and_the_thread_goes_on(
        self, client: FlaskClient, replies: ScriptedReplies, late: LateClock
    ) -> None:
        replies.say("look", LOOK)  # type: ignore[arg-type]
        run = run_thread(client, thread(client, "look"), tools=[TOOL])
        path = f"/threads/{run['thread_id']}/runs/{run['id']}"
        assert (run["status"], run["expires_at"] - run["created_at"]) == ("requires_action", int(ACTION_SECONDS))
        late.ahead = ACTION_SECONDS + 1
        expired = get(client, path)
        assert (expired["status"], expired["required_action"], expired["expires_at"]) == ("expired", None, None)
        (step,) = get(client, f"{path}/steps")["data"]
        assert (step["status"], step["expired_at"]) == ("expired", run["expires_at"])
        outputs = [{"tool_call_id": "call_1", "output": "?"}]
        assert "does not wait" in refusal(post(client, f"{path}/submit_tool_outputs", tool_outputs=outputs))
        assert "expired cannot be cancelled" in refusal(client.post(f"/api/v1{path}/cancel"))
        create(client, f"/threads/{run['thread_id']}/messages", role="user", content="Hi")
        assert run_thread(client, run["thread_id"])["status"] == "completed"

    def test_one_that_was_cut_off_by_the_servers_end_has_failed(self) -> None:
        run = Run("", conversation="ada", options=RunOptions(details={"assistant_id": "asst_1"}))
        body = objects.dump_run(run.ended_as("interrupted", 5.0, error=RunError("run_interrupted", "It stopped.")))
        assert (body["status"], body["last_error"]) == ("failed", {"code": "server_error", "message": "It stopped."})

    def test_one_cancelled_before_a_word_leaves_no_message(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        run = create(client, f"/threads/{thread(client, 'slow')}/runs")
        path = f"/threads/{run['thread_id']}/runs/{run['id']}"
        assert create(client, f"{path}/cancel")["status"] == "cancelled"
        assert get(client, f"{path}/steps")["data"] == []
        assert texts(client, run["thread_id"]) == ["slow"]

    def test_a_deleted_threads_run_is_gone(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        run = create(client, f"/threads/{thread(client, 'slow')}/runs")
        client.delete(f"/api/v1/threads/{run['thread_id']}")
        assert client.get(f"/api/v1/threads/{run['thread_id']}/runs/{run['id']}").status_code == 404


class TestFunctions:
    def test_a_demanded_call_is_demanded_once(
        self, client: FlaskClient, replies: ScriptedReplies, upstream: SteeredUpstream
    ) -> None:
        replies.say("look", LOOK)  # type: ignore[arg-type]
        run = run_thread(client, thread(client, "look"), tools=[TOOL], tool_choice="required")
        replies.end("found", "It is here.")
        outputs = [{"tool_call_id": "call_1", "output": "found"}]
        create(client, f"/threads/{run['thread_id']}/runs/{run['id']}/submit_tool_outputs", tool_outputs=outputs)
        run = await_end(client, run)
        assert (run["status"], run["tool_choice"]) == ("completed", "required")
        assert [call.parameters.get("tool_choice") for call in upstream.requests] == ["required", None]

    @pytest.mark.parametrize(
        "outputs",
        [
            [{"tool_call_id": "call_2", "output": "?"}],
            [{"tool_call_id": "call_1", "output": "?"}, {"tool_call_id": "call_2", "output": "?"}],
            [{"output": "?"}],
            [],
        ],
    )
    def test_outputs_of_other_calls_are_refused_and_the_run_waits_on(
        self, client: FlaskClient, replies: ScriptedReplies, outputs: Any
    ) -> None:
        replies.say("look", LOOK)  # type: ignore[arg-type]
        run = run_thread(client, thread(client, "look"), tools=[TOOL])
        path = f"/threads/{run['thread_id']}/runs/{run['id']}"
        assert refusal(post(client, f"{path}/submit_tool_outputs", tool_outputs=outputs))
        assert get(client, path)["status"] == "requires_action"

    def test_several_rounds_are_steps_of_one_run(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        replies.say("look", LOOK)  # type: ignore[arg-type]
        run = run_thread(client, thread(client, "look"), tools=[TOOL])
        path = f"/threads/{run['thread_id']}/runs/{run['id']}"
        replies.say("found", "Hm. ", LOOK)  # type: ignore[arg-type]
        outputs = [{"tool_call_id": "call_1", "output": "found"}]
        create(client, f"{path}/submit_tool_outputs", tool_outputs=outputs)
        assert await_end(client, run)["status"] == "requires_action"
        replies.end("found", "Here.")
        create(client, f"{path}/submit_tool_outputs", tool_outputs=outputs)
        assert await_end(client, run)["usage"]["total_tokens"] > 20
        steps = get(client, f"{path}/steps", order="asc")["data"]
        # The message had text before the second upstream call.
        assert [step["type"] for step in steps] == ["tool_calls", "message_creation", "tool_calls"]
        assert len({step["id"] for step in steps}) == 3
        assert texts(client, run["thread_id"]) == ["look", "Hm. Here."]

    @pytest.mark.parametrize("is_streamed", [False, True])
    def test_a_turn_written_anew_takes_outputs_as_the_first_one_did(
        self, client: FlaskClient, upstream: SteeredUpstream, is_streamed: bool
    ) -> None:
        outputs = [{"tool_call_id": "call_1", "output": "found"}]
        upstream.answer = lambda call: ["Here."] if b"found" in call.messages else [LOOK]
        run = run_thread(client, thread(client, "Hi"), tools=[TOOL])
        thread_id = run["thread_id"]
        create(client, f"/threads/{thread_id}/runs/{run['id']}/submit_tool_outputs", tool_outputs=outputs)
        await_end(client, run)
        anew = client.post("/conversations/regenerate", json={"client_name": thread_id}).json
        assert await_end(client, {"id": anew["id"], "thread_id": thread_id})["status"] == "requires_action"
        path = f"/threads/{thread_id}/runs/{anew['id']}/submit_tool_outputs"
        answer = post(client, path, tool_outputs=outputs, stream=is_streamed)
        assert answer.status_code == 200 and "error" not in answer.get_data(as_text=True).replace("last_error", "")
        await_end(client, {"id": anew["id"], "thread_id": thread_id})
        assert texts(client, thread_id) == ["Hi", "Here."]


class TestStreams:
    def test_deltas_are_exactly_the_text(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        answer = stream(client, f"/threads/{thread(client, 'slow')}/runs")
        pieces = ["안녕", "👩‍👩‍👧", "\u2028\n\ndata: x", " "]
        replies.end("slow", *pieces)
        happened = list(events(answer))
        deltas = [data["delta"]["content"][0]["text"]["value"] for event, data in happened if event.endswith("delta")]
        assert "".join(deltas) == "".join(pieces)
        assert happened[-1] == ("done", "[DONE]")

    def test_korean_leaves_as_utf_8(self, client: FlaskClient) -> None:
        answer = stream(client, f"/threads/{thread(client, '안녕')}/runs")
        assert "re: 안녕".encode() in b"".join(answer.iter_encoded())

    def test_the_stream_is_read_again_through_the_chat_dialect(
        self, client: FlaskClient, replies: ScriptedReplies
    ) -> None:
        answer = stream(client, f"/threads/{thread(client, 'slow')}/runs")
        replies.end("slow", "once")
        stream_id = answer.headers["X-Stream-ID"]
        assert dict(events(answer))["thread.run.completed"]["id"] == stream_id
        assert b'"full_content":"once"' in client.get(f"/chat/stream/{stream_id}").data

    def test_a_reader_who_leaves_midway_leaves_the_run_to_be_written(
        self, client: FlaskClient, replies: ScriptedReplies
    ) -> None:
        thread_id = thread(client, "slow")
        answer = stream(client, f"/threads/{thread_id}/runs")
        here = events(answer)
        (_, run) = next(here)
        replies.say("slow", "half")
        assert next(event for event, _ in here if event == "thread.message.delta")
        answer.close()
        replies.end("slow", " whole")
        assert await_end(client, run)["status"] == "completed"
        assert texts(client, thread_id) == ["slow", "half whole"]

    def test_one_that_fails_tells_so_at_its_end(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        answer = stream(client, f"/threads/{thread(client, 'slow')}/runs")
        replies.say("slow", "half")
        replies.fail("slow", errors.UpstreamCut())
        happened = list(events(answer))
        assert names(happened)[-4:] == ["message.incomplete", "run.step.failed", "run.failed", "done"]
        assert dict(happened)["thread.message.incomplete"]["incomplete_details"] == {"reason": "run_failed"}

    def test_one_that_fails_before_a_word_has_no_message(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        answer = stream(client, f"/threads/{thread(client, 'slow')}/runs")
        replies.fail("slow", errors.UpstreamTimedOut())
        expected = ["run.created", "run.queued", "run.in_progress", "run.failed", "done"]
        assert names(events(answer)) == expected

    def test_a_store_that_fails_meanwhile_is_an_error_event(
        self, app: Flask, client: FlaskClient, replies: ScriptedReplies, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: Any) -> Iterator[Any]:
            raise errors.StoreUnavailable
            yield

        monkeypatch.setattr(app.extensions["runner"], "read", broken)
        happened = list(events(stream(client, f"/threads/{thread(client, 'Hi')}/runs")))
        assert names(happened)[-2:] == ["error", "done"]
        assert dict(happened)["error"]["error"] == {
            "message": errors.StoreUnavailable.sentence,
            "type": "server_error",
            "param": None,
            "code": "store_unavailable",
        }

    def test_one_that_waits_for_the_process_is_queued_until_it_is_written(
        self, store: MemoryStore, upstream: SteeredUpstream, replies: ScriptedReplies
    ) -> None:
        app = create_app(Settings(max_concurrent_runs=1), store=store, upstream=upstream)
        client = app.test_client()
        create(client, f"/threads/{thread(client, 'slow')}/runs")
        here = events(stream(client, f"/threads/{thread(client, 'Hi')}/runs"))
        assert [next(here)[0], next(here)[0]] == ["thread.run.created", "thread.run.queued"]
        replies.end("slow", "ok")
        event, run = next(here)
        assert (event, run["status"]) == ("thread.run.in_progress", "in_progress")
        assert names(here)[-1] == "done"
        app.extensions["runner"].shut_down(0)

    def test_the_same_idempotency_key_reads_the_same_run_from_its_beginning(
        self, client: FlaskClient, replies: ScriptedReplies
    ) -> None:
        path = f"/api/v1/threads/{thread(client, 'slow')}/runs"
        first = client.post(path, json={"stream": True}, headers={"Idempotency-Key": "1"}, buffered=False)
        replies.end("slow", "once")
        first_events = list(events(first))
        second = client.post(path, json={"stream": True}, headers={"Idempotency-Key": "1"}, buffered=False)
        again = list(events(second))
        assert names(again) == names(first_events)
        assert dict(again)["thread.message.delta"]["delta"]["content"][0]["text"]["value"] == "once"
        assert dict(again)["thread.message.created"]["content"] == []
        assert replies.calls == ["slow"]

    def test_a_post_that_would_resume_one_is_refused_and_changes_nothing(self, client: FlaskClient) -> None:
        thread_id = thread(client, "Hi")
        headers = {"Last-Event-ID": "3"}
        answer = client.post(f"/api/v1/threads/{thread_id}/runs", json={"stream": True}, headers=headers)
        assert "GET /chat/stream" in refusal(answer)
        assert get(client, f"/threads/{thread_id}/runs")["data"] == []

    def test_a_refusal_is_no_stream(self, client: FlaskClient) -> None:
        assert stream(client, "/threads/thread_none/runs").status_code == 404


class TestOtherDoors:
    def test_what_was_said_through_one_is_in_the_thread(self, client: FlaskClient) -> None:
        client.post("/query", json={"client_name": "ada", "input": "Hi"})
        question, reply = get(client, "/threads/ada/messages", order="asc")["data"]
        assert (question["role"], question["run_id"]) == ("user", None)
        assert (reply["role"], reply["status"], reply["assistant_id"]) == ("assistant", "completed", None)
        (run,) = get(client, "/threads/ada/runs")["data"]
        assert (run["id"], run["status"], run["assistant_id"]) == (reply["run_id"], "completed", "asst_default")
        assert [step["type"] for step in get(client, f"/threads/ada/runs/{run['id']}/steps")["data"]] == [
            "message_creation"
        ]

    def test_what_is_said_in_a_thread_is_in_the_history(self, client: FlaskClient) -> None:
        thread_id = thread(client, "Hi")
        run_thread(client, thread_id)
        listed = client.get("/history", query_string={"client_name": thread_id}).json
        assert [(each["role"], each["content"]) for each in listed] == [("user", "Hi"), ("assistant", "re: Hi")]

    def test_a_question_of_another_dialect_waits_for_the_threads_run(
        self, client: FlaskClient, replies: ScriptedReplies, at_once: AtOnce
    ) -> None:
        thread_id = thread(client, "slow")
        create(client, f"/threads/{thread_id}/runs")
        waiting = at_once(client.post, "/query", json={"client_name": thread_id, "input": "Hi"})
        replies.end("slow", "ok")
        assert waiting.result().json == {"response": "re: Hi"}
        assert texts(client, thread_id) == ["slow", "ok", "Hi", "re: Hi"]

    def test_no_thread_is_made_by_its_name(self, client: FlaskClient, store: MemoryStore) -> None:
        for answer in (
            post(client, "/threads/eve/messages", role="user", content="Hi"),
            post(client, "/threads/eve/runs"),
            post(client, "/chat", thread_id="eve", message="Hi"),
            post(client, "/threads/eve", metadata={}),
        ):
            assert (answer.status_code, answer.json["error"]["message"]) == (404, "No thread found with that id.")
        assert store.get_conversation("eve") is None

    def test_a_run_belongs_to_its_thread(self, client: FlaskClient) -> None:
        run = run_thread(client, thread(client, "Hi"))
        other = thread(client, "Ho")
        for path in ("", "/steps"):
            assert client.get(f"/api/v1/threads/{other}/runs/{run['id']}{path}").status_code == 404
        assert client.post(f"/api/v1/threads/{other}/runs/{run['id']}/cancel").status_code == 404
        assert get(client, f"/threads/{other}/messages", run_id=run["id"])["data"] == []

    def test_the_address_that_makes_a_thread_with_its_run_is_no_threads(self, client: FlaskClient) -> None:
        client.post("/query", json={"client_name": "runs", "input": "Hi"})
        for method in ("GET", "DELETE"):
            assert client.open("/api/v1/threads/runs", method=method).status_code == 404
        assert client.options("/api/v1/threads/runs").headers["Allow"] == "OPTIONS, POST"


class TestSimpleDoor:
    def test_a_thread_is_made_where_none_is_named_and_goes_on_where_one_is(
        self, client: FlaskClient, upstream: SteeredUpstream
    ) -> None:
        before = int(time.time())
        first = create(client, "/chat", message="Hi")
        assert first["thread_id"].startswith("thread_")
        assert (first["message"], first["role"]) == ("re: Hi", "assistant")
        assert before <= first["created_at"] <= time.time()
        second = create(client, "/chat", message="Ho", thread_id=first["thread_id"])
        assert (second["message"], second["thread_id"]) == ("re: Ho", first["thread_id"])
        context = [("system", "Be brief."), ("user", "Hi"), ("assistant", "re: Hi")]
        assert sent_messages(upstream) == [*context, ("user", "Ho")]
        assert texts(client, first["thread_id"]) == ["Hi", "re: Hi", "Ho", "re: Ho"]
        assert get(client, f"/threads/{first['thread_id']}/runs")["data"][0]["assistant_id"] == "asst_default"

    def test_what_fails_is_told_in_openais_shape(self, client: FlaskClient, replies: ScriptedReplies) -> None:
        replies.fail("slow", errors.UpstreamTimedOut())
        answer = post(client, "/chat", message="slow")
        assert (answer.status_code, answer.json["error"]["type"]) == (504, "server_error")
        assert answer.json["error"]["code"] == "upstream_timed_out"

    def test_a_thread_whose_run_waits_for_outputs_is_told_so_at_once(
        self, client: FlaskClient, replies: ScriptedReplies
    ) -> None:
        replies.say("look", LOOK)  # type: ignore[arg-type]
        run = run_thread(client, thread(client, "look"), tools=[TOOL])
        answer = post(client, "/chat", message="Hi", thread_id=run["thread_id"])
        assert (answer.status_code, answer.json["error"]["code"]) == (409, "requires_action")

    def test_an_idempotency_key_is_exact(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
        thread_id = thread(client)
        body = {"message": "Hi", "thread_id": thread_id}
        headers = {"Idempotency-Key": "1"}
        answers = [client.post("/api/v1/chat", json=body, headers=headers).json for _ in range(2)]
        assert answers[0] == answers[1]
        assert len(upstream.requests) == 1
        other = client.post("/api/v1/chat", json={**body, "message": "Ho"}, headers=headers)
        assert (other.status_code, other.json["error"]["code"]) == (409, "request_id_conflict")

    def test_a_key_names_the_thread_of_a_message_that_names_none(
        self, client: FlaskClient, upstream: SteeredUpstream
    ) -> None:
        headers = {"Idempotency-Key": "k" * 16}
        first, second = (client.post("/api/v1/chat", json={"message": "Hi"}, headers=headers).json for _ in range(2))
        assert first == second
        assert len(upstream.requests) == 1
        other = client.post("/api/v1/chat", json={"message": "Ho"}, headers=headers)
        assert (other.status_code, other.json["error"]["code"]) == (409, "request_id_conflict")
        another = client.post("/api/v1/chat", json={"message": "Hi"}, headers={"Idempotency-Key": "j" * 16}).json
        assert another["thread_id"] != first["thread_id"]

    def test_a_key_names_the_thread_that_is_made_with_its_run(
        self, client: FlaskClient, upstream: SteeredUpstream
    ) -> None:
        headers, body = {"Idempotency-Key": "k" * 16}, {"thread": {"messages": [{"role": "user", "content": "Hi"}]}}
        first, second = (
            await_end(client, client.post("/api/v1/threads/runs", json=body, headers=headers).json) for _ in range(2)
        )
        assert first == second
        assert texts(client, first["thread_id"]) == ["Hi", "re: Hi"]
        assert len(upstream.requests) == 1
        # A key holds within one operation.
        assert client.post("/api/v1/chat", json={"message": "Hi"}, headers=headers).status_code == 200

    @pytest.mark.parametrize("path", ["/api/v1/chat", "/api/v1/threads/runs"])
    @pytest.mark.parametrize("key", ["", "k" * 15, "k" * 201], ids=len)
    def test_a_key_that_could_be_guessed_names_no_thread(
        self, client: FlaskClient, upstream: SteeredUpstream, path: str, key: str
    ) -> None:
        body = {"message": "Hi"} if path.endswith("chat") else {}
        answer = client.post(path, json=body, headers={"Idempotency-Key": key})
        assert (answer.status_code, answer.json["error"]["code"]) == (400, "invalid_request")
        assert not upstream.requests

    def test_health_tells_how_the_server_is(self, client: FlaskClient) -> None:
        assert get(client, "/health")["status"] == "healthy"


class TestAssistants:
    @pytest.mark.parametrize("method", ["post", "delete"])
    def test_the_default_one_is_the_operators(self, client: FlaskClient, method: str) -> None:
        body = {"json": {"name": "Mine"}} if method == "post" else {}
        answer = getattr(client, method)("/api/v1/assistants/asst_default", **body)
        assert "ASSISTANT_INSTRUCTIONS" in refusal(answer)
        assert get(client, "/assistants/asst_default")["name"] is None

    def test_the_default_ones_id_is_a_setting(self, store: MemoryStore, upstream: SteeredUpstream) -> None:
        app = create_app(Settings(assistant_id="asst_ours"), store=store, upstream=upstream)
        client = app.test_client()
        assert get(client, "/assistants/asst_ours")["instructions"] is None
        assert client.get("/api/v1/assistants/asst_default").status_code == 404
        assert run_thread(client, thread(client, "Hi"))["assistant_id"] == "asst_ours"
        app.extensions["runner"].shut_down(0)

    def test_a_run_stays_as_it_was_asked_when_its_assistant_changes(
        self, client: FlaskClient, replies: ScriptedReplies
    ) -> None:
        assistant = create(client, "/assistants", model="m1", instructions="Explain.")
        run = create(client, f"/threads/{thread(client, 'slow')}/runs", assistant_id=assistant["id"])
        client.delete(f"/api/v1/assistants/{assistant['id']}")
        replies.end("slow", "ok")
        run = await_end(client, run)
        assert (run["instructions"], run["assistant_id"]) == ("Explain.", assistant["id"])


class TestPages:
    @pytest.mark.parametrize("path", ["/assistants", "/threads/ada/messages", "/threads/ada/runs"])
    @pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 101}, {"limit": "x"}, {"order": "up"}, {"after": ""}])
    def test_bounds_that_do_not_fit_are_refused(self, client: FlaskClient, path: str, query: Any) -> None:
        client.post("/query", json={"client_name": "ada", "input": "Hi"})
        assert next(iter(query)) in refusal(client.get(f"/api/v1{path}", query_string=query))

    def test_an_empty_page_has_no_ends(self, client: FlaskClient) -> None:
        page = get(client, f"/threads/{thread(client)}/messages")
        assert page == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}

    def test_a_page_tells_its_ends(self, client: FlaskClient) -> None:
        page = get(client, f"/threads/{thread(client, 'a', 'b', 'c')}/messages", limit=2)
        assert (page["first_id"], page["last_id"]) == tuple(each["id"] for each in page["data"])
        assert page["has_more"]

    @given(st.integers(0, 30), st.integers(1, 12), st.sampled_from(["asc", "desc", None]))
    def test_pages_after_each_other_give_every_entry_once_in_order(
        self, count: int, limit: int, order: str | None
    ) -> None:
        entries = [{"id": str(number)} for number in range(count)]
        seen: list[Any] = []
        after = None
        while True:
            page = pagination.paginate(entries, limit=limit, order=order, after=after, before=None)
            assert len(page["data"]) <= limit
            seen += page["data"]
            after = page["last_id"]
            if not page["has_more"]:
                break
        assert seen == (entries if order == "asc" else entries[::-1])

    @given(st.integers(1, 30), st.integers(1, 12), st.sampled_from(["asc", "desc"]), st.data())
    def test_pages_before_each_other_lead_back_to_the_beginning(
        self, count: int, limit: int, order: str, data: st.DataObject
    ) -> None:
        entries = [{"id": str(number)} for number in range(count)]
        listed = entries if order == "asc" else entries[::-1]
        start = data.draw(st.integers(0, count - 1))
        seen: list[Any] = []
        before = listed[start]["id"]
        while True:
            page = pagination.paginate(entries, limit=limit, order=order, after=None, before=before)
            seen = page["data"] + seen
            if not page["has_more"]:
                break
            before = page["first_id"]
        assert seen == listed[:start]


class TestMessages:
    def test_a_text_of_parts_is_as_long_as_one_may_be_and_no_longer(self, app: Flask, client: FlaskClient) -> None:
        thread_id = thread(client)
        part = {"type": "text", "text": "x" * 50_000}
        longest = [part, {"type": "text", "text": "x" * 49_999}]
        create(client, f"/threads/{thread_id}/messages", role="user", content=longest)
        for content in ([part, part], "x" * 100_001):
            answer = post(client, f"/threads/{thread_id}/messages", role="user", content=content)
            assert refusal(answer) == "content must have at most 100000 characters."

    @pytest.mark.parametrize("content", ["", [], [{"type": "text"}], [{"type": "text", "text": ""}], 5, None, "a\0b"])
    def test_a_content_that_is_none_is_refused(self, client: FlaskClient, content: Any) -> None:
        thread_id = thread(client)
        assert refusal(post(client, f"/threads/{thread_id}/messages", role="user", content=content))
        assert texts(client, thread_id) == []

    def test_a_deleted_message_is_replayed_no_more(self, client: FlaskClient, upstream: SteeredUpstream) -> None:
        thread_id = thread(client, "one", "two")
        oldest = get(client, f"/threads/{thread_id}/messages", order="asc")["first_id"]
        assert client.delete(f"/api/v1/threads/{thread_id}/messages/{oldest}").status_code == 200
        run_thread(client, thread_id)
        assert sent_messages(upstream)[1:] == [("user", "two")]
        assert texts(client, thread_id) == ["two", "re: two"]

    def test_a_message_of_another_thread_is_not_found(self, client: FlaskClient) -> None:
        message_id = get(client, f"/threads/{thread(client, 'Hi')}/messages")["first_id"]
        assert client.get(f"/api/v1/threads/{thread(client)}/messages/{message_id}").status_code == 404

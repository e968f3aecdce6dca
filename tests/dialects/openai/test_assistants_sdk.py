"""OpenAI's Python package against a server under gunicorn, with only `base_url` changed."""

import asyncio
import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import openai
import pytest
from openai import AssistantEventHandler, AsyncOpenAI, OpenAI
from typing_extensions import override

from server.domain import ToolCall, Usage
from server.upstream.protocol import Completion
from tests.support.process import ServerProcess, serve
from tests.support.replies import ScriptedReplies
from tests.support.replies_over_http import serve_replies

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

AtOnce = Callable[..., Any]
DEFAULT = "asst_default"
SLOW = [f"slow {number}" for number in range(20)]
"""Questions whose replies a test controls. Each is asked by one test."""
WEATHER: Any = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


@pytest.fixture(scope="module")
def replies() -> ScriptedReplies:
    return ScriptedReplies(
        *SLOW, *(f"weather {number}" for number in range(9)), *(f"{number} degrees" for number in range(9))
    )


@pytest.fixture(scope="module")
def served(replies: ScriptedReplies) -> Iterator[ServerProcess]:
    with serve_replies(replies) as url, serve(OPENAI_BASE_URL=url, ASSISTANT_INSTRUCTIONS="Be brief.") as served:
        yield served


@pytest.fixture(scope="module")
def sdk(served: ServerProcess) -> OpenAI:
    return OpenAI(base_url=f"{served.url}/api/v1", api_key="any")


@pytest.fixture
def thread_id(sdk: OpenAI) -> str:
    return str(sdk.beta.threads.create().id)


def dump(thing: Any) -> Any:
    """`thing`, validated strictly by the package's types, which by themselves do not validate."""
    return type(thing).model_validate(json.loads(thing.to_json()))


def say(sdk: OpenAI, thread_id: str, text: str, **more: Any) -> Any:
    return dump(sdk.beta.threads.messages.create(thread_id, role="user", content=text, **more))


def texts(sdk: OpenAI, thread_id: str, **more: Any) -> list[str]:
    """The texts of all messages, read in pages."""
    return [text_of(each) for each in sdk.beta.threads.messages.list(thread_id, **more)]


def text_of(message: Any) -> str:
    return "".join(part.text.value for part in dump(message).content)


def wants(*calls: tuple[str, str]) -> Completion:
    """A Completion with a call of `get_weather` for each id and city."""
    wanted = tuple(ToolCall(call_id, "get_weather", json.dumps({"city": city})) for call_id, city in calls)
    return Completion("told", Usage(10, 5, 15), "tool_calls", wanted)


class TestAssistants:
    def test_they_are_made_read_changed_listed_and_deleted(self, sdk: OpenAI) -> None:
        assistant = dump(
            sdk.beta.assistants.create(
                model="told",
                name="Tutor",
                instructions="Explain.",
                tools=[WEATHER],
                metadata={"a": "b"},
                temperature=0.5,
            )
        )
        assert (assistant.object, assistant.name) == ("assistant", "Tutor")
        assert (assistant.model, assistant.metadata) == ("told", {"a": "b"})
        assert assistant.tools[0].function.name == "get_weather"
        assert dump(sdk.beta.assistants.retrieve(assistant.id)) == assistant
        changed = dump(sdk.beta.assistants.update(assistant.id, name="Coach", instructions=None, metadata={}))
        assert (changed.name, changed.instructions, changed.metadata) == ("Coach", None, {})
        assert (changed.model, changed.temperature, changed.tools) == ("told", 0.5, assistant.tools)
        assert changed in list(sdk.beta.assistants.list(limit=1))
        deleted = dump(sdk.beta.assistants.delete(assistant.id))
        assert (deleted.id, deleted.deleted) == (assistant.id, True)
        with pytest.raises(openai.NotFoundError, match="No assistant"):
            sdk.beta.assistants.retrieve(assistant.id)
        assert assistant.id not in [each.id for each in sdk.beta.assistants.list()]

    def test_the_default_one_is_there_without_being_made(self, sdk: OpenAI) -> None:
        default = dump(sdk.beta.assistants.retrieve(DEFAULT))
        assert (default.instructions, default.model) == ("Be brief.", "told")
        assert default in list(sdk.beta.assistants.list())


class TestThreads:
    def test_they_are_made_with_messages_read_changed_and_deleted(self, sdk: OpenAI) -> None:
        thread = dump(
            sdk.beta.threads.create(
                messages=[
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "Ho", "metadata": {"n": "2"}},
                ],
                metadata={"about": "cats"},
            )
        )
        assert thread.id.startswith("thread_")
        assert (thread.object, thread.metadata) == ("thread", {"about": "cats"})
        assert dump(sdk.beta.threads.retrieve(thread.id)) == thread
        newest, oldest = sdk.beta.threads.messages.list(thread.id)
        assert [(each.role, text_of(each), each.metadata) for each in (oldest, newest)] == [
            ("user", "Hi", {}),
            ("assistant", "Ho", {"n": "2"}),
        ]
        assert dump(sdk.beta.threads.update(thread.id, metadata={"about": "dogs"})).metadata == {"about": "dogs"}
        assert sdk.beta.threads.retrieve(thread.id).metadata == {"about": "dogs"}
        assert dump(sdk.beta.threads.delete(thread.id)).deleted
        with pytest.raises(openai.NotFoundError, match="No thread"):
            sdk.beta.threads.retrieve(thread.id)


class TestMessages:
    def test_a_message_is_made_read_changed_and_deleted(self, sdk: OpenAI, thread_id: str) -> None:
        assistant = say(sdk, thread_id, "안녕", metadata={"a": "1"})
        assert (assistant.object, assistant.role, assistant.thread_id, assistant.status) == (
            "thread.message",
            "user",
            thread_id,
            "completed",
        )
        assert dump(sdk.beta.threads.messages.retrieve(assistant.id, thread_id=thread_id)) == assistant
        changed = dump(sdk.beta.threads.messages.update(assistant.id, thread_id=thread_id, metadata={"b": "2"}))
        assert (changed.metadata, text_of(changed)) == ({"b": "2"}, "안녕")
        assert dump(sdk.beta.threads.messages.delete(assistant.id, thread_id=thread_id)).deleted
        with pytest.raises(openai.NotFoundError, match="No message"):
            sdk.beta.threads.messages.retrieve(assistant.id, thread_id=thread_id)
        assert texts(sdk, thread_id) == []

    def test_several_parts_of_text_are_one_text_with_line_breaks(self, sdk: OpenAI, thread_id: str) -> None:
        parts: Any = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
        assistant = sdk.beta.threads.messages.create(thread_id, role="user", content=parts)
        assert text_of(assistant) == "one\ntwo"

    def test_they_are_listed_through_several_pages_in_both_orders(self, sdk: OpenAI, thread_id: str) -> None:
        said = [say(sdk, thread_id, f"m{number}") for number in range(11)]
        expected = [f"m{number}" for number in range(11)]
        assert texts(sdk, thread_id, limit=3, order="asc") == expected
        assert texts(sdk, thread_id, limit=3, order="desc") == texts(sdk, thread_id) == expected[::-1]
        pages = list(sdk.beta.threads.messages.list(thread_id, limit=4).iter_pages())
        assert [(len(page.data), page.has_more) for page in pages] == [(4, True), (4, True), (3, False)]
        before = sdk.beta.threads.messages.list(thread_id, limit=2, order="asc", before=said[5].id)
        assert [text_of(each) for each in before.data] == ["m3", "m4"]
        between = sdk.beta.threads.messages.list(thread_id, order="asc", after=said[1].id, before=said[5].id)
        assert [text_of(each) for each in between.data] == ["m2", "m3", "m4"]


class TestRuns:
    def test_one_is_made_and_polled_to_its_end(self, sdk: OpenAI, thread_id: str) -> None:
        say(sdk, thread_id, "Hi")
        run = dump(
            sdk.beta.threads.runs.create_and_poll(thread_id=thread_id, assistant_id=DEFAULT, metadata={"a": "b"})
        )
        assert (run.object, run.status, run.assistant_id) == ("thread.run", "completed", DEFAULT)
        assert (run.instructions, run.model, run.metadata, run.last_error) == ("Be brief.", "told", {"a": "b"}, None)
        assert run.created_at <= run.started_at <= run.completed_at
        assert texts(sdk, thread_id) == ["re: Hi", "Hi"]
        (reply,) = sdk.beta.threads.messages.list(thread_id, run_id=run.id)
        assert (reply.role, reply.status, reply.run_id, reply.assistant_id) == (
            "assistant",
            "completed",
            run.id,
            DEFAULT,
        )

    def test_its_steps_are_listed_and_read(self, sdk: OpenAI, thread_id: str) -> None:
        say(sdk, thread_id, "Hi")
        run = sdk.beta.threads.runs.create_and_poll(thread_id=thread_id, assistant_id=DEFAULT)
        (step,) = sdk.beta.threads.runs.steps.list(run.id, thread_id=thread_id)
        assert (dump(step).type, step.status, step.run_id) == ("message_creation", "completed", run.id)
        (reply,) = sdk.beta.threads.messages.list(thread_id, run_id=run.id)
        assert step.step_details.message_creation.message_id == reply.id
        assert sdk.beta.threads.runs.steps.retrieve(step.id, run_id=run.id, thread_id=thread_id) == step
        with pytest.raises(openai.NotFoundError, match="No run step"):
            sdk.beta.threads.runs.steps.retrieve("step_none", run_id=run.id, thread_id=thread_id)

    def test_they_are_listed_read_and_changed(self, sdk: OpenAI, thread_id: str) -> None:
        assistant = []
        for number in range(3):
            say(sdk, thread_id, f"q{number}")
            assistant.append(sdk.beta.threads.runs.create_and_poll(thread_id=thread_id, assistant_id=DEFAULT).id)
        assert [each.id for each in sdk.beta.threads.runs.list(thread_id)] == assistant[::-1]
        assert [each.id for each in sdk.beta.threads.runs.list(thread_id, limit=1, order="asc")] == assistant
        assert [each.id for each in sdk.beta.threads.runs.list(thread_id, limit=1)] == assistant[::-1]
        changed = dump(sdk.beta.threads.runs.update(assistant[0], thread_id=thread_id, metadata={"n": "0"}))
        assert dump(sdk.beta.threads.runs.retrieve(assistant[0], thread_id=thread_id)) == changed
        assert changed.metadata == {"n": "0"}

    def test_one_is_cancelled_while_it_is_written_and_its_text_is_kept(
        self, sdk: OpenAI, thread_id: str, replies: ScriptedReplies
    ) -> None:
        say(sdk, thread_id, SLOW[0])
        stream = sdk.beta.threads.runs.create(thread_id=thread_id, assistant_id=DEFAULT, stream=True)
        replies.say(SLOW[0], "half")
        events = iter(stream)
        run = next(events).data
        assert next(event for event in events if event.event == "thread.message.delta")
        assert sdk.beta.threads.runs.retrieve(run.id, thread_id=thread_id).status == "in_progress"
        cancelled = dump(sdk.beta.threads.runs.cancel(run.id, thread_id=thread_id))
        assert cancelled.status == "cancelled"
        assert [event.event for event in events] == [
            "thread.message.incomplete",
            "thread.run.step.cancelled",
            "thread.run.cancelled",
        ]
        (reply,) = sdk.beta.threads.messages.list(thread_id, run_id=run.id)
        assert (text_of(reply), reply.status, reply.incomplete_details.reason) == (
            "half",
            "incomplete",
            "run_cancelled",
        )
        with pytest.raises(openai.BadRequestError, match="cancelled cannot be cancelled"):
            sdk.beta.threads.runs.cancel(run.id, thread_id=thread_id)

    def test_a_thread_is_made_with_its_run(self, sdk: OpenAI) -> None:
        messages: Any = [{"role": "user", "content": "Hi"}]
        assistant = dump(sdk.beta.threads.create_and_run(assistant_id=DEFAULT, thread={"messages": messages}))
        assert dump(sdk.beta.threads.runs.poll(assistant.id, thread_id=assistant.thread_id)).status == "completed"
        run = dump(
            sdk.beta.threads.create_and_run_poll(
                assistant_id=DEFAULT, thread={"messages": messages, "metadata": {"a": "b"}}, instructions="Shout."
            )
        )
        assert (run.status, run.instructions) == ("completed", "Shout.")
        assert texts(sdk, run.thread_id) == ["re: Hi", "Hi"]
        assert sdk.beta.threads.retrieve(run.thread_id).metadata == {"a": "b"}

    def test_one_on_a_thread_without_messages_answers_its_instructions(self, sdk: OpenAI) -> None:
        run = sdk.beta.threads.create_and_run_poll(assistant_id=DEFAULT)
        assert (run.status, texts(sdk, run.thread_id)) == ("completed", ["re: Be brief."])


class EventLog(AssistantEventHandler):
    """The calls of an event handler, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.replies: list[tuple[str, Any]] = []

    @override
    def on_run_step_created(self, run_step: Any) -> None:
        self.replies.append(("step created", run_step.type))

    @override
    def on_run_step_done(self, run_step: Any) -> None:
        self.replies.append(("step done", run_step.type))

    @override
    def on_message_created(self, message: Any) -> None:
        self.replies.append(("message created", message.status))

    @override
    def on_text_created(self, text: Any) -> None:
        self.replies.append(("text created", text.value))

    @override
    def on_text_delta(self, delta: Any, snapshot: Any) -> None:
        self.replies.append(("delta", delta.value))

    @override
    def on_text_done(self, text: Any) -> None:
        self.replies.append(("text done", text.value))

    @override
    def on_message_done(self, message: Any) -> None:
        self.replies.append(("message done", message.status))

    @override
    def on_tool_call_created(self, tool_call: Any) -> None:
        self.replies.append(("call created", tool_call.function.name))

    @override
    def on_tool_call_done(self, tool_call: Any) -> None:
        self.replies.append(("call done", tool_call.function.arguments))

    @override
    def on_end(self) -> None:
        self.replies.append(("end", None))


class TestStreams:
    def test_an_event_handler_is_told_everything_in_order(
        self, sdk: OpenAI, thread_id: str, replies: ScriptedReplies
    ) -> None:
        say(sdk, thread_id, SLOW[1])
        handler = EventLog()
        replies.end(SLOW[1], "안녕 ", "👩‍👩‍👧\u2028", "!")
        with sdk.beta.threads.runs.create_and_stream(
            thread_id=thread_id, assistant_id=DEFAULT, event_handler=handler
        ) as stream:
            stream.until_done()
        deltas = [value for kind, value in handler.replies if kind == "delta"]
        assert "".join(deltas) == "안녕 👩‍👩‍👧\u2028!"
        assert [each for each in handler.replies if each[0] != "delta"] == [
            ("step created", "message_creation"),
            ("message created", "in_progress"),
            ("text created", deltas[0]),
            ("text done", "안녕 👩‍👩‍👧\u2028!"),
            ("message done", "completed"),
            ("step done", "message_creation"),
            ("end", None),
        ]
        assert dump(handler.get_final_run()).status == "completed"
        (message,) = handler.get_final_messages()
        assert text_of(message) == text_of(next(iter(sdk.beta.threads.messages.list(thread_id))))
        (step,) = handler.get_final_run_steps()
        assert dump(step).step_details.message_creation.message_id == message.id

    def test_text_arrives_as_it_is_written(self, sdk: OpenAI, thread_id: str, replies: ScriptedReplies) -> None:
        say(sdk, thread_id, SLOW[2])
        with sdk.beta.threads.runs.stream(thread_id=thread_id, assistant_id=DEFAULT) as stream:
            deltas = iter(stream.text_deltas)
            for piece in ("one", "two", "three"):
                replies.say(SLOW[2], piece)
                assert next(deltas) == piece
            replies.end(SLOW[2])
            assert list(deltas) == []
            assert stream.get_final_run().status == "completed"

    def test_events_come_in_openais_order_and_shape(self, sdk: OpenAI) -> None:
        stream = sdk.beta.threads.create_and_run(
            assistant_id=DEFAULT, thread={"messages": [{"role": "user", "content": "Hi"}]}, stream=True
        )
        events = [dump(event) for event in stream]
        assert [event.event.removeprefix("thread.") for event in events] == [
            "created",
            "run.created",
            "run.queued",
            "run.in_progress",
            "run.step.created",
            "run.step.in_progress",
            "message.created",
            "message.in_progress",
            "message.delta",
            "message.completed",
            "run.step.completed",
            "run.completed",
        ]
        assert [event.data.status for event in events[1:4]] == ["queued", "queued", "in_progress"]

    def test_a_thread_is_made_with_a_run_that_is_streamed(self, sdk: OpenAI) -> None:
        with sdk.beta.threads.create_and_run_stream(
            assistant_id=DEFAULT, thread={"messages": [{"role": "user", "content": "Hi"}]}
        ) as stream:
            assert "".join(stream.text_deltas) == "re: Hi"

    def test_a_reader_who_leaves_loses_nothing(
        self, sdk: OpenAI, thread_id: str, replies: ScriptedReplies, served: ServerProcess
    ) -> None:
        say(sdk, thread_id, SLOW[3])
        stream = sdk.beta.threads.runs.create(thread_id=thread_id, assistant_id=DEFAULT, stream=True)
        run_id = next(iter(stream)).data.id
        assert stream.response.headers["X-Stream-ID"] == run_id
        stream.close()
        replies.end(SLOW[3], "whole")
        assert sdk.beta.threads.runs.poll(run_id, thread_id=thread_id).status == "completed"
        assert texts(sdk, thread_id) == ["whole", SLOW[3]]

    def test_the_asynchronous_package_reads_them_too(self, served: ServerProcess) -> None:
        async def read() -> list[str]:
            async with AsyncOpenAI(base_url=f"{served.url}/api/v1", api_key="any") as sdk:
                thread = await sdk.beta.threads.create(messages=[{"role": "user", "content": "Hi"}])
                async with sdk.beta.threads.runs.stream(thread_id=thread.id, assistant_id=DEFAULT) as stream:
                    pieces = [piece async for piece in stream.text_deltas]
                    return [*pieces, (await stream.get_final_run()).status]

        assert asyncio.run(read()) == ["re: Hi", "completed"]


class TestFunctions:
    def test_their_outputs_are_submitted_and_polled(
        self, sdk: OpenAI, thread_id: str, replies: ScriptedReplies
    ) -> None:
        say(sdk, thread_id, "weather 0")
        replies.say("weather 0", wants(("call_1", "Seoul"), ("call_2", "Oslo")))
        run = dump(sdk.beta.threads.runs.create_and_poll(thread_id=thread_id, assistant_id=DEFAULT, tools=[WEATHER]))
        assert (run.status, run.required_action.type) == ("requires_action", "submit_tool_outputs")
        calls = run.required_action.submit_tool_outputs.tool_calls
        assert [(call.id, json.loads(call.function.arguments)["city"]) for call in calls] == [
            ("call_1", "Seoul"),
            ("call_2", "Oslo"),
        ]
        (step,) = sdk.beta.threads.runs.steps.list(run.id, thread_id=thread_id)
        assert (dump(step).type, step.status) == ("tool_calls", "in_progress")
        replies.say("0 degrees", "Cold.", Completion("told", Usage(20, 2, 22), "stop"))
        outputs: Any = [
            {"tool_call_id": "call_1", "output": "20 degrees"},
            {"tool_call_id": "call_2", "output": "0 degrees"},
        ]
        run = dump(
            sdk.beta.threads.runs.submit_tool_outputs_and_poll(run_id=run.id, thread_id=thread_id, tool_outputs=outputs)
        )
        assert (run.status, run.required_action) == ("completed", None)
        assert (run.usage.prompt_tokens, run.usage.completion_tokens, run.usage.total_tokens) == (30, 7, 37)
        assert texts(sdk, thread_id) == ["Cold.", "weather 0"]
        called, wrote = sdk.beta.threads.runs.steps.list(run.id, thread_id=thread_id, order="asc")
        assert (dump(called).type, called.status, dump(wrote).type) == ("tool_calls", "completed", "message_creation")
        assert [call.function.output for call in called.step_details.tool_calls] == ["20 degrees", "0 degrees"]

    def test_their_outputs_are_submitted_and_waited_for_by_hand(
        self, sdk: OpenAI, thread_id: str, replies: ScriptedReplies
    ) -> None:
        say(sdk, thread_id, "weather 1")
        replies.say("weather 1", wants(("call_1", "Seoul")))
        run = sdk.beta.threads.runs.create_and_poll(thread_id=thread_id, assistant_id=DEFAULT, tools=[WEATHER])
        with pytest.raises(openai.BadRequestError, match="output of each call"):
            sdk.beta.threads.runs.submit_tool_outputs(
                run.id, thread_id=thread_id, tool_outputs=[{"tool_call_id": "call_9", "output": "?"}]
            )
        replies.end("1 degrees", "Cool.")
        run = dump(
            sdk.beta.threads.runs.submit_tool_outputs(
                run.id, thread_id=thread_id, tool_outputs=[{"tool_call_id": "call_1", "output": "1 degrees"}]
            )
        )
        assert run.status in ("queued", "in_progress")
        assert sdk.beta.threads.runs.poll(run.id, thread_id=thread_id).status == "completed"
        with pytest.raises(openai.BadRequestError, match="does not wait for outputs"):
            sdk.beta.threads.runs.submit_tool_outputs(
                run.id, thread_id=thread_id, tool_outputs=[{"tool_call_id": "call_1", "output": "1 degrees"}]
            )

    def test_event_handlers_are_told_of_calls_and_of_what_follows_their_outputs(
        self, sdk: OpenAI, thread_id: str, replies: ScriptedReplies
    ) -> None:
        say(sdk, thread_id, "weather 2")
        replies.say("weather 2", "Let me see. ", wants(("call_1", "Seoul"), ("call_2", "Oslo")))
        first = EventLog()
        with sdk.beta.threads.runs.stream(
            thread_id=thread_id, assistant_id=DEFAULT, tools=[WEATHER], event_handler=first
        ) as stream:
            stream.until_done()
        run = dump(first.get_final_run())
        assert run.status == "requires_action"
        seoul, oslo = '{"city": "Seoul"}', '{"city": "Oslo"}'
        assert [each for each in first.replies if each[0] in ("delta", "call created", "call done")] == [
            ("delta", "Let me see. "),
            ("call created", "get_weather"),
            ("call done", seoul),
            ("call created", "get_weather"),
            ("call done", oslo),
        ]
        calls = first.get_final_run_steps()[-1].step_details.tool_calls
        assert [(call.id, call.function.arguments) for call in calls] == [("call_1", seoul), ("call_2", oslo)]
        replies.end("2 degrees", "It is", " cold.")
        second = EventLog()
        with sdk.beta.threads.runs.submit_tool_outputs_stream(
            run_id=run.id,
            thread_id=thread_id,
            tool_outputs=[{"tool_call_id": call.id, "output": "2 degrees"} for call in calls],
            event_handler=second,
        ) as stream:
            stream.until_done()
        assert second.replies[0] == ("step done", "tool_calls")
        assert "".join(value for kind, value in second.replies if kind == "delta") == "It is cold."
        assert ("text done", "Let me see. It is cold.") in second.replies
        (message,) = second.get_final_messages()
        assert text_of(message) == "Let me see. It is cold."
        assert second.get_final_run().status == "completed"
        assert texts(sdk, thread_id) == ["Let me see. It is cold.", "weather 2"]

    def test_one_that_waits_is_cancelled(self, sdk: OpenAI, thread_id: str, replies: ScriptedReplies) -> None:
        say(sdk, thread_id, "weather 3")
        replies.say("weather 3", wants(("call_1", "Seoul")))
        run = sdk.beta.threads.runs.create_and_poll(thread_id=thread_id, assistant_id=DEFAULT, tools=[WEATHER])
        with pytest.raises(openai.BadRequestError, match="active run"):
            say(sdk, thread_id, "Hello?")
        assert sdk.beta.threads.runs.cancel(run.id, thread_id=thread_id).status == "cancelled"
        (step,) = sdk.beta.threads.runs.steps.list(run.id, thread_id=thread_id)
        assert dump(step).status == "cancelled"
        say(sdk, thread_id, "Hello?")


class TestFaults:
    """Each error raises its own exception in OpenAI's package."""

    def test_what_is_not_there_is_not_found(self, sdk: OpenAI, thread_id: str) -> None:
        threads = sdk.beta.threads
        for call in (
            lambda: threads.messages.create("thread_none", role="user", content="Hi"),
            lambda: threads.messages.list("thread_none"),
            lambda: threads.runs.create(thread_id="thread_none", assistant_id=DEFAULT),
            lambda: threads.runs.list("thread_none"),
            lambda: threads.runs.create(thread_id=thread_id, assistant_id="asst_none"),
            lambda: threads.runs.retrieve("run_none", thread_id=thread_id),
            lambda: threads.runs.cancel("run_none", thread_id=thread_id),
            lambda: threads.runs.steps.list("run_none", thread_id=thread_id),
            lambda: threads.messages.delete("msg_none", thread_id=thread_id),
            lambda: threads.delete("thread_none"),
            lambda: sdk.beta.assistants.delete("asst_none"),
        ):
            with pytest.raises(openai.NotFoundError) as caught:
                call()
            assert (caught.value.code, caught.value.type) == ("not_found", "invalid_request_error")
            assert "with that id" in caught.value.message

    def test_what_does_not_fit_is_a_bad_request(self, sdk: OpenAI, thread_id: str) -> None:
        threads: Any = sdk.beta.threads
        for call in (
            lambda: threads.create(metadata={f"k{number}": "" for number in range(17)}),
            lambda: threads.create(metadata={"k" * 65: ""}),
            lambda: threads.create(metadata={"k": "v" * 513}),
            lambda: threads.messages.create(thread_id, role="user", content=""),
            lambda: threads.messages.create(thread_id, role="system", content="Hi"),
            lambda: threads.messages.list(thread_id, limit=101),
            lambda: threads.messages.list(thread_id, order="up"),
            lambda: threads.messages.list(thread_id, after="msg_none"),
            lambda: threads.runs.create(thread_id=thread_id, assistant_id=DEFAULT, temperature=3),
            lambda: threads.runs.create(thread_id=thread_id, assistant_id=DEFAULT, tools=[{"type": "file_search"}]),
            lambda: sdk.beta.assistants.create(model="told", tools=[{"type": "code_interpreter"}]),
        ):
            with pytest.raises(openai.BadRequestError) as caught:
                call()
            assert (caught.value.code, caught.value.type) == ("invalid_request", "invalid_request_error")

    def test_a_thread_that_is_being_answered_takes_neither_message_nor_run(
        self, sdk: OpenAI, thread_id: str, replies: ScriptedReplies
    ) -> None:
        say(sdk, thread_id, SLOW[4])
        run = sdk.beta.threads.runs.create(thread_id=thread_id, assistant_id=DEFAULT)
        with pytest.raises(openai.BadRequestError, match="active run"):
            say(sdk, thread_id, "Hello?")
        with pytest.raises(openai.BadRequestError, match="active run"):
            sdk.beta.threads.runs.create(thread_id=thread_id, assistant_id=DEFAULT)
        replies.end(SLOW[4], "Yes.")
        assert sdk.beta.threads.runs.poll(run.id, thread_id=thread_id).status == "completed"
        assert texts(sdk, thread_id) == ["Yes.", SLOW[4]]


def test_times_are_whole_unix_seconds_and_never_run_backwards(sdk: OpenAI, thread_id: str) -> None:
    for text in ("one", "two"):
        say(sdk, thread_id, text)
        sdk.beta.threads.runs.create_and_poll(thread_id=thread_id, assistant_id=DEFAULT)
    times = [each.created_at for each in sdk.beta.threads.messages.list(thread_id, order="asc")]
    assert len(times) == 4
    assert all(earlier <= later for earlier, later in pairwise(times))

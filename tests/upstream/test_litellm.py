"""A gateway that nobody here wrote: LiteLLM's proxy as the upstream, over its own mocks and over a stub of ours."""

import json
import os
import re
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from server import errors
from server.domain import ToolCall, Usage
from server.upstream.openai import OpenAIUpstream
from server.upstream.protocol import Completion, CompletionRequest
from tests.support.leaks import LEAKS
from tests.support.openai_server import (
    COUNTS,
    DONE,
    END,
    MODEL,
    PATIENCE_SECONDS,
    THEIRS,
    Exchange,
    OpenAIServer,
    Script,
    answers,
    breaks_off,
    completion,
    event,
    good,
    good_stream,
    hangs_up,
    piece,
    refuses,
    resets,
    says,
    silent,
    streams,
    streams_and_breaks,
    streams_and_waits,
)
from tests.support.process import ROOT, ServerProcess, free_port, serve, start_process
from tests.support.requirements import skip_or_fail

LITELLM = ROOT / ".venv" / "litellm"
CONFIG = ROOT / "tests/upstream/litellm.yaml"
START_SECONDS = 60.0
KEY = "sk-the-gateways-master-key-0123456789"
HI = b'[{"role":"user","content":"Gr\xc3\xbc\xc3\x9fe, \xec\x95\x88\xeb\x85\x95"}]'
MOCKED = "Grüße von LiteLLM 👋, 안녕"
SEOUL = '{"city": "Seoul"}'
OSLO = '{"city": "Oslo"}'
WEATHER: Any = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
GATEWAYS_WORDS = ("litellm", "mock", "backend", "Connection error", "fallback", THEIRS)
"""Of each, nothing may reach whoever asked."""


@pytest.fixture(scope="module")
def backend() -> Iterator[OpenAIServer]:
    stub = OpenAIServer()
    stub.follow(says(b"{}"))  # The gateway asks for its models when it starts.
    yield stub
    stub.close()


@pytest.fixture(scope="module")
def gateway(backend: OpenAIServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of the proxy, one process for all of these tests."""
    if not (LITELLM / "done").exists():
        skip_or_fail("LiteLLM's proxy is missing: make .venv/litellm/done")
    port = free_port()
    log = tmp_path_factory.mktemp("litellm") / "log"
    address = ["--host", "127.0.0.1", "--port", str(port)]
    process = start_process(
        [str(LITELLM / "bin" / "litellm"), "--config", str(CONFIG), *address],
        log,
        STUB_URL=backend.url,
        NOBODYS_URL=f"http://127.0.0.1:{free_port()}/v1",
        LITELLM_MASTER_KEY=KEY,
        LITELLM_LOCAL_MODEL_COST_MAP="True",  # It would ask the network for its prices.
        NO_PROXY="127.0.0.1",
    )
    LEAKS.forget_log(log)  # What the proxy tells its own operator is not ours.
    try:
        deadline = time.monotonic() + START_SECONDS
        while not is_alive(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)  # A process has no event to wait for.
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def is_alive(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture
def stub(backend: OpenAIServer) -> OpenAIServer:
    """The backend, which has heard nothing yet, and answers well until it is told otherwise."""
    backend.requests.clear()
    backend.follow(answers)
    return backend


@pytest.fixture
def upstream(gateway: str, stub: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> OpenAIUpstream:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return OpenAIUpstream(KEY, gateway, retry_seconds=0.0)


@pytest.fixture
def stranger(gateway: str, monkeypatch: pytest.MonkeyPatch) -> OpenAIUpstream:
    """With a key that the gateway does not know."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return OpenAIUpstream("sk-of-somebody-else", gateway, retry_seconds=0.0)


def call(
    model: str, *, streamed: bool, messages: bytes = HI, seconds: float = PATIENCE_SECONDS, **parameters: Any
) -> CompletionRequest:
    return CompletionRequest(model, messages, seconds, streamed, parameters, "fingerprint")


def asked(upstream: OpenAIUpstream, model: str, **changes: Any) -> tuple[str, Completion]:
    """The whole text of one reply, and what is known about it."""
    *pieces, reply = upstream.open_stream(call(model, **changes))
    assert isinstance(reply, Completion)
    return "".join(map(str, pieces)), reply


def failure(upstream: OpenAIUpstream, model: str, **changes: Any) -> type[errors.AppError]:
    """What a call fails with that gives nothing."""
    heard, error = broken(upstream, model, **changes)
    assert heard == ""
    return error


def broken(upstream: OpenAIUpstream, model: str, **changes: Any) -> tuple[str, type[errors.AppError]]:
    """The text that a call gives before it fails, and what it fails with: ours, and in our words alone."""
    heard: list[str | Completion] = []
    with pytest.raises(errors.AppError) as caught:
        heard.extend(upstream.open_stream(call(model, **changes)))
    assert str(caught.value) == caught.value.sentence
    assert not any(word in str(caught.value) for word in GATEWAYS_WORDS)
    return "".join(map(str, heard)), type(caught.value)


@pytest.fixture(autouse=True)
def no_word_of_theirs_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level("INFO")
    yield
    assert THEIRS not in caplog.text


either = pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])


def wants_weather(*cities: str) -> Script:
    """An answer that wants the function called for each of the cities, plain or streamed as it is asked."""
    calls = [
        {"index": at, "id": f"call_{at}", "type": "function", "function": {"name": "get_weather", "arguments": city}}
        for at, city in enumerate(cities)
    ]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    plain = says(completion(choices=[{"index": 0, "message": message, "finish_reason": "tool_calls"}]))
    parts = [part for each in calls for part in call_in_pieces(each)]
    end = tools_chunk([], "tool_calls") + COUNTS + DONE
    streamed = streams(*(tools_chunk([part]) for part in parts), end)
    return lambda exchange: (streamed if exchange.request.body.get("stream") else plain)(exchange)


def call_in_pieces(whole: dict[str, Any]) -> list[dict[str, Any]]:
    """As OpenAI sends it: its name first, then the arguments bit by bit."""
    arguments = whole["function"]["arguments"]
    half = len(arguments) // 2
    first = whole | {"function": whole["function"] | {"arguments": ""}}
    rest = [{"index": whole["index"], "function": {"arguments": part}} for part in (arguments[:half], arguments[half:])]
    return [first, *rest]


def tools_chunk(parts: list[dict[str, Any]], finish_reason: str | None = None) -> bytes:
    delta = {"role": "assistant", "tool_calls": parts} if parts else {}
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return event({"id": "x", "object": "chat.completion.chunk", "model": MODEL, "choices": [choice]})


def told_error(message: str, code: Any = None) -> bytes:
    return event({"error": {"message": f"{message} {THEIRS}", "type": "server_error", "param": None, "code": code}})


class TestReplies:
    def test_a_plain_reply_is_its_text_and_then_what_is_known_about_it(self, upstream: OpenAIUpstream) -> None:
        assert list(upstream.open_stream(call("says", streamed=False))) == [
            MOCKED,
            Completion("says", Usage(10, 20, 30), "stop"),
        ]

    def test_a_streamed_reply_comes_in_pieces_and_its_counts_last(self, upstream: OpenAIUpstream) -> None:
        *pieces, reply = upstream.open_stream(call("says", streamed=True))
        assert isinstance(reply, Completion)
        assert len(pieces) > 3
        assert "".join(map(str, pieces)) == MOCKED
        assert (reply.model, reply.finish_reason, reply.calls) == ("says", "stop", ())
        assert reply.usage is not None
        assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens > 1

    @either
    def test_a_reply_and_its_counts_come_through_from_the_backend(
        self, upstream: OpenAIUpstream, stub: OpenAIServer, streamed: bool
    ) -> None:
        assert asked(upstream, "stub", streamed=streamed) == ("Hello", Completion("stub", Usage(7, 5, 12), "stop"))
        assert json.dumps(stub.requests[0].body["messages"]) == json.dumps(json.loads(HI))
        assert len(stub.requests) == 1

    def test_each_piece_is_there_before_the_next_is_written(self, upstream: OpenAIUpstream, stub: OpenAIServer) -> None:
        was_read = threading.Event()

        def script(exchange: Exchange) -> None:
            exchange.begin_stream()
            exchange.chunk(piece("Hel"))
            assert was_read.wait(PATIENCE_SECONDS)
            exchange.chunk(piece("lo") + END)
            exchange.end_stream()

        stub.follow(script)
        pieces = iter(upstream.open_stream(call("stub", streamed=True)))
        assert next(pieces) == "Hel"
        was_read.set()
        assert next(pieces) == "lo"
        assert isinstance(next(pieces), Completion)

    def test_who_cuts_a_streamed_reply_ends_it_at_the_backend_too(
        self, upstream: OpenAIUpstream, stub: OpenAIServer
    ) -> None:
        stub.follow(streams_and_waits(piece("Hel")))
        writing = upstream.open_stream(call("stub", streamed=True))
        pieces = iter(writing)
        assert next(pieces) == "Hel"
        writing.abort()
        with pytest.raises(errors.UpstreamCut):
            next(pieces)
        stub.await_disconnect(stub.requests[0].connection)

    @either
    @pytest.mark.parametrize("status", [429, 503])
    def test_what_passes_is_asked_again_and_nobody_notices(
        self, upstream: OpenAIUpstream, stub: OpenAIServer, status: int, streamed: bool
    ) -> None:
        stub.follow(refuses(status), refuses(status), good_stream if streamed else good)
        assert asked(upstream, "stub", streamed=streamed)[0] == "Hello"
        assert len(stub.requests) == 3

    @either
    def test_a_parameter_that_the_gateway_refuses_for_a_model_is_left_out(
        self, upstream: OpenAIUpstream, stub: OpenAIServer, streamed: bool
    ) -> None:
        text, _ = asked(
            upstream, "older", streamed=streamed, reasoning_effort="low", temperature=0.5, max_completion_tokens=9
        )
        assert text == "Hello"
        (heard,) = stub.requests
        assert (heard.body["temperature"], heard.body["max_completion_tokens"]) == (0.5, 9)
        assert "reasoning_effort" not in heard.body

    def test_a_form_that_the_gateway_refuses_for_a_model_is_never_left_out(
        self, upstream: OpenAIUpstream, stub: OpenAIServer
    ) -> None:
        wanted = {"response_format": {"type": "json_object"}}
        assert failure(upstream, "older", streamed=False, **wanted) is errors.UpstreamRefused
        assert stub.requests == []


class TestOffers:
    def test_its_models_are_listed_and_the_first_is_the_default(self, upstream: OpenAIUpstream) -> None:
        names = re.findall(r"model_name: (\w+)", CONFIG.read_text())
        assert [each["id"] for each in upstream.list_models()] == names
        assert upstream.default_model() == names[0]

    def test_it_is_healthy_before_anything_was_asked(self, upstream: OpenAIUpstream) -> None:
        assert upstream.check_health() == "connected"


class TestFunctions:
    @either
    def test_calls_come_whole_with_arguments_that_are_json(
        self, upstream: OpenAIUpstream, stub: OpenAIServer, streamed: bool
    ) -> None:
        stub.follow(wants_weather(SEOUL, OSLO))
        text, reply = asked(upstream, "stub", streamed=streamed, tools=[WEATHER], tool_choice="auto")
        assert (text, reply.finish_reason, reply.usage) == ("", "tool_calls", Usage(7, 5, 12))
        assert reply.calls == (
            ToolCall("call_0", "get_weather", SEOUL),
            ToolCall("call_1", "get_weather", OSLO),
        )
        assert (stub.requests[0].body["tools"], stub.requests[0].body["tool_choice"]) == ([WEATHER], "auto")

    def test_calls_that_the_gateway_mocks_come_beside_its_text(self, upstream: OpenAIUpstream) -> None:
        text, reply = asked(upstream, "calls", streamed=False, tools=[WEATHER])
        assert (text, reply.calls) == ("This is a mock request", (ToolCall("call_1", "get_weather", SEOUL),))

    @either
    def test_outputs_reach_the_backend_with_the_calls_that_they_answer(
        self, upstream: OpenAIUpstream, stub: OpenAIServer, streamed: bool
    ) -> None:
        function = {"name": "get_weather", "arguments": SEOUL}
        messages = [
            {"role": "user", "content": "How warm is it?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "call_0", "type": "function", "function": function}],
            },
            {"role": "tool", "tool_call_id": "call_0", "content": "20 °C"},
        ]
        sent = json.dumps(messages).encode()
        assert asked(upstream, "stub", streamed=streamed, messages=sent, tools=[WEATHER])[0] == "Hello"
        heard = stub.requests[0].body["messages"]
        assert [{"content": None, **each} for each in heard] == messages

    def test_calls_that_break_off_are_no_reply(self, upstream: OpenAIUpstream, stub: OpenAIServer) -> None:
        whole = {"index": 0, "id": "call_0", "type": "function"}
        parts = call_in_pieces(whole | {"function": {"name": "get_weather", "arguments": SEOUL}})
        stub.follow(streams_and_breaks(*(tools_chunk([part]) for part in parts)))
        assert failure(upstream, "stub", streamed=True, tools=[WEATHER]) is errors.UpstreamFailed


class TestRefusals:
    @either
    @pytest.mark.parametrize(
        ("model", "error"),
        [
            ("limited", errors.UpstreamRateLimited),
            ("short", errors.ContextTooLong),
            ("broken", errors.UpstreamFailed),
            ("prude", errors.UpstreamRefused),
            ("overloaded", errors.UpstreamFailed),
            ("slow", errors.UpstreamTimedOut),
            ("nobody", errors.UpstreamFailed),
            ("unheard-of", errors.UpstreamRefused),
        ],
    )
    def test_what_the_gateway_refuses_by_itself_is_named(
        self, upstream: OpenAIUpstream, model: str, error: type[errors.AppError], streamed: bool
    ) -> None:
        assert failure(upstream, model, streamed=streamed) is error

    @either
    @pytest.mark.parametrize(
        ("script", "error"),
        [
            (refuses(400), errors.UpstreamRefused),
            (refuses(400, message=f"Maximum context length is 9 tokens. {THEIRS}"), errors.ContextTooLong),
            (refuses(400, "context_length_exceeded", message=f"Too many tokens: {THEIRS}"), errors.ContextTooLong),
            (refuses(400, "invalid_api_key", message=f"Invalid API key {THEIRS}"), errors.UpstreamRefusedKey),
            (refuses(401, "invalid_api_key"), errors.UpstreamRefusedKey),
            (refuses(402, "insufficient_quota"), errors.UpstreamQuotaExhausted),
            (refuses(403), errors.UpstreamRefusedKey),
            (refuses(404, "model_not_found", message=f"No model x. {THEIRS}"), errors.UpstreamRefused),
            (refuses(413), errors.ContextTooLong),
            (refuses(422), errors.UpstreamRefused),
            (refuses(429, "rate_limit_exceeded"), errors.UpstreamRateLimited),
            (refuses(500), errors.UpstreamFailed),
            (refuses(503), errors.UpstreamFailed),
            (refuses(504), errors.UpstreamTimedOut),
            (hangs_up, errors.UpstreamFailed),
            (resets, errors.UpstreamFailed),
        ],
        ids=[
            *("400", "400 length", "400 length by code", "400 key", "401", "402", "403", "404", "413", "422", "429"),
            *("500", "503", "504", "hangs up", "resets"),
        ],
    )
    def test_what_the_backend_refuses_is_named_through_the_gateway(
        self,
        upstream: OpenAIUpstream,
        stub: OpenAIServer,
        script: Script,
        error: type[errors.AppError],
        streamed: bool,
    ) -> None:
        stub.follow(script)
        assert failure(upstream, "stub", streamed=streamed) is error
        assert stub.requests

    @either
    def test_a_backend_that_stays_silent_is_given_up_by_the_gateway(
        self, upstream: OpenAIUpstream, stub: OpenAIServer, streamed: bool
    ) -> None:
        stub.follow(silent)
        assert failure(upstream, "impatient", streamed=streamed) is errors.UpstreamTimedOut

    @either
    def test_a_gateway_that_stays_silent_is_given_up_by_us(
        self, upstream: OpenAIUpstream, stub: OpenAIServer, streamed: bool
    ) -> None:
        stub.follow(silent)
        assert failure(upstream, "stub", streamed=streamed, seconds=0.5) is errors.UpstreamTimedOut

    @either
    @pytest.mark.parametrize(
        "garbage",
        [
            b"\x00\xff " + THEIRS.encode(),
            b'{"words": "%s"}' % THEIRS.encode(),
            b"[1, 2]",
            b"<html>%s</html>" % THEIRS.encode(),
            b"",
            b'{"error": {"message": "%s", "code": 500}}' % THEIRS.encode(),
        ],
        ids=["bytes", "object", "list", "page", "nothing", "error with 200"],
    )
    def test_a_backend_that_answers_garbage_gives_no_reply(
        self, upstream: OpenAIUpstream, stub: OpenAIServer, garbage: bytes, streamed: bool
    ) -> None:
        stub.follow(says(garbage, Content_Type="application/json"))
        # Of most garbage, the gateway makes a stream that has ended well, and is empty.
        expected = (errors.UpstreamFailed, errors.UpstreamEmptyReply) if streamed else (errors.UpstreamFailed,)
        assert failure(upstream, "stub", streamed=streamed) in expected

    @either
    def test_a_key_that_the_gateway_does_not_know_is_a_refused_key(
        self, stranger: OpenAIUpstream, streamed: bool
    ) -> None:
        assert failure(stranger, "says", streamed=streamed) is errors.UpstreamRefusedKey

    def test_with_a_key_that_the_gateway_does_not_know_there_is_neither_a_list_nor_health(
        self, stranger: OpenAIUpstream
    ) -> None:
        assert stranger.check_health() == "unreachable"
        with pytest.raises(errors.UpstreamRefusedKey):
            stranger.list_models()


class TestBrokenStreams:
    """The gateway has said 200 and given text, and then the backend fails: never is that text the whole reply."""

    @pytest.mark.parametrize(
        ("script", "error"),
        [
            (streams(piece("Hel"), piece("lo"), told_error("Overloaded")), errors.UpstreamFailed),
            (streams(piece("Hel"), piece("lo"), told_error("Overloaded"), END), errors.UpstreamFailed),
            (
                streams(piece("Hel"), piece("lo"), told_error("Maximum context length", "context_length_exceeded")),
                errors.UpstreamCut,
            ),
            (streams(piece("Hel"), piece("lo"), b"data: {%s\n\n" % THEIRS.encode(), END), errors.UpstreamFailed),
        ],
        ids=["an error", "an error and an end", "too long", "garbage"],
    )
    def test_an_error_midway_is_a_failure_after_the_text(
        self, upstream: OpenAIUpstream, stub: OpenAIServer, script: Script, error: type[errors.AppError]
    ) -> None:
        stub.follow(script)
        assert broken(upstream, "stub", streamed=True) == ("Hello", error)
        assert len(stub.requests) == 1

    def test_one_that_breaks_midway_is_a_failure_after_the_text(
        self, upstream: OpenAIUpstream, stub: OpenAIServer
    ) -> None:
        was_read = threading.Event()

        def script(exchange: Exchange) -> None:
            streams_and_breaks(piece("Hel"), piece("lo"))(exchange)
            assert was_read.wait(PATIENCE_SECONDS)  # The gateway may lose what comes together with the break.

        stub.follow(script)
        pieces = iter(upstream.open_stream(call("stub", streamed=True)))
        assert [next(pieces), next(pieces)] == ["Hel", "lo"]
        was_read.set()
        with pytest.raises(errors.UpstreamFailed) as caught:
            next(pieces)
        assert str(caught.value) == errors.UpstreamFailed.sentence
        assert len(stub.requests) == 1

    def test_one_that_stops_midway_is_given_up_by_the_gateway(
        self, upstream: OpenAIUpstream, stub: OpenAIServer
    ) -> None:
        stub.follow(streams_and_waits(piece("Hel"), piece("lo")))
        assert broken(upstream, "impatient", streamed=True) == ("Hello", errors.UpstreamTimedOut)

    @pytest.mark.parametrize(
        "script",
        [streams_and_breaks(piece("Hello")), breaks_off(completion()), streams(told_error("Overloaded"))],
        ids=["stream", "plain", "error"],
    )
    @either
    def test_what_breaks_before_it_is_whole_is_a_failure_in_plain_too(
        self, upstream: OpenAIUpstream, stub: OpenAIServer, script: Script, streamed: bool
    ) -> None:
        stub.follow(script)
        heard, error = broken(upstream, "stub", streamed=streamed)
        assert heard in ("", "Hello" if streamed else "")
        assert error is errors.UpstreamFailed


@pytest.fixture(scope="module")
def served(gateway: str) -> Iterator[ServerProcess]:
    """This server as a process, before the gateway."""
    with serve(OPENAI_BASE_URL=gateway, OPENAI_API_KEY=KEY, DEFAULT_MODEL="stub", NO_PROXY="127.0.0.1") as served:
        yield served


@pytest.fixture(scope="module")
def sdk(served: ServerProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/api/v1", api_key="any")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestServed:
    """From whoever asks, through this server and the gateway, to the backend and back."""

    def test_a_question_is_answered_and_the_next_one_goes_out_with_both(
        self, served: ServerProcess, stub: OpenAIServer
    ) -> None:
        assert served.query("ada", "안녕") == (200, {"response": "Hello"})
        assert served.query("ada", "Grüße")[0] == 200
        assert [each["content"] for each in stub.requests[-1].body["messages"][-3:]] == ["안녕", "Hello", "Grüße"]
        assert served.history("ada") == ["안녕", "Hello", "Grüße", "Hello"]
        assert served.ask("GET", "/health")[1]["openai_api"] == "connected"

    def test_a_failure_is_told_in_our_words_and_nothing_is_kept_as_a_reply(
        self, served: ServerProcess, stub: OpenAIServer
    ) -> None:
        stub.follow(refuses(500))
        status, answer = served.query("bob", "Hi")
        assert (status >= 500, answer["code"]) == (True, "upstream_failed")
        assert not any(word in json.dumps(answer) for word in GATEWAYS_WORDS)
        assert "Hello" not in served.history("bob")
        assert THEIRS not in served.log()

    @either
    def test_functions_are_called_and_their_outputs_answered_by_openais_package(
        self, sdk: openai.OpenAI, stub: OpenAIServer, streamed: bool
    ) -> None:
        stub.follow(wants_weather(SEOUL, OSLO), answers)
        runs = sdk.beta.threads.runs
        thread_id = sdk.beta.threads.create(messages=[{"role": "user", "content": "How warm is it?"}]).id
        asked: Any = {"thread_id": thread_id, "assistant_id": "asst_default", "tools": [WEATHER]}
        if streamed:
            with runs.stream(**asked) as stream:
                stream.until_done()
                run = stream.get_final_run()
        else:
            run = runs.create_and_poll(**asked)
        assert run.status == "requires_action"
        assert run.required_action is not None
        calls = run.required_action.submit_tool_outputs.tool_calls
        assert [json.loads(each.function.arguments)["city"] for each in calls] == ["Seoul", "Oslo"]
        outputs: Any = [{"tool_call_id": each.id, "output": f"{at} °C"} for at, each in enumerate(calls)]
        sent: Any = {"thread_id": thread_id, "tool_outputs": outputs}
        if streamed:
            with runs.submit_tool_outputs_stream(run_id=run.id, **sent) as stream:
                assert "".join(stream.text_deltas) == "Hello"
                run = stream.get_final_run()
        else:
            run = runs.submit_tool_outputs_and_poll(run_id=run.id, **sent)
        assert run.status == "completed"
        assert run.usage is not None
        assert run.usage.total_tokens == 24
        said, *answered = stub.requests[-1].body["messages"][-3:]
        assert [each["id"] for each in said["tool_calls"]] == [each.id for each in calls]
        assert [(each["tool_call_id"], each["content"]) for each in answered] == [
            (calls[0].id, "0 °C"),
            (calls[1].id, "1 °C"),
        ]

    def test_a_streamed_run_that_breaks_midway_has_failed_and_its_message_is_incomplete(
        self, sdk: openai.OpenAI, stub: OpenAIServer
    ) -> None:
        stub.follow(streams_and_breaks(piece("Hel"), piece("lo")))
        thread_id = sdk.beta.threads.create(messages=[{"role": "user", "content": "Hi"}]).id
        stream = sdk.beta.threads.runs.create(thread_id=thread_id, assistant_id="asst_default", stream=True)
        events = list(stream)
        assert events[-1].event == "thread.run.failed"
        run = events[-1].data
        assert run.last_error is not None
        assert run.last_error.message == errors.UpstreamFailed.sentence
        kept = [each.status for each in sdk.beta.threads.messages.list(thread_id, run_id=run.id)]
        assert "completed" not in kept

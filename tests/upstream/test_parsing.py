"""One reader for every shape in which a server gives a reply; and none in which it gives an error is taken for one."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from server import errors
from server.domain import Run, Usage
from server.runs.config import RunConfig
from server.runs.runner import Runner
from server.store.memory import MemoryStore
from server.upstream.openai import OpenAIUpstream
from server.upstream.protocol import Completion
from tests.support.clock import Clock
from tests.support.openai_server import (
    COUNTS,
    DONE,
    END,
    FINISH,
    MODEL,
    PATIENCE_SECONDS,
    THEIRS,
    Exchange,
    OpenAIServer,
    Script,
    completion,
    event,
    piece,
    says,
    streams,
    streams_and_breaks,
)
from tests.support.upstream_calls import KEY, call, either, failure

BOM = b"\xef\xbb\xbf"


def heard(upstream: OpenAIUpstream, *, streamed: bool) -> tuple[str, Completion]:
    """The whole text of a reply, and what is known of it, which any store must be able to keep."""
    *pieces, reply = upstream.open_stream(call(streamed=streamed))
    assert isinstance(reply, Completion)
    assert all(pieces)
    text = "".join(map(str, pieces))
    orjson.dumps([text, reply])
    return text, reply


def table(kinds: dict[str, Any]) -> Any:
    return pytest.mark.parametrize("kind", kinds.values(), ids=kinds)


def chunk(delta: Any, finish_reason: str | None = None, **choice: Any) -> bytes:
    """An event with a delta of any shape."""
    return event({"model": MODEL, "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason} | choice]})


def whole(message: Any, finish_reason: str | None = "stop", **choice: Any) -> bytes:
    """A plain answer with a message of any shape."""
    return completion(choices=[{"index": 0, "message": message, "finish_reason": finish_reason} | choice])


def bytewise(body: bytes) -> Script:
    return streams(*(body[at : at + 1] for at in range(len(body))))


# What a reply says


CONTENTS: dict[str, Any] = {
    "text": "Hello",
    "parts": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}],
    "parts without a type": [{"text": "Hello"}],
    "output parts": [{"type": "output_text", "text": "Hello"}],
    "strings": ["Hel", "lo"],
    "strings and parts": ["Hel", {"type": "text", "text": "lo"}],
    "a value": [{"type": "text", "text": {"value": "Hello", "annotations": []}}],
    "one part alone": {"type": "text", "text": "Hello"},
    "reasoning beside": [{"type": "reasoning", "text": "hm"}, {"type": "text", "text": "Hello"}],
    "reasoning text beside": [{"type": "reasoning_text", "text": "hm"}, {"type": "text", "text": "Hello"}],
    "thinking beside": [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "Hello"},
    ],
    "references beside": [{"type": "text", "text": "Hello"}, {"type": "reference", "reference_ids": [1]}],
    "null beside": [None, {"type": "text", "text": "Hello"}, {"type": "text", "text": None}, {}],
    "an image beside": [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "Hello"}],
}


@either
@table(CONTENTS)
def test_the_text_of_a_content_of_any_shape_is_the_reply(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: Any, streamed: bool
) -> None:
    server.follow(streams(chunk({"content": kind}), END) if streamed else says(whole({"content": kind})))
    assert heard(upstream, streamed=streamed) == ("Hello", Completion(MODEL, Usage(7, 5, 12), "stop"))


CHOICES: dict[str, Any] = {
    "message": {"message": {"role": "assistant", "content": "Hello"}},
    "delta": {"delta": {"content": "Hello"}},
    "text": {"text": "Hello"},
    "text and an empty delta": {"delta": None, "text": "Hello"},
    "a message and an empty delta": {"delta": {}, "message": {"content": "Hello"}},
    "a delta and an empty message": {"delta": {"content": "Hello"}, "message": None},
}


@either
@table(CHOICES)
def test_a_choice_may_say_its_text_under_another_name(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: dict[str, Any], streamed: bool
) -> None:
    choice = {"index": 0, "finish_reason": "stop"} | kind
    body = completion(choices=[choice])
    server.follow(streams(b"data: " + body + b"\n\n", DONE) if streamed else says(body))
    assert heard(upstream, streamed=streamed) == ("Hello", Completion(MODEL, Usage(7, 5, 12), "stop"))


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter", "eos", "STOP", None])
@either
def test_a_reply_with_any_ordinary_reason_to_finish_is_kept(
    server: OpenAIServer, upstream: OpenAIUpstream, reason: str | None, streamed: bool
) -> None:
    server.follow(streams(piece("Hello", reason), DONE) if streamed else says(whole({"content": "Hello"}, reason)))
    text, reply = heard(upstream, streamed=streamed)
    assert (text, reply.finish_reason) == ("Hello", reason)


@either
@table({"null": {"error": None}, "empty": {"error": ""}})
def test_an_error_that_is_null_beside_a_reply_is_none(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: dict[str, Any], streamed: bool
) -> None:
    first = event({"choices": [{"delta": {"content": "Hello"}, "error": None}]} | kind)
    server.follow(streams(first, FINISH, DONE) if streamed else says(completion(**kind)))
    assert heard(upstream, streamed=streamed)[0] == "Hello"


def test_an_error_that_is_null_beside_the_counts_is_none(server: OpenAIServer, upstream: OpenAIUpstream) -> None:
    counts = {"model": MODEL, "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}, "error": None}
    server.follow(streams(piece("Hello"), FINISH, event(counts), DONE))
    assert heard(upstream, streamed=True) == ("Hello", Completion(MODEL, Usage(7, 5, 12), "stop"))


# How a stream is written


def folded(body: bytes) -> bytes:
    """Each event over several `data:` lines."""
    return body.replace(b', "', b',\ndata: "')


LINES = piece("Hel") + piece("lo") + END
STREAMS: dict[str, bytes] = {
    "as it should be": LINES,
    "CRLF": LINES.replace(b"\n", b"\r\n"),
    "CR": LINES.replace(b"\n", b"\r"),
    "single newlines": LINES.replace(b"\n\n", b"\n"),
    "single CRLF": LINES.replace(b"\n\n", b"\r\n"),
    "single CR": LINES.replace(b"\n\n", b"\r"),
    "many newlines": LINES.replace(b"\n\n", b"\n\n\n\n"),
    "newlines before": b"\n\r\n\n" + LINES,
    "no space after the colon": LINES.replace(b"data: ", b"data:"),
    "several data lines": folded(LINES),
    "several data lines, CRLF": folded(LINES).replace(b"\n", b"\r\n"),
    "empty data": b"data:\n\n" + LINES.replace(b"\n\n", b"\n\ndata: \n\ndata:\n\n"),
    "a byte order mark": BOM + LINES,
    "a byte order mark, CRLF": BOM + LINES.replace(b"\n", b"\r\n"),
    "comments": b": hello\n\n" + LINES.replace(b"\n\n", b"\n\n: ping\n\n:\n\n"),
    "comments inside an event": b": hello\n" + LINES.replace(b"data:", b": OPENROUTER PROCESSING\ndata:"),
    "events and ids": LINES.replace(b"data:", b"event: message\nid: 7\nretry: 3000\ndata:"),
    "events and ids, CR": LINES.replace(b"data:", b"event: message\nid: 7\ndata:").replace(b"\n", b"\r"),
    "the event after its data": LINES.replace(b"\n\n", b"\nevent: completion.chunk\nid: 7\n\n"),
    "no newline at the end": LINES.rstrip(b"\n"),
    "no last word": LINES.removesuffix(DONE),
    "no last word and no newline": LINES.removesuffix(DONE).rstrip(b"\n"),
    "one object a line": LINES.removesuffix(DONE).replace(b"data: ", b"").replace(b"\n\n", b"\n"),
    "one object a line, CRLF": LINES.removesuffix(DONE).replace(b"data: ", b"").replace(b"\n\n", b"\r\n"),
    "one object a line, no newline at the end": LINES.removesuffix(DONE).replace(b"data: ", b"").rstrip(b"\n"),
    "one object a line, with a last word": LINES.replace(b"data: ", b"").replace(b"\n\n", b"\n"),
    "one object a line, a byte order mark": BOM + LINES.removesuffix(DONE).replace(b"data: ", b""),
    "more after the last word": LINES + piece("!"),
}


@table(STREAMS)
@pytest.mark.parametrize("send", [streams, bytewise], ids=["at once", "byte by byte"])
def test_a_stream_may_be_written_in_many_ways(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: bytes, send: Any
) -> None:
    server.follow(send(kind))
    assert heard(upstream, streamed=True) == ("Hello", Completion(MODEL, Usage(7, 5, 12), "stop"))


@table(STREAMS)
def test_a_stream_is_read_where_a_whole_answer_was_asked_for(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: bytes
) -> None:
    server.follow(says(kind, Content_Type="text/event-stream"))
    assert heard(upstream, streamed=False) == ("Hello", Completion(MODEL, Usage(7, 5, 12), "stop"))


WHOLES: dict[str, bytes] = {
    "compact": completion(),
    "over many lines": json.dumps(json.loads(completion()), indent=2).encode(),
    "a byte order mark": BOM + completion(),
    "white space around": b"\r\n\n  " + completion() + b"\n\n",
    "a byte order mark and white space": BOM + b"\n " + completion(),
}


@table(WHOLES)
@pytest.mark.parametrize("send", [says, streams, bytewise], ids=["with a length", "in a chunk", "byte by byte"])
@either
def test_a_whole_answer_is_read_whatever_was_asked_for(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: bytes, send: Any, streamed: bool
) -> None:
    server.follow(send(kind))
    assert heard(upstream, streamed=streamed) == ("Hello", Completion(MODEL, Usage(7, 5, 12), "stop"))


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_each_request_says_whether_it_wants_a_stream(
    server: OpenAIServer, upstream: OpenAIUpstream, streamed: bool
) -> None:
    server.follow(says(completion()))
    heard(upstream, streamed=streamed)
    assert server.requests[0].body["stream"] is streamed


@table({"at once": b"", "in the counts": COUNTS[:20], "after the counts": COUNTS})
def test_a_stream_that_breaks_after_its_reason_to_finish_is_whole(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: bytes
) -> None:
    server.follow(streams_and_breaks(piece("Hello"), FINISH, kind or b"\n"))
    text, reply = heard(upstream, streamed=True)
    assert (text, reply.finish_reason) == ("Hello", "stop")


def test_a_stream_that_is_reset_after_its_reason_to_finish_is_whole(
    server: OpenAIServer, upstream: OpenAIUpstream
) -> None:
    was_read = threading.Event()

    def resets_late(exchange: Exchange) -> None:
        streams_and_breaks(piece("Hello") + FINISH)(exchange)
        assert was_read.wait(PATIENCE_SECONDS)
        exchange.reset()

    server.follow(resets_late)
    pieces = iter(upstream.open_stream(call(streamed=True)))
    assert next(pieces) == "Hello"
    was_read.set()
    assert list(pieces) == [Completion(MODEL, None, "stop")]


def test_the_last_word_is_enough_without_a_reason_to_finish(server: OpenAIServer, upstream: OpenAIUpstream) -> None:
    server.follow(streams(piece("Hello"), DONE))
    assert heard(upstream, streamed=True) == ("Hello", Completion(MODEL, None, None))


# Text that is no Unicode

BROKEN_TEXTS: dict[str, tuple[list[bytes], str]] = {
    "a pair in one piece": ([rb"a\ud83d\ude00b"], "a😀b"),
    "a pair over two pieces": ([rb"a\ud83d", rb"\ude00b"], "a😀b"),
    "a pair over two pieces, with nothing between": ([rb"a\ud83d", b"", rb"\ude00b"], "a😀b"),
    "a high one alone": ([rb"a\ud83db"], "a\ufffdb"),
    "a high one alone before a piece": ([rb"a\ud83d", b"b"], "a\ufffdb"),
    "a high one at the end": ([rb"ab\ud83d"], "ab\ufffd"),
    "a high one at the end of the last piece": ([b"ab", rb"\ud83d"], "ab\ufffd"),
    "a high one and nothing else": ([rb"\ud83d"], "\ufffd"),
    "two high ones": ([rb"a\ud83d\ud83d", rb"\ude00b"], "a\ufffd😀b"),
    "a low one alone": ([rb"a\ude00b"], "a\ufffdb"),
    "a low one at the end": ([rb"ab\ude00"], "ab\ufffd"),
    "the wrong way round": ([rb"a\ude00\ud83db"], "a\ufffd\ufffdb"),
    "broken UTF-8": ([b"a\xffb"], "a\ufffdb"),
    "broken UTF-8 at the end": ([b"ab\xe4\xb8"], "ab\ufffd"),
    "surrogates in UTF-8": ([b"a\xed\xa0\xbdb"], "a\ufffd\ufffd\ufffdb"),
}


@either
@table(BROKEN_TEXTS)
def test_broken_text_is_mended_and_loses_nothing_else(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: tuple[list[bytes], str], streamed: bool
) -> None:
    said, expected = kind
    if streamed:
        events = [b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % each for each in said]
        server.follow(streams(*events, END))
    else:
        server.follow(says(completion("@").replace(b"@", b"".join(said))))
    assert heard(upstream, streamed=streamed)[0] == expected


@either
@pytest.mark.parametrize("value", [rb"m\ud83d", b"m\xff"], ids=["surrogate", "UTF-8"])
def test_broken_names_are_mended(server: OpenAIServer, upstream: OpenAIUpstream, value: bytes, streamed: bool) -> None:
    body = b'{"model":"%b","choices":[{"%b":{"content":"Hello"},"finish_reason":"%b","logprobs":{"content":["%b"]}}]}'
    body = body % (value, b"delta" if streamed else b"message", value, value)
    server.follow(streams(b"data: " + body + b"\n\n", DONE) if streamed else says(body))
    _, reply = heard(upstream, streamed=streamed)
    assert (reply.model, reply.finish_reason, reply.logprobs) == ("m\ufffd", "m\ufffd", ["m\ufffd"])


# Numbers that are none

NUMBERS = ["NaN", "nan", "Infinity", "-Infinity", "inf", "-inf", "1e999", "-1e999", "9" * 30, "9" * 5000, "1e400"]


@either
@pytest.mark.parametrize(
    "template",
    [
        '"extra": @, "choices": [{%s, "index": @}]',
        '"created": @, "timings": {"a": [@, @]}, "choices": [{%s}]',
        '"choices": [{%s}], "usage": {"prompt_tokens": @, "completion_tokens": @, "total_tokens": @}',
        '"choices": [{%s}], "usage": {"prompt_tokens": 7, "completion_tokens": 5, "cost": @}',
        '"choices": [{%s, "logprobs": {"content": [{"token": "a", "logprob": @, "top_logprobs": [@]}]}}]',
        '"choices": [{%s}], "usage": @, "model": @',
    ],
    ids=["extra", "created", "counts", "cost", "logprobs", "usage"],
)
def test_numbers_that_json_does_not_know_lose_no_reply(
    server: OpenAIServer, upstream: OpenAIUpstream, template: str, streamed: bool
) -> None:
    said = (
        '"delta": {"content": "Say NaN, \\"Infinity\\""}'
        if streamed
        else '"message": {"content": "Say NaN, \\"Infinity\\""}'
    )
    for number in NUMBERS:
        body = ("{" + template % said + "}").replace("@", number).encode()
        server.follow(streams(b"data: " + body + b"\n\n", FINISH, DONE) if streamed else says(body))
        assert heard(upstream, streamed=streamed)[0] == 'Say NaN, "Infinity"', number[:20]


# Where counts stand

COUNTED: dict[str, dict[str, Any]] = {
    "as it should be": {"usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}},
    "without a sum": {"usage": {"prompt_tokens": 7, "completion_tokens": 5}},
    "other names": {"usage": {"input_tokens": 7, "output_tokens": 5}},
    "other names and a sum": {"usage": {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12}},
    "texts": {"usage": {"prompt_tokens": "7", "completion_tokens": "5"}},
    "floats": {"usage": {"prompt_tokens": 7.0, "completion_tokens": 5.0}},
    "of Groq": {"x_groq": {"id": "req_1", "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}}},
    "null beside those of Groq": {
        "usage": None,
        "x_groq": {"usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}},
    },
}


@either
@table(COUNTED)
def test_counts_are_found_wherever_they_stand(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: dict[str, Any], streamed: bool
) -> None:
    choices = [{"message": {"content": "Hello"}, "finish_reason": "stop"}]
    counts = event({"choices": []} | kind)
    server.follow(
        streams(piece("Hello"), FINISH, counts, DONE) if streamed else says(orjson.dumps({"choices": choices} | kind))
    )
    assert heard(upstream, streamed=streamed)[1].usage == Usage(7, 5, 12)


@either
def test_counts_may_stand_in_the_choice(server: OpenAIServer, upstream: OpenAIUpstream, streamed: bool) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    plain = json.loads(whole({"content": "Hello"}, usage=usage)) | {"usage": None}
    server.follow(
        streams(piece("Hello"), chunk({}, "stop", usage=usage), DONE) if streamed else says(orjson.dumps(plain))
    )
    assert heard(upstream, streamed=streamed)[1].usage == Usage(7, 5, 12)


def test_the_counts_of_a_stream_are_those_that_came_last(server: OpenAIServer, upstream: OpenAIUpstream) -> None:
    early = event({"choices": [{"delta": {"content": "Hello"}}], "usage": {"prompt_tokens": 7, "completion_tokens": 1}})
    server.follow(streams(early, END))
    assert heard(upstream, streamed=True)[1].usage == Usage(7, 5, 12)


# Errors

ERRORS: dict[str, Any] = {
    "error": {"error": {"message": THEIRS, "type": "server_error"}},
    "error with choices": {"error": {"message": THEIRS}, "choices": [{"delta": {"content": ""}}]},
    "object": {"object": "error", "message": THEIRS, "code": 40303},
    "object with choices": {"object": "error", "choices": [{"delta": {"content": "no"}, "message": {"content": "no"}}]},
    "error_code": {"error_code": 500},
    "error_code and error_msg": {"error_code": 17, "error_msg": THEIRS},
    "a text": {"error": THEIRS},
    "empty": {"error": {}},
    "an empty text": {"error": ""},
    "null": {"error": None},
    "type": {"type": "error", "error": {"type": "overloaded_error", "message": THEIRS}},
    "type alone": {"type": "error"},
    "detail": {"detail": THEIRS},
    "details": {"detail": [{"loc": ["body"], "msg": THEIRS, "type": "value_error"}]},
    "errors": {"errors": [{"code": 7003, "message": THEIRS}]},
    "success": {"success": False},
    "success and errors": {"success": False, "errors": [], "messages": [], "result": None},
    "message and code": {"message": THEIRS, "code": "InternalError"},
    "message and code with empty choices": {"message": THEIRS, "code": 500, "choices": []},
    "message and code with null choices": {"message": THEIRS, "code": 500, "choices": None},
    "code": {"code": 500},
    "code as a text": {"code": "500"},
    "status": {"status": 503},
    "in a list": [{"error": {"code": 503, "message": THEIRS}}],
    "in a choice": {"choices": [{"delta": {"content": "no"}, "message": {"content": "no"}, "error": {"code": 502}}]},
    "in a choice, as a text": {"choices": [{"index": 0, "error": THEIRS}]},
} | {
    f"finish_reason {reason}": {
        "choices": [{"delta": {"content": "no"}, "message": {"content": "no"}, "finish_reason": reason}]
    }
    for reason in ("error", "abort", "insufficient_system_resource")
}
AFTERWARDS = {"ends": b"", "last word": DONE, "end": END}


@table(ERRORS)
def test_an_error_instead_of_a_whole_answer_fails(server: OpenAIServer, upstream: OpenAIUpstream, kind: Any) -> None:
    server.follow(says(orjson.dumps(kind)))
    assert isinstance(failure(upstream), errors.UpstreamFailed)


@table(ERRORS)
@pytest.mark.parametrize("frame", [b"data: %b\n\n", b"%b\n"], ids=["event", "bare"])
def test_an_error_instead_of_a_stream_fails(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: Any, frame: bytes
) -> None:
    server.follow(streams(frame % orjson.dumps(kind)), streams(frame % orjson.dumps(kind) + END))
    for _ in range(2):
        assert isinstance(failure(upstream, streamed=True), errors.UpstreamFailed)


@table(ERRORS)
@pytest.mark.parametrize(
    "frame", [b"data: %b\n\n", b"%b\n\n", b"event: error\ndata: %b\n\n"], ids=["event", "bare", "event: error"]
)
def test_an_error_in_the_middle_of_a_stream_fails(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: Any, frame: bytes
) -> None:
    said = frame % orjson.dumps(kind)
    server.follow(*(streams(piece("Hel"), said + after) for after in AFTERWARDS.values()))
    for _ in AFTERWARDS:
        pieces = iter(upstream.open_stream(call(streamed=True)))
        assert next(pieces) == "Hel"
        with pytest.raises(errors.UpstreamFailed):
            assert not [each for each in pieces if isinstance(each, Completion)]


@table(ERRORS)
def test_an_error_after_the_reason_to_finish_fails(server: OpenAIServer, upstream: OpenAIUpstream, kind: Any) -> None:
    server.follow(streams(piece("Hello"), FINISH, event(kind), DONE))
    assert isinstance(failure(upstream, streamed=True), errors.UpstreamFailed)


NO_JSON: dict[str, bytes] = {
    "plain text": f"{THEIRS}\n\n".encode(),
    "Internal Server Error": b"Internal Server Error",
    "upstream connect error": b"upstream connect error or disconnect/reset before headers. reset reason: overflow\n",
    "plain text as data": f"data: {THEIRS}\n\n".encode(),
    "plain text as data, one newline": f"data: {THEIRS}\n".encode(),
    "error:": b"error: the model crashed\n\n",
    "HTML": b"<html><head><title>502</title></head>\n<body>Bad Gateway</body></html>\n",
    "HTML over many lines": b"<!DOCTYPE html>\n<html>\n<h1>504</h1>\n</html>\n",
    "broken JSON": b'data: {"choices":[{"delta":{"content":"lo\n\n',
    "broken JSON that ends well": b'data: {"choices":[{"delta":{"content":"lo"}]}\n\n',
    "broken JSON, bare": b'{"error": {"message"\n\n',
    "a bare error over many lines": json.dumps({"error": {"message": THEIRS}}, indent=2).encode() + b"\n",
    "event: error": b"event: error\ndata: oops\n\n",
    "event: error with a number": b"event: error\ndata: 500\n\n",
    "event: error without a space": b'event:error\ndata:{"reason":"x"}\n\n',
    "event: error with a reply": b"event: error\n" + piece("lo"),
    "event: error without data": b"event: error\ndata:\n\n",
    "event: error alone": b"event: error\n\n",
    "event: error after its data": b'data: {"reason":"x"}\nevent: error\n\n',
    "event: error, CRLF": b'event: error\r\ndata: {"reason":"x"}\r\n\r\n',
}


@table(NO_JSON)
@pytest.mark.parametrize("after", AFTERWARDS.values(), ids=AFTERWARDS)
def test_what_is_no_json_in_the_middle_of_a_stream_fails(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: bytes, after: bytes
) -> None:
    server.follow(streams(piece("Hel"), kind + (b"\n\n" + after if after else b"")))
    assert isinstance(failure(upstream, streamed=True), errors.UpstreamFailed)


@either
@table(NO_JSON)
def test_what_is_no_json_instead_of_a_reply_fails(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: bytes, streamed: bool
) -> None:
    server.follow(streams(kind) if streamed else says(kind))
    assert isinstance(failure(upstream, streamed=streamed), errors.UpstreamFailed)


UNENDED: dict[str, bytes] = {
    "after text": piece("Hel"),
    "after a call": chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}]}),
    "in an event": piece("Hel") + piece("lo")[:30],
    "after counts": piece("Hel") + COUNTS,
    "after a comment": piece("Hel") + b": ping\n\n",
    "one object a line": (piece("Hel") + piece("lo")).replace(b"data: ", b"").replace(b"\n\n", b"\n"),
    "one object": piece("Hel").replace(b"data: ", b"").replace(b"\n\n", b"\n"),
}


@table(UNENDED)
@pytest.mark.parametrize("send", [streams, streams_and_breaks], ids=["ends", "breaks"])
def test_a_stream_without_reason_and_last_word_fails(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: bytes, send: Any
) -> None:
    server.follow(send(kind))
    assert isinstance(failure(upstream, streamed=True), errors.UpstreamFailed)


TOO_LONG: dict[str, Any] = {
    "code": {"error": {"code": "context_length_exceeded", "message": THEIRS}},
    "words": {"error": {"message": "This model's maximum context length is 8192 tokens.", "code": 400}},
    "object": {"object": "error", "message": "This model's maximum context length is 8192 tokens.", "code": 400},
    "a text": {"error": "prompt is too long: 210000 tokens > 200000 maximum"},
    "in a choice": {"choices": [{"delta": {}, "error": {"code": "context_length_exceeded"}}]},
    "detail": {"detail": "The input is longer than the model's context length"},
}


@table(TOO_LONG)
def test_an_overflow_before_any_text_is_one(server: OpenAIServer, upstream: OpenAIUpstream, kind: Any) -> None:
    server.follow(streams(event(kind)))
    assert type(failure(upstream, streamed=True)) is errors.ContextTooLong


@table(TOO_LONG)
def test_an_overflow_after_an_empty_piece_is_one(server: OpenAIServer, upstream: OpenAIUpstream, kind: Any) -> None:
    server.follow(streams(piece(""), event(kind)))
    assert type(failure(upstream, streamed=True)) is errors.ContextTooLong


@table(TOO_LONG)
def test_an_overflow_with_status_200_is_one(server: OpenAIServer, upstream: OpenAIUpstream, kind: Any) -> None:
    server.follow(says(orjson.dumps(kind)))
    assert type(failure(upstream)) is errors.ContextTooLong


@table(TOO_LONG)
def test_an_overflow_after_text_is_a_cut(server: OpenAIServer, upstream: OpenAIUpstream, kind: Any) -> None:
    server.follow(streams(piece("Hel"), event(kind), END))
    assert type(failure(upstream, streamed=True)) is errors.UpstreamCut


MIDWAY: dict[str, Script] = {
    "breaks": streams_and_breaks(piece("Hel")),
    "ends": streams(piece("Hel")),
    "error": streams(piece("Hel"), event({"error": {"message": THEIRS}}), DONE),
    "error as an object": streams(piece("Hel"), event({"object": "error", "message": THEIRS}), END),
    "bare error": streams(piece("Hel"), b'{"detail": "words of theirs"}\n', END),
    "reason": streams(piece("Hel"), piece(finish_reason="error"), DONE),
    "overflow": streams(piece("Hel"), event({"error": {"code": "context_length_exceeded"}}), DONE),
    "broken JSON": streams(piece("Hel"), b"data: {\n\n", END),
}


@table(MIDWAY)
def test_a_run_whose_stream_fails_midway_fails_and_leaves_no_history(server: OpenAIServer, kind: Script) -> None:
    clock = Clock()
    store = MemoryStore(10, clock)
    runner = Runner(store, OpenAIUpstream(KEY, server.url, default_model="m"), RunConfig(), clock)
    server.follow(kind)
    run = runner.create(Run("why?", conversation="ada"))
    last = runner.wait(run.id, PATIENCE_SECONDS, lambda: True)
    assert (last.status, last.text) == ("failed", "Hel")
    assert list(store.list_messages("ada", 0, 10)) == []
    assert last.error is not None
    assert THEIRS not in last.error.sentence
    assert len(server.requests) == 1
    runner.shut_down(0)


# Calls of functions

A = {"a": 1}
B = {"b": [2, "ü"]}


def called(calls: list[Any], expected: list[tuple[str, Any]] | None = None) -> tuple[list[Any], list[tuple[str, Any]]]:
    return calls, expected or [("f", A), ("g", B)]


def function(name: str, arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


FA, FB = function("f", json.dumps(A)), function("g", json.dumps(B))
CALLS: dict[str, tuple[list[Any], list[tuple[str, Any]]]] = {
    "as it should be": called(
        [
            {"index": 0, "id": "1", "type": "function", "function": FA},
            {"index": 1, "id": "2", "type": "function", "function": FB},
        ]
    ),
    "no index": called([{"id": "1", "function": FA}, {"id": "2", "function": FB}]),
    "null as index": called([{"index": None, "id": "1", "function": FA}, {"index": None, "id": "2", "function": FB}]),
    "the same index": called([{"index": 0, "id": "1", "function": FA}, {"index": 0, "id": "2", "function": FB}]),
    "the same index and no ids": called([{"index": 0, "function": FA}, {"index": 0, "function": FB}]),
    "the same index, no ids, the same name": called(
        [{"index": 0, "function": FA}, {"index": 0, "function": function("f", json.dumps(B))}], [("f", A), ("f", B)]
    ),
    "no ids": called([{"index": 0, "function": FA}, {"index": 1, "function": FB}]),
    "empty ids": called([{"index": 0, "id": "", "function": FA}, {"index": 1, "id": "", "function": FB}]),
    "no ids and no index": called([{"function": FA}, {"function": FB}]),
    "no ids, no index, the same name and arguments": called([{"function": FA}, {"function": FA}], [("f", A), ("f", A)]),
    "the same id twice": called([{"index": 0, "id": "1", "function": FA}, {"index": 1, "id": "1", "function": FB}]),
    "the same id twice and no index": called([{"id": "1", "function": FA}, {"id": "1", "function": FB}]),
    "the same id and index twice": called(
        [{"index": 0, "id": "1", "function": FA}, {"index": 0, "id": "1", "function": FB}]
    ),
    "the same id and name twice and no index": called(
        [{"id": "1", "function": FA}, {"id": "1", "function": function("f", json.dumps(B))}], [("f", A), ("f", B)]
    ),
    "arguments as objects": called(
        [{"index": 0, "id": "1", "function": function("f", A)}, {"index": 1, "id": "2", "function": function("g", B)}]
    ),
    "arguments as objects, no index": called(
        [{"id": "1", "function": function("f", A)}, {"id": "2", "function": function("g", B)}]
    ),
    "an empty object": called([{"index": 0, "id": "1", "function": function("f", {})}], [("f", {})]),
    "null as arguments": called([{"index": 0, "id": "1", "function": function("f", None)}], [("f", {})]),
    "empty arguments": called([{"index": 0, "id": "1", "function": function("f", "")}], [("f", {})]),
    "white space as arguments": called([{"index": 0, "id": "1", "function": function("f", " ")}], [("f", {})]),
    "no arguments": called([{"index": 0, "id": "1", "function": {"name": "f"}}], [("f", {})]),
    "no function": called([{"index": 0, "id": "1"} | FA, {"index": 1, "id": "2"} | FB]),
    "no function, no index": called([{"id": "1"} | FA, {"id": "2"} | FB]),
    "no function, null in its place": called([{"index": 0, "id": "1", "function": None} | FA], [("f", A)]),
    "indexes that begin with 1": called(
        [{"index": 1, "id": "1", "function": FA}, {"index": 2, "id": "2", "function": FB}]
    ),
    "indexes as text": called([{"index": "0", "id": "1", "function": FA}, {"index": "1", "id": "2", "function": FB}]),
}


def assert_called(reply: Completion, expected: list[tuple[str, Any]]) -> None:
    assert [(each.name, json.loads(each.arguments)) for each in reply.calls] == expected
    assert len({each.id for each in reply.calls}) == len(expected)
    assert all(each.id for each in reply.calls)


LISTED = CALLS | {
    "no ids, no index, the same name without arguments": called(
        [{"function": function("f", "")}, {"function": function("f", "")}], [("f", {}), ("f", {})]
    ),
    "no ids, no index, the same name with null as arguments": called(
        [{"function": function("f", None)}, {"function": function("f", None)}], [("f", {}), ("f", {})]
    ),
}
"""In one piece, each entry is a call, however little it says."""


@either
@table(LISTED)
def test_calls_in_one_piece_are_each_handed_on(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: tuple[list[Any], list[tuple[str, Any]]], streamed: bool
) -> None:
    calls, expected = kind
    said = {"content": None, "tool_calls": calls}
    server.follow(streams(chunk(said), chunk({}, "tool_calls"), DONE) if streamed else says(whole(said, "tool_calls")))
    text, reply = heard(upstream, streamed=streamed)
    assert (text, reply.finish_reason) == ("", "tool_calls")
    assert_called(reply, expected)


@table(CALLS)
def test_calls_in_a_piece_each_are_each_handed_on(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: tuple[list[Any], list[tuple[str, Any]]]
) -> None:
    calls, expected = kind
    server.follow(streams(*(chunk({"tool_calls": [each]}) for each in calls), chunk({}, "tool_calls"), DONE))
    assert_called(heard(upstream, streamed=True)[1], expected)


def split(calls: list[Any]) -> Iterator[Any]:
    """Each call in a piece with its name, and further ones for its arguments."""
    for each in calls:
        arguments = each["function"]["arguments"]
        yield each | {"function": {"name": each["function"]["name"], "arguments": ""}}
        for at in range(0, len(arguments), 3):
            yield {"index": each.get("index"), "function": {"arguments": arguments[at : at + 3]}}


IN_PIECES: dict[str, list[Any]] = {
    "as it should be": [*split([{"index": 0, "id": "1", "function": FA}, {"index": 1, "id": "2", "function": FB}])],
    "no index": [*split([{"id": "1", "function": FA}, {"id": "2", "function": FB}])],
    "the same index": [*split([{"index": 0, "id": "1", "function": FA}, {"index": 0, "id": "2", "function": FB}])],
    "no ids": [*split([{"index": 0, "function": FA}, {"index": 1, "function": FB}])],
    "no ids and no index": [*split([{"function": FA}, {"function": FB}])],
    "no ids, the same index": [*split([{"index": 0, "function": FA}, {"index": 0, "function": FB}])],
    "the same id twice": [*split([{"index": 0, "id": "1", "function": FA}, {"index": 1, "id": "1", "function": FB}])],
    "ids repeated": [
        {"index": 0, "id": "1", "function": {"name": "f", "arguments": '{"a"'}},
        {"index": 0, "id": "1", "function": {"arguments": ": 1}"}},
        {"index": 1, "id": "2", "function": {"name": "g", "arguments": '{"b": [2,'}},
        {"index": 1, "id": "2", "function": {"arguments": ' "ü"]}'}},
    ],
    "ids and names repeated": [
        {"index": 0, "id": "1", "function": {"name": "f", "arguments": '{"a"'}},
        {"index": 0, "id": "1", "function": {"name": "f", "arguments": ": 1}"}},
        {"index": 1, "id": "2", "function": {"name": "g", "arguments": '{"b": [2,'}},
        {"index": 1, "id": "2", "function": {"name": "g", "arguments": ' "ü"]}'}},
    ],
    "ids and names repeated, no index": [
        {"id": "1", "function": {"name": "f", "arguments": '{"a"'}},
        {"id": "1", "function": {"name": "f", "arguments": ": 1}"}},
        {"id": "2", "function": {"name": "g", "arguments": '{"b": [2,'}},
        {"id": "2", "function": {"name": "g", "arguments": ' "ü"]}'}},
    ],
    "names repeated, no ids": [
        {"index": 0, "function": {"name": "f", "arguments": '{"a"'}},
        {"index": 0, "function": {"name": "f", "arguments": ": 1}"}},
        {"index": 1, "function": {"name": "g", "arguments": '{"b": [2,'}},
        {"index": 1, "function": {"name": "g", "arguments": ' "ü"]}'}},
    ],
    "empty names repeated": [
        {"index": 0, "id": "1", "function": {"name": "f", "arguments": '{"a"'}},
        {"index": 0, "id": "", "function": {"name": "", "arguments": ": 1}"}},
        {"index": 1, "id": "2", "function": {"name": "g", "arguments": '{"b": [2,'}},
        {"index": 1, "id": None, "function": {"name": None, "arguments": ' "ü"]}'}},
    ],
    "a repeated id and empty arguments at the end": [
        {"index": 0, "id": "1", "function": {"name": "f", "arguments": '{"a": 1}'}},
        {"index": 0, "id": "1", "function": {"name": "f", "arguments": ""}},
        {"index": 1, "id": "2", "function": {"name": "g", "arguments": '{"b": [2, "ü"]}'}},
        {"index": 1, "id": "2", "function": {"name": "g", "arguments": None}},
    ],
    "by turns": [
        {"index": 0, "id": "1", "function": {"name": "f", "arguments": '{"a"'}},
        {"index": 1, "id": "2", "function": {"name": "g", "arguments": '{"b": [2,'}},
        {"index": 0, "function": {"arguments": ": 1}"}},
        {"index": 1, "function": {"arguments": ' "ü"]}'}},
    ],
    "the id after the name": [
        {"index": 0, "function": {"name": "f", "arguments": '{"a"'}},
        {"index": 0, "id": "1", "function": {"arguments": ": 1}"}},
        {"index": 1, "function": {"name": "g", "arguments": '{"b": [2,'}},
        {"index": 1, "id": "2", "function": {"arguments": ' "ü"]}'}},
    ],
    "no function": [
        {"index": 0, "id": "1", "name": "f", "arguments": '{"a"'},
        {"index": 0, "arguments": ": 1}"},
        {"index": 1, "id": "2", "name": "g", "arguments": '{"b": [2,'},
        {"index": 1, "arguments": ' "ü"]}'},
    ],
    "white space before": [
        {"index": 0, "id": "1", "function": {"name": "f", "arguments": " "}},
        {"index": 0, "function": {"arguments": '{"a": 1}\n'}},
        {"index": 1, "id": "2", "function": {"name": "g", "arguments": "\n"}},
        {"index": 1, "function": {"arguments": '{"b": [2, "ü"]}'}},
    ],
}


@table(IN_PIECES)
def test_calls_in_many_pieces_are_put_together(server: OpenAIServer, upstream: OpenAIUpstream, kind: list[Any]) -> None:
    server.follow(streams(*(chunk({"tool_calls": [each]}) for each in kind), chunk({}, "tool_calls"), DONE))
    assert_called(heard(upstream, streamed=True)[1], [("f", A), ("g", B)])


@either
@pytest.mark.parametrize("arguments", [json.dumps(A), A], ids=["text", "object"])
def test_a_function_call_of_old_is_a_call(
    server: OpenAIServer, upstream: OpenAIUpstream, arguments: Any, streamed: bool
) -> None:
    said = {"content": None, "function_call": {"name": "f", "arguments": arguments}}
    server.follow(
        streams(chunk(said), chunk({}, "function_call"), DONE) if streamed else says(whole(said, "function_call"))
    )
    assert_called(heard(upstream, streamed=streamed)[1], [("f", A)])


def test_a_function_call_of_old_may_come_in_pieces(server: OpenAIServer, upstream: OpenAIUpstream) -> None:
    said = [{"name": "f", "arguments": ""}, {"arguments": '{"a"'}, {"arguments": ": 1}"}]
    server.follow(streams(*(chunk({"function_call": each}) for each in said), chunk({}, "function_call"), DONE))
    assert_called(heard(upstream, streamed=True)[1], [("f", A)])


@either
def test_a_call_may_come_with_text(server: OpenAIServer, upstream: OpenAIUpstream, streamed: bool) -> None:
    said = {"content": "Let me see.", "tool_calls": [{"index": 0, "id": "1", "function": FA}]}
    server.follow(streams(chunk(said, "tool_calls"), DONE) if streamed else says(whole(said, "tool_calls")))
    text, reply = heard(upstream, streamed=streamed)
    assert text == "Let me see."
    assert_called(reply, [("f", A)])


@either
@pytest.mark.parametrize("calls", [None, [], {}], ids=str)
def test_no_calls_are_none(server: OpenAIServer, upstream: OpenAIUpstream, calls: Any, streamed: bool) -> None:
    said = {"content": "Hello", "tool_calls": calls, "function_call": None}
    server.follow(streams(chunk(said, "stop"), DONE) if streamed else says(whole(said)))
    text, reply = heard(upstream, streamed=streamed)
    assert (text, reply.calls) == ("Hello", ())


@either
def test_broken_text_in_a_call_is_mended(server: OpenAIServer, upstream: OpenAIUpstream, streamed: bool) -> None:
    said = {"tool_calls": [{"index": 0, "id": "1\ud83d", "function": function("f", '{"a": "\ud83d"}')}]}
    body = json.dumps({"choices": [{"delta": said, "message": said, "finish_reason": "tool_calls"}]}).encode()
    server.follow(streams(b"data: " + body + b"\n\n", DONE) if streamed else says(body))
    assert_called(heard(upstream, streamed=streamed)[1], [("f", {"a": "\ufffd"})])


def test_a_surrogate_pair_in_arguments_may_come_over_two_pieces(server: OpenAIServer, upstream: OpenAIUpstream) -> None:
    said = ['{"a": "\ud83d', '\ude00"}']
    events = [
        {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": function("f", each)}]}}]} for each in said
    ]
    server.follow(streams(*(b"data: " + json.dumps(each).encode() + b"\n\n" for each in events), DONE))
    assert_called(heard(upstream, streamed=True)[1], [("f", {"a": "😀"})])


# What is sent back with the outputs of calls

SIGNED = {"google": {"thought_signature": "Zm9v=="}}


@either
def test_what_else_stands_in_a_call_is_kept_unchanged(
    server: OpenAIServer, upstream: OpenAIUpstream, streamed: bool
) -> None:
    calls = [
        {"index": 0, "id": "1", "type": "function", "function": FA, "extra_content": SIGNED},
        {"index": 1, "id": "2", "type": "function", "function": FB},
    ]
    said = {"content": None, "tool_calls": calls}
    server.follow(streams(chunk(said, "tool_calls"), DONE) if streamed else says(whole(said, "tool_calls")))
    assert [each.extra for each in heard(upstream, streamed=streamed)[1].calls] == [{"extra_content": SIGNED}, {}]


def test_what_else_stands_in_a_call_may_come_in_a_later_piece(server: OpenAIServer, upstream: OpenAIUpstream) -> None:
    first = {"index": 0, "id": "1", "function": {"name": "f", "arguments": '{"a"'}}
    later = {"index": 0, "function": {"arguments": ": 1}"}, "extra_content": SIGNED}
    server.follow(streams(chunk({"tool_calls": [first]}), chunk({"tool_calls": [later]}, "tool_calls"), DONE))
    assert [each.extra for each in heard(upstream, streamed=True)[1].calls] == [{"extra_content": SIGNED}]


DETAILS = [
    {"type": "reasoning.text", "text": "hm", "signature": "abc", "index": 0},
    {"type": "reasoning.encrypted", "data": "Zm9v", "id": None, "index": 1},
]
EXTRAS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "reasoning_content": (
        [{"reasoning_content": "h"}, {"reasoning_content": "m ü"}],
        {"reasoning_content": "hm ü"},
    ),
    "reasoning": ([{"reasoning": "h"}, {"reasoning": "m"}, {"reasoning": None}], {"reasoning": "hm"}),
    "reasoning_details": (
        [{"reasoning_details": DETAILS[:1]}, {"reasoning_details": DETAILS[1:]}],
        {"reasoning_details": DETAILS},
    ),
    "all": (
        [{"reasoning": "h", "reasoning_details": DETAILS[:1]}, {"reasoning": "m", "reasoning_details": DETAILS[1:]}],
        {"reasoning": "hm", "reasoning_details": DETAILS},
    ),
    "extra_content": ([{"extra_content": SIGNED}], {"extra_content": SIGNED}),
    "none": ([{"reasoning_content": None, "annotations": [1]}], {}),
}


@table(EXTRAS)
def test_reasoning_before_a_call_is_put_together_and_kept(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: tuple[list[dict[str, Any]], dict[str, Any]]
) -> None:
    pieces, expected = kind
    last = chunk({"tool_calls": [{"index": 0, "id": "1", "function": FA}]}, "tool_calls")
    server.follow(streams(*(chunk(each) for each in pieces), last, DONE))
    assert heard(upstream, streamed=True)[1].extra == expected


@table(EXTRAS)
def test_reasoning_beside_a_call_is_kept_unchanged(
    server: OpenAIServer, upstream: OpenAIUpstream, kind: tuple[list[dict[str, Any]], dict[str, Any]]
) -> None:
    said = {"content": None, "tool_calls": [{"id": "1", "function": FA}]} | kind[1]
    server.follow(says(whole(said, "tool_calls")))
    assert heard(upstream, streamed=False)[1].extra == kind[1]


@either
def test_reasoning_of_a_reply_without_calls_is_not_kept(
    server: OpenAIServer, upstream: OpenAIUpstream, streamed: bool
) -> None:
    said = {"content": "Hello", "reasoning_content": "hm"}
    server.follow(streams(chunk(said, "stop"), DONE) if streamed else says(whole(said)))
    assert heard(upstream, streamed=streamed) == (
        "Hello",
        Completion(MODEL, None if streamed else Usage(7, 5, 12), "stop"),
    )


@either
def test_numbers_that_json_does_not_know_do_no_harm_in_what_is_sent_back(
    server: OpenAIServer, upstream: OpenAIUpstream, streamed: bool
) -> None:
    said = b'{"reasoning_details":[{"a":NaN}],"tool_calls":[{"id":"1","score":Infinity,"function":{"name":"f"}}]}'
    body = b'{"choices":[{"%b":%b,"finish_reason":"tool_calls"}]}' % (b"delta" if streamed else b"message", said)
    server.follow(streams(b"data: " + body + b"\n\n", DONE) if streamed else says(body))
    reply = heard(upstream, streamed=streamed)[1]
    assert (reply.extra, reply.calls[0].extra) == ({"reasoning_details": [{"a": None}]}, {"score": None})

"""OpenAI's protocol as it is spoken, over real connections: requests, replies, refused parameters."""

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from server import errors
from server.domain import Usage
from server.upstream.openai import OpenAIUpstream
from server.upstream.protocol import Completion
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
    answers,
    completion,
    event,
    good,
    piece,
    refuses,
    says,
    streams,
)
from tests.support.upstream_calls import KEY, MESSAGES, asked, call, either, failure

TEXTS = {
    "line separators": "one\u2028two\u2029three\u0085four\x0bfive\nsix\r\nseven\reight",
    "emoji": "👩‍👩‍👧‍👦 🇰🇷 👍🏽 😀",
    "korean": "안녕하세요, 세계! \u1112\u1161\u11ab\u1100\u1173\u11af",
    "combining marks": "Z̷̧a̸l̵g̶ó e\u0301 \u00e9 n\u0303",
    "right to left": "\u202eשלום\u202c مرحبا\u200f بالعالم",
    "looks like the protocol": 'data: [DONE]\n\ndata: {"error": {}}\n\n',
    "nul and such": "\x00\x1b\x7f\ufeff\uffff",
}


def test_a_plain_reply_is_its_text_and_then_what_is_known_about_it(
    server: OpenAIServer, upstream: OpenAIUpstream
) -> None:
    server.follow(good)
    assert list(upstream.open_stream(call())) == ["Hello", Completion(MODEL, Usage(7, 5, 12), "stop")]


def test_a_streamed_reply_comes_in_pieces_and_its_counts_last(server: OpenAIServer, upstream: OpenAIUpstream) -> None:
    server.follow(streams(piece(""), piece("Hel"), piece("lo"), piece(None), END))
    assert list(upstream.open_stream(call(streamed=True))) == ["Hel", "lo", Completion(MODEL, Usage(7, 5, 12), "stop")]


def test_each_piece_is_there_before_the_next_is_written(server: OpenAIServer, upstream: OpenAIUpstream) -> None:
    was_read = threading.Event()

    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.chunk(piece("Hel"))
        assert was_read.wait(PATIENCE_SECONDS)
        exchange.chunk(piece("lo") + END)
        exchange.end_stream()

    server.follow(script)
    pieces = iter(upstream.open_stream(call(streamed=True)))
    assert next(pieces) == "Hel"
    was_read.set()
    assert next(pieces) == "lo"


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_any_text_comes_back_exactly(server: OpenAIServer, upstream: OpenAIUpstream, text: str) -> None:
    server.follow(says(completion(text)), streams(piece(text), END))
    assert asked(upstream) == text
    assert asked(upstream, streamed=True) == text


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_stream_may_be_split_anywhere(
    server: OpenAIServer, upstream: OpenAIUpstream, size: int, line_end: bytes
) -> None:
    text = "".join(TEXTS.values())
    sent = b"".join([piece(text), b": a comment\n\n", b"event: message\nid: 7\n", piece("!"), END])
    sent = sent.replace(b"\n", line_end)
    server.follow(streams(*(sent[at : at + size] for at in range(0, len(sent), size))))
    assert list(upstream.open_stream(call(streamed=True))) == [text, "!", Completion(MODEL, Usage(7, 5, 12), "stop")]


@pytest.mark.parametrize(
    ("last_word", "usage"),
    [(FINISH, None), (DONE, None), (FINISH + COUNTS, Usage(7, 5, 12)), (COUNTS + FINISH, Usage(7, 5, 12))],
    ids=["reason", "word", "counts after", "counts before"],
)
def test_a_stream_is_whole_with_a_reason_to_finish_or_the_last_word(
    server: OpenAIServer, upstream: OpenAIUpstream, last_word: bytes, usage: Usage | None
) -> None:
    server.follow(streams(piece("Hi"), last_word))
    text, reply = upstream.open_stream(call(streamed=True))
    assert isinstance(reply, Completion)
    assert (text, reply.model, reply.usage) == ("Hi", MODEL, usage)


@either
def test_a_refusal_in_the_models_own_words_is_a_reply(
    server: OpenAIServer, upstream: OpenAIUpstream, streamed: bool
) -> None:
    said = {"content": None, "refusal": "I would rather not."}
    chunk = {"model": MODEL, "choices": [{"delta": said, "finish_reason": None}]}
    server.follow(streams(event(chunk), END) if streamed else says(completion(choices=[{"message": said}])))
    assert asked(upstream, streamed=streamed) == "I would rather not."


@either
@pytest.mark.parametrize(
    "odd",
    [
        {"usage": "many"},
        {"usage": {"prompt_tokens": "many"}},
        {"usage": {"prompt_tokens": [1]}},
        {"usage": None},
        {"model": {"name": 1}, "usage": []},
    ],
    ids=["text", "text inside", "a list inside", "null", "all"],
)
def test_counts_that_make_no_sense_lose_no_reply(
    server: OpenAIServer, upstream: OpenAIUpstream, streamed: bool, odd: dict[str, Any]
) -> None:
    last = event({"choices": []} | odd)
    server.follow(streams(piece("Hello"), FINISH, last, DONE) if streamed else says(completion(**odd)))
    text, reply = upstream.open_stream(call(streamed=streamed))
    assert isinstance(reply, Completion)
    assert (text, reply.usage) == ("Hello", None)
    assert reply.model in (MODEL, None)


def test_the_messages_go_out_as_they_are(server: OpenAIServer, upstream: OpenAIUpstream) -> None:
    server.follow(answers)
    asked(upstream, streamed=True, temperature=0.5, max_completion_tokens=50)
    (heard,) = server.requests
    assert heard.path == "/v1/chat/completions"
    assert heard.headers["content-type"] == "application/json"
    assert b'"messages":' + MESSAGES + b"}" in heard.content
    assert heard.body == {
        "model": "gpt-test",
        "messages": json.loads(MESSAGES),
        "temperature": 0.5,
        "max_completion_tokens": 50,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_plain_request_asks_for_no_stream(server: OpenAIServer, upstream: OpenAIUpstream) -> None:
    server.follow(answers)
    asked(upstream)
    assert server.requests[0].body == {"model": "gpt-test", "messages": json.loads(MESSAGES), "stream": False}


@pytest.mark.parametrize(
    ("base_url", "is_openai"),
    [
        ("", True),
        ("https://api.openai.com/v1", True),
        ("https://API.OpenAI.com:443/v1/", True),
        ("https://api.openai.com", True),
        ("https://eu.api.openai.com/v1", True),
        ("http://localhost:11434/v1", False),
        ("https://api.openai.com.example.org/v1", False),
        ("https://example.org/v1?to=https://api.openai.com/v1", False),
    ],
)
def test_only_openai_is_told_who_asks(base_url: str, is_openai: bool) -> None:
    told = json.loads(OpenAIUpstream(KEY, base_url).build_body(call()).to_bytes())
    who = {"prompt_cache_key": "fingerprint", "safety_identifier": "fingerprint"}
    plain = {"model": "gpt-test", "messages": json.loads(MESSAGES), "stream": False}
    assert told == plain | (who if is_openai else {})


def test_a_key_goes_with_every_request(server: OpenAIServer, upstream: OpenAIUpstream) -> None:
    server.follow(good, says(b'{"data": []}'))
    asked(upstream)
    upstream.list_models()
    assert [heard.headers["authorization"] for heard in server.requests] == [f"Bearer {KEY}"] * 2


def test_a_base_url_alone_gets_a_placeholder_key(server: OpenAIServer) -> None:
    server.follow(good)
    assert asked(OpenAIUpstream("", server.url)) == "Hello"
    assert server.requests[0].headers["authorization"] == "Bearer none"


@either
@pytest.mark.parametrize("code", ["unsupported_parameter", "unsupported_value"])
def test_a_parameter_that_a_model_refuses_is_left_out_for_that_call_alone(
    server: OpenAIServer, upstream: OpenAIUpstream, code: str, streamed: bool
) -> None:
    server.follow(refuses(400, code, "temperature"), answers)
    for _ in range(2):
        assert asked(upstream, streamed=streamed, temperature=0.5, top_p=0.9) == "Hello"
    sent = [(heard.body.get("temperature"), heard.body["top_p"]) for heard in server.requests]
    assert sent == [(0.5, 0.9), (None, 0.9), (0.5, 0.9)]


def test_several_parameters_may_be_refused_one_after_another(server: OpenAIServer, upstream: OpenAIUpstream) -> None:
    server.follow(refuses(400, "unsupported_value", "temperature"), refuses(400, "unsupported_value", "top_p"), good)
    assert asked(upstream, temperature=0.5, top_p=0.9, seed=1) == "Hello"
    assert [set(heard.body) - {"model", "messages", "stream"} for heard in server.requests] == [
        {"temperature", "top_p", "seed"},
        {"top_p", "seed"},
        {"seed"},
    ]


def test_a_model_that_goes_on_refusing_is_not_asked_for_ever(server: OpenAIServer, upstream: OpenAIUpstream) -> None:
    server.follow(refuses(400, "unsupported_value", "temperature"))
    assert type(failure(upstream, temperature=0.5)) is errors.UpstreamRefused
    assert len(server.requests) == 2


def test_calls_that_are_refused_at_the_same_time_all_do_without(
    server: OpenAIServer, upstream: OpenAIUpstream, at_once: Callable[..., Any]
) -> None:
    both = threading.Barrier(2)

    def refuses_both(exchange: Exchange) -> None:
        both.wait(PATIENCE_SECONDS)
        refuses(400, "unsupported_value", "temperature")(exchange)

    server.follow(refuses_both, refuses_both, good)
    replies = [at_once(asked, upstream, temperature=0.5) for _ in range(2)]
    assert [reply.result(PATIENCE_SECONDS) for reply in replies] == ["Hello", "Hello"]


@pytest.mark.parametrize("name", ["response_format", "tools", "logprobs", "top_logprobs"])
def test_what_makes_the_reply_what_was_asked_for_is_never_left_out(
    server: OpenAIServer, upstream: OpenAIUpstream, name: str
) -> None:
    server.follow(refuses(400, "unsupported_parameter", name))
    for count in (1, 2):
        assert type(failure(upstream, **{name: 1})) is errors.UpstreamRefused
        assert len(server.requests) == count
        assert server.requests[-1].body[name] == 1


@pytest.mark.parametrize("param", ["top_p", "messages", "model", None, ["temperature"], {"a": 1}, 3], ids=str)
def test_a_refusal_of_what_was_not_sent_changes_nothing(
    server: OpenAIServer, upstream: OpenAIUpstream, param: Any
) -> None:
    server.follow(refuses(400, "unsupported_parameter", param))
    assert type(failure(upstream, temperature=0.5)) is errors.UpstreamRefused
    assert len(server.requests) == 1


UNKNOWN_LIMIT = {
    "as OpenAI once said it": refuses(400, message="Unrecognized request argument supplied: max_completion_tokens"),
    "as OpenAI says it": refuses(
        400, "unknown_parameter", "max_completion_tokens", "Unknown parameter: 'max_completion_tokens'."
    ),
    "by its name": refuses(400, "unsupported_parameter", "max_completion_tokens"),
    "as pydantic says it": says(
        b'{"detail":[{"type":"extra_forbidden","loc":["body","max_completion_tokens"],"msg":"Not permitted"}]}', 422
    ),
    "in passing": refuses(400, message="property 'max_completion_tokens' is unsupported"),
}


@pytest.mark.parametrize("refusal", UNKNOWN_LIMIT.values(), ids=UNKNOWN_LIMIT)
def test_a_server_that_knows_only_max_tokens_gets_it(
    server: OpenAIServer, upstream: OpenAIUpstream, refusal: Script
) -> None:
    server.follow(refusal, good)
    for model in ("old", "old", "new"):
        assert asked(upstream, model, max_completion_tokens=50) == "Hello"
    limits = [(heard.body.get("max_completion_tokens"), heard.body.get("max_tokens")) for heard in server.requests]
    assert limits == [(50, None), (None, 50), (None, 50), (50, None)]


@pytest.mark.parametrize(
    ("code", "param", "message"),
    [
        ("invalid_value", "max_completion_tokens", "max_completion_tokens is too large: 50."),
        (None, None, "max_completion_tokens must be at least 60"),
        (400, "max_completion_tokens", "'max_completion_tokens' is too large: 50."),
        (None, None, "Unsupported: 'max_tokens'. Use 'max_completion_tokens' instead."),
    ],
)
def test_a_limit_that_is_wrong_is_not_a_limit_that_is_unknown(
    server: OpenAIServer, upstream: OpenAIUpstream, code: Any, param: Any, message: str
) -> None:
    server.follow(refuses(400, code, param, message))
    for _ in range(2):
        assert type(failure(upstream, max_completion_tokens=50)) is errors.UpstreamRefused
    assert [heard.body["max_completion_tokens"] for heard in server.requests] == [50, 50]


@either
def test_messages_that_are_too_long_have_an_error_of_their_own(
    server: OpenAIServer, upstream: OpenAIUpstream, streamed: bool
) -> None:
    server.follow(refuses(400, "context_length_exceeded", "messages"))
    assert type(failure(upstream, streamed=streamed, temperature=0.5)) is errors.ContextTooLong
    assert len(server.requests) == 1


def test_messages_may_be_found_too_long_at_the_beginning_of_a_stream_only(
    server: OpenAIServer, upstream: OpenAIUpstream
) -> None:
    too_long = event({"error": {"code": "context_length_exceeded", "message": THEIRS}})
    server.follow(streams(too_long), streams(piece("Hel"), too_long))
    assert type(failure(upstream, streamed=True)) is errors.ContextTooLong
    assert type(failure(upstream, streamed=True)) is errors.UpstreamCut

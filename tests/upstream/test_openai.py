"""OpenAI's protocol as it is spoken, and as it is broken, over real connections."""

import email.utils
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server import errors
from server.domain import Run, Usage
from server.runs.config import RunConfig
from server.runs.events import TextDelta
from server.runs.runner import Runner
from server.store.memory import MemoryStore
from server.upstream.model_list import ModelList
from server.upstream.openai import OpenAIUpstream
from server.upstream.protocol import Completion, CompletionRequest
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
    breaks_off,
    completion,
    event,
    good,
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

KEY = "sk-the-operators-own"
MESSAGES = '[ {"role": "user",  "content": "Grüße\u2028👋"}]'.encode()
"""Not as any library would write it."""

TEXTS = {
    "line separators": "one\u2028two\u2029three\u0085four\x0bfive\nsix\r\nseven\reight",
    "emoji": "👩‍👩‍👧‍👦 🇰🇷 👍🏽 😀",
    "korean": "안녕하세요, 세계! \u1112\u1161\u11ab\u1100\u1173\u11af",
    "combining marks": "Z̷̧a̸l̵g̶ó e\u0301 \u00e9 n\u0303",
    "right to left": "\u202eשלום\u202c مرحبا\u200f بالعالم",
    "looks like the protocol": 'data: [DONE]\n\ndata: {"error": {}}\n\n',
    "nul and such": "\x00\x1b\x7f\ufeff\uffff",
}


class Clock:
    """Stands still until it is told; `on_look` is called whenever it is looked at."""

    def __init__(self) -> None:
        self.now = 1_000_000_000.8
        self.on_look: Callable[[], None] = lambda: None

    def __call__(self) -> float:
        self.on_look()
        return self.now


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As where nothing is set, and the system trusts nobody, which saves the time to read its certificates."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    server = OpenAIServer()
    yield server
    server.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def upstream(server: OpenAIServer) -> OpenAIUpstream:  # type: ignore[override]
    return OpenAIUpstream(KEY, server.url, retry_seconds=0.0)


def call(
    model: str = "gpt-test", *, seconds: float = PATIENCE_SECONDS, streamed: bool = False, **parameters: Any
) -> CompletionRequest:
    return CompletionRequest(model, MESSAGES, seconds, streamed, parameters, "fingerprint")


def asked(upstream: OpenAIUpstream, model: str = "gpt-test", **changes: Any) -> str:
    """The whole text of one reply."""
    *pieces, reply = upstream.open_stream(call(model, **changes))
    assert isinstance(reply, Completion)
    return "".join(map(str, pieces))


def failure(upstream: OpenAIUpstream, **changes: Any) -> errors.AppError:
    """What one call fails with: ours, and in our words alone."""
    with pytest.raises(errors.AppError) as caught:
        list(upstream.open_stream(call(**changes)))
    assert str(caught.value) == caught.value.sentence
    return caught.value


either = pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])


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
    ("ending", "usage"),
    [(FINISH, None), (DONE, None), (FINISH + COUNTS, Usage(7, 5, 12)), (COUNTS + FINISH, Usage(7, 5, 12))],
    ids=["reason", "word", "counts after", "counts before"],
)
def test_a_stream_is_whole_with_a_reason_to_finish_or_the_last_word(
    server: OpenAIServer, upstream: OpenAIUpstream, ending: bytes, usage: Usage | None
) -> None:
    server.follow(streams(piece("Hi"), ending))
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


EITHER_WAY: dict[str, tuple[Script, type[errors.AppError]]] = {
    "hangs up": (hangs_up, errors.UpstreamCut),
    "resets": (resets, errors.UpstreamCut),
    "speaks no HTTP": (lambda exchange: exchange.send(THEIRS.encode() * 9 + b"\r\n\r\n"), errors.UpstreamCut),
    "HTML": (says(f"<html>{THEIRS}</html>".encode(), Content_Type="text/html"), errors.UpstreamNotFound),
    "nothing": (says(b""), errors.UpstreamBadReply),
    "no UTF-8": (says(b'data: {"choices": "\xff\xfe"}\n\n'), errors.UpstreamBadReply),
    "wrong compression": (says(THEIRS.encode(), Content_Encoding="gzip"), errors.UpstreamBadReply),
    "400": (refuses(400), errors.UpstreamRefused),
    "401": (refuses(401, "invalid_api_key"), errors.UpstreamRefusedKey),
    "401 without code": (refuses(401), errors.UpstreamRefusedKey),
    "402": (refuses(402), errors.UpstreamQuotaExhausted),
    "403": (refuses(403), errors.UpstreamRefusedKey),
    "404": (refuses(404, "model_not_found", "model"), errors.UpstreamRefused),
    "408": (refuses(408), errors.UpstreamTimedOut),
    "409": (refuses(409), errors.UpstreamRefused),
    "422": (refuses(422), errors.UpstreamRefused),
    "sent elsewhere": (
        says(b"", 308, Location=f"http://{THEIRS.replace(' ', '-')}.example/"),
        errors.UpstreamUnreachable,
    ),
    "429": (refuses(429, "rate_limit_exceeded", Retry_After="0"), errors.UpstreamRateLimited),
    "429 without code": (refuses(429, Retry_After="0"), errors.UpstreamRateLimited),
    "insufficient_quota": (refuses(429, "insufficient_quota"), errors.UpstreamQuotaExhausted),
    "500": (refuses(500, "server_error"), errors.UpstreamFailed),
    "503": (says(THEIRS.encode(), 503, Content_Type="text/plain"), errors.UpstreamFailed),
    "529": (says(b"[1]", 529), errors.UpstreamFailed),
    "error that is a text": (says(json.dumps({"error": THEIRS}).encode(), 400), errors.UpstreamRefused),
    "error that is null": (says(b'{"error": null}', 500), errors.UpstreamFailed),
}

PLAIN: dict[str, tuple[Script, type[errors.AppError]]] = {
    "broken JSON": (says(completion()[:-1]), errors.UpstreamBadReply),
    "a list": (says(b"[]"), errors.UpstreamBadReply),
    "null": (says(b"null"), errors.UpstreamBadReply),
    "no choices": (says(b"{}"), errors.UpstreamBadReply),
    "empty choices": (says(completion(choices=[])), errors.UpstreamBadReply),
    "choices of a wrong type": (says(completion(choices={"a": 1})), errors.UpstreamBadReply),
    "null message": (says(completion(choices=[{"message": None}])), errors.UpstreamBadReply),
    "null content": (says(completion(None)), errors.UpstreamEmptyReply),
    "empty content": (
        says(completion(choices=[{"message": {"content": ""}, "finish_reason": "length"}])),
        errors.UpstreamEmptyReply,
    ),
    "number": (says(completion(7)), errors.UpstreamBadReply),
    "parts without text": (says(completion([{"type": "image_url"}])), errors.UpstreamEmptyReply),
    "cut": (breaks_off(completion()), errors.UpstreamCut),
    "error with 200": (says(event({"error": {"code": "insufficient_quota"}})[6:]), errors.UpstreamQuotaExhausted),
}

STREAMED: dict[str, tuple[Script, type[errors.AppError]]] = {
    "cut": (streams_and_breaks(piece("Hel")), errors.UpstreamCut),
    "cut in a line": (streams_and_breaks(piece("Hel"), piece("lo")[:20]), errors.UpstreamCut),
    "cut at once": (streams_and_breaks(), errors.UpstreamCut),
    "unfinished": (streams(piece("Hel")), errors.UpstreamCut),
    "unbegun": (streams(), errors.UpstreamBadReply),
    "only comments": (streams(b": ping\n\n"), errors.UpstreamBadReply),
    "HTML": (streams(f"<html>{THEIRS}</html>\n".encode()), errors.UpstreamNotFound),
    "broken JSON": (streams(piece("Hel"), b"data: {\n\n"), errors.UpstreamBadReply),
    "no object": (streams(b"data: 7\n\n"), errors.UpstreamBadReply),
    "number": (streams(piece(7), END), errors.UpstreamBadReply),
    "null content": (streams(piece(None), END), errors.UpstreamEmptyReply),
    "empty content": (streams(piece("", "length"), DONE), errors.UpstreamEmptyReply),
    "error": (streams(piece("Hel"), event({"error": {"message": THEIRS}})), errors.UpstreamFailed),
    "error at once": (streams(event({"error": {"message": THEIRS, "code": 7}})), errors.UpstreamFailed),
    "error that is a text": (streams(event({"error": THEIRS})), errors.UpstreamFailed),
    "quota": (streams(event({"error": {"code": "insufficient_quota"}})), errors.UpstreamQuotaExhausted),
    "rate": (streams(event({"error": {"code": "rate_limit_exceeded"}})), errors.UpstreamRateLimited),
    "rate by status": (streams(event({"error": {"code": 429}})), errors.UpstreamRateLimited),
}

MISBEHAVIOUR = [
    pytest.param(streamed, *expected, id=f"{name}-{'streamed' if streamed else 'plain'}")
    for table, ways in ((EITHER_WAY, (False, True)), (PLAIN, (False,)), (STREAMED, (True,)))
    for name, expected in table.items()
    for streamed in ways
]


@pytest.mark.parametrize(("streamed", "script", "expected"), MISBEHAVIOUR)
def test_misbehaviour_has_a_name_of_ours_and_hurts_no_later_call(
    server: OpenAIServer,
    upstream: OpenAIUpstream,
    caplog: pytest.LogCaptureFixture,
    streamed: bool,
    script: Script,
    expected: type[errors.AppError],
) -> None:
    server.follow(script)
    with caplog.at_level(logging.INFO, "server"):
        assert type(failure(upstream, streamed=streamed)) is expected
    told = " ".join(record.getMessage() for record in caplog.records if record.name.startswith("server"))
    assert expected.code in told
    assert not [secret for secret in (THEIRS, KEY, str(server.port)) if secret in told]
    server.follow(answers)
    assert asked(upstream, streamed=streamed) == "Hello"


def test_a_server_that_is_not_there_is_unreachable(server: OpenAIServer, upstream: OpenAIUpstream) -> None:
    server.close()
    assert type(failure(upstream)) is errors.UpstreamUnreachable


@pytest.mark.parametrize(
    ("streamed", "script"),
    [(False, silent), (True, silent), (False, streams_and_waits(piece("Hel")))],
    ids=["plain", "streamed", "plain, midway"],
)
def test_silence_ends_with_the_time_of_the_call(
    server: OpenAIServer, clock: Clock, script: Script, streamed: bool
) -> None:
    server.follow(script, answers)
    upstream = OpenAIUpstream(KEY, server.url, retry_seconds=0.0, clock=clock)
    began = time.monotonic()
    assert type(failure(upstream, streamed=streamed, seconds=0.2)) is errors.UpstreamTimedOut
    assert time.monotonic() - began < 5
    server.await_disconnect(0)
    assert asked(upstream, streamed=streamed) == "Hello"
    assert len(server.requests) == 2


def drips(exchange: Exchange) -> None:
    exchange.begin_stream()
    while True:
        exchange.chunk(b": ping\n\n")


def test_a_plain_reply_that_drips_ends_with_the_time_of_the_call(server: OpenAIServer, clock: Clock) -> None:
    server.follow(drips)
    upstream = OpenAIUpstream(KEY, server.url, clock=clock)
    writing = upstream.open_stream(call(seconds=60))

    def hour_passes() -> None:
        clock.now += 3600 if server.requests else 0

    clock.on_look = hour_passes
    with pytest.raises(errors.UpstreamTimedOut):
        list(writing)
    server.await_disconnect(0)


@pytest.mark.parametrize(
    ("script", "text"), [(streams_and_waits(piece("Hel")), "Hel"), (drips, "")], ids=["silent midway", "dripping"]
)
def test_a_stream_without_an_end_is_cut_when_the_time_of_its_run_is_over(
    server: OpenAIServer, clock: Clock, script: Script, text: str
) -> None:
    server.follow(script, answers)
    runner = Runner(MemoryStore(10, clock), OpenAIUpstream(KEY, server.url, default_model="m"), RunConfig(), clock)
    run = runner.create(Run("why?", conversation="ada"))
    reading = runner.read(run.id, 0, lambda: True)
    server.await_requests(1)
    if text:
        assert next(reading) == TextDelta(text, len(text))
    clock.now += 601
    runner.ticker.tick()
    last = runner.wait(run.id, PATIENCE_SECONDS, lambda: True)
    assert (last.status, last.text, last.error.code) == ("failed", text, "run_timed_out")
    server.await_disconnect(0)
    runner.shut_down(0)


def test_a_call_without_time_left_costs_nothing(server: OpenAIServer, clock: Clock) -> None:
    writing = OpenAIUpstream(KEY, server.url, clock=clock).open_stream(call(seconds=5))
    clock.now += 6
    with pytest.raises(errors.UpstreamTimedOut):
        list(writing)
    assert server.connections == 0


PASSING: dict[str, Script] = {
    "408": refuses(408),
    "409": refuses(409),
    "429": refuses(429),
    "rate_limit_exceeded": refuses(429, "rate_limit_exceeded"),
    "503": refuses(503),
}


@either
@pytest.mark.parametrize("script", PASSING.values(), ids=PASSING)
def test_a_failure_that_may_pass_is_tried_again_twice(
    server: OpenAIServer, upstream: OpenAIUpstream, script: Script, streamed: bool
) -> None:
    server.follow(script, script, answers)
    assert asked(upstream, streamed=streamed) == "Hello"
    assert len(server.requests) == 3


@pytest.mark.parametrize("script", PASSING.values(), ids=PASSING)
def test_a_failure_that_does_not_pass_is_tried_three_times_in_all(
    server: OpenAIServer, upstream: OpenAIUpstream, script: Script
) -> None:
    server.follow(script, script, script, good)
    failure(upstream)
    assert len(server.requests) == 3


def test_an_error_that_breaks_off_is_tried_again(server: OpenAIServer, upstream: OpenAIUpstream) -> None:
    def breaks(exchange: Exchange) -> None:
        exchange.begin(503, Content_Length="9")

    server.follow(breaks, good)
    assert asked(upstream) == "Hello"


LASTING: dict[str, Script] = {
    "hangs up": hangs_up,
    "resets": resets,
    "500": refuses(500),
    "502": refuses(502),
    "504": refuses(504),
    "400": refuses(400),
    "401": refuses(401),
    "402": refuses(402),
    "403": refuses(403),
    "404": refuses(404),
    "422": refuses(422),
    "insufficient_quota": refuses(429, "insufficient_quota"),
    "credit_balance_exhausted": refuses(429, "credit_balance_exhausted"),
    "spend_limit_exceeded": refuses(429, "spend_limit_exceeded"),
    "billing at 500": refuses(500, "billing_hard_limit_reached"),
}


@either
@pytest.mark.parametrize("script", LASTING.values(), ids=LASTING)
def test_a_failure_that_lasts_is_not_tried_again(
    server: OpenAIServer, upstream: OpenAIUpstream, script: Script, streamed: bool
) -> None:
    server.follow(script, answers)
    failure(upstream, streamed=streamed)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("streamed", "script"),
    [
        (False, breaks_off(completion()[:-9])),
        (False, breaks_off(b"")),
        (False, says(b"<html>")),
        (True, streams_and_breaks(piece("Hel"))),
        (True, streams_and_breaks(b": ping\n\n")),
        (True, streams(event({"error": {"code": "server_error"}}))),
        (False, says(completion(None))),
    ],
    ids=["body cut", "body cut at once", "HTML", "stream cut", "stream cut before its text", "error", "empty"],
)
def test_a_reply_that_has_begun_is_paid_for_and_not_asked_for_again(
    server: OpenAIServer, upstream: OpenAIUpstream, streamed: bool, script: Script
) -> None:
    server.follow(script, answers)
    failure(upstream, streamed=streamed)
    assert len(server.requests) == 1


def test_the_pause_before_each_further_try_is_longer(server: OpenAIServer) -> None:
    server.follow(refuses(503), refuses(503), good)
    assert asked(OpenAIUpstream(KEY, server.url, retry_seconds=0.08)) == "Hello"
    first, second, third = (heard.at for heard in server.requests)
    assert second - first >= 0.06
    assert third - second >= 0.12


def test_nothing_is_tried_again_when_the_time_does_not_allow_the_pause(server: OpenAIServer) -> None:
    server.follow(refuses(503), good)
    assert type(failure(OpenAIUpstream(KEY, server.url, retry_seconds=60), seconds=5)) is errors.UpstreamFailed
    assert len(server.requests) == 1


def date(at: float) -> str:
    return email.utils.formatdate(at, usegmt=True)


@pytest.mark.parametrize("when", [lambda now: "0.2", lambda now: date(now + 0.2)], ids=["seconds", "date"])
@pytest.mark.parametrize("status", [429, 503])
def test_a_short_wish_to_wait_is_granted(
    server: OpenAIServer, clock: Clock, when: Callable[[float], str], status: int
) -> None:
    server.follow(refuses(status, Retry_After=when(clock.now)), good)
    assert asked(OpenAIUpstream(KEY, server.url, retry_seconds=0.0, clock=clock)) == "Hello"
    first, second = (heard.at for heard in server.requests)
    assert second - first >= 0.19


@pytest.mark.parametrize("when", [lambda now: "60", lambda now: date(now + 60), lambda now: "1e999"])
def test_a_wish_to_wait_beyond_the_time_of_the_call_fails_at_once(
    server: OpenAIServer, clock: Clock, when: Callable[[float], str]
) -> None:
    server.follow(refuses(429, Retry_After=when(clock.now)), good)
    upstream = OpenAIUpstream(KEY, server.url, retry_seconds=0.0, clock=clock)
    began = time.monotonic()
    assert type(failure(upstream, seconds=59)) is errors.UpstreamRateLimited
    assert time.monotonic() - began < 5
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "text",
    ["soon", "-5", "nan", "", "Mon, 99 Foo 2026", date(0), "Thu, 01 Jan 99999999999999999999999 00:00:00 GMT"],
)
def test_a_wish_to_wait_that_makes_no_sense_is_none(server: OpenAIServer, upstream: OpenAIUpstream, text: str) -> None:
    server.follow(refuses(429, Retry_After=text), good)
    assert asked(upstream) == "Hello"


@either
def test_a_call_that_is_cut_before_it_begins_sends_nothing(
    server: OpenAIServer, upstream: OpenAIUpstream, streamed: bool
) -> None:
    writing = upstream.open_stream(call(streamed=streamed))
    writing.abort()
    with pytest.raises(errors.UpstreamCut):
        list(writing)
    assert server.connections == 0


def ends_cut(cut: Callable[[], None], reading: Any) -> None:
    """`cut` ends the `reading` in another thread at once."""
    began = time.monotonic()
    cut()
    with pytest.raises(errors.UpstreamCut):
        reading.result(PATIENCE_SECONDS)
    assert time.monotonic() - began < 2


@either
def test_a_cut_ends_the_wait_for_an_answer(
    server: OpenAIServer, upstream: OpenAIUpstream, at_once: Callable[..., Any], streamed: bool
) -> None:
    server.follow(silent, answers)
    writing = upstream.open_stream(call(streamed=streamed))
    reading = at_once(list, writing)
    server.await_requests(1)
    ends_cut(writing.abort, reading)
    server.await_disconnect(0)
    assert len(server.requests) == 1
    assert asked(upstream, streamed=streamed) == "Hello"


def test_a_cut_ends_a_stream_midway(
    server: OpenAIServer, upstream: OpenAIUpstream, at_once: Callable[..., Any]
) -> None:
    server.follow(streams_and_waits(piece("Hel")), answers)
    writing = upstream.open_stream(call(streamed=True))
    pieces = iter(writing)
    assert next(pieces) == "Hel"
    ends_cut(writing.abort, at_once(list, pieces))
    server.await_disconnect(0)
    assert asked(upstream, streamed=True) == "Hello"


def test_a_cut_ends_a_plain_body_midway(
    server: OpenAIServer, upstream: OpenAIUpstream, at_once: Callable[..., Any]
) -> None:
    def begins(exchange: Exchange) -> None:
        breaks_off(completion())(exchange)
        exchange.await_close()

    server.follow(begins)
    writing = upstream.open_stream(call())
    reading = at_once(list, writing)
    server.await_requests(1)
    ends_cut(writing.abort, reading)
    server.await_disconnect(0)


def test_after_a_cut_not_even_text_that_has_arrived_is_given_out(
    server: OpenAIServer, upstream: OpenAIUpstream
) -> None:
    server.follow(streams(piece("Hel") + piece("lo") + END))
    writing = upstream.open_stream(call(streamed=True))
    pieces = iter(writing)
    assert next(pieces) == "Hel"
    writing.abort()
    with pytest.raises(errors.UpstreamCut):
        next(pieces)


def test_a_cut_ends_the_pause_before_a_further_try(
    server: OpenAIServer, upstream: OpenAIUpstream, at_once: Callable[..., Any]
) -> None:
    server.follow(refuses(429, Retry_After="9"), good)
    writing = upstream.open_stream(call(seconds=60))
    reading = at_once(list, writing)
    server.await_requests(1)
    time.sleep(0.1)  # Nobody tells when the pause begins.
    ends_cut(writing.abort, reading)
    assert len(server.requests) == 1


@pytest.mark.parametrize("is_warm", [False, True], ids=["first connection", "kept connection"])
def test_a_cut_while_the_request_is_on_its_way_out_sends_nothing(
    server: OpenAIServer, clock: Clock, is_warm: bool
) -> None:
    server.follow(good, silent)
    upstream = OpenAIUpstream(KEY, server.url, clock=clock)
    if is_warm:
        asked(upstream)
    writing = upstream.open_stream(call())
    clock.on_look = writing.abort  # The clock is looked at last before the request is sent.
    began = time.monotonic()
    with pytest.raises(errors.UpstreamCut):
        list(writing)
    assert time.monotonic() - began < 2
    assert len(server.requests) == is_warm


@either
def test_a_cut_after_the_end_hurts_no_later_call(
    server: OpenAIServer, upstream: OpenAIUpstream, streamed: bool
) -> None:
    was_cut = threading.Event()

    def goes_on_after_the_cut(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.chunk(piece("Hel"))
        assert was_cut.wait(PATIENCE_SECONDS)
        exchange.chunk(piece("lo") + END)
        exchange.end_stream()

    server.follow(answers, answers, goes_on_after_the_cut)
    ended = upstream.open_stream(call(streamed=streamed))
    list(ended)
    ended.abort()
    assert asked(upstream) == "Hello"
    later = iter(upstream.open_stream(call(streamed=True)))
    assert next(later) == "Hel"
    ended.abort()
    was_cut.set()
    assert next(later) == "lo"


def test_a_stream_that_is_left_midway_is_closed(server: OpenAIServer, upstream: OpenAIUpstream) -> None:
    server.follow(streams_and_waits(piece("Hel")), answers)
    pieces = iter(upstream.open_stream(call(streamed=True)))
    next(pieces)
    pieces.close()
    server.await_disconnect(0)
    assert asked(upstream, streamed=True) == "Hello"


def test_plain_calls_one_after_another_share_a_connection(server: OpenAIServer, upstream: OpenAIUpstream) -> None:
    server.follow(good, refuses(400), good, says(b'{"data": []}'))
    asked(upstream)
    failure(upstream)
    asked(upstream)
    upstream.list_models()
    assert [heard.connection for heard in server.requests] == [0, 0, 0, 0]


def test_a_connection_that_the_server_has_closed_meanwhile_is_replaced(
    server: OpenAIServer, upstream: OpenAIUpstream
) -> None:
    was_closed = threading.Event()

    def answers_and_closes(exchange: Exchange) -> None:
        good(exchange)
        exchange.close()
        was_closed.set()

    server.follow(answers_and_closes, good)
    assert asked(upstream) == "Hello"
    assert was_closed.wait(PATIENCE_SECONDS)
    assert asked(upstream) == "Hello"
    assert [heard.connection for heard in server.requests] == [0, 1]


def test_concurrent_calls_have_a_connection_each_and_later_ones_none_of_their_own(
    server: OpenAIServer, upstream: OpenAIUpstream, at_once: Callable[..., Any]
) -> None:
    together = threading.Barrier(10)

    def waits_for_all(exchange: Exchange) -> None:
        together.wait(PATIENCE_SECONDS)
        good(exchange)

    server.follow(waits_for_all)
    replies = [at_once(asked, upstream) for _ in range(10)]
    assert [reply.result(PATIENCE_SECONDS) for reply in replies] == ["Hello"] * 10
    assert {heard.connection for heard in server.requests} == set(range(10))
    server.follow(good)
    assert [asked(upstream) for _ in range(5)] == ["Hello"] * 5
    assert len({heard.connection for heard in server.requests[10:]}) == 1
    assert server.connections == 10


def listing(*entries: Any) -> Script:
    return says(json.dumps({"object": "list", "data": list(entries)}).encode())


def test_models_are_as_the_upstream_describes_them(server: OpenAIServer, upstream: OpenAIUpstream) -> None:
    described = {"id": "a", "object": "model", "shutdown_date": "2027-01-14", "extra": [1]}
    server.follow(listing(described, {"id": 7}, {"name": "b"}, "c", None, {"id": None}, {"id": "d"}))
    assert upstream.list_models() == [described, {"id": "c"}, {"id": "d"}]
    assert server.requests[0].path == "/v1/models"


def test_models_are_kept_for_their_time(server: OpenAIServer, clock: Clock) -> None:
    upstream = OpenAIUpstream(KEY, server.url, models_ttl_seconds=300, clock=clock)
    server.follow(listing({"id": "a"}), listing({"id": "b"}))
    assert upstream.list_models() == [{"id": "a"}]
    clock.now += 299
    assert upstream.list_models() == [{"id": "a"}]
    assert len(server.requests) == 1
    clock.now += 2
    assert upstream.list_models() == [{"id": "b"}]


def test_models_are_served_stale_while_the_upstream_fails(server: OpenAIServer, clock: Clock) -> None:
    upstream = OpenAIUpstream(KEY, server.url, models_ttl_seconds=300, clock=clock)
    server.follow(listing({"id": "a"}), refuses(500))
    upstream.list_models()
    clock.now += 301
    assert upstream.list_models() == [{"id": "a"}]
    assert len(server.requests) == 2
    server.follow(listing({"id": "b"}))
    clock.now += 301
    assert upstream.list_models() == [{"id": "b"}]


def test_models_that_are_known_are_served_while_another_caller_asks_anew(
    server: OpenAIServer, clock: Clock, at_once: Callable[..., Any]
) -> None:
    may_answer = threading.Event()

    def answers_late(exchange: Exchange) -> None:
        assert may_answer.wait(PATIENCE_SECONDS)
        listing({"id": "b"})(exchange)

    upstream = OpenAIUpstream(KEY, server.url, models_ttl_seconds=300, clock=clock)
    server.follow(listing({"id": "a"}), answers_late)
    upstream.list_models()
    clock.now += 301
    asking = at_once(upstream.list_models)
    server.await_requests(2)
    assert upstream.list_models() == [{"id": "a"}]
    may_answer.set()
    assert asking.result(PATIENCE_SECONDS) == [{"id": "b"}]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (refuses(401), errors.UpstreamRefusedKey),
        (refuses(500), errors.UpstreamFailed),
        (resets, errors.UpstreamCut),
        (says(b"<html>"), errors.UpstreamBadReply),
        (says(b'{"data": 7}'), errors.UpstreamBadReply),
    ],
    ids=["401", "500", "reset", "HTML", "number"],
)
def test_models_that_were_never_had_fail_as_the_upstream_does_and_are_asked_for_again(
    server: OpenAIServer, upstream: OpenAIUpstream, script: Script, expected: type[errors.AppError]
) -> None:
    server.follow(script, listing({"id": "a"}))
    with pytest.raises(errors.UpstreamFailed) as caught:
        upstream.list_models()
    assert type(caught.value) is expected
    assert str(caught.value) == expected.sentence
    assert upstream.list_models() == [{"id": "a"}]


def test_who_waits_for_models_that_another_asks_for_shares_the_failure(
    server: OpenAIServer, upstream: OpenAIUpstream, at_once: Callable[..., Any]
) -> None:
    may_answer = threading.Event()

    def fails_late(exchange: Exchange) -> None:
        assert may_answer.wait(PATIENCE_SECONDS)
        refuses(401)(exchange)

    server.follow(fails_late)
    first = at_once(upstream.list_models)
    server.await_requests(1)
    waiting = [at_once(upstream.list_models) for _ in range(5)]
    while sum(frame.f_code is ModelList.get.__code__ for frame in sys._current_frames().values()) < 5:
        time.sleep(0.001)  # Who waits for a lock gives no other sign of it.
    may_answer.set()
    for each in (first, *waiting):
        with pytest.raises(errors.UpstreamRefusedKey):
            each.result(PATIENCE_SECONDS)
    assert len(server.requests) == 1


def test_the_default_model_is_the_operators_choice(server: OpenAIServer) -> None:
    assert OpenAIUpstream(KEY, server.url, default_model="chosen").default_model() == "chosen"
    assert OpenAIUpstream(KEY, "", default_model="chosen").default_model() == "chosen"
    assert server.connections == 0


@pytest.mark.parametrize("base_url", ["", "https://api.openai.com/v1"])
def test_openai_has_a_default_model_of_its_own(base_url: str) -> None:
    assert OpenAIUpstream(KEY, base_url).default_model() == "gpt-6-luna"


def test_another_server_has_its_first_model_by_default(server: OpenAIServer, upstream: OpenAIUpstream) -> None:
    server.follow(listing(), listing({"id": 1}, {"id": "local"}, {"id": "other"}))
    with pytest.raises(errors.UpstreamRefused) as caught:
        OpenAIUpstream(KEY, server.url).default_model()
    assert "DEFAULT_MODEL" in str(caught.value)
    assert upstream.default_model() == "local"


def test_health_is_looked_up_without_a_completion_and_kept_for_a_while(server: OpenAIServer, clock: Clock) -> None:
    upstream = OpenAIUpstream(KEY, server.url, clock=clock)
    server.follow(listing(), refuses(500), listing())
    assert [upstream.check_health() for _ in range(3)] == ["connected"] * 3
    assert len(server.requests) == 1
    clock.now += 60
    assert [upstream.check_health() for _ in range(3)] == ["unreachable"] * 3
    clock.now += 60
    assert upstream.check_health() == "connected"
    assert {heard.path for heard in server.requests} == {"/v1/models"}


@pytest.mark.parametrize("drips", [False, True], ids=["silent", "dripping"])
def test_health_is_told_within_two_seconds_even_of_a_server_that_never_answers(
    server: OpenAIServer, upstream: OpenAIUpstream, at_once: Callable[..., Any], drips: bool
) -> None:
    was_told = threading.Event()

    def never_ends(exchange: Exchange) -> None:
        exchange.begin(200, Content_Length="1000")
        for _ in range(20):
            exchange.send(b" ")
            if was_told.wait(0.3):
                return

    def timed() -> tuple[str, float]:
        began = time.monotonic()
        return upstream.check_health(), time.monotonic() - began

    server.follow(never_ends if drips else silent)
    told = [each.result(PATIENCE_SECONDS) for each in [at_once(timed) for _ in range(3)]]
    was_told.set()
    assert [health for health, _ in told] == ["unreachable"] * 3
    assert max(seconds for _, seconds in told) < 2
    assert len(server.requests) == 1


def test_health_of_a_server_that_is_not_there_is_unreachable(server: OpenAIServer, upstream: OpenAIUpstream) -> None:
    server.close()
    assert upstream.check_health() == "unreachable"


def test_without_key_and_base_url_nothing_is_sent(server: OpenAIServer) -> None:
    server.follow(good)
    upstream = OpenAIUpstream("", "")
    writing = upstream.open_stream(call())
    with pytest.raises(errors.NotConfigured):
        list(writing)
    with pytest.raises(errors.NotConfigured):
        upstream.list_models()
    assert upstream.check_health() == "not_configured"
    assert server.connections == 0


def test_nothing_is_connected_before_the_iteration(server: OpenAIServer, upstream: OpenAIUpstream) -> None:
    upstream.open_stream(call())
    assert server.connections == 0


@either
@pytest.mark.usefixtures("trusting")
def test_replies_come_over_tls(tls_server: OpenAIServer, streamed: bool) -> None:
    tls_server.follow(answers)
    upstream = OpenAIUpstream(KEY, tls_server.url)
    assert [asked(upstream, streamed=streamed) for _ in range(2)] == ["Hello", "Hello"]
    assert tls_server.connections == 1


def test_a_certificate_that_nobody_trusts_gets_no_key(tls_server: OpenAIServer) -> None:
    assert type(failure(OpenAIUpstream(KEY, tls_server.url, retry_seconds=0.0))) is errors.UpstreamUnreachable
    assert tls_server.requests == []


@pytest.mark.usefixtures("trusting")
def test_a_cut_ends_a_stream_over_tls(tls_server: OpenAIServer, at_once: Callable[..., Any]) -> None:
    tls_server.follow(streams_and_waits(piece("Hel")))
    writing = OpenAIUpstream(KEY, tls_server.url).open_stream(call(streamed=True))
    pieces = iter(writing)
    assert next(pieces) == "Hel"
    ends_cut(writing.abort, at_once(list, pieces))
    tls_server.await_disconnect(0)


@pytest.mark.usefixtures("trusting")
def test_a_cut_during_the_tls_handshake_sends_nothing(tls_server: OpenAIServer, at_once: Callable[..., Any]) -> None:
    tls_server.may_shake_hands.clear()
    tls_server.follow(silent)
    writing = OpenAIUpstream(KEY, tls_server.url).open_stream(call())
    reading = at_once(list, writing)
    tls_server.await_connections(1)

    def cut_and_go_on() -> None:
        writing.abort()
        tls_server.may_shake_hands.set()

    ends_cut(cut_and_go_on, reading)
    assert tls_server.requests == []

"""An upstream that misbehaves: each fault has an error of its own, and timeouts end every request."""

import json
import logging
import time

import pytest

from server import errors
from server.domain import Run
from server.runs.config import RunConfig
from server.runs.events import TextDelta
from server.runs.runner import Runner
from server.store.memory import MemoryStore
from server.upstream.openai import OpenAIUpstream
from tests.support.clock import WatchedClock
from tests.support.openai_server import (
    DONE,
    END,
    PATIENCE_SECONDS,
    THEIRS,
    Exchange,
    OpenAIServer,
    Script,
    answers,
    breaks_off,
    completion,
    event,
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
from tests.support.upstream_calls import KEY, asked, call, failure

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

PLAIN_ONLY: dict[str, tuple[Script, type[errors.AppError]]] = {
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
    for table, ways in ((EITHER_WAY, (False, True)), (PLAIN_ONLY, (False,)), (STREAMED, (True,)))
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
    server: OpenAIServer, clock: WatchedClock, script: Script, streamed: bool
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


def test_a_plain_reply_that_drips_ends_with_the_time_of_the_call(server: OpenAIServer, clock: WatchedClock) -> None:
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
    server: OpenAIServer, clock: WatchedClock, script: Script, text: str
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


def test_a_call_without_time_left_costs_nothing(server: OpenAIServer, clock: WatchedClock) -> None:
    writing = OpenAIUpstream(KEY, server.url, clock=clock).open_stream(call(seconds=5))
    clock.now += 6
    with pytest.raises(errors.UpstreamTimedOut):
        list(writing)
    assert server.connections == 0

"""Which requests to the upstream are retried, how often, and after which pause."""

import email.utils
import time
from collections.abc import Callable

import pytest

from server import errors
from server.upstream.openai import OpenAIUpstream
from tests.support.clock import WatchedClock
from tests.support.openai_server import (
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
    streams,
    streams_and_breaks,
)
from tests.support.upstream_calls import KEY, asked, either, failure

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
    server: OpenAIServer, clock: WatchedClock, when: Callable[[float], str], status: int
) -> None:
    server.follow(refuses(status, Retry_After=when(clock.now)), good)
    assert asked(OpenAIUpstream(KEY, server.url, retry_seconds=0.0, clock=clock)) == "Hello"
    first, second = (heard.at for heard in server.requests)
    assert second - first >= 0.19


@pytest.mark.parametrize("when", [lambda now: "60", lambda now: date(now + 60), lambda now: "1e999"])
def test_a_wish_to_wait_beyond_the_time_of_the_call_fails_at_once(
    server: OpenAIServer, clock: WatchedClock, when: Callable[[float], str]
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

"""Aborting a request at any time, and which connections are used again; also over TLS."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from server import errors
from server.upstream.openai import OpenAIUpstream
from tests.support.clock import WatchedClock
from tests.support.openai_server import (
    END,
    PATIENCE_SECONDS,
    Exchange,
    OpenAIServer,
    answers,
    breaks_off,
    completion,
    good,
    piece,
    refuses,
    says,
    silent,
    streams,
    streams_and_waits,
)
from tests.support.upstream_calls import KEY, asked, call, either, failure


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
    server: OpenAIServer, clock: WatchedClock, is_warm: bool
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

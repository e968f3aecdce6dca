"""The upstream's list of models, the default model, and its health."""

import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from server import errors
from server.upstream.model_list import ModelList
from server.upstream.openai import OpenAIUpstream
from tests.support.clock import WatchedClock
from tests.support.openai_server import (
    PATIENCE_SECONDS,
    Exchange,
    OpenAIServer,
    Script,
    good,
    refuses,
    resets,
    says,
    silent,
)
from tests.support.upstream_calls import KEY, call


def listing(*entries: Any) -> Script:
    return says(json.dumps({"object": "list", "data": list(entries)}).encode())


def test_models_are_as_the_upstream_describes_them(server: OpenAIServer, upstream: OpenAIUpstream) -> None:
    described = {"id": "a", "object": "model", "shutdown_date": "2027-01-14", "extra": [1]}
    server.follow(listing(described, {"id": 7}, {"name": "b"}, "c", None, {"id": None}, {"id": "d"}))
    assert upstream.list_models() == [described, {"id": "c"}, {"id": "d"}]
    assert server.requests[0].path == "/v1/models"


def test_models_are_kept_for_their_time(server: OpenAIServer, clock: WatchedClock) -> None:
    upstream = OpenAIUpstream(KEY, server.url, models_ttl_seconds=300, clock=clock)
    server.follow(listing({"id": "a"}), listing({"id": "b"}))
    assert upstream.list_models() == [{"id": "a"}]
    clock.now += 299
    assert upstream.list_models() == [{"id": "a"}]
    assert len(server.requests) == 1
    clock.now += 2
    assert upstream.list_models() == [{"id": "b"}]


def test_models_are_served_stale_while_the_upstream_fails(server: OpenAIServer, clock: WatchedClock) -> None:
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
    server: OpenAIServer, clock: WatchedClock, at_once: Callable[..., Any]
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


def test_health_is_looked_up_without_a_completion_and_kept_for_a_while(
    server: OpenAIServer, clock: WatchedClock
) -> None:
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

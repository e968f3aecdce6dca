"""How a rate limit is written, and whom it counts runs for."""

from dataclasses import replace

import pytest

from server.access.caller import OPEN, Caller
from server.access.rate_limits import RateLimits
from server.rates import parse_rate
from server.store.limits import RateLimit


@pytest.mark.parametrize(
    ("text", "runs", "seconds"),
    [
        ("60/minute", 60, 60),
        ("10/second", 10, 1),
        ("1000 / hour", 1_000, 3_600),
        ("5000/day", 5_000, 86_400),
        ("100000/day", 100_000, 86_400),
    ],
)
def test_a_rate_is_a_number_and_a_time(text: str, runs: int, seconds: float) -> None:
    assert parse_rate(text) == (runs, seconds)


@pytest.mark.parametrize(
    "text",
    [
        *("", "60", "60/", "/minute", "0/minute", "-1/minute", "1.5/minute", "60/fortnight", "60 per minute"),
        *("60/minutes", "100001/day", "٣/minute", "60/minute\n", "060/minute", "60/MINUTE", "6e1/minute"),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_rate(text)


def key_of(caller: Caller) -> str:
    rate = RateLimits("60/minute").find(caller)
    assert rate is not None
    return rate.key


def test_without_a_setting_or_a_limit_of_the_key_nothing_holds() -> None:
    assert RateLimits("").find(Caller(key_id="1", address="192.0.2.1")) is None


def test_a_key_has_its_own_limit_or_that_of_the_setting() -> None:
    caller = Caller(key_id="1", address="192.0.2.1")
    assert RateLimits("60/minute").find(caller) == RateLimit("key:1", 60, 60)
    assert RateLimits("60/minute").find(replace(caller, rate_limit="5/second")) == RateLimit("key:1", 5, 1)
    assert RateLimits("").find(replace(caller, rate_limit="5/second")) == RateLimit("key:1", 5, 1)


def test_without_a_key_the_address_counts() -> None:
    assert key_of(replace(OPEN, address="192.0.2.1")) == "address:192.0.2.1"
    assert key_of(replace(OPEN, address="192.0.2.1")) != key_of(replace(OPEN, address="192.0.2.2"))
    assert key_of(OPEN) == key_of(replace(OPEN, address=""))


def test_the_addresses_of_one_ipv6_network_are_one() -> None:
    first, second = "2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff"
    assert key_of(replace(OPEN, address=first)) == key_of(replace(OPEN, address=second))
    assert key_of(replace(OPEN, address=first)) != key_of(replace(OPEN, address="2001:db8:1:3::1"))


def test_an_ipv4_address_written_as_ipv6_is_the_same() -> None:
    assert key_of(replace(OPEN, address="::ffff:192.0.2.1")) == key_of(replace(OPEN, address="192.0.2.1"))


def test_what_is_no_address_counts_as_it_is() -> None:
    assert key_of(replace(OPEN, address="unix:")) == "address:unix:"

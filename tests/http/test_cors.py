"""Whose pages may call the server: those that the operator names, and no others."""

import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from server import addresses
from server.app import create_app
from server.settings import Settings

STRANGERS = [
    "https://a.example.stranger.org",
    "https://xa.example",
    "https://xa.example.stranger.org",
    "https://x.a.example.stranger.org",
    "https://x.a.example:8443",
    "https://x.a.example/",
    "https://x.a.example@stranger.org",
    "https://stranger.org/x.a.example",
    "https://stranger.org#.a.example",
    "https://x.a-example",
    "https://xxaxexample",
    "https://.a.example",
    "https://x..a.example",
    "https://x.a.example.",
    "https://x.a.example\n",
    "http://a.example",
    "http://x.a.example",
    "xhttps://x.a.example",
    "null",
    "*",
    "https://*.a.example",
]


def served_with(origins: str) -> FlaskClient:
    return create_app(Settings.from_env({"UPSTREAM": "scripted", "CORS_ORIGINS": origins})).test_client()


def allowed(client: FlaskClient, origin: str) -> bool:
    """Whether a page of `origin` may read an answer, and may send JSON; both are asked."""
    answers: list[Any] = []
    # A header cannot hold a line break, but this is no place to rely on that.
    environ = {"HTTP_ORIGIN": origin}
    answers.append(client.get("/models", environ_base=environ))
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    answers.append(client.options("/query", environ_base=environ, headers=asked))
    told = {answer.headers.get("Access-Control-Allow-Origin") for answer in answers}
    assert told in ({origin}, {None}, {"*"})
    return told != {None}


@pytest.mark.parametrize("origins", ["https://*.a.example", '["https://*.a.example"]', "https://*.A.example:443/"])
def test_a_star_before_a_name_means_its_subdomains_at_any_depth_and_nothing_else(origins: str) -> None:
    client = served_with(origins)
    for origin in ("https://x.a.example", "https://y.x.a.example", "https://x-1.a.example", "HTTPS://X.A.EXAMPLE"):
        assert allowed(client, origin)
    assert [each for each in ["https://a.example", *STRANGERS] if allowed(client, each)] == []


@pytest.mark.parametrize(
    "origins", ["https://a.example", "https://a.example/", "HTTPS://A.Example", "https://a.example:443"]
)
def test_an_exact_origin_means_itself_and_nothing_else(origins: str) -> None:
    client = served_with(origins)
    assert allowed(client, "https://a.example")
    assert allowed(client, "https://A.EXAMPLE")
    assert [each for each in ["https://x.a.example", *STRANGERS] if allowed(client, each)] == []


@pytest.mark.parametrize(
    ("origins", "origin"),
    [
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("http://127.0.0.1", "http://127.0.0.1"),
        ("https://봇.example", "https://xn--7n3b.example"),
        ("https://*.a.example:8443", "https://x.a.example:8443"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
    ],
)
def test_an_origin_may_have_a_port_another_scheme_or_another_script(origins: str, origin: str) -> None:
    assert addresses.compile_origin(origins).match(origin)
    assert allowed(served_with(origins), origin)
    assert not allowed(served_with(origins), f"{origin}1")


def test_several_origins_are_allowed_each_for_itself() -> None:
    client = served_with(json.dumps(["https://a.example", "http://*.b.example:81"]))
    for origin in ("https://a.example", "http://x.b.example:81"):
        assert allowed(client, origin)
    for origin in ("https://x.b.example:81", "http://x.b.example", "http://a.example", "https://a.example:81"):
        assert not allowed(client, origin)


def test_a_star_alone_allows_every_origin() -> None:
    for origins in ("*", '["*"]', " * "):
        assert all(
            allowed(served_with(origins), each) for each in ("https://any.example", "http://b.example:1", "null")
        )


@pytest.mark.parametrize(
    "origins",
    [
        "https://*",
        "https://*.",
        "https://a.*.example",
        "https://*a.example",
        "https://*.*.example",
        "https://a.example:*",
        "*://a.example",
        "*.a.example",
        "*, https://a.example",
        "app://*.a.example",
        "https://.a.example",
        "https://a.example/path",
        "https://a.example//",
        "https://a.example?",
        "https://a.example#x",
        "https://user@a.example",
        "https://a.example:0",
        "https://a.example:65536",
        "https://a b.example",
        "https://a..example",
        "https://a.example|https://b.example",
        "https://a.example https://b.example",
        "https://[a.example]",
        "https://(a|b).example",
        "https://*.[::1]",
        "https:/a.example",
        "a.example",
        "//a.example",
        "null",
        "https://",
        "^https://a.example$",
    ],
)
def test_whatever_else_stops_the_start_and_the_variable_is_named(origins: str) -> None:
    with pytest.raises(ValueError, match=r"^CORS_ORIGINS: must be \* alone, or origins such as https://"):
        Settings.from_env({"CORS_ORIGINS": origins})

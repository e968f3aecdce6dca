"""Protected apps over each store, and the clients that have something there."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import orjson
import pytest
from flask import Flask
from flask.testing import FlaskClient

from server.app import create_app
from server.domain import ToolCall
from server.settings import Settings
from server.upstream.protocol import Completion, CompletionRequest
from tests.access.people import ADMIN_KEY, Person, settle
from tests.conftest import validate_responses
from tests.support.redis_server import needs_redis, redis_server
from tests.support.replies import SteeredUpstream


def answer(call: CompletionRequest) -> Iterator[str | Completion]:
    """The question again; a call of the tool `look` for what begins with that word."""
    messages: list[Any] = orjson.loads(call.messages)
    last = messages[-1]["content"]
    if last.startswith("look") and b'"tools"' in orjson.dumps(dict(call.parameters)):
        yield Completion("told", None, "tool_calls", (ToolCall("call_1", "look", "{}"),))
        return
    yield f"You said: {last}"


@pytest.fixture
def settings() -> Settings:
    return Settings(admin_key=ADMIN_KEY)


@pytest.fixture
def upstream() -> SteeredUpstream:
    return SteeredUpstream(answer)


@pytest.fixture(scope="module", params=["memory", "sqlite", pytest.param("redis", marks=needs_redis)])
def protected(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """A protected app over each store, which the tests of a module share."""
    with ExitStack() as stack:
        url = "memory://"
        if request.param == "sqlite":
            url = f"sqlite:///{tmp_path_factory.mktemp('store')}/chatbot.db"
        elif request.param == "redis":
            url = stack.enter_context(redis_server()).url
        app = create_app(Settings(admin_key=ADMIN_KEY, store_url=url), upstream=SteeredUpstream(answer))
        app.testing = True
        validate_responses(app)
        yield app
        app.extensions["runner"].shut_down(0)
        app.extensions["store"].close()


@pytest.fixture(scope="module")
def visitor(protected: Flask) -> FlaskClient:
    return protected.test_client()


@pytest.fixture(scope="module")
def ada(visitor: FlaskClient) -> Person:
    return settle(visitor, "ada")


@pytest.fixture(scope="module")
def eve(visitor: FlaskClient) -> Person:
    return settle(visitor, "eve")

"""A browser, and a server whose model says what a test lets it say."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.support.browser import launch_chromium
from tests.support.chat_page import ChatPage, ChatUpstream, open_chat
from tests.support.process import ServerProcess, serve
from tests.support.replies_over_http import SwitchableReplies, serve_replies


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launch_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def switch() -> SwitchableReplies:
    return SwitchableReplies()


@pytest.fixture(scope="module")
def chat_server(switch: SwitchableReplies) -> Iterator[ServerProcess]:
    with serve_replies(switch) as url, serve(OPENAI_API_KEY="k", OPENAI_BASE_URL=url) as served:
        yield served


@pytest.fixture
def model(switch: SwitchableReplies) -> Iterator[ChatUpstream]:
    upstream = ChatUpstream(switch)
    upstream.hold()
    yield upstream
    switch.release()


@pytest.fixture
def chat(browser: Browser, chat_server: ServerProcess, model: ChatUpstream) -> Iterator[ChatPage]:
    """The page of a new conversation."""
    with open_chat(browser, chat_server.url) as chat:
        yield chat

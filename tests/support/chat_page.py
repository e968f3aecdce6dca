"""The chat page as its users have it: by the names that they see or hear."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from playwright.sync_api import Browser, Locator, Page, expect

from tests.support.browser import visit
from tests.support.replies import ScriptedReplies
from tests.support.replies_over_http import SwitchableReplies

ENGLISH: dict[str, Any] = {"locale": "en-GB", "viewport": {"width": 1440, "height": 900}}


class ChatPage:
    """The page in English."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.box = page.get_by_role("textbox", name="Message")
        self.log = page.get_by_role("log", name="Conversation")
        self.list = page.get_by_role("list", name="Conversations", exact=True)
        self.turns = self.log.get_by_role("article")
        self.settings = page.get_by_role("complementary", name="Settings")

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def send(self, text: str) -> None:
        self.box.fill(text)
        self.button("Send").click()

    def ask(self, text: str) -> None:
        """Send a question, and wait for the end of its reply."""
        self.send(text)
        self.await_end()

    def await_end(self) -> None:
        expect(self.button("Send")).to_be_visible()
        expect(self.turns.last.get_by_role("button", name="Copy").last).to_be_visible()

    def open_settings(self) -> None:
        if not self.settings.is_visible():
            self.button("Settings").click()
        expect(self.settings).to_be_visible()

    def entry(self, title: str) -> Locator:
        return self.list.get_by_role("listitem", name=title, exact=True)


@contextmanager
def open_chat(browser: Browser, url: str, client_name: str | None = None, **options: Any) -> Iterator[ChatPage]:
    """The chat page of a conversation, or of a new one; `options` as for `visit`."""
    address = f"{url}/" if client_name is None else f"{url}/?client_name={quote(client_name, safe='')}"
    with visit(browser, address, **{**ENGLISH, **options}) as page:
        chat = ChatPage(page)
        expect(chat.box).to_be_visible()
        yield chat


class ChatUpstream:
    """The model's server of a page under test: each test says which questions wait for it."""

    def __init__(self, switch: SwitchableReplies) -> None:
        self._switch = switch

    def hold(self, *questions: str) -> ScriptedReplies:
        self._switch.current = ScriptedReplies(*questions)
        return self._switch.current

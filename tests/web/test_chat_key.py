"""The page of a protected server: it asks for a key, keeps it in its tab, and forgets it."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Request, Route, expect

from tests.support.browser import visit
from tests.support.chat_page import ENGLISH, ChatPage, ChatUpstream
from tests.support.process import ServerProcess, serve
from tests.support.replies_over_http import SwitchableReplies, serve_replies
from tests.web.test_chat_look import findings

ADMIN_KEY = "an administrator's long key"
NOT_VALID = "This key is not valid."
REFUSALS = "Failed to load resource: the server responded with a status of 4"
"""What the browser logs of each refusal."""


@dataclass(frozen=True)
class ProtectedServer:
    server: ServerProcess

    @property
    def url(self) -> str:
        return self.server.url

    def ask(self, method: str, path: str, body: Any = None, key: str = ADMIN_KEY) -> Any:
        status, answer = self.server.ask(method, path, body, Authorization=f"Bearer {key}")
        assert status == 200, answer
        return answer

    def create_key(self, client_name: str) -> str:
        key: str = self.ask("POST", "/api-keys", {"client_name": client_name})["key"]
        return key

    def delete_keys(self, client_name: str) -> None:
        for each in self.ask("GET", "/api-keys")["keys"]:
            if each["client_name"] == client_name:
                self.ask("DELETE", f"/api-keys/{each['id']}")


@pytest.fixture(scope="module")
def protected(switch: SwitchableReplies) -> Iterator[ProtectedServer]:
    with serve_replies(switch) as url, serve(OPENAI_BASE_URL=url, ADMIN_KEY=ADMIN_KEY) as served:
        yield ProtectedServer(served)


Visit = Callable[..., AbstractContextManager[Page]]


@pytest.fixture
def opened(browser: Browser, protected: ProtectedServer, model: ChatUpstream) -> Visit:
    """Opens the page at a path, in a browser of its own."""

    def opened(path: str = "/", **options: Any) -> AbstractContextManager[Page]:
        return visit(browser, f"{protected.url}{path}", ignored=REFUSALS, **{**ENGLISH, **options})

    return opened


def key_field(page: Page) -> Locator:
    return page.get_by_role("textbox", name="Key", exact=True)


def give(page: Page, key: str) -> None:
    key_field(page).fill(key)
    page.get_by_role("button", name="Open", exact=True).click()


def enter(page: Page, key: str) -> ChatPage:
    """Give a key that is right, and wait until the page is open."""
    give(page, key)
    chat = ChatPage(page)
    expect(key_field(page)).to_have_count(0)
    expect(page.get_by_text("Connected")).to_be_visible()
    return chat


def kept(page: Page, storage: str) -> str:
    """All that a storage of the browser has."""
    found: str = page.evaluate(f"JSON.stringify({{...{storage}}})")
    return found


class TestAsking:
    def test_an_open_server_asks_for_no_key(self, chat: ChatPage) -> None:
        expect(chat.page.get_by_text("Connected")).to_be_visible()
        expect(key_field(chat.page)).to_have_count(0)
        chat.open_settings()
        expect(chat.button("Forget the key")).to_be_hidden()

    def test_a_protected_one_asks_and_the_right_key_opens_it(self, opened: Visit, protected: ProtectedServer) -> None:
        with opened() as page:
            expect(page.get_by_role("dialog", name="Enter your key")).to_be_visible()
            expect(key_field(page)).to_be_focused()
            expect(key_field(page)).to_have_attribute("type", "password")
            expect(page.get_by_role("textbox", name="Message")).to_be_hidden()
            chat = enter(page, protected.create_key("opens-*"))
            chat.ask("hello")
            expect(chat.turns.last.locator(".reply")).to_have_text("re: hello")

    def test_the_keyboard_alone_is_enough(self, opened: Visit, protected: ProtectedServer) -> None:
        with opened() as page:
            expect(key_field(page)).to_be_focused()
            for _ in range(3):
                page.keyboard.press("Escape")
            page.keyboard.press("Enter")
            expect(key_field(page)).to_be_focused()
            page.keyboard.type("ck_not-it")
            page.keyboard.press("Tab")
            page.keyboard.press("Space")
            expect(key_field(page)).to_have_attribute("type", "text")
            expect(page.get_by_role("button", name="Show the key")).to_have_attribute("aria-pressed", "true")
            page.keyboard.press("Tab")
            page.keyboard.press("Enter")
            expect(page.get_by_role("alert")).to_contain_text(NOT_VALID)
            expect(key_field(page)).to_have_attribute("type", "password")
            expect(key_field(page)).to_be_focused()
            page.keyboard.type(protected.create_key("keyboard"))
            page.keyboard.press("Enter")
            expect(page.get_by_role("textbox", name="Message")).to_be_focused()

    @pytest.mark.parametrize("wrong", ["ck_nonsense", "키", "two\twords"])
    def test_a_wrong_key_is_told_and_can_be_corrected(
        self, opened: Visit, protected: ProtectedServer, wrong: str
    ) -> None:
        with opened() as page:
            give(page, wrong)
            expect(page.get_by_role("alert")).to_contain_text(NOT_VALID)
            expect(key_field(page)).to_have_attribute("aria-invalid", "true")
            assert "nonsense" not in kept(page, "sessionStorage")
            enter(page, protected.create_key("corrected"))

    def test_too_many_wrong_keys_are_told_with_the_time_to_wait(self, browser: Browser) -> None:
        server = serve(UPSTREAM="scripted", ADMIN_KEY=ADMIN_KEY)
        with server as served, visit(browser, served.url, ignored=REFUSALS, **ENGLISH) as page:
            for number in range(10):
                served.ask("GET", "/caller", Authorization=f"Bearer wrong {number}")
            give(page, "ck_one-more")
            expect(page.get_by_role("alert")).to_have_text(re.compile(r"Too many wrong keys\. Try again in \d+ s\."))
            enter(page, ADMIN_KEY)

    def test_one_that_was_copied_with_its_header_is_taken(self, opened: Visit, protected: ProtectedServer) -> None:
        with opened() as page:
            key = protected.create_key("header")
            enter(page, f" bearer  {key} ")
            assert key in kept(page, "sessionStorage") and "earer" not in kept(page, "sessionStorage")

    def test_a_server_that_does_not_answer_is_told(self, browser: Browser) -> None:
        server = serve(UPSTREAM="scripted", ADMIN_KEY=ADMIN_KEY)
        with server as served, visit(browser, served.url, ignored="Failed to load resource", **ENGLISH) as page:
            expect(key_field(page)).to_be_focused()
            served.kill()
            give(page, ADMIN_KEY)
            expect(page.get_by_role("alert").filter(has_text="does not answer")).to_be_visible()

    def test_it_speaks_korean(self, opened: Visit, protected: ProtectedServer) -> None:
        with opened(locale="ko-KR") as page:
            page.get_by_role("textbox", name="키", exact=True).fill("ck_틀린")
            page.get_by_role("button", name="열기", exact=True).click()
            expect(page.get_by_role("alert")).to_contain_text("이 키는 쓸 수 없습니다.")

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [390, 1440])
    def test_it_fits_and_has_no_barrier(self, opened: Visit, scheme: str, width: int) -> None:
        with opened(viewport={"width": width, "height": 844}, color_scheme=scheme) as page:
            give(page, "ck_nonsense")
            expect(page.get_by_role("alert")).to_contain_text(NOT_VALID)
            dialog = page.get_by_role("dialog")
            assert dialog.evaluate("(each) => [each.clientWidth, each.scrollWidth]") == [width, width]
            for each in (key_field(page), page.get_by_role("button", name="Open")):
                box = each.bounding_box()
                assert box is not None
                assert (box["x"] >= 20, box["x"] + box["width"] <= width - 20, box["height"] >= 44) == (True,) * 3
            assert findings(page) == []


class TestKeeping:
    def test_the_key_goes_with_every_request_and_is_nowhere_but_in_the_tabs_session(
        self, opened: Visit, protected: ProtectedServer
    ) -> None:
        key = protected.create_key("keeper-*")
        sent: list[Request] = []
        with opened() as page:
            expect(key_field(page)).to_be_visible()
            page.on("request", lambda request: sent.append(request))
            chat = enter(page, key)
            chat.ask("hello")
            chat.open_settings()
            chat.page.reload()
            expect(chat.turns).to_have_count(1)
            assert key in kept(page, "sessionStorage")
            assert key not in kept(page, "localStorage")
            assert key not in page.content()
            assert (
                page.evaluate(
                    "[...document.querySelectorAll('input, textarea')].some(({ value }) => value.includes('ck_'))"
                )
                is False
            )
            assert page.context.cookies() == []
            files = re.compile(rf"{re.escape(protected.url)}/(web/.*|(\?.*)?)$")
            asked = [each for each in sent if not files.match(each.url) and not each.url.endswith("/healthz")]
            assert {each.url.split("?")[0].rpartition("/")[2] for each in asked} >= {
                "caller",
                "conversations",
                "stream",
            }
            assert {each.all_headers().get("authorization") for each in asked} == {f"Bearer {key}"}
            assert [each.url for each in sent if key in each.url] == []

    def test_another_tab_asks_anew(self, opened: Visit, protected: ProtectedServer) -> None:
        with opened() as page:
            enter(page, protected.create_key("tabs"))
            other = page.context.new_page()
            other.goto(protected.url)
            expect(key_field(other)).to_be_visible()

    @pytest.mark.parametrize("format_", ["JSON", "Markdown", "JSON Lines"])
    def test_an_export_is_saved(self, opened: Visit, protected: ProtectedServer, format_: str) -> None:
        with opened() as page:
            chat = enter(page, protected.create_key("exporter-*"))
            chat.ask("두부")
            chat.open_settings()
            chat.button("Export").click()
            with page.expect_download() as download:
                page.get_by_role("menuitem", name=format_, exact=True).click()
            assert re.fullmatch(r"두부.*\.(json|jsonl|md)", download.value.suggested_filename)
            assert "re: 두부" in Path(download.value.path()).read_text()

    def test_a_file_is_imported(self, opened: Visit, protected: ProtectedServer) -> None:
        content = json.dumps([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "from a file"}])
        with opened() as page:
            chat = enter(page, protected.create_key("importer"))
            chat.open_settings()
            file = {"name": "it.json", "mimeType": "application/json", "buffer": content.encode()}
            page.locator("input[type=file]").set_input_files(file)
            expect(page.get_by_text("1 conversation imported.")).to_be_visible()
            expect(chat.turns.last).to_contain_text("from a file")


class TestScope:
    def test_a_key_of_one_name_has_the_conversation_of_that_name(
        self, opened: Visit, protected: ProtectedServer
    ) -> None:
        key = protected.create_key("kim")
        protected.ask("POST", "/query", {"client_name": "kim", "input": "earlier"}, key)
        with opened() as page:
            chat = enter(page, key)
            expect(chat.turns).to_have_count(1)
            expect(chat.turns.last).to_contain_text("re: earlier")
            assert page.url.endswith("?client_name=kim")
            expect(chat.button("New conversation")).to_be_hidden()
            page.keyboard.press("Alt+n")
            expect(chat.turns.last).to_contain_text("re: earlier")

    def test_a_key_of_a_beginning_makes_names_with_it(self, opened: Visit, protected: ProtectedServer) -> None:
        with opened() as page:
            chat = enter(page, protected.create_key("team-*"))
            page.wait_for_url(re.compile(r"\?client_name=team-[a-z0-9]{8}$"))
            chat.ask("one")
            first = page.url
            chat.button("New conversation").click()
            chat.ask("two")
            assert re.search(r"\?client_name=team-[a-z0-9]{8}$", page.url)
            assert page.url != first

    def test_the_administrators_makes_any(self, opened: Visit) -> None:
        with opened() as page:
            enter(page, ADMIN_KEY)
            page.wait_for_url(re.compile(r"\?client_name=chat-[a-z0-9]{8}$"))

    def test_an_address_that_the_key_does_not_open_is_told(self, opened: Visit, protected: ProtectedServer) -> None:
        protected.ask("POST", "/query", {"client_name": "lee", "input": "a secret"})
        with opened("/?client_name=lee") as page:
            chat = enter(page, protected.create_key("park"))
            expect(page.get_by_role("heading", name="This key does not open this conversation.")).to_be_visible()
            expect(page.get_by_role("heading", level=1)).to_have_text("lee")
            chat.box.fill("a question")
            expect(chat.button("Send")).to_be_disabled()
            assert "a secret" not in page.content()
            chat.button("Open your conversation").click()
            assert page.url.endswith("?client_name=park")
            chat.ask("hello")


class TestForgetting:
    def test_it_clears_what_was_shown_and_asks_again(self, opened: Visit, protected: ProtectedServer) -> None:
        key = protected.create_key("forgetful-*")
        with opened() as page:
            chat = enter(page, key)
            chat.ask("between us")
            chat.button("New conversation").click()
            chat.ask("this as well")
            chat.box.fill("half a thou")
            chat.open_settings()
            chat.button("Forget the key").click()
            expect(key_field(page)).to_be_visible()
            assert kept(page, "sessionStorage") == "{}"
            for told in (page.content(), page.title(), page.url, kept(page, "localStorage")):
                assert not re.search(r"between us|this as well|half a thou|forgetful|ck_", told)
            page.go_back()
            expect(key_field(page)).to_be_visible()
            assert not re.search("between us|this as well", page.content())
            chat = enter(page, key)
            expect(chat.entry("between us")).to_be_visible()
            chat.entry("this as well").get_by_role("link").click()
            expect(chat.turns).to_have_count(1)
            expect(chat.box).to_have_value("")

    def test_a_key_that_ends_while_the_page_is_open_is_asked_for_again_and_the_draft_stays(
        self, opened: Visit, protected: ProtectedServer
    ) -> None:
        with opened() as page:
            chat = enter(page, protected.create_key("renewed-*"))
            chat.ask("hello")
            chat.box.fill("half a thou")
            protected.delete_keys("renewed-*")
            expect(page.get_by_text("Your key no longer works")).to_be_visible()
            key = protected.create_key("renewed-*")
            enter(page, key)
            expect(chat.turns).to_have_count(1)
            expect(chat.box).to_have_value("half a thou")
            chat.box.press("Enter")
            expect(chat.turns.last.locator(".reply")).to_have_text("re: half a thou")

    def test_a_question_that_met_the_end_of_its_key_is_asked_with_the_next_one(
        self, opened: Visit, protected: ProtectedServer, model: ChatUpstream
    ) -> None:
        with opened() as page:
            chat = enter(page, protected.create_key("asking-*"))
            chat.ask("hello")
            held: list[Route] = []
            page.route(
                re.compile(r"/conversations\?"), lambda route: held.append(route)
            )  # Else one of these would be refused first.
            protected.delete_keys("asking-*")
            chat.send("and then?")
            expect(key_field(page)).to_be_visible()
            page.unroute_all()
            for route in held:
                route.continue_()
            enter(page, protected.create_key("asking-*"))
            chat.await_end()
            expect(chat.turns).to_have_count(2)
            expect(chat.turns.last.locator(".reply")).to_have_text("re: and then?")

    def test_what_one_client_wrote_is_not_shown_to_the_next_one(
        self, opened: Visit, protected: ProtectedServer
    ) -> None:
        with opened() as page:
            chat = enter(page, protected.create_key("former"))
            chat.ask("between us")
            chat.box.fill("half a thou")
            protected.delete_keys("former")
            expect(page.get_by_text("Your key no longer works")).to_be_visible()
            give(page, protected.create_key("latter"))
            page.wait_for_url(re.compile("client_name=latter"))
            expect(chat.box).to_have_value("")
            assert not re.search("between us|half a thou", page.content() + kept(page, "sessionStorage"))

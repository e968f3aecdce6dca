"""The page at `/`: what a browser gets, and a question from the box to the end of its reply."""

import gzip
import re
from threading import Event

import pytest
from flask.testing import FlaskClient
from playwright.sync_api import Browser, Page, Route, expect

from server.app import create_app
from server.settings import Settings
from tests.support.browser import visit
from tests.support.chat_page import ENGLISH, ChatPage, ChatUpstream, open_chat
from tests.support.process import ServerProcess

CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"
FIRST_LOAD_BYTES = 100_000


class TestNegotiation:
    @pytest.mark.parametrize("accept", ["text/html", CHROME, "text/html, application/json;q=0.5"])
    def test_a_browser_gets_the_page(self, client: FlaskClient, accept: str) -> None:
        answer = client.get("/", headers={"Accept": accept})
        assert (answer.status_code, answer.mimetype) == (200, "text/html")
        assert "Accept" in answer.headers["Vary"]

    @pytest.mark.parametrize("accept", [None, "*/*", "application/json", "application/json, text/html", "image/png"])
    def test_everything_else_gets_json(self, client: FlaskClient, accept: str | None) -> None:
        answer = client.get("/", headers={} if accept is None else {"Accept": accept})
        assert (answer.status_code, answer.mimetype) == (200, "application/json")
        assert answer.headers["Vary"] == "Accept"
        assert answer.headers["Cache-Control"] == "no-store"

    def test_a_browser_that_has_the_page_is_told_so(self, client: FlaskClient) -> None:
        first = client.get("/", headers={"Accept": "text/html"})
        again = client.get("/", headers={"Accept": "text/html", "If-None-Match": first.headers["ETag"]})
        assert (again.status_code, again.data) == (304, b"")
        assert "Accept" in again.headers["Vary"]

    def test_its_policy_lets_no_text_become_html_but_through_the_sanitiser(self, client: FlaskClient) -> None:
        policy = client.get("/", headers={"Accept": "text/html"}).headers["Content-Security-Policy"]
        assert policy.split("; ") == [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' data:",
            "font-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-ancestors 'none'",
            "manifest-src 'self'",
            "require-trusted-types-for 'script'",
            "trusted-types dompurify",
        ]

    def test_all_that_it_loads_is_found_beneath_a_path_and_kept_for_a_year(self, client: FlaskClient) -> None:
        page = client.get("/", headers={"Accept": "text/html"}).text
        found = [each for each in re.findall(r'(?:src|href)="([^"]+)"', page) if not each.startswith("data:")]
        files = [each for each in found if each.startswith("web/")]
        assert set(found) - set(files) == {"docs", "redoc"}
        assert "main.js" in {each.rpartition("/")[2] for each in files}
        for each in files:
            assert client.get(f"/{each}").headers["Cache-Control"] == "public, max-age=31536000, immutable"

    def test_without_javascript_it_says_so_in_both_languages(
        self, browser: Browser, chat_server: ServerProcess
    ) -> None:
        with browser.new_context(java_script_enabled=False) as context:
            page = context.new_page()
            page.goto(chat_server.url)
            said = page.locator("noscript p")
            expect(said.first).to_have_text("This page needs JavaScript. The API is described at /docs.")
            expect(said.last).to_have_text("이 페이지는 JavaScript가 필요합니다. API는 /docs 에 있습니다.")
            expect(said.first).to_be_visible()

    def test_its_first_load_is_small(self) -> None:
        client = create_app(Settings.from_env({"UPSTREAM": "scripted"})).test_client()
        accepted = {"Accept": "text/html", "Accept-Encoding": "gzip"}
        page = client.get("/", headers=accepted)
        addresses = set(re.findall(r'(?:src|href)="(web/[^"]+)"', gzip.decompress(page.data).decode()))
        sizes = {each: len(client.get(f"/{each}", headers=accepted).data) for each in addresses}
        assert len(page.data) + sum(sizes.values()) <= FIRST_LOAD_BYTES, sizes


def test_it_loads_only_what_its_page_names(browser: Browser, chat_server: ServerProcess) -> None:
    with open_chat(browser, chat_server.url) as chat:
        expect(chat.page.get_by_text("Connected")).to_be_visible()
        loaded = chat.page.evaluate("performance.getEntriesByType('resource').map((each) => each.name)")
        preloaded = chat.page.evaluate(
            "[...document.querySelectorAll('link, script')].map((each) => each.href || each.src)"
        )
        assert {each for each in loaded if "/web/" in each} <= set(preloaded)


class TestAsking:
    def test_the_first_visit_offers_questions_that_fill_the_box(self, chat: ChatPage) -> None:
        expect(chat.page.get_by_text("Ask anything.")).to_be_visible()
        chat.button("Explain why this SQL is slow").click()
        expect(chat.box).to_have_value("Explain why this SQL is slow")
        expect(chat.box).to_be_focused()
        assert re.search(r"\?client_name=chat-[a-z0-9]{8}$", chat.page.url)

    def test_a_reply_streams_and_ends_with_its_numbers(self, chat: ChatPage, model: ChatUpstream) -> None:
        replies = model.hold("a story")
        chat.send("a story")
        turn = chat.turns.last
        expect(turn).to_contain_text("a story")
        expect(turn).to_contain_text("Waiting for the first word")
        expect(chat.box).to_have_value("")
        replies.say("a story", "Once upon ")
        expect(turn).to_contain_text("Once upon")
        expect(turn).to_contain_text("Writing")
        expect(chat.page).to_have_title(re.compile("^● "))
        replies.end("a story", "a time.")
        expect(turn).to_contain_text("Once upon a time.")
        expect(turn.get_by_role("button", name="Regenerate")).to_be_visible()
        expect(chat.page).to_have_title("a story — Conversations")
        expect(chat.page.get_by_role("status").filter(has_text="The reply is done")).to_have_count(1)
        expect(chat.entry("a story")).to_be_visible()

    def test_its_text_is_there_once_when_it_has_ended(self, chat: ChatPage) -> None:
        chat.ask("hello")
        expect(chat.turns.last.locator(".reply")).to_have_text("re: hello")
        chat.page.reload()
        expect(chat.turns).to_have_count(1)
        expect(chat.turns.last.locator(".reply")).to_have_text("re: hello")

    @pytest.mark.parametrize(("seconds", "shown"), [(0.04, "12 → 3 tokens"), (0.05, "12 → 3 tokens · 0.1 s")])
    def test_a_time_too_short_for_one_decimal_is_left_out(self, chat: ChatPage, seconds: float, shown: str) -> None:
        chat.ask("hello")

        def tell(route: Route) -> None:
            answer = route.fetch()
            told = answer.json()
            told["messages"][-1] |= {"seconds": seconds, "usage": {"prompt_tokens": 12, "completion_tokens": 3}}
            route.fulfill(response=answer, json=told)

        chat.page.route(re.compile("/conversations/messages"), tell)
        chat.page.reload()
        expect(chat.turns.last.locator(".numbers .wide")).to_have_text(shown)
        expect(chat.turns.last.locator(".numbers .offscreen")).to_have_text(re.compile(r"received( · 0\.1 s)?$"))

    @pytest.mark.parametrize("way", ["button", "Escape"])
    def test_it_can_be_stopped_and_what_was_written_is_kept(
        self, chat: ChatPage, model: ChatUpstream, way: str
    ) -> None:
        replies = model.hold("a story")
        chat.send("a story")
        replies.say("a story", "Once upon ")
        expect(chat.turns.last).to_contain_text("Once upon")
        if way == "button":
            chat.button("Stop").click()
        else:
            chat.page.keyboard.press("Escape")
        expect(chat.turns.last).to_contain_text("Stopped · kept up to here")
        expect(chat.button("Send")).to_be_visible()
        chat.page.reload()
        expect(chat.turns.last).to_contain_text("Once upon")
        expect(chat.turns.last).to_contain_text("Stopped · kept up to here")

    def test_what_is_stopped_before_its_first_word_leaves_the_question(
        self, chat: ChatPage, model: ChatUpstream
    ) -> None:
        replies = model.hold("a story")
        chat.send("a story")
        replies.await_call("a story")
        chat.button("Stop").click()
        expect(chat.turns.last).to_contain_text("Stopped")
        expect(chat.turns.last).to_contain_text("a story")
        chat.turns.last.get_by_role("button", name="Edit").click()
        expect(chat.box).to_have_value("a story")

    def test_a_reload_in_the_middle_picks_it_up(self, chat: ChatPage, model: ChatUpstream) -> None:
        replies = model.hold("a story")
        chat.send("a story")
        replies.say("a story", "Once upon ")
        expect(chat.turns.last).to_contain_text("Once upon")
        chat.page.reload()
        expect(chat.turns.last).to_contain_text("Once upon")
        expect(chat.button("Stop")).to_be_visible()
        replies.end("a story", "a time.")
        expect(chat.turns.last.locator(".reply")).to_have_text("Once upon a time.")
        expect(chat.button("Send")).to_be_visible()

    def test_while_it_is_written_the_draft_waits(self, chat: ChatPage, model: ChatUpstream) -> None:
        replies = model.hold("a story")
        chat.send("a story")
        replies.await_call("a story")
        chat.box.fill("and then?")
        chat.box.press("Enter")
        expect(chat.page.get_by_text("You can send when the reply is done")).to_be_visible()
        expect(chat.box).to_have_value("and then?")
        replies.end("a story", "The end.")
        expect(chat.button("Send")).to_be_enabled()
        expect(chat.turns).to_have_count(1)

    def test_a_draft_stays_with_its_conversation(self, chat: ChatPage) -> None:
        chat.ask("first")
        chat.box.fill("half a thou")
        chat.button("New conversation").click()
        expect(chat.page.get_by_text("Ask anything.")).to_be_visible()
        expect(chat.box).to_have_value("")
        expect(chat.entry("first")).to_contain_text("draft")
        chat.entry("first").get_by_role("link").click()
        expect(chat.box).to_have_value("half a thou")
        chat.page.reload()
        expect(chat.box).to_have_value("half a thou")

    def test_what_is_typed_while_a_conversation_opens_stays_and_is_its_draft(self, chat: ChatPage) -> None:
        chat.ask("hello")
        held: list[Route] = []
        released = Event()
        chat.page.route(
            re.compile("/conversations/details"),
            lambda route: route.continue_() if released.is_set() else held.append(route),
        )
        chat.page.reload()
        chat.box.fill("half a thou")
        chat.box.press("Enter")
        expect(chat.box).to_have_value("half a thou")
        expect(chat.button("Send")).to_be_disabled()
        expect(chat.turns).to_have_count(0)
        released.set()
        for route in held:
            route.continue_()
        expect(chat.turns).to_have_count(1)
        expect(chat.button("Send")).to_be_enabled()
        expect(chat.box).to_have_value("half a thou")
        chat.page.reload()
        expect(chat.turns).to_have_count(1)
        expect(chat.box).to_have_value("half a thou")

    def test_a_question_that_is_refused_returns_to_the_box(
        self, browser: Browser, chat_server: ServerProcess, model: ChatUpstream
    ) -> None:
        refused = "status of 400"
        with open_chat(browser, chat_server.url, ignored=refused) as chat:
            text = "x" * 100_001
            chat.send(text)
            expect(chat.page.get_by_role("alert").filter(has_text=re.compile("."))).to_be_visible()
            expect(chat.box).to_have_value(text)


class TestFailures:
    def test_a_failed_question_says_why_and_can_be_asked_again(self, chat: ChatPage, model: ChatUpstream) -> None:
        replies = model.hold("a story")
        replies.fail("a story", ConnectionResetError())
        chat.send("a story")
        turn = chat.turns.first
        expect(turn).to_contain_text(re.compile("The model('s)? server"))
        expect(turn).to_contain_text("Your question is kept.")
        chat.page.reload()
        replies.end("a story", "Once upon a time.")
        chat.turns.first.get_by_role("button", name="Retry").click()
        expect(chat.turns.last).to_contain_text("Once upon a time.")
        chat.await_end()


class TestKeyboard:
    def test_everything_can_be_done_without_a_pointer(self, chat: ChatPage, model: ChatUpstream) -> None:
        page = chat.page
        expect(chat.box).to_be_focused()
        page.keyboard.type("hello")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("there")
        page.keyboard.press("Enter")
        expect(chat.turns.last).to_contain_text("re: hello")
        chat.await_end()
        page.keyboard.press("ArrowUp")
        editor = chat.turns.last.get_by_role("textbox", name="Edit")
        expect(editor).to_be_focused()
        page.keyboard.press("Escape")
        expect(editor).to_have_count(0)
        expect(chat.box).to_be_focused()
        page.keyboard.press("Alt+s")
        expect(chat.settings).to_be_visible()
        page.keyboard.press("Escape")
        expect(chat.settings).not_to_be_visible()
        page.keyboard.press("Alt+n")
        expect(page.get_by_text("Ask anything.")).to_be_visible()
        page.keyboard.press("Control+k")
        expect(page.get_by_role("searchbox", name="Search conversations")).to_be_focused()
        page.keyboard.press("Control+/")
        dialog = page.get_by_role("dialog", name="Shortcuts")
        expect(dialog).to_be_visible()
        page.keyboard.press("Escape")
        expect(dialog).not_to_be_visible()

    def test_escape_stops_before_it_closes_the_panel(self, chat: ChatPage, model: ChatUpstream) -> None:
        replies = model.hold("a story")
        chat.open_settings()
        chat.send("a story")
        replies.say("a story", "Once ")
        expect(chat.turns.last).to_contain_text("Once")
        chat.page.keyboard.press("Escape")
        expect(chat.turns.last).to_contain_text("Stopped")
        expect(chat.settings).to_be_visible()
        chat.page.keyboard.press("Escape")
        expect(chat.settings).not_to_be_visible()

    def test_every_control_is_reached_by_tab_and_shows_its_focus(self, chat: ChatPage) -> None:
        chat.ask("hello")
        chat.open_settings()
        seen = set()
        for _ in range(120):
            chat.page.keyboard.press("Tab")
            seen.add(chat.page.evaluate("document.activeElement.ariaLabel || document.activeElement.innerText"))
        for name in (
            "New conversation",
            "Copy",
            "Regenerate",
            "Edit",
            "Settings",
            "Export",
            "Import",
            "Clear",
            "hello",
        ):
            assert any(each and each.startswith(name) for each in seen), (name, seen)


class TestKorean:
    def test_text_that_an_input_method_composes_is_sent_whole_and_once(self, chat: ChatPage) -> None:
        client = chat.page.context.new_cdp_session(chat.page)
        chat.box.focus()
        for part in ("ㅎ", "하", "한"):
            client.send("Input.imeSetComposition", {"text": part, "selectionStart": 1, "selectionEnd": 1})
        chat.page.evaluate("""() => {
          const init = { key: "Enter", code: "Enter", keyCode: 229, isComposing: true, bubbles: true };
          document.activeElement.dispatchEvent(new KeyboardEvent("keydown", init));
        }""")
        expect(chat.turns).to_have_count(0)
        client.send("Input.insertText", {"text": "한"})
        for part in ("ㄱ", "그", "글"):
            client.send("Input.imeSetComposition", {"text": part, "selectionStart": 1, "selectionEnd": 1})
        client.send("Input.insertText", {"text": "글"})
        expect(chat.box).to_have_value("한글")
        chat.page.keyboard.press("Enter")
        chat.await_end()
        expect(chat.turns).to_have_count(1)
        expect(chat.turns.last.locator(".reply")).to_have_text("re: 한글")
        expect(chat.turns.last.locator(".reply")).to_have_attribute("lang", "ko")

    def test_the_language_is_the_browsers_and_can_be_changed(
        self, browser: Browser, chat_server: ServerProcess, model: ChatUpstream
    ) -> None:
        with visit(browser, f"{chat_server.url}/", **{**ENGLISH, "locale": "ko-KR"}) as page:
            expect(page.get_by_role("textbox", name="메시지")).to_be_visible()
            page.get_by_role("button", name="설정").click()
            page.get_by_role("combobox", name="언어").select_option("en")
            expect(page.get_by_role("textbox", name="Message")).to_be_visible()
            assert page.locator("html").get_attribute("lang") == "en"
            page.reload()
            expect(page.get_by_role("textbox", name="Message")).to_be_visible()


class TestFollowing:
    def long_reply(self, chat: ChatPage, model: ChatUpstream) -> Page:
        replies = model.hold("a story")
        self.replies = replies
        chat.send("a story")
        replies.say("a story", *[f"Line {each}\n\n" for each in range(60)])
        expect(chat.turns.last).to_contain_text("Line 59")
        return chat.page

    def test_a_question_goes_to_the_top_and_the_log_follows_its_reply(
        self, chat: ChatPage, model: ChatUpstream
    ) -> None:
        chat.ask("one")
        self.long_reply(chat, model)
        expect(chat.turns.last.get_by_text("Line 59")).to_be_in_viewport()
        expect(chat.button("Jump to latest")).to_be_hidden()

    def test_who_reads_further_up_is_left_there(self, chat: ChatPage, model: ChatUpstream) -> None:
        page = self.long_reply(chat, model)
        box = chat.log.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 300, box["y"] + 300)
        page.mouse.wheel(0, -600)
        jump = chat.button("Jump to latest")
        expect(jump).to_be_visible()
        before = page.evaluate("document.querySelector('[role=log]').scrollTop")
        self.replies.end("a story", "And the end.")
        chat.await_end()
        expect(chat.turns.last).to_contain_text("And the end.")
        assert page.evaluate("document.querySelector('[role=log]').scrollTop") == before
        jump.click()
        expect(chat.turns.last.get_by_text("And the end.")).to_be_in_viewport()
        expect(jump).to_be_hidden()

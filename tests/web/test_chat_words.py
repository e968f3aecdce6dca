"""What the page says of imports, clearing, presets and a lost connection, in words that hold."""

import json
import re
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, expect

from tests.support.browser import visit
from tests.support.chat_page import ENGLISH, ChatPage, ChatUpstream, open_chat
from tests.support.process import ServerProcess, serve

KOREAN: dict[str, Any] = {**ENGLISH, "locale": "ko-KR"}


def name_of(chat: ChatPage) -> str:
    return chat.page.locator(".head .name").inner_text()


class TestImports:
    def test_a_name_that_is_taken_is_not_told_as_the_name_of_the_file(
        self, browser: Browser, chat_server: ServerProcess, tmp_path: Path
    ) -> None:
        chat_server.query("taken", "hello")
        file = tmp_path / "backup (1).json"
        file.write_text(json.dumps(chat_server.ask("GET", "/conversations/export?client_name=taken")[1]))
        with open_chat(browser, chat_server.url, ignored="status of 409") as chat:
            chat.open_settings()
            chat.page.locator("input[type=file]").set_input_files(file)
            expect(chat.settings.get_by_text("A conversation of that name exists already.")).to_be_visible()

    def test_what_was_imported_is_told_although_it_is_opened(
        self, browser: Browser, chat_server: ServerProcess, tmp_path: Path
    ) -> None:
        chat_server.query("exported", "hello")
        file = tmp_path / "exported.json"
        exported = json.dumps(chat_server.ask("GET", "/conversations/export?client_name=exported")[1])
        file.write_text(exported.replace('"exported"', '"imported"'))
        with open_chat(browser, chat_server.url) as chat:
            chat.open_settings()
            chat.page.locator("input[type=file]").set_input_files(file)
            expect(chat.page.locator(".head .name")).to_have_text("imported")
            told = chat.settings.get_by_role("status").filter(has_text="1 conversation imported.")
            expect(told).to_be_visible()


class TestClearing:
    def test_the_title_is_the_name_at_once(self, chat: ChatPage) -> None:
        chat.ask("hello")
        chat.open_settings()
        chat.button("Clear").click()
        chat.page.get_by_role("dialog").get_by_role("button", name="Clear").click()
        expect(chat.page.get_by_text("Ask anything.")).to_be_visible()
        expect(chat.page.get_by_role("heading", level=1)).to_have_text(name_of(chat))
        expect(chat.page).to_have_title(f"{name_of(chat)} — Conversations")

    def test_a_history_that_was_cleared_elsewhere_is_missed_in_words(
        self, chat: ChatPage, chat_server: ServerProcess
    ) -> None:
        chat.ask("hello")
        chat_server.ask("DELETE", f"/history?client_name={name_of(chat)}")
        expect(chat.page.get_by_text("The history was cleared elsewhere.")).to_be_in_viewport()
        expect(chat.page.locator(".problem")).to_be_visible()


class TestPresets:
    def test_none_is_shown_as_the_word_preset_and_each_is_known_in_either_language(
        self, browser: Browser, chat_server: ServerProcess
    ) -> None:
        with open_chat(browser, chat_server.url) as chat:
            chat.open_settings()
            presets = chat.page.get_by_role("combobox", name="Preset")
            shown = presets.locator("option:checked")
            expect(shown).to_have_text("Preset")
            presets.select_option("Concise")
            expect(chat.settings.get_by_text("Saved").first).to_be_visible()
            chat.page.get_by_role("combobox", name="Language").select_option("ko")
            korean = chat.page.get_by_role("combobox", name="프리셋")
            expect(korean.locator("option:checked")).to_have_text("간결하게")
            korean.select_option("없음")
            expect(chat.page.locator("#system-prompt")).to_have_value("")
            expect(korean.locator("option:checked")).to_have_text("프리셋")


class TestOnAPhone:
    def test_where_a_reply_was_stopped_stands_in_one_line(
        self, browser: Browser, chat_server: ServerProcess, model: ChatUpstream
    ) -> None:
        phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
        replies = model.hold("a story")
        with visit(browser, f"{chat_server.url}/", **{**KOREAN, **phone}) as page:
            page.get_by_role("textbox", name="메시지").fill("a story")
            page.get_by_role("button", name="보내기").click()
            replies.say("a story", "Once upon ")
            expect(page.get_by_role("article")).to_contain_text("Once upon")
            expect(page.locator(".stop .square")).to_have_css("width", "10px")
            page.get_by_role("button", name="멈추기").click()
            state = page.get_by_text("멈춤 · 여기까지 저장됨")
            expect(state).to_be_visible()
            assert state.evaluate("(each) => each.getClientRects().length") == 1
            expect(state).to_have_css("height", "20px")


class TestBudget:
    def test_a_question_that_is_too_large_for_a_day_and_a_day_that_is_spent_are_told_apart(
        self, browser: Browser
    ) -> None:
        with (
            serve(UPSTREAM="scripted", DAILY_TOKEN_BUDGET="80", DEFAULT_MAX_TOKENS="50") as served,
            open_chat(browser, served.url, ignored="429") as chat,
        ):
            chat.send("a question " * 30)
            expect(chat.page.get_by_text("may take more tokens than a day has. Shorten it, or tell")).to_be_visible()
            chat.ask("short")
            chat.send("short")
            told = r"Today's tokens are used up, or reserved .+\. Try again in \d+ (s|min|h)\."
            expect(chat.page.get_by_text(re.compile(told))).to_be_visible()
            expect(chat.box).to_have_value("short")


class TestOffline:
    def test_nothing_tells_that_a_reply_goes_on_being_written(
        self, browser: Browser, chat_server: ServerProcess, model: ChatUpstream
    ) -> None:
        replies = model.hold("a story")
        with open_chat(browser, chat_server.url, ignored="net::ERR") as chat:
            chat.send("a story")
            replies.say("a story", "Once upon ")
            expect(chat.page).to_have_title("● a story — Conversations")
            halo = "getComputedStyle(document.querySelector('.knot'), '::after').display"
            assert chat.page.evaluate(halo) == "block"
            chat.page.context.set_offline(True)
            expect(chat.turns.last.locator(".state")).to_have_text("Waiting for the connection")
            expect(chat.page).to_have_title("a story — Conversations")
            assert chat.page.evaluate(halo) == "none"
            chat.page.context.set_offline(False)
            expect(chat.page).to_have_title("● a story — Conversations")
            expect(chat.turns.last.locator(".state")).to_contain_text("Writing")

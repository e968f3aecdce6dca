"""The page's conversations: kept, found, changed, taken along, and seen from elsewhere."""

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.support.chat_page import ChatPage, ChatUpstream, open_chat
from tests.support.process import ServerProcess


class TestSettings:
    def test_model_and_system_prompt_are_kept_and_go_upstream(
        self, chat: ChatPage, chat_server: ServerProcess, model: ChatUpstream
    ) -> None:
        chat.open_settings()
        chat.page.get_by_role("combobox", name="Model").select_option("told")
        chat.page.get_by_role("combobox", name="Preset").select_option("Concise")
        prompt = chat.page.get_by_role("textbox", name="System prompt")
        expect(prompt).to_have_value(re.compile("^Answer briefly"))
        prompt.fill("Answer in rhymes.")
        prompt.blur()
        expect(chat.settings.get_by_text("Saved").last).to_be_visible()
        chat.ask("hello")
        details = details_of(chat, chat_server)
        assert (details["model"], details["system_prompt"]) == ("told", "Answer in rhymes.")
        chat.page.reload()
        expect(chat.page.get_by_role("combobox", name="Model")).to_have_value("told")
        expect(prompt).to_have_value("Answer in rhymes.")

    def test_temperature_and_json_mode_can_be_set_and_taken_back(
        self, chat: ChatPage, chat_server: ServerProcess
    ) -> None:
        chat.ask("hello")
        chat.open_settings()
        slider = chat.page.get_by_role("slider", name="Temperature")
        slider.focus()
        slider.press("ArrowLeft")
        chat.page.get_by_role("switch", name="JSON mode").check()
        expect(chat.settings.get_by_text("Saved").first).to_be_visible()
        chat.button("Use the default").click()
        expect(chat.button("Use the default")).to_be_hidden()
        details = details_of(chat, chat_server)
        assert (details["temperature"], details["response_format"]) == (None, {"type": "json_object"})

    def test_the_default_temperature_is_offered_beside_the_value_and_moves_nothing(self, chat: ChatPage) -> None:
        chat.ask("hello")
        chat.open_settings()
        slider = chat.page.get_by_role("slider", name="Temperature")
        before = slider.bounding_box()
        slider.focus()
        slider.press("ArrowLeft")
        expect(chat.button("Use the default")).to_be_visible()
        assert slider.bounding_box() == before
        value = chat.settings.locator("output").bounding_box()
        button = chat.button("Use the default").bounding_box()
        assert value and button and before
        assert button["y"] < value["y"] + value["height"] / 2 < button["y"] + button["height"]
        assert button["x"] + button["width"] <= value["x"]
        assert value["x"] + value["width"] == before["x"] + before["width"]

    def test_the_total_stands_off_its_unit(self, chat: ChatPage) -> None:
        total = {"prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1200, "questions": 2}
        told = {"usage": [{"date": "2026-01-01", **total}], "total": total}
        chat.page.route(re.compile("/conversations/usage"), lambda route: route.fulfill(json=told))
        chat.open_settings()
        number, unit = chat.settings.get_by_text("1,200", exact=True), chat.settings.get_by_text("tokens · 2 questions")
        expect(number).to_be_visible()
        left, right = number.bounding_box(), unit.bounding_box()
        assert left and right
        assert right["x"] - left["x"] - left["width"] == pytest.approx(8, abs=0.5)

    def test_the_usage_is_shown_when_the_panel_opens(self, chat: ChatPage) -> None:
        chat.open_settings()
        expect(chat.settings.get_by_text("Usage · last 14 days")).to_be_visible()


class TestReplacing:
    def test_a_reply_is_written_anew_and_takes_the_place_of_the_old_one(
        self, chat: ChatPage, model: ChatUpstream
    ) -> None:
        chat.ask("a story")
        replies = model.hold("a story")
        chat.button("Regenerate").click()
        turn = chat.turns.last
        replies.say("a story", "Another ")
        expect(turn).to_contain_text("Earlier reply")
        expect(turn).to_contain_text("stays until the new one is done")
        expect(turn.get_by_text("re: a story")).to_be_hidden()
        turn.get_by_role("button", name="Show").click()
        expect(turn.get_by_text("re: a story")).to_be_visible()
        replies.end("a story", "one.")
        expect(turn).not_to_contain_text("Earlier reply")
        expect(turn.locator(".reply:visible")).to_have_text("Another one.")
        expect(chat.turns).to_have_count(1)
        chat.page.reload()
        expect(chat.turns.last.locator(".reply")).to_have_text("Another one.")

    def test_if_the_new_reply_is_stopped_the_old_one_stays(self, chat: ChatPage, model: ChatUpstream) -> None:
        chat.ask("a story")
        replies = model.hold("a story")
        chat.button("Regenerate").click()
        replies.say("a story", "Another ")
        expect(chat.turns.last).to_contain_text("Another")
        chat.page.reload()
        expect(chat.turns.last).to_contain_text("Earlier reply")
        expect(chat.turns.last).to_contain_text("Another")
        chat.button("Stop").click()
        expect(chat.turns.last.locator(".strand .reply:visible")).to_have_text("re: a story")
        expect(chat.turns).to_have_count(1)

    def test_if_the_new_reply_fails_the_old_one_unfolds_and_a_note_says_why(
        self, chat: ChatPage, model: ChatUpstream
    ) -> None:
        chat.ask("a story")
        replies = model.hold("a story")
        replies.fail("a story", ConnectionResetError())
        chat.button("Regenerate").click()
        expect(chat.turns.last.get_by_role("button", name="Retry")).to_be_visible()
        expect(chat.turns.last.get_by_text("re: a story")).to_be_visible()
        expect(chat.turns).to_have_count(1)

    def test_the_last_question_is_asked_in_other_words(self, chat: ChatPage) -> None:
        chat.ask("one")
        chat.ask("two")
        chat.turns.last.get_by_role("button", name="Edit").click()
        editor = chat.turns.last.get_by_role("textbox", name="Edit")
        editor.fill("three")
        chat.button("Send again").click()
        expect(chat.turns.last.locator(".reply:visible")).to_have_text("re: three")
        expect(chat.turns.last).not_to_contain_text("two")
        expect(chat.turns).to_have_count(2)
        chat.page.reload()
        expect(chat.turns.last.locator(".question")).to_have_text("three")


class TestList:
    def test_conversations_are_renamed_in_place(self, chat: ChatPage) -> None:
        chat.ask("to be renamed")
        chat.entry("to be renamed").hover()
        chat.entry("to be renamed").get_by_role("button", name="Rename").click()
        field = chat.list.get_by_role("textbox", name="Title")
        expect(field).to_be_focused()
        field.fill("Greetings")
        field.press("Enter")
        expect(chat.entry("Greetings")).to_be_visible()
        expect(chat.page.get_by_role("heading", level=1)).to_have_text("Greetings")
        expect(chat.page).to_have_title("Greetings — Conversations")

    def test_a_title_is_cut_off_by_the_time_and_not_by_the_state(self, chat: ChatPage, model: ChatUpstream) -> None:
        question = "a question whose words are far too many for one row of the list"
        replies = model.hold(question)
        chat.send(question)
        replies.say(question, "Once upon ")
        row = chat.entry(question)
        expect(row).to_contain_text("writing")
        title, time = row.get_by_role("link").bounding_box(), row.locator("time").bounding_box()
        state, name = row.locator(".row-state").bounding_box(), row.locator(".row-below").bounding_box()
        assert title and time and state and name
        assert time["x"] - title["x"] - title["width"] == pytest.approx(8, abs=0.5)
        assert time["x"] + time["width"] == pytest.approx(state["x"] + state["width"], abs=0.5)
        assert name["x"] + name["width"] <= state["x"]
        row.hover()
        title, rename = row.get_by_role("link").bounding_box(), row.get_by_role("button", name="Rename").bounding_box()
        assert title and rename
        assert title["x"] + title["width"] <= rename["x"]

    def test_delete_asks_first_and_says_what_goes(self, chat: ChatPage) -> None:
        chat.ask("to be deleted")
        row = chat.entry("to be deleted")
        row.hover()
        row.get_by_role("button", name="Delete").click()
        dialog = chat.page.get_by_role("dialog", name='Delete the conversation "to be deleted"?')
        expect(dialog).to_contain_text("2 messages and its settings will be deleted.")
        expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
        chat.page.keyboard.press("Escape")
        expect(row).to_be_visible()
        row.hover()
        row.get_by_role("button", name="Delete").click()
        dialog.get_by_role("button", name="Delete").click()
        expect(row).to_have_count(0)
        expect(chat.page.get_by_text("Ask anything.")).to_be_visible()

    def test_search_finds_words_in_messages_and_marks_them(self, chat: ChatPage) -> None:
        chat.ask("how long does tofu keep")
        chat.button("New conversation").click()
        chat.ask("something else")
        search = chat.page.get_by_role("searchbox", name="Search conversations")
        search.fill("TOFU")
        expect(chat.entry("something else")).to_have_count(0)
        expect(chat.entry("how long does tofu keep").locator("mark").first).to_have_text("tofu")
        search.fill("tempeh")
        expect(chat.page.get_by_text('No conversation contains "tempeh".')).to_be_visible()
        search.press("Escape")
        expect(chat.entry("something else")).to_be_visible()

    def test_the_address_names_the_conversation_and_back_leads_back(self, chat: ChatPage) -> None:
        chat.ask("first")
        first = chat.page.url
        chat.button("New conversation").click()
        chat.ask("second")
        chat.page.go_back()
        expect(chat.turns).to_have_count(1)
        expect(chat.turns.last).to_contain_text("first")
        assert chat.page.url == first


class TestClearing:
    def test_clear_asks_first_and_keeps_the_conversation(self, chat: ChatPage) -> None:
        chat.ask("hello")
        chat.open_settings()
        chat.button("Clear").click()
        dialog = chat.page.get_by_role("dialog", name="Clear this conversation?")
        expect(dialog).to_contain_text("2 messages will be deleted. This cannot be undone.")
        expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
        dialog.get_by_role("button", name="Clear").click()
        expect(chat.turns).to_have_count(0)
        expect(chat.page.get_by_text("Ask anything.")).to_be_visible()
        chat.ask("again")
        expect(chat.turns).to_have_count(1)


class TestTakingAlong:
    def test_an_export_can_be_imported_again(self, chat: ChatPage, tmp_path: Path) -> None:
        chat.ask("take me along")
        chat.open_settings()
        chat.button("Export").click()
        items = chat.page.get_by_role("menuitem")
        assert [item.get_attribute("aria-label") for item in items.all()] == ["Markdown", "JSON", "JSON Lines"]
        with chat.page.expect_download() as started:
            chat.page.get_by_role("menuitem", name="JSON", exact=True).click()
        file = tmp_path / started.value.suggested_filename
        started.value.save_as(file)
        assert json.loads(file.read_text())["messages"][0]["content"] == "take me along"
        name = chat.page.locator(".head .name").inner_text()
        chat.entry("take me along").hover()
        chat.entry("take me along").get_by_role("button", name="Delete").click()
        chat.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(chat.entry("take me along")).to_have_count(0)
        chat.page.locator("input[type=file]").set_input_files(file)
        expect(chat.entry("take me along")).to_be_visible()
        expect(chat.turns.last.locator(".reply")).to_have_text("re: take me along")
        assert chat.page.url.endswith(name)

    def test_a_conversation_that_exists_is_imported_as_a_copy(
        self, browser: Browser, chat_server: ServerProcess, model: ChatUpstream, tmp_path: Path
    ) -> None:
        chat_server.query("twice", "hello")
        with open_chat(browser, chat_server.url, "twice", ignored="status of 409") as chat:
            _, exported = chat_server.ask("GET", "/conversations/export?client_name=twice")
            file = tmp_path / "twice.json"
            file.write_text(json.dumps(exported))
            chat.open_settings()
            chat.page.locator("input[type=file]").set_input_files(file)
            expect(chat.settings).to_contain_text("exists already.")
            chat.button("Import as a copy").click()
            expect(chat.page.locator(".head .name")).not_to_have_text("twice")
            expect(chat.turns.last).to_contain_text("re: hello")

    def test_a_broken_file_changes_nothing_and_the_page_says_so(
        self, browser: Browser, chat_server: ServerProcess, tmp_path: Path
    ) -> None:
        file = tmp_path / "broken.json"
        file.write_text('{"format": "conversation-server", "version": 1, "mess')
        with open_chat(browser, chat_server.url, ignored="status of 400") as chat:
            chat.open_settings()
            chat.page.locator("input[type=file]").set_input_files(file)
            expect(chat.settings.locator(".import-result .failed")).to_have_text(re.compile(".+"))


class TestElsewhere:
    def test_two_tabs_see_the_same_reply_being_written(self, chat: ChatPage, model: ChatUpstream) -> None:
        chat.ask("hello")
        other = ChatPage(chat.page.context.new_page())
        other.page.goto(chat.page.url)
        expect(other.turns).to_have_count(1)
        replies = model.hold("a story")
        chat.send("a story")
        replies.say("a story", "Once upon ")
        expect(other.turns.last).to_contain_text("Once upon")
        replies.end("a story", "a time.")
        for page in (chat, other):
            expect(page.turns.last.locator(".reply")).to_have_text("Once upon a time.")
        other.page.close()

    def test_what_another_program_asks_is_seen(self, chat: ChatPage, chat_server: ServerProcess) -> None:
        chat.ask("hello")
        name = chat.page.locator(".head .name").inner_text()
        chat_server.query(name, "from elsewhere")
        expect(chat.turns).to_have_count(2)
        expect(chat.turns.last).to_contain_text("re: from elsewhere")
        chat_server.ask("DELETE", f"/history?client_name={name}")
        expect(chat.turns).to_have_count(0)

    def test_a_conversation_that_was_deleted_elsewhere_leaves_the_draft(
        self, browser: Browser, chat_server: ServerProcess, model: ChatUpstream
    ) -> None:
        # Between its list and its details, the page may find out by a 404.
        with open_chat(browser, chat_server.url, ignored="status of 404") as chat:
            chat.ask("hello")
            chat.box.fill("half a thou")
            name = chat.page.locator(".head .name").inner_text()
            chat_server.ask("DELETE", f"/conversations/details?client_name={name}")
            notice = "This conversation was deleted elsewhere. Your draft is still here."
            expect(chat.page.get_by_text(notice)).to_be_visible()
            expect(chat.box).to_have_value("half a thou")


def details_of(chat: ChatPage, served: ServerProcess) -> dict[str, object]:
    name = chat.page.locator(".head .name").inner_text()
    _, details = served.ask("GET", f"/conversations/details?client_name={name}")
    assert isinstance(details, dict)
    return details
